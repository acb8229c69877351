"""Bytes of a .tflite that inference doesn't need are left out; what the model computes stays as it is, to the bit.

Left out: names of subgraphs that nothing looks up, ranges kept "for importing back into tensorflow" (so the schema),
the description, metadata about the conversion, buffers, operator codes and vectors that say nothing. Names of tensors
become short: LiteRT needs none, but other readers tell tensors apart by them (MNN 3.6 makes an empty model of a file
without, and says nothing). Stored once: equal constants, quantization parameters, shapes, options (layout.py). What
must stay was looked up in LiteRT's interpreter_builder.cc and its kernels: one zero point for each scale, scales of
biases (XNNPACK refuses the operator without), empty tables of options, constants without elements.
"""

from __future__ import annotations

import io
import itertools
import shutil
import string
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.tflite_file.graph import TfliteModel
from edgecompile.tflite_file.layout import CompactBuilder
from edgecompile.tflite_file.parts import PARTS, bytes_by_part
from edgecompile.tflite_file.structure import IDENTIFIER
from edgecompile.tflite_file.writing import tables_of

# What converters note about themselves. Other metadata (labels, normalization, precision a delegate may use) is read
# by those who run the model.
_NEEDLESS = frozenset({b"min_runtime_version", b"CONVERSION_METADATA"})
# LiteRT's acceleration tests know their subgraphs by this prefix.
_NAMED_SUBGRAPHS = b"VALIDATION:"
_DIGITS = string.digits + string.ascii_lowercase
_LARGEST = 1 << 31
_LARGEST_OLD_CODE = 127  # PLACEHOLDER_FOR_GREATER_OP_CODES
_ZIP_ENTRY, _ZIP_END = b"PK\x01\x02", 22


@dataclass(frozen=True)
class Slimmed:
    """`saved`: bytes by part (parts.py); they add up to bytes_before - bytes_after, so one may be negative.

    left: why the file was left as it was, else None.
    """

    path: Path
    bytes_before: int
    bytes_after: int
    saved: dict[str, int]
    left: str | None = None


def slim(model: TfliteModel, out: Path) -> Slimmed:
    """Write the file at `out`, never larger than the model's. The same model gives the same bytes, and a slim model
    its own. Constants behind the FlatBuffers part are taken in. Files that can't be written again whole (2 GiB and
    more, fields that this schema doesn't know) are copied as they are, and `left` says why."""
    from ai_edge_litert import schema_py_generated as schema

    content = model.path.read_bytes()
    tail, left = _appended(content)
    tables = tables_of(model)
    left = left or _outside(tables, len(content)) or _unknown(schema, content)
    slimmer = content
    if left is None:
        _clear(tables)
        _shorten_names(tables)
        _clear_metadata(tables)
        _merge_buffers(tables)
        _merge_codes(tables)
        builder = CompactBuilder()
        slimmer = builder.finish(tables.Pack(builder), IDENTIFIER)
        left = _lost(schema, tables, slimmer)
        slimmer += _moved(tail, len(content) - len(tail), len(slimmer))
    if left is None and len(slimmer) < len(content):
        out.write_bytes(slimmer)
    else:
        shutil.copyfile(model.path, out)
    before, after = bytes_by_part(model.path, len(tail)), bytes_by_part(out, len(tail))
    saved = {part: before[part] - after[part] for part in PARTS}
    return Slimmed(out, len(content), out.stat().st_size, saved, left)


# What can't be written again ---------------------------------------------------------------------


def _outside(tables: Any, size: int) -> str | None:
    if size >= _LARGEST:
        return f"it has {size} bytes, and FlatBuffers' own offsets end at {_LARGEST}"
    operators = [operator for graph in tables.subgraphs for operator in graph.operators or []]
    if any(operator.largeCustomOptionsOffset > 1 for operator in operators):
        return "options of custom operators lie outside the FlatBuffers part of the file"
    return None


def _unknown(schema: Any, content: bytes) -> str | None:
    """A newer schema's fields and options would be lost without a word: generated code reads what it knows."""
    model = schema.Model.GetRootAs(content)
    for name, table in _reachable(schema, model):
        if name is None:
            return "it has options of operators that this version of LiteRT's schema doesn't know"
        vtable = table.Pos - struct.unpack_from("<i", content, table.Pos)[0]
        slots = struct.unpack_from("<H", content, vtable)[0] // 2 - 2
        present = struct.unpack_from(f"<{slots}H", content, vtable + 4)
        if any(present[_known_slots(schema, name) :]):
            return f"a table ({name}) has fields that this version of LiteRT's schema doesn't know"
    return None


def _reachable(schema: Any, model: Any) -> Iterator[tuple[str | None, Any]]:
    """(name in the schema, table) of all that newer versions have extended so far; no name for unknown options."""

    def each(owner: Any, field: str) -> Iterator[Any]:
        return (getattr(owner, field)(i) for i in range(getattr(owner, f"{field}Length")()))

    yield "Model", model._tab
    for field in ("OperatorCodes", "Buffers", "Metadata", "SignatureDefs"):
        for item in each(model, field):
            yield type(item).__name__, item._tab
    for graph in each(model, "Subgraphs"):
        yield "SubGraph", graph._tab
        for tensor in each(graph, "Tensors"):
            yield "Tensor", tensor._tab
            parameters = tensor.Quantization()
            if parameters is not None:
                yield "QuantizationParameters", parameters._tab
                yield from _member(schema.QuantizationDetails, parameters.DetailsType(), parameters.Details())
            if tensor.Sparsity() is not None:
                yield "SparsityParameters", tensor.Sparsity()._tab
        for operator in each(graph, "Operators"):
            yield "Operator", operator._tab
            yield from _member(schema.BuiltinOptions, operator.BuiltinOptionsType(), operator.BuiltinOptions())
            yield from _member(schema.BuiltinOptions2, operator.BuiltinOptions2Type(), operator.BuiltinOptions2())


def _member(union: Any, kind: int, table: Any) -> Iterator[tuple[str | None, Any]]:
    if table is not None and kind:
        yield next((name for name, value in vars(union).items() if value == kind), None), table


def _known_slots(schema: Any, name: str) -> int:
    counted: list[int] = []

    class Counter:
        def StartObject(self, slots: int) -> None:
            counted.append(slots)

    getattr(schema, f"{name}Start")(Counter())
    return counted[0]


def _lost(schema: Any, tables: Any, written: bytes) -> str | None:
    """What is read back must be what was meant to be written."""
    if _same(tables, schema.ModelT.InitFromPackedBuf(written, 0)):
        return None
    return "LiteRT's schema doesn't read back what it writes for this file"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, str | bytes) and isinstance(b, str | bytes):
        return _bytes(a) == _bytes(b)
    if isinstance(a, np.ndarray | list) and isinstance(b, np.ndarray | list):
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return a.dtype == b.dtype and a.tobytes() == b.tobytes()
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray | list) or isinstance(b, np.ndarray | list):
        return False
    if hasattr(a, "__dict__"):
        return type(a) is type(b) and all(_same(value, vars(b)[name]) for name, value in vars(a).items())
    return bool(a == b) or (a != a and b != b)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


# What is left out --------------------------------------------------------------------------------


def _clear(tables: Any) -> None:
    """Fields that say what their absence says too."""
    tables.description = None
    for graph in tables.subgraphs:
        for tensor in graph.tensors or []:
            parameters = tensor.quantization
            if parameters is not None:
                parameters.min = parameters.max = None
                if not _length(parameters.scale) and parameters.details is None:
                    tensor.quantization = None
            if tensor.shapeSignature is not None and list(tensor.shapeSignature) == list(_listed(tensor.shape)):
                tensor.shapeSignature = None
        for operator in graph.operators or []:
            if not np.any(_listed(operator.mutatingVariableInputs)):
                operator.mutatingVariableInputs = None
            if not _length(operator.intermediates):
                operator.intermediates = None
            operator.largeCustomOptionsOffset = operator.largeCustomOptionsSize = 0


def _shorten_names(tables: Any) -> None:
    """Every tensor gets a name of its own in the file: of the main subgraph's inputs and outputs, what the signature
    calls them (stored once for both), or the name they have where no signature names them; of all others, a number."""
    main, named = tables.subgraphs[0], _named_by_signatures(tables)
    edges = dict.fromkeys(int(i) for i in (*_listed(main.inputs), *_listed(main.outputs)))
    # What no signature names goes by this name: it stays, whatever it is.
    unsigned = {i: main.tensors[i].name for i in edges if i not in named}
    taken = {_bytes(name or b"") for name in (*unsigned.values(), *named.values())}
    short = (name for name in map(_number_name, itertools.count()) if name not in taken)
    given = {_bytes(name or b"") for name in unsigned.values()}
    for index, graph in enumerate(tables.subgraphs):
        if not _bytes(graph.name or b"").startswith(_NAMED_SUBGRAPHS):
            graph.name = None
        for at, tensor in enumerate(graph.tensors or []):
            if index == 0 and at in unsigned:
                continue
            own = named.get(at, b"") if index == 0 and at in edges else b""
            tensor.name = own if own and own not in given else next(short)
            given.add(tensor.name)


def _named_by_signatures(tables: Any) -> dict[int, bytes]:
    """{tensor of the main subgraph: its name}, of the first signature that has one; an input's comes first where a
    tensor is both."""
    found: dict[int, bytes] = {}
    for signature in tables.signatureDefs or []:
        if signature.subgraphIndex == 0:
            for entry in (*_listed(signature.inputs), *_listed(signature.outputs)):
                found.setdefault(int(entry.tensorIndex), _bytes(entry.name or b""))
    return found


def _number_name(number: int) -> bytes:
    """0, 1, ... z, 10, ...: up to three of these letters take the room of one."""
    digits = _DIGITS[number % len(_DIGITS)]
    while number := number // len(_DIGITS):
        digits = _DIGITS[number % len(_DIGITS)] + digits
    return digits.encode()


def _clear_metadata(tables: Any) -> None:
    kept = [entry for entry in tables.metadata or [] if _bytes(entry.name or b"") not in _NEEDLESS]
    tables.metadata = kept or None
    if not _length(tables.metadataBuffer):
        tables.metadataBuffer = None


def _merge_buffers(tables: Any) -> None:
    """Buffers in use, each once, in the order of their use; buffer 0 is empty and stands for every one without data.

    A vector of no bytes is not the same as none: it makes a tensor constant.
    """
    old, new = tables.buffers, [type(tables.buffers[0])()]
    places: dict[bytes | None, int] = {None: 0}

    def move(index: int) -> int:
        data = None if not index or old[index].data is None else np.asarray(old[index].data, np.uint8)
        key = None if data is None else data.tobytes()
        if key not in places:
            places[key] = len(new)
            new.append(type(old[0])(data=data))
        return places[key]

    for graph in tables.subgraphs:
        for tensor in graph.tensors or []:
            tensor.buffer = move(tensor.buffer)
    for entry in tables.metadata or []:
        entry.buffer = move(entry.buffer)
    if tables.metadataBuffer is not None:
        tables.metadataBuffer = [move(int(index)) for index in tables.metadataBuffer]
    tables.buffers = new


def _merge_codes(tables: Any) -> None:
    """Operator codes in use, each once, the most used first: its number, 0, takes no room in an operator. Older readers
    look into the field for 7 bits alone, newer ones take the larger of both."""
    operators = [operator for graph in tables.subgraphs for operator in graph.operators or []]
    codes = tables.operatorCodes or []
    keys = [(c.deprecatedBuiltinCode, c.builtinCode, _bytes(c.customCode or b""), c.version) for c in codes]
    uses: dict[Any, int] = {}
    for operator in operators:
        uses[keys[operator.opcodeIndex]] = uses.get(keys[operator.opcodeIndex], 0) + 1
    ranked = sorted(uses, key=lambda key: -uses[key])
    tables.operatorCodes = [codes[keys.index(key)] for key in ranked]
    for code in tables.operatorCodes:
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
        code.deprecatedBuiltinCode = min(code.builtinCode, _LARGEST_OLD_CODE)
    for operator in operators:
        operator.opcodeIndex = ranked.index(keys[operator.opcodeIndex])


def _length(vector: Any) -> int:
    return 0 if vector is None else len(vector)


def _listed(vector: Any) -> Any:
    return [] if vector is None else vector


# Files appended to the model ---------------------------------------------------------------------


def _appended(content: bytes) -> tuple[bytes, str | None]:
    """(the ZIP archive after the FlatBuffers part, why it can't be moved). Labels are kept in one."""
    stream = io.BytesIO(content)
    if not zipfile.is_zipfile(stream):
        return b"", None
    try:
        with zipfile.ZipFile(stream) as archive:
            start = min((entry.header_offset for entry in archive.infolist()), default=len(content))
            tail = content[start:]
            _moved(tail, start, start)
    except (zipfile.BadZipFile, struct.error, ValueError):
        return b"", "the archive appended to it is of an unusual form"
    return tail, None


def _moved(tail: bytes, before: int, after: int) -> bytes:
    """The archive as it must be when it starts at `after` instead of `before`: the offsets in its directory count from
    the start of the whole file. ValueError for an archive with a comment or in the form for large files."""
    if not tail:
        return tail
    moved, end = bytearray(tail), len(tail) - _ZIP_END
    count, size, start = struct.unpack_from("<HII", moved, end + 10)
    at = end - size
    if start == at >= 0:  # some writers count from the start of the archive
        return tail
    if moved[end : end + 4] != b"PK\x05\x06" or at < 0 or start != at + before:
        raise ValueError("expected a plain ZIP archive")
    struct.pack_into("<I", moved, end + 16, at + after)
    for _ in range(count):
        if moved[at : at + 4] != _ZIP_ENTRY:
            raise ValueError("expected an entry of the archive's directory")
        lengths = struct.unpack_from("<HHH", moved, at + 28)
        struct.pack_into("<I", moved, at + 42, struct.unpack_from("<I", moved, at + 42)[0] - before + after)
        at += 46 + sum(lengths)
    return bytes(moved)
