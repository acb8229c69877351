"""Which loss a task is trained by, in a form that fits its labels and the model's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgecompile.data.own import guarded
from edgecompile.errors import DataError
from edgecompile.task import CLASSIFICATION, Array, Task

Loss = Callable[[Any, Any], Any]


def output_loss(task: Task, output: str, label: Array, scores: Array) -> Loss:
    """`f(labels, outputs)` for one output of the model, given a few of its labels and of what it makes of them.

    DataError for a loss that tf-keras doesn't know, that fails on these samples, or whose labels can't fit.
    """
    import tensorflow as tf
    import tf_keras

    if task.loss is None and task.kind == CLASSIFICATION:
        return classification_loss(scores)
    try:
        found = tf_keras.losses.get(task.loss or "mean_squared_error")
    except (ValueError, TypeError) as error:
        raise DataError(
            f"task {task.name!r}: loss {task.loss!r} is none that tf-keras knows",
            hint="give a name such as 'mean_squared_error', or a function f(labels, outputs)",
        ) from error
    loss = fitted(found, label.shape, scores.shape, output)
    if task.loss is not None:
        what = f"task {task.name!r}: loss {_name(found)} on output {output!r}"
        # traced, as training does it: some code works in eager mode only
        value = np.asarray(guarded(what, tf.function(loss))(tf.constant(label), tf.constant(scores)))
        if value.dtype.kind != "f":
            raise DataError(f"{what} gave {value.dtype}, expected floats")
    return loss


def classification_loss(outputs: Any) -> Loss:
    """Cross-entropy that fits what the model gives: probabilities or logits, seen on real samples."""
    import tensorflow as tf
    import tf_keras

    inside = bool((outputs >= 0).all() and (outputs <= 1).all())
    if outputs.shape[-1] == 1:

        def binary(labels: Any, scores: Any) -> Any:
            labels = tf.reshape(tf.cast(labels, scores.dtype), tf.shape(scores))
            return tf_keras.losses.binary_crossentropy(labels, scores, from_logits=not inside)

        return binary
    probabilities = inside and bool(np.allclose(outputs.sum(-1), 1, atol=1e-3))

    def sparse(labels: Any, scores: Any) -> Any:
        return tf_keras.losses.sparse_categorical_crossentropy(labels, scores, from_logits=not probabilities)

    return sparse


def fitted(loss: Loss, label: tuple[int, ...], scores: tuple[int, ...], output: str) -> Loss:
    """`loss` with labels in the output's shape: tf-keras would broadcast [n] against [n, 1] to [n, n].

    Sparse losses take class numbers, and a function of the user's own takes what it likes: for these only
    labels that lack the output's last dimension, of size 1, are reshaped, and sparse ones not even then.
    DataError where the shapes, whose first dimension is the batch's, can't agree.
    """
    import tensorflow as tf

    if label[1:] == scores[1:] or _name(loss).lower().startswith("sparse"):
        return loss
    column = scores[-1] == 1 and label[1:] == scores[1:-1]
    if not column and not _is_keras(loss):
        return loss
    inner = [tuple(d for d in shape[1:] if d != 1) for shape in (label, scores)]
    flat = np.prod(label[1:]) == np.prod(scores[1:]) and min(map(len, inner)) == 1
    if inner[0] != inner[1] and not flat:
        raise DataError(
            f"loss {_name(loss)}: labels of shape {list(label[1:])} a sample don't fit output {output!r} of shape "
            f"{list(scores[1:])}",
            hint="give the labels the output's shape, or take a sparse loss for class numbers",
        )

    def reshaped(labels: Any, outputs: Any) -> Any:
        return loss(tf.reshape(labels, tf.shape(outputs)), outputs)

    return reshaped


def _name(loss: Any) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))


def _is_keras(loss: Any) -> bool:
    return str(getattr(loss, "__module__", "")).startswith("tf_keras.")
