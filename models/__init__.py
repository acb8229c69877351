"""Built-in models, one folder each, and what they share: finding and reading their data files.

Weights are never shipped: they come from a file the user names or from `edgecompile models train ID`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.catalog import DATA_VARIABLE
from edgecompile.errors import DataError

Array = npt.NDArray[Any]


def require(model: str, root: Path | None, patterns: Sequence[str]) -> list[Path]:
    """Files under `root` that match each pattern, sorted; DataError that names what is missing."""
    if root is None:
        raise DataError(
            f"the data of {model!r} is not here: {DATA_VARIABLE} is not set (needed in it: {', '.join(patterns)})",
            hint=f"set {DATA_VARIABLE} to the folder that holds these files",
        )
    found = {pattern: sorted(path for path in root.glob(pattern) if path.is_file()) for pattern in patterns}
    missing = [pattern for pattern, files in found.items() if not files]
    if missing:
        raise DataError(
            f"the data of {model!r} is incomplete: {DATA_VARIABLE} ({root}) lacks {', '.join(missing)}",
            hint=f"put the files there, or point {DATA_VARIABLE} to the folder that has them",
        )
    return [path for files in found.values() for path in files]


def read_image(path: Path) -> Array:
    """uint8 [height, width, 3]."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as an image: {error}", hint="restore the file") from error


def read_sprites(files: Sequence[Path], size: int) -> Array:
    """Square images of `size` pixels stacked vertically in each file: uint8 [n, size, size, 3]."""
    return np.concatenate([read_image(file).reshape(-1, size, size, 3) for file in files])


def read_labels(path: Path, expected: int) -> Array:
    """The `label` column of a CSV file: int64 [n]; DataError if there are not `expected` rows."""
    with path.open(newline="") as file:
        labels = np.array([int(row["label"]) for row in csv.DictReader(file)], np.int64)
    if len(labels) != expected:
        raise DataError(f"{path} has {len(labels)} labels for {expected} images", hint="restore the file")
    return labels


def read_npz(path: Path, *keys: str) -> list[Array]:
    """The arrays under `keys`; DataError if the file is damaged or lacks one."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[key] for key in keys]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} can't be read: {error}", hint="restore the file") from error
