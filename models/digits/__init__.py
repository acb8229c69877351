"""A small residual CNN on scikit-learn's handwritten digits: real data that needs no download."""

from __future__ import annotations

import importlib.util
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import catalog, metrics
from edgecompile.errors import MissingDependencyError
from edgecompile.task import CLASSIFICATION, Split, Task

SUMMARY = "8x8 handwritten digits, 10 classes: a small residual CNN, trained in seconds on data inside scikit-learn"
REFERENCE = (
    "edgecompile's own network; data: sklearn.datasets.load_digits (UCI optical recognition of handwritten digits), "
    "pixels / 16, every fifth sample of each class is the test set"
)
TRAINING = catalog.Training(epochs=30, learning_rate=2e-3, batch_size=32, on_first_use=True)

SPLIT_SEED = 0
TEST_EVERY = 5


def build() -> Any:
    """tf_keras.Model: float32 [n, 8, 8, 1] -> class probabilities [n, 10]; about 11,000 parameters."""
    import tf_keras
    from tf_keras import layers

    seed = count(1)

    def he() -> Any:
        return tf_keras.initializers.HeNormal(seed=next(seed))

    def conv(x: Any, filters: int, size: int, name: str) -> Any:
        x = layers.Conv2D(filters, size, padding="same", use_bias=False, kernel_initializer=he(), name=name)(x)
        return layers.BatchNormalization(name=f"{name}_bn")(x)

    image = layers.Input((8, 8, 1), name="image")
    x = layers.ReLU(name="conv_relu")(conv(image, 16, 3, "conv"))
    x = layers.DepthwiseConv2D(
        3, strides=2, padding="same", use_bias=False, depthwise_initializer=he(), name="depthwise"
    )(x)
    x = layers.ReLU(name="depthwise_relu")(layers.BatchNormalization(name="depthwise_bn")(x))
    x = layers.ReLU(name="pointwise_relu")(conv(x, 32, 1, "pointwise"))
    x = layers.Add(name="residual_add")([x, conv(x, 32, 3, "residual")])
    x = layers.ReLU(name="residual_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    scores = layers.Dense(10, activation="softmax", kernel_initializer=he(), name="scores")(x)
    return tf_keras.Model(image, scores, name="digits")


def task(root: Path | None = None) -> Task:
    """1,437 training and 360 test images, float32 in [0, 1]; `root` is not needed."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images / 16).astype(np.float32)[..., None]
    y = digits.target.astype(np.int64)
    # Shuffled, then grouped by class: each fifth sample is a stratified test set whatever scikit-learn's own
    # splitter does from version to version.
    order = np.random.default_rng(SPLIT_SEED).permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    test = np.sort(order[::TEST_EVERY])
    train = np.setdiff1d(order, test)
    return Task(
        name="digits",
        kind=CLASSIFICATION,
        train=Split({"": x[train]}, {"": y[train]}),
        test=Split({"": x[test]}, {"": y[test]}),
        metric=metrics.accuracy,
        fingerprint=catalog.fingerprint("digits", root),
    )


def fingerprint_files(root: Path | None = None) -> list[Path]:  # noqa: ARG001
    """scikit-learn's own data file, found without importing scikit-learn."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "the digits come with scikit-learn, which is not installed", hint="pip install scikit-learn"
        )
    return [Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"]
