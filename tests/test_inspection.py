"""Inspection of real models: figures that add up, plain data, readable tables."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from edgecompile.errors import ModelError
from edgecompile.inspection import inspect_tflite, render


def test_sizes_add_up_and_json_is_plain_for_all_real_models(data: Path) -> None:
    paths = sorted((data / "models").rglob("*.tflite"))
    assert len(paths) >= 10
    for path in paths:
        summary = inspect_tflite(path)
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert sum(summary["sizes"].values()) == summary["size"] == path.stat().st_size
        totals = summary["totals"]
        assert sum(row["macs"] for row in summary["by_type"]) == totals["macs"]
        assert sum(row["count"] for row in summary["by_type"]) == len(summary["operators"]) == totals["operators"]


def test_keyword_spotting_reference_model(data: Path) -> None:
    summary = inspect_tflite(data / "models/mlperf_tiny/kws/kws_ref_model.tflite")
    assert summary["by_type"][0] == {"type": "CONV_2D", "count": 5, "macs": 2_368_000, "weight_bytes": 20_224}
    assert summary["sizes"]["names"] == 5_643  # 5,459 characters, with what ends and counts each string
    assert summary["totals"]["quantized_weights"] == 1.0
    assert summary["totals"]["integer_operators"] == 1.0
    first = summary["operators"][0]
    assert first["inputs"][1]["quantization"] == {"channels": 64, "dimension": 0}
    assert first["inputs"][1]["constant"]
    assert len(summary["sparsity"]) == 10


def test_share_of_quantized_weights_tells_float_from_dynamic_range(data: Path) -> None:
    """The reference's "float32" keyword model has int8 weights in all its full convolutions."""
    for name, share in (("ic/pretrainedResnet.tflite", 0.0), ("kws/kws_ref_model_float32.tflite", 0.860)):
        totals = inspect_tflite(data / "models/mlperf_tiny" / name)["totals"]
        assert totals["quantized_weights"] == pytest.approx(share, abs=1e-3)
        assert totals["integer_operators"] == 0.0


def test_render_lists_every_operator(data: Path) -> None:
    summary = inspect_tflite(data / "models/detection/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite")
    out = io.StringIO()
    render(summary, Console(file=out, width=200))
    text = out.getvalue()
    assert "TFLite_Detection_PostProcess (custom)" in text
    assert "uint8[1x300x300x3]" in text
    for row in summary["operators"]:
        assert f"│ {row['index']:<2} │ {row['type']}" in text


def test_a_missing_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        inspect_tflite(tmp_path / "none.tflite")
