"""Which candidate is fastest at first, and which once the device is warm: they need not be the same."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FIRST = 60.0  # seconds
_LATEST = 3  # windows that a ranking is taken from


@dataclass(frozen=True)
class Ranked:
    """p50 of a candidate [ms] and its place (1 is the fastest) at first, and at the end."""

    id: str
    first: float
    first_place: int
    last: float
    last_place: int

    @property
    def change(self) -> float:
        """Of the latency, as a share: 0.1 is 10% slower at the end."""
        return self.last / self.first - 1


def first_seconds(windows: Sequence[Mapping[str, Any]]) -> float:
    """How long "at first" is: the first minute, or half of a run that took less than two."""
    return min(_FIRST, float(windows[-1]["at"]) / 2)


def ranking(windows: Sequence[Mapping[str, Any]]) -> list[Ranked]:
    """The candidates of a sustained run, the fastest at its end first.

    windows: as devices/base.py has them, one at least.
    """
    early = [window for window in windows if window["at"] <= first_seconds(windows) * 1.001] or windows[:1]
    first, last = _medians(early[-_LATEST:]), _medians(windows[-_LATEST:])
    places = [
        {name: place for place, name in enumerate(sorted(each, key=each.__getitem__), 1)} for each in (first, last)
    ]
    rows = [Ranked(name, first[name], places[0][name], last[name], places[1][name]) for name in first]
    return sorted(rows, key=lambda row: row.last_place)


def _medians(windows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(w["p50_ms"][name] for w in windows) for name in windows[0]["p50_ms"]}
