"""A FlatBuffers writer that stores equal parts once and leaves as few gaps as alignment allows.

The official builder writes a part as soon as it is complete, back to front, and shares nothing but vtables and (where
asked) strings. Here the generated `Pack` methods describe the parts to a `CompactBuilder`, which gives equal ones the
same number; places are chosen when all are known. That is within the format (FlatBuffers, "Internals"): offsets to
tables, vectors and strings point forwards, those to vtables either way, and several may point to one part.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Vectors of bytes hold constants and options of custom operators. The schema wants 16 for constants, which kernels load
# by vector instructions.
_BYTES_ALIGN = 16
_HEADER = 8  # offset of the root, file identifier
_SMALLEST = 4  # no part fits in a gap below: a vtable of no fields


@dataclass(frozen=True)
class _Field:
    """`refers` is the part that `content` will point to, or 0."""

    slot: int
    content: bytes
    refers: int = 0


@dataclass(frozen=True)
class _Part:
    """Bytes in a row. The byte at `pin` is aligned to `align`; `refers` maps places of offsets in `content` to parts.

    layout: the vtable of a table, which is a part too.
    """

    content: bytes
    align: int
    pin: int = 0
    refers: tuple[tuple[int, int], ...] = ()
    layout: int = 0


@dataclass
class CompactBuilder:
    """Takes the calls that generated code makes on `flatbuffers.Builder`; "offsets" are numbers of parts from 1."""

    _parts: list[_Part] = field(default_factory=list)
    _numbers: dict[_Part, int] = field(default_factory=dict)
    _tables: list[list[_Field]] = field(default_factory=list)
    _vectors: list[tuple[int, int, list[bytes | int]]] = field(default_factory=list)

    # Vectors and strings ---------------------------------------------------------------------------

    def CreateString(self, text: str | bytes) -> int:
        content = text.encode() if isinstance(text, str) else bytes(text)
        return self._number(_Part(struct.pack("<I", len(content)) + content + b"\0", 4))

    def CreateNumpyVector(self, values: Any) -> int:
        array = np.asarray(values)
        plain = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        return self._vector(len(array), plain, _BYTES_ALIGN if array.dtype == np.uint8 else max(4, array.itemsize))

    def StartVector(self, width: int, count: int, align: int) -> None:
        self._vectors.append((width, align, []))
        del count  # the elements are counted as they come

    def EndVector(self) -> int:
        width, align, items = self._vectors.pop()
        items.reverse()  # generated code goes back to front
        if items and isinstance(items[0], int):
            refers = tuple((4 + 4 * i, item) for i, item in enumerate(items) if isinstance(item, int))
            return self._number(_Part(struct.pack("<I", len(items)) + bytes(4 * len(items)), 4, 0, refers))
        content = b"".join(item for item in items if isinstance(item, bytes))
        return self._vector(len(items), content, _BYTES_ALIGN if width == 1 else max(4, align))

    def _vector(self, count: int, content: bytes, align: int) -> int:
        return self._number(_Part(struct.pack("<I", count) + content, align, 4))

    def PrependUOffsetTRelative(self, part: int) -> None:
        self._vectors[-1][2].append(part)

    # Tables ----------------------------------------------------------------------------------------

    def StartObject(self, slots: int) -> None:
        del slots  # fields at the end that are left out take no room in a vtable
        self._tables.append([])

    def PrependUOffsetTRelativeSlot(self, slot: int, part: int, default: int) -> None:
        if part != default:
            self._tables[-1].append(_Field(slot, bytes(4), part))

    def EndObject(self) -> int:
        """Fields of 8 bytes first, of 1 byte last: equal sets of fields then have equal vtables, and few gaps."""
        fields = sorted(self._tables.pop(), key=lambda f: (-len(f.content), f.slot))
        wide = any(len(f.content) == 8 for f in fields)
        if wide:  # after the 4 bytes that point to the vtable, one of 4 bytes keeps those of 8 aligned
            fields.sort(key=lambda f: len(f.content) != 4)
            first, rest = fields[:1], fields[1:]
            fields = first + sorted(rest, key=lambda f: (-len(f.content), f.slot))
        content, places, refers = bytearray(4), {}, []
        for entry in fields:
            content += bytes(-len(content) % len(entry.content))
            places[entry.slot] = len(content)
            if entry.refers:
                refers.append((len(content), entry.refers))
            content += entry.content
        slots = [places.get(slot, 0) for slot in range(max(places, default=-1) + 1)]
        layout = self._number(_Part(struct.pack(f"<{2 + len(slots)}H", 4 + 2 * len(slots), len(content), *slots), 2))
        return self._number(_Part(bytes(content), 8 if wide else 4, 0, tuple(refers), layout))

    def _scalar(self, code: str, value: Any) -> None:
        self._vectors[-1][2].append(struct.pack(code, value))

    def _slot(self, code: str, slot: int, value: Any, default: Any) -> None:
        content = struct.pack(code, value)
        if content != struct.pack(code, default):  # by bytes: -0.0 is not the default 0.0
            self._tables[-1].append(_Field(slot, content))

    def _number(self, part: _Part) -> int:
        if part not in self._numbers:
            self._parts.append(part)
            self._numbers[part] = len(self._parts)
        return self._numbers[part]

    # The file --------------------------------------------------------------------------------------

    def finish(self, root: int, identifier: bytes) -> bytes:
        """The file whose root table is the part `root`. The same parts give the same bytes."""
        places = _Room(_HEADER)
        at: dict[int, int] = {}
        least: dict[int, int] = {}  # what points to a part ends here

        def put(number: int) -> None:
            part = self._parts[number - 1]
            at[number] = places.take(len(part.content), part.align, part.pin, least.get(number, _HEADER))
            for _, other in part.refers:
                least[other] = max(least.get(other, 0), at[number] + len(part.content))

        order = self._order(root)
        inner = [n for n in order if self._parts[n - 1].refers]
        leaves = [n for n in order if not self._parts[n - 1].refers]
        layouts = list(dict.fromkeys(self._parts[n - 1].layout for n in order if self._parts[n - 1].layout))
        for number in inner:
            put(number)
        # Strict alignment first, then large before small: what comes later fills the gaps that earlier parts left.
        for number in sorted([*leaves, *layouts], key=self._rank):
            put(number)
        image = bytearray(places.end)
        struct.pack_into("<I4s", image, 0, at[root], identifier)
        for number, start in at.items():
            part = self._parts[number - 1]
            image[start : start + len(part.content)] = part.content
            for place, other in part.refers:
                struct.pack_into("<I", image, start + place, at[other] - start - place)
            if part.layout:
                struct.pack_into("<i", image, start, start - at[part.layout])
        return bytes(image) + bytes(-len(image) % 4)

    def _order(self, root: int) -> list[int]:
        """Every part that is used, each after all that point to it."""
        waiting: dict[int, int] = {}
        reached, todo = {root}, [root]
        while todo:
            for _, other in self._parts[todo.pop() - 1].refers:
                waiting[other] = waiting.get(other, 0) + 1
                if other not in reached:
                    reached.add(other)
                    todo.append(other)
        order, ready = [], [root]
        for number in ready:
            order.append(number)
            for _, other in self._parts[number - 1].refers:
                waiting[other] -= 1
                if not waiting[other]:
                    ready.append(other)
        return order

    def _rank(self, number: int) -> tuple[int, int, bytes]:
        part = self._parts[number - 1]
        return -part.align, -len(part.content), part.content


_NUMBERS = {
    "Bool": "<?", "Int8": "<b", "Uint8": "<B", "Int16": "<h", "Uint16": "<H", "Int32": "<i", "Uint32": "<I",
    "Int64": "<q", "Uint64": "<Q", "Float32": "<f", "Float64": "<d",
}  # fmt: skip


def _add_scalars(name: str, code: str) -> None:
    """The builder's two methods for a type of number: for a vector's element, and for a table's field."""

    def element(self: CompactBuilder, value: Any) -> None:
        self._scalar(code, value)

    def member(self: CompactBuilder, slot: int, value: Any, default: Any) -> None:
        self._slot(code, slot, value, default)

    setattr(CompactBuilder, f"Prepend{name}", element)
    setattr(CompactBuilder, f"Prepend{name}Slot", member)


for _name, _code in _NUMBERS.items():
    _add_scalars(_name, _code)


class _Room:
    """Which bytes are taken: gaps, in order of place, and the end."""

    def __init__(self, start: int) -> None:
        self.end = start
        self._gaps: list[tuple[int, int]] = []

    def take(self, length: int, align: int, pin: int, least: int) -> int:
        """The first place from `least` on for `length` bytes whose byte `pin` is aligned."""
        for i, (low, high) in enumerate(self._gaps):
            start = _aligned(max(low, least), align, pin)
            if start + length <= high:
                self._gaps[i : i + 1] = [g for g in ((low, start), (start + length, high)) if g[1] - g[0] >= _SMALLEST]
                return start
        start = _aligned(max(self.end, least), align, pin)
        if start - self.end >= _SMALLEST:
            self._gaps.append((self.end, start))
        self.end = start + length
        return start


def _aligned(at: int, align: int, pin: int) -> int:
    return at + -(at + pin) % align
