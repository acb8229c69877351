"""The packed form of a file: for downloads and flash, unpacked before use. Equal bytes in give equal bytes out.

xz and gzip are in Python's standard library and on every Linux board; zstd unpacks fastest and needs a package.
"""

from __future__ import annotations

import gzip
import importlib
import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgecompile.errors import CompressionGateError, EdgecompileError, MissingDependencyError, ModelError, perhaps

# (lc, lp, pb) of LZMA: how many high bits of the last byte, and how many low bits of the position, choose statistics.
# The default (3, 0, 2) suits text. In weights the last byte tells little (lc = 0); in floats and 32-bit biases the
# position does (lp = 2). On every model tried a delta filter made files larger.
_LZMA = ((0, 2, 2), (0, 0, 2), (0, 0, 0), (2, 2, 2), (3, 0, 2))
_LZMA_LARGE = _LZMA[:1]  # of files so large that trying all would take minutes
_LARGE = 16 << 20  # bytes
_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_RLE, zlib.Z_HUFFMAN_ONLY)
_MEMORY_LEVELS = (8, 9)  # more is not always smaller: it makes blocks of statistics longer
_GZIP_HEADER = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 255))  # no name, no time, densest, unknown system
_ZSTD_LEVEL = 19  # the densest whose window every decoder takes


def compress(content: bytes, form: str) -> bytes:
    """`content` in the form "xz", "gzip" or "zstd": the smallest of several settings, which any reader of it takes.

    Checked: what comes out was unpacked and compared (CompressionGateError otherwise). MissingDependencyError for zstd
    without a package that has it, EdgecompileError for an unknown form.
    """
    packed = _PACK[_known(form)](content)
    if decompress(packed, form) != content:
        raise CompressionGateError(f"{form}: unpacking gives other bytes than were packed", hint="take another form")
    return packed


def decompress(packed: bytes, form: str) -> bytes:
    """The bytes that `compress` was given; ModelError where they're damaged or of another form."""
    try:
        return _UNPACK[_known(form)](packed)
    except (lzma.LZMAError, OSError, EOFError, zlib.error, ValueError) as problem:
        raise ModelError(f"not a whole {form} file: {problem}", hint="write or download the file again") from problem


def pack(path: Path, form: str, out: Path | None = None) -> Path:
    """Write the packed form at `out`, by default beside `path` with the form's suffix; errors as for `compress`."""
    out = out or path.with_name(path.name + SUFFIXES[_known(form)])
    out.write_bytes(compress(path.read_bytes(), form))
    return out


def unpack(path: Path, out: Path) -> Path:
    """Write the unpacked file at `out`. Its form is told by its first bytes; ModelError where they're of none."""
    packed = path.read_bytes()
    form = next((form for form, magic in _MAGIC.items() if packed.startswith(magic)), None)
    if form is None:
        raise ModelError(f"{path}: expected a file packed with {', '.join(FORMS)}, received {packed[:6]!r}")
    out.write_bytes(decompress(packed, form))
    return out


def packed_size(path: Path, form: str) -> int:
    """Bytes of the file's packed form; errors as for `compress`."""
    return len(compress(path.read_bytes(), form))


def check(form: str) -> None:
    """Errors, as for `compress`, where the form can't be written here."""
    if _known(form) == "zstd":
        _zstd_module()


def _known(form: str) -> str:
    if form not in _PACK:
        raise EdgecompileError(f"unknown packed form {form!r}", hint=perhaps(form, _PACK))
    return form


def _xz(content: bytes) -> bytes:
    """The dictionary is as large as the file and no larger: unpacking takes that much memory on the board. CRC32 is
    the check that decoders in boot loaders and kernels have too."""
    dictionary = max(4096, 1 << max(0, len(content) - 1).bit_length())
    settings = _LZMA if len(content) <= _LARGE else _LZMA_LARGE
    return min((_lzma(content, min(dictionary, 1 << 26), *each) for each in settings), key=len)


def _lzma(content: bytes, dictionary: int, lc: int, lp: int, pb: int) -> bytes:
    chain: list[dict[str, Any]] = [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": 9 | lzma.PRESET_EXTREME,
            "dict_size": dictionary,
            "lc": lc,
            "lp": lp,
            "pb": pb,
        }
    ]
    return lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=chain)


def _gzip(content: bytes) -> bytes:
    """With a header of our own: Python's differs between its versions."""

    def deflate(level: int, strategy: int) -> bytes:
        engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, level, strategy)
        return engine.compress(content) + engine.flush()

    best = min((deflate(level, strategy) for level in _MEMORY_LEVELS for strategy in _STRATEGIES), key=len)
    return _GZIP_HEADER + best + struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)


def _zstd_module() -> tuple[str, Any]:
    for name in ("compression.zstd", "zstandard"):  # the first is Python's own from 3.14 on
        try:
            return name, importlib.import_module(name)
        except ImportError:
            continue
    raise MissingDependencyError(
        "the packed form zstd needs the package zstandard", hint="pip install zstandard, or take xz or gzip"
    )


def _zstd(content: bytes) -> bytes:
    name, module = _zstd_module()
    if name == "zstandard":
        return bytes(module.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compress(content))
    options = {module.CompressionParameter.compression_level: _ZSTD_LEVEL, module.CompressionParameter.checksum_flag: 1}
    return bytes(module.compress(content, options=options))


def _unzstd(packed: bytes) -> bytes:
    name, module = _zstd_module()
    try:
        if name == "zstandard":
            return bytes(module.ZstdDecompressor().decompress(packed))
        return bytes(module.decompress(packed))
    except module.ZstdError as problem:
        raise ValueError(str(problem)) from problem


_PACK: dict[str, Callable[[bytes], bytes]] = {"xz": _xz, "gzip": _gzip, "zstd": _zstd}
_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "xz": lambda packed: lzma.decompress(packed, lzma.FORMAT_XZ),
    "gzip": gzip.decompress,
    "zstd": _unzstd,
}
_MAGIC = {"xz": b"\xfd7zXZ\0", "gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
SUFFIXES = {"xz": ".xz", "gzip": ".gz", "zstd": ".zst"}
FORMS = tuple(_PACK)
