"""Whole networks with real inputs: built-in models as .tflite files, and the files that come with the data."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from PIL import Image

from edgecompile import catalog
from edgecompile.artifact import Artifact
from edgecompile.loaders.base import LoadOptions, save_keras
from edgecompile.recipe import load_recipe
from edgecompile.stages.base import Context
from edgecompile.stages.load import Load
from edgecompile.task import Split, Task
from edgecompile.tflite_file import read, tables_of, write_tables

Array = npt.NDArray[Any]

# {a .tflite below models/: whose inputs it takes}
FILES = {
    "detection/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite": "coco",
    "imagenet/tf2_mobilenet_v2_1.0_224_ptq.tflite": "mobilenet_v2",
    "mlperf_tiny/ad/ad01_fp32.tflite": "fc_autoencoder",
    "mlperf_tiny/ad/ad01_int8.tflite": "fc_autoencoder",
    "mlperf_tiny/ic/pretrainedResnet.tflite": "resnet8",
    "mlperf_tiny/ic/pretrainedResnet_quant.tflite": "resnet8",
    "mlperf_tiny/kws/kws_ref_model.tflite": "ds_cnn",
    "mlperf_tiny/kws/kws_ref_model_float32.tflite": "ds_cnn",
    "mlperf_tiny/sww/str_ww_ref_model.tflite": "sww",
    "mlperf_tiny/vww/vww_96_float.tflite": "mobilenet_v1_025_96",
    "mlperf_tiny/vww/vww_96_int8.tflite": "mobilenet_v1_025_96",
    "text/sst2_transformer_fp32.tflite": "sst2",
}
# Weights of the built-in models that come with the data; others are trained here, for a moment.
WEIGHTS = {
    "ds_cnn": "mlperf_tiny/kws/kws_ref_model",
    "fc_autoencoder": "mlperf_tiny/ad/ad01.h5",
    "mobilenet_v1_025_96": "mlperf_tiny/vww/vww_96.h5",
    "mobilenet_v2": "imagenet/mobilenet_v2_1.0_224_imagenet1001.h5",
    "resnet8": "mlperf_tiny/ic/pretrainedResnet.h5",
}


@lru_cache(maxsize=1)
def task(model: str, root: Path) -> Task:
    return catalog.get(model).task(root)


def real_inputs(of: str, root: Path, count: int = 100) -> Array:
    """[n, ...] of a built-in model's test set or of another data set, spread over it; `count` where it has so many."""
    if of == "sww":
        with np.load(root / "sww/calibration_samples.npz") as saved:
            found = saved["specs"].astype(np.float32)
    elif of == "sst2":
        with np.load(root / "text/sst2_tokens.npz") as saved:
            found = saved["x_dev872"].astype(np.int32)
    elif of == "coco":
        files = sorted((root / "coco64/images").glob("*.jpg"))
        found = np.stack([np.asarray(Image.open(file).convert("RGB").resize((300, 300))) for file in files])
    else:
        test = task(of, root).test
        assert test is not None
        (found,) = test.x.values()
    return found[np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]


def built_in(model: str, recipe: str, root: Path, folder: Path) -> Path:
    """The .tflite that a recipe makes of a built-in model."""
    given = task(model, root)
    if given.train is None:  # calibrated with what there is: it is no accuracy that is asked for
        assert given.test is not None
        given = dataclasses.replace(given, train=Split(given.test.take(slice(0, 64)).x))
    source = root / "models" / WEIGHTS[model] if model in WEIGHTS else _trained(model, given, folder)
    return _made(source, recipe, given, folder)


def random_weights(name: str, recipe: str, images: Array, folder: Path) -> Path:
    """The same of a network of keras.applications, whose BatchNorm keeps activations in a usual range of `images`."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    network = getattr(tf_keras.applications, name)(
        weights=None, input_shape=images.shape[1:], classes=10, classifier_activation=None
    )
    for layer in network.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(images[:16], training=True)
    save_keras(network, folder / "model.keras")
    return _made(folder / "model.keras", recipe, Task(name, "unlabeled", Split({"": images}), None, None, ""), folder)


def _made(source: Path, recipe: str, given: Task, folder: Path) -> Path:
    made: Artifact | None = None
    for number, stage in enumerate((Load(str(source), ""), *load_recipe(recipe).steps)):
        out = folder / f"{number}-{stage.name}"
        out.mkdir()
        outcome = stage.run(made, Context(out, out, given, "float", LoadOptions(), 0, None, None, lambda _: None))
        made = Artifact(outcome.kind, outcome.files, outcome.signature, (), outcome.meta)
    assert made is not None
    return made.model


def _trained(model: str, given: Task, folder: Path) -> Path:
    """A few hundred steps: enough for activations that are spread as a trained network's are."""
    import tf_keras

    assert given.train is not None
    assert given.train.y is not None
    tf_keras.utils.set_random_seed(0)
    network = catalog.get(model).build()
    network.compile(tf_keras.optimizers.Adam(2e-3), given.loss or "sparse_categorical_crossentropy")
    few = given.train.take(slice(0, 4000))
    assert few.y is not None
    network.fit(few.x[""], few.y[""], batch_size=32, epochs=3, verbose=0)
    save_keras(network, folder / "model.keras")
    return folder / "model.keras"


def widened(model: Path, out: Path) -> Path:
    """The same network with its weights as the floats they stand for: what TVM's code computes, of a file whose weights
    alone are quantized."""
    file = read(model)
    tables = tables_of(file)
    for tensor, table in zip(file.main.tensors, tables.subgraphs[0].tensors, strict=True):
        if tensor.is_constant and tensor.dtype == "int8":
            quantization = tensor.quantization
            assert quantization is not None
            shape = [1] * len(tensor.shape)
            if quantization.per_channel:
                shape[quantization.dimension] = len(quantization.scales)
            wide = file.data(tensor).astype(np.float32) * np.array(quantization.scales, np.float32).reshape(shape)
            table.type, table.quantization = schema.TensorType.FLOAT32, None
            tables.buffers[table.buffer].data = np.frombuffer(wide.tobytes(), np.uint8)
    return write_tables(tables, out)
