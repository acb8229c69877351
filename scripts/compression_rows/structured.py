"""Structured pruning, to half of the MACs and to 60% of the latency, beside unstructured sparsity: accuracy,
and latency in one interleaved run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from compression_rows.collaborative import source_of
from compression_rows.common import ROOT, Row, build, recipe

_VARIANTS = {
    "channels-float": ("channels", "--io", "float"),
    "channels-int8": ("channels-int8", "--io", "float"),
    "channels-latency-float": ("faster", "--io", "float"),
    "zeros-float": ("zeros", "--io", "float"),
    "zeros-int8": ("pqat", "--io", "float"),
    "int8": ("int8", "--io", "float"),
    "float": ("float", "--io", "float"),
}
_SHIPPED = ("int8", "float")


def _row(model: str, about: str, without: tuple[str, ...] = ()) -> Row:
    """without: variants left out, where training all would take longer than a row may."""

    def run(out: Path) -> dict[str, Any]:
        source, data = source_of(model)
        made = {}
        wanted = {name: variant for name, variant in _VARIANTS.items() if name not in without}
        for name, (which, *options) in wanted.items():
            chosen = which if which in _SHIPPED else recipe(which)
            common = ("--data", data, "--max-drop", "off", "--budget-minutes", "60")
            made[name] = build(source, chosen, out.parent / f"{out.name}-{name}", *common, *options)
        out.mkdir(parents=True, exist_ok=True)
        (out / "model.tflite").write_bytes((made["channels-int8"].out / "model.tflite").read_bytes())
        latency = _latency({name: each.out / "model.tflite" for name, each in made.items()})
        pairs = {name: "int8" if name.endswith("int8") else "float" for name in made if name not in _SHIPPED}
        return {
            "ratio_of_latency": {name: round(latency[base] / latency[name], 3) for name, base in pairs.items()},
            "latency_p50_ms": latency,
            "share_of_macs": {name: made[name].figure("macs") / made["float"].figure("macs") for name in pairs},
            "variants": {name: each.summary() for name, each in made.items()},
        }

    return Row(f"{model}: {about} by channels, half of the weights zero, measured together", run)


def _latency(files: dict[str, Path]) -> dict[str, float]:
    """p50 in ms of all files, interleaved in one process, LiteRT with XNNPACK, one thread."""
    command = [sys.executable, "-m", "edgecompile", "bench", *map(str, files.values()), "--threads", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = {}
    for group in json.loads(done.stdout):
        for figure in group["figures"]:
            if figure["name"] == "latency_p50":
                found[figure["of"]] = figure["value"]
    return {
        name: next(value for of, value in found.items() if of.startswith(str(path))) for name, path in files.items()
    }


ROWS = {
    "structured-resnet8": _row("resnet8", "half of the MACs or 60% of the latency"),
    "structured-mobilenet": _row("mobilenet", "half of the MACs", without=("channels-latency-float",)),
}
