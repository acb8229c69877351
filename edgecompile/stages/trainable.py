"""What the training stages share: a model TF-MOT takes, trained, and what the training did to its weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgecompile.artifact import Artifact, Signature
from edgecompile.errors import CompressionGateError, ModelError
from edgecompile.stages.base import TRAINING, Context
from edgecompile.task import Array
from edgecompile.training import Distillation, Hooks, Result, Schedule, Trainer


@dataclass(frozen=True, kw_only=True)
class TrainedStage:
    """The fields of every stage that trains, and what follows from them. They are those of `Schedule`."""

    judged: ClassVar[bool] = True
    tensorflow: ClassVar[bool] = True
    epoch_cost: ClassVar[float] = 1.0  # what an epoch takes, next to other stages' in the same build

    epochs: int = 8
    learning_rate: float = 0.001
    batch_size: int = 32
    freeze_batchnorm: float = 1.0
    distillation: Distillation | None = None
    precision: str = "float32"
    dropout: float = 1.0
    steps: int = 0

    def __post_init__(self) -> None:
        _ = self.schedule  # checks itself

    @property
    def needs(self) -> str:
        return TRAINING

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"task", "budget"} | ({"teacher"} if self.distillation else set()))

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            self.epochs,
            self.learning_rate,
            self.batch_size,
            self.freeze_batchnorm,
            self.distillation,
            self.precision,
            self.dropout,
            self.steps,
        )


def trainable_model(artifact: Artifact, ctx: Context) -> Any:
    """The artifact's tf-keras model as one flat functional graph."""
    import tf_keras

    from edgecompile.bridge import flatten

    model = ctx.load(artifact).model
    if not isinstance(model, tf_keras.Model) or not model._is_graph_network:
        raise ModelError(
            "training needs a functional or Sequential Keras model; this one has neither graph",
            hint="build it with the functional API, or take a recipe that doesn't train (int8, dynamic, float16)",
        )
    return flatten(model)


def train(model: Any, signature: Signature, schedule: Schedule, ctx: Context, hooks: Hooks | None = None) -> Result:
    """Train `model` in place; its teacher, where the schedule has a distillation, is the context's."""
    teacher = None
    if schedule.distillation is not None:
        assert ctx.teacher is not None, "a stage with distillation `uses` the teacher"
        teacher = trainable_model(ctx.teacher, ctx)
    hooks = hooks or Hooks()
    if ctx.least is not None:
        hooks = _given_up_at(ctx.least, model, signature, ctx, hooks)
    task = ctx.require_task()
    trainer = Trainer(model, signature.inputs, signature.outputs, task, schedule, ctx, hooks, teacher)
    return trainer.run()


def _given_up_at(least: float, model: Any, signature: Signature, ctx: Context, hooks: Hooks) -> Hooks:
    """`hooks` that also end a training that destroyed what the model could do: more epochs would be time lost.

    One that came to the stage with less than `least`, since channels were cut, has a third of its steps to recover.
    """
    from edgecompile.stages.evaluate import keras_predictor, validation

    task = ctx.require_task()
    metric = task.metric
    assert metric is not None
    quiet = dataclasses.replace(ctx, report=lambda _: None)
    predict = keras_predictor(model, signature)

    def value() -> float:
        return float(validation(task, signature, predict, quiet).get("validation", math.nan))

    def is_lost(found: float) -> bool:
        return found < least if metric.higher_is_better else found > least

    patience = 1 / 3 if is_lost(value()) else 0.0
    total = done = 0

    def planned(steps: int) -> None:
        nonlocal total
        total = steps
        hooks.planned(steps)

    def after_step(step: int) -> None:
        nonlocal done
        done = step
        if hooks.after_step is not None:
            hooks.after_step(step)

    def after_epoch() -> None:
        hooks.after_epoch()
        if done >= patience * total and is_lost(found := value()):
            raise CompressionGateError(
                f"training destroyed the model and was stopped: after {done} of {total} steps the {metric.name} on "
                f"validation samples is {found:.4g}, given up at {least:.4g}",
                hint="a milder recipe, a lower learning_rate, or more data",
            )

    return dataclasses.replace(hooks, planned=planned, after_step=after_step, after_epoch=after_epoch)


def changed_weights(before: Sequence[Array], after: Sequence[Array]) -> dict[str, Any]:
    """How many of the trainable weights training changed; none at all is an error, not a result."""
    total = sum(a.size for a in after)
    changed = sum(int(np.sum(a != b)) for a, b in zip(after, before, strict=True))
    if total and not changed:
        raise CompressionGateError(
            "training changed no weight at all", hint="raise learning_rate or epochs in the recipe"
        )
    largest = max((float(np.max(np.abs(a - b))) for a, b in zip(after, before, strict=True) if a.size), default=0.0)
    return {"weights_changed": changed, "weights_total": total, "largest_change": largest}


def naming(layers: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Notes that name layers, by what happened to them: "left in float: a, b". None where it happened to none."""
    return tuple(f"{what}: {', '.join(names)}" for what, names in layers.items() if names)


def training_metrics(result: Result) -> dict[str, Any]:
    return {"epochs": result.epochs, "losses": result.losses}
