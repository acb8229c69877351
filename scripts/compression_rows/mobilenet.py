"""MobileNetV1-0.25 with a 10-class head on CIFAR-10 at 96x96: the visual wake words network, retrained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from compression_rows import networks
from compression_rows.common import TINY, Row, data_folder

DATA = "scripts.compression_rows.tasks:cifar96"
NAME = "mobilenet-cifar96"
EPOCHS, LEARNING_RATE, BATCH = 12, 0.002, 64


def trained() -> Path:
    """The model's file; SystemExit where the row that trains it wasn't run."""
    path = networks.path_of(NAME)
    if not path.is_file():
        raise SystemExit("run the row mobilenet-base first: it trains the float model")
    return path


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


def _train(out: Path) -> dict[str, Any]:
    from edgecompile.training import Schedule

    schedule = Schedule(EPOCHS, LEARNING_RATE, BATCH, precision="bfloat16")
    made = networks.train(NAME, _initial, DATA, schedule)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(trained(), out)
    return {**made, "schedule": f"Adam, {LEARNING_RATE} by cosine, batches of {BATCH}, bfloat16"}


ROWS = {"mobilenet-base": Row("MobileNetV1-0.25 on CIFAR-10 at 96x96: the float model of the rows below", _train)}
