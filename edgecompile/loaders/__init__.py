"""Model files in: `load` finds the format by content, checks that the file is safe, and reads it.

A new format is one module with `load(path, options)` and one line in LOADERS, plus a case in `sniff`.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from edgecompile import lfs, plain_json
from edgecompile.errors import ModelError
from edgecompile.loaders import keras2, keras3, saved_model, tflite
from edgecompile.loaders.base import LoadOptions, SourceModel
from edgecompile.loaders.keras2 import guarded

__all__ = ["LOADERS", "LoadOptions", "SourceModel", "load", "sniff"]

LOADERS: dict[str, ModuleType] = {
    "keras3": keras3,
    "keras": keras2,
    "saved_model": saved_model,
    "tflite": tflite,
}

EXPECTED = "a .keras or .h5 file, a SavedModel folder or a .tflite file"
AGAIN = "save or download the file again"
# What zipfile and zlib raise of a file that is damaged or made to be.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, struct.error)


def load(path: Path, options: LoadOptions) -> SourceModel:
    """Load a model of any known format.

    ModelError: missing, damaged, or of an unknown format; UnsafeModelError: carries code; UnsupportedLayerError: a
    layer class that neither Keras nor --custom knows; NonFiniteError: NaN in weights; DataError: unknown input shape.
    """
    loader = LOADERS[sniff(path)]
    # What a file holds is behind all that happens here: nothing of it is a fault of ours.
    loaded: SourceModel = guarded(path, lambda: loader.load(path, options))
    return loaded


def sniff(path: Path) -> str:
    """The key in LOADERS of the format that `path` holds, by its content; ModelError where there is none."""
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder; expected {EXPECTED}")
    if path.is_dir():
        return _sniff_folder(path)
    if not path.is_file():
        raise ModelError(f"{path}: neither a file nor a folder; expected {EXPECTED}")  # a pipe would be waited for
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror}") from error
    if not head:
        raise ModelError(f"{path}: the file is empty; expected {EXPECTED}", hint=AGAIN)
    if lfs.is_pointer(path):
        raise ModelError(f"{path}: a pointer of Git LFS in place of the model; expected {EXPECTED}", hint=lfs.CURE)
    if head.startswith(b"PK"):
        return _sniff_zip(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _sniff_hdf5(path)
    if head[4:8] == b"TFL3":
        return "tflite"
    raise ModelError(
        f"{path}: not a model: expected {EXPECTED}, received a file that begins with {head!r}",
        hint="a frozen graph (.pb), ONNX or PyTorch file must be exported to one of these first",
    )


def _sniff_folder(path: Path) -> str:
    pb = path / "saved_model.pb"
    if not pb.is_file():
        raise ModelError(f"{path}: a folder without saved_model.pb; expected {EXPECTED}")
    if pb.stat().st_size == 0:
        raise ModelError(f"{pb}: the file is empty", hint=AGAIN)
    return "saved_model"


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            damaged = archive.testzip()
            if damaged:
                raise ModelError(f"{path}: {damaged} inside it is damaged (wrong checksum)", hint=AGAIN)
            missing = {"config.json", "metadata.json"} - names
            if missing:
                raise ModelError(
                    f"{path}: a zip file without {' and '.join(sorted(missing))}: not a .keras file",
                    hint=f"give {EXPECTED}",
                )
            return _by_version(plain_json.parse(archive.read("metadata.json")).get("keras_version"), path)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        struct.error,
    ) as error:
        raise ModelError(f"{path}: the .keras file is damaged or cut short: {error}", hint=AGAIN) from error
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path}: metadata.json inside it is not valid: {error}", hint=AGAIN) from error


def _sniff_hdf5(path: Path) -> str:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            version = file.attrs.get("keras_version")
    except Exception as error:  # h5py raises all sorts, depending on what is damaged
        raise ModelError(f"{path}: the HDF5 file is damaged or cut short: {error}", hint=AGAIN) from error
    version = version.decode(errors="replace") if isinstance(version, bytes) else version
    # Without a version it is a weights file or very old: keras2 says which.
    return "keras" if version is None else _by_version(version, path)


def _by_version(version: Any, path: Path) -> str:
    """Keras 3 writes its version; tf-keras and all before it write 2.x (or 1.x)."""
    major = str(version).partition(".")[0]
    if not major.isdigit():
        raise ModelError(f"{path}: the Keras version in it is {version!r}; expected 2.x or 3.x", hint=AGAIN)
    return "keras3" if int(major) >= 3 else "keras"
