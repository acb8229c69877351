"""Are all the offsets of a FlatBuffers file inside the file?

The Python FlatBuffers library reads slices that end early without a word and takes any length a file
states, so this pass goes first: it visits every table the reader will visit and checks the bounds of the
tables, their vtables, vectors and strings. It can't be made to run long: shared parts are paid for from a budget.
"""

from __future__ import annotations

import io
import struct
import zipfile

IDENTIFIER = b"TFL3"

# Fields by slot, as in LiteRT's schema: a number is a scalar of that many bytes; "string"; "vector4" is a
# vector of 4-byte elements; "Name" a table; "[Name]" a vector of tables; "table" a table whose inside is
# not described here (options of operators); "skip" an offset that is never followed.
_LAYOUT: dict[str, tuple[int | str, ...]] = {
    "Model": (
        4,  # version
        "[OperatorCode]",
        "[SubGraph]",
        "string",  # description
        "[Buffer]",
        "vector4",  # metadata_buffer
        "[Metadata]",
        "[SignatureDef]",
        "skip",  # external_buffer_groups
        "skip",  # external_buffers
    ),
    "OperatorCode": (1, "string", 4, 4),
    "SubGraph": ("[Tensor]", "vector4", "vector4", "[Operator]", "string", 4),
    # shape, type, buffer, name, quantization, is_variable, sparsity, shape_signature, has_rank, variants, external
    "Tensor": ("vector4", 1, 4, "string", "QuantizationParameters", 1, "table", "vector4", 1, "skip", 4),
    # min, max, scale, zero_point, details_type, details, quantized_dimension
    "QuantizationParameters": ("vector4", "vector4", "vector4", "vector8", 1, "table", 4),
    # opcode_index, inputs, outputs, options type and options, custom options and format, mutating inputs,
    # intermediates, offset and size of large custom options, options 2 type and options 2, debug index
    "Operator": (4, "vector4", "vector4", 1, "table", "vector1", 1, "vector1", "vector4", 8, 8, 1, "table", 4),
    "Buffer": ("vector1", 8, 8),
    "Metadata": ("string", 4),
    # inputs, outputs, key, a slot no longer used, subgraph_index
    "SignatureDef": ("[TensorMap]", "[TensorMap]", "string", "skip", 4),
    "TensorMap": ("string", 4),
    "table": (),
}

# Writers share equal strings and vectors, but not eightfold on average over a whole file.
_SHARING = 8
_MOST_TABLES = 1_000_000  # as the C++ verifier of FlatBuffers has it


class Malformed(ValueError):
    """What is wrong with the bytes, without the file's name."""


def verify(content: bytes) -> None:
    """Raise Malformed unless `content` is a whole .tflite file, as far as offsets and lengths can tell."""
    if len(content) < 8 or content[4:8] != IDENTIFIER:
        raise Malformed(f"expected a .tflite file (bytes 4 to 8 are {IDENTIFIER!r}), received {content[4:8]!r}")
    _Walk(content).model()


class _Walk:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.extent = 8
        self.tables = 0
        self.budget = _SHARING * self.size + 4096

    def model(self) -> None:
        self.table(self.indirect(0, "the root"), "Model")
        # A FlatBuffers file is built in units of at least 4 bytes: less means that its padding was cut off.
        whole = -(-self.extent // 4) * 4
        if self.size < whole:
            raise Malformed(f"the file is truncated: expected at least {whole} bytes, received {self.size}")
        # Labels and vocabularies may follow as a ZIP archive, whose directory is at its end.
        appended = b"PK\x03\x04" in self.content[self.extent : self.extent + 64]
        if appended and not zipfile.is_zipfile(io.BytesIO(self.content)):
            raise Malformed(
                f"the file is truncated: expected a whole ZIP archive after byte {self.extent}, "
                f"received {self.size - self.extent} bytes without its directory"
            )

    def span(self, start: int, length: int, what: str) -> None:
        """`length` bytes from `start` are in the file; they're paid for."""
        if start < 0 or start + length > self.size:
            raise Malformed(
                f"the file is truncated or damaged: {what} should end at byte {start + length}, "
                f"the file has {self.size} bytes"
            )
        self.extent = max(self.extent, start + length)
        self.budget -= length
        if self.budget < 0:
            raise Malformed("the file is damaged: its parts overlap many times over")

    def number(self, code: str, at: int, what: str) -> int:
        self.span(at, struct.calcsize(code), what)
        return int(struct.unpack_from(code, self.content, at)[0])

    def indirect(self, at: int, what: str) -> int:
        offset = self.number("<I", at, what)
        if offset < 4:
            raise Malformed(f"the file is damaged: {what} points to itself")
        return at + offset

    def vector(self, at: int, width: int, what: str) -> tuple[int, int]:
        """(first element, count) of the vector at `at`."""
        count = self.number("<I", at, what)
        self.span(at + 4, count * width, f"{what} ({count} elements of {width} bytes)")
        return at + 4, count

    def table(self, at: int, kind: str) -> None:
        self.tables += 1
        if self.tables > _MOST_TABLES:
            raise Malformed(f"the file is damaged: more than {_MOST_TABLES} tables")
        what = f"a table ({kind})"
        vtable = at - self.number("<i", at, what)
        if vtable < 0:
            raise Malformed(f"the file is damaged: {what} has its layout before the file's start")
        vtable_size = self.number("<H", vtable, what)
        table_size = self.number("<H", vtable + 2, what)
        if vtable_size < 4 or vtable_size % 2 or table_size < 4:
            raise Malformed(f"the file is damaged: {what} has an impossible layout")
        self.span(vtable, vtable_size, what)
        self.span(at, table_size, what)
        for slot, field in enumerate(_LAYOUT[kind][: vtable_size // 2 - 2]):
            offset = struct.unpack_from("<H", self.content, vtable + 4 + 2 * slot)[0]
            if not offset:
                continue
            width = field if isinstance(field, int) else 4
            if offset < 4 or offset + width > table_size:
                raise Malformed(f"the file is damaged: {what} has field {slot} outside itself")
            if isinstance(field, str) and field != "skip":
                name = f"{kind}, field {slot}"
                self.field(self.indirect(at + offset, name), field, name)

    def field(self, at: int, field: str, what: str) -> None:
        if field == "string":
            start, count = self.vector(at, 1, what)
            if self.number("<B", start + count, what):
                raise Malformed(f"the file is damaged: {what} is a string without its end")
        elif field.startswith("vector"):
            self.vector(at, int(field.removeprefix("vector")), what)
        elif field.startswith("["):
            start, count = self.vector(at, 4, what)
            for index in range(count):
                self.table(self.indirect(start + 4 * index, f"{what}[{index}]"), field[1:-1])
        else:
            self.table(at, field)
