"""TVM in builds: what is said where it can't be used."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from backends.compiled import own_isa
from backends.operators import OneOperator
from running import run_cli

from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.tvm import library
from edgecompile.backends.tvm.arithmetic import FAST
from edgecompile.backends.tvm.isa import INSTRUCTION_SETS, InstructionSet
from edgecompile.backends.tvm.planner import Planner
from edgecompile.backends.tvm.runner import TvmRunner
from edgecompile.errors import (
    DeviceError,
    MissingDependencyError,
    TargetError,
    ToolchainError,
    UnsupportedLayerError,
    WorkerCrashError,
)
from edgecompile.loaders.base import LoadOptions
from edgecompile.loaders.interpreter import own_signature
from edgecompile.stages.base import Context, Progress
from edgecompile.stages.compile_tvm import CompileTvm
from edgecompile.tflite_file import read
from edgecompile.worker import Worker


def test_an_operator_without_code_is_named(tmp_path: Path) -> None:
    own_isa()
    made = OneOperator()
    for _ in range(2):
        made.tensor((1, 8), "float32")
    model = made.write("FLOOR", "NONE", None, tmp_path / "floor.tflite", 1)
    done = run_cli("build", model, "--backends", "litert,tvm", "--recipe", "float", "--out", "b", cwd=tmp_path)
    assert done.code == UnsupportedLayerError.exit_code, done.err
    assert "operator 0 (FLOOR, 't1'): there is no TVM code of ours for it" in done.err
    assert "--backends litert leaves TVM out" in done.err
    assert not (tmp_path / "b").exists()


def test_without_a_compiler_it_is_said_before_any_work(tmp_path: Path) -> None:
    own_isa()
    (tmp_path / "bin").mkdir()
    done = run_cli("build", "digits", "--backends", "litert,tvm", cwd=tmp_path, env={"PATH": str(tmp_path / "bin")})
    assert done.code == MissingDependencyError.exit_code, done.err
    assert "there is no gcc" in done.err
    assert "apt install gcc" in done.err


def test_the_linker_is_looked_for_again_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ToolchainError, match="links libraries for aarch64") as caught:
        library.compiler("aarch64")
    assert "gcc-aarch64-linux-gnu" in caught.value.format_message()


def test_another_machines_processor_is_refused(tmp_path: Path) -> None:
    own_isa()
    done = run_cli("build", "digits", "--backends", "litert,tvm", "--target", "rpi4", cwd=tmp_path)
    assert done.code == MissingDependencyError.exit_code, done.err
    assert "for the processors of this machine alone so far" in done.err


def test_a_processor_that_llvm_does_not_know(tmp_path: Path) -> None:
    """LLVM would warn, and compile for another one."""
    own_isa()
    (tmp_path / "mine.toml").write_text(
        'id = "mine"\nname = "Mine"\nsummary = "A board"\nbackends = ["litert", "tvm"]\n'
        f'[cpu]\narch = "{platform.machine()}"\nmcpu = "cascadelakes"\nmattr = ["+avx2", "+fma"]\n'
        '[recipes]\ntraining = "float"\nrepresentative = "float"\notherwise = "float"\n'
    )
    done = run_cli("build", "digits", "--target", "mine.toml", "--recipe", "float", "--out", "b", cwd=tmp_path)
    assert done.code == TargetError.exit_code, done.err
    assert "processor 'cascadelakes'" in done.err
    assert not (tmp_path / "b").exists()


def compile_for(isa: InstructionSet, model: Path, out: Path, *, report: Callable[[Progress], None]) -> None:
    made = Artifact(TFLITE, {"model": model}, own_signature(read(model)))
    CompileTvm.now(isa, 1).run(made, Context(out, out, None, "int8", LoadOptions(), 0, None, None, report))


def test_an_intrinsic_that_llvm_has_no_instruction_for(data: Path, tmp_path: Path) -> None:
    """LLVM ends the process there: the worker's, whose death has a name."""
    if platform.machine() != "x86_64":
        pytest.skip("the intrinsic is one of x86-64")
    vnni = next(isa for isa in INSTRUCTION_SETS if isa.dot == "vnni512")
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    worker = Worker(tmp_path / "log")
    try:
        with pytest.raises(WorkerCrashError, match="compile-tvm: the process died of SIG") as caught:
            worker.call(
                "compile-tvm", compile_for, dataclasses.replace(vnni, mcpu="haswell"), model, tmp_path,
                report=lambda _: None,
            )  # fmt: skip
        assert "what the library said last is in" in caught.value.format_message()
        assert "LLVM ERROR" in (tmp_path / "log").read_text(errors="replace")
    finally:
        worker.close()


def test_a_cpu_that_lacks_what_a_library_wants(data: Path, tmp_path: Path) -> None:
    """It is told before a wrong instruction could end the process."""
    model = read(data / "models/mlperf_tiny/kws/kws_ref_model.tflite")
    isa = dataclasses.replace(own_isa(), needs=("avx2", "sve9"))
    plan = Planner(model, isa, FAST, 1).run()
    (tmp_path / "work").mkdir()
    made = library.build(plan, own_signature(model), isa, tmp_path / "m.so", tmp_path / "work")
    with pytest.raises(DeviceError, match=r"m\.so is compiled for CPUs with sve9, which this one lacks"):
        TvmRunner(made.path)
    with pytest.raises(DeviceError, match="can't be loaded"):
        TvmRunner(tmp_path / "none.so")
