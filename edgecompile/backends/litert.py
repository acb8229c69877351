"""LiteRT (once TensorFlow Lite): the .tflite itself, with XNNPACK and with LiteRT's own kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import Artifact, TensorInfo
from edgecompile.backends.base import Candidate
from edgecompile.errors import ModelError
from edgecompile.loaders.tflite import dequantize, quantize, tensor_info
from edgecompile.ondevice.runner import named
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
        self.inputs, self.outputs = _tensors(self._interpreter)

    def run(self, x: Mapping[str, Array]) -> dict[str, Array]:
        feeds = [(index, quantize(x[spec.name], spec).astype(spec.dtype)) for index, spec in self.inputs]
        results: dict[str, list[Array]] = {spec.name: [] for _, spec in self.outputs}
        for i in range(len(feeds[0][1])):
            for index, array in feeds:
                self._interpreter.set_tensor(index, array[i : i + 1])
            self._interpreter.invoke()
            for index, spec in self.outputs:
                results[spec.name].append(self._interpreter.get_tensor(index))
        return {name: np.concatenate(parts) for name, parts in results.items()}

    def scale(self, output: str) -> float | None:
        """The scale of a quantized output, None for float."""
        return next(spec.scale for _, spec in self.outputs if spec.name == output)

    def run_real(self, x: Mapping[str, Array]) -> dict[str, Array]:
        """As `run`, with quantized outputs turned into the real numbers they stand for."""
        raw = self.run(x)
        return {spec.name: dequantize(raw[spec.name], spec) for _, spec in self.outputs}


Tensors = list[tuple[int, TensorInfo]]


def _tensors(interpreter: Any) -> tuple[Tensors, Tensors]:
    """(index, description) of inputs and of outputs, by the signature's names or else the tensors' own."""
    inputs, outputs = named(interpreter)
    return [described(name, d) for name, d in inputs], [described(name, d) for name, d in outputs]


def described(name: str, detail: Any) -> tuple[int, TensorInfo]:
    return int(detail["index"]), tensor_info(name, detail, tuple(int(d) for d in detail["shape"]))
