"""Values of a manifest as a reader wants them."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgecompile.manifest import EMULATED, find
from edgecompile.units import format_metric

MINUS = "−"


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, or as many as asked for."""
    if value is None:
        return "unknown"
    if not math.isfinite(value):
        return "infinite" if value > 0 else f"{MINUS}infinite"
    return f"{value:.{digits}g}".replace("-", MINUS)


def signed(value: float, digits: int) -> str:
    """With its sign, and a true minus."""
    return f"{value:+,.{digits}f}".replace("-", MINUS) if math.isfinite(value) else number(value)


def signed_metric(value: float, scale: float) -> str:
    """A difference of two metrics of that scale, with its sign and a true minus."""
    return format_metric(value, scale, sign=True).replace("-", MINUS)


def share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f}%"


def metric(value: float) -> str:
    return f"{value:,.2f}" if 10 <= abs(value) < 1e6 else format_metric(value, value)


def speed(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """The words for less time and for more: an emulator counts instructions, which is no speed."""
    emulated = (manifest["measurement"] or {}).get("label") == EMULATED
    return ("fewer instructions", "more instructions") if emulated else ("faster", "slower")


def within_spread(manifest: Mapping[str, Any], name: str) -> bool:
    """Whether a percentile of latencies differs from the float model's by less than the runs of either differ among
    themselves (from the median to the 90th percentile): a ratio of the two would be one of noise."""
    if name not in ("latency_p90", "latency_p95", "latency_p99"):
        return False
    sides = [
        [find(manifest, f"latency_{of}", side) for of in ("p50", "p90", name.removeprefix("latency_"))]
        for side in ("source", "model")
    ]
    if not all(all(values) for values in sides):
        return False
    (middle, high, before), (own_middle, own_high, after) = (map(float, filter(None, values)) for values in sides)
    spread = max(high / middle, own_high / own_middle)
    return 1 / spread <= after / before <= spread


def ratio(before: float, after: float, less: str, more: str) -> str:
    """How many times less or more: "2.48× smaller"."""
    if not before or not after:
        return "" if before == after else f"{number(before)} to {number(after)}"
    times, word = (before / after, less) if after <= before else (after / before, more)
    return "the same" if f"{times:.2f}" == "1.00" else f"{times:.2f}× {word}"


def date(text: str) -> str:
    """An ISO date in UTC, to the minute."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return moment.strftime("%d %B %Y, %H:%M") + (" UTC" if moment.utcoffset() == datetime.timedelta(0) else "")


def shape(sizes: Sequence[int]) -> str:
    return "×".join("?" if size < 0 else str(size) for size in sizes) or "scalar"


def plain(value: Any) -> str:
    """Anything JSON can hold, in a line."""
    if value is None or value in ({}, [], ()):
        return "not readable here"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 6)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def short(text: str, most: int) -> str:
    """At most so many characters: the middle goes, since the ends tell names apart."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"
