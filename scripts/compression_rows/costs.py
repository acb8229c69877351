"""What each recipe takes on ResNet8 with 2 cores: minutes and the largest process' memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from compression_rows.common import TINY, Row, build, data_folder

RECIPES = (
    "float", "float16", "dynamic", "int8-weights", "int4", "int4-blockwise", "int8", "int16x8", "mixed-precision",
    "mixed-precision-int16", "low-rank", "qat", "distill", "prune", "prune-qat", "prune-2-4", "prune-global-qat",
    "cluster", "cluster-qat", "prune-cluster-qat", "channels", "channels-qat", "auto",
)  # fmt: skip
# A search takes the time it is given; the others train as long as their recipes say.
_DROP_AND_MINUTES = {"auto": ("1%", "25")}


def _row(name: str) -> Row:
    def run(out: Path) -> dict[str, Any]:
        source = data_folder() / TINY / "ic/pretrainedResnet.h5"
        drop, minutes = _DROP_AND_MINUTES.get(name, ("off", "35"))
        options = ("--data", "resnet8", "--max-drop", drop, "--budget-minutes", minutes)
        with tempfile.TemporaryDirectory() as cache:  # what an earlier build left would cost nothing
            made = build(source, name, out / "bundle", *options, cache=Path(cache))
        shutil.copy(out / "bundle" / "model.tflite", out)
        return {"recipe": name, **made.summary(), "minutes": made.minutes, "peak_rss_mb": made.peak_rss_mb}

    return Row(f"recipe {name} on ResNet8: minutes, peak RSS, accuracy, bytes", run)


ROWS = {f"cost-{name}": _row(name) for name in RECIPES}
