"""`--data`: from what the user names to a Task.

Five kinds of source, told apart by how they are spelt:

    digits            a built-in model's task (see `edgecompile models list`)
    my.npz            x_train, y_train, x_test, y_test, or x alone (calibration and parity only)
    folder            train/<class>/*.png, test/<class>/*.png (or .jpg, ...); pixels are 0 to 255
    labels.csv        a row an image: file, label, and its split
    module:function   a function of the user's own that returns an edgecompile.task.Task

`fingerprint` tells whether data changed without decoding it; `load` reads and checks it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import catalog
from edgecompile.artifact import Signature, sha256_file
from edgecompile.data.checks import check_arrays, check_labels
from edgecompile.data.expected import Expected, compiled_losses, of_model
from edgecompile.data.images import load_images, scan_images
from edgecompile.data.npz import load_npz
from edgecompile.data.own import arrays_digest, full_fingerprint, load_callable
from edgecompile.data.table import FILE, load_table, read_table
from edgecompile.errors import DataError, perhaps
from edgecompile.task import AUTOENCODER, Task

__all__ = ["DataSource", "Expected", "check_labels", "expected", "fingerprint", "load", "resolve"]

BUILTIN = "builtin"
NPZ = "npz"
IMAGES = "images"
TABLE = "table"
CALLABLE = "callable"
READ_BY_MODEL = (NPZ, TABLE)  # kinds of source whose labels are told from their values, and from the model

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class DataSource:
    """What --data names. `kind` is "builtin", "npz", "images", "table" or "callable"; `resolve` makes checked ones."""

    spec: str

    @property
    def kind(self) -> str:
        if self.spec in catalog.ids():
            return BUILTIN
        if self.spec.endswith(".npz"):
            return NPZ
        if self.spec.lower().endswith(".csv"):
            return TABLE
        if _CALLABLE.fullmatch(self.spec):
            return CALLABLE
        return IMAGES


def resolve(spec: str) -> DataSource:
    """The source that `spec` names; DataError with a suggestion where there is none. Reads nothing."""
    source = DataSource(spec)
    path = Path(spec)
    with _reading(spec):
        is_file, is_folder = path.is_file(), path.is_dir()
    of_file = source.kind in (NPZ, TABLE)
    if of_file and is_folder:
        hint = f"a folder of images isn't named {path.suffix}"
        raise DataError(f"--data: {spec} is a folder, expected a file", hint=hint)
    if of_file and not is_file:
        raise DataError(f"--data: there is no file {spec}", hint="check the path; it is relative to the current folder")
    if source.kind == IMAGES and not is_folder:
        if path.exists():
            raise DataError(
                f"--data: {spec} is neither an .npz or .csv file nor a folder of images",
                hint="save the arrays with numpy.savez_compressed(..., x_train=, y_train=, x_test=, y_test=)",
            )
        raise DataError(
            f"--data: {spec!r} is no .npz or .csv file, no folder of images, no module:function and no built-in model",
            hint=perhaps(spec, catalog.ids()),
        )
    return source


def fingerprint(source: DataSource) -> str | None:
    """SHA-256 of the data, from file contents alone; None for a function, whose data is known once it has run.

    DataError for files that can't be read.
    """
    with _reading(source.spec):
        if source.kind == BUILTIN:
            return catalog.fingerprint(source.spec, catalog.data_root())
        if source.kind == NPZ:
            return sha256_file(Path(source.spec))
        if source.kind == IMAGES:
            root = Path(source.spec)
            found = [file for files in scan_images(root).values() for file, _ in files]
            return _digest({file.relative_to(root).as_posix(): file for file in found})
        if source.kind == TABLE:
            table = read_table(Path(source.spec))
            return _digest({"": table.path, **dict(zip(table.columns[FILE], table.files, strict=True))})
    return None


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0{sha256_file(file)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def expected(
    signature: Signature, compiled: Mapping[str, Any] | None = None, kinds: Mapping[str, str] | None = None
) -> Expected:
    """What a model has to do with how data is read. compiled: by output, what `loaders.compiled` tells of its file.
    kinds: of labels, by output, where they were decided before."""
    return of_model(signature, compiled or {}, kinds or {})


def load(source: DataSource, expected: Expected | None = None) -> Task:
    """The task of a source, read and checked.

    expected: what the model takes and gives. Images of a folder are brought to it (size, channels); it decides what
    labels are where their values leave a doubt; its own loss is the task's, unless that has one. None where it isn't
    known: images stay as they are, and must be of one size.
    DataError for everything that is missing, unreadable, damaged, empty, contradictory, NaN or infinite. Callables
    of a function's task raise DataError, too, whatever they raised before.
    """
    with _reading(source.spec):
        if source.kind == BUILTIN:
            task: Task = catalog.get(source.spec).task(catalog.data_root())
        elif source.kind == NPZ:
            task = load_npz(Path(source.spec), expected)
        elif source.kind == IMAGES:
            task = load_images(Path(source.spec), expected.image if expected else None)
        elif source.kind == TABLE:
            task = load_table(Path(source.spec), expected)
        else:
            task, code = load_callable(source.spec)
    _check(task)
    if expected is not None and task.loss is None:
        losses, loss_weights = compiled_losses(task, expected)
        task = dataclasses.replace(task, losses=losses, loss_weights=loss_weights)
    if source.kind == CALLABLE:
        return dataclasses.replace(task, fingerprint=full_fingerprint(task, code))
    if not task.fingerprint:
        task = dataclasses.replace(task, fingerprint=fingerprint(source) or arrays_digest(task))
    return task


@contextmanager
def _reading(spec: str) -> Iterator[None]:
    """What the operating system says of a read, as an error of the data's: elsewhere it passes for a failed write."""
    try:
        yield
    except OSError as problem:
        place = problem.filename or spec
        raise DataError(
            f"--data {spec}: {place} can't be read: {problem.strerror or problem}",
            hint="check that it is there, and that you may read it",
        ) from problem


def _check(task: Task) -> None:
    if task.train is None and task.test is None:
        raise DataError(f"task {task.name!r} has neither training nor test samples")
    for name, split in task.splits.items():
        n = check_arrays(f"x_{name}", split.x)
        if split.groups is not None and len(split.groups) != n:
            raise DataError(f"x_{name} has {n} samples and {len(split.groups)} groups", hint="give one for each sample")
        if split.y is None:
            continue
        rows = check_arrays(f"y_{name}", split.y)
        grouped = task.kind == AUTOENCODER and n % rows == 0
        if rows != n and not grouped:
            raise DataError(
                f"x_{name} has {n} samples, y_{name} has {rows} labels", hint="give one label for each sample"
            )
    test = task.test
    if test is not None and test.y is not None and len(next(iter(test.y.values()))) < 2:
        raise DataError("the test set has one labelled sample, too few for any comparison", hint="give more")
