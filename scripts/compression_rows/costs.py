"""What each recipe takes on ResNet8 with 2 cores: minutes and the largest process' memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from compression_rows.common import TINY, Row, build, data_folder

RECIPES = (
    "float", "float16", "dynamic", "int8-weights", "int8", "int16x8", "mixed-precision", "low-rank", "qat", "distill",
    "prune", "prune-qat", "cluster-qat", "prune-cluster-qat", "channels", "channels-qat",
)  # fmt: skip


def _row(name: str) -> Row:
    def run(out: Path) -> dict[str, Any]:
        source = data_folder() / TINY / "ic/pretrainedResnet.h5"
        options = ("--data", "resnet8", "--max-drop", "off", "--budget-minutes", "35")
        with tempfile.TemporaryDirectory() as cache:  # what an earlier build left would cost nothing
            made = build(source, name, out / "bundle", *options, cache=Path(cache))
        shutil.copy(out / "bundle" / "model.tflite", out)
        return {"recipe": name, **made.summary(), "minutes": made.minutes, "peak_rss_mb": made.peak_rss_mb}

    return Row(f"recipe {name} on ResNet8: minutes, peak RSS, accuracy, bytes", run)


ROWS = {f"cost-{name}": _row(name) for name in RECIPES}
