"""Was the device slowed down while it was measured?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Raspberry Pi's get_throttled, bits 0 to 3 (and 16 to 19 for "since the start").
_FIRMWARE = ("the voltage was too low", "the clock was capped", "it was throttled", "it reached its soft heat limit")
_SLOWER = 0.95  # of the clock at first


def noticed(before: Mapping[str, Any], after: Mapping[str, Any], windows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the device tells of it, a clause each: from the facts around a benchmark, and windows of a sustained one."""
    told, then = [each["throttling"] for each in (*windows, after)], before["throttling"]
    found = []
    counts = [each["count"] for each in told if each["count"] is not None]
    if counts and then["count"] is not None and max(counts) > then["count"]:
        found.append(f"cores were slowed down {max(counts) - then['count']} times for heat")
    cooling = {name: max(each["cooling"].get(name, 0) for each in told) for name in told[-1]["cooling"]}
    found += [f"{name} cooled by a lower clock (state {state})" for name, state in cooling.items() if state]
    bits = 0
    for each in told:
        if each["firmware"] is not None:
            since_start = (each["firmware"] & ~(then["firmware"] or 0)) >> 16
            bits |= each["firmware"] | since_start
    found += [text for bit, text in enumerate(_FIRMWARE) if bits >> bit & 1]
    if windows:
        first = windows[0]["mhz"]
        for number, start in enumerate(first):
            # A cluster that was taken offline leaves the list shorter, and which one it was isn't known then.
            known = [w["mhz"][number] for w in windows if len(w["mhz"]) == len(first)]
            least = min(filter(None, known), default=None)
            if start and least and least < _SLOWER * start:
                found.append(f"the clock of cluster {number} fell from {start:.0f} to {least:.0f} MHz")
    return found
