"""MobileNetV1-0.25 with a 10-class head on CIFAR-10 at 96x96: the visual wake words network, retrained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compression_rows.common import TINY, Row, data_folder

DATA = "scripts.compression_rows.tasks:cifar96"
EPOCHS, LEARNING_RATE, BATCH, SEED = 12, 0.002, 64, 0


def _folder() -> Path:
    from edgecompile.cache import Cache

    return Cache().root / "bench" / "mobilenet-cifar96"


def trained() -> Path:
    """The model's file; SystemExit where the row that trains it wasn't run."""
    path = _folder() / "mobilenet.keras"
    if not path.is_file():
        raise SystemExit("run the row mobilenet-base first: it trains the float model")
    return path


def _initial() -> Any:
    """The visual wake words network with a new head; its input takes 0..255, so its first kernel is divided by 255."""
    import tf_keras

    whole = tf_keras.models.load_model(data_folder() / TINY / "vww/vww_96.h5", compile=False)
    head = whole.layers[-1]
    glorot = tf_keras.initializers.GlorotUniform(seed=SEED)
    scores = tf_keras.layers.Dense(10, "softmax", kernel_initializer=glorot, name="scores")(head.input)
    model = tf_keras.Model(whole.inputs, scores, name="mobilenet_v1_025_96")
    first = next(layer for layer in model.layers if hasattr(layer, "kernel"))
    first.kernel.assign(first.kernel / 255)
    return model


def _train(out: Path) -> dict[str, Any]:
    from edgecompile import data
    from edgecompile.artifact import Signature, TensorInfo
    from edgecompile.loaders.base import LoadOptions, save_keras
    from edgecompile.stages.base import Context
    from edgecompile.stages.trainable import train
    from edgecompile.training import Schedule

    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    task = data.load(data.resolve(DATA))
    model = _initial()

    def report(progress: Any) -> None:
        if progress.total == 0 or progress.done % 200 == 0:
            print(f"{progress.text} {progress.done}/{progress.total}", flush=True)

    ctx = Context(folder, folder, task, "float", LoadOptions(), SEED, None, None, report)
    signature = Signature(
        (TensorInfo(model.input_names[0], (-1, 96, 96, 3), "float32"),), (TensorInfo("scores", (-1, 10), "float32"),)
    )
    result = train(model, signature, Schedule(EPOCHS, LEARNING_RATE, BATCH, precision="bfloat16"), ctx)
    save_keras(model, folder / "mobilenet.keras")
    assert task.test is not None
    scores = model.predict(task.test.x[""].astype("float32"), batch_size=250, verbose=0)
    accuracy = float((scores.argmax(-1) == task.test.y[""]).mean())  # type: ignore[index]
    out.mkdir(parents=True, exist_ok=True)
    (out / "training.json").write_text(json.dumps({"losses": result.losses}))
    return {"test": {"source": accuracy}, "epochs": result.epochs, "losses": result.losses, "schedule": "bfloat16"}


ROWS = {"mobilenet-base": Row("MobileNetV1-0.25 on CIFAR-10 at 96x96: the float model of the rows below", _train)}
