"""Training that a kill can't spoil.

After every epoch the weights, the optimizer's state and the epoch's number go to one checkpoint file. All
randomness of an epoch (order, augmentation, dropout) comes from (seed, epoch), so a run that was killed and
resumed ends in the same weights, bit for bit, as one that was not. How many epochs fit the budget is decided
once, when training starts, and kept beside the checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import TensorInfo
from edgecompile.data.own import guarded
from edgecompile.errors import BudgetError, DataError, NonFiniteError
from edgecompile.losses import output_loss
from edgecompile.stages.base import Context, Progress, require
from edgecompile.task import AUTOENCODER, Split, Task, align
from edgecompile.units import format_seconds

_TIMED_STEPS = 12
_WARM_STEPS = 2
_REPORT_EVERY = 0.2  # seconds between progress reports


@dataclass(frozen=True)
class Schedule:
    """Adam with cosine decay from `learning_rate` to a hundredth of it over all epochs."""

    epochs: int
    learning_rate: float
    batch_size: int

    def __post_init__(self) -> None:
        require(
            "training",
            epochs=(self.epochs, self.epochs >= 1, "1 or more"),
            learning_rate=(self.learning_rate, 0 < self.learning_rate < 10, "a number above 0"),
            batch_size=(self.batch_size, self.batch_size >= 1, "1 or more"),
        )


@dataclass(frozen=True)
class Result:
    epochs: int
    losses: list[float]
    seconds_per_epoch: float


@dataclass
class Hooks:
    """What a stage does around training. `planned` learns the number of steps in all; `start` is called before
    the first step, after a resumed state was read back."""

    planned: Callable[[int], None] = lambda _: None
    start: Callable[[], None] = lambda: None
    after_epoch: Callable[[], None] = lambda: None


@dataclass
class Trainer:
    """One training run of a tf-keras model, in place.

    inputs and outputs name the model's tensors in its order; labels are matched to outputs by name.
    """

    model: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    task: Task
    schedule: Schedule
    ctx: Context
    hooks: Hooks = field(default_factory=Hooks)

    def run(self) -> Result:
        """Train from the checkpoint in the context's work folder, or from the start.

        Errors: BudgetError where not one epoch fits, NonFiniteError where the loss becomes NaN, DataError where
        labels don't fit the outputs or the loss, or a function of the task's own fails.
        """
        import tf_keras

        fit, _ = self.task.split(self.ctx.seed)
        self._x = align(fit.x, self.inputs)
        self._y = _labels(self.task, fit, self.outputs)
        n = len(fit)
        self._batch = min(self.schedule.batch_size, n)
        self._steps = n // self._batch
        self._losses = self._loss_functions()
        self._random = _random_generators(self.model)
        epochs, seconds = self._plan_epochs()
        decay = tf_keras.optimizers.schedules.CosineDecay(
            self.schedule.learning_rate, decay_steps=max(1, epochs * self._steps), alpha=0.01
        )
        self._new_optimizer(decay)
        start, losses = self._restore()
        writer = self._summary_writer()
        self.hooks.planned(epochs * self._steps)
        self.hooks.start()
        self._step = self._make_step()
        for epoch in range(start, epochs):
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
                _summarize(writer, epoch, losses[-1], time.monotonic() - began, self._optimizer)
        return Result(epochs, losses, seconds)

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
        done = epoch * self._steps
        values = []
        for index, (x, y) in enumerate(self._batches(epoch)):
            values.append(self._step(x, y))
            now = time.monotonic()
            if now - last > _REPORT_EVERY or index == self._steps - 1:
                last = now
                self.ctx.report(Progress(f"epoch {epoch + 1}/{epochs}", done + index + 1, epochs * self._steps))
        return float(np.mean([float(v) for v in values]))

    def _make_step(self) -> Any:
        import tensorflow as tf

        model, optimizer, losses = self.model, self._optimizer, self._losses

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                outputs = model(x[0] if len(x) == 1 else list(x), training=True)
                outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
                parts = [tf.reduce_mean(f(label, out)) for f, label, out in zip(losses, y, outputs, strict=True)]
                loss = tf.add_n(parts) / len(parts)
                if model.losses:
                    loss += tf.add_n(model.losses)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss

        return step

    def _batches(self, epoch: int) -> Any:
        import tensorflow as tf

        order = np.random.default_rng([self.ctx.seed, epoch]).permutation(len(next(iter(self._x.values()))))
        order = order[: self._steps * self._batch].reshape(self._steps, self._batch)
        names = [spec.name for spec in self.inputs]
        dtypes = {spec.name: spec.dtype for spec in self.inputs}
        augment = self.task.augment
        # Eager tensors, so that the traced function takes them as inputs and not as constants of its graph.
        x_all = {name: tf.convert_to_tensor(self._x[name]) for name in names}
        y_all = None if self._y is None else {name: tf.convert_to_tensor(a) for name, a in self._y.items()}

        def batch(index: Any, rows: Any) -> Any:
            # float before augmentation: brightness or shifts of uint8 images would wrap or round
            x = {name: tf.cast(tf.gather(x_all[name], rows), dtypes[name]) for name in names}
            if augment is not None:
                keyed = {"": x[names[0]]} if len(names) == 1 else x
                keyed = augment(keyed, tf.stack([tf.cast(index, tf.int32), self.ctx.seed * 1009 + epoch]))
                x = {names[0]: keyed[""]} if len(names) == 1 else keyed
            if y_all is None:
                y = tuple(x[name] for name in names)
            else:
                y = tuple(tf.gather(y_all[spec.name], rows) for spec in self.outputs)
            return tuple(x[name] for name in names), y

        rows = tf.data.Dataset.from_tensor_slices(order)
        return rows.enumerate().map(batch, num_parallel_calls=2, deterministic=True).prefetch(4)

    # -- how long

    def _plan_epochs(self) -> tuple[int, float]:
        """(epochs, seconds one takes), measured on a few steps whose effect is then undone."""
        path = self.ctx.work / "training.json"
        if path.is_file():
            plan = json.loads(path.read_text())
            self.ctx.say(f"goes on from its checkpoint: {plan['epochs']} epochs were planned")
            return plan["epochs"], plan["seconds_per_epoch"]
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
        _write_atomically(path, json.dumps({"epochs": epochs, "seconds_per_epoch": seconds}).encode())
        return epochs, seconds

    def _measure_epoch(self) -> float:
        before = [v.numpy() for v in self.model.variables]
        self._new_optimizer(self.schedule.learning_rate)
        self._step = self._make_step()
        self.hooks.start()
        began, timed = time.monotonic(), 0
        for index, (x, y) in enumerate(self._batches(0)):
            if index == min(_WARM_STEPS, self._steps - 1):
                began = time.monotonic()
            self._step(x, y)
            timed = index + 1 - min(_WARM_STEPS, self._steps - 1)
            if timed >= _TIMED_STEPS:
                break
        seconds = (time.monotonic() - began) / max(1, timed) * self._steps
        for variable, value in zip(self.model.variables, before, strict=True):
            variable.assign(value)
        return seconds

    # -- state

    def _new_optimizer(self, learning_rate: Any) -> None:
        import tf_keras

        self._optimizer = tf_keras.optimizers.Adam(learning_rate)
        self._optimizer.build(self.model.trainable_variables)
        self.model.compile(optimizer=self._optimizer)  # TF-MOT's wrappers read the step from model.optimizer

    def _state(self) -> list[Any]:
        return [*self.model.variables, *self._optimizer.variables]

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
        with np.load(path) as saved:
            for i, variable in enumerate(self._state()):
                variable.assign(saved[f"v{i}"])
            return int(saved["epoch"]), [float(v) for v in saved["losses"]]

    def _summary_writer(self) -> Any:
        if self.ctx.tensorboard is None:
            return None
        import tensorflow as tf

        return tf.summary.create_file_writer(str(self.ctx.tensorboard))

    def _loss_functions(self) -> list[Callable[[Any, Any], Any]]:
        """One for each output, tried on a few samples: what can't work fails here, by name."""
        import tensorflow as tf

        x = {spec.name: tf.convert_to_tensor(self._x[spec.name][:64].astype(spec.dtype)) for spec in self.inputs}
        values = list(x.values())
        scores = self.model(values[0] if len(values) == 1 else values, training=False)
        scores = list(scores) if isinstance(scores, list | tuple) else [scores]
        if self.task.augment is not None:
            _try_augment(self.task.augment, {"": values[0]} if len(values) == 1 else x)
        if self._y is None:
            labels = [self._x[spec.name][:64] for spec in self.inputs]
        else:
            labels = [self._y[spec.name][:64] for spec in self.outputs]
        if len(labels) != len(scores):
            raise DataError(
                f"an autoencoder gives each of its inputs back: the model has {len(labels)} inputs "
                f"and {len(scores)} outputs",
                hint="return a Task of another kind, with labels for each output",
            )
        return [
            output_loss(self.task, spec.name, label, np.asarray(score))
            for spec, label, score in zip(self.outputs, labels, scores, strict=True)
        ]


def _try_augment(augment: Callable[[Any, Any], Any], x: dict[str, Any]) -> None:
    """DataError where it fails, or gives samples back in another form."""
    import tensorflow as tf

    given = guarded("the task's augment", tf.function(augment))(dict(x), tf.zeros(2, tf.int32))
    if not isinstance(given, dict) or set(given) != set(x):
        raise DataError(
            f"the task's augment gave {sorted(given) if isinstance(given, dict) else type(given).__name__}, "
            f"expected a dict with {sorted(x)}",
            hint="it is f(x, seed) -> x on one batch, x being {input: tensor}",
        )
    for name, tensor in given.items():
        if tuple(getattr(tensor, "shape", ())) != tuple(x[name].shape):
            raise DataError(
                f"the task's augment changed the shape of input {name!r} from {list(x[name].shape)} to "
                f"{list(getattr(tensor, 'shape', ()))}"
            )


def _random_generators(model: Any) -> list[tuple[Any, int]] | None:
    """(generator, its seed) of each layer that was given one; None where no layer draws at random in training."""
    kinds = ("Dropout", "Gaussian", "Random")
    shares = ("dropout", "recurrent_dropout", "rate")

    def draws(module: Any) -> bool:
        values = [getattr(module, name, 0) for name in shares]
        return any(kind in type(module).__name__ for kind in kinds) or any(
            isinstance(value, int | float) and value > 0 for value in values
        )

    if not any(draws(module) for module in model.submodules):
        return None
    generators = [module._random_generator for module in model.submodules if hasattr(module, "_random_generator")]
    return [(g, g._seed) for g in generators if isinstance(getattr(g, "_seed", None), int)]


def _labels(task: Task, fit: Split, outputs: tuple[TensorInfo, ...]) -> dict[str, Any] | None:
    """Labels by output name; None where a model learns to give its own input back."""
    if task.kind == AUTOENCODER:
        return None
    if fit.y is None:
        raise DataError("training needs labels, and the data has none", hint="give y_train, or a recipe like int8")
    names = [spec.name for spec in outputs]
    y = dict(fit.y)
    if set(y) == {""} and len(names) == 1:
        y = {names[0]: y[""]}
    if set(y) != set(names):
        raise DataError(f"labels are given for {sorted(y)}, the model's outputs are {names}")
    return y


def _summarize(writer: Any, epoch: int, loss: float, seconds: float, optimizer: Any) -> None:
    import tensorflow as tf

    with writer.as_default(step=epoch):
        tf.summary.scalar("loss", loss)
        tf.summary.scalar("learning_rate", float(optimizer.learning_rate))
        tf.summary.scalar("seconds_per_epoch", seconds)
    writer.flush()


def replay(losses: Sequence[float], folder: Path) -> None:
    """Write the loss curve of a training that was done before (one value an epoch) as TensorBoard events."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        for epoch, loss in enumerate(losses):
            tf.summary.scalar("loss", loss, step=epoch)
    writer.close()


def _write_atomically(path: Path, content: bytes) -> None:
    scratch = path.with_suffix(".tmp")
    scratch.write_bytes(content)
    scratch.replace(path)
