"""MLPerf Tiny keyword spotting: DS-CNN on Speech Commands v2."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import catalog, metrics
from edgecompile.models import read_npz, require
from edgecompile.task import CLASSIFICATION, Split, Task

SUMMARY = (
    "MLPerf Tiny keyword spotting: DS-CNN on 49x10 MFCCs, 12 classes; its training clips are the part of the "
    "Speech Commands test split that MLPerf's 1,000 test clips leave over"
)
REFERENCE = (
    "mlcommons/tiny, benchmark/training/keyword_spotting: model_name ds_cnn, sparse categorical cross-entropy, top-1 "
    "accuracy, MFCCs as its get_dataset.py makes them; the reference model never saw the training clips used here"
)
TRAINING = catalog.Training(epochs=40, learning_rate=2e-3, batch_size=64)

TRAIN = "kws/speech_commands_v2_test_rest3890_mfcc.npz"
_SHIFT = 5  # frames of 20 ms
TEST = "kws/kws01_mlperf1000.npz"


def build() -> Any:
    """tf_keras.Model: float32 MFCCs [n, 49, 10, 1] -> class probabilities [n, 12]; the reference's layer order."""
    import tf_keras
    from tf_keras import layers

    seed = count(1)

    def glorot() -> Any:
        return tf_keras.initializers.GlorotUniform(seed=next(seed))

    def conv(x: Any, size: tuple[int, int], stride: int, name: str) -> Any:
        return layers.Conv2D(
            64,
            size,
            strides=stride,
            padding="same",
            kernel_initializer=glorot(),
            kernel_regularizer=tf_keras.regularizers.L2(1e-4),
            name=name,
        )(x)

    def bn_relu(x: Any, name: str) -> Any:
        return layers.Activation("relu", name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))

    mfcc = layers.Input((49, 10, 1), name="mfcc")
    x = bn_relu(conv(mfcc, (10, 4), 2, "conv"), "conv")
    x = layers.Dropout(0.2, seed=next(seed), name="conv_dropout")(x)
    for block in range(1, 5):
        name = f"block{block}_depthwise"
        x = layers.DepthwiseConv2D(3, padding="same", depthwise_initializer=glorot(), name=name)(x)
        x = bn_relu(x, name)
        name = f"block{block}_pointwise"
        x = bn_relu(conv(x, (1, 1), 1, name), name)
    x = layers.Dropout(0.4, seed=next(seed), name="dropout")(x)
    x = layers.AveragePooling2D((25, 5), name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    scores = layers.Dense(12, activation="softmax", kernel_initializer=glorot(), name="scores")(x)
    return tf_keras.Model(mfcc, scores, name="ds_cnn")


def task(root: Path | None) -> Task:
    """3,896 training and 1,000 test clips (MLPerf's), float32 MFCCs. Training clips are grouped by speaker, so that
    validation hears others; of the test clips it isn't known who speaks."""

    def split(pattern: str) -> Split:
        (path,) = require("ds_cnn", root, [pattern])
        mfcc, y, names = read_npz(path, "mfcc", "y", "names")
        speakers = np.array([_speaker(str(name)) for name in names]) if pattern == TRAIN else None
        return Split({"": mfcc.astype(np.float32)}, {"": y.astype(np.int64)}, speakers)

    return Task(
        name="ds_cnn",
        kind=CLASSIFICATION,
        train=split(TRAIN),
        test=split(TEST),
        metric=metrics.accuracy,
        augment=_augment,
        fingerprint=catalog.fingerprint("ds_cnn", root),
    )


def _augment(x: Any, seed: Any) -> Any:
    """Each clip up to 5 frames earlier or later, as the reference shifts the sound by up to 0.1 s."""
    import tensorflow as tf

    clips = x[""]
    frames = clips.shape[1]
    padded = tf.pad(clips, [[0, 0], [_SHIFT, _SHIFT], [0, 0], [0, 0]], "SYMMETRIC")
    start = tf.random.stateless_uniform([tf.shape(clips)[0], 1], seed, 0, 2 * _SHIFT + 1, tf.int32)
    return {"": tf.ensure_shape(tf.gather(padded, start + tf.range(frames), axis=1, batch_dims=1), clips.shape)}


def _speaker(name: str) -> str:
    """ "right/0f250098_nohash_1.wav" -> "0f250098"; a stretch of silence is nobody's, and stands for itself."""
    return name.rpartition("/")[2].partition("_nohash")[0]


def fingerprint_files(root: Path | None) -> list[Path]:
    return require("ds_cnn", root, [TRAIN, TEST])
