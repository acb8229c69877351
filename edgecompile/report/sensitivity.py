"""What mixed precision measured of each operator: rows and sentences, no HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecompile.report import formats

STAGE = "mixed-precision"


def page(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The most sensitive operator first; None where no step measured any, or none had to be ranked."""
    record = next((r for r in reversed(manifest["history"]) if r["stage"] == STAGE), None)
    if record is None or not record["metrics"]["sensitivity"]:
        return None
    metrics, config = record["metrics"], record["config"]
    rows = [{**row, "tensor": row["tensor"].split(";")[0], "snr": _snr(row)} for row in metrics["sensitivity"]]
    kept, unit = len(metrics["kept"]), metrics["drop_unit"]
    return {
        "fallback": config["fallback"],
        "rows": rows,
        "text": f"{kept} of {metrics['operators']} operators, found in {metrics['evaluations']} evaluations: the "
        f"validation metric drops by {metrics['drop']:.2f} {unit} against the float model, {config['max_drop']:g} was "
        "allowed.",
    }


def _snr(row: Mapping[str, Any]) -> str:
    if row["snr_db"] is not None:
        return f"{row['snr_db']:.1f}".replace("-", formats.MINUS)
    return "unchanged" if row["finite"] else "not finite"
