"""Parity on outputs of every kind: what is allowed, as a share of the range, and that one changed weight is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.networks import real_inputs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgecompile import compare, parity
from edgecompile.backends.litert import BUILTIN, XNNPACK, LiteRtRunner, named_kernels, reference_kernels
from edgecompile.compare import Parity
from edgecompile.task import Array, Arrays
from edgecompile.tflite_file import read, tables_of, write_tables

SSD = "models/detection/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite"
SIZE, SAMPLES = 24, 16
NAMES = ("class map", "key points", "regressor", "sum")


@dataclass(frozen=True)
class Judge:
    """A model, its inputs, and what LiteRT's kernels make of them."""

    path: Path
    inputs: Arrays
    reference: Arrays
    known: Arrays
    builtin: Arrays

    def __call__(self, given: Arrays) -> dict[str, Parity]:
        of = parity.outputs_of(read(self.path))
        return parity.verdicts(given, self.reference, self.known, of, builtin=self.builtin)

    def run(self, path: Path, kernels: str = XNNPACK) -> Arrays:
        return LiteRtRunner(path, kernels).run(self.inputs)


def judge(path: Path, inputs: Arrays) -> Judge:
    kernels = reference_kernels(read(path)), XNNPACK, BUILTIN
    return Judge(path, inputs, *(LiteRtRunner(path, of).run(inputs) for of in kernels))


def pictures() -> tuple[Array, Array, Array]:
    """float32 [512, 24, 24, 1] with a disc or a spot at a place (row, column) each; the places, and which it is."""
    rng = np.random.default_rng(0)
    places, kinds = rng.integers(4, SIZE - 4, (512, 2)), rng.integers(0, 2, 512)
    distance = distances(places)
    drawn = np.where(kinds[:, None, None] == 1, np.exp(-distance / 8), distance < 14)
    return (drawn[..., None] + rng.normal(0, 0.1, (512, SIZE, SIZE, 1))).astype(np.float32), places, kinds


def distances(places: Array) -> Array:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    found: Array = (rows - places[:, 0, None, None]) ** 2 + (columns - places[:, 1, None, None]) ** 2
    return found


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judge]:
    """Small int8 networks, trained for a few steps: what comes out is far from noise."""
    import tensorflow as tf
    import tf_keras

    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(0)
    x, places, kinds = pictures()
    disc = distances(places) < 14

    def made(name: str, head: Callable[[Any], Any], after: Callable[[Any], Any], loss: Any, labels: Array) -> Judge:
        image = layers.Input((SIZE, SIZE, 1), name="image")
        z = image
        for _ in range(2):
            z = layers.Conv2D(8, 3, padding="same", activation="relu")(z)
        trained = tf_keras.Model(image, head(z))
        trained.compile("adam", loss)
        trained.fit(x, labels, epochs=8, verbose=0)
        converter = tf.lite.TFLiteConverter.from_keras_model(
            tf_keras.Model(image, layers.Lambda(after, name="out")(trained.output))
        )
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample[None]] for sample in x[:64])
        path = tmp_path_factory.mktemp("parity") / f"{name}.tflite"
        path.write_bytes(converter.convert())
        return judge(path, {read(path).signature.inputs[0].name: x[:SAMPLES]})

    def place(heat: Any) -> Any:
        at = tf.argmax(tf.reshape(heat, [-1, SIZE * SIZE]), -1, output_type=tf.int32)
        return tf.cast(tf.stack([at // SIZE, at % SIZE], -1), tf.float32) / float(SIZE)

    classes = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    heat = np.exp(-distances(places) / 6)[..., None].astype(np.float32)
    return {
        "class map": made(
            "class map",
            layers.Conv2D(3, 1),
            lambda z: tf.argmax(z, -1, output_type=tf.int32),
            classes,
            np.where(disc, 1 + kinds[:, None, None], 0),
        ),
        "key points": made("key points", layers.Conv2D(1, 1), place, "mse", heat),
        "regressor": made(
            "regressor",
            lambda z: layers.Dense(2)(layers.Flatten()(layers.MaxPool2D(4)(z))),
            lambda z: z,
            "mse",
            (places / SIZE).astype(np.float32),
        ),
        "sum": made(
            "sum",
            lambda z: layers.Dense(2)(layers.Lambda(lambda t: tf.reduce_sum(t, [1, 2]) / 1000)(z)),
            tf.nn.softmax,
            classes,
            kinds,
        ),
    }


def with_one_weight_changed(path: Path, out: Path) -> Path:
    """The largest weight of the first convolution, with its sign turned (about the zero point)."""
    model = read(path)
    weights = next(op.inputs[1] for op in model.main.operators if "CONV" in op.name)
    tables, tensor = tables_of(model), model.main.tensors[weights]
    assert tensor.quantization is not None
    zero = int(tensor.quantization.zero_points[0])
    kind = np.dtype(tensor.dtype)
    values = np.asarray(tables.buffers[tensor.buffer].data).view(kind).astype(int)
    largest = np.abs(values - zero).argmax()
    info = np.iinfo(kind)
    values[largest] = np.clip(2 * zero - values[largest], info.min, info.max)
    tables.buffers[tensor.buffer].data = values.astype(kind).view(np.uint8)
    return write_tables(tables, out)


@pytest.mark.parametrize("name", NAMES)
def test_litert_agrees_with_itself_and_one_changed_weight_is_caught(
    networks: dict[str, Judge], tmp_path: Path, name: str
) -> None:
    network = networks[name]
    for kernels in (XNNPACK, BUILTIN):
        assert all(verdict.passed for verdict in network(network.run(network.path, kernels)).values()), kernels
    wrong = network(network.run(with_one_weight_changed(network.path, tmp_path / "wrong.tflite")))
    assert not any(verdict.passed for verdict in wrong.values())
    for verdict in wrong.values():
        assert verdict.tolerance <= 0.02 * verdict.range
        assert verdict.allowed_beyond <= 0.01 * verdict.size


def test_steps_inside_a_network_of_dense_layers_fail_neither_of_the_own_kernels(tmp_path: Path) -> None:
    """The reference kernels round FULLY_CONNECTED otherwise, now and then by a step; a sigmoid makes it more."""
    import tensorflow as tf
    import tf_keras

    layers, steps = tf_keras.layers, []
    for seed in range(4):
        tf_keras.utils.set_random_seed(seed)
        x = np.random.default_rng(seed).normal(size=(64, 12)).astype(np.float32)
        hidden = [layers.Dense(48, activation="relu", kernel_initializer="he_normal") for _ in range(3)]
        steep = layers.Dense(2, activation="sigmoid", kernel_initializer=tf_keras.initializers.RandomNormal(0, 0.6))
        model = tf_keras.Sequential([layers.Input((12,)), *hidden, steep])
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda x=x: ([sample[None]] for sample in x)
        path = tmp_path / f"dense{seed}.tflite"
        path.write_bytes(converter.convert())
        (name,) = (spec.name for spec in read(path).signature.inputs)
        network = judge(path, {name: x})
        for kernels in (XNNPACK, BUILTIN):
            assert all(verdict.passed for verdict in network(network.run(path, kernels)).values()), kernels
        (output,) = network.reference
        apart = np.abs(network.builtin[output] - network.reference[output]).max()
        steps.append(apart / parity.outputs_of(read(path)).steps[output])
        wrong = {output: network.reference[output] + np.float32(0.05)}
        assert not network(wrong)[output].passed
    assert max(steps) > 1.5  # a step at the end alone would have been allowed anyway


def test_a_sum_of_integers_is_judged_by_the_default_kernels(networks: dict[str, Judge]) -> None:
    """The reference kernels add int8 up wrongly."""
    assert named_kernels(read(networks["sum"].path)).startswith("LiteRT's default kernels")


def test_a_detector_with_one_changed_weight_is_caught(data: Path, tmp_path: Path) -> None:
    network = judge(data / SSD, {"normalized_input_image_tensor": real_inputs("coco", data, 4)})
    assert all(verdict.passed for verdict in network(network.run(network.path, BUILTIN)).values())
    wrong = network(network.run(with_one_weight_changed(network.path, tmp_path / "wrong.tflite")))
    assert not all(verdict.passed for verdict in wrong.values())
    assert all(verdict.tolerance < compare.JUMP * verdict.range for verdict in wrong.values() if verdict.passed)


_VALUES = hnp.arrays(np.float32, (4, 6), elements=st.floats(-100, 100, width=32))


@given(_VALUES, _VALUES)
def test_no_tolerance_reaches_the_range(reference: Array, xnnpack: Array) -> None:
    allowed = compare.allowance(reference, xnnpack, None)
    full = compare.parity(reference, reference, reference, None).range
    assert allowed.tolerance <= compare.JUMP * full
    assert allowed.beyond <= reference.size / 4
    whole = np.clip(reference, -100, 100).astype(np.int8), np.clip(xnnpack, -100, 100).astype(np.int8)
    assert compare.allowance(*whole, 0.5).tolerance <= compare.JUMP * 255 * 0.5
    assert compare.allowance(*(a.astype(np.int32) for a in whole), None).tolerance == 0


def test_a_point_that_jumps_in_xnnpack_may_jump_elsewhere_and_no_more() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 0.9, (16, 17, 2)).astype(np.float32)
    xnnpack, engine, wrong = points.copy(), points.copy(), points.copy()
    xnnpack[3, 5] = (points[3, 5] + 0.45) % 0.9
    engine[7, 2] = (points[7, 2] + 0.45) % 0.9
    wrong[:, 2] = (points[:, 2] + 0.45) % 0.9
    verdict = compare.parity(engine, points, xnnpack, None)
    assert verdict.passed
    assert (verdict.beyond, verdict.allowed_beyond) == (2, 2)
    assert verdict.tolerance == pytest.approx(compare.JUMP * verdict.range)
    assert not compare.parity(wrong, points, xnnpack, None).passed


def test_one_step_of_rounding_is_allowed_where_xnnpack_makes_none() -> None:
    reference = np.arange(-40, 40, dtype=np.int8).reshape(8, 10)
    one_off = reference.copy()
    one_off[2, 3] += 1
    tenth = np.float32(0.1)
    for given_, of, scale in ((one_off, reference, 0.1), (one_off * tenth, reference * tenth, None)):
        assert compare.parity(given_, of, of, scale, step=0.1).passed
        assert not compare.parity(given_, of, of, scale).passed
    two_off = reference + 2 * (one_off - reference)
    assert not compare.parity(two_off.astype(np.int8), reference, reference, 0.1, step=0.1).passed
