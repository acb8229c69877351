"""`edgecompile inspect` on each kind of model, and on a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running import left_in_cache, run_cli

from edgecompile.errors import ModelError
from edgecompile.layers import inspect_builtin, inspect_source
from edgecompile.loaders.base import LoadOptions


@pytest.fixture(scope="module")
def trained(digits_bundle: Path, cache_folder: Path) -> Path:
    """The digits' float model, as the build trained it."""
    return left_in_cache(digits_bundle, cache_folder, "train")


def inspected(model: Path | str, cwd: Path) -> dict[str, Any]:
    done = run_cli("inspect", model, "--json", cwd=cwd)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_bundle_has_the_headline_and_the_operators(digits_bundle: Path, tmp_path: Path) -> None:
    found = inspected(digits_bundle, tmp_path)
    assert (found["bundle"]["name"], found["bundle"]["target"], found["bundle"]["recipe"]) == ("digits", "host", "int8")
    assert "CONV_2D" in [operator["type"] for operator in found["operators"]]
    assert found["size"] == (digits_bundle / "model.tflite").stat().st_size
    printed = run_cli("inspect", digits_bundle, cwd=tmp_path).out
    assert "latency_p50" in printed
    assert "DEPTHWISE_CONV_2D" in printed


def test_a_keras_file_and_its_tflite_have_the_same_macs(trained: Path, digits_bundle: Path, tmp_path: Path) -> None:
    keras = inspected(trained, tmp_path)
    layers = {layer["name"]: layer for layer in keras["layers"]}
    assert layers["conv"]["class"] == "Conv2D"
    assert layers["conv"]["output_shape"][1:] == [8, 8, 16]
    assert layers["conv"]["parameters"] == 3 * 3 * 16
    assert layers["conv"]["macs"] == 8 * 8 * 3 * 3 * 16
    assert layers["conv_bn"]["macs"] == 0
    tflite = inspected(digits_bundle / "model.tflite", tmp_path)
    assert keras["totals"]["macs"] == tflite["totals"]["macs"]
    assert keras["totals"]["uncounted"] == 0
    assert sum(layer["parameters"] for layer in keras["layers"]) == keras["totals"]["parameters"]


def test_a_built_in_model_is_inspected_without_training() -> None:
    found = inspect_builtin("fc_autoencoder", report=lambda _: None)
    assert found["notes"] == ["initial weights"]
    dense = [layer for layer in found["layers"] if layer["class"] == "Dense"]
    assert dense
    assert found["totals"]["macs"] == sum(layer["macs"] for layer in dense)


def test_saved_models_are_inspected_as_layers_or_as_operators(tmp_path: Path) -> None:
    import tf_keras

    keras = tf_keras.Sequential([tf_keras.layers.Dense(4, input_shape=(3,), name="dense")])
    keras.export(tmp_path / "graph")
    keras.save(tmp_path / "keras", save_format="tf")
    found = inspect_source(tmp_path / "keras", LoadOptions(), report=lambda _: None)
    assert [(row["name"], row["macs"]) for row in found["layers"] if row["class"] == "Dense"] == [("dense", 12)]
    found = inspect_source(tmp_path / "graph", LoadOptions(), report=lambda _: None)
    assert found["kind"] == "saved_model"
    assert found["operators"]["MatMul"] == 1
    assert found["totals"] == {"parameters": 16, "macs": None, "uncounted": None}


def test_bad_input_is_a_clear_error(digits_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "short.tflite").write_bytes((digits_bundle / "model.tflite").read_bytes()[:900])
    (tmp_path / "empty.keras").write_bytes(b"")
    for name, message in {"short.tflite": "truncated", "empty.keras": "empty", "digit": "'digits'"}.items():
        done = run_cli("inspect", name, cwd=tmp_path)
        assert (done.code, "Traceback" in done.err) == (ModelError.exit_code, False), done.err
        assert message in done.err
