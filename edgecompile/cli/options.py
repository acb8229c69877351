"""Values of options as people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import click

from edgecompile.units import parse_cpus, parse_drop, parse_seconds, parse_size, parse_threads, parse_time_ms

_DIGITS, _MOST_ELEMENTS = 10, 2**31 - 1  # of an input's size, and of an input


class Parsed(click.ParamType[Any]):
    """A parameter type from a function that raises ValueError with what it expected."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


class Number(click.FloatRange):
    """A finite number in a range; click's own takes NaN for one in any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"expected a number, received {value!r}", param, ctx)
        return found


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """("image", (1, 32, 32, 3)) from "image=1,32,32,3"; the name may be left out where there is one input."""
    match = re.fullmatch(r"(?:([^=]*)=)?(\d+(?:,\d+)*)", text.strip())
    if not match:
        raise ValueError(f"expected NAME=1,32,32,3, received {text!r}")
    sizes = match[2].split(",")
    if any(len(size) > _DIGITS or not int(size) for size in sizes) or math.prod(map(int, sizes)) > _MOST_ELEMENTS:
        raise ValueError(f"expected sizes of 1 or more, and 2 billion elements at most, received {match[2][:60]}")
    return match[1] or "", tuple(map(int, sizes))


def parse_backends(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if text.strip() and not names:
        raise ValueError(f"expected names of backends with commas between, received {text!r}")
    return names


COUNT = click.IntRange(1, 1_000_000_000)  # of samples, runs, epochs
SEED = click.IntRange(0, 2**32 - 1)  # what NumPy's generators take
MINUTES = Number(0, 525_600, min_open=True)  # a year
DAYS = Number(0, 36_500)
SHARE = Number(0, 1)  # of a range: what is further apart than that can't be
SIZE = Parsed("SIZE", parse_size)
TIME = Parsed("TIME", parse_time_ms)
CPUS = Parsed("CPUS", parse_cpus)
DURATION = Parsed("DURATION", parse_seconds)
DROP = Parsed("PERCENT", lambda text: DropOff if text.strip().lower() == "off" else parse_drop(text))
SHAPE = Parsed("NAME=1,32,32,3", parse_shape)
BACKENDS = Parsed("A,B", parse_backends)
THREADS = Parsed("N", parse_threads)


class DropOff:
    """`--max-drop off`: the drop is printed and not judged. A class, as click takes None for "not given"."""
