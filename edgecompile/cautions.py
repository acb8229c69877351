"""What a reader has to know before relying on a bundle, though no gate failed: on screen, in the report and as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecompile.manifest import MEASURED, find
from edgecompile.units import format_ms

_SLOWER = 1.03  # times the float model's latency: less is no difference
_WHO = {"baseline": "the float model", "test": "the compressed model"}


def cautions(manifest: Mapping[str, Any]) -> list[str]:
    """Whole sentences without an end; empty where there is nothing to mind. The manifest may lack its own list yet."""
    found = [
        f"{_WHO[record['stage']]} {record['metrics']['answers']}"
        for record in manifest["history"]
        if record["stage"] in _WHO and record["metrics"].get("answers")
    ]
    measured = manifest["measurement"]
    if measured:
        found += [f"the device was slowed down while it was measured: {clause}" for clause in measured["throttled"]]
        if measured["busy"]:
            found.append(
                f"the device was busy: {measured['busy']}, so latencies may be too long (--remeasure repeats them)"
            )
        found += _slower(manifest)
    return found


def _slower(manifest: Mapping[str, Any]) -> list[str]:
    """Integers that cost time: kernels of 8 bits pay where a CPU has instructions for them."""
    before, after = (find(manifest, "latency_p50", of) for of in ("source", "model"))
    quantized = any(record["stage"] in ("qat", "quantize") for record in manifest["history"])
    if not quantized or before is None or after is None or manifest["measurement"]["label"] != MEASURED:
        return []
    if after <= _SLOWER * before:
        return []
    return [
        f"it is slower than the float model ({format_ms(after)}, {format_ms(before)}): take --recipe float, or float16 "
        "for half the size, where speed matters more than size"
    ]
