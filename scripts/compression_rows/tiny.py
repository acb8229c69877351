"""MLPerf Tiny at the reference's quality target: deployed bytes and MACs against the reference model's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression_rows.common import TINY, Build, Row, build, data_folder, recipe


@dataclass(frozen=True)
class _Task:
    """reference: of MLPerf Tiny's int8 model. note: what has to be said of the data."""

    task: str
    source: str
    recipe: str
    reference: dict[str, Any]
    note: str

    def made_by(self, chosen: Path, to: Path) -> Build:
        options = ("--data", self.task, "--max-drop", "off", "--budget-minutes", "60")
        return build(data_folder() / TINY / self.source, chosen, to, *options)

    def points(self, frontier: Sequence[float], out: Path, epochs: int | None = None) -> list[dict[str, Any]]:
        """Other values of the recipe's `keep`, each built and tested; `epochs`: of its first stage, where others."""
        points = []
        for keep in frontier:
            changed = {"keep": keep} if epochs is None else {"keep": keep, "epochs": epochs}
            made = self.made_by(_changed(self.recipe, changed, out), out.with_name(f"{out.name}-{keep}"))
            figures = made.summary()
            points.append(
                {**changed, "test": figures["test"]["model"], "validation": _validated(made)}
                | {"bytes": made.figure("file_size"), "macs": made.figure("macs"), "minutes": figures["minutes"]}
            )
        return points


def _row(task: _Task, frontier: tuple[float, ...] = ()) -> Row:
    """frontier: other values of the recipe's `keep`, each built and tested too."""
    reference = task.reference

    def run(out: Path) -> dict[str, Any]:
        figures = task.made_by(recipe(task.recipe), out).summary()
        points = task.points(frontier, out)
        reached = {
            "quality": figures["test"]["model"] >= reference["quality"],
            "bytes": figures["file_bytes"]["model"] * 3 <= reference["bytes"],
            "macs": figures["macs"]["model"] * 3 <= reference["macs"],
        }
        shares = {
            "bytes": round(figures["file_bytes"]["model"] / reference["bytes"], 4),
            "macs": round(figures["macs"]["model"] / reference["macs"], 4),
        }
        found = {"frontier": points} if points else {}
        said = {"reference": reference, "share_of_reference": shares, "goal": reached, "data": task.note}
        return {**said, **found, **figures}

    summary = f"{task.task}: bytes and MACs against the MLPerf Tiny reference at its quality target"
    return Row(summary, run)


def _frontier(task: _Task, keeps: tuple[float, ...], epochs: int) -> Row:
    """What less compression gives, trained for less long: several models in the time that a row has."""

    def run(out: Path) -> dict[str, Any]:
        points = task.points(keeps, out, epochs)
        out.mkdir(parents=True, exist_ok=True)
        shutil.copy(out.with_name(f"{out.name}-{keeps[-1]}") / "model.tflite", out)
        said = f"points of the frontier above a third, {epochs} epochs instead of {task.recipe}'s"
        return {"reference": task.reference, "metric": "accuracy", "data": said, "frontier": points}

    return Row(f"{task.task}: less compression than {task.recipe}", run)


def _changed(name: str, settings: dict[str, Any], out: Path) -> Path:
    """The recipe with other settings in its first stage, in a file of its own beside `out`."""
    text = recipe(name).read_text()
    for setting, value in settings.items():
        text, count = re.subn(rf"^{setting} = .*$", f"{setting} = {value}", text, count=1, flags=re.MULTILINE)
        assert count == 1, f"{name} has no line that begins with `{setting}`"
    path = out.with_name(f"{name}-{settings['keep']}.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _validated(made: Build) -> float | None:
    """The metric on the validation split after the last stage that was judged by it."""
    judged = [r["metrics"]["validation"] for r in made.manifest["history"] if "validation" in r["metrics"]]
    return judged[-1] if judged else None


_IC = _Task(
    "resnet8",
    "ic/pretrainedResnet.h5",
    "tiny-ic",
    {"quality": 0.85, "bytes": 98_496, "macs": 12_501_632, "file": "pretrainedResnet_quant.tflite"},
    "trained on CIFAR-10's training images, 2,000 of them held out to validate; tested once on all test images",
)
_KWS = _Task(
    "ds_cnn",
    "kws/kws_ref_model",
    "tiny-kws",
    {"quality": 0.90, "bytes": 53_936, "macs": 2_656_768, "file": "kws_ref_model.tflite"},
    "trained on 3,896 clips that come from the Speech Commands TEST split (what MLPerf's 1,000 test clips leave "
    "over), validated on speakers not trained on; whether test clips share speakers with these isn't known",
)
_AD = _Task(
    "fc_autoencoder",
    "ad/ad01.h5",
    "tiny-ad",
    {"quality": 0.85, "bytes": 276_976, "macs": 264_192, "file": "ad01_int8.tflite"},
    "trained on 90 normal clips, whole clips held out to validate; tested on 248 clips. Validation has no "
    "anomalies and so no AUC: its reconstruction error hardly tells the points of the frontier apart",
)
_VWW = _Task(
    "scripts.compression_rows.tasks:vww",
    "vww/vww_96.h5",
    "tiny-vww",
    {"quality": 0.80, "bytes": 333_288, "macs": 7_489_664, "file": "vww_96_int8.tflite"},
    "no training data: post-training steps alone, calibrated with unlabelled crops of COCO and ImageNet images; "
    "validation is agreement with the float model on other crops",
)

ROWS = {
    "tiny-ic": _row(_IC),
    "tiny-ic-frontier": _frontier(_IC, (0.45, 0.6), epochs=16),
    "tiny-kws": _row(_KWS),
    "tiny-ad": _row(_AD, frontier=(0.32, 0.36, 0.45, 0.5)),
    "tiny-vww": _row(_VWW, frontier=(0.6, 0.55, 0.45, 0.4, 0.35)),
}
