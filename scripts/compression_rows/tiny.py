"""MLPerf Tiny at the reference's quality target: deployed bytes and MACs against the reference model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compression_rows.common import TINY, Row, build, data_folder, recipe


def _row(task: str, source: str, name: str, reference: dict[str, Any], note: str) -> Row:
    def run(out: Path) -> dict[str, Any]:
        options = ("--data", task, "--max-drop", "off", "--budget-minutes", "60")
        made = build(data_folder() / TINY / source, recipe(name), out, *options)
        figures = made.summary()
        reached = {
            "quality": figures["test"]["model"] >= reference["quality"],
            "bytes": figures["file_bytes"]["model"] * 3 <= reference["bytes"],
            "macs": figures["macs"]["model"] * 3 <= reference["macs"],
        }
        shares = {
            "bytes": round(figures["file_bytes"]["model"] / reference["bytes"], 4),
            "macs": round(figures["macs"]["model"] / reference["macs"], 4),
        }
        return {"reference": reference, "share_of_reference": shares, "goal": reached, "data": note, **figures}

    summary = f"{task}: bytes and MACs against the MLPerf Tiny reference at its quality target"
    return Row(summary, run)


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
        "trained on 90 normal clips, whole clips held out to validate; tested once on 248 clips",
    ),
    "tiny-vww": _row(
        "scripts.compression_rows.tasks:vww",
        "vww/vww_96.h5",
        "tiny-vww",
        {"quality": 0.80, "bytes": 333_288, "macs": 7_489_664, "file": "vww_96_int8.tflite"},
        "no training data: post-training steps alone, calibrated with unlabelled crops of COCO and ImageNet images",
    ),
}
