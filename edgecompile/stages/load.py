"""The first stage: the user's file, checked and read; and what follows from its format."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgecompile import bridge, catalog, loaders
from edgecompile.artifact import KERAS, KERAS3, TFLITE, Artifact
from edgecompile.loaders.base import SourceModel, save_keras
from edgecompile.stages.base import NOTHING, TRAINING, Context, Outcome
from edgecompile.stages.trainable import train, training_metrics
from edgecompile.task import align
from edgecompile.tflite_file import read, with_signature
from edgecompile.training import Schedule

_BRIDGE_SAMPLES = 32


@dataclass(frozen=True)
class Load:
    """Reads `path`, whose content has `digest`. The user's file is copied into the cache, never changed."""

    name: ClassVar[str] = "load"
    accepts: ClassVar[Mapping[str, str]] = {}
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"options"})

    path: str
    digest: str

    def run(self, artifact: Artifact | None, ctx: Context) -> Outcome:
        del artifact  # the first stage has none before it
        source = loaders.load(Path(self.path), ctx.options)
        copy = ctx.out / f"model{Path(self.path).suffix}"
        if source.kind == TFLITE and not read(Path(self.path)).signatures:
            with_signature(read(Path(self.path)), source.signature, copy)
        elif Path(self.path).is_dir():
            shutil.copytree(self.path, copy)
        else:
            shutil.copyfile(self.path, copy)
        return Outcome(
            source.kind, {"model": copy}, source.signature, notes=source.notes, meta={"layers": layers(source)}
        )


@dataclass(frozen=True)
class Train:
    """Trains a built-in model from its builder's initial weights."""

    name: ClassVar[str] = "train"
    accepts: ClassVar[Mapping[str, str]] = {}
    needs: ClassVar[str] = TRAINING
    uses: ClassVar[frozenset[str]] = frozenset({"task", "budget"})

    model: str
    source: str  # digest of the model's own code
    epochs: int
    on_first_use: bool = False  # it takes seconds, so a build may do it unasked

    def run(self, artifact: Artifact | None, ctx: Context) -> Outcome:
        del artifact
        module = catalog.get(self.model)
        model = module.build()
        path = ctx.out / "model.keras"
        save_keras(model, path)
        before = loaders.load(path, ctx.options)
        plan = module.TRAINING
        schedule = Schedule(self.epochs, plan.learning_rate, plan.batch_size)
        result = train(model, before.signature, schedule, ctx)
        save_keras(model, path)
        meta = {"layers": layers(before)}
        return Outcome(KERAS, {"model": path}, before.signature, training_metrics(result), meta=meta)


@dataclass(frozen=True)
class Bridge:
    """A Keras 3 model rebuilt in tf-keras, the only Keras that TF-MOT trains; compared on real inputs."""

    name: ClassVar[str] = "bridge"
    accepts: ClassVar[Mapping[str, str]] = {KERAS3: KERAS}
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"task", "options"})

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        source = ctx.load(artifact)
        fit, _ = ctx.require_task().split(ctx.seed)
        x = align(fit.take(slice(0, _BRIDGE_SAMPLES)).x, artifact.signature.inputs)
        sample = {t.name: x[t.name].astype(t.dtype) for t in artifact.signature.inputs}
        result = bridge.to_tf_keras(source.model, sample)
        ctx.say(f"Keras 3 to tf-keras: maximal difference {result.max_diff:.1e} of the output's range")
        path = ctx.out / "model.keras"
        save_keras(result.model, path)
        return Outcome(KERAS, {"model": path}, artifact.signature, {"max_diff": result.max_diff})


def layers(source: SourceModel) -> list[dict[str, Any]]:
    """The source's operators before conversion: Keras layers, or a .tflite's own operators."""
    if source.kind in (KERAS, KERAS3):
        return [{"name": layer.name, "type": type(layer).__name__} for layer in source.model.layers]
    if source.kind == TFLITE:
        graph = read(Path(source.model)).subgraphs[0]
        return [{"name": f"#{op.index}", "type": op.name} for op in graph.operators]
    return []
