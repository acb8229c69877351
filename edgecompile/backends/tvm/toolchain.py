"""What makes machine code for a target and links it: looked at before any work, and again where it is used."""

from __future__ import annotations

import difflib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from edgecompile.backends.tvm import linker
from edgecompile.backends.tvm.isa import InstructionSet
from edgecompile.errors import TargetError, ToolchainError, perhaps
from edgecompile.stages.base import Progress

FLAGS = ("-fPIC", "-O2", "-pthread", "-fvisibility=hidden")
# What driver.c and peaks.c need of a C library.
_TRIAL = """#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
int trial(double *x) { return printf("%f", exp(*x)); }
"""


def compiler(arch: str) -> str:
    """The C compiler for an architecture, ToolchainError where there is none."""
    name, package = linker(arch)
    found = shutil.which(name)
    if found is None:
        raise ToolchainError(
            f"there is no {name}, which links libraries for {arch}",
            hint=f"sudo apt install {package}, or --backends litert",
        )
    return found


def check(arch: str, isas: Sequence[InstructionSet], *, report: Callable[[Progress], None]) -> None:
    """ToolchainError where the C compiler links nothing, TargetError for a processor that LLVM doesn't know. In the
    worker."""
    del report
    _check_compiler(arch)
    for isa in isas:
        check_processor(isa)


def _check_compiler(arch: str) -> None:
    """It may be there without the C library's headers, which Debian's package only recommends."""
    command = [compiler(arch), *FLAGS, "-shared", "-o", "trial.so", "trial.c", "-lm"]
    with tempfile.TemporaryDirectory() as work:
        Path(work, "trial.c").write_text(_TRIAL)
        done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        name, package = linker(arch)
        said = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
        raise ToolchainError(
            f"{name} can't make a library for {arch}: {said.strip()[:300]}",
            hint=f"sudo apt install --install-recommends {package} libc6-dev, or --backends litert",
        )


def check_processor(isa: InstructionSet) -> None:
    """TargetError where LLVM doesn't know it: LLVM itself only warns, and compiles for some other one."""
    from tvm.target import Target
    from tvm.target.codegen import llvm_get_cpu_archlist, llvm_get_cpu_features, llvm_is_valid_cpu

    triple = isa.target()["mtriple"]
    if not llvm_is_valid_cpu(isa.mcpu, triple):
        known = map(str, llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": triple})))
        near = difflib.get_close_matches(isa.mcpu, known, 3)
        raise TargetError(
            f"LLVM knows no {isa.arch} processor {isa.mcpu!r}",
            hint=f"mcpu in the target's file may be {', '.join(near)}" if near else "see mcpu in the target's file",
        )
    has = set(map(str, llvm_get_cpu_features(Target(isa.target()))))
    for name in isa.mattr:
        if name.startswith("+") and name[1:] not in has:
            raise TargetError(
                f"LLVM knows no feature {name!r} of {isa.arch} processors",
                hint=perhaps(name, [f"+{each}" for each in has]),
            )
