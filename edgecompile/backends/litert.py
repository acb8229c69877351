"""LiteRT (once TensorFlow Lite): the .tflite itself, with XNNPACK and with LiteRT's own kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import Artifact
from edgecompile.backends.base import Candidate
from edgecompile.errors import ModelError
from edgecompile.target import Target
from edgecompile.task import Array

XNNPACK, BUILTIN, REFERENCE = "xnnpack", "builtin", "reference"


class LiteRt:
    def unavailable_reason(self, target: Target) -> str | None:
        del target  # LiteRT runs everywhere, and is in the base install
        return None

    def compile(self, artifact: Artifact, target: Target, threads: int) -> list[Candidate]:
        del target
        return [
            Candidate(f"litert-{kernels}", "litert", artifact.model, threads, {"xnnpack": kernels == XNNPACK})
            for kernels in (XNNPACK, BUILTIN)
        ]

    def open(self, candidate: Candidate) -> LiteRtRunner:
        kernels = XNNPACK if candidate.config["xnnpack"] else BUILTIN
        return LiteRtRunner(candidate.model, kernels, candidate.threads)


BACKEND = LiteRt()


class LiteRtRunner:
    """kernels: "xnnpack", "builtin" (LiteRT's optimized ones) or "reference" (its plainest, for parity)."""

    def __init__(self, model: Path, kernels: str = XNNPACK, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = {
            XNNPACK: OpResolverType.AUTO,
            BUILTIN: OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            REFERENCE: OpResolverType.BUILTIN_REF,
        }[kernels]
        try:
            self._interpreter = Interpreter(str(model), num_threads=threads, experimental_op_resolver_type=resolver)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as problem:
            raise ModelError(f"LiteRT can't open {model}: {str(problem).strip().splitlines()[0]}") from problem
        # The names of the signature, where the file has one; the tensors' own names else.
        self.inputs = _by_name(self._interpreter, "inputs", self._interpreter.get_input_details())
        self.outputs = _by_name(self._interpreter, "outputs", self._interpreter.get_output_details())

    def run(self, x: Mapping[str, Array]) -> dict[str, Array]:
        feeds = [(detail["index"], quantized(x[name], detail)) for name, detail in self.inputs.items()]
        n = len(feeds[0][1])
        results: dict[str, list[Array]] = {name: [] for name in self.outputs}
        for i in range(n):
            for index, array in feeds:
                self._interpreter.set_tensor(index, array[i : i + 1])
            self._interpreter.invoke()
            for name, detail in self.outputs.items():
                results[name].append(self._interpreter.get_tensor(detail["index"]))
        return {name: np.concatenate(parts) for name, parts in results.items()}

    def scale(self, output: str) -> float | None:
        """The scale of a quantized output, None for float."""
        return _quantization(self.outputs[output])[0]

    def run_real(self, x: Mapping[str, Array]) -> dict[str, Array]:
        """As `run`, with quantized outputs turned into the real numbers they stand for."""
        return {name: dequantized(array, self.outputs[name]) for name, array in self.run(x).items()}


def _by_name(interpreter: Any, side: str, details: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    signatures = interpreter.get_signature_list()
    if not signatures:
        return {detail["name"]: detail for detail in details}
    key = next(iter(signatures))
    runner = interpreter.get_signature_runner(key)
    named = runner.get_input_details() if side == "inputs" else runner.get_output_details()
    by_index = {detail["index"]: name for name, detail in named.items()}
    return {by_index[detail["index"]]: detail for detail in details}


def _quantization(detail: dict[str, Any]) -> tuple[float | None, int]:
    scale, zero_point = detail["quantization"]
    return (float(scale), int(zero_point)) if scale and np.issubdtype(detail["dtype"], np.integer) else (None, 0)


def quantized(array: Array, detail: dict[str, Any]) -> Array:
    """Real numbers as the tensor's type takes them: q = round(x / scale) + zero point, clipped."""
    dtype = np.dtype(detail["dtype"])
    scale, zero_point = _quantization(detail)
    if scale is None or array.dtype == dtype:
        return array.astype(dtype)
    limits = np.iinfo(dtype)
    real = np.round(array.astype(np.float32) / scale) + zero_point
    return np.clip(real, limits.min, limits.max).astype(dtype)


def dequantized(array: Array, detail: dict[str, Any]) -> Array:
    scale, zero_point = _quantization(detail)
    if scale is None:
        return array
    real: Array = (array.astype(np.float32) - zero_point) * np.float32(scale)
    return real
