"""TF-MOT's collaborative optimizations, kept down to the int8 weights: QAT, and CQAT, PQAT and PCQAT beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compression_rows import mobilenet
from compression_rows.common import TINY, Build, Row, build, data_folder, recipe

_RECIPES = {
    "qat": "plain quantization-aware training, what the others are compared with",
    "cqat": "16 clusters, then quantization-aware training that keeps them",
    "pqat": "50% zeros, then quantization-aware training that keeps them",
    "pcqat": "50% zeros and 16 clusters, then quantization-aware training that keeps both",
}


def _row(model: str, kind: str, about: str) -> Row:
    def run(out: Path) -> dict[str, Any]:
        source, data = source_of(model)
        options = ("--data", data, "--max-drop", "off", "--budget-minutes", "60", "--pack", "xz")
        made = build(source, recipe(kind), out, *options)
        return {**made.summary(), "xz_bytes": made.figure("file_size_xz"), "kept": _kept(made)}

    return Row(f"{model}: {about}", run)


def _kept(made: Build) -> dict[str, Any]:
    """What the conversion found in the .tflite's own int8 weights: the worst layer, and every layer."""
    layers = made.stage("convert").get("kept", {})
    if not layers:
        return {}
    return {
        "least_zeros": min(layer["zeros"] for layer in layers.values()),
        "most_values": max(layer["values"] for layer in layers.values()),
        "layers": layers,
    }


def source_of(model: str) -> tuple[Path, str]:
    if model == "resnet8":
        return data_folder() / TINY / "ic/pretrainedResnet.h5", "resnet8"
    return mobilenet.trained(), mobilenet.DATA


ROWS = {
    f"{kind}-{model}": _row(model, kind, about)
    for model in ("resnet8", "mobilenet")
    for kind, about in _RECIPES.items()
}
