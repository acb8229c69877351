"""What all rows share: running a build as a user does, and the facts that go with its figures."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECIPES = Path(__file__).parent / "recipes"
PACKAGES = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "ai-edge-quantizer", "ai-edge-litert", "numpy")
TINY = "models/mlperf_tiny"


def data_folder() -> Path:
    """The folder of real data sets and models."""
    found = os.environ.get("EDGECOMPILE_DATA", str(ROOT.parent / "shared" / "data"))
    if not Path(found).is_dir():
        raise SystemExit(f"{found} is no folder: set EDGECOMPILE_DATA to the folder of data sets and models")
    os.environ["EDGECOMPILE_DATA"] = found
    return Path(found)


@dataclass(frozen=True)
class Row:
    """run(out) gives the row's figures, JSON only, and leaves its model in `out`/model.tflite."""

    summary: str
    run: Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Build:
    """A finished build: its manifest, the command, and what it took. peak_rss_mb is the largest process' in it."""

    manifest: dict[str, Any]
    command: list[str]
    minutes: float
    peak_rss_mb: float
    out: Path = field(repr=False)

    def figure(self, name: str, of: str = "model") -> float:
        return next(f["value"] for f in self.manifest["figures"] if (f["name"], f["of"]) == (name, of))

    def stage(self, name: str) -> dict[str, Any]:
        """The metrics of the last stage of that name."""
        return next(r["metrics"] for r in reversed(self.manifest["history"]) if r["stage"] == name)

    @property
    def compression_minutes(self) -> float:
        """Of the stages themselves, also where they were in the cache."""
        return round(sum(r["seconds"] for r in self.manifest["history"]) / 60, 2)

    def summary(self) -> dict[str, Any]:
        """The figures every row has: metric, bytes, packed bytes, MACs, latency and drop, with what they stand on."""
        metric = self.manifest["data"]["metric"]
        tested = self.stage("test")
        names = {
            "file_bytes": "file_size",
            "gzip_bytes": "file_size_gzip",
            "macs": "macs",
            "latency_p50_ms": "latency_p50",
        }
        both = {key: {of: self.figure(name, of) for of in ("source", "model")} for key, name in names.items()}
        return {
            "metric": metric,
            "test": {"source": self.figure(metric, "source"), "model": self.figure(metric)},
            "test_samples": tested["samples"],
            "drop": tested["drop"],
            "drop_unit": tested["drop_unit"],
            **both,
            "engine": self.manifest["winner"]["id"],
            "minutes": self.compression_minutes,
            "techniques": self.manifest["techniques"],
            "command": " ".join(self.command),
        }


def build(model: Path | str, recipe: Path | str, out: Path, *options: str, cache: Path | None = None) -> Build:
    """`edgecompile build` in a process of its own; SystemExit with its message where it fails.

    cache: a cache folder of its own, where all work has to be done and measured.
    """
    shown = ["edgecompile", "build", str(model), "--recipe", str(recipe), "--out", str(out), *options]
    began = time.monotonic()
    environment = os.environ | ({"EDGECOMPILE_CACHE": str(cache)} if cache else {})
    process = subprocess.Popen([sys.executable, "-m", *shown], cwd=ROOT, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise SystemExit(f"{' '.join(shown)} ended with exit code {code}")
    manifest = json.loads((out / "manifest.json").read_text())
    return Build(
        manifest,
        [_relative(part) for part in shown],
        round((time.monotonic() - began) / 60, 2),
        round(usage.ru_maxrss / 1024, 1),  # KiB on Linux; of the largest of its processes
        out,
    )


def recipe(name: str) -> Path:
    return RECIPES / f"{name}.toml"


def _relative(part: str) -> str:
    """Paths of this machine say nothing elsewhere."""
    for folder, name in ((os.environ["EDGECOMPILE_DATA"], "$EDGECOMPILE_DATA"), (str(ROOT), ".")):
        part = part.replace(folder, name)
    return part if not part.startswith("/") else Path(part).name


def facts() -> dict[str, Any]:
    """Commit, machine and versions: what a figure needs beside it to be believed."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "edgecompile", "models", "targets", "scripts"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "commit": commit.stdout.strip() + ("+changes" if changed.stdout.strip() else ""),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **cpu(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "seed": 0,
    }


def cpu() -> dict[str, Any]:
    """Of this machine: the CPU's name, its cores, and how many of them this process is kept to."""
    model = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ":"
    )
    kept = len(os.sched_getaffinity(0))
    return {"cpu": model.partition(":")[2].strip(), "cores": os.cpu_count(), "kept_to_cores": kept}
