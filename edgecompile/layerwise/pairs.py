"""The tensors that two matched graphs have in common, in the order in which the first computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from edgecompile.layerwise.graph import Graph, Node
from edgecompile.layerwise.match import Matching

# Bits of a number's significand; integers have all of theirs.
_BITS = {"int2": 2, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "float16": 11, "bfloat16": 8, "int16": 16}
_FLOAT_BITS = 24


@dataclass(frozen=True)
class Pair:
    """Tensor a of the one and b of the other graph.

    position: of its operator in A's execution order, -1 for an input. reads: indices of the pairs that it is computed
    from, in either graph; operators that are not matched are looked through. alike: both models store it, and the
    weights of its operator, in the same way. ceiling_db: the best SNR that their number formats allow.
    """

    position: int
    op: str
    op_b: str
    a: int
    b: int
    alike: bool
    ceiling_db: float
    reads: frozenset[int] = frozenset()


def pairs_of(a: Graph, b: Graph, inputs: Sequence[tuple[int, int]], matching: Matching) -> list[Pair]:
    """Inputs first, then what operators give; a value's casts to other integers follow it."""
    pairs: list[Pair] = []
    rows: tuple[dict[int, int], dict[int, int]] = {}, {}
    made: list[tuple[Node | None, Node | None]] = []

    def add(position: int, ops: tuple[str, str], x: int, y: int, nodes: tuple[Node | None, Node | None]) -> None:
        if a.comparable(x) and b.comparable(y):
            rows[0].setdefault(x, len(pairs))
            rows[1].setdefault(y, len(pairs))
            pairs.append(_pair(a, b, position, ops, (x, y), nodes))
            made.append(nodes)

    def add_value(position: int, ops: tuple[str, str], x: int, y: int, nodes: tuple[Node | None, Node | None]) -> None:
        add(position, ops, x, y, nodes)
        for cast, other in zip_longest(a.casts.get(x, ()), b.casts.get(y, ())):
            mine, its = (x if cast is None else cast), (y if other is None else other)
            add(position, ("QUANTIZE", "QUANTIZE"), mine, its, (None, None))

    for x, y in inputs:
        add_value(-1, ("INPUT", "INPUT"), x, y, (None, None))
    for i, j in matching.pairs:
        node, other = a.nodes[i], b.nodes[j]
        for x, y in zip(node.outputs, other.outputs, strict=True):
            add_value(node.position, (node.label, other.label), x, y, (node, other))
    return [
        replace(pair, reads=_reads(a, pair.a, nodes[0], rows[0], k) | _reads(b, pair.b, nodes[1], rows[1], k))
        for k, (pair, nodes) in enumerate(zip(pairs, made, strict=True))
    ]


def _pair(
    a: Graph,
    b: Graph,
    position: int,
    ops: tuple[str, str],
    tensors: tuple[int, int],
    nodes: tuple[Node | None, Node | None],
) -> Pair:
    x, y = a.tensor(tensors[0]), b.tensor(tensors[1])
    weights = [[dtype for _, dtype in node.weights] if node else [] for node in nodes]
    alike = x.dtype == y.dtype and x.quantization == y.quantization and weights[0] == weights[1]
    # What a model stores in the same way as the other costs nothing.
    bits = (
        _FLOAT_BITS if alike else min(_BITS.get(t, _FLOAT_BITS) for t in (x.dtype, y.dtype, *weights[0], *weights[1]))
    )
    return Pair(position, *ops, *tensors, alike, _ceiling_db(bits))


def _ceiling_db(bits: int) -> float:
    """SNR of a sine at full scale in that many bits, in dB (Bennett, "Spectra of quantized signals", Bell System
    Technical Journal 27, 1948)."""
    return 6.02 * bits + 1.76


def _reads(graph: Graph, tensor: int, node: Node | None, rows: dict[int, int], own: int) -> frozenset[int]:
    """The nearest compared tensors before `tensor`."""
    todo = list(node.reads) if node else [graph.source[tensor]] if tensor in graph.source else []
    seen, found = set(todo), set()
    while todo:
        index = todo.pop()
        if index in rows and rows[index] != own:
            found.add(rows[index])
            continue
        if index in graph.source:
            before = [graph.source[index]]
        else:
            maker = graph.producer.get(index)
            before = [] if maker is None else list(graph.nodes[maker].reads)
        todo += [each for each in before if each not in seen]
        seen.update(before)
    return frozenset(found)
