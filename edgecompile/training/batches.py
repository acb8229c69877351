"""A task's samples as batches: order and augmentation of an epoch come from (seed, epoch) alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecompile.artifact import TensorInfo
from edgecompile.data.own import guarded
from edgecompile.errors import DataError
from edgecompile.task import AUTOENCODER, Split, Task, align


@dataclass(frozen=True)
class Batches:
    """x, y: arrays by the names of `inputs` and `outputs`; y is None where a model learns to give its input back.

    passes: over all samples, in an epoch.
    mixed: samples are mixtures of two, in ratios drawn anew for each; labels stay those of the first.
    """

    task: Task
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    seed: int
    size: int
    x: dict[str, Any]
    y: dict[str, Any] | None
    mixed: bool = False
    passes: int = 1

    @staticmethod
    def of(
        task: Task,
        inputs: tuple[TensorInfo, ...],
        outputs: tuple[TensorInfo, ...],
        seed: int,
        size: int,
        *,
        mixed: bool = False,
    ) -> Batches:
        """The samples the task doesn't hold out. DataError where they or their labels don't fit the model."""
        fit, _ = task.split(seed)
        x, y = align(fit.x, inputs), _labels(task, fit, outputs)
        if mixed and not all(spec.dtype.startswith("float") for spec in inputs):
            raise DataError("mixup needs floating point inputs", hint="set mixup = false in the recipe's distillation")
        return Batches(task, inputs, outputs, seed, min(size, len(fit)), x, y, mixed)

    @property
    def steps(self) -> int:
        """In an epoch; samples that fill no batch wait for the next pass' order."""
        return len(next(iter(self.x.values()))) // self.size * self.passes

    def epoch(self, number: int) -> Any:
        """A dataset of (tuple of inputs, tuple of labels), each [size, ...]."""
        import tensorflow as tf

        samples, used = len(next(iter(self.x.values()))), self.steps // self.passes * self.size
        draws = (np.random.default_rng([self.seed, number * self.passes + i]) for i in range(self.passes))
        order = np.concatenate([draw.permutation(samples)[:used] for draw in draws]).reshape(self.steps, self.size)
        names = [spec.name for spec in self.inputs]
        dtypes = {spec.name: spec.dtype for spec in self.inputs}
        augment = self.task.augment
        x_all, y_all = self._tensors

        def batch(index: Any, rows: Any) -> Any:
            # float before augmentation: brightness or shifts of uint8 images would wrap or round
            x = {name: tf.cast(tf.gather(x_all[name], rows), dtypes[name]) for name in names}
            draw = tf.stack([tf.cast(index, tf.int32), self.seed * 1009 + number])
            if augment is not None:
                keyed = {"": x[names[0]]} if len(names) == 1 else x
                keyed = augment(keyed, draw)
                x = {names[0]: keyed[""]} if len(names) == 1 else keyed
            if self.mixed:
                ratios = tf.random.stateless_uniform([self.size], draw + 1)
                x = {name: _mixed(array, ratios) for name, array in x.items()}
            if y_all is None:
                y = tuple(x[name] for name in names)
            else:
                y = tuple(tf.gather(y_all[spec.name], rows) for spec in self.outputs)
            return tuple(x[name] for name in names), y

        rows = tf.data.Dataset.from_tensor_slices(order)
        return rows.enumerate().map(batch, num_parallel_calls=2, deterministic=True).prefetch(4)

    @functools.cached_property
    def _tensors(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """All samples, copied once for all epochs. Eager tensors, so that a traced function takes them as inputs and
        not as constants of its graph."""
        import tensorflow as tf

        x = {name: tf.convert_to_tensor(array) for name, array in self.x.items()}
        return x, None if self.y is None else {name: tf.convert_to_tensor(a) for name, a in self.y.items()}

    def few(self, n: int) -> tuple[list[Any], list[Any]]:
        """(inputs, labels) of the first n samples. DataError for an augmentation that fails on them."""
        import tensorflow as tf

        x = {spec.name: tf.convert_to_tensor(self.x[spec.name][:n].astype(spec.dtype)) for spec in self.inputs}
        if self.task.augment is not None:
            _try_augment(self.task.augment, {"": next(iter(x.values()))} if len(x) == 1 else x)
        if self.y is None:
            return list(x.values()), [self.x[spec.name][:n] for spec in self.inputs]
        return list(x.values()), [self.y[spec.name][:n] for spec in self.outputs]


def _mixed(x: Any, ratios: Any) -> Any:
    """Each sample of [n, ...] with the one that stands opposite in the batch."""
    import tensorflow as tf

    by = tf.reshape(tf.cast(ratios, x.dtype), [-1] + [1] * (len(x.shape) - 1))
    return by * x + (1 - by) * tf.reverse(x, [0])


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
