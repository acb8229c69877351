"""What each recipe takes on ResNet8 with 2 cores: minutes and the largest process' memory."""

from __future__ import annotations

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
        made = build(source, name, out, "--data", "resnet8", "--max-drop", "off", "--budget-minutes", "35")
        return {"recipe": name, **made.summary(), "process_minutes": made.minutes}

    return Row(f"recipe {name} on ResNet8: minutes, peak RSS, accuracy, bytes", run)


ROWS = {f"cost-{name}": _row(name) for name in RECIPES}
