"""The first stage: the user's file, checked and read; and what follows from its format."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgecompile import bridge, catalog, loaders
from edgecompile.artifact import KERAS, KERAS3, TFLITE, Artifact, Signature
from edgecompile.loaders.base import LoadOptions, SourceModel, save_keras
from edgecompile.loaders.compiled import compiled
from edgecompile.stages.base import NOTHING, TRAINING, Context, Outcome
from edgecompile.stages.trainable import train, training_metrics
from edgecompile.task import align
from edgecompile.tflite_file import TfliteModel, read, with_signature
from edgecompile.training import Schedule

_BRIDGE_SAMPLES = 32


@dataclass(frozen=True)
class Load:
    """Reads `path`, whose content has `digest`. The user's file is copied into the cache, never changed."""

    name: ClassVar[str] = "load"
    accepts: ClassVar[Mapping[str, str]] = {}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = True
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"options"})

    path: str
    digest: str

    def run(self, artifact: Artifact | None, ctx: Context) -> Outcome:
        del artifact  # the first stage has none before it
        path = Path(self.path)
        source = loaders.load(path, ctx.options)
        copy, notes = ctx.out / f"model{path.suffix}", source.notes
        if source.kind == TFLITE:
            notes += _copy_tflite(read(path), source.signature, copy)
        else:
            _copy(path, copy)
        known, unused = compiled(source)
        meta = {"layers": layers(source), "outputs": known}
        return Outcome(source.kind, {"model": copy}, source.signature, notes=notes + unused, meta=meta)


@dataclass(frozen=True)
class Train:
    """Trains a built-in model from its builder's initial weights."""

    name: ClassVar[str] = "train"
    accepts: ClassVar[Mapping[str, str]] = {}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = True
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
        # Not ctx.options: what is trained is the model as it is, whatever the build wants to make of it.
        before = loaders.load(path, LoadOptions())
        plan = module.TRAINING
        schedule = Schedule(self.epochs, plan.learning_rate, plan.batch_size)
        result = train(model, before.signature, schedule, ctx)
        save_keras(model, path)
        meta = {"layers": layers(before)}
        return Outcome(KERAS, {"model": path}, before.signature, training_metrics(result), meta=meta)


@dataclass(frozen=True)
class Reload:
    """A trained built-in model as the build's options want it: with the input shape that was asked for."""

    name: ClassVar[str] = "load"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: KERAS}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = True
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"options"})

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        source = ctx.load(artifact)
        copy = ctx.out / "model.keras"
        _copy(artifact.model, copy)
        return Outcome(KERAS, {"model": copy}, source.signature, meta={"layers": layers(source)})


@dataclass(frozen=True)
class Bridge:
    """A Keras 3 model rebuilt in tf-keras, the only Keras that TF-MOT trains; compared on real inputs."""

    name: ClassVar[str] = "bridge"
    accepts: ClassVar[Mapping[str, str]] = {KERAS3: KERAS}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = True
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
        in_use = {layer.name for layer in result.model.layers}
        kept = [f"{name} ({kind})" for name, kind in result.kept.items() if name in in_use]
        notes = (f"kept as Keras 3's own, next to what tf-keras has: {', '.join(kept)}",) if kept else ()
        return Outcome(KERAS, {"model": path}, artifact.signature, {"max_diff": result.max_diff}, notes)


def _copy(path: Path, copy: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, copy)
    else:
        shutil.copyfile(path, copy)


def _copy_tflite(model: TfliteModel, names: Signature, copy: Path) -> tuple[str, ...]:
    """A copy with one signature, of `names`: whatever goes by a file's names, here or on a device, finds these."""
    only = model.signatures[0] if len(model.signatures) == 1 else None
    agrees = only is not None and only.subgraph == 0 and _names(model.signature) == _names(names)
    if agrees:
        _copy(model.path, copy)
        return ()
    with_signature(model, names, copy)
    if len(model.signatures) < 2:
        return ()
    keys = ", ".join(repr(s.key) for s in model.signatures)
    return (f"of the file's signatures {keys} the main one alone was kept",)


def _names(signature: Signature) -> tuple[list[str], list[str]]:
    return [t.name for t in signature.inputs], [t.name for t in signature.outputs]


def layers(source: SourceModel) -> list[dict[str, Any]]:
    """The source's operators before conversion: Keras layers, or a .tflite's own operators."""
    if source.kind in (KERAS, KERAS3):
        return [{"name": layer.name, "type": type(layer).__name__} for layer in source.model.layers]
    if source.kind == TFLITE:
        graph = read(Path(source.model)).subgraphs[0]
        return [{"name": f"#{op.index}", "type": op.name} for op in graph.operators]
    return []
