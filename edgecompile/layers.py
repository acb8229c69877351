"""What is in a Keras model or a SavedModel: layers, shapes, parameters and multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgecompile import catalog, loaders
from edgecompile.artifact import KERAS, SAVED_MODEL, Signature
from edgecompile.loaders.base import LoadOptions
from edgecompile.stages.base import Progress

_COUNTED = ("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D", "Dense")
# They have weights and multiply no matrix.
_WITHOUT_MACS = ("BatchNormalization", "LayerNormalization", "Normalization", "Embedding", "PReLU")


def inspect_source(path: Path, options: LoadOptions, *, report: Callable[[Progress], None]) -> dict[str, Any]:
    """The model at `path` (Keras or SavedModel) as plain data for JSON; raises what `edgecompile.loaders.load` does.

    Keys: path, kind, notes, inputs, outputs, layers (name, class, output_shape, parameters, macs; nested models are
    opened) and totals (parameters, macs, uncounted: layers left out of macs). macs: of convolutions and dense layers,
    for a batch of 1; None where a layer's are not known from its shapes. A SavedModel that only has a signature has
    `operators` ({type: count}) for layers.
    """
    del report
    source = loaders.load(path, options)
    summary = _summary(str(path), source.kind, source.signature, list(source.notes))
    if source.kind == SAVED_MODEL:
        return {**summary, **_function(source.model)}
    return {**summary, **_layers(source.model)}


def inspect_builtin(model: str, *, report: Callable[[Progress], None]) -> dict[str, Any]:
    """As `inspect_source`, of a built-in model as its builder makes it."""
    import tempfile

    from edgecompile.loaders.base import save_keras

    del report
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        save_keras(catalog.get(model).build(), path)
        source = loaders.load(path, LoadOptions())
    return {**_summary(model, KERAS, source.signature, ["initial weights"]), **_layers(source.model)}


def _summary(name: str, kind: str, signature: Signature, notes: list[str]) -> dict[str, Any]:
    plain = {
        side: [{**asdict(tensor), "shape": list(tensor.shape)} for tensor in getattr(signature, side)]
        for side in ("inputs", "outputs")
    }
    return {"path": name, "kind": kind, "notes": notes, **plain}


def _layers(model: Any) -> dict[str, Any]:
    rows = [_layer(prefix, layer) for prefix, layer in _walk(model, "")]
    macs = [row["macs"] for row in rows]
    totals = {"parameters": int(model.count_params()), "macs": sum(filter(None, macs)), "uncounted": macs.count(None)}
    return {"layers": rows, "totals": totals}


def _walk(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for layer in model.layers:
        if getattr(layer, "layers", None):
            yield from _walk(layer, f"{prefix}{layer.name}/")
        else:
            yield prefix, layer


def _layer(prefix: str, layer: Any) -> dict[str, Any]:
    shape = _output_shape(layer)
    return {
        "name": prefix + layer.name,
        "class": type(layer).__name__,
        "output_shape": shape,
        "parameters": int(layer.count_params()) if layer.built else 0,
        "macs": _macs(layer, shape),
    }


def _output_shape(layer: Any) -> list[int] | list[list[int]] | None:
    """-1 where a size is free; None for a layer used at several places, whose outputs may differ."""
    try:
        output = layer.output
    except (AttributeError, ValueError):
        return None
    outputs = output if isinstance(output, list | tuple) else [output]
    shapes = [[-1 if size is None else int(size) for size in tensor.shape] for tensor in outputs]
    return shapes[0] if len(shapes) == 1 else shapes


def _macs(layer: Any, shape: Any) -> int | None:
    """Multiply-accumulates of one call: each output position applies the kernel once."""
    kind = type(layer).__name__
    if kind not in _COUNTED:
        return 0 if kind in _WITHOUT_MACS or not layer.built or not layer.count_params() else None
    if not shape or not isinstance(shape[0], int):
        return None
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    positions = shape[2:] if channels_first else shape[1:-1]
    if any(size < 0 for size in positions):
        return None
    kernel = layer.depthwise_kernel if hasattr(layer, "depthwise_kernel") else layer.kernel
    each = math.prod(int(size) for size in kernel.shape)
    return each * math.prod(int(size) for size in positions)


def _function(function: Any) -> dict[str, Any]:
    """Of a SavedModel that is no Keras graph: operators by type, and the variables that its signature reads."""
    counts: dict[str, int] = {}
    graph = function.graph.as_graph_def()
    for node in (*graph.node, *(node for called in graph.library.function for node in called.node_def)):
        counts[node.op] = counts.get(node.op, 0) + 1
    parameters = sum(math.prod(int(size) for size in variable.shape) for variable in function.variables)
    ranked = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return {"operators": ranked, "totals": {"parameters": int(parameters), "macs": None, "uncounted": None}}
