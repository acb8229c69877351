"""TVM: the .tflite compiled to a shared library, by operators and schedules of our own.

Whatever imports TVM runs in the worker: an instruction that LLVM can't select ends the process.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.artifact import Artifact
from edgecompile.backends.base import VARIANTS, Candidate, Question
from edgecompile.backends.tvm.isa import INSTRUCTION_SETS, for_target
from edgecompile.ondevice.runner import cpu_flags  # `runner` is a module here, too
from edgecompile.target import Target

if TYPE_CHECKING:
    from edgecompile.backends.tvm.runner import TvmRunner
    from edgecompile.stages.base import Stage

# The libraries: in XNNPACK's rounding, or float; in LiteRT's own.
LIBRARY, REFERENCE_LIBRARY = "tvm", "tvm-reference"


def role(library: str, threads: int) -> str:
    """Of an artifact's file (stages/compile_tvm.py): loops are split when a library is compiled, so each number of
    threads has one of its own."""
    return f"{library}-{threads}"


def linker(arch: str) -> tuple[str, str]:
    """(the C compiler that links for an architecture, Debian's package of it)"""
    if arch == platform.machine():
        return "gcc", "gcc"
    return f"{arch}-linux-gnu-gcc", f"gcc-{arch.replace('_', '-')}-linux-gnu"


class Tvm:
    on_board = False

    def runs_here(self, candidate: Candidate) -> bool:
        if candidate.config.get("arch") != platform.machine():
            return False
        return set(candidate.config.get("needs", ())).issubset(cpu_flags(Path("/proc")))

    def unavailable_reason(self, target: Target) -> str | None:
        if importlib.util.find_spec("tvm") is None:
            return "apache-tvm is not installed (pip install 'edgecompile[tvm]', or --backends litert)"
        for line in requires("edgecompile") or ():  # another FFI than TVM was built with ends the process
            name, pin, rest = line.partition("==")
            wanted, extra = rest.partition(";")[::2]
            if pin and "tvm" in name and extra.strip() == 'extra == "tvm"' and version(name) != wanted.strip():
                cure = "pip install 'edgecompile[tvm]', or --backends litert"
                return f"{name} {version(name)} is installed, and it works with {wanted.strip()} alone ({cure})"
        sets = for_target(target)
        if not sets:
            return f"there is no code of ours for the processor of target {target.id}: leave it out of --backends"
        name, package = linker(sets[0].arch)
        if shutil.which(name) is None:
            return f"there is no {name}, which links libraries for {sets[0].arch} (sudo apt install {package})"
        return None

    def question(self, target: Target) -> Question | None:
        """Whether the C compiler works, and LLVM knows a processor that is named by the target's file alone."""
        from edgecompile.backends.tvm.toolchain import check

        sets = for_target(target)
        ours = {(isa.mcpu, isa.mattr) for isa in INSTRUCTION_SETS}
        named = tuple(isa for isa in sets if (isa.mcpu, isa.mattr) not in ours)
        depends = version("apache-tvm"), shutil.which(linker(sets[0].arch)[0]) or ""
        return Question("looking at the compiler", check, (sets[0].arch, named), depends)

    def stages(self, target: Target, threads: int) -> Sequence[Stage]:
        from edgecompile.stages.compile_tvm import CompileTvm

        return (CompileTvm.now(for_target(target), threads),)

    def compile(self, artifact: Artifact, target: Target, threads: int) -> list[Candidate]:
        """The library, and for a model with integers the one that is bit-exact with LiteRT's reference kernels."""
        sets = for_target(target)
        config: dict[str, Any] = {
            "arch": sets[0].arch,
            "instructions": " or ".join(isa.name for isa in sets),
            # By the last, which asks for the least, a library of several is known to run.
            "needs": list(sets[-1].needs),
            "version": version("apache-tvm"),
        }
        if len(sets) > 1:
            config[VARIANTS] = {isa.name: list(isa.features) for isa in sets}
        files = {name: artifact.files.get(role(name, threads)) for name in (LIBRARY, REFERENCE_LIBRARY)}
        return [
            Candidate(name, "tvm", file, threads, {**config, "exact": name == REFERENCE_LIBRARY})
            for name, file in files.items()
            if file is not None
        ]

    def open(self, candidate: Candidate) -> TvmRunner:
        from edgecompile.backends.tvm.runner import TvmRunner

        return TvmRunner(candidate.model, candidate.threads, candidate.config.get("variant"))


BACKEND = Tvm()
