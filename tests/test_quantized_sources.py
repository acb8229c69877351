"""A .tflite with integer inputs and outputs: real samples reach it as the integers they stand for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import DequantizeOptionsT
from backends.operators import OneOperator
from running import run_cli

from edgecompile import bench, loaders
from edgecompile.artifact import Signature, TensorInfo
from edgecompile.backends.litert import REFERENCE, LiteRtRunner
from edgecompile.errors import RecipeError
from edgecompile.loaders.base import LoadOptions
from edgecompile.stages.evaluate import golden_inputs
from edgecompile.task import Split, Task
from edgecompile.tflite_file import read
from edgecompile.verify import verify
from edgecompile.worker import Worker


def task(x: np.ndarray) -> Task:
    return Task("t", "unlabeled", Split({"": x}), None, None, "f")


@pytest.mark.parametrize(("dtype", "zero_point"), [("int8", -128), ("uint8", 0), ("int16", 0)])
def test_golden_inputs_are_quantized_not_cast(dtype: str, zero_point: int) -> None:
    spec = TensorInfo("x", (1, 5), dtype, 1 / 255, zero_point)
    x = np.linspace(0, 1, 40, dtype=np.float32).reshape(8, 5)
    golden = golden_inputs(task(x), Signature((spec,), ()), 0)["x"]
    assert golden.dtype == dtype
    assert len(np.unique(golden)) == 40
    np.testing.assert_allclose((golden.astype(float) - zero_point) / 255, x, atol=0.5 / 255)


def test_random_inputs_fill_the_range_of_a_quantized_input() -> None:
    quantized, plain = TensorInfo("q", (1, 50), "uint8", 1.0, 0), TensorInfo("p", (1, 50), "uint8")
    golden = golden_inputs(None, Signature((quantized, plain), ()), 0)
    assert len(np.unique(golden["q"])) > 100
    assert set(np.unique(golden["p"])) == {0, 1}  # indices: nothing else is known to be in bounds


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle built from an int8 .tflite with int8 inputs and outputs."""
    folder = tmp_path_factory.mktemp("quantized")
    del digits_bundle  # its stages are in the cache
    done = run_cli("build", "digits", "--recipe", "int8", "--io", "int8", "--target", "rpi4", "--out", "first",
                   cwd=folder)  # fmt: skip
    assert done.code == 0, done.err
    shutil.copyfile(folder / "first" / "model.tflite", folder / "model.tflite")
    done = run_cli("build", "model.tflite", "--data", "digits", "--recipe", "float", "--out", "bundle", cwd=folder)
    assert done.code == 0, done.err
    return folder / "bundle"


def test_by_itself_it_stays_as_it_is(bundle: Path) -> None:
    done = run_cli("build", "model.tflite", "--data", "digits", "--dry-run", "--json", cwd=bundle.parent)
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert (plan["recipe"], plan["reason"]) == ("float", "a quantized .tflite stays as it is")


@pytest.mark.parametrize("recipe", ["int8", "float16", "qat", "auto"])
def test_another_recipe_is_refused_before_any_work(bundle: Path, recipe: str) -> None:
    done = run_cli("build", "model.tflite", "--data", "digits", "--recipe", recipe, cwd=bundle.parent)
    assert done.code == RecipeError.exit_code
    assert f"Error: model.tflite is quantized already, recipe '{recipe}' takes a float model" in done.err
    assert "[1/" not in done.err


def test_integers_in_and_floats_out_stay_as_they_are(tmp_path: Path) -> None:
    """As detectors have them; nobody asked for a type."""
    model = OneOperator()
    model.tensor((1, 8), "uint8", [0.1], 3)
    model.tensor((1, 8), "float32")
    model.write("DEQUANTIZE", "DequantizeOptions", DequantizeOptionsT(), tmp_path / "m.tflite")
    done = run_cli("build", "m.tflite", "--recipe", "float", "--target", "rpi4", "--out", "made", cwd=tmp_path)
    assert done.code == 0, done.err
    made = read(tmp_path / "made/model.tflite").signature
    assert [spec.dtype for spec in (*made.inputs, *made.outputs)] == ["uint8", "float32"]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path / "worker.log")
    yield worker
    worker.close()


def test_golden_inputs_of_the_bundle_hold_the_data(bundle: Path) -> None:
    with np.load(bundle / "golden.npz") as golden:
        (name,) = (k for k in golden.files if k.startswith("inputs/"))
        stored = {k: golden[k] for k in golden.files}
    assert stored[name].dtype == np.int8
    assert len(np.unique(stored[name])) > 10
    inputs = {name.removeprefix("inputs/"): stored[name]}
    source = loaders.load(bundle / "model.tflite", LoadOptions())
    reference = LiteRtRunner(bundle / "model.tflite", REFERENCE)
    for output, array in source.predict(inputs).items():
        np.testing.assert_array_equal(array, stored[f"float/{output}"])
        assert np.mean(np.argmax(array, 1) == np.argmax(reference.run(inputs)[output], 1)) > 0.9
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert next(f["value"] for f in manifest["figures"] if (f["name"], f["of"]) == ("accuracy", "model")) > 0.9
    verified = next(r for r in manifest["history"] if r["stage"] == "verify")["metrics"]
    assert set(verified["distances"]) == {c["id"] for c in manifest["candidates"]}
    for distance in verified["distances"].values():
        assert distance.keys() == verified["distance"].keys()


def test_verify_takes_the_bundle(bundle: Path, worker: Worker) -> None:
    checks = verify(bundle, worker, report=lambda _: None).checks
    assert {c.name: c.passed for c in checks}["golden outputs"]
    assert not [c.text for c in checks if c.passed is False]


def test_bench_takes_the_bundle_with_a_float_one(bundle: Path, digits_bundle: Path, worker: Worker) -> None:
    options = bench.Options(runs=3, warmup=1)
    work = bench.prepare([bundle, digits_bundle], options, worker, report=lambda _: None)
    (group,) = bench.bench(work, options, report=lambda _: None)
    assert len(group.measurement.results) == 2
    assert group.inputs == f"golden inputs of {bundle}"
