"""What labels are: class numbers, rows of labels that are there or not, or targets; told from their values, from the
output that they are for, and from the loss that the model was compiled with.

| labels | output | are |
|---|---|---|
| whole numbers, without the output's last axis | scores of classes | class numbers |
| one-hot rows of the output's shape | the same | class numbers |
| other rows of 0 and 1 of the output's shape | the same | several labels |
| 0 and 1 | one value | class numbers |
| other whole numbers | one value, which no sigmoid bounds | targets |
| other whole numbers of the output's shape | several values | targets |
| fractions | any | targets |

A loss decides where these leave a doubt: with mean_squared_error and its like one value, and rows of 0 and 1, are
targets; with binary_crossentropy they aren't.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgecompile import metrics
from edgecompile.data.expected import Expected, ExpectedOutput
from edgecompile.task import CLASSIFICATION, MIXED, MULTI_LABEL, REGRESSION, Array, Arrays, Split, Task

_OF_TARGETS = frozenset({
    "MeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredLogarithmicError", "Huber",
    "LogCosh", "Poisson", "CosineSimilarity", "KLDivergence",
})  # fmt: skip
_OF_SEPARATE_LABELS = frozenset({"BinaryCrossentropy", "BinaryFocalCrossentropy", "Hinge", "SquaredHinge"})
_BOUNDED = frozenset({"sigmoid", "hard_sigmoid", "softmax"})


def read_labels(
    labels: Mapping[str, Arrays], expected: Expected | None
) -> tuple[dict[str, str], dict[str, dict[str, Array]]]:
    """({output: kind}, the labels as metrics and losses take them) of {"y_train": {output: array}, ...}.

    Class numbers are int64 without the axis of classes. All splits are read alike. expected: None where the model isn't
    known yet; then values alone decide.
    """
    kinds: dict[str, str] = {}
    read: dict[str, dict[str, Array]] = {split: {} for split in labels}
    names = list(next(iter(labels.values())))
    for name in names:
        output = expected.output(name, len(names)) if expected and expected.outputs else None
        arrays = [arrays[name] for arrays in labels.values()]
        one_hot = all(_is_one_hot(array, output) for array in arrays)
        kinds[name] = (output and output.kind) or _kind(arrays, output, one_hot=one_hot)
        for split, array in zip(labels, arrays, strict=True):
            read[split][name] = _class_numbers(array, one_hot) if kinds[name] == CLASSIFICATION else array
    return kinds, read


def labelled_task(name: str, kinds: Mapping[str, str], train: Split | None, test: Split, held: Split | None) -> Task:
    """A task whose outputs have labels of these kinds. held: samples to validate with, None where there are none."""
    metric, own = metrics.for_outputs(kinds)
    kind = next(iter(kinds.values())) if len(set(kinds.values())) == 1 else MIXED
    return Task(name, kind, train, test, metric, fingerprint="", validation=held, kinds=kinds, metrics=own)


def _kind(arrays: Sequence[Array], output: ExpectedOutput | None, *, one_hot: bool) -> str:
    whole = all(_is_whole(array) for array in arrays)
    integers = all(array.dtype.kind in "bui" for array in arrays)
    binary = whole and all(np.isin(array, (0, 1)).all() for array in arrays)
    if output is None:
        if one_hot:
            return CLASSIFICATION
        if binary and all(array.ndim == 2 and array.shape[1] > 1 for array in arrays):
            return MULTI_LABEL
        return CLASSIFICATION if integers else REGRESSION
    if not whole:
        return REGRESSION
    loss = output.loss.name if output.loss else ""
    if _is_single(output):
        if loss in _OF_TARGETS:
            return REGRESSION
        bounded = output.activation in _BOUNDED
        if loss in _OF_SEPARATE_LABELS or (bounded and (integers or binary)):
            return CLASSIFICATION
        return CLASSIFICATION if integers and binary else REGRESSION
    if all(_fits(array, output.shape) for array in arrays):
        if one_hot:
            separate = loss in _OF_SEPARATE_LABELS and output.activation != "softmax"
            return MULTI_LABEL if separate else CLASSIFICATION
        return MULTI_LABEL if binary and loss not in _OF_TARGETS else REGRESSION
    classes = all(_fits(_without_column(array), output.shape[:-1]) for array in arrays)
    return CLASSIFICATION if classes or integers else REGRESSION


def _is_single(output: ExpectedOutput) -> bool:
    """Whether the output is one value, for a sample or for each of its places."""
    return not output.shape or output.shape[-1] == 1


def _fits(array: Array, shape: tuple[int, ...]) -> bool:
    inner = array.shape[1:]
    return len(inner) == len(shape) and all(e in (-1, s) for s, e in zip(inner, shape, strict=True))


def _is_whole(array: Array) -> bool:
    return array.dtype.kind in "bui" or bool((array == np.rint(array)).all())


def _is_one_hot(array: Array, output: ExpectedOutput | None) -> bool:
    """Whether each row is 1 in one place: rows of two dimensions, or of the shape that the output has."""
    if array.ndim < 2 or array.shape[-1] < 2 or not (array.ndim == 2 if output is None else _fits(array, output.shape)):
        return False
    return bool(np.isin(array, (0, 1)).all() and (array.sum(axis=-1) == 1).all())


def _class_numbers(array: Array, one_hot: bool) -> Array:
    found = array.argmax(axis=-1) if one_hot else _without_column(array)
    return found if found.dtype.kind in "bui" else found.astype(np.int64)


def _without_column(array: Array) -> Array:
    """A column of class numbers, [n, 1], is a vector of them."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
