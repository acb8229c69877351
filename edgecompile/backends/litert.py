"""LiteRT (once TensorFlow Lite): the .tflite itself, with XNNPACK and with LiteRT's own kernels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.artifact import Artifact
from edgecompile.backends.base import Candidate, nothing_to_ask
from edgecompile.errors import ModelError
from edgecompile.loaders.interpreter import Interpreted, own_signature
from edgecompile.target import Target
from edgecompile.task import Array
from edgecompile.tflite_file import TfliteModel, read

if TYPE_CHECKING:
    from edgecompile.stages.base import Stage

SPARSE_FILE = "sparse"  # the role of an artifact's file that has sparse weights (stages/sparse_form.py)
XNNPACK, BUILTIN, REFERENCE = "xnnpack", "builtin", "reference"
RESOLVERS = {XNNPACK: "AUTO", BUILTIN: "BUILTIN_WITHOUT_DEFAULT_DELEGATES", REFERENCE: "BUILTIN_REF"}


# The kernels that LiteRT takes by itself, where a figure is the model's and not theirs.
AS_IT_COMES: Mapping[str, Any] = {"xnnpack": "auto"}


class LiteRt:
    on_board = False
    question = nothing_to_ask

    def runs_here(self, candidate: Candidate) -> bool:
        del candidate
        return True

    def unavailable_reason(self, target: Target) -> str | None:
        del target  # LiteRT runs everywhere, and is in the base install
        return None

    def stages(self, target: Target, threads: int) -> Sequence[Stage]:
        from edgecompile.stages.sparse_form import SparseForm

        del target, threads
        return (SparseForm(),)

    def compile(self, artifact: Artifact, target: Target, threads: int) -> list[Candidate]:
        """XNNPACK, LiteRT's own kernels, and XNNPACK on the sparse form where the artifact has one."""
        del target
        candidates = [
            Candidate(f"litert-{kernels}", "litert", artifact.model, threads, {"xnnpack": kernels == XNNPACK})
            for kernels in (XNNPACK, BUILTIN)
        ]
        sparse = artifact.files.get(SPARSE_FILE)
        if sparse is not None:
            candidates.append(Candidate("litert-xnnpack-sparse", "litert", sparse, threads, {"xnnpack": True}))
        return candidates

    def open(self, candidate: Candidate) -> LiteRtRunner:
        kernels = XNNPACK if candidate.config["xnnpack"] else BUILTIN
        return LiteRtRunner(candidate.model, kernels, candidate.threads)


BACKEND = LiteRt()


def reference_kernels(model: TfliteModel) -> str:
    """REFERENCE, or BUILTIN where these are no reference for the model (`unreferenced`)."""
    return BUILTIN if unreferenced(model) else REFERENCE


def named_kernels(model: TfliteModel) -> str:
    """`reference_kernels` in words."""
    why = unreferenced(model)
    return f"LiteRT's default kernels (its reference kernels {why})" if why else "LiteRT's reference kernels"


def unreferenced(model: TfliteModel) -> str:
    """What the reference kernels do that makes them no reference for the model, and LiteRT's default ones have to be;
    empty where they are one, or where the default ones refuse the model too."""
    for graph in model.subgraphs:
        if any(t.is_constant and t.dtype == "int4" and t.quantization is None for t in graph.tensors):
            return "take weights with a scale a block for zeros"
        for operator in graph.operators:
            dtype = graph.tensors[operator.inputs[0]].dtype if operator.inputs else ""
            if operator.name == "SUM" and dtype in ("int8", "int16"):
                return f"add {dtype} up wrongly"
    refused = refusal(model, REFERENCE)
    return "" if not refused or refusal(model, BUILTIN) else refused


def refusal(model: TfliteModel, kernels: str) -> str:
    try:
        LiteRtRunner(model.path, kernels)
    except ModelError as problem:
        lacking = re.search(r"builtin opcode '(\w+)'", problem.message)
        return f"lack {lacking[1]}" if lacking else f"refuse the model: {problem.message}"
    return ""


class LiteRtRunner:
    """kernels: "xnnpack", "builtin" (LiteRT's optimized ones) or "reference" (its plainest, for parity).

    Inputs and outputs go by the file's own names. ModelError where LiteRT can't open or run it.
    """

    def __init__(self, model: Path, kernels: str = XNNPACK, threads: int = 1) -> None:
        file = read(model)
        own = own_signature(file)
        names = [t.name for t in own.inputs], [t.name for t in own.outputs]
        self._engine = Interpreted(model, names, threads=threads, resolver=RESOLVERS[kernels], model=file)
        self.outputs = self._engine.outputs

    def run(self, x: Mapping[str, Array]) -> dict[str, Array]:
        return self._engine.run(x)

    def scale(self, output: str) -> float | None:
        """The scale of a quantized output, None for float."""
        return next(spec.scale for spec in self.outputs if spec.name == output)

    def run_real(self, x: Mapping[str, Array]) -> dict[str, Array]:
        """As `run`, with quantized outputs turned into the real numbers they stand for."""
        return self._engine.real(self.run(x))
