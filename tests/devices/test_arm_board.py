"""On an emulated ARM board without internet: provisioning, builds, verification, and a Jetson's stand-ins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from devices.armboard import ArmBoard
from devices.jetson import stand_ins
from recurrence import INT8, context, fused_lstm, samples
from running import Run

from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.litert import REFERENCE, LiteRtRunner
from edgecompile.devices import benchmark
from edgecompile.devices.opening import one, open_board
from edgecompile.loaders.interpreter import dequantize, own_signature
from edgecompile.stages.quantize import Quantize
from edgecompile.tflite_file import read

pytestmark = pytest.mark.board

LIBRARIES = {"sysfs": "/root", "trtexec": "/usr/src/tensorrt/bin", "tensorrt.py": "/usr/lib/python3/dist-packages"}


@pytest.fixture(scope="module")
def arm_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArmBoard]:
    board = ArmBoard(tmp_path_factory.mktemp("arm-board"))
    yield board
    board.down()


def test_it_comes_up_with_its_address_and_a_name(arm_board: ArmBoard) -> None:
    assert arm_board.url.startswith("ssh://root@127.0.0.1:")
    (entry,) = json.loads(arm_board.run("devices", "list", "--json").out)["devices"]
    assert (entry["name"], entry["url"], entry["emulated"]) == ("arm-board", arm_board.url, True)
    probed = arm_board.run("devices", "probe", "arm-board")
    assert "Cortex-A76" in probed.out
    assert "rpi5" in probed.out


def test_it_has_no_internet(arm_board: ArmBoard) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"
    assert "failed" in arm_board.shell(f'python3 -c "{code}" 2> /dev/null || echo failed')


def medians(done: Run) -> dict[str, float]:
    assert done.code == 0, done.err
    return {f["of"]: f["value"] for g in json.loads(done.out) for f in g["figures"] if f["name"] == "latency_p50"}


def test_a_runtime_is_brought_there_once_and_figures_repeat(arm_board: ArmBoard, data: Path) -> None:
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    options = ("--on", arm_board.url, "--kernels", "both", "--runs", "20", "--warmup", "3", "--json")
    first = medians(arm_board.run("bench", model, *options))
    ours = "/root/.cache/edgecompile/board-v1"
    there = arm_board.shell(f"find {ours} -type f | sort")
    done = arm_board.run("bench", model, *options)
    assert arm_board.shell(f"find {ours} -type f | sort") == there  # nothing was brought twice
    second = medians(done)
    assert {f["label"] for g in json.loads(done.out) for f in g["figures"]} == {"emulated-instructions"}
    for name, value in first.items():
        assert second[name] == pytest.approx(value, rel=0.005)
    xnnpack, builtin = (value for name, value in sorted(first.items(), key=lambda each: "builtin" in each[0]))
    assert xnnpack < builtin
    assert arm_board.shell("ls -A /root").split() == [".cache", ".ssh"]


@pytest.fixture(scope="module")
def resnet8(arm_board: ArmBoard, data: Path, cache_folder: Path) -> Path:
    """The bundle of ResNet8 in int8, built for the board and measured there."""
    del cache_folder
    source = data / "models/mlperf_tiny/ic/pretrainedResnet.h5"
    done = arm_board.run("build", source, "--data", "resnet8", "--recipe", "int8", "--on", "arm-board", "--out", "r8")
    assert done.code == 0, done.err
    assert "fewest instructions" in done.out
    return arm_board.folder / "r8"


def test_a_build_takes_the_engine_with_the_fewest_instructions(resnet8: Path) -> None:
    manifest = json.loads((resnet8 / "manifest.json").read_text())
    assert manifest["target"]["id"] == "rpi5"
    measured = {c["id"]: c["latency_p50_ms"] for c in manifest["candidates"]}
    assert set(measured) == {"litert-xnnpack", "litert-builtin"}
    assert manifest["winner"]["id"] == min(measured, key=lambda name: measured[name])
    labels = {f["label"] for f in manifest["figures"] if f["name"].startswith("latency")}
    assert labels == {"emulated-instructions"}


def test_a_second_run_counts_the_same(arm_board: ArmBoard, resnet8: Path) -> None:
    manifest = json.loads((resnet8 / "manifest.json").read_text())
    first = {c["id"].removeprefix("litert-"): c["latency_p50_ms"] for c in manifest["candidates"]}
    done = arm_board.run("bench", resnet8, "--on", "arm-board", "--kernels", "both", "--runs", "20", "--json")
    for name, value in medians(done).items():
        assert value == pytest.approx(first[name.split()[-1]], rel=0.005)


def test_outputs_there_are_bit_equal_with_the_reference_kernels(arm_board: ArmBoard, resnet8: Path) -> None:
    done = arm_board.run("verify", resnet8, "--on", "arm-board", "--samples", "100")
    assert done.code == 0, done.err + done.out
    assert "100 samples: bit-equal" in done.out


def test_other_engines_are_judged_and_measured_there(arm_board: ArmBoard) -> None:
    """TVM's code, and ONNX Runtime, which is brought."""
    options = ("--recipe", "int8", "--backends", "litert,tvm,onnx", "--on", "arm-board", "--out", "engines")
    done = arm_board.run("build", "digits", *options)
    assert done.code == 0, done.err
    assert "5 of 5 candidates agree" in done.out
    manifest = json.loads((arm_board.folder / "engines" / "manifest.json").read_text())
    found = {c["id"]: c for c in manifest["candidates"]}
    assert {"tvm", "tvm-reference"} < set(found)
    assert all(verdict["exact"] for verdict in found["tvm-reference"]["parity"].values())
    assert found["tvm"]["latency_p50_ms"] < found["litert-builtin"]["latency_p50_ms"]
    assert found["onnx"]["latency_p50_ms"] > 0
    engines = manifest["measurement"]["environment"]["before"]["engines"]
    assert engines == {"onnxruntime": found["onnx"]["config"]["version"]}
    assert found[manifest["winner"]["id"]]["passed"]


def test_a_jetsons_build_with_stand_ins(arm_board: ArmBoard, tmp_path: Path) -> None:
    """The family's name, a project file, and an engine "built" there."""
    (arm_board.folder / "edgecompile.toml").write_text('model = "digits"\ntarget = "jetson"\n')
    before = arm_board.run("build", "--out", "unbuilt")
    assert before.code == 0, before.err
    stand_ins(tmp_path / "stub", "aarch64-linux-gnu-gcc")
    for name, folder in LIBRARIES.items():
        arm_board.send(tmp_path / "stub" / name, folder)
    arm_board.send(tmp_path / "stub" / "tensorrt-10.3.0.dist-info", LIBRARIES["tensorrt.py"])
    arm_board.send(tmp_path / "stub" / "libcudart.so", "/usr/local/cuda/lib64")
    arm_board.send(arm_board.folder / "unbuilt" / "model.tflite", LIBRARIES["tensorrt.py"])
    (entry,) = json.loads(arm_board.run("devices", "list", "--json").out)["devices"]
    files = ("--identity", entry["identity"], "--known-hosts", entry["known_hosts"])
    added = arm_board.run(
        "devices", "add", "jetson", arm_board.url, *files, "--emulated", "--sysfs-root", "/root/sysfs"
    )
    assert added.code == 0, added.err
    done = arm_board.run("build", "--on", "jetson", "--out", "built")
    assert done.code == 0, done.err
    assert "target jetson-orin-nano: what jetson is (NVIDIA Jetson Orin Nano" in done.err
    manifest = json.loads((arm_board.folder / "built" / "manifest.json").read_text())
    (engine,) = (c for c in manifest["candidates"] if c["backend"] == "tensorrt")
    assert engine["passed"]
    assert engine["latency_p50_ms"] > 0
    assert {f["label"] for f in manifest["figures"] if f["name"] == "latency_p50"} == {"emulated-instructions"}


@pytest.mark.parametrize("instructions", ["neon-dotprod", "neon"])
@pytest.mark.parametrize(
    "name", ["ic/pretrainedResnet_quant", "kws/kws_ref_model", "vww/vww_96_int8", "ic/pretrainedResnet"]
)
def test_a_library_from_here_computes_the_same_there(
    instructions: str, name: str, arm_board: ArmBoard, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled by TVM on this machine: integers to the bit as LiteRT's reference kernels here, floats within 1e-5."""
    model = data / "models" / "mlperf_tiny" / f"{name}.tflite"
    (spec,) = own_signature(read(model)).inputs
    rng, shape = np.random.default_rng(0), (5, *spec.shape[1:])
    whole = spec.dtype == "int8"
    x = {spec.name: rng.integers(-128, 128, shape).astype(np.int8) if whole else 255 * rng.random(shape, np.float32)}
    (expected,) = LiteRtRunner(model, REFERENCE).run(x).values()
    found = arm_board.computed(model, x, instructions, tmp_path, monkeypatch)
    assert np.array_equal(found, expected) if whole else np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)


def test_a_fused_lstm_forgets_between_samples_there(
    arm_board: ArmBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECOMPILE_CONFIG", arm_board.environment["EDGECOMPILE_CONFIG"])
    model, converted = fused_lstm(tmp_path)
    artifact = Artifact(TFLITE, {"model": converted}, read(converted).signature)
    quantized = Quantize(INT8).run(artifact, context(tmp_path / "int8", "int8")).files["model"]
    x = {"signal": samples(20)}
    expected = np.asarray(model(x["signal"]))
    with open_board(one("arm-board")) as board:
        for path, allowed in ((converted, 1e-5), (quantized, 0.06)):
            candidate = {"id": "m", "engine": "litert", "model": str(path), "threads": 1}
            (found,) = benchmark.outputs(board, candidate, x, lambda *_: None).values()
            here = LiteRtRunner(path).run(x)["scores"]
            step = 1 if here.dtype == np.int8 else 1e-5
            assert np.max(np.abs(found.astype(np.float32) - here.astype(np.float32))) <= step
            (spec,) = LiteRtRunner(path).outputs
            assert np.max(np.abs(dequantize(found, spec) - expected)) / np.ptp(expected) < allowed
