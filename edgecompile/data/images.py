"""Tasks from folders of images: train/<class>/ and test/<class>/."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgecompile import metrics
from edgecompile.data.expected import ImageForm
from edgecompile.data.pixels import read_pixels
from edgecompile.errors import DataError
from edgecompile.task import CLASSIFICATION, Split, Task

IMAGE_SUFFIXES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tga", ".jp2", ".avif",
}  # fmt: skip


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


def load_images(root: Path, form: ImageForm | None) -> Task:
    """Pixels as `read_pixels` gives them; `form` is what the model takes, None where that isn't known."""
    found = scan_images(root)
    names = sorted({name for _, name in found["test"]})
    files = [file for split in found.values() for file, _ in split]
    pixels = read_pixels(files, form)
    splits, start = {}, 0
    for split, labelled in found.items():
        y = np.array([names.index(name) for _, name in labelled], np.int64)
        splits[split] = Split({"": pixels[start : start + len(y)]}, {"": y})
        start += len(y)
    return Task(root.resolve().name, CLASSIFICATION, splits.get("train"), splits["test"], metrics.accuracy, "")
