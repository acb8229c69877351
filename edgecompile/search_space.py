"""What a search may try: its settings in a recipe's [search] table, and the stages of one trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
# Precisions of the result. "qat" is int8, too, by training; all others are given after training.
INT8, QAT, MIXED, FLOAT16, DYNAMIC, FLOAT = ("int8", "qat", "mixed", "float16", "dynamic", "float")
# Of each precision that a search may begin with, what is taken where it loses too much.
PLAINER = {INT8: (FLOAT16, FLOAT), DYNAMIC: (FLOAT16, FLOAT), FLOAT16: (FLOAT,), FLOAT: ()}
_SCHEMES = {INT8: "static_wi8_ai8", DYNAMIC: "dynamic_wi8_afp32", FLOAT16: "float16"}


@dataclass(frozen=True)
class Search:
    """The [search] table of a recipe.

    first: whether the target's first choice is made before anything else, and is the one to beat by what the target
        prefers; without, the smallest model is looked for.
    axes: of "channels", "rank" and "sparsity", in the order tried. Sparsity shrinks the packed form alone, so it is
        tried where --pack asks for one.
    evaluations: how many models are trained and judged at most; each has an equal share of what is left of
        --budget-minutes. Where none of them keeps the budget, up to two more are judged that aren't trained.
    margin: share of --max-drop that the validation metric may use: what was chosen for being good there is a little
        worse elsewhere.
    least: the share of its axis that a trial keeps at least; 0: as far as the axis goes.
    patience: how many trials in a row may gain nothing before the search ends; 0: as many as there are.
    epochs, learning_rate: of the training after channels or ranks were cut; qat_epochs: of the training in int8.
    steps: how many of the optimizer's steps the epochs come to at least, by several passes over a small training set.
    distillation: of both, from the float model.
    """

    first: bool = False
    axes: tuple[str, ...] = AXES
    evaluations: int = 6
    margin: float = 0.6
    patience: int = 0
    least: float = 0.0
    steps: int = 0
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
            patience=(self.patience, self.patience >= 0, "0 or more"),
            least=(self.least, 0 <= self.least < 1, "a share from 0, less than 1"),
            steps=(self.steps, self.steps >= 0, "0 or more"),
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


def steps_of(settings: Settings, config: Search, *, limit: float) -> tuple[Stage, ...]:
    """The stages of a trial, as a recipe would list them. limit: the largest drop of the validation metric."""
    return tuple(_steps(settings, config, limit))


def _steps(settings: Settings, config: Search, limit: float) -> Iterator[Stage]:
    cut: dict[str, Any] = {
        "epochs": config.epochs,
        "steps": config.steps,
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
    if settings.precision == QAT:
        yield Qat(
            epochs=config.qat_epochs,
            steps=config.steps * config.qat_epochs // config.epochs,
            batch_size=config.batch_size,
            preserve_sparsity=settings.sparsity < 1,
            freeze_batchnorm=0.5,
            distillation=config.distillation,
        )
    yield Convert()
    if settings.precision == MIXED:
        yield MixedPrecision(scheme=_SCHEMES[INT8], max_drop=limit, margin=0.0)
    elif settings.precision in _SCHEMES:
        yield Quantize(scheme=_SCHEMES[settings.precision])
