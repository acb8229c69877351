"""Values of options as people write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from edgecompile.units import parse_cpus, parse_drop, parse_seconds, parse_size, parse_threads, parse_time_ms


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


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """("image", (1, 32, 32, 3)) from "image=1,32,32,3"; the name may be left out where there is one input."""
    match = re.fullmatch(r"(?:([^=]*)=)?(\d+(?:,\d+)*)", text.strip())
    if not match:
        raise ValueError(f"expected NAME=1,32,32,3, received {text!r}")
    return match[1] or "", tuple(int(part) for part in match[2].split(","))


def parse_backends(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


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
