"""Engines, built where they will run: by a board's own trtexec, and kept for that board."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgecompile.artifact import sha256_file, sha256_json
from edgecompile.backends.base import Candidate
from edgecompile.backends.tensorrt import FP16, INT8
from edgecompile.cache import SHA256, Cache
from edgecompile.devices.base import Device, statistics
from edgecompile.devices.benchmark import how
from edgecompile.errors import DeviceError, ProvisioningError
from edgecompile.job import now, tool_versions
from edgecompile.manifest import Figure
from edgecompile.ondevice import runner
from edgecompile.stages.base import Progress

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # where JetPack puts it
_QUIET = 3600.0  # seconds: it may try kernels for long without a word
_WARM_UP_MS, _SECONDS, _RUNS = 500, 3, 200
_TAIL = 20
# int8: what has no QuantizeLinear before it in the graph stays half precision.
_FLAGS = {FP16: ("--fp16",), INT8: ("--fp16", "--int8")}


@dataclass(frozen=True)
class Built:
    """candidate: with the engine, a file of this machine, in place of the graph. version: of the TensorRT that built
    it. figures: trtexec's own latency, with the date of the build."""

    candidate: Candidate
    version: str | None
    figures: tuple[Figure, ...]
    cached: bool


def command(trtexec: str, onnx: str, precision: str, engine: str, times: str, timing_cache: str | None) -> list[str]:
    """What builds an engine and times it."""
    return [
        trtexec,
        f"--onnx={onnx}",
        *_FLAGS[precision],
        f"--saveEngine={engine}",
        *([f"--timingCacheFile={timing_cache}"] if timing_cache else []),
        f"--warmUp={_WARM_UP_MS}",
        f"--duration={_SECONDS}",
        f"--iterations={_RUNS}",
        f"--exportTimes={times}",
    ]


def by_hand(onnx: str, precision: str) -> list[str]:
    """The lines that do it on a board without us; `onnx` is the bundle's file."""
    name = PurePosixPath(onnx)
    words = command(TRTEXEC, name.name, precision, f"{name.stem}.plan", f"{name.stem}-times.json", None)
    return [f"scp {shlex.quote(onnx)} USER@JETSON:{shlex.quote(name.name)}", f"ssh USER@JETSON {shlex.join(words)}"]


def build(
    candidate: Candidate, device: Device, cache: Cache, report: Callable[[Progress], None], *, again: bool = False
) -> Built:
    """The engine of the candidate's graph for the device; from the cache where it was built there before in the same
    power mode, unless it shall be made `again`.

    Errors: ProvisioningError where the device has no trtexec, DeviceError with its own reason where that fails.
    """
    facts = device.facts()
    nvidia = facts.details["nvidia"] or {}
    if not nvidia.get("trtexec"):
        raise ProvisioningError(
            f"{facts.name} has no trtexec, which builds engines",
            hint="sudo apt install tensorrt there (JetPack has it), or --backends litert",
        )
    version, precision = nvidia.get("tensorrt"), str(candidate.config["precision"])
    words = command("trtexec", "graph", precision, "engine", "times", "cache")
    graph, ours = sha256_file(candidate.model), tool_versions()["edgecompile"]
    key = sha256_json([facts.identity, facts.label, device.conditions(), version, graph, words, ours])[:32]
    engine, told = (cache.root / "engines" / f"{key}{suffix}" for suffix in (".plan", ".json"))
    kept = None if again else cache.kept(told)
    cached = cache.is_whole(engine, kept)
    if kept is None or not cached:
        date = now()
        times = _build(candidate.model, precision, device, nvidia["trtexec"], engine, report)
        by = facts.executed_on(f"trtexec of TensorRT {version}" if version else "trtexec")
        kept = {"times_ms": times, "date": date, "device": facts.name, "executed_on": by, SHA256: sha256_file(engine)}
        cache.keep(told, kept)
    os.utime(engine)  # what `cache prune` goes by
    ready = dataclasses.replace(candidate, model=engine, config={**candidate.config, "version": version})
    found = statistics(kept["times_ms"])
    figures = tuple(
        Figure(
            name=f"latency_{name}",
            of=f"{candidate.id} by trtexec",
            value=found[name],
            unit="ms",
            label=facts.label,
            device=kept["device"],
            date=kept["date"],
            threads=1,
            runs=int(found["runs"]),
            executed_on=kept["executed_on"],
        )
        for name in ("p50", "p90", "p95", "p99", "mean", "std")
    )
    return Built(ready, version, figures, cached)


def _build(
    onnx: Path, precision: str, device: Device, trtexec: str, engine: Path, report: Callable[[Progress], None]
) -> list[float]:
    """The engine is at `engine` after this; trtexec's times."""
    facts = device.facts()
    there, tied = device.put(onnx), device.put(Path(runner.__file__).absolute())
    timing_cache = f"{facts.details['cache']}/{_timing_cache(facts.details['nvidia'])}"
    made = device.scratch("model.plan")
    times = f"{made.rpartition('/')[0]}/times.json"
    words = command(trtexec, there, precision, made, times, timing_cache)
    try:
        _run(device, ["python3", "-s", tied, "--tied", str(device.lock), *words], report)
        engine.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=engine.parent, suffix=".tmp") as here:
            device.get(times, Path(here, "times.json"))
            found = read_times(Path(here, "times.json").read_text())
            device.get(made, Path(here, "model.plan"))
            Path(here, "model.plan").replace(engine)
    finally:
        device.discard(made)
    return found


def _timing_cache(nvidia: Mapping[str, Any]) -> str:
    """Its name: another TensorRT, or another GPU in the same machine, has tactics and times of its own."""
    gpu = ", ".join(nvidia["gpus"]) or nvidia["jetson"] or ""
    parts = [re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in (nvidia["tensorrt"] or "", gpu)]
    return "-".join(["tensorrt-timing", *filter(None, parts)]) + ".cache"


def _run(device: Device, words: Sequence[str], report: Callable[[Progress], None]) -> None:
    facts, said = device.facts(), deque[str](maxlen=_TAIL)
    process = device.exec(words)
    try:
        for line in process.lines(_QUIET):
            said.append(line)
            report(Progress(f"trtexec: {_step(line)}"))
        status = process.wait()
    finally:
        process.kill()
    if status:
        raise DeviceError(
            f"trtexec on {facts.name} ended with {how(status)}:\n{reason([*said, *process.errors.splitlines()])}",
            hint="the graph is in the bundle of a build without --on; --backends litert leaves TensorRT out",
        )


def read_times(text: str) -> list[float]:
    """Milliseconds of each inference, of what `--exportTimes` writes: from the copy of its input to that of its output.

    DeviceError for anything else.
    """
    try:
        found = [float(each["latencyMs"]) for each in json.loads(text)]
    except (ValueError, TypeError, KeyError) as problem:
        raise DeviceError(f"trtexec's times can't be read: {type(problem).__name__}: {problem}") from None
    if not found:
        raise DeviceError("trtexec's times are empty")
    return found


_PREFIX = re.compile(r"^\[[\d/:-]+\] \[[A-Z]\] (\[TRT\] )?")


def _step(line: str) -> str:
    """What a line of trtexec's log says, without its time."""
    return _PREFIX.sub("", line).strip()


def reason(lines: Sequence[str]) -> str:
    """The errors ("[E]") of what trtexec said, on stderr in truth; else its end."""
    errors = [line for line in lines if "] [E] " in line]
    return "\n".join(map(_step, errors or list(lines)[-3:]))
