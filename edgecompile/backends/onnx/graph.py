"""A .tflite as an ONNX graph."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgecompile.backends.onnx.repairs import give_back_biases, spell_out_gelu
from edgecompile.errors import ConversionError, UnsupportedLayerError
from edgecompile.loaders.interpreter import own_signature
from edgecompile.tflite_file import read, spelt_out

OLD_OPSET = 13  # the newest that TensorRT 8.2 takes, which is the last for the first Jetson Nano
OPSET = 18  # the newest that tf2onnx writes
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_ZERO_POINT = 2  # the input that holds it
_SHOWN = 80  # characters of a name: converters join those of all that they fused


def export(model: Path, out: Path, *, opset: int, symmetric: bool) -> None:
    """Write the graph of `model` to `out`: its sizes fixed to the file's, its inputs and outputs named as the file's
    signature names them.

    symmetric: for TensorRT, which takes no zero points but 0. Errors: ConversionError with tf2onnx's reason;
    UnsupportedLayerError for a graph with others where it has to be symmetric, for sizes that are free, but for the
    batch, and for other dimensions than the file's.
    """
    import onnx
    import tf2onnx

    file = read(model)
    try:
        with tempfile.TemporaryDirectory(prefix="edgecompile-") as folder:
            file = read(spelt_out(file, Path(folder, model.name)))
            proto, _ = tf2onnx.convert.from_tflite(str(file.path), opset=opset)
    except Exception as problem:  # tf2onnx has no class of its own for what it can't convert
        raise ConversionError(
            f"tf2onnx refused the model: {problem}", hint="--backends litert leaves ONNX out"
        ) from problem
    spell_out_gelu(proto.graph)
    give_back_biases(proto.graph, file)
    if symmetric:
        check_symmetric(proto)
    signature, main = own_signature(file), file.main
    found = []
    for values, indices, specs in (
        (proto.graph.input, main.inputs, signature.inputs),
        (proto.graph.output, main.outputs, signature.outputs),
    ):
        by_tensor = {main.tensors[index].name: spec for index, spec in zip(indices, specs, strict=True)}
        if {value.name for value in values} != set(by_tensor):
            names = ", ".join(value.name[:_SHOWN] for value in values)
            raise ConversionError(
                f"tf2onnx gave the graph other inputs or outputs than the model's: {names}",
                hint="--backends litert leaves ONNX out",
            )
        found += [(value, by_tensor[value.name]) for value in values]
    if shared := {t.name for t in signature.inputs} & {t.name for t in signature.outputs}:
        raise UnsupportedLayerError(
            f"an input and an output are both called {shared.pop()!r}, which ONNX can't have",
            hint="--backends litert leaves ONNX out",
        )
    # First to names that nothing else has: one's new name may be another's old one.
    for number, (value, spec) in enumerate(found):
        _fix_shape(value, spec.shape)
        _rename(proto.graph, value.name, f"edgecompile_{number}")
    for value, spec in found:
        _rename(proto.graph, value.name, spec.name)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as problem:
        raise ConversionError(
            f"tf2onnx made a graph that is no valid ONNX: {problem}", hint="--backends litert leaves ONNX out"
        ) from problem
    onnx.save(proto, str(out))


def check_symmetric(proto: Any) -> None:
    """UnsupportedLayerError where the graph has a zero point other than 0, or unsigned integers.

    TensorRT's integers are symmetric: it refuses such a graph, and some versions computed with zero points ignored.
    """
    import numpy as np
    from onnx import numpy_helper

    points: Any
    constants = {each.name: each for each in proto.graph.initializer}
    constants |= {
        node.output[0]: node.attribute[0].t
        for node in proto.graph.node
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value"
    }
    for node in proto.graph.node:
        if node.op_type not in _QUANTIZERS:
            continue
        if len(node.input) <= _ZERO_POINT or not node.input[_ZERO_POINT]:
            if node.op_type == "DequantizeLinear":  # 0, of the type of what it is given, which a QuantizeLinear made
                continue
            points = np.zeros(1, np.uint8)  # as ONNX defines it
        else:
            constant = constants.get(node.input[_ZERO_POINT])
            points = None if constant is None else numpy_helper.to_array(constant)
        if points is None or points.any() or points.dtype.kind == "u":
            what = "one that isn't constant" if points is None else f"{points.dtype} {points.ravel()[0]}"
            raise UnsupportedLayerError(
                f"{node.op_type} {node.name[:_SHOWN]!r} has a zero point other than int8 0 ({what}): TensorRT's "
                "integers are symmetric, those of a TFLite model are not",
                hint="give the float model, with --recipe int8 for integers; or --backends litert",
            )


def _fix_shape(value: Any, shape: tuple[int, ...]) -> None:
    """tf2onnx leaves the batch free; an engine of a fixed size is the faster one."""
    if any(size < 0 for size in shape[1:]):
        raise UnsupportedLayerError(
            f"{value.name[:_SHOWN]!r} has the shape {list(shape)}: a size that is free",
            hint="fix it with --input-shape; or --backends litert",
        )
    sizes = value.type.tensor_type.shape.dim
    if len(sizes) != len(shape):
        raise UnsupportedLayerError(
            f"{value.name[:_SHOWN]!r} has {len(sizes)} dimensions in the graph of tf2onnx and {len(shape)} in the file",
            hint="--backends litert leaves ONNX out",
        )
    for size, wanted in zip(sizes, shape, strict=True):
        size.ClearField("dim_param")
        size.dim_value = abs(wanted)


def _rename(graph: Any, old: str, new: str) -> None:
    """A tensor, wherever the graph speaks of it. One that has the new name already gets another."""
    if old == new:
        return
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    if new in names:
        _rename(graph, new, f"{new}_inner")
    for node in graph.node:
        for words in (node.input, node.output):
            for index, word in enumerate(words):
                if word == old:
                    words[index] = new
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if value.name == old:
            value.name = new
