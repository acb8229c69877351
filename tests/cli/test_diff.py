"""`edgecompile diff`: exit codes, what is printed, and what A and B may be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import Run, patch_sha256, run_cli

from edgecompile.errors import BundleError, DataError, ModelError, ParityGateError
from edgecompile.tflite_file import read

IC = "models/mlperf_tiny/ic"


@pytest.fixture
def world(digits_bundle: Path, tmp_path: Path) -> Path:
    """A folder with the digits' bundle and a copy of its model, one of whose weights is flipped."""
    shutil.copytree(digits_bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "model.tflite"
    model = read(path)
    conv = [op for op in model.main.operators if op.name == "CONV_2D"][1]
    kernel = bytes(model.buffers[model.main.tensors[conv.inputs[1]].buffer])
    content = bytearray(path.read_bytes())
    assert content.count(kernel) == 1
    content[content.index(kernel) + len(kernel) // 2] ^= 0x80
    (tmp_path / "broken.tflite").write_bytes(content)
    (tmp_path / "note.txt").write_text("not a model")
    return tmp_path


def found(done: Run) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(done.out)
    return parsed


def test_a_model_and_its_copy_are_the_same(world: Path) -> None:
    done = run_cli("diff", "bundle", "bundle/model.tflite", cwd=world)
    assert done.code == 0, done.err
    assert "the same, within a largest error of 0.0001" in done.out
    assert "inputs: 16, golden inputs of bundle" in done.out
    assert done.out.count("equal") == 10


def test_a_flipped_weight_ends_in_exit_code_21_and_names_its_layer(world: Path) -> None:
    done = run_cli("diff", "bundle", "broken.tflite", "--samples", 4, cwd=world)
    assert done.code == ParityGateError.exit_code
    assert "the models part at CONV_2D+RELU #3 'pointwise_relu/Relu'" in done.err
    assert "most lost in one operator" in done.out
    as_json = run_cli("diff", "bundle", "broken.tflite", "--samples", 4, "--json", cwd=world)
    assert as_json.code == ParityGateError.exit_code
    parts = found(as_json)
    assert (parts["parted"], parts["samples"], parts["real"]) == (True, 4, True)
    assert parts["first"]["tensor"].startswith("digits/pointwise_relu/Relu")
    assert parts["first"] in parts["rows"]
    assert run_cli("diff", "bundle", "broken.tflite", "--tolerance", 1.0, cwd=world).code == 0


def test_a_built_in_model_against_its_bundle_on_data(world: Path) -> None:
    done = run_cli("diff", "digits", "bundle", "--data", "digits", "--all", cwd=world)
    assert done.code == 0, done.err
    assert "inputs: 16, training samples of digits" in done.out
    assert "float32 | int8" in done.out
    assert "scores/MatMul" in done.out


def test_random_inputs_are_said_not_to_be_real(world: Path) -> None:
    done = run_cli("diff", "bundle/model.tflite", "broken.tflite", cwd=world)
    assert done.code == ParityGateError.exit_code
    assert "random numbers (seed 0) (not real data: give --data)" in done.out
    assert "give real inputs with --data" in done.err


def test_resnet8_of_keras_against_its_int8_tflite(data: Path, tmp_path: Path) -> None:
    from PIL import Image

    sprites = sorted((data / "cifar10").glob("train_*.webp"))[0]
    with Image.open(sprites) as image:
        x = np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)[:4]
    np.savez(tmp_path / "cifar.npz", x=x)
    keras, int8 = data / IC / "pretrainedResnet.h5", data / IC / "pretrainedResnet_quant.tflite"
    done = run_cli("diff", keras, int8, "--data", "cifar.npz", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    parts = found(done)
    assert (parts["limit"]["snr_db"], parts["samples"], parts["real"]) == (10, 4, True)
    assert parts["only_a"] == []
    assert [each["op"] for each in parts["only_b"]] in ([], ["RESHAPE"])
    operators = [row["op"].partition("+")[0] for row in parts["rows"]]
    assert (operators.count("CONV_2D"), operators.count("ADD"), operators[-1]) == (9, 3, "SOFTMAX")
    assert all(15 < row["snr_db"] < 50 for row in parts["rows"] if row["op"] != "INPUT")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["bundle", "missing.tflite"], ModelError, "there is no such file"),
        (["note.txt", "bundle"], ModelError, "not a model"),
        (["bundle", "cut.tflite"], ModelError, "truncated"),
        (["bundle", "broken.tflite", "--data", "missing.npz"], DataError, "there is no file missing.npz"),
        (["bundle", "broken.tflite", "--data", "other.npz"], DataError, "samples of shape [8, 8, 1]"),
        (["bundle", "RESNET"], ModelError, "the models take different inputs"),
        (["damaged", "bundle"], BundleError, "golden.npz is damaged"),
    ],
)
def test_bad_input_is_a_clear_error(
    world: Path, data: Path, arguments: list[str], kind: type[ModelError], message: str
) -> None:
    (world / "cut.tflite").write_bytes((world / "broken.tflite").read_bytes()[:9000])
    np.savez(world / "other.npz", x=np.zeros((4, 3, 3, 1), np.float32))
    shutil.copytree(world / "bundle", world / "damaged")
    (world / "damaged" / "golden.npz").write_bytes(b"PK")
    patch_sha256(world / "damaged", "golden.npz")
    resnet = str(data / IC / "pretrainedResnet_quant.tflite")
    done = run_cli("diff", *(resnet if a == "RESNET" else a for a in arguments), cwd=world)
    assert (done.code, "Traceback" in done.err) == (kind.exit_code, False), done.err
    assert message in done.err
    assert done.out == ""
