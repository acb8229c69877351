"""What a configuration may name: Keras's own parts of models, wherever they stand; nothing else, by no other name."""

from __future__ import annotations

import json
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

from edgecompile import loaders
from edgecompile.errors import ModelError, UnsafeModelError, UnsupportedLayerError
from edgecompile.loaders import LoadOptions

PLAIN = LoadOptions()
Json = dict[str, Any]


def written(library: Any, folder: Path, name: str = "model.keras") -> Path:
    """A model with an activation and a layer "victim", for others to take their place."""
    k = library.layers
    x = library.Input((4,), name="x")
    path = folder / name
    library.Model(x, k.Dense(2, name="out")(k.Dense(4, activation="relu", name="victim")(x))).save(path)
    return path


def changed(path: Path, change: Callable[[Json], None]) -> Path:
    """The file with the configuration of "victim" changed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        config = json.loads(files["config.json"])
        change(_victim(config))
        files["config.json"] = json.dumps(config).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            change(_victim(config))
            file.attrs["model_config"] = json.dumps(config)
    return path


def _victim(config: Json) -> Json:
    return next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == "victim")


@pytest.fixture
def nothing_is_deserialized(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal has to come before Keras reads the file."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the file was given to Keras")

    monkeypatch.setattr(keras.saving, "load_model", fail)
    monkeypatch.setattr(tf_keras.models, "load_model", fail)


def activation(module: str, name: str, **more: Any) -> Callable[[Json], None]:
    function = {"module": module, "class_name": "function", "config": name, "registered_name": name, **more}
    return lambda layer: layer["config"].update(activation=function)


def named(module: str | None, name: str, registered: str | None = None) -> Callable[[Json], None]:
    return lambda layer: layer.update(module=module, class_name=name, registered_name=registered)


def initializer(module: str, name: str, **config: Any) -> Callable[[Json], None]:
    node = {"module": module, "class_name": name, "config": config, "registered_name": None}
    return lambda layer: layer["config"].update(kernel_initializer=node)


def typespec(layer: Json) -> None:
    node = {
        "class_name": "__typespec__",
        "spec_name": "PathLike",
        "module": "os",
        "config": [],
        "registered_name": None,
    }
    layer["config"]["kernel_initializer"] = node


HOSTILE: dict[str, tuple[Callable[[Json], None], str]] = {
    "system": (activation("os", "system"), "is no part of a model|which is not"),
    "builtin": (activation("builtins", "eval"), "which is not"),
    "download": (activation("keras.utils", "get_file"), "is no part of a model"),
    "loader": (activation("keras.models", "load_model"), "is no part of a model"),
    "private loader": (activation("keras.src.saving.saving_lib", "load_model"), "saving_lib"),
    "unpickling": (activation("pickle", "loads"), "is no part of a model|which is not"),
    "weights from the internet": (initializer("keras.applications", "ResNet50"), "is no part of a model"),
    "a callback that writes": (initializer("keras.callbacks", "ModelCheckpoint"), "is no part of a model"),
    "a dotted name": (initializer("keras", "utils.get_file"), "is no part of a model"),
    "another module": (named("my_module", "Dense"), "'Dense'"),
    "no class of it": (named("keras.src.layers.core.dense", "Densest"), "'Densest'"),
    "a function for a layer": (named("keras.utils", "get_file"), "is no part of a model"),
    "Lambda by its own module": (named("keras.src.layers.core.lambda_layer", "Lambda"), "carries a Python function"),
    "Lambda by a dotted name": (named("keras", "layers.Lambda"), "carries a Python function"),
    "Lambda of the other library": (named("tf_keras.layers", "Lambda"), "carries a Python function"),
    "unknown registered name": (named("elsewhere", "Mine", "pack>Mine"), "'Mine'"),
    "type spec": (typespec, "is no part of a model"),
    "a file to read": (
        lambda layer: layer.update(class_name="StringLookup", config={"name": "victim", "vocabulary": "/etc/hostname"}),
        "path of a file",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("nothing_is_deserialized")
@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize(("library", "name"), [(keras, "m.keras"), (keras, "m.h5"), (tf_keras, "m.keras")])
def test_what_is_no_part_of_a_model_is_refused(case: str, library: Any, name: str, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    path = changed(written(library, tmp_path, name), change)
    before = set(sys.modules)
    with pytest.raises((UnsafeModelError, UnsupportedLayerError, ModelError), match=message) as caught:
        loaders.load(path, PLAIN)
    assert "victim" in caught.value.message or "model" in caught.value.message
    assert caught.value.hint
    assert not [module for module in set(sys.modules) - before if not module.startswith(("keras", "tensorflow"))]


def test_an_alias_of_lambda_is_known_by_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["keras.src.layers.core.dense"]
    monkeypatch.setattr(module, "Harmless", type("Harmless", (keras.layers.Lambda,), {}), raising=False)
    path = changed(written(keras, tmp_path), named(module.__name__, "Harmless"))
    with pytest.raises(UnsafeModelError, match="carries a Python function"):
        loaders.load(path, PLAIN)


@pytest.mark.parametrize(
    "symbol",
    ["io.read_file", "compat.v1.gfile.Remove", "compat.v1.py_func", "keras.utils.get_file", "saved_model.load",
     "load_op_library", "raw_ops.ReadFile", "data.TFRecordDataset", "compat.v1.write_file", "rpc_client",
     "import_graph_def", "quantization.experimental.quantize_saved_model", "no_such_function"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["TFOpLambda", "SlicingOpLambda"])
def test_tensorflow_functions_that_do_more_than_compute(symbol: str, name: str, tmp_path: Path) -> None:
    x = tf_keras.Input((2,), name="x")
    tf_keras.Model(x, tf.math.sin(x)).save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        text = file.attrs["model_config"].replace("math.sin", symbol)
        file.attrs["model_config"] = text.replace("TFOpLambda", name)
    with pytest.raises(UnsafeModelError, match=f"calls tf.{symbol}"):
        loaders.load(tmp_path / "m.h5", PLAIN)


def test_a_wrapped_keras_3_operation_is_checked_too(tmp_path: Path) -> None:
    inner = json.dumps({"module": "keras.layers", "class_name": "Lambda", "config": {"name": "sly"}})
    node = {"class_name": "edgecompile>Keras3Layer", "config": {"name": "victim", "operation": inner, "call": "[]"}}
    with pytest.raises(UnsafeModelError, match="'sly'"):
        loaders.load(changed(written(tf_keras, tmp_path), lambda layer: layer.update(node)), PLAIN)


def ops_model(x: Any) -> Any:
    ops = keras.ops
    h = ops.where(x > 0, x, 0.1 * x)[:, ::2] * ops.cast(ops.not_equal(x[:, ::2], 0.0), "float32")
    h = ops.concatenate(ops.split(ops.einsum("bi,bj->bij", h, h), 2, axis=-1)[::-1], axis=-1)
    return keras.layers.Dense(2, activation=ops.relu6)(ops.pad(h, ((0, 0), (0, 1), (0, 0))))


GOOD: dict[str, Callable[[], Any]] = {
    "keras.ops": lambda: keras.Model(x := keras.Input((4,)), ops_model(x)),
    "a mask": lambda: keras.Sequential(
        [keras.Input((6,), dtype="int32"), keras.layers.Embedding(5, 8, mask_zero=True), keras.layers.GRU(3)]
    ),
    "layers of keras.applications": lambda: keras.Sequential(
        [keras.Input((4,)), keras.src.applications.convnext.LayerScale(0.1, 4)]
    ),
    "objects in layers": lambda: keras.Sequential([
        keras.Input((4,)),
        keras.layers.Dense(2, keras.activations.gelu, kernel_regularizer=keras.regularizers.L1L2(0.1, 0.1),
                           kernel_constraint=keras.constraints.MaxNorm(2), dtype=keras.DTypePolicy("float32"),
                           kernel_initializer=keras.initializers.Orthogonal(seed=1)),
        keras.layers.Activation(keras.layers.LeakyReLU(0.2)),
    ]),
    "functions of tf-keras and TensorFlow": lambda: tf_keras.Sequential([
        tf_keras.Input((4,)), tf_keras.layers.Dense(4, tf.nn.relu6, kernel_regularizer="l2"),
        tf_keras.layers.Dense(4, tf_keras.activations.swish), tf_keras.src.applications.convnext.LayerScale(0.1, 4),
    ]),
    "calls of TensorFlow": lambda: tf_keras.Model(
        x := tf_keras.Input((4,)),
        tf.concat([x[:, :2], tf.nn.softmax(tf.cast(x, tf.float32)), -x / 2 + 1, tf.compat.v1.transpose(tf.transpose(x)),
                   tf.image.resize(tf.reshape(x, (-1, 2, 2, 1)), (1, 1))[:, 0, 0], tf.where(x > 0, x, tf.exp(x)),
                   tf.one_hot(tf.argmax(x, 1), 3), tf.linalg.norm(x, axis=1, keepdims=True), tf.clip_by_value(x, 0, 1),
                   tf.stack(tf.unstack(x, axis=1), axis=1), tf.gather(x, [0, 1], axis=1), tf.pad(x, ((0, 0), (1, 0))),
                   tf.zeros_like(x), tf.broadcast_to(x, tf.shape(x))], 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_what_is_kerass_own_loads(case: str, suffix: str, tmp_path: Path) -> None:
    model = GOOD[case]()
    path = tmp_path / f"m{suffix}"
    model.save(path)
    if (case, suffix) == ("keras.ops", ".h5"):  # Keras itself can't load it: the file says no module
        with pytest.raises(UnsupportedLayerError) as caught:
            loaders.load(path, PLAIN)
        assert ".keras file" in (caught.value.hint or "")
        return
    source = loaders.load(path, PLAIN)
    (spec,) = source.signature.inputs
    x = np.random.default_rng(0).integers(0, 4, (3, *spec.shape[1:])).astype(spec.dtype)
    (received,) = source.predict({spec.name: x}).values()
    np.testing.assert_allclose(received, np.asarray(model(x)), atol=1e-6)
