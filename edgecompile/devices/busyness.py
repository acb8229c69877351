"""Was the device at work for others while it was measured?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 0.1  # of one core: what a system does beside its users


def noticed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What others took of the device's CPUs between two times, as a clause; empty where it was little, or isn't known.

    before, after: facts of the runner, around a benchmark.
    """
    then, now = before.get("cpu_seconds"), after.get("cpu_seconds")
    if not then or not now or now["at"] <= then["at"]:
        return ""
    busy, own = now["busy"] - then["busy"], now["own"] - then["own"]
    others = (busy - own) / (now["at"] - then["at"])
    # The counters tick a hundred times a second: over a short time one tick is a large share.
    if others <= _MOST + 0.05 / (now["at"] - then["at"]):
        return ""
    return f"other processes took {others:.1f} of {after['cores']} cores meanwhile"
