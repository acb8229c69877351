"""The one-file runner as a process of its own, and the local device on top of it."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgecompile.artifact import TensorInfo
from edgecompile.devices.base import BenchCandidate, BenchJob, statistics
from edgecompile.devices.benchmark import benchmark
from edgecompile.devices.local import LocalDevice
from edgecompile.devices.matching import best_target
from edgecompile.errors import DeviceError
from edgecompile.loaders.interpreter import quantize
from edgecompile.ondevice import runner
from edgecompile.target import family

RUNNER = Path(runner.__file__)
KWS = "models/mlperf_tiny/kws/kws_ref_model.tflite"
DETECTION = "models/detection/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite"


def execute(folder: Path, arrays: dict[str, Any], **job: Any) -> tuple[int, list[dict[str, Any]], str]:
    """(exit code, events, stderr); every line of stdout must be an event."""
    runner.save_arrays(folder / "inputs.npz", arrays)
    (folder / "job.json").write_text(json.dumps({"inputs": "inputs.npz", **job}))
    command = [sys.executable, str(RUNNER), str(folder / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def keywords(data: Path, n: int) -> Any:
    """Stored as int8, as the reference model takes them; [n, 49, 10, 1]."""
    with np.load(data / "kws/kws01_mlperf1000.npz") as archive:
        return archive["mfcc"][:n].reshape(n, 49, 10, 1)


def test_tiles_are_told_of_where_linux_lets_them_be_used(tmp_path: Path) -> None:
    """A CPU may have AMX, and the kernel or a container not give it to programs."""
    (tmp_path / "cpuinfo").write_text("flags\t: avx2 fma avx512f amx_tile amx_int8\n")
    given = {"amx_tile", "amx_int8"} if "amx_tile" in Path("/proc/cpuinfo").read_text().split() else set()
    assert set(runner.cpu_features(tmp_path)) == {"avx2", "fma", "avx512f"} | given


def test_the_file_is_python_3_8_and_needs_nothing_of_ours() -> None:
    tree = ast.parse(RUNNER.read_text(), feature_version=(3, 8))
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").split(".")[0])
    assert roots - sys.stdlib_module_names == {
        "numpy",
        "onnxruntime",
        "openvino",
        "tensorrt",
    }  # of which the second is loaded for its engines alone


def test_benchmark_events(data: Path, tmp_path: Path) -> None:
    candidates = [
        {"id": "xnnpack", "model": str(data / KWS), "engine": "litert", "xnnpack": True, "threads": 1},
        {"id": "builtin", "model": str(data / KWS), "engine": "litert", "xnnpack": False, "threads": 1},
    ]
    allowed = sorted(os.sched_getaffinity(0))[:1]
    code, events, _ = execute(
        tmp_path, {"input_1": keywords(data, 8)}, candidates=candidates, warmup=2, runs=7, cpus=allowed
    )
    assert code == 0
    kinds = [event["event"] for event in events if event["event"] != "progress"]
    assert kinds == ["facts", "init", "init", "result", "result", "facts", "end"]
    for event in events:
        if event["event"] == "result":
            assert len(event["times_ms"]) == 7
            assert min(event["times_ms"]) > 0
            assert event["init_ms"] > 0
            assert event["peak_rss_mb"] >= event["baseline_rss_mb"] > 5
    assert [event["id"] for event in events if event["event"] == "result"] == ["xnnpack", "builtin"]
    progress = [(event["done"], event["total"]) for event in events if event["event"] == "progress"]
    assert progress[-1] == (9, 9)
    facts = next(event for event in events if event["event"] == "facts")
    assert facts["runtime"] == "ai-edge-litert"
    assert facts["cores"] >= 1


def test_min_seconds_adds_rounds(data: Path, tmp_path: Path) -> None:
    candidate = {"id": "a", "model": str(data / KWS)}
    code, events, _ = execute(
        tmp_path, {"": keywords(data, 2)}, candidates=[candidate], warmup=0, runs=1, min_seconds=0.05
    )
    assert code == 0
    (result,) = (event for event in events if event["event"] == "result")
    assert len(result["times_ms"]) > 1
    assert sum(result["times_ms"]) <= 60_000


def test_run_gives_litert_s_outputs_for_real_numbers_too(data: Path, tmp_path: Path) -> None:
    """Samples given as real numbers are quantized with the input's own scale and zero point."""
    model = data / KWS
    stored = keywords(data, 5).astype(np.int8)
    interpreter = Interpreter(
        str(model), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    (details,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    expected = []
    for row in stored:
        interpreter.set_tensor(details["index"], row[None])
        interpreter.invoke()
        expected.append(interpreter.get_tensor(out["index"])[0])
    scale, zero_point = details["quantization"]
    real = ((stored.astype(np.float32) - zero_point) * scale).astype(np.float32)
    assert len(np.unique(expected, axis=0)) > 1
    for arrays in (stored, real):
        code, events, _ = execute(
            tmp_path,
            {"input_1": arrays},
            mode="run",
            outputs="outputs.npz",
            candidates=[{"id": "a", "model": str(model), "xnnpack": False}],
        )
        assert (code, events[-1]["event"]) == (0, "end")
        with np.load(tmp_path / "outputs.npz") as archive:
            assert archive.files == ["Identity"]
            np.testing.assert_array_equal(archive["Identity"], expected)


def test_samples_in_the_middle_between_two_steps_become_what_they_become_here() -> None:
    """Pictures as MobileNets take them: each pixel in [-1, 1] is just between two steps of their inputs' scale."""
    samples = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)
    spec = TensorInfo("x", (1, 256), "uint8", float(np.float32(2 / 255)), 127)
    details = {"dtype": spec.dtype, "quantization": (spec.scale, spec.zero_point)}
    assert np.array_equal(runner.as_input(samples, details, "x"), quantize(samples, spec))


def test_run_with_a_signature_and_with_a_custom_operator(data: Path, tmp_path: Path) -> None:
    tokens = np.load(data / "text/sst2_tokens.npz")["x_dev872"][:3]
    text = {"id": "text", "model": str(data / "models/text/sst2_transformer_fp32.tflite")}
    job = {"mode": "run", "outputs": "outputs.npz"}
    code, _, _ = execute(tmp_path, {"input_ids": tokens.astype(np.int64)}, candidates=[text], **job)
    assert code == 0
    with np.load(tmp_path / "outputs.npz") as archive:
        assert archive["logits"].shape == (3, 2)
    images = np.zeros((2, 300, 300, 3), np.uint8)
    code, _, _ = execute(tmp_path, {"": images}, candidates=[{"id": "d", "model": str(data / DETECTION)}], **job)
    assert code == 0
    with np.load(tmp_path / "outputs.npz") as archive:
        assert archive["TFLite_Detection_PostProcess"].shape[::2] == (2, 4)


@pytest.mark.parametrize(
    ("change", "arrays", "message"),
    [
        ({"model": "none.tflite"}, None, "no such model file"),
        ({"model": "job.json"}, None, "can't be loaded"),
        (
            {"engine": "abacus"},
            None,
            "unknown engine 'abacus', expected one of ['litert', 'onnx', 'openvino', 'tensorrt', 'tvm']",
        ),
        (
            {},
            {"input_1": np.zeros((2, 5, 10, 1), np.int8)},
            r"expects samples of shape [49, 10, 1], received [5, 10, 1]",
        ),
        ({}, {"input_1": np.zeros((2, 49), np.int8)}, "a sample has shape [49]"),
        ({}, {"input_1": np.full((2, 49, 10, 1), 999)}, "values beyond it"),
        ({}, {"a": np.zeros(2), "b": np.zeros(2)}, "inputs ['a', 'b'], the model expects ['input_1']"),
        ({}, {"input_1": np.zeros((0, 49, 10, 1), np.int8)}, "have no samples"),
    ],
)
def test_errors_are_events(
    data: Path, tmp_path: Path, change: dict[str, Any], arrays: dict[str, Any] | None, message: str
) -> None:
    good = {"input_1": np.zeros((2, 49, 10, 1), np.int8)}
    candidate = {"id": "a", "model": str(data / KWS), **change}
    code, events, stderr = execute(tmp_path, arrays or good, candidates=[candidate], warmup=0, runs=1)
    assert code == 1
    assert events[-1]["event"] == "error"
    assert message in events[-1]["message"]
    assert "Traceback" not in stderr


def test_a_job_that_lacks_something(tmp_path: Path) -> None:
    code, events, _ = execute(tmp_path, {"x": np.zeros(1)}, candidates=[])
    assert (code, [event["message"] for event in events]) == (1, ["the job lacks candidates"])


def test_facts_of_another_machine(tmp_path: Path) -> None:
    """A Raspberry Pi's files: part numbers become names, the board names itself, milli- becomes degrees."""
    files = {
        "proc/cpuinfo": "processor: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n",
        "proc/meminfo": "MemTotal:        8388608 kB\n",
        "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B\0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2400000\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48250\n",
        "sys/class/thermal/thermal_zone1/temp": "not a number\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    facts = runner.facts(tmp_path / "sys", tmp_path / "proc")
    assert facts["cpu"] == "Raspberry Pi 5 Model B, Cortex-A76"
    assert facts["features"] == ["asimd", "asimddp"]
    assert (facts["governor"], facts["cur_mhz"], facts["max_mhz"]) == ("ondemand", 1500.0, 2400.0)
    assert facts["temperatures"] == {"cpu-thermal": 48.25}
    assert facts["memory_mb"] == 8192


L4T_CPU = """processor\t: 0
model name\t: ARMv8 Processor rev 1 (v8l)
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd42
"""


@pytest.mark.parametrize(
    ("model", "target"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin-nano"),
        ("NVIDIA Orin NX Developer Kit", "jetson-orin-nx"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "jetson-orin-nx"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin"),
        ("NVIDIA Jetson Nano Developer Kit", "jetson-nano"),
        ("NVIDIA Jetson Xavier NX Developer Kit", "jetson-xavier-nx"),
        ("Jetson-AGX", None),  # Xavier, of which there is no target
    ],
)
def test_jetsons_are_known_by_their_own_names(tmp_path: Path, model: str, target: str | None) -> None:
    """And not by the number of cores, which a power mode changes, nor by a name that all ARM processors have."""
    for name, content in {"proc/cpuinfo": L4T_CPU, "sys/firmware/devicetree/base/model": f"{model}\0"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    facts = runner.facts(tmp_path / "sys", tmp_path / "proc")
    assert facts["cpu"] == f"{model}, Cortex-A78AE"
    assert facts["nvidia"]["jetson"] == model
    found = best_target({**facts, "machine": "aarch64", "memory_mb": 7620}, family("jetson"))
    assert (found.id if found else None) == target


def test_local_device(data: Path) -> None:
    seen: list[tuple[int, int]] = []
    job = BenchJob(
        (BenchCandidate("x", data / KWS), BenchCandidate("b", data / KWS, config={"xnnpack": False})),
        {"input_1": keywords(data, 4)},
        warmup=1,
        runs=5,
    )
    device = LocalDevice()
    result = benchmark(device, job, lambda done, total: seen.append((done, total)))
    assert list(result.candidates) == ["x", "b"]
    assert all(len(times.times_ms) == 5 for times in result.candidates.values())
    assert seen[-1] == (6, 6)
    assert len(result.cpus) == 1
    assert result.before["cpu"] == result.after["cpu"] == device.facts().details["cpu"]
    identity = device.facts().identity
    assert identity.startswith(f"{platform.machine()}/{result.before['cpu']}/{os.cpu_count()}/")
    # The same kernels on the same samples: the digest repeats from run to run.
    again = benchmark(device, job, lambda *_: None)
    assert again.candidates["b"].outputs_sha256 == result.candidates["b"].outputs_sha256


def test_local_device_names_the_candidate_that_fails(data: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes((data / KWS).read_bytes()[:5000])
    job = BenchJob((BenchCandidate("bad", damaged),), {"": keywords(data, 1)})
    with pytest.raises(DeviceError, match="bad: the model can't be loaded"):
        benchmark(LocalDevice(), job, lambda *_: None)


def test_an_interrupt_leaves_nothing_running(data: Path) -> None:
    """Raised where Ctrl-C would be: between two events, in a benchmark that would go on for minutes."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = children.read_text()
    job = BenchJob((BenchCandidate("a", data / KWS),), {"": keywords(data, 1)}, min_seconds=300.0)

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark(LocalDevice(), job, interrupt)
    assert children.read_text() == before


def test_statistics_are_numpy_s() -> None:
    found = statistics([float(value) for value in range(1, 102)])
    assert (found["p50"], found["p90"], found["p99"]) == (51.0, 91.0, 100.0)
    assert (found["min"], found["max"], found["mean"], found["runs"]) == (1.0, 101.0, 51.0, 101)
    assert found["std"] == pytest.approx(29.1547594)
    with pytest.raises(ValueError, match="received none"):
        statistics([])


def test_a_result_says_whether_a_delegate_took_operators(data: Path, tmp_path: Path) -> None:
    candidates = [
        {"id": "asked", "model": str(data / KWS), "xnnpack": True},
        {"id": "by itself", "model": str(data / KWS)},
        {"id": "kept away", "model": str(data / KWS), "xnnpack": False},
    ]
    code, events, _ = execute(tmp_path, {"": keywords(data, 2)}, candidates=candidates, warmup=0, runs=1)
    assert code == 0
    found = {event["id"]: event["delegate"] for event in events if event["event"] == "result"}
    assert found == {"asked": True, "by itself": True, "kept away": False}


def test_a_lock_is_not_waited_for_without_end(data: Path, tmp_path: Path) -> None:
    """Who holds it is told, from what a runner that had it wrote."""
    job = {"candidates": [{"id": "a", "model": str(data / KWS)}], "warmup": 0, "runs": 1}
    lock = tmp_path / "lock"
    code, _, _ = execute(tmp_path, {"": keywords(data, 1)}, **job, lock=str(lock))
    assert code == 0
    holder = int(lock.read_text())
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, events, _ = execute(tmp_path, {"": keywords(data, 1)}, **job, lock=str(lock), wait_seconds=0)
    assert [event["event"] for event in events] == ["waiting", "error"]
    assert code == 1
    assert f"another benchmark holds {lock}, for 0 s already: process {holder}" in events[-1]["message"]
    assert f"`kill {holder}`" in events[-1]["hint"]
