"""The engines of one built row, timed in fresh processes of the on-device runner.

Needs the standard library, NumPy and the engines: what was built on one machine can be measured on another.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import edgecompile.ondevice.runner as runner
from engine_rows.amx import deny_amx, has_amx

TVM = "tvm"
ENGINES = ("apache-tvm", "ai-edge-litert", "onnxruntime", "tf2onnx", "openvino")
RUNS = 30
_INPUTS, _PREPARED = "inputs.npz", "prepared.json"


@dataclass(frozen=True)
class Prepared:
    """A row whose engines have passed the build's gates; TVM's code for another machine, that for this one.

    candidates: as the runner's job has them, "model" an absolute path. inputs: one array an input. without_amx:
    {candidate: the file in its place where AMX is denied}. expected: {candidate: an .npz of its outputs on the machine
    that built it}. known: what the row's JSON has besides its figures.
    """

    threads: int
    candidates: tuple[Mapping[str, Any], ...]
    inputs: Path
    known: Mapping[str, Any]
    without_amx: Mapping[str, Path]
    expected: Mapping[str, Path]

    def save(self, folder: Path) -> None:
        """With all files, for another machine, and whatever versions of the engines are there."""
        folder.mkdir(parents=True, exist_ok=True)

        def kept(path: Path, name: str) -> str:
            shutil.copy(path, folder / name)
            return name

        shutil.copy(self.inputs, folder / _INPUTS)
        candidates = [
            {
                **{k: v for k, v in each.items() if k != "version"},
                "model": kept(each["model"], Path(each["model"]).name),
            }
            for each in self.candidates
        ]
        others = {name: kept(path, f"without-amx-{path.name}") for name, path in self.without_amx.items()}
        expected = {name: kept(path, f"expected-{path.name}") for name, path in self.expected.items()}
        told = {
            "threads": self.threads, "candidates": candidates, "known": self.known, "without_amx": others,
            "expected": expected,
        }  # fmt: skip
        (folder / _PREPARED).write_text(json.dumps(told, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Prepared:
        folder = folder.absolute()
        if not (folder / _PREPARED).is_file():
            raise SystemExit(f"{folder} has no {_PREPARED}: give --built a folder that --for was given as --folder")
        told = json.loads((folder / _PREPARED).read_text())
        candidates = tuple({**each, "model": str(folder / each["model"])} for each in told["candidates"])
        others, expected = (
            {name: folder / file for name, file in told[key].items()} for key in ("without_amx", "expected")
        )
        return cls(told["threads"], candidates, folder / _INPUTS, told["known"], others, expected)

    def denied(self) -> Prepared:
        """For processes that get no AMX."""
        others = self.without_amx
        return replace(
            self,
            candidates=tuple({**c, "model": str(others.get(c["id"], c["model"]))} for c in self.candidates),
        )


def figures(row: Prepared, repeats: int, seconds: float) -> dict[str, Any]:
    """Of a row, in JSON. seconds: that each engine is run for at least, in each of the repeats."""
    differing = {name: _differing(row, name, path) for name, path in row.expected.items()}
    winner = row.known["winner"] or _fastest(_times(row, seconds))
    timed, without_amx = [], []
    for _ in range(repeats):
        timed.append(_times(row, seconds))
        if row.without_amx and has_amx():
            without_amx.append(_times(row.denied(), seconds, amx=False)["p50_ms"])
    runs = [found["p50_ms"] for found in timed]
    candidates = {
        each["id"]: {
            **row.known["candidates"][each["id"]],
            "p50_ms": statistics.median(run[each["id"]] for run in runs),
            "p50_of_repeats_ms": [run[each["id"]] for run in runs],
            "peak_rss_mb": timed[0]["peak_rss_mb"][each["id"]],
            "p50_ms_without_amx": statistics.median(run[each["id"]] for run in without_amx) if without_amx else None,
            **({"differing": differing[each["id"]]} if each["id"] in differing else {}),
        }
        for each in row.candidates
    }
    result = {
        **{key: value for key, value in row.known.items() if key != "candidates"},
        "engines": {package: version for package in ENGINES if (version := _version(package))},
        "features": [each for each in runner.cpu_features(Path("/proc")) if each.startswith(("avx", "amx", "fma"))],
        "threads": row.threads,
        "repeats": len(runs),
        "runs": f"{RUNS} and {seconds} s at least, in each of the repeats",
        "candidates": candidates,
        "tvm_over": ratios(runs, TVM),
        "tvm_over_without_amx": ratios(without_amx, TVM) if without_amx else None,
        "winner": winner,
    }
    return {**result, "least_peer_over_winner": round(least_peer(result), 4)}


def ratios(runs: list[dict[str, float]], of: str) -> dict[str, float]:
    """{engine: median over the repeats of `of`'s time over its}."""
    return {
        other: round(statistics.median(run[of] / run[other] for run in runs), 4) for other in runs[0] if other != of
    }


def least_peer(found: Mapping[str, Any]) -> float:
    """The time of the fastest other engine over the winner's, the median over the repeats."""
    times = {name: each["p50_of_repeats_ms"] for name, each in found["candidates"].items()}
    won = times.pop(found["winner"])
    return float(min(statistics.median(p / w for p, w in zip(each, won, strict=True)) for each in times.values()))


def outputs(row: Prepared, name: str, path: Path) -> None:
    """Write a candidate's outputs for the row's inputs."""
    candidate = next(each for each in row.candidates if each["id"] == name)
    _run(
        {
            "mode": "run",
            "candidates": [candidate],
            "inputs": str(row.inputs.absolute()),
            "outputs": str(path.absolute()),
        }
    )


def _differing(row: Prepared, name: str, expected: Path) -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="edgecompile-bench-") as folder:
        found = Path(folder, "outputs.npz")
        outputs(row, name, found)
        ours, theirs = np.load(found), np.load(expected)
        return {
            "values": sum(theirs[key].size for key in theirs),
            "differ": sum(int(np.count_nonzero(ours[key] != theirs[key])) for key in theirs),
        }


def _fastest(found: Mapping[str, Any]) -> str:
    times: Mapping[str, float] = found["p50_ms"]
    return min(times, key=lambda name: times[name])


def _times(row: Prepared, seconds: float, *, amx: bool = True) -> dict[str, Any]:
    """{"p50_ms": {candidate: ...}, "peak_rss_mb": ...} of one fresh process."""
    job = {
        "candidates": row.candidates, "inputs": str(row.inputs.absolute()), "runs": RUNS, "min_seconds": seconds,
        "warmup": 10, "cpus": "last", "seed": int.from_bytes(os.urandom(4), "little"),
    }  # fmt: skip
    events = _run(job, amx=amx)
    results = {event["id"]: event for event in events if event["event"] == "result"}
    if len(results) != len(row.candidates):
        raise SystemExit(f"not all engines were measured: {events[-3:]}")
    return {
        "p50_ms": {name: statistics.median(event["times_ms"]) for name, event in results.items()},
        "peak_rss_mb": {name: event["peak_rss_mb"] for name, event in results.items()},
    }


def _run(job: Mapping[str, Any], *, amx: bool = True) -> list[dict[str, Any]]:
    """The events of one job of the runner."""
    with tempfile.TemporaryDirectory(prefix="edgecompile-bench-") as folder:
        path = Path(folder, "job.json")
        path.write_text(json.dumps(job))
        done = subprocess.run(
            [sys.executable, str(Path(runner.__file__)), str(path)], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, preexec_fn=None if amx else deny_amx,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(
            f"the runner ended with exit code {done.returncode}: {done.stdout[-500:]}{done.stderr[-2000:]}"
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # what only built it
        return None
