"""A model as calls of compiled functions, one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from edgecompile.backends.tvm.arithmetic import Range
from edgecompile.task import Array

BYTES = {"float32": 4, "int32": 4, "uint8": 1, "int8": 1, "int16": 2, "int64": 8}


@dataclass(frozen=True, eq=False)
class Value:
    """What one call writes and others read. stored: its shape in memory, more channels than `shape` where those fill
    whole vectors. of: its integers, None for float32 and plain integers. root: the value whose memory this is too."""

    shape: tuple[int, ...]
    stored: tuple[int, ...]
    dtype: str
    of: Range | None = None
    root: Value | None = None

    @property
    def place(self) -> Value:
        """Whose memory this is."""
        return self.root or self

    @property
    def bytes(self) -> int:
        return math.prod(self.stored) * BYTES[self.dtype]


@dataclass(frozen=True)
class Padded:
    """A tensor that is read with rows and columns of zeros around it. around: (before, after) of each direction.

    operators: which say so, by their indices.
    """

    tensor: int
    around: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    operators: tuple[int, ...] = ()


@dataclass(frozen=True)
class Source:
    """A function in C, for what isn't loops over elements. file: beside driver.c; it has __tvm_ffi_<name>, which takes
    a step's arguments as compiled functions do."""

    name: str
    file: str


@dataclass(frozen=True)
class Step:
    """One call. function: TVM's, or a Source. arguments: values and constants, as the function takes them; written:
    those that it writes.

    operators: of the .tflite, by their indices. note: schedule, tile and instruction.
    """

    function: Any
    arguments: tuple[Value | Array, ...]
    written: tuple[Value, ...]
    operators: tuple[int, ...]
    note: str


@dataclass
class Plan:
    """operators: by index, (name, multiply-accumulates)."""

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    operators: dict[int, tuple[str, int]] = field(default_factory=dict)
