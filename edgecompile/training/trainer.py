"""The training loop, made so that a kill leaves no trace.

After every epoch the weights, the optimizer's state and the epoch's number go to one checkpoint file. All
randomness of an epoch (order, augmentation, dropout) comes from (seed, epoch), so a run that was killed and
resumed ends in the same weights, bit for bit, as one that was not. How many epochs fit the budget is decided
once, when training starts, and kept beside the checkpoint.
"""

from __future__ import annotations

import dataclasses
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecompile.artifact import TensorInfo
from edgecompile.cache import write_file
from edgecompile.errors import BudgetError, DataError, NonFiniteError
from edgecompile.losses import loss_weights, output_loss
from edgecompile.sealed import seal, unseal_or_none
from edgecompile.stages.base import Context, Progress
from edgecompile.task import Task, of_output
from edgecompile.training.batches import Batches
from edgecompile.training.distillation import Distillation, Teaching
from edgecompile.training.logs import summarize
from edgecompile.training.precision import bfloat16
from edgecompile.training.randomness import dropout_at, one_mask_a_batch, random_generators
from edgecompile.training.schedule import BFLOAT16, Hooks, Result, Schedule
from edgecompile.units import format_seconds

_TIMED_STEPS = 12
_WARM_STEPS = 2
_REPORT_EVERY = 0.2  # seconds between progress reports


@dataclass
class Trainer:
    """One training run of a tf-keras model, in place.

    inputs and outputs name the model's tensors in its order; labels are matched to outputs by name.
    teacher: a model with the same inputs and outputs, wanted where the schedule has a distillation.
    """

    model: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    task: Task
    schedule: Schedule
    ctx: Context
    hooks: Hooks = field(default_factory=Hooks)
    teacher: Any = None

    def run(self) -> Result:
        """Train from the checkpoint in the context's work folder, or from the start.

        Errors: BudgetError where not one epoch fits, NonFiniteError where the loss becomes NaN, DataError where
        labels don't fit the outputs or the loss, or a function of the task's own fails.
        """
        # Both lists are taken once: freezing BatchNorm would change what the model lists, and in which order.
        self._variables = [*self.model.variables, *self.hooks.variables]
        self._trained = list(self.model.trainable_variables)
        config = self.schedule.distillation
        self._batches = Batches.of(
            self.task,
            self.inputs,
            self.outputs,
            self.ctx.seed,
            self.schedule.batch_size,
            mixed=config is not None and config.mixup,
        )
        # Not more epochs: each is a checkpoint, and traced anew where there is dropout.
        self._batches = dataclasses.replace(self._batches, passes=self.schedule.passes(self._batches.steps))
        self._losses = self._loss_functions()
        self._norms = _batchnorms(self.model)
        self._teaching = self._teacher_beside(config) if config else None
        precision = bfloat16(self._norms) if self.schedule.precision == BFLOAT16 else nullcontext()
        with precision, one_mask_a_batch(self.model), dropout_at(self.schedule.dropout, self.model):
            self._random = random_generators(self.model)
            return self._run()

    def _run(self) -> Result:
        import tf_keras

        epochs, seconds = self._plan_epochs()
        steps = epochs * self._batches.steps
        decay = tf_keras.optimizers.schedules.CosineDecay(
            self.schedule.learning_rate, decay_steps=max(1, steps), alpha=0.01
        )
        self._new_optimizer(decay)
        start, losses = self._restore()
        writer = self._summary_writer()
        self.hooks.planned(steps)
        self.hooks.start()
        frozen_from = int(np.ceil(epochs * self.schedule.freeze_batchnorm))
        with _freezing(self._norms) as freeze:
            if start > frozen_from:
                freeze()
            self._step = self._make_step()
            for epoch in range(start, epochs):
                if epoch == frozen_from:
                    freeze()
                    self._step = self._make_step()
                began = time.monotonic()
                losses.append(self._epoch(epoch, epochs))
                self.hooks.after_epoch()
                if not np.isfinite(losses[-1]):
                    raise NonFiniteError(
                        f"training: the loss became {losses[-1]} in epoch {epoch + 1}",
                        hint="lower learning_rate in the recipe, and look at the scale of the inputs",
                    )
                self._save(epoch + 1, losses)
                if writer is not None:
                    summarize(writer, epoch, losses[-1], time.monotonic() - began, self._optimizer)
        return Result(epochs, losses, seconds)

    def _teacher_beside(self, config: Distillation) -> Teaching:
        kinds = [self.task.kind_of(spec.name) for spec in self.outputs]
        return Teaching(config, self.teacher, self.model, kinds)

    # -- one epoch

    def _epoch(self, epoch: int, epochs: int) -> float:
        import tensorflow as tf

        if self._random is not None:
            # Dropout draws from state inside the traced function: a new one, seeded by the epoch, makes the
            # draws of an epoch the same whether or not the epochs before it ran in this process.
            tf.random.set_seed(self.ctx.seed * 100_003 + epoch)
            for generator, seed in self._random:
                generator._seed = seed + epoch * 1009  # a layer with a seed counts it up with every trace
            self._step = self._make_step()
        last = 0.0
        steps = self._batches.steps
        done = epoch * steps
        values = []
        for index, (x, y) in enumerate(self._batches.epoch(epoch)):
            values.append(self._step(x, y))
            if self.hooks.after_step is not None:
                self.hooks.after_step(done + index + 1)
            now = time.monotonic()
            if now - last > _REPORT_EVERY or index == steps - 1:
                last = now
                self.ctx.report(Progress(f"epoch {epoch + 1}/{epochs}", done + index + 1, epochs * steps))
        return float(np.mean([float(v) for v in values]))

    def _make_step(self) -> Any:
        import tensorflow as tf

        optimizer, losses, variables = self._optimizer, self._losses, self._trained
        teaching, penalty, change = self._teaching, self.hooks.penalty, self.hooks.gradient
        model = teaching.student if teaching else self.model

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def step(x: Any, y: Any) -> Any:
            x = x[0] if len(x) == 1 else list(x)
            with tf.GradientTape() as tape:
                given = model(x, training=True)
                outputs = list(given) if isinstance(given, list | tuple) else [given]
                outputs = outputs[: len(losses)]
                parts = [tf.reduce_mean(f(label, out)) for f, label, out in zip(losses, y, outputs, strict=True)]
                loss = tf.add_n(parts) / len(parts)
                if teaching:
                    loss = teaching.loss(x, loss, given)
                if model.losses:
                    loss += tf.add_n(model.losses)
                if penalty is not None:
                    loss += penalty()
            gradients = tape.gradient(loss, variables)
            if change is not None:
                gradients = [g if g is None else change(v, g) for v, g in zip(variables, gradients, strict=True)]
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return loss

        return step

    # -- how long

    def _plan_epochs(self) -> tuple[int, float]:
        """(epochs, seconds one takes), measured on a few steps whose effect is then undone."""
        path = self.ctx.work / "training.json"
        plan = unseal_or_none(path)
        if plan is not None:
            self.ctx.say(f"goes on from its checkpoint: {plan['epochs']} epochs were planned")
            return int(plan["epochs"]), float(plan["seconds_per_epoch"])
        seconds = self._measure_epoch()
        epochs = self.schedule.epochs
        budget = self.ctx.budget_seconds
        if budget is not None and epochs * seconds > budget:
            epochs = int(budget / seconds)
            if epochs == 0:
                raise BudgetError(
                    f"training: one epoch takes about {format_seconds(seconds)}, "
                    f"and this stage's share of --budget-minutes is {format_seconds(budget)}",
                    hint="give more minutes, or a recipe that doesn't train (int8, dynamic)",
                )
        cut = f" (the recipe's {self.schedule.epochs}, cut by the budget)" if epochs < self.schedule.epochs else ""
        self.ctx.say(f"{epochs} epochs{cut}, estimated {format_seconds(epochs * seconds)}")
        write_file(path, seal({"epochs": epochs, "seconds_per_epoch": seconds}))
        return epochs, seconds

    def _measure_epoch(self) -> float:
        before = [v.numpy() for v in self._variables]
        self._new_optimizer(self.schedule.learning_rate)
        self._step = self._make_step()
        self.hooks.start()
        steps = self._batches.steps
        began = ended = time.monotonic()
        timed = 0
        for index, (x, y) in enumerate(self._batches.epoch(0)):
            if index == min(_WARM_STEPS, steps - 1):
                began = time.monotonic()
            self._step(x, y)
            ended = time.monotonic()  # and not below: leaving the dataset early may take seconds
            timed = index + 1 - min(_WARM_STEPS, steps - 1)
            if timed >= _TIMED_STEPS:
                break
        seconds = (ended - began) / max(1, timed) * steps
        for variable, value in zip(self._variables, before, strict=True):
            variable.assign(value)
        return seconds

    # -- state

    def _new_optimizer(self, learning_rate: Any) -> None:
        import tf_keras

        self._optimizer = tf_keras.optimizers.Adam(learning_rate)
        self._optimizer.build(self._trained)

    def _state(self) -> list[Any]:
        return [*self._variables, *self._optimizer.variables]

    def _save(self, epoch: int, losses: Sequence[float]) -> None:
        path = self.ctx.work / "checkpoint.npz"
        scratch = path.with_name("checkpoint.tmp.npz")
        arrays = {f"v{i}": v.numpy() for i, v in enumerate(self._state())}
        np.savez(scratch, epoch=np.array(epoch), losses=np.array(losses, np.float64), **arrays)
        scratch.replace(path)

    def _restore(self) -> tuple[int, list[float]]:
        path = self.ctx.work / "checkpoint.npz"
        if not path.is_file():
            return 0, []
        state = self._state()
        try:  # the archive has a checksum of each array
            with np.load(path) as saved:
                values = [saved[f"v{i}"].reshape(variable.shape) for i, variable in enumerate(state)]
                epoch, losses = int(saved["epoch"]), [float(v) for v in saved["losses"]]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            self.ctx.say("its checkpoint is damaged: it begins anew")
            return 0, []
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)
        return epoch, losses

    def _summary_writer(self) -> Any:
        if self.ctx.tensorboard is None:
            return None
        import tensorflow as tf

        return tf.summary.create_file_writer(str(self.ctx.tensorboard))

    def _loss_functions(self) -> list[Callable[[Any, Any], Any]]:
        """One for each output, tried on a few samples: what can't work fails here, by name."""
        values, labels = self._batches.few(64)
        scores = self.model(values[0] if len(values) == 1 else values, training=False)
        scores = list(scores) if isinstance(scores, list | tuple) else [scores]
        if len(labels) != len(scores):
            raise DataError(
                f"an autoencoder gives each of its inputs back: the model has {len(labels)} inputs "
                f"and {len(scores)} outputs",
                hint="return a Task of another kind, with labels for each output",
            )
        told = {spec.name: loss.name for spec in self.outputs if (loss := of_output(self.task.losses, spec.name, None))}
        if told and self.task.loss is None:
            self.ctx.say(f"loss, as the model was compiled: {', '.join(f'{k} {v}' for k, v in told.items())}")
        weights = loss_weights(self.task, [spec.name for spec in self.outputs])
        return [
            _times(weight, output_loss(self.task, spec.name, label, np.asarray(score)))
            for spec, label, score, weight in zip(self.outputs, labels, scores, weights, strict=True)
        ]


def _times(weight: float, loss: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return loss if weight == 1 else lambda labels, outputs: loss(labels, outputs) * weight


def _batchnorms(model: Any) -> list[Any]:
    import tf_keras

    return [m for m in model.submodules if isinstance(m, tf_keras.layers.BatchNormalization) and m.trainable]


@contextmanager
def _freezing(layers: Sequence[Any]) -> Iterator[Callable[[], None]]:
    """A function that freezes the statistics of these BatchNorms; undone at the end.

    Keras' `trainable = False` on them does just that (their scale and offset go on training, being in our own
    list of variables), but it also changes the order in which the model lists its variables.
    """

    def freeze() -> None:
        for layer in layers:
            layer.trainable = False

    try:
        yield freeze
    finally:
        for layer in layers:
            layer.trainable = True
