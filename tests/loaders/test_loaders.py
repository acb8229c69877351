"""Loading: the format is found by content, damaged and unsafe files are refused, real models run."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from edgecompile import bridge, loaders
from edgecompile.errors import (
    DataError,
    ModelError,
    NonFiniteError,
    UnsafeModelError,
    UnsupportedLayerError,
)
from edgecompile.loaders import LoadOptions
from edgecompile.loaders.base import static_shapes, unique_names

PLAIN = LoadOptions()
FORMATS = {"keras3": ".keras", "keras3_h5": ".h5", "keras": ".keras", "keras_h5": ".h5", "saved_model": "",
           "tflite": ".tflite"}  # fmt: skip


def two_inputs(library: Any, layer: Callable[[], Any] | None = None) -> Any:
    k = library.layers
    a, b = library.Input((4,), name="b_in"), library.Input((4,), name="a")
    h = k.Add(name="sum")([k.Dense(4, name="fc")(a), b])
    h = h if layer is None else layer()(h)
    return library.Model([a, b], [k.Dense(2, name="out")(h), k.ReLU(name="act")(h)], name="net")


def write(name: str, folder: Path, layer: Callable[[Any], Any] | None = None) -> Path:
    """A small model in the given format."""
    library = keras if name.startswith("keras3") else tf_keras
    model = two_inputs(library, None if layer is None else lambda: layer(library))
    path = folder / f"model{FORMATS[name]}"
    if name == "tflite":
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    else:
        model.save(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(name, tmp_path_factory.mktemp(name)) for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_sniff_goes_by_content(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "misleading.bin"
    (shutil.copytree if files[name].is_dir() else shutil.copyfile)(files[name], copy)
    assert loaders.sniff(copy) == name.removesuffix("_h5")
    source = loaders.load(copy, PLAIN)
    assert source.signature.inputs


@pytest.mark.parametrize("name", FORMATS)
def test_load_predict_and_signature(name: str, files: dict[str, Path]) -> None:
    source = loaders.load(files[name], PLAIN)
    assert source.kind == {"saved_model": "keras"}.get(name, name.removesuffix("_h5"))
    rng = np.random.default_rng(0)
    x = {i.name: rng.normal(size=(5, 4)).astype(np.float32) for i in source.signature.inputs}
    if name != "tflite":
        assert [i.name for i in source.signature.inputs] == ["b_in", "a"]
        assert [o.name for o in source.signature.outputs] == ["out", "act"]
        assert [o.shape for o in source.signature.outputs] == [(1, 2), (1, 4)]
    assert all(i.shape == (1, 4) and i.dtype == "float32" for i in source.signature.inputs)
    whole, parts = source.predict(x), source.predict(x, batch_size=2)
    assert list(whole) == [o.name for o in source.signature.outputs]
    for output in source.signature.outputs:
        assert whole[output.name].shape == (5, *output.shape[1:])
        np.testing.assert_allclose(whole[output.name], parts[output.name], atol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_save_round_trips(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    source = loaders.load(files[name], PLAIN)
    saved = source.save(tmp_path / "one")
    again = loaders.load(saved, PLAIN)
    assert (again.kind, again.signature) == (source.kind, source.signature)
    x = {i.name: np.ones((2, 4), np.float32) for i in source.signature.inputs}
    for output, value in source.predict(x).items():
        np.testing.assert_array_equal(again.predict(x)[output], value)
    if saved.suffix == ".keras":
        twin = loaders.load(files[name], PLAIN)
        assert twin.save(tmp_path / "two").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_damaged_files(name: str, damage: str, files: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / files[name].name if files[name].is_file() else tmp_path / "folder"
    (shutil.copytree if files[name].is_dir() else shutil.copyfile)(files[name], copy)
    victim = copy / "saved_model.pb" if copy.is_dir() else copy
    if damage == "missing":
        victim.unlink()
    else:
        content = victim.read_bytes()
        victim.write_bytes(content[: len(content) * 2 // 3] if damage == "truncated" else b"")
    with pytest.raises(ModelError) as caught:
        loaders.load(copy, PLAIN)
    assert str(copy) in caught.value.message


def test_truncated_variables_of_a_saved_model(files: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "folder"
    shutil.copytree(files["saved_model"], copy)
    data = copy / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:40])
    with pytest.raises(ModelError, match="can't be loaded"):
        loaders.load(copy, PLAIN)


def test_unknown_contents(tmp_path: Path) -> None:
    text = tmp_path / "model.keras"
    text.write_text("hello, world")
    with pytest.raises(ModelError, match=r"expected a \.keras"):
        loaders.sniff(text)
    with pytest.raises(ModelError, match=r"without saved_model\.pb"):
        loaders.sniff(tmp_path)
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("weights.bin", b"1")
    with pytest.raises(ModelError, match=r"config\.json and metadata\.json"):
        loaders.sniff(tmp_path / "x.keras")


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_weights_alone_are_no_model(library: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    two_inputs(library).save_weights(path)
    with pytest.raises(ModelError, match="weights only"):
        loaders.load(path, PLAIN)


@pytest.mark.parametrize("name", ["keras3", "keras3_h5", "keras", "keras_h5", "saved_model"])
def test_lambda_is_refused_before_it_runs(name: str, tmp_path: Path) -> None:
    path = write(name, tmp_path, lambda lib: lib.layers.Lambda(lambda t: t * 2, name="sly", output_shape=(4,)))
    with pytest.raises(UnsafeModelError, match="'sly'") as caught:
        loaders.load(path, PLAIN)
    assert "--allow-unsafe" in (caught.value.hint or "")
    source = loaders.load(path, LoadOptions(allow_unsafe=True))
    x = {i.name: np.ones((1, 4), np.float32) for i in source.signature.inputs}
    assert np.isfinite(source.predict(x)["out"]).all()


@pytest.mark.parametrize("name", ["keras3", "keras", "keras_h5", "saved_model"])
def test_lambda_in_a_nested_model_is_refused(name: str, tmp_path: Path) -> None:
    def nested(lib: Any) -> Any:
        inner = lib.Sequential([lib.Input((4,)), lib.layers.Lambda(lambda t: t + 1, name="deep", output_shape=(4,))])
        return lib.Sequential([lib.Input((4,)), inner], name="outer")

    with pytest.raises(UnsafeModelError, match="'deep'"):
        loaders.load(write(name, tmp_path, nested), PLAIN)


def test_marshalled_activation_is_refused(tmp_path: Path) -> None:
    path = write("keras", tmp_path, lambda lib: lib.layers.Dense(4, activation=lambda t: t, name="act_fn"))
    with pytest.raises(UnsafeModelError, match="'act_fn'"):
        loaders.load(path, PLAIN)


def test_file_operators_are_refused(tmp_path: Path) -> None:
    module = tf.Module()
    module.f = tf.function(lambda x: tf.strings.length(tf.io.read_file("/etc/hostname")) + x,
                           input_signature=[tf.TensorSpec((1,), tf.int32, name="x")])  # fmt: skip
    tf.saved_model.save(module, str(tmp_path / "sm"), signatures=module.f)
    with pytest.raises(UnsafeModelError, match="ReadFile"):
        loaders.load(tmp_path / "sm", PLAIN)
    x = tf_keras.Input((2,), name="x")
    tf_keras.Model(x, tf.math.sin(x)).save(tmp_path / "m.h5")
    assert loaders.load(tmp_path / "m.h5", PLAIN).signature.outputs[0].shape == (1, 2)
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace("math.sin", "io.read_file")
    with pytest.raises(UnsafeModelError, match=r"tf\.io\.read_file"):
        loaders.load(tmp_path / "m.h5", PLAIN)


MY_LAYERS = """
import keras, tf_keras
class Double3(keras.layers.Layer):
    def call(self, x):
        return x * 2
class Double2(tf_keras.layers.Layer):
    def call(self, x):
        return x * 2
"""


@pytest.mark.parametrize(("name", "cls"), [("keras3", "Double3"), ("keras", "Double2"), ("keras_h5", "Double2")])
def test_custom_layers(name: str, cls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_layers.py").write_text(MY_LAYERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import my_layers

    path = write(name, tmp_path, lambda _: getattr(my_layers, cls)(name="twice"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("my_layers")
    with pytest.raises(UnsupportedLayerError, match=rf"'twice' .*'{cls}'") as caught:
        loaders.load(path, PLAIN)
    assert f":{cls}" in (caught.value.hint or "")
    assert "my_layers" not in sys.modules
    source = loaders.load(path, LoadOptions(custom=(f"my_layers:{cls}",)))
    assert source.signature.outputs[0].shape == (1, 2)
    sys.modules.pop("my_layers")


@pytest.mark.parametrize(
    ("spec", "message"),
    [("nothing", "not of the form"), ("no_such_module:X", "can't be imported"), ("json:loadz", "has no 'loadz'")],
)
def test_bad_custom_specs(spec: str, message: str, files: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        loaders.load(files["keras"], LoadOptions(custom=(spec,)))
    assert caught.value.hint


@pytest.mark.parametrize("name", ["keras3", "keras", "keras_h5", "saved_model"])
def test_non_finite_weights_name_the_layer(name: str, tmp_path: Path) -> None:
    library = keras if name == "keras3" else tf_keras
    model = two_inputs(library)
    model.get_layer("fc").kernel.assign(np.full((4, 4), np.inf))
    path = tmp_path / f"m{FORMATS[name]}"
    model.save(path)
    with pytest.raises(NonFiniteError, match="'fc'" if name != "saved_model" else "layer_with_weights-0/kernel"):
        loaders.load(path, PLAIN)


@pytest.mark.parametrize("name", ["keras3", "keras", "saved_model", "tflite"])
def test_input_shape(name: str, tmp_path: Path) -> None:
    library = keras if name == "keras3" else tf_keras
    x = library.Input((None, None, 3), name="image")
    model = library.Model(x, library.layers.Conv2D(2, 3, name="conv")(x))
    path = tmp_path / f"m{FORMATS[name]}"
    if name == "tflite":
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    else:
        model.save(path)
    with pytest.raises(DataError, match="'image'") as caught:
        loaders.load(path, PLAIN)
    assert "--input-shape image=1,?,?,3" in (caught.value.hint or "")
    source = loaders.load(path, LoadOptions(input_shape=(("", (2, 8, 9, 3)),)))
    assert source.signature.inputs[0].shape == (2, 8, 9, 3)
    assert source.signature.outputs[0].shape == (2, 6, 7, 2)
    (out,) = source.predict({"image": np.zeros((3, 8, 9, 3), np.float32)}).values()
    assert out.shape == (3, 6, 7, 2)
    for shape in [("imagee", (1, 8, 8, 3)), ("image", (1, 8, 8, 4)), ("image", (8, 8, 3))]:
        with pytest.raises(ModelError, match="--input-shape"):
            loaders.load(path, LoadOptions(input_shape=(shape,)))


def test_subclassed_models_are_sent_to_saved_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import tf_keras\nclass Net(tf_keras.Model):\n    def call(self, x):\n        return x * 2\n"
    (tmp_path / "my_net.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import my_net

    model = my_net.Net()
    model(np.ones((1, 3), np.float32))
    model.save(tmp_path / "net.keras")
    with pytest.raises(ModelError, match="subclassed"):
        loaders.load(tmp_path / "net.keras", LoadOptions(custom=("my_net:Net",)))
    model.export(tmp_path / "net")
    source = loaders.load(tmp_path / "net", PLAIN)
    assert source.kind == "saved_model"
    assert "can't be trained" in source.notes[0]
    (out,) = source.predict({source.signature.inputs[0].name: np.ones((3, 3), np.float32)}).values()
    np.testing.assert_array_equal(out, np.full((3, 3), 2, np.float32))


def test_saved_model_with_static_batch_runs_one_by_one(tmp_path: Path) -> None:
    module = tf.Module()
    spec = [tf.TensorSpec((1, 3), tf.float32, name="x")]
    module.f = tf.function(lambda x: {f"y{i}": x + float(i) for i in (2, 10)}, input_signature=spec)
    tf.saved_model.save(module, str(tmp_path / "sm"), signatures=module.f)
    source = loaders.load(tmp_path / "sm", PLAIN)
    assert [o.name for o in source.signature.outputs] == ["y2", "y10"]
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(source.predict({"x": x})["y10"], x + 10)
    with pytest.raises(DataError, match="expects inputs"):
        source.predict({"z": x})


def test_names() -> None:
    assert unique_names(["a/b", "a b", "a b", "_x"]) == ["a_b", "a_b_1", "a_b_2", "x_x"]
    assert static_shapes([("a", (None, 3)), ("b", (2, 2))], PLAIN) == [(1, 3), (2, 2)]


def test_config_that_is_no_json(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(files["keras"]) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"{" if name == "config.json" else source.read(name))
    with pytest.raises(ModelError, match="not valid JSON"):
        loaders.load(path, PLAIN)
    shutil.copyfile(files["keras_h5"], path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][2]["config"]["units"] = -4
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ModelError, match="can't be loaded"):
        loaders.load(path, PLAIN)


# Real models on real data.


def images(data: Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    sprite = sorted((data / "cifar10").glob("test_*.webp"))[0]
    x = np.asarray(Image.open(sprite).convert("RGB")).reshape(-1, 32, 32, 3)[:n]
    labels = np.loadtxt(data / "cifar10" / "test_labels.csv", delimiter=",", skiprows=1, usecols=1, dtype=int)[:n]
    return x, labels


def test_resnet8(data: Path, tmp_path: Path) -> None:
    x, y = images(data, 200)
    source = loaders.load(data / "models/mlperf_tiny/ic/pretrainedResnet.h5", PLAIN)
    assert (source.kind, source.signature.inputs[0].shape) == ("keras", (1, 32, 32, 3))
    name = source.signature.inputs[0].name
    (probabilities,) = source.predict({name: x}).values()
    assert np.mean(probabilities.argmax(1) == y) > 0.8
    again = loaders.load(source.save(tmp_path / "resnet"), PLAIN)
    np.testing.assert_array_equal(next(iter(again.predict({name: x}).values())), probabilities)
    assert bridge.flatten(source.model) is source.model


def test_resnet8_int8_tflite(data: Path) -> None:
    x, y = images(data, 100)
    source = loaders.load(data / "models/mlperf_tiny/ic/pretrainedResnet_quant.tflite", PLAIN)
    (spec,), (out,) = source.signature.inputs, source.signature.outputs
    assert (source.kind, spec.dtype, out.dtype) == ("tflite", "int8", "int8")
    (probabilities,) = source.predict({spec.name: x}).values()
    assert probabilities.dtype == np.float32
    assert np.mean(probabilities.argmax(1) == y) > 0.8
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=0.05)
    raw = np.clip(np.round(x / spec.scale) + spec.zero_point, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(source.predict({spec.name: raw})[out.name], probabilities)


def test_keyword_spotting_saved_model(data: Path) -> None:
    source = loaders.load(data / "models/mlperf_tiny/kws/kws_ref_model", PLAIN)
    assert source.kind == "keras"
    with np.load(data / "kws" / "kws01_mlperf1000.npz") as file:
        x, y = file["mfcc"][:300], file["y"][:300]
    (scores,) = source.predict({source.signature.inputs[0].name: x.reshape(-1, 49, 10, 1)}).values()
    assert np.mean(scores.argmax(1) == y) > 0.85


def test_transformer_of_the_real_world(data: Path, tmp_path: Path) -> None:
    source = loaders.load(data / "models/text/sst2_transformer.h5", PLAIN)
    assert source.signature.inputs[0].dtype in ("int32", "float32")
    with np.load(data / "text" / "sst2_tokens.npz") as file:
        x = file["x_dev872"][:32]
    name = source.signature.inputs[0].name
    (scores,) = source.predict({name: x}).values()
    again = loaders.load(source.save(tmp_path / "sst2"), PLAIN)
    np.testing.assert_array_equal(next(iter(again.predict({name: x}).values())), scores)


def test_a_tflite_whose_output_has_no_size_before_it_runs(data: Path) -> None:
    """Shapes inside of the transformer are computed by operators; its inputs are indices of words."""
    source = loaders.load(data / "models/text/sst2_transformer_fp32.tflite", PLAIN)
    assert [t.shape for t in source.signature.outputs] == [(1, 2)]


def test_what_tensorflow_fuses_and_has_no_kernel_for(tmp_path: Path) -> None:
    """A convolution without bias, BatchNorm, tanh: "Fusion is not implemented", says TensorFlow 2.21."""
    import tf_keras

    layers = tf_keras.layers
    image = tf_keras.Input((8, 8, 1), name="image")
    h = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(image))
    model = tf_keras.Model(image, layers.Dense(2)(layers.Flatten()(layers.Activation("tanh")(h))))
    model.save(tmp_path / "tanh.h5")
    x = np.random.default_rng(0).random((300, 8, 8, 1), np.float32)  # a second batch is traced anew
    source = loaders.load(tmp_path / "tanh.h5", PLAIN)
    (found,) = source.predict({"image": x}).values()
    np.testing.assert_allclose(found, model(x, training=False).numpy(), atol=1e-6)
