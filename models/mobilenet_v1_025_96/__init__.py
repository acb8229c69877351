"""MLPerf Tiny visual wake words: MobileNetV1, width 0.25, 96x96."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import catalog, metrics
from edgecompile.models import read_labels, read_sprites, require
from edgecompile.task import CLASSIFICATION, Split, Task

SUMMARY = "MLPerf Tiny visual wake words: MobileNetV1 0.25 on 96x96 RGB, person or not (test images only)"
REFERENCE = (
    "mlcommons/tiny, benchmark/training/visual_wake_words: mobilenet_v1, categorical cross-entropy, top-1 accuracy, "
    "pixels / 255; MLPerf's 1,000 test images, no training data"
)
TRAINING = catalog.Training(epochs=50, learning_rate=1e-3, batch_size=32)

TEST = "vww/vww01_*.webp"
LABELS = "vww/vww01_labels.csv"

# (filters of the pointwise convolution, stride of the depthwise one), block by block.
BLOCKS = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]


def build() -> Any:
    """tf_keras.Model: float32 [n, 96, 96, 3] in [0, 1] -> [n, 2] (no person, person); the reference's layer order."""
    import tf_keras
    from tf_keras import layers

    seed = count(1)

    def conv(x: Any, filters: int, size: int, stride: int, name: str) -> Any:
        return layers.Conv2D(
            filters,
            size,
            strides=stride,
            padding="same",
            kernel_initializer=tf_keras.initializers.HeNormal(seed=next(seed)),
            kernel_regularizer=tf_keras.regularizers.L2(1e-4),
            name=name,
        )(x)

    def bn_relu(x: Any, name: str) -> Any:
        return layers.Activation("relu", name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))

    def glorot() -> Any:
        return tf_keras.initializers.GlorotUniform(seed=next(seed))

    image = layers.Input((96, 96, 3), name="image")
    x = bn_relu(conv(image, 8, 3, 2, "conv"), "conv")
    for block, (filters, stride) in enumerate(BLOCKS, start=1):
        name = f"block{block}_depthwise"
        x = layers.DepthwiseConv2D(3, strides=stride, padding="same", depthwise_initializer=glorot(), name=name)(x)
        x = bn_relu(x, name)
        name = f"block{block}_pointwise"
        x = bn_relu(conv(x, filters, 1, 1, name), name)
    x = layers.AveragePooling2D(3, name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    scores = layers.Dense(2, activation="softmax", kernel_initializer=glorot(), name="scores")(x)
    return tf_keras.Model(image, scores, name="mobilenet_v1_025_96")


def task(root: Path | None) -> Task:
    """1,000 test images, float32 in [0, 1]; there is no training data."""
    images = read_sprites(require("mobilenet_v1_025_96", root, [TEST]), 96)
    (labels,) = require("mobilenet_v1_025_96", root, [LABELS])
    return Task(
        name="mobilenet_v1_025_96",
        kind=CLASSIFICATION,
        train=None,
        test=Split({"": images / np.float32(255)}, {"": read_labels(labels, len(images))}),
        metric=metrics.accuracy,
        fingerprint=catalog.fingerprint("mobilenet_v1_025_96", root),
    )


def fingerprint_files(root: Path | None) -> list[Path]:
    return require("mobilenet_v1_025_96", root, [TEST, LABELS])
