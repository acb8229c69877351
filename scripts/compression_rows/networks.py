"""Float networks of the benchmark's own: trained once, then in edgecompile's cache folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression_rows.common import facts

SEED = 0


@dataclass(frozen=True)
class Network:
    """initial: gives the functional tf_keras model, one input, one output of class scores. data: the task it learns.
    Whoever changes what `initial` gives changes the name."""

    name: str
    initial: Callable[[], Any]
    data: str
    schedule: dict[str, Any]  # fields of edgecompile.training.Schedule

    @property
    def path(self) -> Path:
        """Where the network is once it is trained."""
        from edgecompile.cache import Cache

        settings = json.dumps([self.data, self.schedule], sort_keys=True)
        return (
            Cache().root / "bench" / f"{self.name}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}" / "model.keras"
        )


def train(network: Network) -> dict[str, Any]:
    """Train it, or go on with a training that was cut off: {test, epochs, losses, schedule, commit, seed}."""
    from edgecompile import data as tasks
    from edgecompile.artifact import Signature, TensorInfo
    from edgecompile.loaders.base import LoadOptions, save_keras
    from edgecompile.stages import trainable
    from edgecompile.stages.base import Context
    from edgecompile.training import Schedule

    path = network.path
    told = path.with_name("told.json")
    if told.is_file():
        return dict(json.loads(told.read_text()))
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    task = tasks.load(tasks.resolve(network.data))
    assert task.test is not None
    assert task.test.y is not None
    model = network.initial()
    ctx = Context(folder, folder, task, "float", LoadOptions(), SEED, None, None, _report)
    signature = Signature(
        (TensorInfo(model.input_names[0], (-1, *model.input_shape[1:]), "float32"),),
        (TensorInfo(model.output_names[0], (-1, *model.output_shape[1:]), "float32"),),
    )
    result = trainable.train(model, signature, Schedule(**network.schedule), ctx)
    save_keras(model, path)
    scores = model.predict(task.test.x[""].astype("float32"), batch_size=250, verbose=0)
    accuracy = float((scores.argmax(-1) == task.test.y[""]).mean())
    made = {"test": {"source": accuracy}, "epochs": result.epochs, "losses": result.losses}
    made |= {"schedule": network.schedule, "commit": facts()["commit"], "seed": SEED}
    told.write_text(json.dumps(made))
    return made


def _report(progress: Any) -> None:
    if progress.total == 0 or progress.done % 200 == 0:
        print(f"{progress.text} {progress.done}/{progress.total}", flush=True)
