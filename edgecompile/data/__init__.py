"""`--data`: from what the user names to a Task.

Four kinds of source, told apart by how they are spelt:

    digits            a built-in model's task (see `edgecompile models list`)
    my.npz            x_train, y_train, x_test, y_test, or x alone (calibration and parity only)
    folder            train/<class>/*.png, test/<class>/*.png (or .jpg, ...); pixels stay uint8 0..255
    module:function   a function of the user's own that returns an edgecompile.task.Task

`fingerprint` tells whether data changed without decoding it; `load` reads and checks it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecompile import catalog
from edgecompile.artifact import sha256_file
from edgecompile.data.checks import check_arrays, check_labels, named
from edgecompile.data.images import load_images, scan_images
from edgecompile.data.npz import load_npz
from edgecompile.errors import DataError, EdgecompileError, perhaps
from edgecompile.task import AUTOENCODER, Task

__all__ = ["DataSource", "check_labels", "fingerprint", "load", "resolve"]

BUILTIN = "builtin"
NPZ = "npz"
IMAGES = "images"
CALLABLE = "callable"

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class DataSource:
    """What --data names. `kind` is "builtin", "npz", "images" or "callable"; `resolve` makes checked ones."""

    spec: str

    @property
    def kind(self) -> str:
        if self.spec in catalog.ids():
            return BUILTIN
        if self.spec.endswith(".npz"):
            return NPZ
        if _CALLABLE.fullmatch(self.spec):
            return CALLABLE
        return IMAGES


def resolve(spec: str) -> DataSource:
    """The source that `spec` names; DataError with a suggestion where there is none. Reads nothing."""
    source = DataSource(spec)
    path = Path(spec)
    if source.kind == NPZ and not path.is_file():
        raise DataError(f"--data: there is no file {spec}", hint="check the path; it is relative to the current folder")
    if source.kind == IMAGES and not path.is_dir():
        if path.exists():
            raise DataError(
                f"--data: {spec} is neither an .npz file nor a folder of images",
                hint="save the arrays with numpy.savez_compressed(..., x_train=, y_train=, x_test=, y_test=)",
            )
        raise DataError(
            f"--data: {spec!r} is no .npz file, no folder of images, no module:function and no built-in model",
            hint=perhaps(spec, catalog.ids()),
        )
    return source


def fingerprint(source: DataSource) -> str | None:
    """SHA-256 of the data, from file contents alone; None for a function, whose data is known once it has run."""
    if source.kind == BUILTIN:
        return catalog.fingerprint(source.spec, catalog.data_root())
    if source.kind == NPZ:
        return sha256_file(Path(source.spec))
    if source.kind == IMAGES:
        root = Path(source.spec)
        digest = hashlib.sha256()
        for files in scan_images(root).values():
            for file, _ in files:
                digest.update(f"{file.relative_to(root).as_posix()}\0{sha256_file(file)}\n".encode())
        return digest.hexdigest()
    return None


def load(source: DataSource, outputs: int | None = None, *, image_size: tuple[int, int] | None = None) -> Task:
    """The task of a source, read and checked.

    outputs: how many outputs the model has; labels for another number of them are a DataError.
    image_size: (height, width) that a folder's images are resized to (bilinear); None leaves them as they are, and
    they must be of one size.
    DataError for everything that is missing, damaged, empty, contradictory, NaN or infinite.
    """
    if source.kind == BUILTIN:
        task: Task = catalog.get(source.spec).task(catalog.data_root())
    elif source.kind == NPZ:
        task = load_npz(Path(source.spec))
    elif source.kind == IMAGES:
        task = load_images(Path(source.spec), image_size)
    else:
        task = _load_callable(source.spec)
    _check(task, outputs)
    if not task.fingerprint:
        task = dataclasses.replace(task, fingerprint=fingerprint(source) or _digest(task))
    return task


def _check(task: Task, outputs: int | None) -> None:
    if task.train is None and task.test is None:
        raise DataError(f"task {task.name!r} has neither training nor test samples")
    for name, split in (("train", task.train), ("test", task.test)):
        if split is None:
            continue
        n = check_arrays(f"x_{name}", split.x)
        if split.y is None:
            continue
        rows = check_arrays(f"y_{name}", split.y)
        grouped = task.kind == AUTOENCODER and n % rows == 0
        if rows != n and not grouped:
            raise DataError(
                f"x_{name} has {n} samples, y_{name} has {rows} labels", hint="give one label for each sample"
            )
        if outputs is not None and task.kind != AUTOENCODER and len(split.y) != outputs:
            raise DataError(
                f"y_{name} labels {len(split.y)} outputs {named(split.y)}, the model has {outputs}",
                hint=f"label each output: y_{name}/<output>",
            )
    test = task.test
    if test is not None and test.y is not None and len(next(iter(test.y.values()))) < 2:
        raise DataError("the test set has one labelled sample, too few for any comparison", hint="give more")


def _load_callable(spec: str) -> Task:
    module_name, _, function_name = spec.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
        found: object = module
        for part in function_name.split("."):
            found = getattr(found, part)
        if not callable(found):
            raise DataError(f"--data {spec}: {function_name} is a {type(found).__name__}, not a function")
        task = found()
    except EdgecompileError:
        raise
    except Exception as error:  # the user's own code may raise anything; the message says what
        raise DataError(
            f"--data {spec} failed: {type(error).__name__}: {error}",
            hint=f"it must work as `python -c 'from {module_name} import {function_name}'` in this folder",
        ) from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    if not isinstance(task, Task):
        raise DataError(
            f"--data {spec} returned a {type(task).__name__}, expected an edgecompile.task.Task",
            hint="build one: Task(name, kind, train, test, metric, fingerprint)",
        )
    return task


def _digest(task: Task) -> str:
    """Fingerprint of arrays: for data of which nothing else is known."""
    digest = hashlib.sha256(f"{task.name} {task.kind} {task.metric.name if task.metric else None}".encode())
    for name, split in (("train", task.train), ("test", task.test)):
        for part, arrays in (("x", split.x), ("y", split.y or {})) if split else ():
            for key, array in sorted(arrays.items()):
                digest.update(f"\0{name} {part} {key} {array.dtype.str} {array.shape}\0".encode())
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
