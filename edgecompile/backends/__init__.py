"""The backends. A new one is one module and one line here."""

from __future__ import annotations

from edgecompile.backends import litert, onnx, openvino, tensorrt, tvm
from edgecompile.backends.base import Backend

BACKENDS: dict[str, Backend] = {
    "litert": litert.BACKEND,
    "onnx": onnx.BACKEND,
    "openvino": openvino.BACKEND,
    "tensorrt": tensorrt.BACKEND,
    "tvm": tvm.BACKEND,
}
