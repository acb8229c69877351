"""The trials of a search as builds: where search.py's numbers come from, and what its first model would have been."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile import compare, gates, golden, packing, per_output
from edgecompile.artifact import Artifact
from edgecompile.backends import BACKENDS
from edgecompile.backends.litert import AS_IT_COMES
from edgecompile.compression import compress, with_steps
from edgecompile.devices.base import Device
from edgecompile.job import Job, Settings
from edgecompile.measure import measure
from edgecompile.request import Plan, can_train
from edgecompile.search import Found, Judge, search
from edgecompile.search_space import Search
from edgecompile.session import Session
from edgecompile.stages.base import Stage
from edgecompile.stages.evaluate import Resolution
from edgecompile.task import Metric
from edgecompile.tflite_file import read

ESTIMATED = "estimated by MACs"
_RUNS, _WARMUP = 60, 10
# A training set is too small for a network with more parameters a sample, and for fewer samples a class.
_PARAMETERS_A_SAMPLE, _SAMPLES_A_CLASS = 1000, 10
# A training is given up where a metric that should be high fell below this share of the float model's, or an error rose
# to this many times of it.
_DESTROYED, _EXPLODED = 0.5, 10.0


@dataclass(frozen=True)
class Trials:
    """What all trials of one build share."""

    made: Plan
    source: Artifact
    baseline: Artifact
    settings: Settings
    session: Session
    device: Device

    def find(self, config: Search) -> Found:
        """What the search takes, each trial being stages of the cache like any other build's."""
        made = self.made
        assert made.max_drop is not None
        allowed: float = made.max_drop
        budget = _Budget(made.budget_minutes)

        def run(steps: Sequence[Stage], minutes: float | None) -> Iterator[Artifact]:
            for artifact in self.run(steps, minutes):
                budget.spent += artifact.history[-1].seconds if minutes is not None else 0.0
                yield artifact

        training = self.baseline.history[-1].metrics.get("training", {})
        judge = Judge(
            run=run,
            share=budget.share,
            drop=lambda value: compare.metric_drop(self.metric, self.before, value),
            size=self._size,
            say=self.session.display.line,
            limit=allowed * config.margin,
            prefers=made.target.prefers if config.first else ("size", "accuracy"),
            latency=self._latency if config.first else None,
            blind=lambda artifact: self._blind(artifact, allowed),
            scarce=scarce(training),
            worst_output=self._worst_output,
        )
        return search(
            config,
            judge,
            trains=can_train(made.source),
            packed=bool(made.request.pack),
            integer=made.io == "int8",
            first=made.first,
        )

    def run(self, steps: Sequence[Stage], minutes: float | None) -> Iterator[Artifact]:
        trial = with_steps(self.made, steps, minutes)
        self.session.total += len(trial.steps)
        # A metric that is 0 or less has no share to fall to.
        worst = self.before * (_DESTROYED if self.metric.higher_is_better else _EXPLODED)
        least = worst if self.before > 0 else None
        if not trial.steps:
            return iter((self.source,))
        return compress(trial, self.source, self.settings, self.session, least)

    @property
    def metric(self) -> Metric:
        facts = self.made.facts
        assert facts is not None
        assert facts.metric is not None
        return Metric(facts.metric, lambda *_: math.nan, facts.higher_is_better)

    def _worst_output(self, scores: Mapping[str, float]) -> float:
        assert self.made.facts is not None
        own = {
            o.name: Metric(o.metric, lambda *_: math.nan, o.higher_is_better)
            for o in self.made.facts.outputs
            if o.metric
        }
        return per_output.worst_drop(own, self.baseline.history[-1].metrics.get("validation_outputs", {}), scores)

    @property
    def before(self) -> float:
        """The float model's metric on validation samples."""
        return float(self.baseline.history[-1].metrics["validation"])

    def _size(self, artifact: Artifact) -> int:
        form = self.made.request.pack
        return packing.packed_size(artifact.model, form) if form else artifact.model.stat().st_size

    def _latency(self, artifact: Artifact, beside: Artifact) -> tuple[float, str]:
        """(p50 of a .tflite as a share of another's, measured in one process by LiteRT as it comes; of MACs where there
        is no device, which of the two it is)."""
        if not self.made.measures:
            macs = [read(each.model).macs for each in (artifact, beside)]
            return (macs[0] / macs[1] if macs[1] else 1.0), ESTIMATED
        pair = []
        for name, each in (("trial", artifact), ("first", beside)):
            plain = BACKENDS["litert"].compile(each, self.made.target, self.made.threads[0])[0]
            pair.append(dataclasses.replace(plain, id=name, config=AS_IT_COMES))
        measurement, _ = measure(
            self.device,
            pair,
            golden.read(self.baseline.files["golden"], golden.INPUTS)[golden.INPUTS],
            depends=(),
            cache=self.session.cache,
            again=False,
            report=self.session.display.progress,
            runs=_RUNS,
            warmup=_WARMUP,
        )
        return measurement.p50("trial") / measurement.p50("first"), measurement.label

    def _blind(self, artifact: Artifact, allowed: float) -> tuple[float, str]:
        stage = Resolution(str(self.baseline.files["validation_outputs"]))
        key = self.baseline.history[-1].key
        job = Job(stage, artifact, self.settings, depends=(key,))
        found = self.session.run(job, announce=False).history[-1].metrics
        low, high = found["interval"]
        points = compare.drops_in_points(self.metric, self.before, self.before)
        unit = 100 if points else 100 / (abs(self.before) or 1.0)
        return blind((high - low) / 2 * unit, allowed, found["samples"], " points" if points else "%")


@dataclass
class _Budget:
    """Minutes for all trials but the first model, None: without end. spent: seconds."""

    total: float | None
    spent: float = 0.0

    def share(self, left: int) -> float | None:
        return None if self.total is None else max(0.0, self.total - self.spent / 60) / left


def blind(off: float, allowed: float, samples: int, unit: str) -> tuple[float, str]:
    """(off, why a choice by the validation split would be luck, "" where it wouldn't be).

    off: half of the 95% interval of the difference between the first model and the float one, as --max-drop counts it.
    """
    if off <= allowed:
        return off, ""
    return off, (
        f"{samples} validation samples tell a drop to within {off:.2g}{unit}, which is more than the {allowed:g}{unit} "
        "that --max-drop allows"
    )


def scarce(training: Mapping[str, Any]) -> str:
    """Why a training set is too small for the network; "" where it isn't. training: of the baseline's metrics."""
    count, classes, parameters = (training.get(name) for name in ("samples", "classes", "parameters"))
    if count is None:
        return ""
    if classes and count < _SAMPLES_A_CLASS * classes:
        return f"{count} training samples are fewer than {_SAMPLES_A_CLASS} for each of {classes} classes"
    if parameters and parameters > _PARAMETERS_A_SAMPLE * count:
        return (
            f"{count} training samples are too few for a network of {parameters:,} parameters (more than "
            f"{_PARAMETERS_A_SAMPLE:,} for each)"
        )
    return ""


def told_of_first(
    check: gates.Check, found: Found, trials: Trials, test: Callable[[Artifact], Mapping[str, Any]]
) -> gates.Check:
    """The accuracy gate of a search's choice that failed, with what the model to beat would have come to: it is told,
    and never taken in the choice's place. test: the test stage's metrics for a .tflite."""
    if check.passed is not False or not found.first or found.first == found.steps:
        return check
    *_, artifact = trials.run(found.first, None)
    plain = gates.accuracy(test(artifact), trials.made.max_drop)
    outcome = "would have passed" if plain.passed else "would have failed, too"
    hint = f"{check.hint}; the first choice {outcome}: {plain.text}"
    if plain.passed:
        hint = f"--recipe {trials.made.first}, which was made first and {outcome}: {plain.text}"
    return dataclasses.replace(check, hint=hint)
