"""A small CNN on Fashion-MNIST."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import catalog, metrics
from edgecompile.models import read_npz, require
from edgecompile.task import CLASSIFICATION, Split, Task

SUMMARY = "Fashion-MNIST, 28x28 grey, 10 classes: a small CNN with BatchNorm"
REFERENCE = (
    "edgecompile's own network; data: zalandoresearch/fashion-mnist, 10,000 of its training images and its test set, "
    "pixels / 255"
)
TRAINING = catalog.Training(epochs=15, learning_rate=1e-3, batch_size=64)

TRAIN = "fashion_mnist/train10k.npz"
TEST = "fashion_mnist/test10k.npz"


def build() -> Any:
    """tf_keras.Model: float32 [n, 28, 28, 1] in [0, 1] -> class probabilities [n, 10]; about 55,000 parameters."""
    import tf_keras
    from tf_keras import layers

    seed = count(1)

    def he() -> Any:
        return tf_keras.initializers.HeNormal(seed=next(seed))

    x = image = layers.Input((28, 28, 1), name="image")
    for i, filters in enumerate([16, 32, 64], start=1):
        name = f"conv{i}"
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer=he(), name=name)(x)
        x = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))
        if i < 3:
            x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
    # Flattened, not averaged: where on the picture a sleeve or a heel is tells the classes apart.
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.5, seed=next(seed), name="dropout")(x)
    scores = layers.Dense(10, activation="softmax", kernel_initializer=he(), name="scores")(x)
    return tf_keras.Model(image, scores, name="fashion_cnn")


def task(root: Path | None) -> Task:
    """10,000 training and 10,000 test images, float32 in [0, 1]."""

    def split(pattern: str) -> Split:
        (path,) = require("fashion_cnn", root, [pattern])
        x, y = read_npz(path, "x", "y")
        return Split({"": (x / np.float32(255))[..., None]}, {"": y.astype(np.int64)})

    return Task(
        name="fashion_cnn",
        kind=CLASSIFICATION,
        train=split(TRAIN),
        test=split(TEST),
        metric=metrics.accuracy,
        fingerprint=catalog.fingerprint("fashion_cnn", root),
    )


def fingerprint_files(root: Path | None) -> list[Path]:
    return require("fashion_cnn", root, [TRAIN, TEST])
