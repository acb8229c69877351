"""Which operator of one graph is which of another.

Names come first: quantizers keep them, and converters name a tensor after the layers it came from. What they leave is
matched by what it reads (an operator of the same kind and shape on matched inputs), and the rest by order: a longest
common subsequence of (kind, shapes) between the operators that are matched already. A pair always has the same shapes.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from edgecompile.layerwise.graph import Graph, Node
from edgecompile.tflite_file.graph import NUMBERED

_COMMUTATIVE = frozenset({"ADD", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"})
# Names that converters give outputs when they have no other.
_NAMELESS = re.compile(rf"Identity|StatefulPartitionedCall|PartitionedCall|{NUMBERED.pattern}")
# What quantizers add to the name of the tensor that they cast, and TF-MOT to that of a layer it wraps.
_ADDED = re.compile(r"(_quantized|_requantized|_dequantized|_dequant|_requant|_int8|_uint8|_int16)+$")
_WRAPPED = re.compile(r"^(quant|prune_low_magnitude|cluster)_")


@dataclass(frozen=True)
class Unmatched:
    """An operator without a counterpart, by its index in its graph's nodes."""

    node: int
    reason: str


@dataclass(frozen=True)
class Matching:
    """pairs: (index in a, index in b), in a's execution order."""

    pairs: tuple[tuple[int, int], ...]
    only_a: tuple[Unmatched, ...]
    only_b: tuple[Unmatched, ...]


def match(a: Graph, b: Graph, inputs: Sequence[tuple[int, int]], outputs: Sequence[tuple[int, int]]) -> Matching:
    """Match all of two graphs. inputs, outputs: values of a and b that are known to be the same."""
    found = _Pairs(a, b, inputs)
    for key in _KEYS:
        found.by_key(key)
    found.by_output(outputs)
    found.by_inputs()
    found.by_order()
    found.by_inputs()
    pairs = tuple(sorted(found.pairs.items()))
    return Matching(pairs, found.left(a, b, found.pairs), found.left(b, a, found.back))


def layer_name(tensor: str) -> str:
    """A tensor's name for people and for matching: of joined names the first, without the model's name, without what
    quantizers put around it: model/quant_conv/Relu;model/conv/Conv2D -> conv/Relu."""
    first = _ADDED.sub("", tensor.partition(";")[0])
    first = _ADDED.sub("", re.sub(r":\d+$", "", first))
    parts = [_WRAPPED.sub("", part) for part in first.split("/")]
    if parts[0] == "StatefulPartitionedCall" and len(parts) > 1:
        parts = parts[1:]
    return "/".join(parts[1:] if len(parts) > 2 else parts)


def _own(graph: Graph, node: Node) -> str | None:
    name = layer_name(graph.tensor(node.outputs[0]).name) if node.outputs else ""
    return None if _NAMELESS.fullmatch(name) else name


def _by_name(graph: Graph, node: Node) -> Hashable:
    return _own(graph, node)


def _without_number(graph: Graph, node: Node) -> Hashable:
    """Converters number what has one name: conv/Conv2D1 -> conv/Conv2D."""
    name = _own(graph, node)
    return name and (node.kind, name.rstrip("0123456789"))


def _by_layer(graph: Graph, node: Node) -> Hashable:
    """The layer alone: Keras 2 and 3 name the operation in it differently."""
    name = _own(graph, node)
    return (node.kind, name.split("/")[-2]) if name and "/" in name else None


_Key = Callable[[Graph, Node], Hashable]
_KEYS: tuple[_Key, ...] = (_by_name, _without_number, _by_layer)


def _once(graph: Graph, key: _Key) -> dict[Hashable, int]:
    """{key: node} of keys that one node alone has."""
    keys = [key(graph, node) for node in graph.nodes]
    counts = Counter(keys)
    return {k: index for index, k in enumerate(keys) if k is not None and counts[k] == 1}


class _Pairs:
    """The pairs found so far. pairs: a's node -> b's; back: b's -> a's; values: a's value -> b's."""

    def __init__(self, a: Graph, b: Graph, inputs: Sequence[tuple[int, int]]) -> None:
        self._a, self._b = a, b
        self.pairs: dict[int, int] = {}
        self.back: dict[int, int] = {}
        self._values = dict(inputs)

    def _fits(self, i: int, j: int) -> bool:
        free = i not in self.pairs and j not in self.back
        return free and self._a.shapes(self._a.nodes[i]) == self._b.shapes(self._b.nodes[j])

    def _add(self, i: int, j: int) -> None:
        self.pairs[i], self.back[j] = j, i
        self._values.update(zip(self._a.nodes[i].outputs, self._b.nodes[j].outputs, strict=True))

    def by_key(self, key: _Key) -> None:
        others = _once(self._b, key)
        for k, i in _once(self._a, key).items():
            if k in others and self._fits(i, others[k]):
                self._add(i, others[k])

    def by_output(self, outputs: Sequence[tuple[int, int]]) -> None:
        for value, other in outputs:
            i, j = self._a.producer.get(value), self._b.producer.get(other)
            if i is None or j is None or not self._fits(i, j):
                continue
            if self._a.nodes[i].kind == self._b.nodes[j].kind:
                self._add(i, j)

    def by_inputs(self) -> None:
        """Forward: an operator on matched values is its like on their counterparts; the first, where there are more."""
        readers: dict[int, list[int]] = {}
        for j, node in enumerate(self._b.nodes):
            for value in dict.fromkeys(node.inputs):
                readers.setdefault(value, []).append(j)
        for i, node in enumerate(self._a.nodes):
            known = [self._values.get(value) for value in node.inputs]
            if i in self.pairs or not known or known[0] is None or None in known:
                continue
            for j in readers.get(known[0], ()):
                other = self._b.nodes[j]
                same = other.kind == node.kind and _weights(other) == _weights(node)
                if same and _same_inputs(node.kind, known, other.inputs) and self._fits(i, j):
                    self._add(i, j)
                    break

    def by_order(self) -> None:
        """Between each two pairs that follow each other in both graphs, what is left there, by kind and shapes."""
        ends = [(-1, -1), *_increasing(sorted(self.pairs.items())), (len(self._a.nodes), len(self._b.nodes))]
        for (i0, j0), (i1, j1) in itertools.pairwise(ends):
            left = [i for i in range(i0 + 1, i1) if i not in self.pairs]
            right = [j for j in range(j0 + 1, j1) if j not in self.back]
            for x, y in _common([self._like(self._a, i) for i in left], [self._like(self._b, j) for j in right]):
                self._add(left[x], right[y])

    @staticmethod
    def _like(graph: Graph, index: int) -> Hashable:
        node = graph.nodes[index]
        return node.kind, graph.shapes(node)

    @staticmethod
    def left(graph: Graph, other: Graph, taken: Mapping[int, int]) -> tuple[Unmatched, ...]:
        names = {key: _once(other, key) for key in _KEYS}

        def reason(node: Node) -> str:
            for key in _KEYS:
                namesake = names[key].get(key(graph, node))
                if namesake is not None:
                    mine, its = graph.shapes(node), other.shapes(other.nodes[namesake])
                    if mine != its:
                        return f"its namesake has the shape {_shapes(its)}"
            return "no counterpart"

        return tuple(Unmatched(i, reason(node)) for i, node in enumerate(graph.nodes) if i not in taken)


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes)


def _weights(node: Node) -> list[tuple[int, ...]]:
    return [shape for shape, _ in node.weights]


def _same_inputs(kind: str, known: Sequence[int | None], other: Sequence[int]) -> bool:
    return Counter(known) == Counter(other) if kind in _COMMUTATIVE else tuple(known) == tuple(other)


def _increasing(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest part of the pairs, which are sorted by their first, that is sorted by their second too."""
    ends: list[int] = []  # the least second with which a run of that length ends
    lengths = []
    for _, j in pairs:
        at = bisect.bisect_left(ends, j)
        ends[at : at + 1] = [j]
        lengths.append(at)
    found: list[tuple[int, int]] = []
    want = len(ends) - 1
    for pair, length in zip(reversed(pairs), reversed(lengths), strict=True):
        if length == want and (not found or pair[1] < found[-1][1]):
            found.append(pair)
            want -= 1
    return found[::-1]


def _common(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Index pairs of a longest common subsequence, by dynamic programming; equal ends are taken off first."""
    start = 0
    while start < min(len(left), len(right)) and left[start] == right[start]:
        start += 1
    n, m = len(left) - start, len(right) - start
    best = [[0] * (m + 1) for _ in range(n + 1)]
    for x in range(n - 1, -1, -1):
        for y in range(m - 1, -1, -1):
            same = left[start + x] == right[start + y]
            best[x][y] = best[x + 1][y + 1] + 1 if same else max(best[x + 1][y], best[x][y + 1])
    pairs = [(k, k) for k in range(start)]
    x = y = 0
    while x < n and y < m:
        if left[start + x] == right[start + y]:
            pairs.append((start + x, start + y))
            x, y = x + 1, y + 1
        elif best[x + 1][y] >= best[x][y + 1]:
            x += 1
        else:
            y += 1
    return pairs
