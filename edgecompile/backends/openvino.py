"""OpenVINO's CPU plugin, which reads the .tflite itself; in float32 where the model is, never in bfloat16."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.artifact import Artifact
from edgecompile.backends.base import Candidate, nothing_to_ask
from edgecompile.target import Target

if TYPE_CHECKING:
    from edgecompile.backends.sessions import SessionRunner
    from edgecompile.stages.base import Stage


class OpenVino:
    on_board = False
    question = nothing_to_ask

    def runs_here(self, candidate: Candidate) -> bool:
        del candidate
        return True

    def unavailable_reason(self, target: Target) -> str | None:
        del target
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed (pip install 'edgecompile[openvino]', or --backends litert)"
        return None

    def stages(self, target: Target, threads: int) -> Sequence[Stage]:
        from edgecompile.stages.spell_out import SpellOut

        del target, threads
        return (SpellOut(version("openvino")),)

    def compile(self, artifact: Artifact, target: Target, threads: int) -> list[Candidate]:
        from edgecompile.backends.sessions import described
        from edgecompile.stages.spell_out import SPELT_OUT
        from edgecompile.tflite_file import read

        del target
        model = artifact.files[SPELT_OUT]
        config = {"version": version("openvino"), **described(read(model))}
        return [Candidate("openvino", "openvino", model, threads, config)]

    def open(self, candidate: Candidate) -> SessionRunner:
        """ConversionError where OpenVINO refuses the file."""
        return opened(candidate.model, candidate.threads, candidate.config)


def opened(model: Path, threads: int, described: Mapping[str, Any]) -> SessionRunner:
    """described: what `sessions.described` gives. ConversionError where OpenVINO refuses the file."""
    from edgecompile.backends.sessions import SessionRunner, spec
    from edgecompile.errors import ConversionError
    from edgecompile.ondevice import runner

    inputs, outputs = described["inputs"], described["outputs"]
    try:
        session = runner.OpenVinoSession(model, threads, inputs, outputs)
    except runner.Failure as problem:
        raise ConversionError(str(problem), hint="--backends litert leaves OpenVINO out") from None
    return SessionRunner(session, tuple(map(spec, inputs)), tuple(map(spec, outputs)))


BACKEND = OpenVino()
