"""This machine: the runner in a process of its own, so that nothing of the compiler's is in the measurement."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgecompile.devices.base import BenchJob, BenchResult, CandidateTimes, DeviceFacts, Progress
from edgecompile.errors import DeviceError
from edgecompile.ondevice import runner

# How much of what the runtime wrote to stderr goes into an error's message.
_TAIL = 1000


class LocalDevice:
    """The machine edgecompile runs on."""

    def facts(self) -> DeviceFacts:
        details = runner.facts()
        machine, cpu, cores = details["machine"], details["cpu"], details["cores"]
        return DeviceFacts(
            identity=f"{machine}/{cpu}/{cores}",
            name=f"{cpu} x{cores} (this machine)",
            details=details,
        )

    def benchmark(self, job: BenchJob, on_progress: Progress) -> BenchResult:
        """Run the job in a fresh process, in a scratch folder. The process is gone when this returns or raises."""
        if not job.candidates or not job.inputs:
            raise DeviceError("a benchmark needs a candidate and samples, received none")
        cpus = _cpus(job)
        with tempfile.TemporaryDirectory(prefix="edgecompile-bench-") as scratch:
            path = _write(job, cpus, Path(scratch))
            events = _run(path, on_progress)
        results = {event["id"]: event for event in events if event["event"] == "result"}
        facts = {event["when"]: event for event in events if event["event"] == "facts"}
        return BenchResult(
            candidates={
                candidate.id: CandidateTimes(
                    times_ms=tuple(results[candidate.id]["times_ms"]),
                    init_ms=results[candidate.id]["init_ms"],
                    peak_rss_mb=results[candidate.id]["peak_rss_mb"],
                    baseline_rss_mb=results[candidate.id]["baseline_rss_mb"],
                    outputs_sha256=results[candidate.id]["outputs_sha256"],
                )
                for candidate in job.candidates
            },
            before=_facts(facts["before"]),
            after=_facts(facts["after"]),
            cpus=cpus,
        )


def _cpus(job: BenchJob) -> tuple[int, ...]:
    """The job's, else the last of those allowed: the first ones serve most interrupts."""
    if job.cpus is not None or not hasattr(os, "sched_getaffinity"):
        return job.cpus or ()
    allowed = sorted(os.sched_getaffinity(0))
    return tuple(allowed[-max(candidate.threads for candidate in job.candidates) :])


def _facts(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("event", "when")}


def _write(job: BenchJob, cpus: tuple[int, ...], folder: Path) -> Path:
    runner.save_arrays(folder / "inputs.npz", dict(job.inputs))
    path = folder / "job.json"
    data = {
        "candidates": [
            {
                "id": candidate.id,
                "model": str(candidate.model.absolute()),
                "engine": candidate.engine,
                "xnnpack": candidate.xnnpack,
                "threads": candidate.threads,
            }
            for candidate in job.candidates
        ],
        "inputs": "inputs.npz",
        "warmup": job.warmup,
        "runs": job.runs,
        "min_seconds": job.min_seconds,
        "seed": job.seed,
        "cpus": list(cpus) or None,
    }
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def _run(path: Path, on_progress: Progress) -> list[dict[str, Any]]:
    """The runner's events but for progress, which is passed on; DeviceError where it did not come to its end."""
    events = []
    command = [sys.executable, str(Path(runner.__file__).absolute()), str(path)]
    with (
        (path.parent / "stderr.txt").open("w+b") as errors,
        # A session of its own: Ctrl-C reaches us alone, and we end the runner with its children.
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "progress":
                    on_progress(event["done"], event["total"])
                else:
                    events.append(event)
            status = process.wait()
        except BaseException:  # KeyboardInterrupt too: whatever ends the reading ends the runner
            _kill(process)
            raise
        errors.seek(0)
        tail = errors.read().decode("utf-8", "replace").strip()[-_TAIL:]
    failure = next((event for event in events if event["event"] == "error"), None)
    if failure is not None:
        which = f"{failure['id']}: " if failure["id"] else ""
        raise DeviceError(f"the benchmark on this machine failed: {which}{failure['message']}")
    if status or not events or events[-1]["event"] != "end":
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise DeviceError(f"the benchmark on this machine died with {how}" + (f":\n{tail}" if tail else ""))
    return events


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The runner and what it started; it may be gone already."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
