"""Where a compiled model's time goes, step by step, and what the processor could do at best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tables(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """[{label, rows, peaks}] of the engines that tell, the winner first; the slowest steps first.

    A row: {"operators", "what", "note", "us", "share", "bound_us", "by", "reached"}. The bound is the longer of the two
    times that the multiply-accumulates and the bytes take at the measured peaks; None where a step has neither.
    """
    if manifest["measurement"] is None:
        return []
    winner = manifest["winner"]["id"]
    results = manifest["measurement"]["results"]
    named = [(name, result) for name, result in results.items() if result["profile"]]
    return [_table(name, result) for name, result in sorted(named, key=lambda each: each[0] != winner)]


def _table(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    steps, peaks = result["profile"]["steps"], result["profile"]["peaks"]
    total = sum(step["us"] for step in steps) or 1.0
    rows = [_row(step, peaks, result["threads"], total) for step in steps]
    return {
        "label": name,
        "peaks": peaks,
        "threads": result["threads"],
        "rows": sorted(rows, key=lambda row: row["us"], reverse=True),
    }


def _row(step: Mapping[str, Any], peaks: Mapping[str, float], threads: int, total: float) -> dict[str, Any]:
    compute, memory = step["macs"] / peaks[step["unit"]] / threads * 1e6, step["bytes"] / peaks["bytes"] * 1e6
    bound = max(compute, memory)
    return {
        "operators": step["operators"],
        "what": " + ".join(step["names"]) or "copy",
        "note": step["note"],
        "us": step["us"],
        "share": step["us"] / total,
        "bound_us": bound,
        "by": "multiply-accumulates" if compute >= memory else "memory",
        "reached": bound / step["us"] if step["us"] else None,
    }
