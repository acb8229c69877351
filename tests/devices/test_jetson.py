"""TensorRT on a board that looks like a Jetson: engines built there, compared, measured and verified."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from devices.jetson import stand_ins
from devices.sshd import Sshd
from running import Run, run_cli

from edgecompile.errors import DeviceError, ParityGateError, ProvisioningError, TargetError

TARGET = """id = "sim"
name = "A Jetson's stand-in"
summary = "This machine with a GPU that it hasn't"
backends = ["litert", "tensorrt"]
first = "float16"
prefers = ["accuracy"]
[cpu]
arch = "{arch}"
[gpu]
name = "none"
compute_capability = "8.7"
dla = 0
jetpack = "6.2"
l4t = "36.4"
cuda = "12.6"
tensorrt = "10.3"
"""
TENSORRT = "tensorrt-fp16"


@pytest.fixture(scope="module")
def unbuilt(cache_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """(the bundle of `build --target jetson` without a board, in a folder with an edgecompile.toml; what it printed)"""
    del cache_folder
    folder = tmp_path_factory.mktemp("jetson")
    (folder / "edgecompile.toml").write_text('model = "digits"\nout = "bundle"\n')
    done = run_cli("build", "--target", "jetson", cwd=folder)
    assert done.code == 0, done.err
    return folder / "bundle", done


def manifest(bundle: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((bundle / "manifest.json").read_text())
    return found


def candidate(bundle: Path, name: str) -> dict[str, object]:
    (found,) = (c for c in manifest(bundle)["candidates"] if c["id"] == name)  # type: ignore[attr-defined]
    return dict(found)


def test_without_a_board_the_graph_is_made_and_checked_and_nothing_measured(unbuilt: tuple[Path, Run]) -> None:
    bundle, done = unbuilt
    assert "target jetson-orin-nano: no board says which of the family jetson it is" in done.err
    assert f"scp {bundle.name}/candidates/{TENSORRT}.onnx USER@JETSON:{TENSORRT}.onnx" in done.err
    assert f"/usr/src/tensorrt/bin/trtexec --onnx={TENSORRT}.onnx --fp16 --saveEngine={TENSORRT}.plan" in done.err
    assert "latency: not measured" in done.out
    found = manifest(bundle)
    assert found["winner"]["id"] == "litert-xnnpack"  # type: ignore[index]
    assert found["measurement"] is None
    graph = candidate(bundle, TENSORRT)
    assert graph["file"] == f"candidates/{TENSORRT}.onnx"
    assert (bundle / str(graph["file"])).stat().st_size == graph["bytes"]
    assert graph["built"] is graph["latency_p50_ms"] is graph["passed"] is None
    assert "2 of 2 candidates agree" in done.out  # an engine that never ran isn't counted
    (parity,) = graph["parity"].values()  # type: ignore[attr-defined]
    assert 0 < parity["max_abs"] < 1e-5
    assert run_cli("verify", bundle, cwd=bundle.parent).code == 0


class Jetson:
    """A board on loopback, known to the inventory in `config` as `jetson`."""

    def __init__(self, sshd: Sshd, folder: Path) -> None:
        self.folder, self.stub = folder, sshd.folder / "stub"
        stand_ins(self.stub)
        programs = sshd.folder / "bin"
        programs.mkdir()
        (programs / "trtexec").symlink_to(self.stub / "trtexec")
        path = f'export PYTHONPATH="$PYTHONPATH:{self.stub}"'
        (programs / "python3").write_text(f'#!/bin/sh\n{path}\nexec {sys.executable} "$@"\n')
        (programs / "python3").chmod(0o755)
        path = f"{programs}:{os.environ['PATH']}"
        # HOME: a ~/.bashrc may add to the PATH
        sshd.set_environment(PATH=path, LD_LIBRARY_PATH=str(self.stub), HOME=str(sshd.folder))
        (folder / "sim.toml").write_text(TARGET.format(arch=os.uname().machine))
        files = ("--identity", sshd.folder / "user", "--known-hosts", sshd.folder / "known_hosts")
        added = self.run("devices", "add", "jetson", sshd.address.url, *files, "--sysfs-root", self.stub / "sysfs")
        assert added.code == 0, added.err

    def run(self, *arguments: str | Path) -> Run:
        return run_cli(*arguments, cwd=self.folder, env={"EDGECOMPILE_CONFIG": str(self.folder / "config")})

    def build(self, *more: str | Path) -> Run:
        return self.run("build", "digits", "--target", "sim.toml", "--on", "jetson", "--out", "bundle", *more)


@pytest.fixture
def jetson(sshd: Sshd, unbuilt: tuple[Path, Run], tmp_path: Path, cache_folder: Path) -> Jetson:
    for kind in ("engines", "measurements"):  # what another test's board, the same machine, left
        shutil.rmtree(cache_folder / kind, ignore_errors=True)
    board = Jetson(sshd, tmp_path)
    shutil.copy(unbuilt[0] / "model.tflite", board.stub)
    return board


def test_on_a_board_the_engine_is_built_there_compared_and_measured(jetson: Jetson, sshd: Sshd) -> None:
    probed = jetson.run("devices", "probe", "jetson")
    assert "NVIDIA Jetson Orin Nano Developer Kit" in probed.out
    assert f"trtexec {sshd.folder / 'bin/trtexec'}" in probed.out
    done = jetson.build()
    assert done.code == 0, done.err
    assert f"{TENSORRT}: built by TensorRT 10.3.0; trtexec's own median is 0.5" in done.err
    bundle = jetson.folder / "bundle"
    engine = candidate(bundle, TENSORRT)
    assert engine["file"] == f"candidates/{TENSORRT}.plan"
    assert {path.name for path in (bundle / "candidates").iterdir()} >= {f"{TENSORRT}.plan", f"{TENSORRT}.onnx"}
    assert engine["built"] == {"tensorrt": "10.3.0"}
    assert engine["passed"] is True
    assert engine["latency_p50_ms"] > 0  # type: ignore[operator]
    latencies = {f["of"]: f for f in manifest(bundle)["figures"] if f["name"] == "latency_p50"}  # type: ignore[attr-defined]
    assert {figure["label"] for figure in latencies.values()} == {"simulated"}
    assert latencies[TENSORRT]["executed_on"] == "tensorrt 10.3.0 in a fresh process on jetson, over SSH"
    own = latencies[f"{TENSORRT} by trtexec"]
    assert (own["runs"], own["executed_on"].split(" in ")[0]) == (200, "trtexec of TensorRT 10.3.0")
    assert "LiteRT" in latencies["litert-xnnpack"]["executed_on"]
    home = sshd.folder / "home"
    assert {path.name for path in home.iterdir()} == {"edgecompile"}
    ours = home / "edgecompile/board-v1"
    assert not list((ours / "scratch").iterdir())
    assert not [path for path in ours.rglob("*") if path.name in ("job.json", "inputs.npz")]
    again = jetson.build()
    assert "nothing to do" in again.out, again.out


def test_an_engine_that_wins_is_judged_by_what_it_gives_there(jetson: Jetson) -> None:
    done = jetson.build("--backends", "tensorrt")
    assert done.code == 0, done.err
    bundle = jetson.folder / "bundle"
    found = manifest(bundle)
    assert found["winner"]["id"] == TENSORRT  # type: ignore[index]
    (accuracy,) = (f for f in found["figures"] if f["name"] == "accuracy" and f["of"] == "model")  # type: ignore[attr-defined]
    assert accuracy["executed_on"] == TENSORRT
    assert accuracy["device"].endswith("(jetson)")
    here = jetson.run("verify", "bundle")
    assert here.code == 0, here.err
    assert "not checked: the winning engine runs on its board alone" in here.out
    there = jetson.run("verify", "bundle", "--on", "jetson")
    assert there.code == 0, there.err + there.out
    assert f"{TENSORRT} on " in there.out
    assert "ok     accuracy" in there.out
    benched = jetson.run("bench", "bundle", "--on", "jetson", "--runs", "5", "--json")
    assert benched.code == 0, benched.err
    assert json.loads(benched.out)[0]["figures"][0]["label"] == "simulated"


def test_a_build_in_int8_has_engines_in_symmetric_int8(jetson: Jetson) -> None:
    """Without a board the graph is judged by the metric; with one, the engine is built from it and compared with it."""
    alone = jetson.run("build", "digits", "--target", "sim.toml", "--recipe", "int8", "--out", "alone")
    assert alone.code == 0, alone.err
    assert "ok accuracy: tensorrt-int8's graph by ONNX Runtime: accuracy 0.9" in alone.out
    assert "--onnx=tensorrt-int8.onnx --fp16 --int8 --saveEngine=tensorrt-int8.plan" in alone.err
    figures = manifest(jetson.folder / "alone")["figures"]
    (accuracy,) = (f for f in figures if (f["name"], f["of"]) == ("accuracy", "tensorrt-int8"))  # type: ignore[attr-defined]
    assert accuracy["executed_on"] == "ONNX Runtime: the engine's graph"
    assert run_cli("verify", "alone", cwd=jetson.folder).code == 0
    done = jetson.build("--recipe", "int8")
    assert done.code == 0, done.err
    for name in (TENSORRT, "tensorrt-int8"):
        assert candidate(jetson.folder / "bundle", name)["passed"] is True


def test_an_engine_that_computes_something_else_fails_the_build(jetson: Jetson) -> None:
    source = (jetson.stub / "tensorrt.py").read_text()
    wrong = source.replace("data = array.tobytes()", "data = (1 - array).tobytes()")
    assert wrong != source
    (jetson.stub / "tensorrt.py").write_text(wrong)
    done = jetson.build("--backends", "tensorrt")
    assert done.code == ParityGateError.exit_code, done.err
    assert TENSORRT in done.err
    assert not (jetson.folder / "bundle").exists()


def test_what_trtexec_says_is_passed_on(jetson: Jetson, sshd: Sshd) -> None:
    script = jetson.stub / "trtexec"
    script.write_text(script.read_text().replace('"fp16" not in options', "True"))
    done = jetson.build()
    assert done.code == DeviceError.exit_code
    assert "Engine could not be created from network" in done.err
    assert "FAILED" not in done.err.partition("Error:")[2]
    (sshd.folder / "bin/trtexec").unlink()
    done = jetson.build()
    assert done.code == ProvisioningError.exit_code
    assert "has no trtexec" in done.err


def test_what_a_board_that_is_none_can_not_do(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "sim.toml").write_text(TARGET.format(arch=os.uname().machine))
    env = {"EDGECOMPILE_CONFIG": str(tmp_path / "config")}
    done = run_cli("build", "digits", "--target", "sim.toml", "--backends", "tensorrt", cwd=tmp_path, env=env)
    assert done.code == TargetError.exit_code
    assert "its engine is built on the board" in done.err
    files = ("--identity", sshd.folder / "user", "--known-hosts", sshd.folder / "known_hosts")
    run_cli("devices", "add", "loop", sshd.address.url, *files, cwd=tmp_path, env=env)
    done = run_cli("build", "digits", "--target", "jetson", "--on", "loop", cwd=tmp_path, env=env)
    assert done.code == TargetError.exit_code
    assert "no target of the family jetson is a board like loop" in done.err


def test_clocks_are_held_and_given_back(jetson: Jetson, sshd: Sshd, data: Path) -> None:
    """Also where the connection is cut meanwhile; and what a run left that couldn't give them back is given back."""
    calls = sshd.folder / "calls"
    # As of a rule for jetson_clocks alone.
    program(sshd.folder / "bin/sudo", '[ "$2" = jetson_clocks ] || exit 1; shift; exec "$@"')
    program(
        sshd.folder / "bin/jetson_clocks",
        f'[ "$1" != --show ] || exit 1; echo "clocks $*" >> {calls}; [ "$1" != --store ] || touch "$2"',
    )
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    kept = sshd.folder / "home/edgecompile/board-v1/clocks"
    store, hold, restore = f"clocks --store {kept}", "clocks ", f"clocks --restore {kept}"
    for left, expected in ((False, [store, hold, restore]), (True, [hold, restore])):
        if left:
            kept.touch()
        done = jetson.run("bench", model, "--on", "jetson", "--set-clocks", "--runs", "5")
        assert done.code == 0, done.err
        assert calls.read_text().splitlines() == expected
        assert not kept.exists()
        calls.unlink()
    program(sshd.folder / "bin/sudo", "echo no password >&2; exit 1")
    done = jetson.run("bench", model, "--on", "jetson", "--set-clocks", "--runs", "5")
    assert done.code == DeviceError.exit_code
    assert "no password" in done.err
    done = jetson.run("bench", model, "--set-clocks")
    assert done.code == 2


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_what_a_build_timed_is_kept_for_the_next_by_the_same_tensorrt(jetson: Jetson, sshd: Sshd) -> None:
    """The stand-in adds a word to the timing cache that it is given."""
    ours = sshd.folder / "home/edgecompile/board-v1"
    for _ in range(2):
        done = jetson.build("--backends", "tensorrt", "--remeasure")
        assert done.code == 0, done.err
    (kept,) = ours.glob("tensorrt-timing*")
    assert kept.name == "tensorrt-timing-10.3.0-NVIDIA-Jetson-Orin-Nano-Developer-Kit.cache"
    assert kept.read_bytes() == b"tactics" * 2
    (jetson.stub / "tensorrt-10.3.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: tensorrt\nVersion: 10.4.0\n"
    )
    done = jetson.build("--backends", "tensorrt")
    assert done.code == 0, done.err
    newer = kept.with_name(kept.name.replace("10.3.0", "10.4.0"))
    assert (kept.read_bytes(), newer.read_bytes()) == (b"tactics" * 2, b"tactics")
