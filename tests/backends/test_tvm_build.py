"""TVM in builds: what is said where it can't be used."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from backends.compiled import own_isa
from backends.operators import OneOperator
from running import Run, edit_manifest, run_cli
from test_manifest_schema import problems

from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.tvm import library, linker
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
from edgecompile.ondevice import runner
from edgecompile.stages.base import Context, Progress
from edgecompile.stages.compile_tvm import CompileTvm
from edgecompile.tflite_file import read
from edgecompile.worker import Worker

ALL = {"EDGECOMPILE_WITHOUT": ""}  # the target's backends, as users have them


def test_an_operator_without_code_is_named(tmp_path: Path) -> None:
    own_isa()
    made = OneOperator()
    for _ in range(2):
        made.tensor((1, 8), "float32")
    model = made.write("ZEROS_LIKE", "NONE", None, tmp_path / "zeros.tflite", 1)
    done = run_cli("build", model, "--backends", "litert,tvm", "--recipe", "float", "--out", "b", cwd=tmp_path)
    assert done.code == UnsupportedLayerError.exit_code, done.err
    assert "operator 0 (ZEROS_LIKE, 't1'): there is no TVM code of ours for it" in done.err
    assert "--backends litert leaves TVM out" in done.err
    assert not (tmp_path / "b").exists()


def test_without_a_compiler_it_is_said_before_any_work(tmp_path: Path) -> None:
    own_isa()
    (tmp_path / "bin").mkdir()
    done = run_cli("build", "digits", "--backends", "litert,tvm", cwd=tmp_path, env={"PATH": str(tmp_path / "bin")})
    assert done.code == MissingDependencyError.exit_code, done.err
    assert "there is no gcc" in done.err
    assert "apt install gcc" in done.err


def without_training(folder: Path, *options: str, env: dict[str, str]) -> Run:
    """A build that fails before anything is done."""
    done = run_cli("build", "digits", "--out", "b", *options, cwd=folder, env=env)
    assert done.code != 0
    assert "[1/" not in done.err
    assert not (folder / "b").exists()
    return done


def test_a_compiler_for_another_processor_that_is_missing_or_does_not_work(tmp_path: Path) -> None:
    own_isa()
    there = tmp_path / "bin"
    there.mkdir()
    options = ("--backends", "litert,tvm", "--target", "rpi4", "--recipe", "int8")
    path = {"PATH": str(there)}
    missing = without_training(tmp_path, *options, "--dry-run", env=path)
    assert missing.code == MissingDependencyError.exit_code, missing.err
    assert "there is no aarch64-linux-gnu-gcc" in missing.err
    name = there / linker("aarch64")[0]
    name.write_text("#!/bin/sh\necho 'trial.c:1: fatal error: math.h: No such file or directory' >&2\nexit 1\n")
    name.chmod(0o755)
    broken = without_training(tmp_path, *options, env=path)
    assert broken.code == ToolchainError.exit_code, broken.err
    assert f"{name.name} can't make a library for aarch64: trial.c:1: fatal error: math.h" in broken.err
    assert "--install-recommends" in broken.err
    wanted = run_cli("build", "digits", *options[2:], "--dry-run", "--json", cwd=tmp_path, env={**path, **ALL})
    assert "tvm left out: aarch64-linux-gnu-gcc can't make a library" in wanted.err
    plan = json.loads(wanted.out)
    assert plan["backends"] == ["litert"]
    assert "can't make a library" in plan["left_out"]["tvm"]


def test_the_linker_is_looked_for_again_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ToolchainError, match="links libraries for aarch64") as caught:
        library.compiler("aarch64")
    assert "gcc-aarch64-linux-gnu" in caught.value.format_message()


def test_for_another_processor_without_a_board(tmp_path: Path) -> None:
    """It is compiled and packaged, and neither checked nor measured nor chosen."""
    own_isa()
    options = ("--backends", "litert,tvm", "--target", "rpi4", "--recipe", "int8", "--out", "b")
    done = run_cli("build", "digits", *options, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "tvm-reference: compiled for another processor than this one, and no board was named" in done.err
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    ours = {c["id"]: c for c in manifest["candidates"] if c["backend"] == "tvm"}
    assert set(ours) == {"tvm", "tvm-reference"}
    for candidate in ours.values():
        assert (candidate["passed"], candidate["parity"], candidate["latency_p50_ms"]) == (None, {}, None)
        assert (tmp_path / "b" / candidate["file"]).stat().st_size == candidate["bytes"]
    assert manifest["winner"]["backend"] == "litert"
    assert "not judged: no board was named" in (tmp_path / "b" / "report.html").read_text()
    assert run_cli("verify", "b", cwd=tmp_path).code == 0


def test_a_generic_library_chooses_when_it_is_loaded(tmp_path: Path) -> None:
    isa = own_isa()
    target = {"x86_64": "generic-x86-64", "aarch64": "generic-arm64"}[isa.arch]
    options = ("--backends", "litert,tvm", "--target", target, "--recipe", "int8", "--out", "b")
    done = run_cli("build", "digits", *options, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "4 of 4 candidates agree" in done.out
    path = tmp_path / "b" / "candidates" / "tvm.so"
    assert runner.Library(path, 1).known["instructions"] == isa.name
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert problems(manifest) == []
    flags = runner.cpu_flags(Path("/proc"))
    runs = {each.name: set(each.features) <= flags for each in INSTRUCTION_SETS if each.arch == isa.arch}
    (text,) = (gate["text"] for gate in manifest["gates"] if gate["name"] == "variants")
    assert text.startswith("tvm, tvm-reference: checked ")
    page = (tmp_path / "b" / "report.html").read_text()
    for candidate in manifest["candidates"]:
        told = {each["instructions"]: each for each in candidate["variants"]}
        assert list(told) == (list(runs) if candidate["backend"] == "tvm" else [])
        for name, each in told.items():
            assert all(verdict["passed"] for verdict in each["parity"].values())
            assert (each["not_checked"] is None) == bool(each["parity"]) == runs[name]
            if runs[name]:
                assert runner.Library(path, 1, name).known["instructions"] == name
                continue
            assert each["not_checked"].startswith("this machine lacks ")
            assert f"not checked: {name} ({each['not_checked']})" in text
            assert f"not checked: {each['not_checked']}" in page
            with pytest.raises(runner.Failure, match=r"tvm\.so can't be opened: it is compiled for CPUs with"):
                runner.Library(path, 1, name)
    with pytest.raises(runner.Failure, match=r"tvm\.so has no variant sve9, it has "):
        runner.Library(path, 1, "sve9")
    winner = {"id": "tvm", "backend": "tvm", "threads": 1, "why": "the test's choice"}
    edit_manifest(tmp_path / "b", lambda manifest: manifest.update(winner=winner))
    verified = run_cli("verify", "b", cwd=tmp_path)
    assert verified.code == 0, verified.out + verified.err
    assert f"variants: {text.partition(': ')[2]}" in " ".join(verified.out.split())


def test_the_first_variant_that_the_cpu_has_all_for(data: Path, tmp_path: Path) -> None:
    model = read(data / "models/mlperf_tiny/kws/kws_ref_model.tflite")
    isa = own_isa()
    plan = Planner(model, isa, FAST, 1).run()
    another = dataclasses.replace(isa, name="another", implied=("sve9",))
    (tmp_path / "work").mkdir()
    made = library.build({another: plan, isa: plan}, own_signature(model), tmp_path / "m.so", tmp_path / "work")
    assert runner.Library(made.path, 1).known["instructions"] == isa.name


def test_libraries_load_on_old_systems_and_show_nothing_but_their_interface(data: Path, tmp_path: Path) -> None:
    """glibc 2.34 gave new versions to old functions; Debian 9 has 2.24, JetPack 4 2.27."""
    model = read(data / "models/mlperf_tiny/kws/kws_ref_model.tflite")
    for isa in (own_isa(), next(each for each in INSTRUCTION_SETS if each.arch == "aarch64")):
        work = tmp_path / f"{isa.name}.work"
        work.mkdir()
        made = library.build({isa: Planner(model, isa, FAST, 2).run()}, own_signature(model), tmp_path / "m.so", work)
        told = subprocess.run(
            [library.compiler(isa.arch).replace("gcc", "readelf"), "--dyn-syms", "--wide", str(made.path)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        versions = {tuple(map(int, found.split("."))) for found in re.findall(r"@GLIBC_([0-9.]+)", told)}
        assert max(versions) <= (2, 17)
        rows = [line.split() for line in told.splitlines() if " UND " not in line]
        shown = {row[7] for row in rows if len(row) > 7 and row[4] in ("GLOBAL", "WEAK")}
        functions = ("open", "close", "run", "profile", "peaks", "signature", "error")
        assert shown == {f"edgecompile_{n}" for n in (*functions, "variants", "variant_signature", "open_variant")}


def test_what_is_only_wanted_if_installed_does_not_end_a_build(tmp_path: Path) -> None:
    own_isa()
    made = OneOperator()
    for _ in range(2):
        made.tensor((1, 8), "float32")
    model = made.write("ZEROS_LIKE", "NONE", None, tmp_path / "zeros.tflite", 1)
    without = {"EDGECOMPILE_WITHOUT": "onnx,openvino"}
    done = run_cli("build", model, "--recipe", "float", "--out", "b", cwd=tmp_path, env=without)
    assert done.code == 0, done.err
    assert "tvm left out: operator 0 (ZEROS_LIKE, 't1')" in done.err
    gates = json.loads((tmp_path / "b" / "manifest.json").read_text())["gates"]
    (left_out,) = (gate["text"] for gate in gates if gate["name"] == "backends")
    assert left_out.startswith("tvm left out: operator 0 (ZEROS_LIKE, 't1')")
    plan = run_cli("build", model, "--recipe", "float", "--without", "tvm", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(plan.out)["backends"] == ["litert", "onnx", "openvino"]
    nothing = run_cli("build", model, "--without", "litert,tvm,onnx,openvino", cwd=tmp_path)
    assert nothing.code == TargetError.exit_code
    assert "no backend of target host is left" in nothing.err


@pytest.mark.parametrize(
    ("mcpu", "mattr", "said", "more"),
    [
        ("cascadelakes", "+fma", "LLVM knows no x86_64 processor 'cascadelakes'", ()),
        ("haswell", "+fmaa", "LLVM knows no feature '+fmaa'", ("--dry-run",)),
    ],
)
def test_a_processor_that_llvm_does_not_know(
    mcpu: str, mattr: str, said: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    """LLVM would warn, and compile for another one."""
    if own_isa().arch != "x86_64":
        pytest.skip("the names are those of x86-64")
    (tmp_path / "mine.toml").write_text(
        'id = "mine"\nname = "Mine"\nsummary = "A board"\nbackends = ["litert", "tvm"]\n'
        'first = "float"\nprefers = ["latency"]\n'
        f'[cpu]\narch = "x86_64"\nmcpu = "{mcpu}"\nmattr = ["+avx2", "+fma", "{mattr}"]\n'
    )
    done = without_training(tmp_path, "--target", "mine.toml", "--recipe", "float", *more, env=ALL)
    assert done.code == TargetError.exit_code, done.err
    assert said in done.err


def compile_for(isa: InstructionSet, model: Path, out: Path, *, report: Callable[[Progress], None]) -> None:
    made = Artifact(TFLITE, {"model": model}, own_signature(read(model)))
    CompileTvm.now((isa,), 1).run(made, Context(out, out, None, "int8", LoadOptions(), 0, None, None, report))


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
    made = library.build({isa: plan}, own_signature(model), tmp_path / "m.so", tmp_path / "work")
    with pytest.raises(
        DeviceError, match=r"m\.so can.t be opened: it is compiled for CPUs with sve9, which this one lacks"
    ):
        TvmRunner(made.path)
    with pytest.raises(DeviceError, match="can't be loaded"):
        TvmRunner(tmp_path / "none.so")
