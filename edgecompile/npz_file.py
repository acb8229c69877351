"""Opening an .npz that others wrote: what its directory and headers say is checked before anything is decompressed."""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import lfs
from edgecompile.units import format_size

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MOST_DEFLATED = 1032  # bytes that one compressed byte can stand for (RFC 1951)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What zipfile, zlib and NumPy raise of a file that is damaged or made to be.
_FOREIGN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError, struct.error,
            OverflowError, MemoryError, SyntaxError, TypeError)  # fmt: skip


@contextmanager
def opened(path: Path | str) -> Iterator[Any]:
    """What numpy.load gives: an NpzFile, or the array of an .npy; never a pickle.

    OSError where the file can't be read; ValueError for all that is wrong in it, when it is opened or while the block
    reads its arrays: encrypted or otherwise compressed members, members that are no .npy, sizes that don't fit each
    other or this machine's memory.
    """
    try:
        if zipfile.is_zipfile(path):
            _check(Path(path))
        elif lfs.is_pointer(Path(path)):
            raise ValueError(f"it is a pointer of Git LFS: {lfs.CURE}")
        file = np.load(path, allow_pickle=False)
        with file if isinstance(file, np.lib.npyio.NpzFile) else nullcontext():
            yield file
    except _FOREIGN as problem:
        raise ValueError(f"{type(problem).__name__}: {problem}") from problem


def _check(path: Path) -> None:
    total = 0
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise ValueError(f"{next(n for n in names if names.count(n) > 1)} is in it twice")
        for member in archive.infolist():
            _check_member(archive, member)
            total += member.file_size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total > memory:
        raise ValueError(f"its arrays take {format_size(total)}, this machine has {format_size(memory)} of memory")


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    name = member.filename
    if member.flag_bits & 1:
        raise ValueError(f"{name} is encrypted")
    if member.compress_type not in _METHODS:
        raise ValueError(f"{name} is compressed by method {member.compress_type}, which NumPy never takes")
    if not name.endswith(".npy"):
        raise ValueError(f"{name} is no array (.npy)")
    most = member.compress_size * (1 if member.compress_type == zipfile.ZIP_STORED else _MOST_DEFLATED)
    if member.file_size > most:
        raise ValueError(f"{name} can't be {member.file_size} bytes: {member.compress_size} compressed ones hold less")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{name} is of version {'.'.join(map(str, version))} of .npy, expected 1.0 or 2.0")
        try:
            shape, _, dtype = _HEADERS[version](file)
        except Exception as problem:  # it is Python's text of a dict: NumPy raises what its parser does
            raise ValueError(f"{name} has no header of an array: {problem}") from None
        begins = file.tell()
    if min(shape, default=0) < 0:
        raise ValueError(f"{name} has the shape {shape}")
    expected = begins + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and expected != member.file_size:
        raise ValueError(f"{name} has {member.file_size} bytes, its header's shape {list(shape)} takes {expected}")
