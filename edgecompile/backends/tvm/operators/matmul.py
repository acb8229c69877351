"""BATCH_MATMUL: products of matrices that both are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te

from edgecompile.backends.tvm.arithmetic import Expr, i32

Shape = tuple[int, ...]


def matmul(
    a: tuple[Shape, str], b: tuple[Shape, str], adjoint: tuple[bool, bool], zeros: tuple[int, int],
    batch: Shape, finish: Callable[[Expr], Expr],
) -> Any:  # fmt: skip
    """Blocks `sum` and `store` over [*batch, rows, columns], of [*batch, rows, depth] and [*batch, depth, columns].

    adjoint: whether an input's last two axes are swapped. zeros: subtracted from bytes. finish: a sum -> what is
    stored. Sizes of 1 in the inputs' batch are repeated.
    """
    x, y = te.placeholder(*a, name="a"), te.placeholder(*b, name="b")
    rows, depth = a[0][-2:][:: -1 if adjoint[0] else 1]
    columns = b[0][-2 if adjoint[1] else -1]
    k = te.reduce_axis((0, depth), "k")

    def element(of: Any, at: tuple[Expr, ...], i: Expr, j: Expr, swapped: bool, zero: int) -> Expr:
        sizes = of.shape[:-2]
        own = at[len(at) - len(sizes) :]
        places = [i32(0) if int(size) == 1 else index for size, index in zip(sizes, own, strict=True)]
        value = of[tuple(places) + ((j, i) if swapped else (i, j))]
        return value if of.dtype == "float32" else value.astype("int32") - i32(zero)

    def product(*at: Expr) -> Expr:
        *outer, i, j = at
        one = element(x, tuple(outer), i, k, adjoint[0], zeros[0])
        two = element(y, tuple(outer), k, j, adjoint[1], zeros[1])
        return te.sum(one * two, axis=[k])

    total = te.compute((*batch, rows, columns), product, name="sum")
    return te.create_prim_func([x, y, te.compute(total.shape, lambda *at: finish(total[at]), name="store")])
