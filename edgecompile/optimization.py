"""What graph optimisation did: which of the source's layers became an operator, and which went into another's.

TensorFlow's converter names a tensor after all layers that were merged into the operator that makes it
("net/act/Relu;net/bn/FusedBatchNormV3;net/conv/Conv2D"), so the mapping can be read off the .tflite.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgecompile.tflite_file import TfliteModel

KEPT, FOLDED, FUSED, MERGED, REMOVED = "kept", "folded", "fused", "merged", "removed"
_ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "Softmax", "ELU")
_FOLDABLE = ("BatchNormalization", "Rescaling", "Normalization")
_ADDED = ("QUANTIZE", "DEQUANTIZE")


def graph_changes(layers: Sequence[Mapping[str, str]], model: TfliteModel) -> dict[str, Any]:
    """layers: [{name, type}] of the source. Returns, JSON only: operator counts before and after, the operators
    with the layers each came from, and for every layer what became of it."""
    types = {layer["name"]: layer["type"] for layer in layers}
    graph = model.main
    operators: list[dict[str, Any]] = []
    homes: dict[str, list[int]] = {}
    for op in graph.operators:
        sources = _sources(op, graph, types)
        operators.append({"index": op.index, "name": op.name, "layers": sources})
        for layer in sources:
            homes.setdefault(layer, []).append(op.index)
    leaders = {_leader(op["layers"], types) for op in operators}
    fates = [
        {"name": name, "type": kind, "fate": _fate(name, kind, homes, leaders), "operators": homes.get(name, [])}
        for name, kind in types.items()
    ]
    return {
        "before": dict(Counter(types.values())),
        "after": dict(Counter(op["name"] for op in operators)),
        "operators": operators,
        "layers": fates,
        "summary": dict(Counter(fate["fate"] for fate in fates)),
        "added": sum(op["name"] in _ADDED for op in operators),
    }


def _sources(op: Any, graph: Any, types: Mapping[str, str]) -> list[str]:
    """Layers named in the operator's outputs and constants, in the source's order."""
    tensors = [graph.tensors[i] for i in op.outputs]
    tensors += [graph.tensors[i] for i in op.inputs if i >= 0 and graph.tensors[i].is_constant]
    parts = {part for tensor in tensors for part in re.split(r"[/;:]", tensor.name)}
    parts |= {part.removeprefix("quant_") for part in parts}
    return [name for name in types if name in parts]


def _leader(sources: Sequence[str], types: Mapping[str, str]) -> str:
    """The layer that the operator is for: the first that is neither folded into weights nor an activation."""
    main = [name for name in sources if types[name] not in (*_ACTIVATIONS, *_FOLDABLE)]
    return (main or list(sources) or [""])[0]


def _fate(name: str, kind: str, homes: Mapping[str, list[int]], leaders: set[str]) -> str:
    if kind == "InputLayer":
        return KEPT
    if name not in homes:
        return REMOVED
    if name in leaders:
        return KEPT
    if kind in _FOLDABLE:
        return FOLDED
    return FUSED if kind in _ACTIVATIONS else MERGED
