"""ONNX Runtime: the .tflite as an ONNX graph, by its own CPU kernels.

graph.py, repairs.py and runner.py serve TensorRT too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from edgecompile.artifact import Artifact
from edgecompile.backends.base import Candidate, nothing_to_ask
from edgecompile.target import Target

if TYPE_CHECKING:
    from edgecompile.backends.onnx.runner import OnnxRunner
    from edgecompile.stages.base import Stage

PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
GRAPH = "onnx-cpu"  # the role of the artifact's file (stages/onnx_file.py)


def not_installed() -> str | None:
    """Which packages are missing, with the cure; None where all are there."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (pip install 'edgecompile[onnx]', or --backends litert)"
    return None


class Onnx:
    on_board = False
    question = nothing_to_ask

    def runs_here(self, candidate: Candidate) -> bool:
        del candidate
        return True

    def unavailable_reason(self, target: Target) -> str | None:
        del target
        return not_installed()

    def stages(self, target: Target, threads: int) -> Sequence[Stage]:
        from edgecompile.stages.onnx_file import OnnxFile
        from edgecompile.stages.onnx_form import tools

        del target, threads
        return (OnnxFile(tools()),)

    def compile(self, artifact: Artifact, target: Target, threads: int) -> list[Candidate]:
        from edgecompile.backends.sessions import described
        from edgecompile.tflite_file import read

        del target
        config = {"version": version("onnxruntime"), **described(read(artifact.model))}
        return [Candidate("onnx", "onnx", artifact.files[GRAPH], threads, config)]

    def open(self, candidate: Candidate) -> OnnxRunner:
        from edgecompile.backends.onnx.runner import OnnxRunner

        return OnnxRunner(candidate.model, candidate.threads, candidate.config)


BACKEND = Onnx()
