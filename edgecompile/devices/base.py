"""The Device protocol, and what a benchmark asks for and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

PERCENTILES = (50, 90, 95, 99)

# Called with (rounds done, rounds planned); the plan grows where `min_seconds` asks for more rounds.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DeviceFacts:
    """identity: stable over reboots and host names, for cache keys: what was measured on one is valid for the other.

    name: for people; details: what edgecompile/ondevice/runner.py `facts` gives.
    """

    identity: str
    name: str
    details: Mapping[str, Any] = field(compare=False)


@dataclass(frozen=True)
class BenchCandidate:
    """One model with the way to run it. `id` is unique in a job."""

    id: str
    model: Path
    xnnpack: bool = True
    threads: int = 1
    engine: str = "litert"


@dataclass(frozen=True)
class BenchJob:
    """inputs: real samples by input name, [n, ...]; real numbers where the model takes integers are quantized.

    warmup, runs: rounds; in a round each candidate is invoked once, in an order drawn from `seed`
    min_seconds: rounds go on until this much time was spent on timed ones
    cpus: CPUs to keep to; None takes as many as the candidates' threads from those allowed; () doesn't pin
    """

    candidates: tuple[BenchCandidate, ...]
    inputs: Mapping[str, npt.NDArray[Any]]
    warmup: int = 20
    runs: int = 200
    min_seconds: float = 0.0
    seed: int = 0
    cpus: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CandidateTimes:
    """times_ms: of each timed `invoke`, in order [ms]. init_ms and peak_rss_mb [MiB] are from a process of its own.

    peak_rss_mb is of that whole process; baseline_rss_mb is what Python, NumPy and the runtime take of it.
    """

    times_ms: tuple[float, ...]
    init_ms: float
    peak_rss_mb: float
    baseline_rss_mb: float
    outputs_sha256: str


@dataclass(frozen=True)
class BenchResult:
    """candidates: by id, in the job's order. before, after: the device's facts around the benchmark."""

    candidates: Mapping[str, CandidateTimes]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    cpus: tuple[int, ...]


class Device(Protocol):
    def facts(self) -> DeviceFacts:
        """What is known about the device; DeviceError where it can't be asked."""

    def benchmark(self, job: BenchJob, on_progress: Progress) -> BenchResult:
        """Run the job in a fresh process on the device; DeviceError with the reason where it fails."""


def statistics(times_ms: Sequence[float]) -> dict[str, float]:
    """p50, p90, p95, p99, mean, std (population), min, max, all in ms, and the number of runs.

    Percentiles are NumPy's, linear between neighbours. ValueError for no times.
    """
    if not len(times_ms):
        raise ValueError("expected at least one time, received none")
    times = np.asarray(times_ms, np.float64)
    values = np.percentile(times, PERCENTILES)
    return {
        **{f"p{percent}": float(value) for percent, value in zip(PERCENTILES, values, strict=True)},
        "mean": float(times.mean()),
        "std": float(times.std()),
        "min": float(times.min()),
        "max": float(times.max()),
        "runs": len(times_ms),
    }
