"""Which channels can only be removed together: a union-find over the channels of all tensors of a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# One number for each index along a tensor's last axis; equal numbers are removed together. Flattening repeats
# numbers (a channel stands for height x width features), concatenation puts them behind each other.
Ids = npt.NDArray[np.int64]
Shape = tuple[int | None, ...]


class Coupling:
    """A forest of coupled channels while a graph is walked. `pinned`: reasons why channels must stay."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self.pinned: list[tuple[Ids, str]] = []

    def fresh(self, n: int) -> Ids:
        """Numbers for `n` channels that nothing is known of yet."""
        start = len(self._parent)
        self._parent.extend(range(start, start + n))
        return np.arange(start, start + n, dtype=np.int64)

    def couple(self, a: Ids, b: Ids) -> None:
        """Index by index, these two are removed together; both of the same length."""
        for left, right in zip(a.tolist(), b.tolist(), strict=True):
            x, y = sorted((self._root(left), self._root(right)))
            self._parent[y] = x  # the older number stays: roots don't depend on the order of unions

    def pin(self, ids: Ids, reason: str) -> None:
        """These, and all that are coupled with them, must stay."""
        self.pinned.append((ids, reason))

    def roots(self, ids: Ids) -> Ids:
        return np.array([self._root(i) for i in ids.tolist()], np.int64)

    @property
    def size(self) -> int:
        return len(self._parent)

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i


@dataclass(frozen=True)
class Use:
    """One call of a layer: the channels of the tensors it takes, and the shapes of all tensors (batch first).

    `simple`: it takes nothing but these tensors and plain numbers, and gives one tensor.
    """

    layer: Any
    inputs: tuple[Ids, ...]
    shapes: tuple[Shape, ...]
    output: Shape
    simple: bool


@dataclass(frozen=True)
class Call:
    """A node of a Keras graph: `layer` called on `inputs`, which gave `outputs` (Keras tensors)."""

    node: Any
    layer: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    simple: bool


def calls(model: Any) -> Iterator[Call]:
    """The calls of a flat functional tf-keras model in an order in which every tensor is made before it's taken."""
    import tensorflow as tf

    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input:
                continue
            given = tf.nest.flatten((list(node.call_args), dict(node.call_kwargs)))
            inputs = tuple(v for v in given if tf.is_tensor(v) and hasattr(v, "_keras_history"))
            others = [v for v in given if not (tf.is_tensor(v) and hasattr(v, "_keras_history"))]
            outputs = tuple(tf.nest.flatten(node.outputs))
            plain = all(v is None or isinstance(v, bool | int | float | str) for v in others)
            yield Call(node, node.layer, inputs, outputs, plain and len(outputs) == 1)
