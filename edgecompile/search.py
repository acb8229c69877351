"""Looking for a better model than the plain one, on the validation split: recipe `auto`, and a build without --recipe.

`auto` looks for the smallest model. Each axis (channels, rank, sparsity) is a share of the model that is kept. It is
bisected from its most aggressive value back, the axes before it held at the best that was found; where drops are known
on both sides, the interval is divided in proportion to them (regula falsi). Where not even the plain int8 model keeps
the budget, precision is walked back: some operators in float, then float16 weights.

A build without --recipe makes the target's first choice first, which is then the one to beat by what the target
prefers: by mixed precision and training in int8 where integers lost too much, then by the same axes. What can't be made
or loses is named, and costs its share of the time and nothing else.

The test set isn't touched: it judges the final choice, once, as for any recipe.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile.artifact import Artifact
from edgecompile.errors import AccuracyGateError, DiskFullError, EdgecompileError, OutputError
from edgecompile.search_space import FLOAT16, INT8, MIXED, PLAINER, QAT, SPARSITY, Search, Settings, steps_of
from edgecompile.stages.base import Stage
from edgecompile.stages.qat import Qat
from edgecompile.target import ACCURACY, LATENCY, SIZE

_LEAST = {"channels": 0.1, "rank": 0.3, "sparsity": 0.1}  # of the MACs, of the parameters, of the weights
_NEAR = 1.07  # two settings whose ratio is less than this are one
_FURTHEST = 0.9  # of an interval, on a logarithmic scale, that one step crosses: drops are no straight line

# Training in int8 that follows was seen to win back 1 to 1.5 points of the validation metric.
_WON_BACK = 3.0

_SAME_LATENCY = 0.03  # as between engines (pipeline.select): the next run may turn around what is less
_SAME_DROP = 0.1  # points, or percent


@dataclass(frozen=True)
class Trial:
    """drop: of the validation metric against the float model, as --max-drop counts it; None where no model came of
    it, for which `reason` says why. A trial that was given up half-way has a reason, a drop so far and no bytes; one
    that is no better than another has a reason too. bytes: of the file, or of its packed form where one was asked for.
    latency: as a share of the first model's, found as latency_label says; None where it wasn't asked for. minutes: its
    share of the time."""

    settings: Settings
    accepted: bool
    validation: float | None = None
    drop: float | None = None
    bytes: int | None = None
    seconds: float = 0.0
    reason: str = ""
    minutes: float | None = None
    latency: float | None = None
    latency_label: str | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Judge:
    """What a search needs to know of the world. run: the artifacts of these stages on the source, one by one, within
    so many minutes, None: however long it takes. share: the minutes of a trial when so many are left, itself included.
    drop: of a validation metric against the float model's. worst_output: the same of the worst output, of {output: its
    own metric}. size: bytes of a finished artifact. limit: the largest drop.

    prefers: what makes a model better; the first that differs decides.
    latency: (of a finished artifact as a share of another one's, how it was found). blind: (how far off the drop of an
    artifact may be, why too far for anything to be chosen by it, "" where it isn't). scarce: why the data is too little
    to train the network with, "" where it isn't.
    """

    run: Callable[[tuple[Stage, ...], float | None], Iterable[Artifact]]
    share: Callable[[int], float | None]
    drop: Callable[[float], float]
    size: Callable[[Artifact], int]
    say: Callable[[str], None]
    limit: float
    prefers: tuple[str, ...] = (SIZE, ACCURACY)
    latency: Callable[[Artifact, Artifact], tuple[float, str]] | None = None
    blind: Callable[[Artifact], tuple[float, str]] = lambda _: (0.0, "")
    worst_output: Callable[[Mapping[str, float]], float] = lambda _: -math.inf
    scarce: str = ""

    def drop_of(self, metrics: Mapping[str, Any]) -> float:
        """The largest of all drops, of a stage's metrics: each output has to keep to the limit; 0 without any."""
        if "validation" not in metrics:
            return 0.0
        return max(self.drop(metrics["validation"]), self.worst_output(metrics.get("validation_outputs", {})))


@dataclass(frozen=True)
class Found:
    """limit: the largest drop of the validation metric that a trial was allowed. minutes: what the chosen one had.
    first: the steps of the model that was to beat, where there was one. untrained: why nothing was trained, where
    training was possible."""

    steps: tuple[Stage, ...]
    chosen: Settings
    trials: tuple[Trial, ...]
    limit: float
    minutes: float | None
    first: tuple[Stage, ...] = ()
    untrained: str = ""


def search(
    config: Search, judge: Judge, *, trains: bool, packed: bool, integer: bool, first: str | None = None
) -> Found:
    """The best accepted trial, by what the judge prefers.

    trains: whether the source can be trained; without, precision alone is searched. packed: whether it is the packed
    form that counts. integer: whether only int8 models will do. first: the precision of the model to beat, for a recipe
    that begins with one.

    Errors: AccuracyGateError where no trial keeps the budget; where no model to beat can be made, why the first can't.
    """
    looking = _Looking(config, judge, packed=packed, integer=integer)
    if first is None:
        looking.smallest(QAT if trains else INT8, trains=trains)
        return looking.found()
    untrained = looking.first(first, trains=trains)
    return looking.found(untrained)


class _Looking:
    """One search: all trials so far, the best of them, and the model to beat."""

    def __init__(self, config: Search, judge: Judge, *, packed: bool, integer: bool) -> None:
        self._config, self._judge, self._integer = config, judge, integer
        self._axes = [axis for axis in config.axes if axis != SPARSITY or packed]
        self._trials: list[Trial] = []
        self._plain: tuple[Trial, Artifact] | None = None  # what latencies are a share of
        self._bounded = 0  # trials that had a share of the time
        self._vain = 0  # trials in a row that gained nothing
        self.best: Trial | None = None

    # -- recipe auto

    def smallest(self, precision: str, *, trains: bool) -> None:
        if trains:
            # One evaluation is kept back for the plain model, should nothing else be accepted.
            self._along_axes(Settings(precision=precision), self._config.evaluations - 1)
        if self.best is None:
            for plainer in (precision,) if self._integer else (precision, MIXED, FLOAT16):
                if self._attempt(Settings(precision=plainer)).accepted:
                    break

    # -- a build without --recipe

    def first(self, precision: str, *, trains: bool) -> str:
        """Make the model to beat and try to; why nothing was trained."""
        blind = self._first_model(precision)
        untrained = blind or (self._judge.scarce if trains else "")
        if untrained:
            self._judge.say(f"nothing is trained: {untrained}")
        trains = trains and not untrained
        if blind:
            return untrained
        for settings in self._other_precisions(precision, trains=trains):
            if not self._ended():
                self._attempt(settings)
        axes = self._judge.prefers[0] != ACCURACY and self.best is not None
        if trains and axes and not self._ended():
            assert self.best is not None
            self._along_axes(self.best.settings, self._config.evaluations)
        return untrained

    def _first_model(self, precision: str) -> str:
        """Find the model to beat; why what is judged on validation can't be told from luck, "" where it can."""
        refused: EdgecompileError | None = None
        blind = ""
        for plainer in (precision, *(() if self._integer else PLAINER[precision])):
            trial, artifact, problem = self._run(Settings(precision=plainer), None)
            refused = refused or problem
            if artifact is None:
                self._trials.append(trial)
                continue
            assert trial.drop is not None
            off, blind = self._judge.blind(artifact)
            if blind and not trial.accepted and trial.drop - off <= self._judge.limit:
                trial = dataclasses.replace(trial, accepted=True, reason="its drop can't be told from luck")
            self._trials.append(trial)
            self._plain = (trial, artifact)
            if trial.accepted:
                self.best = trial
                return blind
        if self._plain is None:
            assert refused is not None
            raise refused
        return blind

    def _other_precisions(self, first: str, *, trains: bool) -> Iterator[Settings]:
        """Those that may beat the model to beat: where integers lost too much, and where accuracy is what counts."""
        lost = self.best is None or self.best.settings.precision != first
        inexact = self.best is not None and (self.best.drop or 0.0) > _SAME_DROP
        if first != INT8 or not (lost or (self._judge.prefers[0] == ACCURACY and inexact)):
            return
        if not self._integer:
            yield Settings(precision=MIXED)
        if trains:
            yield Settings(precision=QAT)

    # -- both

    def found(self, untrained: str = "") -> Found:
        if self.best is None:
            least = min((t.drop for t in self._trials if t.drop is not None), default=math.nan)
            raise AccuracyGateError(
                f"none of {len(self._trials)} trials keeps the budget: the least drop of the validation metric was "
                f"{least:.2f}, at most {self._judge.limit:.2f} was allowed ({self._config.margin:.0%} of --max-drop)",
                hint="raise --max-drop or --budget-minutes",
            )
        first = self._steps(self._plain[0].settings) if self._plain and self._plain[0].accepted else ()
        best = self.best
        return Found(
            self._steps(best.settings),
            best.settings,
            tuple(self._trials),
            self._judge.limit,
            best.minutes,
            first,
            untrained,
        )

    def _along_axes(self, whole: Settings, evaluations: int) -> None:
        for left, axis in zip(range(len(self._axes), 0, -1), self._axes, strict=True):
            whole = self._bisect(axis, whole, math.ceil((evaluations - self._bounded) / left))

    def _bisect(self, axis: str, best: Settings, evaluations: int) -> Settings:
        """`best` with the axis at the least share that was accepted.

        Shares are divided on a logarithmic scale, by how far the drops at both ends are from the limit, and in the
        middle where one isn't known. The far end counts half each time the near one moved twice in a row: the Illinois
        variant of regula falsi (Dowell and Jarratt, 1971), which a drop that is no straight line doesn't slow down.
        """
        limit = self._judge.limit
        low, high = max(_LEAST[axis], self._config.least), 1.0
        below: float | None = None  # how much more than the limit the drop at `low` is
        above = -limit  # and less, at `high`: nothing is lost by a model that is whole
        moved = ""
        for _ in range(evaluations):
            if high / low < _NEAR**2 or self._ended():
                break
            share = 0.5 if below is None else min(max(below / (below - above), 1 - _FURTHEST), _FURTHEST)
            middle = round(min(max(low ** (1 - share) * high**share, low * _NEAR), high / _NEAR), 3)
            trial = self._attempt(best.with_share(axis, middle))
            if trial is self.best:
                high = middle
                above = min(trial.drop or 0.0, limit) - limit
                if moved == "high" and below is not None:
                    below /= 2
                moved = "high"
            else:
                low = middle
                below = None if trial.drop is None or trial.accepted else trial.drop - limit
                if moved == "low":
                    above /= 2
                moved = "low"
        return best.with_share(axis, high)

    def _ended(self) -> bool:
        """Whether the patience is over, for a recipe that has a model to beat."""
        if self._plain is None:
            return False
        return self._bounded >= self._config.evaluations or 0 < self._config.patience <= self._vain

    def _attempt(self, settings: Settings) -> Trial:
        """The trial of these settings, which is `best` from then on if it is better."""
        known = next((t for t in self._trials if t.settings == settings), None)
        if known is not None:
            return known
        minutes = self._judge.share(max(1, self._config.evaluations - self._bounded))
        self._bounded += 1
        trial, artifact, _ = self._run(settings, minutes)
        if artifact is not None and trial.accepted:
            trial = self._beside_plain(trial, artifact)
        if trial.accepted and (reason := self._loses(trial)):
            trial = dataclasses.replace(trial, reason=reason)
        self._trials.append(trial)
        if trial.accepted and not trial.reason:
            self.best, self._vain = trial, 0
        else:
            self._vain += 1
        return trial

    def _loses(self, trial: Trial) -> str:
        """Why an accepted trial isn't the best; "" where it is."""
        if self.best is not None and not better(trial, self.best, self._judge.prefers):
            return f"no better than {self.best.settings.words()}"
        plain = self._plain[0] if self._plain else None
        if plain is not None and plain.accepted and _gain(SIZE, trial, plain) < 0 and _gain(LATENCY, trial, plain) < 0:
            return f"larger and slower than {plain.settings.words()}"
        return ""

    def _beside_plain(self, trial: Trial, artifact: Artifact) -> Trial:
        """With its latency, for a recipe that has a model to beat."""
        if self._plain is None or self._judge.latency is None:
            return trial
        latency, label = self._judge.latency(artifact, self._plain[1])
        self._judge.say(f"trial {len(self._trials) + 1}: {latency:.2f} of the first model's latency ({label})")
        return dataclasses.replace(trial, latency=latency, latency_label=label)

    def _steps(self, settings: Settings) -> tuple[Stage, ...]:
        return steps_of(settings, self._config, limit=self._judge.limit)

    def _run(self, settings: Settings, minutes: float | None) -> tuple[Trial, Artifact | None, EdgecompileError | None]:
        """(the trial, what it made, why nothing came of it)."""
        judge, number = self._judge, len(self._trials) + 1
        judge.say(f"trial {number}: {settings.words()}")
        steps = self._steps(settings)
        made: list[Artifact] = []
        reason = ""
        problem: EdgecompileError | None = None
        try:
            for artifact in judge.run(steps, minutes):
                made.append(artifact)
                if reason := _hopeless(artifact, steps, judge):
                    break
        except (DiskFullError, OutputError):
            raise  # no other trial would fare better
        except EdgecompileError as error:
            problem = error
        seconds = round(sum(artifact.history[-1].seconds for artifact in made), 1)
        if problem is not None:
            judge.say(f"trial {number}: can't be made: {problem.message}")
            failed = Trial(settings, accepted=False, seconds=seconds, reason=problem.message, minutes=minutes)
            return failed, None, problem
        judged = next((r.metrics for r in reversed(made[-1].history) if "validation" in r.metrics), {})
        value, drop = judged.get("validation"), judge.drop_of(judged)  # none for a source that stays as it is
        if reason:
            judge.say(f"trial {number}: given up: {reason}")
            return Trial(settings, False, value, drop, None, seconds, reason, minutes), None, None
        size = judge.size(made[-1])
        accepted = drop <= judge.limit
        judge.say(
            f"trial {number}: validation drop {drop:.2f} of {judge.limit:.2f} allowed, {size:,} B: "
            f"{'accepted' if accepted else 'too much'}"
        )
        return Trial(settings, accepted, value, drop, size, seconds, minutes=minutes), made[-1], None


def better(trial: Trial, best: Trial, prefers: Sequence[str]) -> bool:
    """Whether an accepted trial beats the best so far: the first of `prefers` in which they differ decides."""
    for name in prefers:
        gain = _gain(name, trial, best)
        if gain:
            return gain > 0
    return False


def _gain(name: str, trial: Trial, best: Trial) -> float:
    """Above 0 where the trial is better in this, 0 where there is no difference to speak of."""
    if name == SIZE:
        return (best.bytes or 0) - (trial.bytes or 0)
    if name == ACCURACY:
        gain = (best.drop or 0.0) - (trial.drop or 0.0)
        return gain if abs(gain) > _SAME_DROP else 0.0
    # One without is the first model, of whose latency all others are a share.
    after, before = (1.0 if each.latency is None else each.latency for each in (trial, best))
    return 0.0 if abs(after - before) <= _SAME_LATENCY * before else before - after


def _hopeless(artifact: Artifact, steps: Sequence[Stage], judge: Judge) -> str:
    """Why training in int8 after this stage would be time lost; "" where it wouldn't."""
    record = artifact.history[-1]
    stages = [step.name for step in steps]
    if record.stage not in stages[:-1] or Qat.name not in stages[stages.index(record.stage) + 1 :]:
        return ""
    drop = judge.drop_of(record.metrics)
    if drop <= judge.limit + _WON_BACK:
        return ""
    return f"validation drop {drop:.2f} after {record.stage}, {judge.limit:.2f} allowed"
