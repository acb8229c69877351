"""Tasks from folders of images: train/<class>/, test/<class>/ and, to judge between stages, val/<class>/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgecompile import metrics
from edgecompile.data.expected import ImageForm
from edgecompile.data.pixels import read_pixels
from edgecompile.errors import DataError
from edgecompile.task import CLASSIFICATION, Split, Task

IMAGE_SUFFIXES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".pfm", ".tga", ".pcx", ".psd", ".jp2", ".j2k", ".avif",
}  # fmt: skip
# A sample that is left out without a word would be missed: these are refused by name.
UNREAD_SUFFIXES = {
    ".heic", ".heif", ".jxl", ".exr", ".hdr", ".svg", ".dcm", ".fits", ".npy", ".mat", ".raw", ".dng", ".cr2", ".cr3",
    ".nef", ".arw", ".orf",
}  # fmt: skip
SPLITS = ("train", "val", "test")


def scan_images(root: Path) -> dict[str, list[tuple[Path, str]]]:
    """{"train": [(file, class), ...], "val": ..., "test": ...}, sorted; DataError for folders of another layout."""
    found = {}
    classes = {}
    for split in SPLITS:
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
    if "val" in found and "train" not in found:
        raise DataError(f"{root} has val/ and no train/", hint="val/ judges between stages what is trained")
    for split in found:
        if classes[split] != classes["test"]:
            odd = sorted(set(classes[split]) ^ set(classes["test"]))
            raise DataError(
                f"{root}: {split}/ and test/ have different classes: {odd} are in one of them only",
                hint="give both the same class folders",
            )
    return found


def _images(folder: Path) -> list[Path]:
    there = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    if unread := next((path for path in there if path.suffix.lower() in UNREAD_SUFFIXES), None):
        raise DataError(f"{unread}: images of this format aren't read", hint="save it as PNG, or TIFF with 16 bits")
    files = [path for path in there if path.suffix.lower() in IMAGE_SUFFIXES]
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
    strays = _strays(root, files)
    note = f"left out of {root}, as they are no images in a class's folder: {strays[0]}" if strays else ""
    notes = (f"{note} and {len(strays) - 1} more" if len(strays) > 1 else note,) if strays else ()
    return Task(
        root.resolve().name,
        CLASSIFICATION,
        splits.get("train"),
        splits["test"],
        metrics.accuracy,
        fingerprint="",
        validation=splits.get("val"),
        notes=notes,
    )


def _strays(root: Path, files: Sequence[Path]) -> list[Path]:
    """What lies in the splits' folders and isn't read, but for hidden files, relative to the root."""
    read = set(files)
    there = (path for split in SPLITS for path in sorted((root / split).rglob("[!.]*")) if not path.is_dir())
    return [path.relative_to(root) for path in there if path not in read]
