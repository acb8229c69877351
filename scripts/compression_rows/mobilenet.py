"""MobileNetV1-0.25 with a 10-class head on CIFAR-10 at 96x96: the visual wake words network, retrained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from compression_rows import networks
from compression_rows.common import TINY, Row, data_folder

DATA = "scripts.compression_rows.tasks:cifar96"


def trained() -> Path:
    """The model's file; SystemExit where the row that trains it wasn't run."""
    if not _NETWORK.path.is_file():
        raise SystemExit("run the row mobilenet-base first: it trains the float model")
    return _NETWORK.path


def _initial() -> Any:
    """The visual wake words network with a new head; its input takes 0..255, so its first kernel is divided by 255."""
    import tf_keras

    whole = tf_keras.models.load_model(data_folder() / TINY / "vww/vww_96.h5", compile=False)
    head = whole.layers[-1]
    glorot = tf_keras.initializers.GlorotUniform(seed=networks.SEED)
    scores = tf_keras.layers.Dense(10, "softmax", kernel_initializer=glorot, name="scores")(head.input)
    model = tf_keras.Model(whole.inputs, scores, name="mobilenet_v1_025_96")
    first = next(layer for layer in model.layers if hasattr(layer, "kernel"))
    first.kernel.assign(first.kernel / 255)
    return model


_NETWORK = networks.Network(
    "mobilenet-cifar96",
    _initial,
    DATA,
    {"epochs": 12, "learning_rate": 0.002, "batch_size": 64, "precision": "bfloat16"},
)


def _train(out: Path) -> dict[str, Any]:
    made = networks.train(_NETWORK)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(trained(), out)
    return made


ROWS = {"mobilenet-base": Row("MobileNetV1-0.25 on CIFAR-10 at 96x96: the float model of the rows below", _train)}
