"""Measured latency: what a channel of each group takes, and how far to prune so that LiteRT on this machine takes the
wanted share of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecompile.artifact import Signature
from edgecompile.backends.base import Candidate
from edgecompile.backends.litert import AS_IT_COMES
from edgecompile.cache import write_file
from edgecompile.channels.budget import MACS, Limits, cost_of, keep_widths, plan
from edgecompile.channels.groups import Channels
from edgecompile.channels.importance import Scores
from edgecompile.channels.surgery import apply
from edgecompile.errors import CompressionGateError
from edgecompile.sealed import seal, unseal_or_none
from edgecompile.stages.base import Context, Progress
from edgecompile.task import Arrays

_TRIALS = 6  # each halves the interval of the share of MACs: 1/64 of the MACs is finer than a step of channels
_LEAST_SHARE = 0.02
_RUNS, _WARMUP = 100, 10
_WHOLE, _SMALLER = "whole", "pruned"
_LEAST_SAVING = 0.01  # of the largest: a saving that noise hides, or turns around, is taken for small


@dataclass(frozen=True)
class Trial:
    """One model of the search: its share of the MACs asked for and had, and its p50 beside the whole model's [ms]."""

    asked: float
    macs: float
    p50: float
    p50_whole: float
    widths: dict[str, int]

    @property
    def ratio(self) -> float:
        return self.p50 / self.p50_whole


@dataclass(frozen=True)
class Search:
    """widths: by group, of the largest model found that is fast enough. device, threads and date are of `trials`."""

    widths: dict[str, int]
    trials: tuple[Trial, ...]
    device: str
    date: str
    threads: int = 1

    def metrics(self) -> dict[str, Any]:
        trials = [{**asdict(trial), "ratio": trial.ratio} for trial in self.trials]
        return {"device": self.device, "threads": self.threads, "date": self.date, "runs": _RUNS, "trials": trials}


@dataclass(frozen=True)
class ChannelLatency:
    """of: by group, what one channel of it takes [ms]. halved: by group, the p50 with half of its channels [ms]."""

    of: dict[str, float]
    halved: dict[str, float]
    p50_whole: float
    device: str
    date: str
    threads: int = 1

    def metrics(self) -> dict[str, Any]:
        return {**asdict(self), "runs": _RUNS}


def channel_latency(
    channels: Channels, importance: Scores, *, limits: Limits, signature: Signature, inputs: Arrays, ctx: Context
) -> ChannelLatency:
    """What a channel of each group takes: the float model with half of that group alone, against the whole one.

    A table of layers, as in NetAdapt (Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile
    Applications" (2018), section 3.3), with one entry a group. All models run interleaved, with XNNPACK and one
    thread. What was found is kept in the context's work folder, so that a killed stage goes on to the same widths.
    """
    path = ctx.work / "channel-latency.json"
    known = unseal_or_none(path)
    if known is not None:
        return ChannelLatency(**known)
    full = {group.name: len(group.sets) for group in channels.groups}
    fewer = {name: max(limits.fewer(n // 2 + 1), limits.floor(name, n)) for name, n in full.items()}
    # Numbers, since a group's name is that of a layer and may be no name of a file.
    files = {name: f"group{number}" for number, name in enumerate(full)}
    bench = _Bench(channels.model, signature, inputs, ctx)
    p50 = bench.measure(
        {
            files[name]: apply(channels.model, keep_widths(channels, importance, full | {name: n}))
            for name, n in fewer.items()
        }
    )
    whole = p50[_WHOLE]
    halved = {name: p50[files[name]] for name in full}
    saved = {name: (whole - halved[name]) / (n - fewer[name]) if n > fewer[name] else 0.0 for name, n in full.items()}
    least = max(_LEAST_SAVING * max(saved.values()), 1e-9)
    found = ChannelLatency(
        {group: max(value, least) for group, value in saved.items()}, halved, whole, bench.device, bench.date
    )
    write_file(path, seal(asdict(found)))
    return found


def search_widths(
    channels: Channels,
    importance: Scores,
    keep: float,
    *,
    limits: Limits,
    ranking: str,
    latency: Mapping[str, float] | None,
    signature: Signature,
    inputs: Arrays,
    ctx: Context,
) -> Search:
    """Bisect over the share of MACs until the float model's p50 is `keep` of the whole model's or just below.

    Each trial is converted and run beside the whole model, interleaved, with XNNPACK and one thread. What was found
    is kept in the context's work folder, so that a killed stage goes on to the same widths.

    Errors: CompressionGateError where even the smallest model that the limits allow is too slow.
    """
    path = ctx.work / "latency.json"
    known = unseal_or_none(path)
    if known is not None:
        return Search(**{**known, "trials": tuple(Trial(**trial) for trial in known["trials"])})
    bench = _Bench(channels.model, signature, inputs, ctx)
    full = cost_of(channels.model, MACS)

    def trial(share: float) -> Trial:
        kept = plan(channels, importance, int(full * share), of=MACS, limits=limits, ranking=ranking, latency=latency)
        smaller = apply(channels.model, kept)
        p50 = bench.measure({_SMALLER: smaller})
        widths = {name: len(indices) for name, indices in kept.items()}
        return Trial(share, cost_of(smaller, MACS) / full, p50[_SMALLER], p50[_WHOLE], widths)

    best, trials = _bisect(trial, keep, ctx)
    if best is None:
        fastest = min(trials, key=lambda t: t.ratio, default=None)
        reached = (
            f"the fastest of {len(trials)} takes {fastest.ratio:.0%}" if fastest else "no smaller model is allowed"
        )
        raise CompressionGateError(
            f"pruning channels promised {keep:.0%} of the latency; {reached}",
            hint="raise keep, or loosen round_to, min_channels or max_share in the recipe",
        )
    found = Search(best.widths, tuple(trials), bench.device, bench.date)
    write_file(path, seal(asdict(found)))
    return found


def _bisect(trial: Callable[[float], Trial], keep: float, ctx: Context) -> tuple[Trial | None, list[Trial]]:
    low, high = _LEAST_SHARE, 1.0
    share = keep  # MACs and time go about together: a good first guess
    best: Trial | None = None
    trials: list[Trial] = []
    known: dict[tuple[tuple[str, int], ...], Trial] = {}
    for number in range(_TRIALS):
        ctx.report(Progress("models measured", number, _TRIALS))
        try:
            made = trial(share)
        except CompressionGateError:  # the limits don't allow so few MACs
            low, share = share, (share + high) / 2
            continue
        made = known.setdefault(tuple(sorted(made.widths.items())), made)  # its first figure stands
        if made not in trials:
            trials.append(made)
        if made.ratio <= keep:
            if best is None or made.macs > best.macs:
                best = made
            low = share
        else:
            high = share
        share = (low + high) / 2
    return best, trials


class _Bench:
    """Converts models and runs them beside the whole one, in the device's own process."""

    def __init__(self, model: Any, signature: Signature, inputs: Arrays, ctx: Context) -> None:
        self._signature, self._inputs, self._ctx = signature, inputs, ctx
        self._folder = ctx.work / "latency"
        self._folder.mkdir(exist_ok=True)
        self.device = self.date = ""
        self._convert(model, _WHOLE)

    def measure(self, smaller: Mapping[str, Any]) -> dict[str, float]:
        """p50 of these models and of the whole one, by name [ms]."""
        from edgecompile.devices.local import LocalDevice
        from edgecompile.measure import run

        for number, (name, model) in enumerate(smaller.items()):
            self._ctx.report(Progress("models converted", number, len(smaller)))
            self._convert(model, name)
        names = (_WHOLE, *smaller)
        candidates = [Candidate(name, "litert", self._path(name), 1, AS_IT_COMES) for name in names]
        found = run(
            LocalDevice(), candidates, self._inputs, runs=_RUNS, warmup=_WARMUP, report=self._ctx.report
        )  # fmt: skip
        self.device, self.date = found.device, self.date or found.date
        return {name: found.p50(name) for name in names}

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.tflite"

    def _convert(self, model: Any, name: str) -> None:
        from edgecompile.stages.convert import convert, keras_call, variables_of

        self._path(name).write_bytes(convert(keras_call(model), variables_of(model), self._signature))
