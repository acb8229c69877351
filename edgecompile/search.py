"""Recipe `auto`: the smallest model that keeps --max-drop, found by trying settings on the validation split.

Each axis (channels, rank, sparsity) is a share of the model that is kept. It is bisected from its most aggressive
value back, the axes before it held at the best that was found; where drops are known on both sides, the interval is
divided in proportion to them (regula falsi). Where not even the plain int8 model keeps the budget, precision is walked
back: some operators in float, then float16 weights. The test set isn't touched: it judges the final choice, once, as
for any recipe.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile.artifact import Artifact
from edgecompile.errors import (
    AccuracyGateError,
    BudgetError,
    CompressionGateError,
    ConversionError,
    NonFiniteError,
    UnsupportedLayerError,
)
from edgecompile.stages.base import Stage, require
from edgecompile.stages.convert import Convert
from edgecompile.stages.factorize import Factorize
from edgecompile.stages.mixed import MixedPrecision
from edgecompile.stages.prune import Prune
from edgecompile.stages.prune_channels import PruneChannels
from edgecompile.stages.qat import Qat
from edgecompile.stages.quantize import Quantize
from edgecompile.training import Distillation

CHANNELS, RANK, SPARSITY = AXES = ("channels", "rank", "sparsity")
_LEAST = {CHANNELS: 0.1, RANK: 0.3, SPARSITY: 0.1}  # of the MACs, of the parameters, of the weights
_NEAR = 1.07  # two settings whose ratio is less than this are one
_FURTHEST = 0.9  # of an interval, on a logarithmic scale, that one step crosses: drops are no straight line

# Training in int8 that follows was seen to win back 1 to 1.5 points of the validation metric.
_WON_BACK = 3.0

# What one trial can't do, another may: post-training quantization takes layers that training in int8 refuses.
_UNMADE = (BudgetError, CompressionGateError, ConversionError, NonFiniteError, UnsupportedLayerError)

INT8, MIXED, FLOAT16 = "int8", "mixed", "float16"


@dataclass(frozen=True)
class Search:
    """The [search] table of a recipe.

    axes: of "channels", "rank" and "sparsity", in the order tried. Sparsity shrinks the packed form alone, so it is
        tried where --pack asks for one.
    evaluations: how many models are trained and judged at most; each has an equal share of what is left of
        --budget-minutes. Where none of them keeps the budget, up to two more are judged that aren't trained.
    margin: share of --max-drop that the validation metric may use: what was chosen for being good there is a little
        worse elsewhere.
    epochs, learning_rate: of the training after channels or ranks were cut; qat_epochs: of the training in int8.
    distillation: of both, from the float model.
    """

    axes: tuple[str, ...] = AXES
    evaluations: int = 6
    margin: float = 0.6
    epochs: int = 12
    learning_rate: float = 0.001
    qat_epochs: int = 4
    batch_size: int = 64
    distillation: Distillation = dataclasses.field(default_factory=Distillation)

    def __post_init__(self) -> None:
        require(
            "search",
            axes=(
                self.axes,
                set(self.axes) <= set(AXES) and len(set(self.axes)) == len(self.axes),
                f"some of {', '.join(AXES)}, each once",
            ),
            evaluations=(self.evaluations, self.evaluations >= 2, "2 or more"),
            margin=(self.margin, 0 < self.margin <= 1, "a share above 0, at most 1"),
            epochs=(self.epochs, self.epochs >= 1, "1 or more"),
            qat_epochs=(self.qat_epochs, self.qat_epochs >= 1, "1 or more"),
            batch_size=(self.batch_size, self.batch_size >= 1, "1 or more"),
            learning_rate=(self.learning_rate, 0 < self.learning_rate < 10, "a number above 0"),
        )


@dataclass(frozen=True)
class Settings:
    """What a trial does: shares that are kept (1: all), and the precision of the result."""

    channels: float = 1.0
    rank: float = 1.0
    sparsity: float = 1.0
    precision: str = INT8

    def with_share(self, axis: str, share: float) -> Settings:
        changes: dict[str, Any] = {axis: share}
        return dataclasses.replace(self, **changes)

    def words(self) -> str:
        """For people: "channels 0.32, int8"."""
        shares = [f"{axis} {getattr(self, axis):.2f}" for axis in AXES if getattr(self, axis) < 1]
        return ", ".join([*shares, self.precision])


@dataclass(frozen=True)
class Trial:
    """drop: of the validation metric against the float model, as --max-drop counts it; None where no model came of
    it, for which `reason` says why. A trial that was given up half-way has a reason, a drop so far and no bytes. bytes:
    of the file, or of its packed form where one was asked for. minutes: its share of the time."""

    settings: Settings
    accepted: bool
    validation: float | None = None
    drop: float | None = None
    bytes: int | None = None
    seconds: float = 0.0
    reason: str = ""
    minutes: float | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Judge:
    """What a search needs to know of the world. run: the artifacts of these stages on the source, one by one, within
    so many minutes. share: the minutes of a trial when so many are left, itself included. drop: of a validation metric
    against the float model's. size: bytes of a finished artifact. limit: the largest drop."""

    run: Callable[[tuple[Stage, ...], float | None], Iterable[Artifact]]
    share: Callable[[int], float | None]
    drop: Callable[[float], float]
    size: Callable[[Artifact], int]
    say: Callable[[str], None]
    limit: float


@dataclass(frozen=True)
class Found:
    """limit: the largest drop of the validation metric that a trial was allowed. minutes: what the chosen one had."""

    steps: tuple[Stage, ...]
    chosen: Settings
    trials: tuple[Trial, ...]
    limit: float
    minutes: float | None


def search(config: Search, judge: Judge, *, trains: bool, packed: bool, integer: bool) -> Found:
    """The smallest accepted trial. trains: whether the source can be trained; without, precision alone is searched.
    packed: whether it is the packed form that counts. integer: whether only int8 models will do.

    Errors: AccuracyGateError where no trial keeps the budget.
    """
    trials: list[Trial] = []

    def attempt(settings: Settings) -> Trial:
        known = next((t for t in trials if t.settings == settings), None)
        if known is None:
            minutes = judge.share(max(1, config.evaluations - len(trials)))
            known = _attempt(len(trials) + 1, settings, config, judge, trains, minutes)
            trials.append(known)
        return known

    best = Settings()
    if trains:
        axes = [axis for axis in config.axes if axis != SPARSITY or packed]
        for left, axis in zip(range(len(axes), 0, -1), axes, strict=True):
            # One evaluation is kept back for the plain model, should nothing else be accepted.
            share = math.ceil((config.evaluations - 1 - len(trials)) / left)
            best = _bisect(axis, best, share, attempt, judge.limit)
    if not any(t.accepted for t in trials):
        for precision in (INT8,) if integer else (INT8, MIXED, FLOAT16):
            if attempt(Settings(precision=precision)).accepted:
                break
    accepted = [t for t in trials if t.accepted]
    if not accepted:
        least = min((t.drop for t in trials if t.drop is not None), default=math.nan)
        raise AccuracyGateError(
            f"auto: none of {len(trials)} trials keeps the budget: the least drop of the validation metric was "
            f"{least:.2f}, at most {judge.limit:.2f} was allowed ({config.margin:.0%} of --max-drop)",
            hint="raise --max-drop or --budget-minutes",
        )
    chosen = min(accepted, key=lambda t: (t.bytes, t.drop))
    steps = steps_of(chosen.settings, config, trains=trains, limit=judge.limit)
    return Found(steps, chosen.settings, tuple(trials), judge.limit, chosen.minutes)


def _bisect(
    axis: str, best: Settings, evaluations: int, attempt: Callable[[Settings], Trial], limit: float
) -> Settings:
    """`best` with the axis at the least share that was accepted.

    Shares are divided on a logarithmic scale, by how far the drops at both ends are from the limit, and in the middle
    where one isn't known. The far end counts half each time the near one moved twice in a row: the Illinois variant of
    regula falsi (Dowell and Jarratt, 1971), which a drop that is no straight line doesn't slow down.
    """
    low, high = _LEAST[axis], 1.0
    below: float | None = None  # how much more than the limit the drop at `low` is
    above = -limit  # and less, at `high`: nothing is lost by a model that is whole
    smallest: int | None = None
    moved = ""
    for _ in range(evaluations):
        if high / low < _NEAR**2:
            break
        share = 0.5 if below is None else min(max(below / (below - above), 1 - _FURTHEST), _FURTHEST)
        middle = round(min(max(low ** (1 - share) * high**share, low * _NEAR), high / _NEAR), 3)
        trial = attempt(best.with_share(axis, middle))
        if trial.accepted and (smallest is None or (trial.bytes or 0) < smallest):
            high, smallest = middle, trial.bytes
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


def _attempt(
    number: int, settings: Settings, config: Search, judge: Judge, trains: bool, minutes: float | None
) -> Trial:
    judge.say(f"trial {number}: {settings.words()}")
    steps = steps_of(settings, config, trains=trains, limit=judge.limit)
    made: list[Artifact] = []
    reason = unmade = ""
    try:
        for artifact in judge.run(steps, minutes):
            made.append(artifact)
            if reason := _hopeless(artifact, steps, judge):
                break
    except _UNMADE as problem:
        unmade = problem.message
    seconds = round(sum(artifact.history[-1].seconds for artifact in made), 1)
    if unmade:
        judge.say(f"trial {number}: can't be made: {unmade}")
        return Trial(settings, accepted=False, seconds=seconds, reason=unmade, minutes=minutes)
    value = next(r.metrics["validation"] for r in reversed(made[-1].history) if "validation" in r.metrics)
    drop = judge.drop(value)
    if reason:
        judge.say(f"trial {number}: given up: {reason}")
        return Trial(settings, False, value, drop, None, seconds, reason, minutes)
    size = judge.size(made[-1])
    accepted = drop <= judge.limit
    judge.say(
        f"trial {number}: validation drop {drop:.2f} of {judge.limit:.2f} allowed, {size:,} B: "
        f"{'accepted' if accepted else 'too much'}"
    )
    return Trial(settings, accepted, value, drop, size, seconds, minutes=minutes)


def _hopeless(artifact: Artifact, steps: Sequence[Stage], judge: Judge) -> str:
    """Why training in int8 after this stage would be time lost; "" where it wouldn't."""
    record = artifact.history[-1]
    stages = [step.name for step in steps]
    if record.stage not in stages[:-1] or Qat.name not in stages[stages.index(record.stage) + 1 :]:
        return ""
    drop = judge.drop(record.metrics["validation"]) if "validation" in record.metrics else 0.0
    if drop <= judge.limit + _WON_BACK:
        return ""
    return f"validation drop {drop:.2f} after {record.stage}, {judge.limit:.2f} allowed"


def steps_of(settings: Settings, config: Search, *, trains: bool, limit: float) -> tuple[Stage, ...]:
    """The stages of a trial, as a recipe would list them."""
    return tuple(_steps(settings, config, trains, limit))


def _steps(settings: Settings, config: Search, trains: bool, limit: float) -> Iterator[Stage]:
    cut: dict[str, Any] = {
        "epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "batch_size": config.batch_size,
        "distillation": config.distillation,
        "precision": "bfloat16",
    }
    if settings.channels < 1:
        yield PruneChannels(keep=settings.channels, round_to=4, min_channels=2, max_share=0.95, rounds=1, **cut)
    if settings.rank < 1:
        yield Factorize(budget="parameters", keep=settings.rank, **cut)
    if settings.sparsity < 1:
        yield Prune(sparsity=round(1 - settings.sparsity, 3), **cut)
    if settings.precision == INT8 and trains:
        yield Qat(
            epochs=config.qat_epochs,
            batch_size=config.batch_size,
            preserve_sparsity=settings.sparsity < 1,
            freeze_batchnorm=0.5,
            distillation=config.distillation,
        )
    yield Convert()
    if settings.precision == INT8 and not trains:
        yield Quantize(scheme="static_wi8_ai8")
    elif settings.precision == MIXED:
        yield MixedPrecision(scheme="static_wi8_ai8", max_drop=limit, margin=0.0)
    elif settings.precision == FLOAT16:
        yield Quantize(scheme="float16")
