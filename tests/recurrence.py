"""Small recurrent models of both Keras, and what stages need to run on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import loaders
from edgecompile.artifact import KERAS, KERAS3, TFLITE, Artifact
from edgecompile.loaders.base import LoadOptions, save_keras
from edgecompile.recurrent import FUSED
from edgecompile.stages.base import Context, Outcome
from edgecompile.stages.convert import Convert
from edgecompile.task import UNLABELED, Split, Task

STEPS, FEATURES, UNITS = 4, 3, 5
DYNAMIC, INT8, INT16 = "dynamic_wi8_afp32", "static_wi8_ai8", "static_wi8_ai16"
FUSED_LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"

Graph = Callable[[Any, Any], Any]
GRAPHS: dict[str, Graph] = {
    "lstm": lambda L, x: L.LSTM(UNITS)(x),
    "gru": lambda L, x: L.GRU(UNITS)(x),
    "rnn": lambda L, x: L.SimpleRNN(UNITS)(x),
    "bidirectional": lambda L, x: L.Bidirectional(L.LSTM(UNITS))(x),
    "stacked": lambda L, x: L.GRU(4)(L.LSTM(UNITS, return_sequences=True)(x)),
    "sequences": lambda L, x: L.TimeDistributed(L.Dense(4))(L.Bidirectional(L.GRU(UNITS, return_sequences=True))(x)),
    "backwards": lambda L, x: L.LSTM(UNITS, go_backwards=True)(x),
    "masked": lambda L, x: L.LSTM(UNITS)(L.Masking(0.0)(x)),
}


def samples(n: int, steps: int = STEPS) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(n, steps, FEATURES)).astype(np.float32)
    x[::2, -2:] = 0.0  # what Masking leaves out
    return x


def build(framework: Any, graph: Graph, steps: int | None = STEPS) -> Any:
    framework.utils.set_random_seed(3)
    x = framework.Input((steps, FEATURES), name="signal")
    return framework.Model(x, framework.layers.Dense(3, name="scores")(graph(framework.layers, x)))


def written(framework: Any, model: Any, folder: Path, options: LoadOptions | None = None) -> Artifact:
    path = save_keras(model, folder / "model.keras")
    kind = KERAS3 if framework.__name__ == "keras" else KERAS
    return Artifact(kind, {"model": path}, loaders.load(path, options or LoadOptions()).signature)


def context(folder: Path, io: str = "float", options: LoadOptions | None = None) -> Context:
    folder.mkdir(exist_ok=True)
    task = Task("signals", UNLABELED, Split({"": samples(40)}), None, None, fingerprint="signals")
    return Context(folder, folder, task, io, options or LoadOptions(), 0, None, None, lambda _: None)


def as_tflite(outcome: Outcome) -> Artifact:
    return Artifact(TFLITE, outcome.files, outcome.signature)


def fused_lstm(folder: Path) -> tuple[Any, Path]:
    """(a tf-keras LSTM, its .tflite with the fused operator)"""
    import tf_keras

    model = build(tf_keras, GRAPHS["lstm"])
    outcome = Convert(recurrent=FUSED).run(written(tf_keras, model, folder), context(folder))
    return model, outcome.files["model"]
