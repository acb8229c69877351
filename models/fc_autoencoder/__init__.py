"""MLPerf Tiny anomaly detection: a fully connected autoencoder on machine sounds."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import catalog, metrics
from edgecompile.models import Array, read_npz, require
from edgecompile.task import AUTOENCODER, Split, Task

SUMMARY = "MLPerf Tiny anomaly detection: fully connected autoencoder on 5 frames x 128 log-mels of a toy car"
REFERENCE = (
    "mlcommons/tiny, benchmark/training/anomaly_detection: keras_model, mean squared error to its own input, AUC over "
    "clips of the mean squared reconstruction error; 196 windows a clip"
)
TRAINING = catalog.Training(epochs=100, learning_rate=1e-3, batch_size=512)

TRAIN = "ad/normal90_train.npz"
TEST = "ad/ad01_mlperf248.npz"
FRAMES = 5
WINDOWS = 196  # of a clip's 200 frames

UNITS = [128, 128, 128, 128, 8, 128, 128, 128, 128]


def build() -> Any:
    """tf_keras.Model: float32 log-mels [n, 640] -> their reconstruction [n, 640]; the reference's layer order."""
    import tf_keras
    from tf_keras import layers

    seed = count(1)

    def dense(x: Any, units: int, name: str) -> Any:
        glorot = tf_keras.initializers.GlorotUniform(seed=next(seed))
        return layers.Dense(units, kernel_initializer=glorot, name=name)(x)

    frames = layers.Input((640,), name="frames")
    x = frames
    for i, units in enumerate(UNITS, start=1):
        x = layers.BatchNormalization(name=f"dense{i}_bn")(dense(x, units, f"dense{i}"))
        x = layers.Activation("relu", name=f"dense{i}_relu")(x)
    return tf_keras.Model(frames, dense(x, 640, "reconstruction"), name="fc_autoencoder")


def windows(logmel: Array) -> Array:
    """[clips, 200, 128] -> float32 [clips * 196, 640]: each 5 frames in a row, clip after clip."""
    shifted = [logmel[:, k : WINDOWS + k] for k in range(FRAMES)]
    return np.concatenate(shifted, axis=2, dtype=np.float32).reshape(-1, FRAMES * logmel.shape[2])


def task(root: Path | None) -> Task:
    """17,640 windows of 90 normal clips to train, grouped by clip; 248 test clips, labelled 1 = anomaly."""
    (train,) = require("fc_autoencoder", root, [TRAIN])
    (test,) = require("fc_autoencoder", root, [TEST])
    (normal,) = read_npz(train, "logmel")
    clips, y = read_npz(test, "logmel", "y")
    return Task(
        name="fc_autoencoder",
        kind=AUTOENCODER,
        train=Split({"": windows(normal)}, groups=np.repeat(np.arange(len(normal)), WINDOWS)),
        test=Split({"": windows(clips)}, {"": y.astype(np.int64)}),
        metric=metrics.autoencoder_auc,
        fingerprint=catalog.fingerprint("fc_autoencoder", root),
        loss="mse",
    )


def fingerprint_files(root: Path | None) -> list[Path]:
    return require("fc_autoencoder", root, [TRAIN, TEST])
