"""`edgecompile diff A B`: what A and B are, as .tflite files, and the inputs that both get."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import data, golden
from edgecompile.artifact import TFLITE, Signature, TensorInfo
from edgecompile.bundle import GOLDEN, MODEL, open_bundle, unchanged
from edgecompile.compression import training_job
from edgecompile.data import DataSource
from edgecompile.errors import BundleError, DataError, ModelError
from edgecompile.job import Job, Settings
from edgecompile.layerwise.report import Comparison, compare, paired_inputs
from edgecompile.loaders.base import LoadOptions
from edgecompile.loaders.interpreter import dequantize, own_signature
from edgecompile.request import Source, find_source
from edgecompile.session import Session
from edgecompile.stages.base import Progress
from edgecompile.stages.convert import Convert
from edgecompile.stages.evaluate import golden_inputs
from edgecompile.stages.load import Train
from edgecompile.task import Array, Task, align
from edgecompile.tflite_file import read

_SEED = 0


@dataclass(frozen=True)
class Options:
    """data: as --data. samples: how many inputs, at most. tolerance: as of `compare`."""

    data: str | None = None
    samples: int = 16
    tolerance: float | None = None
    load: LoadOptions = dataclasses.field(default_factory=LoadOptions)


@dataclass(frozen=True)
class Subject:
    """A model as a .tflite. golden: the golden.npz of a bundle; real: whether that was taken from data. names: of its
    tensors by index, from a bundle's manifest, since slimming took them out of the file."""

    name: str
    model: Path
    signature: Signature
    golden: Path | None = None
    real: bool = False
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """inputs: where they came from; real: whether they are samples of data."""

    a: str
    b: str
    inputs: str
    real: bool
    found: Comparison

    def to_json(self) -> dict[str, Any]:
        return {"a": self.a, "b": self.b, "inputs": self.inputs, "real": self.real, **self.found.to_json()}


def diff(a: str, b: str, options: Options, session: Session) -> Difference:
    """Compare two models: each a .tflite, a bundle, or whatever a build takes, converted to a float .tflite.

    Errors: those of loading and converting; ModelError where the two take different inputs; BundleError, DataError.
    """
    data_source = data.resolve(options.data) if options.data else None
    sources = [_find(name) for name in (a, b)]
    session.total = 1 + sum(2 for source in sources if source is not None and source.kind != TFLITE)
    one, two = (_subject(name, source, options, session) for name, source in zip((a, b), sources, strict=True))
    names = paired_inputs(one.signature, two.signature)
    inputs, origin, real = _inputs(one, two, names, data_source, options, session)
    session.announce("compare")
    found: Comparison = session.worker.call(
        "the comparison",
        run,
        one.model,
        two.model,
        inputs,
        options.tolerance,
        (one.names, two.names),
        report=session.display.progress,
    )
    return Difference(a, b, origin, real, found)


def _find(name: str) -> Source | None:
    """None for a bundle, which is opened later."""
    return None if (Path(name) / "manifest.json").is_file() else find_source(name)


def _subject(name: str, source: Source | None, options: Options, session: Session) -> Subject:
    if source is None:
        return _bundle(Path(name))
    if source.kind == TFLITE and source.path is not None:
        return Subject(name, source.path, own_signature(read(source.path)))
    settings = Settings(None, None, options.load, io="float", seed=_SEED, tensorboard=None)
    first = Job(source.first, None, settings)
    if isinstance(source.first, Train):
        first = training_job(source.first, settings)
        if not source.first.on_first_use and session.cache.get(first.key) is None:
            raise ModelError(
                f"the built-in model {name!r} has no trained weights here", hint=f"`edgecompile models train {name}`"
            )
    converted = session.run(Job(Convert(), session.run(first), settings))
    return Subject(name, converted.model, own_signature(read(converted.model)))


def _bundle(path: Path) -> Subject:
    manifest = open_bundle(path)
    unchanged(path, manifest, MODEL, GOLDEN)
    model = path / MODEL
    try:
        baseline = next(record for record in manifest["history"] if record["stage"] == "baseline")
        real = baseline["metrics"]["golden_inputs"] == "data"
        operators = [op for op in manifest["inspection"]["operators"] if op["subgraph"] == 0]
        names = {t["index"]: str(t["name"]) for op in operators for t in (*op["inputs"], *op["outputs"])}
    except (KeyError, TypeError, AttributeError, StopIteration) as problem:
        raise BundleError(f"{path / 'manifest.json'} is damaged: {problem}", hint="build the bundle again") from None
    return Subject(str(path), model, own_signature(read(model)), path / GOLDEN, real, names)


def _inputs(
    one: Subject,
    two: Subject,
    names: Mapping[str, str],
    source: DataSource | None,
    options: Options,
    session: Session,
) -> tuple[dict[str, Array], str, bool]:
    """(real numbers by A's names, where they came from, whether they are real data)."""
    if source is not None:
        x = session.worker.call(
            "reading the data", samples, source, one.signature, options.samples, report=session.display.progress
        )
        return _real(x, _described_by(one.signature, two.signature, names)), f"training samples of {source.spec}", True
    bundle = next((subject for subject in (one, two) if subject.golden is not None), None)
    if bundle is not None and bundle.golden is not None:
        x = _golden(bundle.golden, bundle.signature, options.samples)
        own = {t.name: t for t in bundle.signature.inputs}
        stored = _real(x, own)
        back = {i: stored[i if bundle is one else j] for i, j in names.items()}
        kind = "golden inputs" if bundle.real else "random golden inputs"
        return back, f"{kind} of {bundle.name}", bundle.real
    # Of the two models' inputs the quantized one tells which numbers can come.
    its = {t.name: t for t in two.signature.inputs}
    likely = {t.name: t if t.scale is not None else its[names[t.name]] for t in one.signature.inputs}
    random = golden_inputs(None, Signature(tuple(likely.values()), ()), _SEED)
    x = {name: dequantize(random[t.name], t)[: options.samples] for name, t in likely.items()}
    return x, f"random numbers (seed {_SEED})", False


def _described_by(a: Signature, b: Signature, names: Mapping[str, str]) -> dict[str, TensorInfo]:
    """How the user's samples are to be read: as the float model of the two takes them, else as A does."""
    its = {t.name: t for t in b.inputs}
    pairs = [(t, its[names[t.name]]) for t in a.inputs]
    return {mine.name: mine if mine.scale is None or other.scale is not None else other for mine, other in pairs}


def _real(x: Mapping[str, Array], specs: Mapping[str, TensorInfo]) -> dict[str, Array]:
    """Real numbers: what has the type of a quantized input is dequantized, for floats all is cast."""
    return {
        name: dequantize(array, specs[name])
        if specs[name].scale is not None and str(array.dtype) == specs[name].dtype
        else array.astype(np.float32 if specs[name].scale is not None else specs[name].dtype)
        for name, array in x.items()
    }


def _golden(path: Path, signature: Signature, count: int) -> dict[str, Array]:
    try:
        inputs = golden.read(path, golden.INPUTS)[golden.INPUTS]
        return {t.name: inputs[t.name][:count] for t in signature.inputs}
    except golden.DAMAGED as problem:
        raise BundleError(f"{path} is damaged: {problem}", hint="build the bundle again") from None


# What follows runs in the worker.


def samples(
    source: DataSource, signature: Signature, count: int, *, report: Callable[[Progress], None]
) -> dict[str, Array]:
    """Samples of the training split, spread over all of it, by the signature's names and in the data's own dtype."""
    del report
    task: Task = data.load(source, data.expected(signature))
    split = task.train or task.test
    if split is None:
        raise DataError(f"task {task.name!r} has no samples at all")
    x = dict(split.x)
    if len(x) == len(signature.inputs) == 1:  # a file without a signature has its own name for its only input
        x = {signature.inputs[0].name: next(iter(x.values()))}
    index = np.linspace(0, len(split) - 1, min(count, len(split))).astype(int)
    return {name: array[index] for name, array in align(x, signature.inputs).items()}


def run(
    a: Path,
    b: Path,
    inputs: Mapping[str, Array],
    tolerance: float | None,
    names: tuple[Mapping[int, str], Mapping[int, str]],
    *,
    report: Callable[[Progress], None],
) -> Comparison:
    """`compare`, where native code may die of a damaged model."""
    return compare(a, b, inputs, tolerance=tolerance, report=report, names=names)
