"""MLPerf Tiny image classification: ResNet8 on CIFAR-10."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from edgecompile import catalog, metrics
from edgecompile.models import read_labels, read_sprites, require
from edgecompile.task import CLASSIFICATION, Split, Task

SUMMARY = "MLPerf Tiny image classification: ResNet8 on CIFAR-10, 32x32 RGB, 10 classes"
REFERENCE = (
    "mlcommons/tiny, benchmark/training/image_classification: resnet_v1_eembc, categorical cross-entropy, top-1 "
    "accuracy, raw pixels 0..255; flips and shifts of up to a tenth as there, but no rotation"
)
TRAINING = catalog.Training(epochs=60, learning_rate=1e-3, batch_size=64)

TRAIN = "cifar10/train_*.webp"
TEST = "cifar10/test_*.webp"
TRAIN_LABELS = "cifar10/train_labels.csv"
TEST_LABELS = "cifar10/test_labels.csv"
MAX_SHIFT = 3  # pixels: a tenth of 32


def build() -> Any:
    """tf_keras.Model: float32 [n, 32, 32, 3] in 0..255 -> class probabilities [n, 10].

    Layers stand in the reference's order, so that its weights load with `set_weights`.
    """
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

    def relu(x: Any, name: str) -> Any:
        return layers.Activation("relu", name=name)(x)

    image = layers.Input((32, 32, 3), name="image")
    x = conv(image, 16, 3, 1, "conv")
    x = relu(layers.BatchNormalization(name="conv_bn")(x), "conv_relu")
    for stack, (filters, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
        name = f"stack{stack}"
        y = conv(x, filters, 3, stride, f"{name}_conv1")
        y = relu(layers.BatchNormalization(name=f"{name}_bn1")(y), f"{name}_relu1")
        y = conv(y, filters, 3, 1, f"{name}_conv2")
        y = layers.BatchNormalization(name=f"{name}_bn2")(y)
        if stride > 1:
            x = conv(x, filters, 1, stride, f"{name}_shortcut")
        x = relu(layers.Add(name=f"{name}_add")([x, y]), f"{name}_relu2")
    x = layers.AveragePooling2D(8, name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    he = tf_keras.initializers.HeNormal(seed=next(seed))
    scores = layers.Dense(10, activation="softmax", kernel_initializer=he, name="scores")(x)
    return tf_keras.Model(image, scores, name="resnet8")


def augment(x: dict[str, Any], seed: Any) -> dict[str, Any]:
    """Each image flipped left to right half the time and shifted by up to 3 pixels, edge pixels repeated."""
    import tensorflow as tf

    flip_seed, shift_seed = tf.unstack(tf.random.split(seed, 2))

    def one(images: Any) -> Any:
        images = tf.image.stateless_random_flip_left_right(images, flip_seed)
        shape = tf.shape(images)
        shifts = tf.random.stateless_uniform([shape[0], 2], shift_seed, -MAX_SHIFT, MAX_SHIFT + 1, tf.int32)
        for axis in (1, 2):
            size = shape[axis]
            index = tf.clip_by_value(tf.range(size)[None, :] + shifts[:, axis - 1 : axis], 0, size - 1)
            images = tf.gather(images, index, axis=axis, batch_dims=1)
        return images

    return {name: one(images) for name, images in x.items()}


def task(root: Path | None) -> Task:
    """46,000 training and 10,000 test images, uint8 0..255."""
    train = read_sprites(require("resnet8", root, [TRAIN]), 32)
    test = read_sprites(require("resnet8", root, [TEST]), 32)
    (train_labels,) = require("resnet8", root, [TRAIN_LABELS])
    (test_labels,) = require("resnet8", root, [TEST_LABELS])
    return Task(
        name="resnet8",
        kind=CLASSIFICATION,
        train=Split({"": train}, {"": read_labels(train_labels, len(train))}),
        test=Split({"": test}, {"": read_labels(test_labels, len(test))}),
        metric=metrics.accuracy,
        fingerprint=catalog.fingerprint("resnet8", root),
        augment=augment,
    )


def fingerprint_files(root: Path | None) -> list[Path]:
    return require("resnet8", root, [TRAIN, TRAIN_LABELS, TEST, TEST_LABELS])
