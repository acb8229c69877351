"""Tasks from .npz files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edgecompile.data.checks import check_arrays, named
from edgecompile.data.expected import Expected
from edgecompile.data.labels import labelled_task, read_labels
from edgecompile.data.weights import WEIGHT_KEYS, read_weights
from edgecompile.errors import DataError, perhaps
from edgecompile.npz_file import opened
from edgecompile.task import UNLABELED, Array, Arrays, Split, Task

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test", "x_val", "y_val", "x", *WEIGHT_KEYS)


def _read_npz(path: Path) -> dict[str, dict[str, Array]]:
    """{x_train: {input: array}, ...}"""
    found: dict[str, dict[str, Array]] = {}
    try:
        with opened(path) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds a single array, not an .npz archive", hint="save it with numpy.savez")
            for key in file.files:
                base, _, name = key.partition("/")
                if base not in NPZ_KEYS:
                    raise DataError(
                        f"{path}: unknown key {key!r}; expected {', '.join(NPZ_KEYS)} (or x_train/<input>, "
                        f"y_train/<output>, ...), received {', '.join(file.files)}",
                        hint=perhaps(base, NPZ_KEYS),
                    )
                found.setdefault(base, {})[name] = file[key]
    # A pickled (object) array is a ValueError here: it is never loaded, since it can run code.
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as .npz: {error}", hint="save plain arrays with numpy.savez") from error
    for base, arrays in found.items():
        if "" in arrays and len(arrays) > 1:
            raise DataError(f"{path} has both {base} and {base}/<name>", hint=f"name every array: {base}/<name>")
        if base not in WEIGHT_KEYS:
            check_arrays(base, arrays)
    return found


def load_npz(path: Path, expected: Expected | None = None) -> Task:
    """Labels are what `data.labels` says; without any it is an unlabelled task. expected: what the model gives, None
    where it isn't known."""
    found = _read_npz(path)
    if not found:
        raise DataError(f"{path} holds no arrays; expected {', '.join(NPZ_KEYS[:4])}, or x alone")
    if "x" in found:
        if len(found) > 1:
            raise DataError(
                f"{path} has x beside {', '.join(sorted(set(found) - {'x'}))}",
                hint="x stands alone; with labels it is x_train, y_train, x_test, y_test",
            )
        return _unlabeled(path.stem, found["x"], None)
    for x, y in (("x_train", "y_train"), ("x_val", "y_val"), ("x_test", "y_test")):
        if y in found and x not in found:
            raise DataError(f"{path} has {y} but no {x}", hint=f"add {x}")
    if "y_train" in found and "y_test" not in found:
        raise DataError(
            f"{path} has training labels but no labelled test set to judge by; received {', '.join(found)}",
            hint="add x_test and y_test, held back from training",
        )
    if "x_val" in found and not {"y_val", "x_train", "y_test"} <= set(found):
        raise DataError(
            f"{path} has x_val, and lacks one of y_val, x_train and y_test; received {', '.join(found)}",
            hint="a validation set judges between stages: it needs labels, training samples and a labelled test set",
        )
    for other in ("x_val", "x_test"):
        if "x_train" in found and other in found:
            _check_same(path, found["x_train"], found[other], "x_train", other)
    if "y_test" not in found:
        read_weights(path, found, {})
        return _unlabeled(path.stem, found.get("x_train", found.get("x_test", {})), found.get("x_test"))
    labels: dict[str, Arrays] = {key: found[key] for key in ("y_train", "y_val", "y_test") if key in found}
    for key in labels:
        _check_same(path, labels[key], labels["y_test"], key, "y_test", shapes=False)
    kinds, read = read_labels(labels, expected)
    train = Split(found["x_train"], read.get("y_train")) if "x_train" in found else None
    test = Split(found["x_test"], read["y_test"])
    held = Split(found["x_val"], read["y_val"]) if "x_val" in found else None
    loss_weights, class_weights = read_weights(path, found, kinds)
    task = labelled_task(path.stem, kinds, train, test, held)
    return dataclasses.replace(task, loss_weights=loss_weights, class_weights=class_weights)


def _unlabeled(name: str, x: Arrays, test: Arrays | None) -> Task:
    """Without labels nothing is trained or judged: the same samples calibrate and serve as inputs for parity."""
    return Task(name, UNLABELED, Split(x), Split(test if test is not None else x), None, fingerprint="")


def _check_same(path: Path, train: Arrays, test: Arrays, a: str, b: str, shapes: bool = True) -> None:
    if set(train) != set(test):
        raise DataError(f"{path}: {a} has {named(train)}, {b} has {named(test)}", hint="name both alike")
    for name in train:
        if shapes and train[name].shape[1:] != test[name].shape[1:]:
            raise DataError(
                f"{path}: samples of {a} have shape {list(train[name].shape[1:])}, "
                f"those of {b} {list(test[name].shape[1:])}",
                hint="give both the model's input shape",
            )
