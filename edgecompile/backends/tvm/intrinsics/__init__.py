"""Instructions that LLVM doesn't find by itself, by the name that an instruction set gives for its dot product.

Each module says what the instruction computes in loops (`description`), so that TVM can find the place, and how it is
called (`implementation`).
"""

from __future__ import annotations

from functools import cache

from edgecompile.backends.tvm.intrinsics import madd, neon, vnni
from edgecompile.task import Array

_LEAST = -128
_MODULES = {"vnni512": vnni, "vnni256": vnni, "madd512": madd, "madd256": madd, "sdot": neon, neon.NARROW: neon}


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
