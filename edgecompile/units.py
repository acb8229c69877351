"""Quantities as people write them: 100 KiB, 5ms, 1%."""

from __future__ import annotations

import re

MOST_BYTES, MOST_MS, MOST_SECONDS = 10**15, 86_400_000.0, 7 * 86_400.0  # a petabyte, a day, a week
MOST_THREADS = 256
MOST_PERCENT = 1000.0
_SIZES = {"": 1, "b": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2, "k": 1024, "m": 1024**2}
_TIMES = {"ms": 1.0, "us": 1e-3, "s": 1000.0}
_SHOWN = 40  # characters of what was received
_NUMBER = r"(\d+(?:\.\d+)?)\s*"


def parse_size(text: str) -> int:
    """Bytes from "98496", "100 KiB", "1.5MB". ValueError says what was expected."""
    match = re.fullmatch(_NUMBER + r"([A-Za-z]*)", text.strip())
    if not match or match[2].lower() not in _SIZES:
        raise ValueError(f"expected a size such as 98496, 100KiB or 1.5MB, received {text!r}")
    size = float(match[1]) * _SIZES[match[2].lower()]
    if not 1 <= size <= MOST_BYTES:
        raise ValueError(f"expected a size from 1 byte to a petabyte, received {_shortened(text)}")
    return int(size)


def parse_time_ms(text: str) -> float:
    """Milliseconds from "5ms", "800us", "1.5s"."""
    match = re.fullmatch(_NUMBER + r"(ms|us|s)", text.strip().lower())
    if not match:
        raise ValueError(f"expected a time such as 5ms, 800us or 1.5s, received {text!r}")
    ms = float(match[1]) * _TIMES[match[2]]
    if not 0 < ms <= MOST_MS:
        raise ValueError(f"expected a time above 0, of a day at most, received {_shortened(text)}")
    return ms


_DIGITS = 4


def format_metric(value: float, scale: float = 1.0, *, sign: bool = False) -> str:
    """A metric, or a difference of two: 4 decimals, or 4 digits where the metric is too small or large for them.

    scale: the metric that a difference is of, which says how many digits mean something.
    """
    plus = "+" if sign else ""
    plain = value == 0 or 0.01 <= max(abs(scale), abs(value)) < 1e6
    return f"{value:{plus}.{_DIGITS}{'f' if plain else 'g'}}"


_MOST_NUMBERS = 16  # numbers of threads that engines compete with: each is compiled, checked and measured
_DURATIONS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """Seconds from "90s", "10m", "1h"."""
    match = re.fullmatch(_NUMBER + r"(s|m|min|h)", text.strip().lower())
    if not match:
        raise ValueError(f"expected a duration such as 90s, 10m or 1h, received {text!r}")
    seconds = float(match[1]) * _DURATIONS[match[2]]
    if not 0 < seconds <= MOST_SECONDS:
        raise ValueError(f"expected a duration above 0, of a week at most, received {_shortened(text)}")
    return seconds


def parse_threads(text: str) -> tuple[int, ...]:
    """Numbers of threads from "2", "4,1" or "1-4", in the order given: that of preference."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([1-9]\d{0,2})(?:-([1-9]\d{0,2}))?", part.strip())
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"expected a number of threads, or several such as 1,2,4 or 1-4, received {text!r}")
        found += [n for n in range(int(match[1]), int(match[2] or match[1]) + 1) if n not in found]
    if max(found) > MOST_THREADS:
        raise ValueError(f"expected {MOST_THREADS} threads at most, received {max(found)}")
    if len(found) > _MOST_NUMBERS:
        raise ValueError(f"expected {_MOST_NUMBERS} numbers of threads at most, received {len(found)} ({text!r})")
    return tuple(found)


def parse_cpus(text: str) -> tuple[int, ...]:
    """CPUs by number from "4-7" or "0,2,4-5", in order; () from "any"."""
    if text.strip().lower() == "any":
        return ()
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"expected CPUs such as 4-7 or 0,2,4-5, or 'any', received {text!r}")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(found))


def parse_drop(text: str) -> float | None:
    """Percent from "1%" or "0.5%"; None for "off"."""
    text = text.strip().lower()
    if text == "off":
        return None
    match = re.fullmatch(_NUMBER + "%", text)
    if not match:
        raise ValueError(f"expected a percentage such as 1%, or 'off', received {text!r}")
    if float(match[1]) > MOST_PERCENT:
        raise ValueError(f"expected {MOST_PERCENT:.0f}% at most, received {_shortened(text)}")
    return float(match[1])


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r} and so on"


def format_size(size: float) -> str:
    """Bytes for people, in powers of 1000: exact below 10 kB, else three digits and the unit."""
    if size < 10_000:
        return f"{size:,.0f} B"
    if size < 1_000_000:
        return f"{size / 1000:,.1f} kB"
    return f"{size / 1e6:,.2f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"


def format_mebibytes(size: float) -> str:
    """MiB, which the system counts memory in, as `format_size` writes all sizes."""
    return format_size(size * 2**20)


def format_ms(ms: float) -> str:
    """Milliseconds for people: three significant digits, µs below 1 ms."""
    value, unit = (ms * 1000, "µs") if ms < 1 else (ms, "ms")
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def format_count(count: float) -> str:
    """A number of things: exact below a million, else in millions."""
    return f"{count:,.0f}" if count < 1_000_000 else f"{count / 1e6:,.1f} million"


def format_seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
