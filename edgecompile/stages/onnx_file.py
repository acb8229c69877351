"""The final .tflite as ONNX, for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.onnx import GRAPH
from edgecompile.stages.base import NOTHING, Context, Outcome


@dataclass(frozen=True)
class OnnxFile:
    """tools: versions of what converts. ConversionError where tf2onnx refuses the model, or ONNX Runtime the
    graph."""

    name: ClassVar[str] = "onnx-file"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = True  # tf2onnx loads it
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset()

    tools: tuple[str, ...]

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        from edgecompile.backends.onnx.graph import OPSET, export
        from edgecompile.backends.onnx.runner import OnnxRunner

        path = ctx.out / "model.onnx"
        export(artifact.model, path, opset=OPSET, symmetric=False)
        OnnxRunner(path)
        size = path.stat().st_size
        note = f"ONNX graph of {size / 1000:.1f} kB"
        return Outcome(TFLITE, {GRAPH: path}, artifact.signature, {"bytes": size}, (note,))
