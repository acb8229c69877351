"""Instructions that LLVM doesn't find by itself, by the name that an instruction set gives for its dot product.

Each module says what the instruction computes in loops (`description`), so that TVM can find the place, and how it is
called (`implementation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from edgecompile.backends.tvm.intrinsics import interleave, madd, neon, smmla, vnni
from edgecompile.task import Array

_LEAST = -128
_MODULES = {
    "vnni512": vnni, "vnni256": vnni, "madd512": madd, "madd256": madd,
    "sdot": neon, "sdot-2": neon, "sdot-4": neon, "fmla-4": neon, neon.NARROW: neon,
    **dict.fromkeys(interleave.LANES, interleave),
    "smmla": smmla,
}  # fmt: skip


@dataclass(frozen=True)
class Intrinsic:
    """name: as TVM knows it. turns: of the loop over input channels, or their groups, that it takes at once."""

    name: str
    turns: int


def widest(names: Sequence[tuple[str, int]], extent: int) -> Intrinsic | None:
    """Of (name, turns), the most turns first, the first that divides a loop of `extent`, registered."""
    return next((Intrinsic(register(name), turns) for name, turns in names if extent % turns == 0), None)


def takes(name: str | None, weights: Array) -> bool:
    """Whether there is one, and its sums are right for these weights."""
    return name is not None and not (name == neon.NARROW and (weights == _LEAST).any())


@cache
def register(name: str) -> str:
    """The name under which TVM knows the intrinsic from now on."""
    from tvm.s_tir import TensorIntrin

    known = f"edgecompile.{name}"
    description, implementation = _MODULES[name].of(name)
    TensorIntrin.register(known, description, implementation, override=True)
    return known
