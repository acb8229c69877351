"""TVM in builds: chosen by measuring, checked, run without TVM; and what is said where it can't be."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from backends.operators import OneOperator
from backends.test_tvm import own_isa
from running import Run, run_cli

from edgecompile.backends.tvm import library
from edgecompile.backends.tvm.arithmetic import FAST
from edgecompile.backends.tvm.planner import Planner
from edgecompile.backends.tvm.runner import TvmRunner
from edgecompile.errors import DeviceError, MissingDependencyError, ToolchainError, UnsupportedLayerError
from edgecompile.loaders.interpreter import own_signature
from edgecompile.tflite_file import read


@pytest.fixture(scope="module")
def bundle(cache_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits in int8 with candidates of TVM."""
    del cache_folder
    own_isa()
    folder = tmp_path_factory.mktemp("tvm")
    done = build(folder, "--recipe", "int8", "--out", "b")
    assert done.code == 0, done.err
    return folder / "b"


def build(folder: Path, *more: str) -> Run:
    return run_cli("build", "digits", "--backends", "litert,tvm", *more, cwd=folder)


def test_its_candidates_are_checked_measured_and_packaged(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    found = {c["id"]: c for c in manifest["candidates"]}
    assert set(found) == {"litert-xnnpack", "litert-builtin", "tvm", "tvm-reference"}
    for name in ("tvm", "tvm-reference"):
        assert found[name]["passed"]
        assert found[name]["latency_p50_ms"] > 0
        assert (bundle / found[name]["file"]).stat().st_size == found[name]["bytes"]
    assert all(verdict["exact"] for verdict in found["tvm-reference"]["parity"].values())
    how = {f["executed_on"] for f in manifest["figures"] if f["of"] == "tvm" and f["name"] == "latency_p50"}
    assert how == {f"tvm {found['tvm']['config']['version']} in a fresh process on this machine"}


def test_the_bundle_is_verified_and_timed_whoever_won(bundle: Path) -> None:
    for winner in ("tvm", "tvm-reference"):
        path = bundle.with_name(f"won-by-{winner}")
        shutil.copytree(bundle, path)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["winner"] = {"id": winner, "backend": "tvm", "why": "the test's choice"}
        (path / "manifest.json").write_text(json.dumps(manifest))
        done = run_cli("verify", path, cwd=bundle.parent)
        assert done.code == 0, done.out + done.err
        assert f"{winner} is within" in done.out
        timed = run_cli("bench", path, "--runs", "5", "--json", cwd=bundle.parent)
        assert timed.code == 0, timed.err
        (group,) = json.loads(timed.out)
        assert {figure["of"] for figure in group["figures"]} == {f"{path} {winner.removeprefix('tvm-')}"}


def test_a_build_that_was_done_compiles_nothing(bundle: Path) -> None:
    done = build(bundle.parent, "--recipe", "int8", "--out", "b")
    assert "nothing to do" in done.out, done.out


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
