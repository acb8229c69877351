"""`edgecompile bench` on a bundle and on bare files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import patch_sha256, run_cli

from edgecompile.errors import BundleError, DataError, DeviceError, ModelError
from edgecompile.units import parse_cpus

SHORT = ("--runs", "20", "--warmup", "2")


def test_a_bundle_and_its_file_are_measured_together(digits_bundle: Path, tmp_path: Path) -> None:
    file = digits_bundle / "model.tflite"
    done = run_cli("bench", file, digits_bundle, "--kernels", "both", "--json", *SHORT, cwd=tmp_path)
    assert done.code == 0, done.err
    (group,) = json.loads(done.out)
    assert group["inputs"] == f"golden inputs of {digits_bundle}"
    p50 = {f["of"]: f for f in group["figures"] if f["name"] == "latency_p50"}
    assert set(p50) == {f"{path} {kernels}" for path in (file, digits_bundle) for kernels in ("xnnpack", "builtin")}
    for figure in p50.values():
        assert (figure["label"], figure["unit"], figure["threads"]) == ("measured", "ms", 1)
        assert figure["value"] > 0
        assert figure["runs"] >= 20
        assert figure["device"]
        assert figure["date"]
    names = {f["name"] for f in group["figures"]}
    assert {"latency_p90", "latency_p99", "latency_mean", "latency_std", "init_time", "peak_rss"} <= names
    assert {"governor", "cpu", "features"} <= set(group["environment"]["before"])


def test_a_bundle_alone_takes_its_winner(digits_bundle: Path, tmp_path: Path) -> None:
    done = run_cli("bench", digits_bundle, *SHORT, cwd=tmp_path)
    assert done.code == 0, done.err
    winner = json.loads((digits_bundle / "manifest.json").read_text())["winner"]["id"]
    assert f"{digits_bundle} {winner.removeprefix('litert-')} " in done.out
    assert "measured on " in done.out


def test_a_file_alone_gets_random_inputs_and_says_so(digits_bundle: Path, tmp_path: Path) -> None:
    shutil.copy(digits_bundle / "model.tflite", tmp_path / "m.tflite")
    done = run_cli("bench", "m.tflite", "--threads", "2", *SHORT, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "inputs: random numbers (seed 0)" in done.out
    assert "m.tflite xnnpack" in done.out


def test_inputs_come_from_data(digits_bundle: Path, tmp_path: Path) -> None:
    done = run_cli("bench", digits_bundle / "model.tflite", "--data", "digits", *SHORT, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "inputs: samples of digits" in done.out


def test_models_with_other_inputs_are_measured_apart(digits_bundle: Path, data: Path, tmp_path: Path) -> None:
    other = data / "models/mlperf_tiny/ad/ad01_int8.tflite"
    done = run_cli("bench", digits_bundle, other, "--json", *SHORT, cwd=tmp_path)
    assert done.code == 0, done.err
    first, second = json.loads(done.out)
    assert {f["of"] for f in second["figures"]} == {f"{other} xnnpack"}
    assert first["inputs"].startswith("golden inputs")
    assert second["inputs"].startswith("random numbers")


def test_bad_input_is_a_clear_error(digits_bundle: Path, tmp_path: Path) -> None:
    content = (digits_bundle / "model.tflite").read_bytes()
    (tmp_path / "short.tflite").write_bytes(content[:5000])
    (tmp_path / "folder").mkdir()
    cases = {
        "short.tflite": (ModelError, "truncated"),
        "absent.tflite": (ModelError, "no such file"),
        "folder": (BundleError, "no manifest.json"),
    }
    for name, (error, message) in cases.items():
        done = run_cli("bench", name, *SHORT, cwd=tmp_path)
        assert (done.code, "Traceback" in done.err) == (error.exit_code, False), done.err
        assert message in done.err
        assert not done.out
    done = run_cli("bench", digits_bundle, "--data", "ds_cnn.npz", cwd=tmp_path)
    assert done.code == DataError.exit_code


def test_empty_golden_inputs_are_a_damaged_bundle(digits_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "golden.npz").write_bytes(b"")
    patch_sha256(tmp_path / "bundle", "golden.npz")
    done = run_cli("bench", "bundle", *SHORT, cwd=tmp_path)
    assert done.code == BundleError.exit_code, done.err
    assert "is damaged" in done.err


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cpus_are_read_as_they_are_written(cpus: set[int]) -> None:
    ordered = sorted(cpus)
    starts = [n for n in ordered if n - 1 not in cpus]
    ends = [n for n in ordered if n + 1 not in cpus]
    text = ",".join(f"{a}-{b}" if a != b else str(a) for a, b in zip(starts, ends, strict=True))
    assert parse_cpus(text) == parse_cpus(",".join(map(str, cpus))) == tuple(ordered)


@pytest.mark.parametrize("text", ["", "x", "3-1", "1-", "-1", "1,,2"])
def test_what_names_no_cpus(text: str) -> None:
    with pytest.raises(ValueError, match="expected CPUs such as"):
        parse_cpus(text)


def test_a_benchmark_keeps_to_the_cpus_that_are_named(digits_bundle: Path, tmp_path: Path) -> None:
    done = run_cli("bench", digits_bundle, "--cpus", "0", "--json", *SHORT, cwd=tmp_path)
    assert json.loads(done.out)[0]["environment"]["cpus"] == [0]
    done = run_cli("bench", digits_bundle, "--cpus", "9000", *SHORT, cwd=tmp_path)
    assert done.code == DeviceError.exit_code
    assert "can't keep to CPUs [9000]" in done.err
