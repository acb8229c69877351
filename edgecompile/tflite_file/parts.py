"""Where the bytes of a .tflite go, by the bytes themselves: what several tensors share is counted once."""

from __future__ import annotations

import struct
from pathlib import Path

NAMES, QUANTIZATION, BUFFERS, METADATA, LAYOUT = PARTS = ("names", "quantization", "buffers", "metadata", "layout")

# Slots of the schema's tables.
_MODEL_SUBGRAPHS, _MODEL_DESCRIPTION, _MODEL_BUFFERS, _MODEL_METADATA_BUFFER, _MODEL_METADATA = 2, 3, 4, 5, 6
_SUBGRAPH_TENSORS, _SUBGRAPH_NAME = 0, 4
_TENSOR_BUFFER, _TENSOR_NAME, _TENSOR_QUANTIZATION = 2, 3, 4
_QUANTIZATION_VECTORS = ((0, 4), (1, 4), (2, 4), (3, 8))  # slot and width of min, max, scale, zero_point
_METADATA_NAME, _METADATA_BUFFER = 0, 1
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2


def bytes_by_part(path: Path, tail: int = 0) -> dict[str, int]:
    """Bytes of a .tflite that `read` has accepted; they add up to its size.

    names: of tensors and subgraphs. quantization: scales, zero points, minima, maxima and their tables. buffers:
    constants. metadata: description and metadata, and the `tail` bytes of files appended to the model. layout: tables
    of tensors and operators, vtables, shapes, signatures, padding.
    """
    content = path.read_bytes()
    walk = _Walk(content)
    model = walk.root()
    kept: dict[str, dict[int, int]] = {part: {} for part in PARTS}

    def count(part: str, span: tuple[int, int] | None) -> None:
        """A vector or string that two parts share belongs to the one that is counted first."""
        if span is not None and not any(span[0] in spans for spans in kept.values()):
            kept[part][span[0]] = span[1]

    for graph in walk.tables(model, _MODEL_SUBGRAPHS):
        count(NAMES, walk.text(graph, _SUBGRAPH_NAME))
        for tensor in walk.tables(graph, _SUBGRAPH_TENSORS):
            count(NAMES, walk.text(tensor, _TENSOR_NAME))
            parameters = walk.target(tensor, _TENSOR_QUANTIZATION)
            if parameters is not None:
                count(QUANTIZATION, (parameters, walk.size(parameters)))
                for slot, width in _QUANTIZATION_VECTORS:
                    count(QUANTIZATION, walk.vector(parameters, slot, width))
    buffers = walk.tables(model, _MODEL_BUFFERS)
    count(METADATA, walk.text(model, _MODEL_DESCRIPTION))
    count(METADATA, walk.vector(model, _MODEL_METADATA_BUFFER, 4))
    for entry in walk.tables(model, _MODEL_METADATA):
        count(METADATA, (entry, walk.size(entry)))
        count(METADATA, walk.text(entry, _METADATA_NAME))
        at = walk.number(entry, _METADATA_BUFFER)
        if at < len(buffers):
            count(METADATA, walk.data(buffers[at]))
    for buffer in buffers:
        count(BUFFERS, walk.data(buffer))
    sizes = {part: sum(spans.values()) for part, spans in kept.items()}
    sizes[METADATA] += tail
    return {**sizes, LAYOUT: len(content) - sum(sizes.values())}


class _Walk:
    """Tables by address. The file's offsets were checked when it was read."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def _at(self, code: str, at: int) -> int:
        return int(struct.unpack_from(code, self._content, at)[0])

    def root(self) -> int:
        return self._at("<I", 0)

    def size(self, table: int) -> int:
        return self._at("<H", table - self._at("<i", table) + 2)

    def _field(self, table: int, slot: int) -> int | None:
        vtable = table - self._at("<i", table)
        entry = 4 + 2 * slot
        offset = self._at("<H", vtable + entry) if entry < self._at("<H", vtable) else 0
        return table + offset if offset else None

    def number(self, table: int, slot: int, code: str = "<I") -> int:
        """An unsigned number, 0 where it is left out."""
        field = self._field(table, slot)
        return 0 if field is None else self._at(code, field)

    def data(self, buffer: int) -> tuple[int, int] | None:
        """A buffer's bytes, in the FlatBuffers part or after it (reading.py)."""
        offset = self.number(buffer, _BUFFER_OFFSET, "<Q")
        if offset > 1:
            return offset, self.number(buffer, _BUFFER_SIZE, "<Q")
        return self.vector(buffer, _BUFFER_DATA, 1)

    def target(self, table: int, slot: int) -> int | None:
        """The address that a field points to."""
        field = self._field(table, slot)
        return None if field is None else field + self._at("<I", field)

    def tables(self, table: int, slot: int) -> list[int]:
        start = self.target(table, slot)
        places = [] if start is None else [start + 4 + 4 * i for i in range(self._at("<I", start))]
        return [place + self._at("<I", place) for place in places]

    def vector(self, table: int, slot: int, width: int) -> tuple[int, int] | None:
        """(address, bytes) with the length in front."""
        start = self.target(table, slot)
        return None if start is None else (start, 4 + width * self._at("<I", start))

    def text(self, table: int, slot: int) -> tuple[int, int] | None:
        found = self.vector(table, slot, 1)
        return None if found is None else (found[0], found[1] + 1)
