"""Models of one operator, with quantization as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgecompile.tflite_file.writing import write_tables

Array = npt.NDArray[Any]
_TYPES = {"float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8, "int32": schema.TensorType.INT32,
          "uint8": schema.TensorType.UINT8, "int16": schema.TensorType.INT16, "int64": schema.TensorType.INT64,
          "bool": schema.TensorType.BOOL}  # fmt: skip


@dataclass
class OneOperator:
    """Tensors are added in the order in which the operator takes them, its output last."""

    tensors: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=lambda: [schema.BufferT()])
    inputs: list[int] = field(default_factory=list)
    front: list[Any] = field(default_factory=list)

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str,
        scales: Sequence[float] = (),
        zero: int = 0,
        constant: Array | None = None,
        dimension: int = 0,
        inner: bool = False,
    ) -> None:
        """Without `constant` it is one of the model's inputs, or the output.

        inner: what one operator hands the next.
        """
        tensor = schema.TensorT()
        tensor.name = f"t{len(self.tensors)}".encode()
        tensor.shape, tensor.type, tensor.buffer = list(shape), _TYPES[dtype], 0
        if scales:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array(scales, np.float32)
            tensor.quantization.zeroPoint = np.full(len(scales), zero, np.int64)
            tensor.quantization.quantizedDimension = dimension
        if constant is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(constant.astype(dtype).tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        elif not inner:
            self.inputs.append(len(self.tensors))
        self.tensors.append(tensor)

    def in_front(self, name: str, options_type: str, options: Any, takes: Sequence[int], gives: int) -> None:
        """An operator before the one that `write` adds."""
        self.front.append((_called(options_type, options, takes, [gives]), _code(name, 2)))

    def write(
        self, name: str, options_type: str, options: Any, path: Path, version: int = 3, made: int = 1,
        takes: Sequence[int] = (),
    ) -> Path:  # fmt: skip
        """made: how many of the tensors, at the end, are outputs. takes: what the operator reads, if not all others."""
        inputs, outputs = self.inputs[:-made], self.inputs[-made:]
        read = takes or range(len(self.tensors) - made)
        calls = [*self.front, (_called(options_type, options, read, outputs), _code(name, version))]
        for number, (call, _) in enumerate(calls):
            call.opcodeIndex = number
        graph = schema.SubGraphT()
        graph.tensors, graph.inputs, graph.outputs = self.tensors, inputs, outputs
        graph.operators = [call for call, _ in calls]
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self.buffers
        model.operatorCodes = [code for _, code in calls]
        return write_tables(model, path)


def _called(options_type: str, options: Any, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = list(inputs), list(outputs)
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, options_type)
    operator.builtinOptions = options
    return operator


def _code(name: str, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
    return code


def enumerated(of: Any, name: str) -> int:
    value: int = getattr(of, name)
    return value
