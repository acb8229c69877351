"""Tasks from folders of images: train/<class>/ and test/<class>/."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgecompile import metrics
from edgecompile.errors import DataError
from edgecompile.task import CLASSIFICATION, Array, Split, Task

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


def scan_images(root: Path) -> dict[str, list[tuple[Path, str]]]:
    """{"train": [(file, class), ...], "test": ...}, sorted; DataError for a folder that isn't laid out so."""
    found = {}
    classes = {}
    for split in ("train", "test"):
        if not (root / split).is_dir():
            continue
        folders = sorted(path for path in (root / split).iterdir() if path.is_dir() and path.name[0] != ".")
        classes[split] = [folder.name for folder in folders]
        found[split] = [(file, folder.name) for folder in folders for file in _images(folder)]
        if not folders:
            raise DataError(
                f"{root / split} has no class folders",
                hint=f"expected {split}/<class>/*.png (or .jpg, ...): one folder for each class",
            )
    if "test" not in found:
        what = "no test/ folder" if found else "neither a train/ nor a test/ folder"
        raise DataError(f"{root} has {what}", hint="expected train/<class>/*.png and test/<class>/*.png")
    if "train" in found and classes["train"] != classes["test"]:
        raise DataError(
            f"{root}: train/ and test/ have different classes: {sorted(set(classes['train']) ^ set(classes['test']))} "
            "are in one of them only",
            hint="give both the same class folders",
        )
    return found


def _images(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
    if not files:  # classes are numbered by their folders: an empty one would be a class nobody meant
        raise DataError(f"{folder} has no images", hint="add some (.png, .jpg, ...) or remove the folder")
    return files


def load_images(root: Path, size: tuple[int, int] | None) -> Task:
    """uint8 [n, height, width, 3], or 1 where every image is grey; `size` is (height, width) to resize to."""
    found = scan_images(root)
    names = sorted({name for _, name in found["test"]})
    grey = all(_mode(file) == "L" for files in found.values() for file, _ in files)
    first: tuple[Path, tuple[int, ...]] | None = None

    def pixels(file: Path) -> Array:
        nonlocal first
        array = _pixels(file, "L" if grey else "RGB", size)
        first = first or (file, array.shape)
        if array.shape != first[1]:
            raise DataError(
                f"images differ in size: {first[0]} is {first[1][1]}x{first[1][0]}, {file} is "
                f"{array.shape[1]}x{array.shape[0]} (width x height)",
                hint="resize them to the model's input",
            )
        return array

    splits = {
        split: Split(
            {"": np.stack([pixels(file) for file, _ in files])},
            {"": np.array([names.index(name) for _, name in files], np.int64)},
        )
        for split, files in found.items()
    }
    return Task(root.resolve().name, CLASSIFICATION, splits.get("train"), splits["test"], metrics.accuracy, "")


def _mode(file: Path) -> str:
    from PIL import Image

    with _named_errors(file), Image.open(file) as image:
        return str(image.mode)


def _pixels(file: Path, mode: str, size: tuple[int, int] | None) -> Array:
    from PIL import Image

    with _named_errors(file), Image.open(file) as image:
        converted = image.convert(mode)
        if size is not None:
            converted = converted.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        array = np.asarray(converted)
    return array[..., None] if mode == "L" else array


@contextmanager
def _named_errors(file: Path) -> Iterator[None]:
    """Pillow's errors, of many classes, as one that names the file."""
    from PIL import Image

    try:
        yield
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file} can't be read as an image: {error}", hint="replace or remove the file") from error
