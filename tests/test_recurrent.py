"""Recurrent layers of both Keras and of .tflite files: each form of conversion and each scheme against Keras itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recurrence import (
    DYNAMIC,
    FEATURES,
    FUSED_LSTM,
    GRAPHS,
    INT8,
    INT16,
    STEPS,
    UNITS,
    as_tflite,
    build,
    context,
    fused_lstm,
    samples,
    written,
)
from running import run_cli

from edgecompile import loaders, recurrent, tflite_file
from edgecompile.backends.litert import REFERENCE, XNNPACK, LiteRtRunner
from edgecompile.errors import RecipeError
from edgecompile.loaders.base import LoadOptions
from edgecompile.recurrent import FUSED, ROLLED, UNROLLED
from edgecompile.stages.base import Context
from edgecompile.stages.convert import Convert
from edgecompile.stages.load import Load
from edgecompile.stages.quantize import Quantize


def far(model: Any, path: Path, x: np.ndarray, kernels: str = XNNPACK) -> float:
    """The largest distance from Keras's outputs, as a share of their range."""
    expected = np.asarray(model(x))
    received = next(iter(LiteRtRunner(path, kernels).run_real({"signal": x}).values()))
    return float(np.max(np.abs(received - expected)) / np.ptp(expected))


def operators(path: Path) -> list[str]:
    return [operator.name for operator in tflite_file.read(path).main.operators]


@pytest.fixture(scope="module")
def framework(request: pytest.FixtureRequest) -> Any:
    import importlib

    return importlib.import_module(request.param)


CASES = [("keras", name) for name in ("lstm", "gru", "rnn", "bidirectional", "stacked", "sequences", "backwards")]
CASES += [("tf_keras", name) for name in ("lstm", "gru", "rnn", "stacked", "masked")]


@pytest.mark.parametrize(("framework", "name"), CASES, indirect=["framework"])
def test_every_scheme_computes_what_keras_does(framework: Any, name: str, tmp_path: Path) -> None:
    model = build(framework, GRAPHS[name])
    outcome = Convert().run(written(framework, model, tmp_path), context(tmp_path / "float"))
    assert any("recurrent layers unrolled: " in note and f"{STEPS} steps" in note for note in outcome.notes)
    converted, x = as_tflite(outcome), samples(20)
    assert far(model, converted.model, x) < 1e-5
    for scheme, io, allowed in ((DYNAMIC, "float", 0.03), (INT8, "int8", 0.06)):
        done = Quantize(scheme).run(converted, context(tmp_path / scheme, io))
        if scheme == INT8 and name != "masked":  # there, what counts the masked steps stays in float
            left = [note.partition(" #")[0] for note in done.notes]
            assert left == (["operators left in float: REVERSE_V2"] if name == "sequences" else [])
        quantized = done.files["model"]
        assert far(model, quantized, x) < allowed, scheme
        assert far(model, quantized, x, REFERENCE) < allowed, scheme


@pytest.mark.parametrize("framework", ["keras", "tf_keras"], indirect=True)
@pytest.mark.parametrize("form", [ROLLED, FUSED])
def test_loops_and_fused_operators_are_quantized_around(framework: Any, form: str, tmp_path: Path) -> None:
    model = build(framework, GRAPHS["lstm"])
    outcome = Convert(recurrent=form).run(written(framework, model, tmp_path), context(tmp_path / "float"))
    converted, x = as_tflite(outcome), samples(20)
    fused = form == FUSED and framework.__name__ == "tf_keras"  # Keras 3 has none: it takes what is next
    expected = FUSED if fused else ROLLED if form == ROLLED else UNROLLED
    assert any(f"recurrent layers {expected}" in note for note in outcome.notes)
    assert (FUSED_LSTM in operators(converted.model)) == fused
    assert ("WHILE" in operators(converted.model)) == (expected == ROLLED)
    assert far(model, converted.model, x) < 1e-5
    for scheme, io, allowed in ((DYNAMIC, "float", 0.03), (INT8, "int8", 0.06), (INT16, "float", 0.03)):
        quantized = Quantize(scheme).run(converted, context(tmp_path / scheme, io))
        assert far(model, quantized.files["model"], x) < allowed, scheme
        if expected == ROLLED and scheme != DYNAMIC:
            assert any("int8 weights in FULLY_CONNECTED" in note for note in quantized.notes)
            graphs = tflite_file.read(quantized.files["model"]).subgraphs
            weights = [g.tensors[op.inputs[1]] for g in graphs for op in g.operators if op.name == "FULLY_CONNECTED"]
            assert {tensor.dtype for tensor in weights} == {"int8"}


@pytest.mark.parametrize("framework", ["keras", "tf_keras"], indirect=True)
def test_many_steps_are_a_loop(framework: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "MOST_STEPS", 5)
    model = build(framework, lambda L, x: L.GRU(UNITS, name="memory")(x), steps=None)
    for steps, form in ((5, UNROLLED), (6, ROLLED)):
        options = LoadOptions(input_shape=(("signal", (1, steps, FEATURES)),))
        folder = tmp_path / form
        ctx = Context(folder, folder, None, "float", options, 0, None, None, lambda _: None)
        folder.mkdir()
        outcome = Convert().run(written(framework, model, folder, options), ctx)
        assert outcome.notes == (f"recurrent layers {form}: memory ({steps} steps)",)
        assert ("WHILE" in operators(outcome.files["model"])) == (form == ROLLED)
        assert far(model, outcome.files["model"], samples(4, steps)) < 1e-5


def test_a_form_is_one_that_there_is() -> None:
    with pytest.raises(RecipeError, match="recurrent is 'flat', expected 'unrolled' or 'rolled' or 'fused'"):
        Convert(recurrent="flat")


def test_the_model_itself_is_left_as_it_was() -> None:
    import tf_keras

    model = build(tf_keras, GRAPHS["lstm"])
    (layer,) = recurrent.recurrent_layers(model)
    before = dict(vars(layer))
    assert recurrent.count_steps([layer], lambda: model(samples(1))) == {layer.name: STEPS}
    with recurrent.converted_as(UNROLLED, [layer]):
        assert layer.unroll
    assert vars(layer) == before


@pytest.mark.parametrize("framework", ["keras", "tf_keras"], indirect=True)
def test_a_stateful_layer_begins_each_sample_anew(framework: Any, tmp_path: Path) -> None:
    layers = framework.layers
    model = build(framework, lambda L, x: L.LSTM(UNITS, name="memory")(x))
    x = framework.Input(**{"batch_shape": (1, STEPS, FEATURES)}, name="signal")
    stateful = framework.Model(x, layers.Dense(3, name="scores")(layers.LSTM(UNITS, stateful=True, name="memory")(x)))
    for name in ("memory", "scores"):
        stateful.get_layer(name).set_weights(model.get_layer(name).get_weights())
    artifact = written(framework, stateful, tmp_path)
    source = loaders.load(artifact.model, LoadOptions())
    assert source.notes == ("stateful layers begin each sample anew: memory",)
    expected = np.asarray(model(samples(8)))
    np.testing.assert_allclose(source.predict({"signal": samples(8)})["scores"], expected, atol=1e-5)
    converted = Convert().run(artifact, context(tmp_path / "float")).files["model"]
    assert far(model, converted, samples(8)) < 1e-5


FRAGILE = '''
import inspect, os, signal
import keras

class Fragile(keras.layers.LSTM):
    """Dies when it is converted unrolled, as native code would."""
    def call(self, sequences, initial_state=None, mask=None, training=False):
        if self.unroll and any(frame.function == "convert" for frame in inspect.stack()):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().call(sequences, initial_state, mask, training)
'''


def test_another_form_survives_a_converter_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    import keras

    (tmp_path / "fragile.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(tmp_path)
    fragile = importlib.import_module("fragile")
    build(keras, lambda _, x: fragile.Fragile(UNITS, name="memory")(x)).save(tmp_path / "fragile.keras")
    asked = ("build", "fragile.keras", "--recipe", "dynamic", "--custom", "fragile:Fragile", "--backends", "litert")
    cache = {"EDGECOMPILE_CACHE": str(tmp_path / "cache")}
    for _ in range(2):  # the second time from the cache
        done = run_cli(*asked, "--out", "out", cwd=tmp_path, env=cache)
        assert done.code == 0, done.err
        assert "recurrent layers rolled: memory (4 steps), not unrolled: the converter died" in done.err
    assert "WHILE" in operators(tmp_path / "out/model.tflite")


def test_recurrent_kernels_in_wrappers_are_pruned() -> None:
    import tf_keras

    from edgecompile.pruning.kernels import find_kernels
    from edgecompile.pruning.masks import ELEMENT

    model = build(tf_keras, GRAPHS["sequences"])
    kernels, left = find_kernels(model, ELEMENT)
    assert not left
    found = {(kernel.layer.rstrip("_0123456789"), tuple(kernel.variable.shape)) for kernel in kernels}
    assert {shape for layer, shape in found if layer == "bidirectional"} == {(FEATURES, 3 * UNITS), (UNITS, 3 * UNITS)}
    assert len([kernel for kernel in kernels if kernel.layer.startswith("bidirectional")]) == 4
    assert {shape for layer, shape in found if layer == "time_distributed"} == {(2 * UNITS, 4)}


# State


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """(a tf-keras LSTM, its .tflite with the fused operator)"""
    return fused_lstm(tmp_path_factory.mktemp("fused"))


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .tflite with a variable to which each run adds its input: y = the sum of all x so far."""
    import tensorflow as tf

    module = tf.Module()
    module.total = tf.Variable(tf.zeros((1, FEATURES)))

    def add(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": module.total.assign_add(x) * 1.0}

    module.add = tf.function(add)
    concrete = module.add.get_concrete_function(tf.TensorSpec((1, FEATURES), tf.float32, name="x"))
    path = tmp_path_factory.mktemp("counter") / "counter.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert())
    return path


def test_a_fused_lstm_forgets_between_samples(fused: tuple[Any, Path], tmp_path: Path) -> None:
    model, path = fused
    x = samples(12)
    assert tflite_file.state_of(tflite_file.read(path)) == "variable tensors"
    expected = np.asarray(model(x))
    for kernels in (XNNPACK, REFERENCE):
        assert far(model, path, x, kernels) < 1e-5
    np.testing.assert_allclose(loaders.load(path, LoadOptions()).predict({"signal": x})["scores"], expected, atol=1e-5)
    np.testing.assert_allclose(on_runner(path, {"signal": x}, tmp_path)["scores"], expected, atol=1e-5)


def test_a_variable_is_as_new_for_each_sample(counter: Path, tmp_path: Path) -> None:
    x = np.arange(4 * FEATURES, dtype=np.float32).reshape(4, FEATURES)
    assert tflite_file.state_of(tflite_file.read(counter)) == "resource variables"
    for kernels in (XNNPACK, REFERENCE):
        runner = LiteRtRunner(counter, kernels)
        for _ in range(2):
            np.testing.assert_array_equal(runner.run({"x": x})["y"], x)
    np.testing.assert_array_equal(loaders.load(counter, LoadOptions()).predict({"x": x})["y"], x)
    np.testing.assert_array_equal(on_runner(counter, {"x": x}, tmp_path)["y"], x)


def on_runner(path: Path, arrays: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """Outputs by the runner that boards have."""
    from edgecompile.ondevice import runner

    runner.save_arrays(folder / "inputs.npz", arrays)
    candidate = {"id": "m", "model": str(path)}
    job = {"inputs": "inputs.npz", "outputs": "outputs.npz", "candidates": [candidate]}
    runner.run(job, folder, lambda *_, **__: None)
    return runner.load_inputs(folder / "outputs.npz")


def test_what_a_benchmark_hashes_does_not_depend_on_its_runs(
    fused: tuple[Any, Path], counter: Path, tmp_path: Path
) -> None:
    from edgecompile.ondevice import runner

    for path, arrays in ((fused[1], {"signal": samples(4)}), (counter, {"x": samples(4)[:, 0] + 1})):
        model = runner.load_model({"id": "m", "model": str(path)}, tmp_path, arrays)
        first = model.digest()
        for _ in range(3):
            model.feed(1)
            model.invoke()
        assert model.digest() == first


def test_calibration_begins_each_sample_anew(fused: tuple[Any, Path], tmp_path: Path) -> None:
    """Of the same sample over and over the ranges are those of one."""
    from edgecompile.quantization.calibration import MIN_MAX, calibrate

    model = tflite_file.read(fused[1])
    ctx = context(tmp_path)
    once, often = (calibrate(model, [{"signal": samples(1)}] * n, MIN_MAX, ctx) for n in (1, 5))
    assert once.keys() == often.keys()
    for name, found in once.items():
        np.testing.assert_array_equal(often[name]["max"], found["max"], err_msg=name)


def test_int8_of_a_fused_lstm_equals_a_fresh_interpreter(fused: tuple[Any, Path], tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from edgecompile.layerwise.report import compare

    loaded = Load(str(fused[1]), "").run(None, context(tmp_path / "load"))
    quantized = Quantize(INT8).run(as_tflite(loaded), context(tmp_path / "int8", "int8"))
    assert any(FUSED_LSTM in note for note in quantized.notes)
    path, x = quantized.files["model"], samples(6)
    received = LiteRtRunner(path).run({"signal": x})["scores"]
    for sample, scores in zip(x, received, strict=True):
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
        (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
        scale, zero = given["quantization"]
        integers = np.clip(np.round(sample.astype(np.float64) / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(given["index"], integers[None])
        interpreter.invoke()
        np.testing.assert_array_equal(interpreter.get_tensor(made["index"])[0], scores)
    np.testing.assert_array_equal(on_runner(path, {"signal": x}, tmp_path)["scores"], received)
    assert far(fused[0], path, x) < 0.06
    # Layer by layer, too: a state of earlier samples in one of the two would show.
    rows = compare(fused[1], path, {"signal": x}).rows
    (lstm,) = (row for row in rows if row.op.startswith(FUSED_LSTM))
    assert lstm.relative < 0.06
