"""The Device protocol, and what a benchmark asks for and gives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgecompile.manifest import MEASURED

PERCENTILES = (50, 90, 95, 99)

# Called with (rounds done, rounds planned); the plan grows where `min_seconds` asks for more rounds.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DeviceFacts:
    """identity: stable over reboots and host names, for cache keys: what was measured on one is valid for the other.

    name: for people; details: what edgecompile/ondevice/runner.py `facts` gives. label: of the figures that are found
    there. runtime: LiteRT's, as a figure names it; where: how and on what an engine ran. sysfs_root: where the runner
    reads temperature, clocks and power there.
    """

    identity: str
    name: str
    details: Mapping[str, Any] = field(compare=False)
    label: str = MEASURED
    runtime: str = "LiteRT"
    where: str = "in a fresh process on this machine"
    sysfs_root: str = "/sys"

    def executed_on(self, engine: str | None = None) -> str:
        """What a figure says of how it came to be. engine: None for LiteRT."""
        return f"{engine or self.runtime} {self.where}"


def identity(details: Mapping[str, Any]) -> str:
    """Of a machine by its facts. One with another GPU, or more memory, isn't the same to an engine."""
    gigabytes = round((details["memory_mb"] or 0) / 1024)
    gpus = (details["nvidia"] or {}).get("gpus", [])
    return "/".join([details["machine"], details["cpu"], str(details["cores"]), f"{gigabytes} GiB", *gpus])


@dataclass(frozen=True)
class BenchCandidate:
    """One model with the way to run it. `id` is unique in a job; config: what else the runner is told of it."""

    id: str
    model: Path
    threads: int = 1
    engine: str = "litert"
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchJob:
    """inputs: real samples by input name, [n, ...]; real numbers where the model takes integers are quantized.

    warmup, runs: rounds; in a round each candidate is invoked once, in an order drawn from `seed`
    min_seconds: rounds go on until this much time was spent on timed ones
    energy_seconds: how long each runs alone while power is measured, where a sensor there can be read
    sustain_seconds: instead of runs, rounds go on for so long at most, and end once temperature and latency have
    settled, which settle_seconds without a change show; each window_seconds give a window of the result
    cpus: CPUs to keep to; None takes the last of those allowed, as many as the candidates' threads; () doesn't pin
    """

    candidates: tuple[BenchCandidate, ...]
    inputs: Mapping[str, npt.NDArray[Any]]
    warmup: int = 20
    runs: int = 200
    min_seconds: float = 0.0
    seed: int = 0
    energy_seconds: float = 0.0
    sustain_seconds: float = 0.0
    window_seconds: float = 10.0
    settle_seconds: float = 120.0
    cpus: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CandidateTimes:
    """times_ms: of each timed `invoke`, in order [ms]. init_ms and peak_rss_mb [MiB] are from a process of its own.

    peak_rss_mb is of that whole process; baseline_rss_mb is what Python, NumPy and the runtime take of it.
    energy: {"mj": of an inference, "watts", "idle_watts", "inferences", "sensor"}, None where nothing measures power.
    profile: where its time goes, as the runner tells it (Model.profile), None where the engine doesn't.
    """

    times_ms: tuple[float, ...]
    init_ms: float
    peak_rss_mb: float
    baseline_rss_mb: float
    outputs_sha256: str
    energy: Mapping[str, Any] | None = None
    profile: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class BenchResult:
    """candidates: by id, in the job's order. skipped: by id, why one is not among them. before, after: the device's
    facts around the benchmark.

    windows: of a sustained run, {"at": seconds since its start, "p50_ms": {id: ms}, "temperatures": {zone: degrees
    Celsius}, "mhz": [of each cluster], "throttling", "settled"}; times_ms are those of the last.
    """

    candidates: Mapping[str, CandidateTimes]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    cpus: tuple[int, ...]
    windows: tuple[Mapping[str, Any], ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


class Process(Protocol):
    """A command that was started on a device. Its stdin stays open until `kill`, or until the device is closed."""

    def lines(self, quiet: float | None = None) -> Iterator[str]:
        """Of stdout, as they come. DeviceTimeoutError where none comes for `quiet` seconds."""
        ...

    def end_input(self) -> None:
        """Close its stdin: what waits for that comes to its end."""
        ...

    def wait(self) -> int:
        """Its exit status; minus the signal's number where one ended it. stdout has to be read before."""
        ...

    def kill(self) -> None:
        """End it, with all it started."""
        ...

    @property
    def errors(self) -> str:
        """The end of what it wrote to stderr."""
        ...


class Device(Protocol):
    """Where a model runs. All that is done there is built on put, get, exec and forward."""

    def facts(self) -> DeviceFacts:
        """What is known about the device; DeviceError where it can't be asked."""
        ...

    def put(self, path: Path, report: Progress = ...) -> str:
        """A file's path on the device, which has it after this. One that it has already is not sent again."""
        ...

    def get(self, remote: str, path: Path) -> None:
        """Bring a file here."""
        ...

    def lend(self, path: Path) -> str:
        """A file's path on the device, for one run: `discard` it after that."""
        ...

    def discard(self, remote: str) -> None:
        """Remove what `lend` or `scratch` gave, with the folder that was made for it. Never an error."""
        ...

    def conditions(self) -> Mapping[str, Any]:
        """What a figure there depends on besides the machine: JSON, for cache keys."""
        ...

    @property
    def lock(self) -> str | None:
        """A file there that is locked during a benchmark; None where that is seen to here."""
        ...

    def scratch(self, name: str) -> str:
        """A path on the device where a file of that name can be written, to be brought here by `get`."""
        ...

    def exec(self, argv: Sequence[str]) -> Process: ...

    def python(self, engines: Collection[str] = ()) -> tuple[str, ...]:
        """The words that start a Python with NumPy, a runtime and these engines, of the runner's PACKAGES, there."""
        ...

    def engine(self, name: str) -> str:
        """The version of an engine, of the runner's PACKAGES, that such a Python has; ProvisioningError for none."""
        ...

    def forward(self, port: int) -> int:
        """A port of this machine that leads to one of the device."""
        ...

    def close(self) -> None:
        """Leaves nothing running there."""
        ...


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
