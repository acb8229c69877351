"""Mixed precision: quantize all but the few operators whose quantization costs accuracy, found by measuring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgecompile import compare, metrics, per_output
from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.litert import LiteRtRunner
from edgecompile.errors import CompressionGateError, DataError
from edgecompile.quantization import FLOAT, SCHEMES, FloatModel, Place, deviations
from edgecompile.quantization.calibration import MIN_MAX, RANGES, draw
from edgecompile.quantization.operators import possible
from edgecompile.quantization.schemes import FLOAT16, STATIC_INT8, STATIC_INT16, is_static
from edgecompile.quantization.search import FEWEST, Found, Trial, fewest_kept
from edgecompile.quantization.sensitivity import output_snr
from edgecompile.stages.base import REPRESENTATIVE, Context, Outcome, Progress, require
from edgecompile.stages.evaluate import check_finite, samples
from edgecompile.task import AUTOENCODER, Arrays, Metric
from edgecompile.tflite_file import TfliteModel
from edgecompile.units import format_size

# What an operator that isn't given the scheme has instead, by the scheme.
FALLBACKS: Mapping[str, Mapping[str, str]] = {
    "float": dict.fromkeys(SCHEMES, FLOAT),
    "float16": {name: FLOAT16 for name in SCHEMES if name != FLOAT16},
    "int16": {STATIC_INT8: STATIC_INT16},
    "int8": {
        "dynamic_wi4_afp32": "dynamic_wi8_afp32",
        "dynamic_wi4b32_afp32": "dynamic_wi8_afp32",
        "dynamic_wi4b64_afp32": "dynamic_wi8_afp32",
        "weight_only_wi4_afp32": "weight_only_wi8_afp32",
    },
}
_ROWS = 12  # of the table that a build prints
_NAMES = 8  # of operators in a note


@dataclass(frozen=True)
class MixedPrecision:
    """scheme: what most operators get, as for `quantize`.
    fallback: what operators that stay have. "float"; "float16" (float arithmetic, weights stored in half the bytes);
    "int16" (activations, for scheme static_wi8_ai8: no bytes more, but LiteRT has no fast int16 convolutions: on
    x86-64 they took 25 times as long as int8 ones); "int8" (for 4-bit schemes).
    max_drop: of the validation metric against the float model, in percentage points for metrics in [0, 1], else in
    relative percent (compare.metric_drop).
    margin: standard errors of the drop (over validation samples, paired) that must fit below max_drop too. With 0 a
    small validation split lets luck choose: a MobileNetV2 that had lost nothing on 200 images lost 2 points on 200
    others. It counts for metrics that are means over samples, and is 0 for all others.
    samples, ranges: calibration, as for `quantize`. probes: how many of these samples rank the operators.
    evaluations: how many quantized models may be tried on the validation split.

    Operators are ranked by the output's error when each alone is quantized (quantization/sensitivity.py); how many of
    the worst stay is found by bisection on the validation metric, and some are then given up again
    (quantization/search.py). A tensor is only kept from int8 where what makes it and what reads it both stay.

    metrics: bytes, kept, operators, drop, baseline, evaluations, `sensitivity` (a row an operator) and `trials`.
    CompressionGateError where the drop can't be held, or only with every operator kept.
    """

    name: ClassVar[str] = "mixed-precision"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = True
    tensorflow: ClassVar[bool] = False
    needs: ClassVar[str] = REPRESENTATIVE
    uses: ClassVar[frozenset[str]] = frozenset({"task", "io"})

    scheme: str = STATIC_INT8
    fallback: str = "float"
    max_drop: float = 0.5
    margin: float = 0.0
    samples: int = 500
    ranges: str = MIN_MAX
    probes: int = 16
    evaluations: int = 12

    def __post_init__(self) -> None:
        schemes = [name for name in SCHEMES if name != FLOAT16]
        fits = self.fallback in FALLBACKS and self.scheme in FALLBACKS[self.fallback]
        possible = [name for name, schemes_ in FALLBACKS.items() if self.scheme in schemes_]
        require(
            self.name,
            scheme=(self.scheme, self.scheme in schemes, f"one of {', '.join(schemes)}"),
            fallback=(self.fallback, fits, f"one of {', '.join(possible)} for scheme {self.scheme}"),
            max_drop=(self.max_drop, 0 <= self.max_drop < math.inf, "0 or more"),
            margin=(self.margin, 0 <= self.margin < math.inf, "0 or more"),
            samples=(self.samples, self.samples >= 1, "1 or more"),
            ranges=(self.ranges, self.ranges in RANGES, " or ".join(map(repr, RANGES))),
            probes=(self.probes, self.probes >= 1, "1 or more"),
            evaluations=(self.evaluations, self.evaluations >= FEWEST, f"{FEWEST} or more"),
        )

    @property
    def static(self) -> bool:
        return is_static(self.scheme)

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        trials = _Trials(self, artifact, ctx)
        found = fewest_kept(trials.ranking, trials.cost, trials.evaluate, self.max_drop, self.evaluations, self.margin)
        if found.best is None:
            raise trials.refusal(found)
        result = trials.make(found.best.kept)
        if self.fallback == "float" and not any(p.weight_bytes for p in trials.left(found.best.kept)):
            raise CompressionGateError(
                f"{self.name}: a drop of {trials.judge.text(self.max_drop)} is held only with every weight in float",
                hint="a larger max_drop, or quantization-aware training",
            )
        rows = trials.rows(found.best.kept)
        for line in _table(rows, self.fallback):
            ctx.say(line)
        kept = trials.named(found.best.kept)
        record = {
            "bytes": found.best.size,
            "kept": [place.label for place in kept],
            "operators": len(trials.quantized),
            "baseline": trials.judge.baseline,
            "drop": found.best.drop,
            "drop_unit": trials.judge.unit,
            "evaluations": len(found.trials),
            "sensitivity": rows,
            "trials": [
                {"kept": len(t.kept), "value": t.value, "drop": t.drop, "error": t.error, "bytes": t.size}
                for t in found.trials
            ],
        }
        return Outcome(TFLITE, {"model": trials.path}, result.signature, record, trials.notes(found, kept))


class _Trials:
    """A float model, and what it comes to with some operators kept. Operators go by their number in `quantized`."""

    def __init__(self, stage: MixedPrecision, artifact: Artifact, ctx: Context) -> None:
        self._stage, self._ctx = stage, ctx
        self.judge = _Judge(artifact, ctx)
        self.path = ctx.out / "model.tflite"
        self._model = FloatModel(artifact.model)
        self._samples = draw(ctx, artifact.signature, max(stage.samples, stage.probes))
        if stage.static:
            self._model.calibrate(self._samples[: stage.samples], stage.ranges, ctx)
        self.quantized = [p for p in self._model.places if possible(p, stage.scheme)]
        others = [_fallback(place, FALLBACKS[stage.fallback][stage.scheme]) for place in self.quantized]
        self._others = {number: other for number, other in enumerate(others) if other is not None}
        self.cost = {number: self.quantized[number].weight_bytes for number in self._others}
        self._snr: dict[Place, float] = {}

    def make(self, kept: frozenset[int]) -> TfliteModel:
        """The model with these operators kept, at `path`; CompressionGateError where it isn't as asked."""
        chosen = {self.quantized[number]: self._others[number] for number in kept}
        result = self._model.quantize(self._stage.scheme, self._ctx.io, chosen, self.path)
        wrong = deviations(self._model.file, result, dict.fromkeys(self.quantized, self._stage.scheme) | chosen)
        if wrong:
            what = ", ".join(f"{d.label}: {d.asked} was asked, received {d.found}" for d in wrong)
            raise CompressionGateError(f"the quantizer gave operators another type than was asked for: {what}")
        return result

    def evaluate(self, kept: frozenset[int]) -> Trial:
        self.make(kept)
        size = self.path.stat().st_size
        value, drop, error = self.judge(self.path)
        self._ctx.say(
            f"{len(kept)} of {len(self.quantized)} operators in {self._stage.fallback}: validation "
            f"{self.judge.metric.name} {value:.4f}, drop {self.judge.text(drop)}, {format_size(size)}"
        )
        return Trial(kept, value, drop, error, size)

    def ranking(self) -> list[int]:
        """The most sensitive first; measured when it is asked for."""
        self._snr = output_snr(
            self._model,
            self._stage.scheme,
            self.quantized,
            self._samples[: self._stage.probes],
            self._ctx.work,
            lambda done, total: self._ctx.report(Progress("sensitivity", done, total)),
        )
        return sorted(self._others, key=lambda number: (self._snr[self.quantized[number]], number))

    def named(self, kept: frozenset[int]) -> list[Place]:
        return [self.quantized[number] for number in sorted(kept)]

    def left(self, kept: frozenset[int]) -> list[Place]:
        """What isn't kept, and so has the scheme."""
        return [place for number, place in enumerate(self.quantized) if number not in kept]

    def rows(self, kept: frozenset[int]) -> list[dict[str, Any]]:
        """The table of operators, the most sensitive first. JSON has no infinity: null is an output unchanged, or
        beyond all numbers (`finite` tells which). Empty where nothing had to be ranked."""
        order = sorted(range(len(self.quantized)), key=lambda n: (self._snr.get(self.quantized[n], 0.0), n))
        return [
            {
                "index": place.index,
                "operator": place.name,
                "tensor": place.tensor,
                "snr_db": round(self._snr[place], 2) if math.isfinite(self._snr[place]) else None,
                "finite": self._snr[place] > -math.inf,
                "weight_bytes": place.weight_bytes,
                "kept": number in kept,
            }
            for number, place in ((n, self.quantized[n]) for n in order)
            if place in self._snr
        ]

    def notes(self, found: Found, kept: Sequence[Place]) -> tuple[str, ...]:
        stage, count = self._stage, len(found.trials)
        tries = f"{count} evaluation{'s' if count > 1 else ''} on {self.judge.samples} validation samples"
        if not kept:
            return (f"no operator has to stay in {stage.fallback} to hold {self.judge.text(stage.max_drop)} ({tries})",)
        notes = [
            f"{len(kept)} of {len(self.quantized)} operators stay in {stage.fallback} to hold "
            f"{self.judge.text(stage.max_drop)} ({tries}): {_listed(kept)}"
        ]
        if 2 * len(kept) > len(self.quantized):
            notes.append("more than half of the operators stay: quantization-aware training may serve better")
        if stuck := self._stuck():
            notes.append(f"{stage.fallback} can't be had for {_listed(stuck)}")
        return tuple(notes)

    def refusal(self, found: Found) -> CompressionGateError:
        """Why no trial was good enough."""
        last, stuck = found.trials[-1], self._stuck()
        without = f"; {self._stage.fallback} can't be had for {_listed(stuck)}" if stuck else ""
        return CompressionGateError(
            f"{self._stage.name}: validation {self.judge.metric.name} drops by {self.judge.text(last.drop)} with "
            f"{len(last.kept)} of {len(self.quantized)} operators in {self._stage.fallback}, at most "
            f"{self.judge.text(self._stage.max_drop)} was asked{without}",
            hint="fallback = 'float', a larger max_drop, or quantization-aware training",
        )

    def _stuck(self) -> list[Place]:
        return [place for number, place in enumerate(self.quantized) if number not in self._others]


class _Judge:
    """The validation metric of a .tflite, and its drop against the float model. DataError without such a metric."""

    def __init__(self, artifact: Artifact, ctx: Context) -> None:
        task = ctx.require_task()
        _, held = task.split(ctx.seed)
        metric = metrics.mse if task.kind == AUTOENCODER else task.metric
        labels = task.kind == AUTOENCODER or held.y is not None
        if metric is None or not labels or not len(held):
            raise DataError(
                f"mixed precision is chosen by a metric, and task {task.name!r} has no labelled training samples to "
                "take it on",
                hint="give --data with x_train and y_train, or take recipe int8",
            )
        self.metric: Metric = metric
        self.samples = len(held)
        self._x = samples(held, artifact.signature)
        self._y = held.y or dict(zip([t.name for t in artifact.signature.outputs], self._x.values(), strict=True))
        self._before = self._outputs(artifact.model)
        check_finite(self._before, "the float model's outputs on validation samples")
        self.baseline = metric.score(self._y, self._before, self._x)
        self._task = task
        self._own = per_output.scores(task, self._y, self._before, self._x)

    def __call__(self, path: Path) -> tuple[float, float, float]:
        """(metric, drop, standard error of the drop); the drop of what isn't a number is infinite."""
        after = self._outputs(path)
        value = self.metric.score(self._y, after, self._x)
        if not math.isfinite(value):
            return value, math.inf, 0.0
        drop = compare.metric_drop(self.metric, self.baseline, value)
        return value, max(drop, self._worst_output(after)), self._error(after)

    def _worst_output(self, after: Arrays) -> float:
        own = per_output.scores(self._task, self._y, after, self._x)
        return per_output.worst_drop(self._task.metrics, self._own, own)

    def _error(self, after: Arrays) -> float:
        each = self.metric.per_sample
        if each is None:
            return 0.0
        differences = np.asarray(each(self._y, self._before, self._x)) - np.asarray(each(self._y, after, self._x))
        error = 100 * float(differences.std()) / math.sqrt(differences.size)
        return error if self.unit == "points" else error / abs(self.baseline or 1.0)

    def _outputs(self, path: Path) -> Arrays:
        return LiteRtRunner(path, threads=2).run_real(self._x)

    @property
    def unit(self) -> str:
        return "points" if compare.drops_in_points(self.metric, self.baseline, self.baseline) else "%"

    def text(self, drop: float) -> str:
        return f"{drop:.2f} points" if self.unit == "points" else f"{drop:.2f}%"


def _fallback(place: Place, scheme: str) -> str | None:
    """What the operator has when it stays, None where the quantizer can't give it that."""
    if possible(place, scheme):
        return scheme
    return FLOAT if scheme == FLOAT16 else None  # nothing there to store in half the bytes


def _listed(places: Sequence[Place]) -> str:
    names = ", ".join(place.label for place in places[:_NAMES])
    return f"{names} and {len(places) - _NAMES} more" if len(places) > _NAMES else names


def _table(rows: Sequence[Mapping[str, Any]], fallback: str) -> list[str]:
    """Lines for the console: the most sensitive operators."""
    if not rows:
        return []
    width = max(len(f"{row['operator']} #{row['index']}") for row in rows[:_ROWS])
    lines = [f"{'operator':{width}}  SNR alone  weights    precision  tensor"]
    for row in rows[:_ROWS]:
        snr = f"{row['snr_db']:.1f} dB" if row["snr_db"] is not None else "unchanged" if row["finite"] else "not finite"
        tensor = row["tensor"].split(";")[0]
        lines.append(
            f"{row['operator'] + ' #' + str(row['index']):{width}}  {snr:>9}  {format_size(row['weight_bytes']):9}  "
            f"{fallback if row['kept'] else 'quantized':9}  {tensor[-40:]}"
        )
    if len(rows) > _ROWS:
        rest = rows[_ROWS:]
        lines.append(f"and {len(rest)} more operators, {sum(row['kept'] for row in rest)} of them in {fallback}")
    return lines
