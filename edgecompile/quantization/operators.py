"""The operators of a float model as the quantizer knows them, and what became of each in its result.

The quantizer skips what its policy doesn't cover and says nothing, so what was asked is compared with the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgecompile.errors import CompressionGateError
from edgecompile.quantization.schemes import FLOAT, SCHEMES, supported
from edgecompile.tflite_file import Operator, Subgraph, Tensor, TfliteModel
from edgecompile.tflite_file.graph import WEIGHTS

_CASTS = ("QUANTIZE", "DEQUANTIZE")
_WEIGHTS_AT = {**{name: position for name, (position, _) in WEIGHTS.items()}, "EMBEDDING_LOOKUP": 1}


@dataclass(frozen=True)
class Place:
    """An operator of a float model that computes float32.

    tensor: the name of its first result. scope: what the quantizer's regular expressions are matched with.
    weight_bytes: of its constant float32 weights, row: their size along the last axis; 0 without.
    """

    subgraph: int
    index: int
    name: str
    tensor: str
    scope: str
    weight_bytes: int
    row: int

    @property
    def label(self) -> str:
        return f"{self.name} #{self.index}"


@dataclass(frozen=True)
class Deviation:
    """An operator that isn't what was asked. index: in the result's file. found: what its weights and results are,
    FLOAT where neither is quantized."""

    place: Place
    index: int
    asked: str
    found: str

    @property
    def float_left(self) -> bool:
        return self.found == FLOAT

    @property
    def label(self) -> str:
        return f"{self.place.name} #{self.index}"


def places(model: TfliteModel) -> list[Place]:
    """All operators with a float32 result, casts left out, in the file's order."""
    found = []
    for graph in model.subgraphs:
        for op in graph.operators:
            outputs = [graph.tensors[i] for i in op.outputs if i >= 0]
            if op.name not in _CASTS and any(t.dtype == "float32" for t in outputs):
                weights = _constant(graph, op)
                size, row = (0, 0)
                if weights is not None and weights.dtype == "float32":
                    size, row = weights.buffer_size, weights.shape[-1]
                scope = "".join(f"{name};" for name in (t.name for t in outputs) if name)
                found.append(Place(graph.index, op.index, op.name, outputs[0].name, scope, size, row))
    return found


def applies(place: Place, scheme: str) -> bool:
    """Whether the scheme means anything to the operator: without weights, only activations can be quantized."""
    return SCHEMES[scheme].static or place.weight_bytes > 0


def possible(place: Place, scheme: str) -> bool:
    """Whether the quantizer can give the operator that scheme, or FLOAT. Blocks must fill the rows of the weights."""
    if scheme == FLOAT:
        return True
    block = SCHEMES[scheme].block
    whole = not block or place.row % block == 0
    return applies(place, scheme) and whole and supported(place.name, scheme)


def deviations(source: TfliteModel, result: TfliteModel, asked: Mapping[Place, str]) -> list[Deviation]:
    """Where `result`, made from `source`, isn't what was asked for an operator (a scheme's name, or FLOAT).

    CompressionGateError where the result's operators aren't the source's.
    """
    found = []
    for before, after in zip(source.subgraphs, result.subgraphs, strict=True):
        pairs = _paired(before, after)
        for place, scheme in asked.items():
            if place.subgraph != before.index or (scheme != FLOAT and not applies(place, scheme)):
                continue
            op = pairs[place.index]
            if (state := _state(after, op)) != _expected(scheme, state):
                left = state in (("float32", False, "float32", False), (None, False, "float32", False))
                found.append(Deviation(place, op.index, scheme, FLOAT if left else _text(state)))
    return found


_State = tuple[str | None, bool, str, bool]  # dtype of weights, whether dequantized first, dtype of results, blocks


def _state(graph: Subgraph, op: Operator) -> _State:
    weights = _constant(graph, op)
    explicit = False
    if weights is None and op.name in _WEIGHTS_AT:
        made = {i: other for other in graph.operators if other.name == "DEQUANTIZE" for i in other.outputs}
        cast = made.get(op.inputs[_WEIGHTS_AT[op.name]])
        if cast is not None and graph.tensors[cast.inputs[0]].is_constant:
            weights, explicit = graph.tensors[cast.inputs[0]], True
    dtypes = [graph.tensors[i].dtype for i in op.outputs if i >= 0]
    kinds = [d for d in dtypes if d in ("float32", "int8", "int16")]
    # Scales of blocks are in a table of their own, so such a tensor has no scales as others have.
    blocks = weights is not None and weights.dtype == "int4" and weights.quantization is None
    return weights.dtype if weights else None, explicit, (kinds or dtypes)[0], blocks


def _expected(scheme: str, state: _State) -> _State:
    """The state asked for; operators without constant weights have none to be quantized."""
    weights = state[0]
    if scheme == FLOAT:
        return "float32" if weights else None, False, "float32", False
    wanted = SCHEMES[scheme]
    if wanted.static:
        return wanted.weights if weights else None, False, wanted.activations, False
    return wanted.weights, wanted.explicit, wanted.activations, wanted.block > 0


def _text(state: _State) -> str:
    weights, explicit, activations, blocks = state
    how = " by block" if blocks else " to be dequantized" if explicit else ""
    return f"{weights} weights{how}, {activations} results" if weights else f"{activations} results"


def _constant(graph: Subgraph, op: Operator) -> Tensor | None:
    """The operator's weights, where they are a constant."""
    at = _WEIGHTS_AT.get(op.name)
    if at is None or op.custom or at >= len(op.inputs) or op.inputs[at] < 0:
        return None
    tensor = graph.tensors[op.inputs[at]]
    return tensor if tensor.is_constant else None


def _paired(before: Subgraph, after: Subgraph) -> dict[int, Operator]:
    """{index in `before`: operator of `after`}: the quantizer adds casts and leaves the rest in order."""
    old, new = ([op for op in graph.operators if op.name not in _CASTS] for graph in (before, after))
    if [op.name for op in old] != [op.name for op in new]:
        raise CompressionGateError(
            f"the quantizer changed the model's operators: {len(old)} were there and {len(new)} are, beside casts",
            hint="report it with the model; another scheme may leave them as they are",
        )
    return {a.index: b for a, b in zip(old, new, strict=True)}
