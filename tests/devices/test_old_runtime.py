"""A runtime whose XNNPACK takes none of a model's operators: nothing else's figure goes by that name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from devices.sshd import Sshd
from running import Run, run_cli

from edgecompile.errors import DeviceError

REASON = "this runtime's XNNPACK takes none of the model's operators"
KEYWORDS = "models/mlperf_tiny/kws/kws_ref_model.tflite"  # int8
SHORT = ("--runs", "20", "--warmup", "2")


@pytest.fixture
def old(sshd: Sshd, tmp_path: Path) -> str:
    """A board in the inventory, with Python 3.8: tflite-runtime 2.14 is the newest there is for it."""
    found = sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python3"))
    if not found:
        pytest.skip("no Python 3.8 of pyenv's here")
    sshd.set_environment(PATH=f"{found[-1].parent}:/usr/bin:/bin", HOME=str(sshd.folder))
    files = ("--identity", sshd.folder / "user", "--known-hosts", sshd.folder / "known_hosts")
    assert run(tmp_path, "devices", "add", "old", sshd.address.url, *files).code == 0
    return "old"


def run(folder: Path, *arguments: str | Path) -> Run:
    return run_cli(*arguments, cwd=folder, env={"EDGECOMPILE_CONFIG": str(folder / "config")})


def test_bench_gives_no_time_of_the_builtin_kernels_as_xnnpack_s(old: str, data: Path, tmp_path: Path) -> None:
    model = data / KEYWORDS
    done = run(tmp_path, "bench", model, "--on", old, "--kernels", "both", *SHORT, "--json")
    assert done.code == 0, done.err
    (group,) = json.loads(done.out)
    assert group["environment"]["before"]["runtime"] == "tflite-runtime"
    assert {figure["of"] for figure in group["figures"]} == {f"{model} builtin"}
    assert group["skipped"] == {f"{model} xnnpack": REASON}
    shown = run(tmp_path, "bench", model, "--on", old, "--kernels", "both", *SHORT)
    assert f"{model} xnnpack: not measured: {REASON}; --kernels builtin measures it" in shown.err
    assert "xnnpack" not in shown.out
    alone = run(tmp_path, "bench", model, "--on", old, *SHORT)
    assert (alone.code, alone.out) == (DeviceError.exit_code, "")
    assert REASON in alone.err
    assert "Try: --kernels builtin measures it" in alone.err


def test_a_build_ranks_no_candidate_twice(old: str, data: Path, tmp_path: Path) -> None:
    options = ("--recipe", "float", "--io", "int8", "--out", "bundle")
    done = run(tmp_path, "build", data / KEYWORDS, *options, "--on", old, "--target", "host")
    assert done.code == 0, done.err
    assert f"litert-xnnpack: left out: {REASON}" in done.err
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert manifest["winner"]["id"] == "litert-builtin"
    assert "fastest of 1" in manifest["winner"]["why"]
    found = {c["id"]: (c["latency_p50_ms"] is not None, c["left_out"]) for c in manifest["candidates"]}
    assert found == {"litert-xnnpack": (False, REASON), "litert-builtin": (True, None)}
    assert "litert-xnnpack" not in {figure["of"] for figure in manifest["figures"]}
    assert {"source", "model"} <= {figure["of"] for figure in manifest["figures"] if figure["name"] == "latency_p50"}
    assert f"It was not measured: {REASON}." in (tmp_path / "bundle/report.html").read_text().replace("&#39;", "'")


def test_a_model_that_xnnpack_here_takes_nothing_of_is_built(tmp_path: Path) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    taken = tf.function(lambda x: tf.cumsum(x, axis=1), input_signature=[tf.TensorSpec((1, 64), tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([taken.get_concrete_function()])
    (tmp_path / "sums.tflite").write_bytes(converter.convert())
    done = run(tmp_path, "build", "sums.tflite", "--recipe", "float", "--out", "bundle")
    assert done.code == 0, done.err
    assert f"litert-xnnpack: left out: {REASON}" in done.err
    assert json.loads((tmp_path / "bundle/manifest.json").read_text())["winner"]["id"] == "litert-builtin"
    # The bundle's own winner is what `bench` takes.
    assert "bundle builtin" in run(tmp_path, "bench", "bundle", *SHORT).out
