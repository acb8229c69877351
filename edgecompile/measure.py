"""Latency and memory of candidates on a device, kept with their date: a figure is repeated only when asked."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import StageRecord, sha256_file, sha256_json
from edgecompile.backends.base import Candidate
from edgecompile.cache import Cache
from edgecompile.devices import busyness
from edgecompile.devices.base import BenchCandidate, BenchJob, BenchResult, Device, statistics
from edgecompile.devices.benchmark import benchmark
from edgecompile.devices.local import LocalDevice
from edgecompile.devices.throttling import noticed
from edgecompile.job import now, tool_versions
from edgecompile.manifest import MEASURED, Figure
from edgecompile.ondevice import runner
from edgecompile.stages.base import Progress
from edgecompile.task import Array

WARMUP, RUNS, MIN_SECONDS = 20, 200, 0.5
ENERGY_SECONDS = 1.0
_SETTLED = 120.0  # seconds over which nothing may change
_WINDOWS, _SHORTEST_WINDOW = 120, 1.0  # of a sustained run; in seconds
_HISTOGRAM_BINS = 80
# Within that many times the fastest's p50, one process doesn't tell which is the faster: where memory lies, and that
# the uncompressed source runs beside them by the code of one of them, made 10% look like 3% (models of microseconds).
_CLOSE = 1.1
_RUN_OFFS, _RUN_OFF_RUNS, _RUN_OFF_WARMUP = 3, 40, 10


@dataclass(frozen=True)
class Measurement:
    """results: by candidate id, what `statistics` gives plus init_ms, peak_rss_mb, energy, a histogram of latencies,
    threads and executed_on: the engine, and how and where it ran. threads: the most of them. busy: what others took of
    the device meanwhile, empty where it was little.

    windows: of a sustained run (devices/base.py). throttled: what the device told of being slowed down. skipped: by
    candidate id, why there is no result. run_off: where some are so close to the fastest that one process doesn't tell
    them apart, p50 in ms of all that may be taken, in each of several more processes; else empty.
    """

    device: str
    threads: int
    date: str
    results: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, Any]
    key: str
    seconds: float
    label: str = MEASURED
    windows: Sequence[Mapping[str, Any]] = ()
    throttled: Sequence[str] = ()
    busy: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)
    run_off: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def p50(self, candidate: str) -> float:
        return float(self.results[candidate]["p50"])

    @property
    def record(self) -> StageRecord:
        latencies = {name: {"latency_p50": result["p50"]} for name, result in self.results.items()}
        config = {"warmup": WARMUP, "threads": self.threads}
        return StageRecord("benchmark", self.key, config, tool_versions(), self.seconds, self.date, latencies)

    def figures(self, candidate: str, of: str) -> list[Figure]:
        """The candidate's figures, under the name `of`."""
        result = self.results[candidate]
        names = {f"latency_{s}": ("ms", result[s]) for s in ("p50", "p90", "p95", "p99", "mean", "std")}
        names |= {"init_time": ("ms", result["init_ms"]), "peak_rss": ("MiB", result["peak_rss_mb"])}
        energy = result.get("energy")
        if energy:
            names |= {"energy_mean": ("mJ", energy["mj"]), "power_mean": ("W", energy["watts"])}
        return [
            Figure(
                name=name,
                of=of,
                value=value,
                unit=unit,
                label=self.label,
                device=self.device,
                date=self.date,
                threads=int(result["threads"]),
                runs=_runs(name, result),
                executed_on=result["executed_on"] + (f", {energy['sensor']}" if energy and unit in ("mJ", "W") else ""),
            )
            for name, (unit, value) in names.items()
        ]


def _runs(name: str, result: Mapping[str, Any]) -> int:
    if name in ("energy_mean", "power_mean"):
        return int(result["energy"]["inferences"])
    return int(result["runs"]) if name.startswith("latency") else 1


def measure(
    device: Device,
    candidates: Sequence[Candidate],
    inputs: Mapping[str, Array],
    *,
    depends: tuple[str, ...],
    cache: Cache,
    again: bool,
    report: Callable[[Progress], None],
    runs: int = RUNS,
    warmup: int = WARMUP,
    choose: Sequence[str] = (),
) -> tuple[Measurement, bool]:
    """(figures of all candidates, run interleaved on the device; whether they came from the cache).

    choose: the ids of those of which one is to be taken; they run again where it is close.
    """
    facts = device.facts()
    key = sha256_json(
        {
            "device": facts.identity,
            "label": facts.label,
            "runner": hashlib.sha256(Path(runner.__file__).read_bytes()).hexdigest(),
            "conditions": device.conditions(),
            "candidates": [[c.id, c.threads, sorted(c.config.items()), sha256_file(c.model)] for c in candidates],
            "depends": depends,
            "runs": [warmup, runs],
            "run_off": [sorted(choose), _CLOSE, _RUN_OFFS, _RUN_OFF_RUNS, _RUN_OFF_WARMUP],
            "tools": tool_versions(),
        }
    )[:32]
    path = cache.root / "measurements" / f"{key}.json"
    known = None if again else _known(path, cache)
    if known is None:
        with alone(cache, report) if isinstance(device, LocalDevice) else nullcontext():
            known = None if again else _known(path, cache)  # another build may just have measured the same
            if known is None:
                result = _run(device, candidates, inputs, runs=runs, warmup=warmup, report=report, key=key)
                if _is_close(result, choose):
                    result = _with_run_off(result, device, candidates, inputs, choose, report)
                cache.keep(path, asdict(result))
                return result, False
    return known, True


def _known(path: Path, cache: Cache) -> Measurement | None:
    found = cache.kept(path)
    return Measurement(**found) if found is not None else None


def _is_close(found: Measurement, choose: Sequence[str]) -> bool:
    """Whether one process doesn't tell the fastest from the next; an emulator's counts need no second one."""
    times = sorted(found.p50(name) for name in choose if name in found.results)
    return found.label == MEASURED and len(times) > 1 and times[1] <= times[0] * _CLOSE


def _with_run_off(
    found: Measurement,
    device: Device,
    candidates: Sequence[Candidate],
    inputs: Mapping[str, Array],
    choose: Sequence[str],
    report: Callable[[Progress], None],
) -> Measurement:
    """And what those of `choose` take in more processes, which have nothing else to run."""
    again = [c for c in candidates if c.id in choose and c.id in found.results]
    process = functools.partial(_run, device, runs=_RUN_OFF_RUNS, warmup=_RUN_OFF_WARMUP, key="", energy=0.0)
    more = []
    for number in range(_RUN_OFFS):

        def within(part: Progress, number: int = number) -> None:
            text = f"{part.text} of another process, {number + 1} of {_RUN_OFFS}" if part.total else part.text
            report(dataclasses.replace(part, text=text))

        # Where memory lies depends on who comes first.
        turned = again[number % len(again) :] + again[: number % len(again)]
        more.append(process(turned, inputs, report=within, seed=number + 1))
    everywhere = [c.id for c in again if all(c.id in each.results for each in more)]
    return dataclasses.replace(
        found,
        run_off={name: [each.p50(name) for each in more] for name in everywhere},
        throttled=list(dict.fromkeys(told for each in (found, *more) for told in each.throttled)),
        seconds=round(found.seconds + sum(each.seconds for each in more), 3),
    )


@contextmanager
def alone(cache: Cache, report: Callable[[Progress], None]) -> Iterator[None]:
    """One measurement at a time on a machine: two would slow each other down, and both would be wrong."""
    with cache.lock("measuring", waiting=lambda: report(Progress("waiting for another measurement"))):
        yield


def run(
    device: Device,
    candidates: Sequence[Candidate],
    inputs: Mapping[str, Array],
    *,
    runs: int,
    warmup: int,
    report: Callable[[Progress], None],
    sustain: float = 0.0,
    cpus: tuple[int, ...] | None = None,
) -> Measurement:
    """Measure now, as soon as no other process does; the runner sees to that on a board. ProvisioningError where the
    engine of a candidate isn't there.

    sustain: seconds at most of a sustained run, in place of `runs`. cpus: as BenchJob's.
    """
    candidates = [of_device(candidate, device) for candidate in candidates]
    with alone(Cache(), report) if isinstance(device, LocalDevice) else nullcontext():
        return _run(
            device, candidates, inputs, runs=runs, warmup=warmup, report=report, key="", sustain=sustain, cpus=cpus
        )


def _run(
    device: Device,
    candidates: Sequence[Candidate],
    inputs: Mapping[str, Array],
    *,
    runs: int,
    warmup: int,
    report: Callable[[Progress], None],
    key: str,
    sustain: float = 0.0,
    cpus: tuple[int, ...] | None = None,
    energy: float = ENERGY_SECONDS,
    seed: int = 0,
) -> Measurement:
    job = BenchJob(
        candidates=tuple(BenchCandidate(c.id, c.model, c.threads, c.backend, c.config) for c in candidates),
        inputs=inputs,
        warmup=warmup,
        runs=runs,
        min_seconds=MIN_SECONDS,
        energy_seconds=energy,
        seed=seed,
        sustain_seconds=sustain,
        window_seconds=max(_SHORTEST_WINDOW, sustain / _WINDOWS),
        settle_seconds=min(_SETTLED, sustain),
        cpus=cpus,
    )
    began = now()
    bench = benchmark(
        device,
        job,
        lambda done, total: report(Progress("rounds", done, total)),
        lambda: report(Progress("waiting for another benchmark there")),
    )
    facts = device.facts()
    return Measurement(
        device=facts.name,
        threads=max(c.threads for c in candidates),
        date=began,
        results={
            c.id: {**_summary(bench, c.id), "threads": c.threads, "executed_on": facts.executed_on(engine_of(c))}
            for c in candidates
            if c.id in bench.candidates
        },
        environment={"before": dict(bench.before), "after": dict(bench.after), "cpus": list(bench.cpus)},
        key=key,
        seconds=round(sum(sum(t.times_ms) for t in bench.candidates.values()) / 1000, 3),
        label=facts.label,
        windows=[dict(window) for window in bench.windows],
        throttled=noticed(bench.before, bench.after, bench.windows),
        busy=busyness.noticed(bench.before, bench.after) if facts.label == MEASURED else "",
        skipped=dict(bench.skipped),
    )


def of_device(candidate: Candidate, device: Device) -> Candidate:
    """With the version of its engine's package there, which the runner holds it to and figures name."""
    if candidate.backend not in runner.PACKAGES:
        return candidate
    return dataclasses.replace(candidate, config={**candidate.config, "version": device.engine(candidate.backend)})


def engine_of(candidate: Candidate) -> str | None:
    """Its name in a figure; None for LiteRT, whose runtime the device knows."""
    if candidate.backend == "litert":
        return None
    return " ".join(filter(None, (candidate.backend, candidate.config.get("version"))))


def _summary(bench: BenchResult, candidate: str) -> dict[str, Any]:
    times = bench.candidates[candidate]
    # Steps of equal ratio: one slow outlier must not squeeze all others into a single bar.
    low, high = max(min(times.times_ms), 1e-6), max(times.times_ms)
    counts, edges = np.histogram(times.times_ms, bins=np.geomspace(low, high * 1.0001, _HISTOGRAM_BINS + 1))
    return {
        **statistics(times.times_ms),
        "init_ms": times.init_ms,
        "peak_rss_mb": times.peak_rss_mb,
        "baseline_rss_mb": times.baseline_rss_mb,
        "energy": times.energy,
        "profile": times.profile,
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
    }
