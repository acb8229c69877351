"""Which loss a task is trained by, in a form that fits its labels and the model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgecompile.data.own import guarded
from edgecompile.errors import DataError
from edgecompile.task import CLASSIFICATION, MULTI_LABEL, Array, KerasLoss, Task, of_output

Loss = Callable[[Any, Any], Any]


def output_loss(task: Task, output: str, label: Array, scores: Array) -> Loss:
    """`f(labels, outputs)` for one output of the model, given a few of its labels and of what it makes of them.

    The task's own loss, else that which the model was compiled with, else the one that fits the labels. Where classes
    have weights it gives a value for each label, times the weight of its class.
    DataError for a loss that tf-keras doesn't know, that fails on these samples, or whose labels can't fit.
    """
    weights = of_output(task.class_weights, output, None)
    if weights is not None and task.kind_of(output) == MULTI_LABEL:
        return _weighted_labels(task, output, scores, weights)
    loss = _unweighted(task, output, label, scores)
    return loss if weights is None else _weighted_classes(loss, weights)


def _weighted_classes(loss: Loss, weights: Array) -> Loss:
    """Each value of the loss times the weight of its class."""
    import tensorflow as tf

    def weighted(labels: Any, scores: Any) -> Any:
        values = loss(labels, scores)
        each = tf.gather(tf.constant(weights, values.dtype), tf.cast(labels, tf.int32))
        return values * tf.reshape(each, tf.shape(values))

    return weighted


def _weighted_labels(task: Task, output: str, scores: Array, weights: Array) -> Loss:
    """Binary cross-entropy of each label of several times the label's weight, [n, k] -> [n, k]."""
    import tensorflow as tf
    import tf_keras

    compiled = of_output(task.losses, output, None)
    if task.loss is not None or (compiled is not None and compiled.name != "BinaryCrossentropy"):
        raise DataError(
            f"class_weight of several labels is a part of binary cross-entropy, and the loss of output {output!r} is "
            f"{_name(task.loss) if task.loss is not None or compiled is None else compiled.name}",
            hint="leave class_weight out",
        )
    settings = dict(compiled.settings) if compiled else {}
    from_logits = settings.get("from_logits", not _are_probabilities(scores))
    smoothing = settings.get("label_smoothing", 0.0)

    # Keras takes a sigmoid's logits where it is given the sigmoid's own output, as here: by its values alone the
    # logarithm of 0 comes up, in bfloat16.
    def weighted(labels: Any, outputs: Any) -> Any:
        labels = tf.cast(labels, outputs.dtype) * (1 - smoothing) + smoothing / 2
        each = tf_keras.backend.binary_crossentropy(labels, outputs, from_logits=from_logits)
        return each * tf.constant(weights, outputs.dtype)

    return weighted


def _are_probabilities(scores: Array) -> bool:
    return bool((scores >= 0).all() and (scores <= 1).all())


def loss_weights(task: Task, outputs: Sequence[str]) -> list[float]:
    """Of the outputs in the loss, 1 in the mean; DataError where all are 0."""
    given = [of_output(task.loss_weights, output, 1.0) for output in outputs]
    if not sum(given):
        raise DataError(f"task {task.name!r}: the loss weights of all outputs are 0", hint="give one of them more")
    return [weight * len(given) / sum(given) for weight in given]


def _unweighted(task: Task, output: str, label: Array, scores: Array) -> Loss:
    import tf_keras

    kind = task.kind_of(output)
    compiled = of_output(task.losses, output, None) if task.loss is None else None
    if compiled is not None:
        loss = _compiled(compiled, kind, label, scores, output)
        _try(f"the model's loss {compiled.name} on output {output!r}", loss, label, scores)
        return loss
    if task.loss is None and kind == CLASSIFICATION:
        return classification_loss(scores)
    if task.loss is None and kind == MULTI_LABEL:
        return _multi_label_loss(scores)
    try:
        found = tf_keras.losses.get(task.loss or "mean_squared_error")
    except (ValueError, TypeError) as error:
        raise DataError(
            f"task {task.name!r}: loss {task.loss!r} is none that tf-keras knows",
            hint="give a name such as 'mean_squared_error', or a function f(labels, outputs)",
        ) from error
    loss = fitted(found, label.shape, scores.shape, output)
    if task.loss is not None:
        _try(f"task {task.name!r}: loss {_name(found)} on output {output!r}", loss, label, scores)
    return loss


def _try(what: str, loss: Loss, label: Array, scores: Array) -> None:
    """DataError that begins with `what` for a loss that fails on these samples, or gives no floats."""
    import tensorflow as tf

    # traced, as training does it: some code works in eager mode only
    value = np.asarray(guarded(what, tf.function(loss))(tf.constant(label), tf.constant(scores)))
    if value.dtype.kind != "f":
        raise DataError(f"{what} gave {value.dtype}, expected floats")


def _compiled(given: KerasLoss, kind: str, label: Array, scores: Array, output: str) -> Loss:
    """A loss that the model was compiled with, on labels as the task has them: class numbers become one-hot rows for
    those that take rows."""
    import tensorflow as tf
    import tf_keras

    made = guarded(f"the model's loss {given.name}", getattr(tf_keras.losses, given.name))
    loss = made(reduction="none", **dict(given.settings))
    classes = scores.shape[-1] if scores.ndim > 1 else 1
    if kind != CLASSIFICATION or classes == 1 or given.name.startswith("Sparse"):
        reshaped = fitted(loss, label.shape, scores.shape, output)
        return lambda labels, outputs: reshaped(tf.cast(labels, _label_type(given, outputs)), outputs)

    def on_rows(labels: Any, outputs: Any) -> Any:
        return loss(tf.one_hot(tf.cast(labels, tf.int32), classes, dtype=outputs.dtype), outputs)

    return on_rows


def _label_type(loss: KerasLoss, outputs: Any) -> Any:
    return "int64" if loss.name.startswith("Sparse") else outputs.dtype


def _multi_label_loss(scores: Any) -> Loss:
    """Binary cross-entropy of each score with its label, [n, k] -> [n]."""
    import tensorflow as tf
    import tf_keras

    inside = _are_probabilities(scores)

    def separate(labels: Any, outputs: Any) -> Any:
        labels = tf.cast(labels, outputs.dtype)
        return tf_keras.losses.binary_crossentropy(labels, outputs, from_logits=not inside)

    return separate


def classification_loss(outputs: Any) -> Loss:
    """Cross-entropy that fits what the model gives: probabilities or logits, seen on real samples."""
    import tensorflow as tf
    import tf_keras

    inside = _are_probabilities(outputs)
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
