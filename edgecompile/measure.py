"""Latency and memory of candidates on a device, kept with their date: a figure is repeated only when asked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import StageRecord, sha256_json
from edgecompile.backends.base import Candidate
from edgecompile.cache import Cache, write_file
from edgecompile.devices.base import BenchCandidate, BenchJob, BenchResult, statistics
from edgecompile.devices.local import LocalDevice
from edgecompile.job import now, tool_versions
from edgecompile.manifest import MEASURED, Figure
from edgecompile.ondevice import runner
from edgecompile.stages.base import Progress
from edgecompile.task import Array

WARMUP, RUNS, MIN_SECONDS = 20, 200, 0.5
_HISTOGRAM_BINS = 80


@dataclass(frozen=True)
class Measurement:
    """results: by candidate id, what `statistics` gives plus init_ms, peak_rss_mb and a histogram of latencies."""

    device: str
    threads: int
    date: str
    results: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, Any]
    key: str
    seconds: float

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
        return [
            Figure(
                name=name,
                of=of,
                value=value,
                unit=unit,
                label=MEASURED,
                device=self.device,
                date=self.date,
                threads=self.threads,
                runs=result["runs"] if name.startswith("latency") else 1,
                executed_on="LiteRT in a fresh process on this machine",
            )
            for name, (unit, value) in names.items()
        ]


def measure(
    candidates: Sequence[Candidate],
    inputs: Mapping[str, Array],
    *,
    depends: tuple[str, ...],
    cache: Cache,
    again: bool,
    report: Callable[[Progress], None],
    runs: int = RUNS,
    warmup: int = WARMUP,
) -> tuple[Measurement, bool]:
    """(figures of all candidates, run interleaved on this machine; whether they came from the cache)."""
    device = LocalDevice()
    facts = device.facts()
    key = sha256_json(
        {
            "device": facts.identity,
            "runner": hashlib.sha256(Path(runner.__file__).read_bytes()).hexdigest(),
            "candidates": [[c.id, c.threads, sorted(c.config.items())] for c in candidates],
            "depends": depends,
            "runs": [warmup, runs],
            "tools": tool_versions(),
        }
    )[:32]
    path = cache.root / "measurements" / f"{key}.json"
    known = None if again else _known(path)
    if known is None:
        with alone(cache, report):
            known = None if again else _known(path)  # another build may just have measured the same
            if known is None:
                result = _run(device, candidates, inputs, runs=runs, warmup=warmup, report=report, key=key)
                write_file(path, json.dumps(asdict(result)))
                return result, False
    return known, True


def _known(path: Path) -> Measurement | None:
    try:
        found = Measurement(**json.loads(path.read_text()))
        os.utime(path)  # what `cache prune` goes by
    except FileNotFoundError:
        return None
    return found


@contextmanager
def alone(cache: Cache, report: Callable[[Progress], None]) -> Iterator[None]:
    """One measurement at a time on a machine: two would slow each other down, and both would be wrong."""
    with cache.lock("measuring", waiting=lambda: report(Progress("waiting for another measurement"))):
        yield


def run(
    device: LocalDevice,
    candidates: Sequence[Candidate],
    inputs: Mapping[str, Array],
    *,
    runs: int,
    warmup: int,
    report: Callable[[Progress], None],
) -> Measurement:
    """Measure now, as soon as no other process does."""
    with alone(Cache(), report):
        return _run(device, candidates, inputs, runs=runs, warmup=warmup, report=report, key="")


def _run(
    device: LocalDevice,
    candidates: Sequence[Candidate],
    inputs: Mapping[str, Array],
    *,
    runs: int,
    warmup: int,
    report: Callable[[Progress], None],
    key: str,
) -> Measurement:
    job = BenchJob(
        candidates=tuple(
            BenchCandidate(c.id, c.model, bool(c.config.get("xnnpack", True)), c.threads, c.backend) for c in candidates
        ),
        inputs=inputs,
        warmup=warmup,
        runs=runs,
        min_seconds=MIN_SECONDS,
    )
    began = now()
    bench = device.benchmark(job, lambda done, total: report(Progress("rounds", done, total)))
    name = device.facts().name
    return Measurement(
        device=name,
        threads=max(c.threads for c in candidates),
        date=began,
        results={c.id: _summary(bench, c.id) for c in candidates},
        environment={"before": dict(bench.before), "after": dict(bench.after), "cpus": list(bench.cpus)},
        key=key,
        seconds=round(sum(sum(t.times_ms) for t in bench.candidates.values()) / 1000, 3),
    )


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
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
    }
