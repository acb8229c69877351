"""The final .tflite as shared libraries, compiled by TVM."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

from edgecompile.artifact import TFLITE, Artifact, sha256_json
from edgecompile.backends.tvm import LIBRARY, REFERENCE_LIBRARY, role
from edgecompile.backends.tvm.isa import InstructionSet
from edgecompile.devices.local import LocalDevice
from edgecompile.stages.base import NOTHING, Context, Outcome
from edgecompile.tflite_file import read


@dataclass(frozen=True)
class CompileTvm:
    """isas: of one architecture, the best first. threads: the parallel loops are split for so many. source: digest of
    the compiler's own code.

    metrics: by library (the file's role), device, bytes, seconds, kernels, arena_bytes and weight_bytes.
    UnsupportedLayerError for an operator that there is no code for.
    """

    name: ClassVar[str] = "compile-tvm"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = False
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset()

    isas: tuple[InstructionSet, ...]
    threads: int
    tvm: str
    source: str

    @classmethod
    def now(cls, isas: tuple[InstructionSet, ...], threads: int) -> CompileTvm:
        """With the TVM that is installed, and the code that there is."""
        return cls(isas, threads, version("apache-tvm"), _source())

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        from edgecompile.backends.tvm import library
        from edgecompile.backends.tvm.arithmetic import FAST, REFERENCE
        from edgecompile.backends.tvm.planner import Planner
        from edgecompile.loaders.interpreter import own_signature

        model = read(artifact.model)
        modes = {LIBRARY: FAST}
        if any(tensor.dtype in ("int8", "uint8") for tensor in model.main.tensors if not tensor.is_constant):
            modes[REFERENCE_LIBRARY] = REFERENCE
        files, metrics, notes = {}, {}, []
        for name, mode in modes.items():
            ctx.say(f"compiling {name} for {self.threads} thread{'s' * (self.threads != 1)}")
            began = time.monotonic()
            plans = {isa: Planner(model, isa, mode, self.threads).run() for isa in self.isas}
            work = ctx.out / f"{name}.work"
            work.mkdir()
            made = library.build(plans, own_signature(model), ctx.out / f"{name}.so", work)
            library.tidy(work)
            files[role(name, self.threads)] = made.path
            metrics[role(name, self.threads)] = _metrics(made, time.monotonic() - began)
            notes.append(f"{name} {made.path.stat().st_size / 1000:.1f} kB")
        return Outcome(
            TFLITE,
            files,
            artifact.signature,
            metrics,
            (f"{', '.join(isa.name for isa in self.isas)}: {', '.join(notes)}",),
        )


def _metrics(made: Any, seconds: float) -> dict[str, Any]:
    return {
        "device": LocalDevice().facts().name,
        "bytes": made.path.stat().st_size,
        "seconds": seconds,
        "kernels": made.kernels,
        "arena_bytes": made.arena_bytes,
        "weight_bytes": made.weight_bytes,
    }


def _source() -> str:
    from pathlib import Path

    import edgecompile.backends.tvm as package

    root = Path(package.__file__).parent
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".c", ".h"))
    return sha256_json([[str(path.relative_to(root)), path.read_text(encoding="utf-8")] for path in files])[:16]
