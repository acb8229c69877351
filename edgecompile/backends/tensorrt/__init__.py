"""TensorRT on a Jetson: the compressed model as ONNX, and the engine that the board's own trtexec makes of it.

The ONNX is made and checked on this machine; the engine, only where a board is named, on that board, because an engine
works on the kind of GPU and with the version of TensorRT that built it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgecompile.artifact import Artifact
from edgecompile.backends.base import Candidate, nothing_to_ask
from edgecompile.backends.onnx import not_installed
from edgecompile.backends.onnx.runner import OnnxRunner
from edgecompile.target import Target

if TYPE_CHECKING:
    from edgecompile.stages.base import Stage

FP16, INT8 = "fp16", "int8"
# {precision: role of the artifact's file that its engine is built from} (stages/onnx_form.py)
GRAPHS = {FP16: "onnx", INT8: "onnx-int8"}


class TensorRt:
    on_board = True
    question = nothing_to_ask

    def runs_here(self, candidate: Candidate) -> bool:
        del candidate
        return False

    def unavailable_reason(self, target: Target) -> str | None:
        if target.gpu is None:
            return f"target {target.id} has no NVIDIA GPU: leave it out of --backends, or take --target jetson"
        return not_installed()

    def stages(self, target: Target, threads: int) -> Sequence[Stage]:
        """None: its graphs are made of the float model before it (on_board.py)."""
        del target, threads
        return ()

    def compile(self, artifact: Artifact, target: Target, threads: int) -> list[Candidate]:
        """What the engines will be built from: half precision, and int8 where the artifact has a graph with ranges."""
        del target, threads  # the GPU has its own
        return [
            Candidate(f"tensorrt-{precision}", "tensorrt", artifact.files[role], 1, {"precision": precision})
            for precision, role in GRAPHS.items()
            if role in artifact.files
        ]

    def open(self, candidate: Candidate) -> OnnxRunner:
        """The graph by ONNX Runtime; the engine itself runs on its board alone."""
        return OnnxRunner(candidate.model)


BACKEND = TensorRt()
