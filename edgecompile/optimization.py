"""What graph optimisation did: which of the source's layers became an operator, and which went into another's.

TensorFlow's converter names a tensor after all layers that were merged into the operator that makes it
("net/act/Relu;net/bn/FusedBatchNormV3;net/conv/Conv2D"), so the mapping can be read off the .tflite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgecompile.tflite_file import Operator, Subgraph, TfliteModel

KEPT, FOLDED, FUSED, MERGED, REMOVED = "kept", "folded", "fused", "merged", "removed"
_ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "Softmax", "ELU")
_FOLDABLE = ("BatchNormalization", "Rescaling", "Normalization")
_FOLLOWERS = (*_ACTIVATIONS, *_FOLDABLE, "ZeroPadding2D", "Flatten", "Reshape", "Dropout")
_ADDED = ("QUANTIZE", "DEQUANTIZE")


def graph_changes(layers: Sequence[Mapping[str, str]], model: TfliteModel) -> dict[str, Any]:
    """layers: [{name, type}] of the source. Returns, JSON only: operator counts before and after, the operators
    with the layers each came from, and for every layer what became of it."""
    types = {layer["name"]: layer["type"] for layer in layers}
    graph = model.main
    operators: list[dict[str, Any]] = []
    homes: dict[str, list[int]] = {}
    last = next((op for op in reversed(graph.operators) if op.name not in _ADDED), None)
    for op in graph.operators:
        sources = _sources(op, graph, types) if op.name not in _ADDED else []
        if not sources and op is last and layers:
            sources = [layers[-1]["name"]]  # the converter names what it returns after the signature
        operators.append({"index": op.index, "type": op.name, "layers": sources})
        for layer in sources:
            homes.setdefault(layer, []).append(op.index)
    leaders = {_leader(op["layers"], types) for op in operators}
    fates = [
        {"name": name, "type": kind, "fate": _fate(name, kind, homes, leaders), "operators": homes.get(name, [])}
        for name, kind in types.items()
    ]
    return {
        "before": dict(Counter(types.values())),
        "after": dict(Counter(op["type"] for op in operators)),
        "operators": operators,
        "layers": fates,
        "summary": dict(Counter(fate["fate"] for fate in fates)),
        "added": sum(op["type"] in _ADDED for op in operators),
    }


def _sources(op: Operator, graph: Subgraph, types: Mapping[str, str]) -> list[str]:
    """Layers named in the operator's outputs and constants, in the source's order."""
    tensors = [graph.tensors[i] for i in op.outputs]
    tensors += [graph.tensors[i] for i in op.inputs if i >= 0 and graph.tensors[i].is_constant]
    found = {_layer(part, types) for tensor in tensors for part in tensor.name.split(";")}
    return [name for name in types if name in found]


def _layer(scope: str, types: Mapping[str, str]) -> str:
    """The layer of a name such as "net/quant_conv/BiasAdd": the first part that is one. Later parts are operators,
    which TensorFlow may call like another layer ("net/add_1/add")."""
    parts = [part.split(":")[0] for part in scope.split("/")]
    candidates = [name for part in parts for name in (part, part.removeprefix("quant_")) if name in types]
    return candidates[0] if candidates else ""


def _leader(sources: Sequence[str], types: Mapping[str, str]) -> str:
    """The layer that the operator is for: the first that is neither folded into weights nor an activation."""
    main = [name for name in sources if types[name] not in _FOLLOWERS]
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
