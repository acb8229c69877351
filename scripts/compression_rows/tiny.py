"""MLPerf Tiny at the reference's quality target: deployed bytes and MACs against the reference model's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from compression_rows.common import TINY, Build, Row, build, data_folder, recipe


def _row(
    task: str, source: str, name: str, reference: dict[str, Any], note: str, frontier: tuple[float, ...] = ()
) -> Row:
    """frontier: other values of the recipe's `keep`, each built and tested too."""

    def run(out: Path) -> dict[str, Any]:
        def made_by(chosen: Path, to: Path) -> Build:
            options = ("--data", task, "--max-drop", "off", "--budget-minutes", "60")
            return build(data_folder() / TINY / source, chosen, to, *options)

        made = made_by(recipe(name), out)
        figures = made.summary()
        others = {keep: made_by(_keeping(name, keep, out), out.with_name(f"{out.name}-{keep}")) for keep in frontier}
        reached = {
            "quality": figures["test"]["model"] >= reference["quality"],
            "bytes": figures["file_bytes"]["model"] * 3 <= reference["bytes"],
            "macs": figures["macs"]["model"] * 3 <= reference["macs"],
        }
        shares = {
            "bytes": round(figures["file_bytes"]["model"] / reference["bytes"], 4),
            "macs": round(figures["macs"]["model"] / reference["macs"], 4),
        }
        points = [
            {"keep": keep, "test": other.figure(figures["metric"]), "validation": _validated(other)}
            | {"bytes": other.figure("file_size"), "macs": other.figure("macs")}
            for keep, other in others.items()
        ]
        found = {"frontier": points} if points else {}
        return {"reference": reference, "share_of_reference": shares, "goal": reached, "data": note, **found, **figures}

    summary = f"{task}: bytes and MACs against the MLPerf Tiny reference at its quality target"
    return Row(summary, run)


def _keeping(name: str, keep: float, out: Path) -> Path:
    """The recipe with another `keep`, in a file of its own beside `out`."""
    text, count = re.subn(r"^keep = .*$", f"keep = {keep}", recipe(name).read_text(), flags=re.MULTILINE)
    assert count == 1, f"{name} has {count} lines that begin with `keep`"
    path = out.with_name(f"{name}-{keep}.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _validated(made: Build) -> float | None:
    """The metric on the validation split after the last stage that was judged by it."""
    judged = [r["metrics"]["validation"] for r in made.manifest["history"] if "validation" in r["metrics"]]
    return judged[-1] if judged else None


ROWS = {
    "tiny-ic": _row(
        "resnet8",
        "ic/pretrainedResnet.h5",
        "tiny-ic",
        {"quality": 0.85, "bytes": 98_496, "macs": 12_501_632, "file": "pretrainedResnet_quant.tflite"},
        "trained on CIFAR-10's training images, 2,000 of them held out to validate; tested once on all test images",
    ),
    "tiny-kws": _row(
        "ds_cnn",
        "kws/kws_ref_model",
        "tiny-kws",
        {"quality": 0.90, "bytes": 53_936, "macs": 2_656_768, "file": "kws_ref_model.tflite"},
        "trained on 3,896 clips that come from the Speech Commands TEST split (what MLPerf's 1,000 test clips leave "
        "over), validated on speakers not trained on; whether test clips share speakers with these isn't known",
    ),
    "tiny-ad": _row(
        "fc_autoencoder",
        "ad/ad01.h5",
        "tiny-ad",
        {"quality": 0.85, "bytes": 276_976, "macs": 264_192, "file": "ad01_int8.tflite"},
        "trained on 90 normal clips, whole clips held out to validate; tested on 248 clips. Validation has no "
        "anomalies and so no AUC: its reconstruction error hardly tells the points of the frontier apart",
        frontier=(0.32, 0.36, 0.45, 0.5),
    ),
    "tiny-vww": _row(
        "scripts.compression_rows.tasks:vww",
        "vww/vww_96.h5",
        "tiny-vww",
        {"quality": 0.80, "bytes": 333_288, "macs": 7_489_664, "file": "vww_96_int8.tflite"},
        "no training data: post-training steps alone, calibrated with unlabelled crops of COCO and ImageNet images; "
        "validation is agreement with the float model on other crops",
        frontier=(0.6, 0.55, 0.45, 0.4, 0.35),
    ),
}
