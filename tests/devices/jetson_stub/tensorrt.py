"""Stands in for TensorRT's Python package: ONNX Runtime computes an engine's graph.

Where it isn't installed, an engine computes what the .tflite beside this file does.
"""

from __future__ import annotations

import base64
import ctypes
import enum
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

MODEL = Path(__file__).with_name("model.tflite")


class Logger:
    ERROR = 1

    def __init__(self, level: int) -> None: ...


class TensorIOMode:
    INPUT, OUTPUT = 0, 1


class DataType(enum.Enum):
    FLOAT = "float32"
    INT32 = "int32"


def init_libnvinfer_plugins(logger: Logger, namespace: str) -> bool:
    return isinstance(logger, Logger) and not namespace


class Runtime:
    def __init__(self, logger: Logger) -> None: ...

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        try:
            graph = base64.b64decode(json.loads(data)["onnx"])
        except ValueError:
            return None
        return Engine(by_onnx_runtime(graph) or by_litert())


# {name: (mode, shape, dtype)}, and {input: array} -> {output: array}
Computed = tuple[dict[str, tuple], Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]]


def by_onnx_runtime(graph: bytes) -> Computed | None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it leaves files in the cache folder, as only edgecompile may here
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": "float32", "tensor(int32)": "int32"}
    tensors = {
        each.name: (mode, tuple(each.shape), types[each.type])
        for mode, group in enumerate((session.get_inputs(), session.get_outputs()))
        for each in group
    }
    names = [each.name for each in session.get_outputs()]
    return tensors, lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def by_litert() -> Computed:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(MODEL))
    runner = interpreter.get_signature_runner()
    tensors = {
        name: (mode, tuple(each["shape"]), np.dtype(each["dtype"]).name)
        for mode, group in enumerate((runner.get_input_details(), runner.get_output_details()))
        for name, each in group.items()
    }
    return tensors, lambda inputs: runner(**inputs)


class Engine:
    def __init__(self, computed: Computed) -> None:
        self._tensors, self._compute = computed
        self._names = list(self._tensors)

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> int:
        return self._tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name][1]

    def get_tensor_dtype(self, name: str) -> object:
        return DataType(self._tensors[name][2])

    def create_execution_context(self) -> Engine:
        return self

    def execute_v2(self, pointers: list[int]) -> bool:
        at = dict(zip(self._names, pointers, strict=True))
        inputs = {}
        for name, (mode, shape, dtype) in self._tensors.items():
            if mode == 0:
                data = ctypes.string_at(at[name], int(np.prod(shape)) * np.dtype(dtype).itemsize)
                inputs[name] = np.frombuffer(data, dtype).reshape(shape)
        for name, array in self._compute(inputs).items():
            data = array.tobytes()
            ctypes.memmove(at[name], data, len(data))
        return True
