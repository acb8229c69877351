"""MobileNetV2 1.0 at 224x224 with the 1,001 classes of the TensorFlow checkpoints."""

from __future__ import annotations

import csv
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import catalog, metrics
from edgecompile.models import read_image, require
from edgecompile.task import CLASSIFICATION, Split, Task

SUMMARY = "MobileNetV2 1.0, 224x224 RGB, ImageNet with a background class: 1,001 outputs (400 test images only)"
REFERENCE = (
    "Sandler et al. 2018 as in keras.applications.mobilenet_v2 (layer names too); categorical cross-entropy, top-1 "
    "accuracy, centre crop of 256x256, pixels / 127.5 - 1; labels are ImageNet's plus one. Mostly training images: "
    "compare differences, not accuracies"
)
TRAINING = catalog.Training(epochs=200, learning_rate=1e-3, batch_size=64)

IMAGES = "imagenet400/images/*.jpg"
LABELS = "imagenet400/labels.csv"
CROP = slice(16, 240)  # of 256 pixels

# (filters, stride) of the inverted residual blocks; the first one doesn't expand.
BLOCKS = [
    (16, 1), (24, 2), (24, 1), *[(32, 2), (32, 1), (32, 1)], *[(64, 2), (64, 1), (64, 1), (64, 1)],
    *[(96, 1)] * 3, *[(160, 2), (160, 1), (160, 1)], (320, 1),
]  # fmt: skip
EXPANSION = 6


def build() -> Any:
    """tf_keras.Model: float32 [n, 224, 224, 3] in [-1, 1] -> class probabilities [n, 1001], class 0 = background."""
    import tf_keras
    from tf_keras import layers

    seed = count(1)

    def glorot() -> Any:
        return tf_keras.initializers.GlorotUniform(seed=next(seed))

    def conv(x: Any, filters: int, size: int, stride: int, name: str) -> Any:
        return layers.Conv2D(
            filters, size, strides=stride, padding="same", use_bias=False, kernel_initializer=glorot(), name=name
        )(x)

    def bn(x: Any, name: str) -> Any:
        return layers.BatchNormalization(momentum=0.999, name=name)(x)

    def block(x: Any, filters: int, stride: int, prefix: str, expand: bool) -> Any:
        y = x
        if expand:
            y = bn(conv(y, EXPANSION * x.shape[-1], 1, 1, f"{prefix}expand"), f"{prefix}expand_BN")
            y = layers.ReLU(6.0, name=f"{prefix}expand_relu")(y)
        if stride == 2:
            y = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{prefix}pad")(y)
        y = layers.DepthwiseConv2D(
            3,
            strides=stride,
            padding="same" if stride == 1 else "valid",
            use_bias=False,
            depthwise_initializer=glorot(),
            name=f"{prefix}depthwise",
        )(y)
        y = layers.ReLU(6.0, name=f"{prefix}depthwise_relu")(bn(y, f"{prefix}depthwise_BN"))
        y = bn(conv(y, filters, 1, 1, f"{prefix}project"), f"{prefix}project_BN")
        if stride == 1 and x.shape[-1] == filters:
            y = layers.Add(name=f"{prefix}add")([x, y])
        return y

    image = layers.Input((224, 224, 3), name="image")
    x = layers.ReLU(6.0, name="Conv1_relu")(bn(conv(image, 32, 3, 2, "Conv1"), "bn_Conv1"))
    for i, (filters, stride) in enumerate(BLOCKS):
        x = block(x, filters, stride, f"block_{i}_" if i else "expanded_conv_", expand=i > 0)
    x = layers.ReLU(6.0, name="out_relu")(bn(conv(x, 1280, 1, 1, "Conv_1"), "Conv_1_bn"))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    scores = layers.Dense(1001, activation="softmax", kernel_initializer=glorot(), name="predictions")(x)
    return tf_keras.Model(image, scores, name="mobilenet_v2")


def task(root: Path | None) -> Task:
    """400 test images, float32 in [-1, 1]; there is no training data."""
    (labels,) = require("mobilenet_v2", root, [LABELS])
    with labels.open(newline="") as file:
        rows = [(row["file"], int(row["label"])) for row in csv.DictReader(file)]
    files = require("mobilenet_v2", root, [f"imagenet400/images/{name}" for name, _ in rows])
    x = np.stack([read_image(file)[CROP, CROP] for file in files]).astype(np.float32)
    x /= 127.5
    x -= 1
    return Task(
        name="mobilenet_v2",
        kind=CLASSIFICATION,
        train=None,
        test=Split({"": x}, {"": np.array([label + 1 for _, label in rows], np.int64)}),
        metric=metrics.accuracy,
        fingerprint=catalog.fingerprint("mobilenet_v2", root),
    )


def fingerprint_files(root: Path | None) -> list[Path]:
    return require("mobilenet_v2", root, [LABELS, IMAGES])
