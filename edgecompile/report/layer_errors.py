"""How far each tensor of the bundle is from the float model's: rows and sentences, no HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecompile.layerwise.match import layer_name
from edgecompile.layerwise.report import Limit
from edgecompile.report import formats

_EQUAL, _LOST = "equal", "none"


def page(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The variables of the section "Layer-wise error"; None where nothing was compared."""
    found = manifest["layer_errors"]
    if found is None:
        return None
    limit = Limit(**found["limit"])
    worst = min(found["rows"], key=_quality, default=None)
    if worst is not None and _snr(worst) == _EQUAL:
        worst = None
    rows = [_row(row, first=row == found["first"], worst=row == worst) for row in found["rows"]]
    finite = [row["snr_db"] for row in found["rows"] if row["snr_db"] is not None]
    most = max([*finite, limit.snr_db or 0.0, 1.0])
    alone = {"float model": found["only_a"], "bundle": found["only_b"]}
    golden = next((r["metrics"]["golden_inputs"] for r in manifest["history"] if r["stage"] == "baseline"), "data")
    return {
        "samples": found["samples"],
        "real": golden == "data",
        "sentences": _sentences(found, limit, worst),
        "rows": rows,
        "bars": [_bar(row, shown, most) for row, shown in zip(found["rows"], rows, strict=True)],
        "most": most,
        "limit": limit.snr_db,
        "alone": [
            {**each, "side": side, "name": layer_name(each["tensor"]) or each["tensor"]}
            for side, operators in alone.items()
            for each in operators
        ],
        "outputs_alone": found["outputs_alone"],
    }


def _quality(row: Mapping[str, Any]) -> tuple[float, float]:
    """Sorts the worst first."""
    snr = {_EQUAL: float("inf"), _LOST: -float("inf")}.get(_snr(row), row["snr_db"])
    return snr, -row["relative"]


def _snr(row: Mapping[str, Any]) -> str:
    """The manifest has no number where it is infinite: the largest error tells which end."""
    if row["snr_db"] is None:
        return _LOST if row["max_abs"] or row["nonfinite"] else _EQUAL
    return f"{row['snr_db']:.1f}".replace("-", formats.MINUS)


def _row(row: Mapping[str, Any], *, first: bool, worst: bool) -> dict[str, Any]:
    marks = [
        word
        for word, holds in (
            ("first past the limit", first),
            ("past the limit", row["over"] and not first),
            ("worst", worst),
            (f"{row['nonfinite']:,} NaN or infinite", row["nonfinite"]),
        )
        if holds
    ]
    names = dict.fromkeys((row["tensor"], row["tensor_b"]))
    return {
        **row,
        "place": str(row["position"]) if row["position"] >= 0 else "",
        "operator": _both(row["op"], row["op_b"]),
        "name": layer_name(row["tensor"]) or row["tensor"],
        "whole": " | ".join(names),
        "types": _both(row["dtype"], row["dtype_b"]),
        "snr": _snr(row),
        "fall": "" if row["fall_db"] is None else f"{row['fall_db']:.1f}".replace("-", formats.MINUS),
        "marks": marks,
        "worst": worst or first,
    }


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a or 'none'} → {b or 'none'}"


def _bar(row: Mapping[str, Any], shown: Mapping[str, Any], most: float) -> dict[str, Any]:
    snr = shown["snr"]
    value = most if snr == _EQUAL else max(0.0, row["snr_db"] or 0.0)
    return {
        "label": shown["name"] + (" (quantized)" if row["op"] == "QUANTIZE" else ""),
        "value": value,
        "text": ", ".join([snr if snr in (_EQUAL, _LOST) else f"{snr} dB", *shown["marks"]]),
        "tip": f"{shown['operator']} {shown['place']}: {shown['whole']}",
        "kind": "orange" if row["over"] or shown["worst"] else "blue",
    }


def _place(row: Mapping[str, Any]) -> str:
    number = f" {row['position']}" if row["position"] >= 0 else ""
    return f"{row['op']}{number} ({layer_name(row['tensor']) or row['tensor']})"


def _error(row: Mapping[str, Any]) -> str:
    if row["nonfinite"]:
        return f"{row['nonfinite']:,} values are NaN or infinite in one model only"
    snr = _snr(row)
    decibels = "no signal is left" if snr == _LOST else "equal" if snr == _EQUAL else f"an SNR of {snr} dB"
    return f"{decibels}, a largest error of {formats.share(row['relative'])} of the tensor's range"


def _sentences(found: Mapping[str, Any], limit: Limit, worst: Mapping[str, Any] | None) -> list[str]:
    first, steepest = found["first"], found["steepest"]
    sentences = [f"Every tensor is within {limit.text}."]
    if first is not None:
        sentences = [f"The first past {limit.text} is {_place(first)}: {_error(first)}."]
    if steepest is not None:
        # Operators without a counterpart are looked through: a fall may then be theirs.
        where = "on the way to" if found["only_a"] or found["only_b"] else "in one operator at"
        fall = f"{steepest['fall_db']:.1f} dB"
        sentences.append(f"Most is lost {where} {_place(steepest)}: the SNR falls {fall}.")
    if worst is not None and worst != first:
        sentences.append(f"The worst is {_place(worst)}: {_error(worst)}.")
    if found["outputs_alone"]:
        sentences.append(f"Not compared, for lack of a counterpart: the outputs {', '.join(found['outputs_alone'])}.")
    return sentences
