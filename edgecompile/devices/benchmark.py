"""A benchmark on a device: the runner, its job and its events."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgecompile.devices.base import BenchJob, BenchResult, CandidateTimes, Device, Process, Progress
from edgecompile.errors import DeviceError
from edgecompile.ondevice import runner
from edgecompile.task import Arrays

# How much of what the runtime wrote to stderr goes into an error's message.
_TAIL = 1000
# Seconds without any event after which a device is given up: a large model on a slow board takes its time to load.
_QUIET = 900.0
_FAILED = "see that the model runs here; `edgecompile devices clean` and the same again brings everything there anew"
_FULL = "make space there, or set XDG_CACHE_HOME to a folder on a larger disk"
_NO_XNNPACK = "--kernels builtin measures it"
_DIED = "a runtime of its own (--runtime system), or fewer candidates (--backends): one may crash"


def benchmark(
    device: Device, job: BenchJob, on_progress: Progress, on_wait: Callable[[], None] = lambda: None
) -> BenchResult:
    """Run the job in a fresh process, which is gone when this returns or raises; DeviceError where it fails, or nothing
    could be measured.

    on_wait: called while another benchmark runs there.
    """
    if not job.candidates or not job.inputs:
        raise DeviceError("a benchmark needs a candidate and samples, received none")
    events = list(run_job(device, _described(device, job), job.inputs, on_progress, on_wait))
    results = {event["id"]: event for event in events if event["event"] == "result"}
    facts = {event["when"]: event for event in events if event["event"] == "facts"}
    skipped = {event["id"]: event["reason"] for event in events if event["event"] == "skipped"}
    if not results:
        told = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise DeviceError(f"nothing was measured on {device.facts().name}: {told}", hint=_NO_XNNPACK)
    return BenchResult(
        candidates={
            candidate.id: CandidateTimes(
                times_ms=tuple(results[candidate.id]["times_ms"]),
                init_ms=results[candidate.id]["init_ms"],
                peak_rss_mb=results[candidate.id]["peak_rss_mb"],
                baseline_rss_mb=results[candidate.id]["baseline_rss_mb"],
                outputs_sha256=results[candidate.id]["outputs_sha256"],
                energy=results[candidate.id]["energy"],
                profile=results[candidate.id]["profile"],
            )
            for candidate in job.candidates
            if candidate.id in results
        },
        before=_facts(facts["before"]),
        after=_facts(facts["after"]),
        cpus=tuple(facts["before"]["cpus"]),
        windows=tuple(_facts(event) for event in events if event["event"] == "window"),
        skipped=skipped,
    )


def _facts(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("event", "when", "cpus")}


def _described(device: Device, job: BenchJob) -> dict[str, Any]:
    return {
        "candidates": [
            {
                "id": candidate.id,
                "model": device.put(candidate.model.absolute()),
                "engine": candidate.engine,
                "threads": candidate.threads,
                **candidate.config,
            }
            for candidate in job.candidates
        ],
        "warmup": job.warmup,
        "runs": job.runs,
        "min_seconds": job.min_seconds,
        "seed": job.seed,
        "energy_seconds": job.energy_seconds,
        "sustain_seconds": job.sustain_seconds,
        "window_seconds": job.window_seconds,
        "settle_seconds": job.settle_seconds,
        "sysfs_root": device.facts().sysfs_root,
        "cpus": "last" if job.cpus is None else list(job.cpus),
    }


def outputs(
    device: Device, candidate: dict[str, Any], inputs: Arrays, on_progress: Progress
) -> dict[str, npt.NDArray[Any]]:
    """What a candidate makes of all samples there: {output: [n, ...]} in the model's own dtypes.

    candidate: as the runner takes it, its model a file of this machine. Samples are in the source's units, or of the
    model's own type. DeviceError where it fails.
    """
    there = device.scratch("outputs.npz")
    described = {**candidate, "model": device.put(Path(candidate["model"]).absolute())}
    try:
        for _ in run_job(device, {"mode": "run", "candidates": [described], "outputs": there}, inputs, on_progress):
            pass
        with tempfile.TemporaryDirectory(prefix="edgecompile-outputs-") as scratch:
            here = Path(scratch, "outputs.npz")
            device.get(there, here)
            return runner.load_inputs(here)
    except runner.Failure as problem:
        raise DeviceError(f"what {device.facts().name} gave can't be read: {problem}", hint=_FAILED) from None
    finally:
        device.discard(there)


def run_job(
    device: Device,
    job: dict[str, Any],
    inputs: Arrays,
    on_progress: Progress,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """The runner's events but for progress, which is passed on. The job's paths are the device's; DeviceError where it
    doesn't come to its end."""
    with tempfile.TemporaryDirectory(prefix="edgecompile-job-") as scratch:
        arrays, described = Path(scratch, "inputs.npz"), Path(scratch, "job.json")
        runner.save_arrays(arrays, dict(inputs))
        engines = {candidate["engine"] for candidate in job["candidates"] if candidate.get("engine") in runner.PACKAGES}
        python, program = device.python(engines), device.put(Path(runner.__file__).absolute())
        there: list[str] = []
        process: Process | None = None
        try:
            there.append(device.lend(arrays))
            described.write_text(json.dumps({**job, "inputs": there[0], "lock": device.lock}), encoding="utf-8")
            there.append(device.lend(described))
            process = device.exec([*python, program, there[1]])
            ended = started = False
            for line in process.lines(_QUIET):
                event = _event(line, started, device)
                if event is None:
                    continue
                started, ended = True, event["event"] == "end"
                if event["event"] == "progress":
                    on_progress(event["done"], event["total"])
                elif event["event"] == "error":
                    which = f"{event['id']}: " if event["id"] else ""
                    full = os.strerror(errno.ENOSPC) in event["message"]
                    raise DeviceError(
                        f"the runner on {device.facts().name} failed: {which}{event['message']}",
                        hint=_FULL if full else event["hint"] or _FAILED,
                    )
                elif event["event"] == "waiting":
                    on_wait()
                else:
                    yield event
            status = process.wait()
        finally:
            if process is not None:
                process.kill()
            for file in there:
                device.discard(file)
    if status or not ended:
        told, cure = runner.death(status)
        raise DeviceError(
            f"the runner on {device.facts().name} died with {told}" + _told(process.errors), hint=cure or _DIED
        )


def _event(line: str, started: bool, device: Device) -> dict[str, Any] | None:
    """None for what a board's shell says before the runner does. DeviceError for what the runner can't have said."""
    try:
        event = json.loads(line)
        if "event" in event:
            return dict(event)
    except (ValueError, TypeError):
        pass
    if started:
        raise DeviceError(f"{device.facts().name} answered {line[:200]!r}, expected an event of the runner")
    return None


def how(status: int) -> str:
    """What an exit status says, as `Process.wait` gives it."""
    return runner.death(status)[0]


def _told(errors: str) -> str:
    return f":\n{errors[-_TAIL:]}" if errors else ""
