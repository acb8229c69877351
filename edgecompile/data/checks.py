"""Is the data sound, and do its labels fit the model's outputs?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.errors import DataError, perhaps
from edgecompile.task import AUTOENCODER, CLASSIFICATION, MULTI_LABEL, REGRESSION, Array, Arrays, Task, of_output

LARGEST = float(np.finfo(np.float32).max)


def check_labels(task: Task, signature: Signature) -> None:
    """DataError that names the first label the model has no output for, or labels of the wrong shape or name."""
    for split_name, split in task.splits.items():
        if split.y is None:
            continue
        if task.kind == AUTOENCODER:
            for name, label in split.y.items():
                _check_range(_key(split_name, name), label, 2, "a clip is normal (0) or an anomaly (1)")
            continue
        for name, label in split.y.items():
            output = _output_for(name, split.y, signature)
            _check_label(_key(split_name, name), label, output, task.kind_of(name))
            if (weights := of_output(task.class_weights, name, None)) is not None:
                _check_class_weights(weights, output)


def _key(split: str, output: str) -> str:
    return f"y_{split}/{output}" if output else f"y_{split}"


def _output_for(name: str, labels: Arrays, signature: Signature) -> TensorInfo:
    by_name = {info.name: info for info in signature.outputs}
    if len(labels) == 1 and len(by_name) == 1 and name in ("", *by_name):
        return signature.outputs[0]
    if set(labels) != set(by_name):
        raise DataError(
            f"labels are given for outputs {named(labels)}, the model has {sorted(by_name)}",
            hint=_how_to_name(name, labels, by_name),
        )
    return by_name[name]


def _how_to_name(name: str, labels: Arrays, outputs: Iterable[str]) -> str:
    missing = sorted(set(outputs) - set(labels))
    if set(labels) <= set(outputs):
        return f"give labels for {', '.join(missing)}, too"
    return perhaps(name, outputs) if name else "name labels after outputs: y_train/<output>, y_test/<output>"


def _check_label(key: str, label: Array, output: TensorInfo, kind: str) -> None:
    inner = output.shape[1:]
    if kind == REGRESSION:
        trimmed = inner[:-1] if inner[-1:] == (1,) and label.ndim == len(inner) else inner
        if not _fits(label.shape[1:], trimmed):
            raise DataError(
                f"{key} has targets of shape {list(label.shape[1:])}, output {output.name!r} gives {list(inner)}",
                hint="reshape the targets to the output's shape",
            )
        return
    if kind == MULTI_LABEL:
        if not _fits(label.shape[1:], inner):
            raise DataError(
                f"{key} has rows of {list(label.shape[1:])} labels, output {output.name!r} gives {list(inner)} scores",
                hint="give a row of 0 and 1 for each row of scores",
            )
        _check_range(key, label, 2, "a label is there (1) or not (0)")
        return
    if kind != CLASSIFICATION:
        return
    binary = not inner or inner[-1] == 1
    if not (_fits(label.shape[1:], inner[:-1]) or (binary and _fits(label.shape[1:], inner))):
        raise DataError(
            f"{key} has labels of shape {list(label.shape[1:])} a sample, output {output.name!r} gives "
            f"{list(inner)}: expected {list(inner[:-1])}",
            hint="labels are class numbers, one for each row of scores",
        )
    if label.dtype.kind not in "bui":
        raise DataError(f"{key} is of type {label.dtype}, expected class numbers (integers)")
    if binary:
        _check_range(key, label, 2, f"output {output.name!r} is one score for two classes")
    elif inner[-1] > 0:
        _check_range(key, label, inner[-1], f"output {output.name!r} has {inner[-1]} classes")


def _check_class_weights(weights: Array, output: TensorInfo) -> None:
    classes = 2 if len(output.shape) < 2 or output.shape[-1] == 1 else output.shape[-1]
    if classes > 0 and len(weights) != classes:
        raise DataError(f"class_weight has {len(weights)} numbers, output {output.name!r} has {classes} classes")


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(e in (-1, s) for s, e in zip(shape, expected, strict=True))


def _check_range(key: str, label: Array, classes: int, why: str) -> None:
    wrong = np.argwhere((label < 0) | (label >= classes))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        raise DataError(
            f"{key}[{', '.join(map(str, index))}] is {label[index]}: {why}, so labels go from 0 to {classes - 1} "
            f"({len(wrong)} of {label.size} are outside)",
            hint="number the classes from 0, as the model was trained",
        )


def named(arrays: Arrays) -> str:
    """The names of arrays, for a message."""
    return str(sorted(arrays)) if set(arrays) != {""} else "(unnamed)"


def check_arrays(what: str, arrays: Arrays) -> int:
    """The number of samples that all of `arrays` have; DataError for none, other than numbers, NaN or infinity."""
    if not arrays:
        raise DataError(f"{what} holds no array")
    counts = {}
    for name, array in arrays.items():
        key = f"{what}/{name}" if name else what
        if array.dtype.kind not in "buif":
            raise DataError(f"{key} is of type {array.dtype}, expected numbers", hint="convert it to float32 or uint8")
        if array.ndim == 0 or len(array) == 0:
            raise DataError(f"{key} has no samples (its shape is {list(array.shape)})")
        if array.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(array)))):
            raise DataError(f"{key} has {bad} values that are NaN or infinite, of {array.size}", hint="clean the data")
        if array.dtype == np.float64 and (bad := int(np.count_nonzero(np.abs(array) > LARGEST))):
            raise DataError(f"{key} has {bad} values that float32 can't hold, of {array.size}", hint="clean the data")
        counts[key] = len(array)
    if len(set(counts.values())) > 1:
        raise DataError(f"different numbers of samples: {counts}", hint="give every array the same number")
    return next(iter(counts.values()))
