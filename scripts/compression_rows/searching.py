"""Recipe auto within one point, beside plain quantization-aware training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from compression_rows.common import ROOT, TINY, Row, build, data_folder


def _row(model: str, source: str | None) -> Row:
    def run(out: Path) -> dict[str, Any]:
        if source is None:  # a built-in model of ours: trained once, then in the cache
            subprocess.run([sys.executable, "-m", "edgecompile", "models", "train", model], cwd=ROOT, check=True)
        path = model if source is None else data_folder() / TINY / source
        common = ("--data", model, "--io", "float")
        plain = build(path, "qat", out.parent / f"{out.name}-qat", *common, "--max-drop", "off")
        made = build(path, "auto", out, *common, "--max-drop", "1%", "--budget-minutes", "25")
        sizes = {"auto": made.figure("file_size"), "qat": plain.figure("file_size")}
        return {
            **made.summary(),
            "minutes": round(sum(trial["seconds"] or 0 for trial in made.manifest["search"]["trials"]) / 60, 2),
            "search": made.manifest["search"],
            "evaluations": len(made.manifest["search"]["trials"]),
            "bytes_against_qat": sizes,
            "smaller_than_qat": sizes["auto"] < sizes["qat"],
            "qat": plain.summary(),
        }

    return Row(f"auto on {model} with --max-drop 1%", run)


ROWS = {
    "auto-fashion": _row("fashion_cnn", None),
    "auto-resnet8": _row("resnet8", "ic/pretrainedResnet.h5"),
    "auto-kws": _row("ds_cnn", "kws/kws_ref_model"),
}
