"""What of a .tflite computes in int8, and what in float: the converter leaves operators in float where it finds no
ranges for them, and says nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edgecompile import promises
from edgecompile.errors import CompressionGateError
from edgecompile.tflite_file import TfliteModel
from edgecompile.tflite_file.graph import DATA_INPUT, WEIGHTS, Operator

_NOT_COMPUTING = frozenset({"QUANTIZE", "DEQUANTIZE", "EXPAND_DIMS", "RESHAPE", "SQUEEZE", "TRANSPOSE"})


@dataclass(frozen=True)
class Kernels:
    """integer: how many operators with constant weights compute in int8. floats: by the name of their outputs, what to
    say of the others."""

    integer: int
    floats: dict[str, str]


def kernels(model: TfliteModel) -> Kernels:
    """Of all operators with constant weights."""
    tensors = model.main.tensors
    floats, integer = {}, 0
    for operator in model.main.operators:
        if operator.name not in WEIGHTS or operator.custom:
            continue
        weights = tensors[operator.inputs[WEIGHTS[operator.name][0]]]
        data = tensors[operator.inputs[DATA_INPUT.get(operator.name, (0, 0))[0]]]
        if not weights.is_constant:
            continue
        if weights.dtype == data.dtype == "int8":
            integer += 1
        else:
            name = tensors[operator.outputs[0]].name
            floats[name] = (
                f"{operator.name} {name!r} was trained for int8, and became one of {data.dtype} with {weights.dtype} "
                "weights"
            )
    return Kernels(integer, floats)


def check_integer(model: TfliteModel, may_be_float: Collection[str]) -> list[str]:
    """Names of the operators with weights that run in float; CompressionGateError where one isn't of these layers."""
    found = kernels(model)
    for name, what in found.floats.items():
        if not any(promises.is_of(name, layer) or within_model(name) == layer for layer in may_be_float):
            raise CompressionGateError(
                f"{name!r} was trained for int8, and is a {what}",
                hint="take recipe int8 (post-training), and report it",
            )
    if not found.integer:
        raise CompressionGateError("no weight of the quantization-aware model became int8", hint="take recipe int8")
    return list(found.floats)


def in_float(model: TfliteModel, origins: Mapping[str, tuple[str, str]], left: Collection[str]) -> dict[str, str]:
    """By name, the layers that an operator in float comes from, and what they are; an operator whose name tells no
    layer is there itself.

    origins: by the name of a layer of the converted model, (what it is called here, what it is). left: those that are
    known to be in float. The converter joins the names of layers, and where one of these is among them it is the one.
    """
    tensors = model.main.tensors
    found: dict[str, str] = {}
    for operator in model.main.operators:
        if operator.name in _NOT_COMPUTING or not _computes_in_float(model, operator):
            continue
        name = tensors[operator.outputs[0]].name
        named = [origin for layer, origin in origins.items() if promises.is_of(name, layer)]
        known = [origin for origin in named if origin[0] in left]
        found.update(known or named or [(within_model(name), operator.name)])
    return found


def _computes_in_float(model: TfliteModel, operator: Operator) -> bool:
    tensors = [model.main.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
    return any(tensor.dtype == "float32" and not tensor.is_constant for tensor in tensors)


def within_model(tensor: str) -> str:
    """A tensor's name without the model's, which another process may number otherwise."""
    return tensor.partition("/")[2] or tensor
