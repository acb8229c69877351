"""LiteRT (once TensorFlow Lite): the .tflite itself, with XNNPACK and with LiteRT's own kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgecompile.artifact import Artifact
from edgecompile.backends.base import Candidate
from edgecompile.loaders.interpreter import Interpreted, own_signature
from edgecompile.target import Target
from edgecompile.task import Array
from edgecompile.tflite_file import read

XNNPACK, BUILTIN, REFERENCE = "xnnpack", "builtin", "reference"
_RESOLVERS = {XNNPACK: "AUTO", BUILTIN: "BUILTIN_WITHOUT_DEFAULT_DELEGATES", REFERENCE: "BUILTIN_REF"}


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
    """kernels: "xnnpack", "builtin" (LiteRT's optimized ones) or "reference" (its plainest, for parity).

    Inputs and outputs go by the file's own names. ModelError where LiteRT can't open or run it.
    """

    def __init__(self, model: Path, kernels: str = XNNPACK, threads: int = 1) -> None:
        own = own_signature(read(model))
        names = [t.name for t in own.inputs], [t.name for t in own.outputs]
        self._engine = Interpreted(model, names, threads=threads, resolver=_RESOLVERS[kernels])
        self.outputs = self._engine.outputs

    def run(self, x: Mapping[str, Array]) -> dict[str, Array]:
        return self._engine.run(x)

    def scale(self, output: str) -> float | None:
        """The scale of a quantized output, None for float."""
        return next(spec.scale for spec in self.outputs if spec.name == output)

    def run_real(self, x: Mapping[str, Array]) -> dict[str, Array]:
        """As `run`, with quantized outputs turned into the real numbers they stand for."""
        return self._engine.real(self.run(x))
