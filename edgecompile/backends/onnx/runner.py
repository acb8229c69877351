"""An ONNX graph by ONNX Runtime on this machine's CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecompile.backends.sessions import SessionRunner, spec
from edgecompile.errors import ConversionError
from edgecompile.ondevice import runner


class OnnxRunner(SessionRunner):
    """described: what the graph's tensors stand for (sessions.described), where it came from a quantized .tflite.

    ConversionError where ONNX Runtime doesn't take the graph.
    """

    def __init__(self, model: Path, threads: int = 1, described: Mapping[str, Any] | None = None) -> None:
        try:
            session = runner.OnnxSession(model, threads)
        except runner.Failure as problem:
            raise ConversionError(str(problem), hint="pip install 'edgecompile[onnx]', or --backends litert") from None
        told = described or {"inputs": session.inputs, "outputs": session.outputs}
        super().__init__(session, tuple(map(spec, told["inputs"])), tuple(map(spec, told["outputs"])))
