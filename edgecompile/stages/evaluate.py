"""Looking at a model without changing it: its metric, its golden outputs, and how far engines differ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgecompile import answers, compare, data, golden, parity, per_output
from edgecompile.artifact import KERAS, KERAS3, QAT, SAVED_MODEL, TFLITE, Artifact, Signature, TensorInfo
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate
from edgecompile.backends.litert import BUILTIN, XNNPACK, LiteRtRunner, named_kernels, reference_kernels, refusal
from edgecompile.data import DataSource, check_labels
from edgecompile.errors import DataError, NonFiniteError
from edgecompile.loaders.base import SourceModel
from edgecompile.loaders.interpreter import dequantize, quantize
from edgecompile.ondevice.runner import load_inputs, save_arrays
from edgecompile.remapping import run_fused
from edgecompile.stages.base import NOTHING, Context, Outcome, Progress
from edgecompile.task import AUTOENCODER, CLASSIFICATION, Array, Arrays, Metric, Split, Task, align
from edgecompile.tflite_file import read

_GOLDEN_SAMPLES = 16
_GOLDEN_BYTES = 4 << 20  # large inputs: fewer samples, but never fewer than two
_CHUNK = 1024


@dataclass(frozen=True)
class Baseline:
    """The float model as it came: its metric on validation and test samples, and golden inputs and outputs."""

    name: ClassVar[str] = "baseline"
    accepts: ClassVar[Mapping[str, str]] = {kind: kind for kind in (KERAS, KERAS3, SAVED_MODEL, TFLITE)}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = True
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"task", "options"})

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        source = ctx.load(artifact)
        if ctx.task is not None:
            check_fits(ctx.task, artifact.signature)
        inputs = golden_inputs(ctx.task, artifact.signature, ctx.seed)
        outputs = source.predict(inputs)
        check_finite(outputs, "the source model's outputs on golden inputs")
        path = ctx.out / "golden.npz"
        golden.write(path, {golden.INPUTS: inputs, golden.FLOAT: outputs})
        metrics: dict[str, Any] = {"golden_inputs": "data" if ctx.task else "random"}
        files = {"golden": path}
        task = ctx.task
        if task is not None and task.metric is not None:
            if task.test is None or task.test.y is None:
                raise DataError(f"task {task.name!r} has a metric but no labelled test set")
            x = samples(task.test, artifact.signature)
            predicted = _chunked(source.predict, x, ctx.report, "test set")
            check_finite(predicted, "the source model's outputs on the test set")
            metrics["test"] = task.metric.score(task.test.y, predicted, x)
            metrics["test_samples"] = len(next(iter(task.test.y.values())))
            metrics["answers"] = answers.told(task, task.test.y, predicted, x)
            files["test_outputs"] = ctx.out / "test_outputs.npz"
            save_arrays(files["test_outputs"], predicted)
            known, judged = _validated(task, artifact.signature, source.predict, ctx)
            metrics |= known
            if judged:
                files["validation_outputs"] = ctx.out / "validation_outputs.npz"
                save_arrays(files["validation_outputs"], dict(judged))
                metrics["training"] = _training_data(task, source, ctx.seed)
        notes = (f"the model {told}",) if (told := metrics.get("answers")) else ()
        return Outcome(artifact.kind, files, artifact.signature, metrics, notes)


@dataclass(frozen=True)
class Resolution:
    """How well the validation split tells a model from the float one: a paired 95% interval of the metric."""

    name: ClassVar[str] = "resolution"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = False
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"task"})

    baseline_outputs: str

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        task = ctx.require_task()
        assert task.metric is not None
        _, held = task.split(ctx.seed)
        assert held.y is not None
        x = samples(held, artifact.signature)
        outputs = _chunked(LiteRtRunner(artifact.model, threads=2).run_real, x, ctx.report, "validation")
        before = load_inputs(Path(self.baseline_outputs))
        low, high = compare.paired_interval(task.metric, held.y, before, outputs, x, seed=ctx.seed)
        return Outcome(TFLITE, {}, artifact.signature, {"interval": [low, high], "samples": len(held)})


@dataclass(frozen=True)
class Parity:
    """Reference outputs of the .tflite, and each candidate's distance to them (design: parity gates).

    given: {a candidate's id: an .npz of its outputs}, of those that ran elsewhere.
    """

    name: ClassVar[str] = "verify"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = False
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"task"})

    candidates: tuple[Candidate, ...]
    golden: str
    given: Mapping[str, str] = field(default_factory=dict)

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        stored = golden.read(self.golden)
        inputs = stored[golden.INPUTS]
        model = read(artifact.model)
        reference = LiteRtRunner(artifact.model, reference_kernels(model)).run(inputs)
        check_finite(reference, "the converted model's outputs on golden inputs")
        path = ctx.out / "golden.npz"
        golden.write(path, {**stored, golden.REFERENCE: reference})
        xnnpack = LiteRtRunner(artifact.model, XNNPACK)
        known = xnnpack.run(inputs)
        specs = {spec.name: spec for spec in xnnpack.outputs}
        of = parity.outputs_of(model)
        builtin = None if of.floats or refusal(model, BUILTIN) else LiteRtRunner(artifact.model, BUILTIN).run(inputs)
        source = {name: stored[golden.FLOAT][name] for name in reference}
        verdicts, distances = {}, {}
        for candidate in self.candidates:
            if candidate.id in self.given:
                given = load_inputs(Path(self.given[candidate.id]))
            else:
                given = BACKENDS[candidate.backend].open(candidate).run(inputs)
            exact = bool(candidate.config.get("exact"))
            judged = parity.verdicts(given, reference, known, of, builtin=builtin, exact=exact)
            verdicts[candidate.id] = {name: asdict(verdict) for name, verdict in judged.items()}
            distances[candidate.id] = _distances(given, specs, source)
        metrics = {
            "parity": verdicts,
            "kernels": named_kernels(model),
            "distance": _distances(reference, specs, source),
            "distances": distances,
        }
        return Outcome(TFLITE, {"golden": path}, artifact.signature, metrics)


@dataclass(frozen=True)
class Test:
    """The final choice on the test set: run once, for the gate."""

    __test__ = False  # not a test class of pytest's

    name: ClassVar[str] = "test"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = False
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"task"})

    candidate: Candidate
    baseline_outputs: str
    given: str | None = None  # the candidate's outputs, where they were made on a board

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        task = ctx.require_task()
        if self.given is None:
            metric, labels, x, outputs = on_test_set(self.candidate, task, artifact.signature, ctx.report)
        else:
            metric, labels, x = test_set(task, artifact.signature)
            specs = {spec.name: spec for spec in artifact.signature.outputs}
            given = load_inputs(Path(self.given))
            outputs = {k: a if a.dtype.kind == "f" else dequantize(a, specs[k]) for k, a in given.items()}
            check_finite(outputs, "the converted model's outputs on the test set")
        with np.load(self.baseline_outputs) as saved:
            before = {name: saved[name] for name in saved.files}
        metrics = {
            **per_output.compared(metric, labels, before, outputs, x, ctx.seed),
            "outputs": per_output.compared_each(task, labels, before, outputs, x, ctx.seed),
            "engine": self.candidate.id,
            "answers": answers.told(task, labels, outputs, x),
        }
        notes = (f"the model {metrics['answers']}",) if metrics["answers"] else ()
        return Outcome(TFLITE, {}, artifact.signature, metrics, notes)


def on_test_set(
    candidate: Candidate, task: Task, signature: Signature, report: Callable[[Progress], None]
) -> tuple[Metric, Arrays, Arrays, Arrays]:
    """(metric, labels, inputs, the candidate's outputs in real numbers) on the whole test set."""
    metric, labels, x = test_set(task, signature)
    runner = BACKENDS[candidate.backend].open(dataclasses.replace(candidate, threads=2))
    outputs = _chunked(runner.run_real, x, report, "test set")
    check_finite(outputs, "the converted model's outputs on the test set")
    return metric, labels, x, outputs


def test_set(task: Task, signature: Signature) -> tuple[Metric, Arrays, Arrays]:
    """(metric, labels, inputs as the model takes them)"""
    if task.metric is None or task.test is None or task.test.y is None:
        raise DataError(f"task {task.name!r} has no labelled test set")
    return task.metric, task.test.y, samples(task.test, signature)


def test_inputs(source: DataSource, signature: Signature, *, report: Callable[[Progress], None]) -> Arrays:
    """The test set's inputs. In the worker: it may run a user's function."""
    del report
    task = data.load(source, data.expected(signature))
    return test_set(task, signature)[2]


def check_fits(task: Task, signature: Signature) -> None:
    """DataError where the model can't take the task's samples or give its labels."""
    for split in (task.train, task.test):
        if split is not None:
            align(split.x, signature.inputs)
    check_labels(task, signature)


def golden_inputs(task: Task | None, signature: Signature, seed: int) -> dict[str, Array]:
    """A few real inputs of the task in the model's dtypes; seeded random ones where there is no data.

    Those for a quantized input are quantized, so that whatever runs the model is fed the same integers.
    """
    if task is None:
        rng = np.random.default_rng(seed)
        return {t.name: _random(t, rng) for t in signature.inputs}
    split = task.test or task.train
    if split is None:
        raise DataError(f"task {task.name!r} has no samples at all")
    x = align(split.x, signature.inputs)
    each = sum(a[0].size * np.dtype(t.dtype).itemsize for a, t in zip(x.values(), signature.inputs, strict=True))
    n = max(2, min(_GOLDEN_SAMPLES, _GOLDEN_BYTES // max(1, each)))
    # spread over the split: files sorted by class would give one class only
    index = np.linspace(0, len(split) - 1, min(n, len(split))).astype(int)
    return {t.name: quantize(x[t.name][index], t).astype(t.dtype) for t in signature.inputs}


def _random(spec: TensorInfo, rng: np.random.Generator) -> Array:
    sizes = (_GOLDEN_SAMPLES, *(abs(d) for d in spec.shape[1:]))
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        return rng.uniform(0, 1, sizes).astype(spec.dtype)
    if spec.scale is not None:  # its scale was made for the values it gets: all of them may come
        info = np.iinfo(spec.dtype)
        return rng.integers(info.min, info.max, sizes, endpoint=True).astype(spec.dtype)
    return rng.integers(0, 2, sizes).astype(spec.dtype)


def samples(split: Split, signature: Signature) -> dict[str, Array]:
    """A split's inputs keyed as the signature's, in the data's own dtype (cast chunk by chunk, later)."""
    return align(split.x, signature.inputs)


def validation(task: Task, signature: Signature, predict: Any, ctx: Context) -> dict[str, Any]:
    """The metric on the validation split, where it can be told there; a reconstruction error for autoencoders."""
    return _validated(task, signature, predict, ctx)[0]


def _validated(task: Task, signature: Signature, predict: Any, ctx: Context) -> tuple[dict[str, Any], Arrays]:
    """(what `validation` gives, the outputs that the task's metric judged, none where it judged none)"""
    if task.train is None or task.metric is None:
        return {}, {}
    _, held = task.split(ctx.seed)
    x = samples(held, signature)
    outputs = _chunked(predict, x, ctx.report, "validation")
    if task.kind == AUTOENCODER:
        pairs = zip(signature.inputs, signature.outputs, strict=True)
        errors = [np.mean((outputs[o.name] - x[i.name]) ** 2) for i, o in pairs]
        return {"validation": float(np.mean(errors)), "validation_metric": "mse"}, {}
    if held.y is None:
        return {}, {}
    score = task.metric.score(held.y, outputs, x)
    if math.isnan(score):
        raise DataError(
            f"{task.metric.name} has no value on the {len(held)} validation samples: no label is there in any",
            hint="give more training samples, or x_val and y_val",
        )
    known: dict[str, Any] = {
        "validation": score,
        "validation_metric": task.metric.name,
        "validation_samples": len(held),
    }
    if each := per_output.scores(task, held.y, outputs, x):
        known["validation_outputs"] = each
    return known, outputs


def _training_data(task: Task, source: SourceModel, seed: int) -> dict[str, int | None]:
    """How much there is to train with, and how much there is to train: samples, classes (None where labels are no
    class numbers) and parameters (None for a format that can't be trained)."""
    fit, _ = task.split(seed)
    labels = list((fit.y or {}).values())
    single = labels[0] if len(labels) == 1 and task.kind == CLASSIFICATION else None
    classes = len(np.unique(single)) if single is not None and single.ndim == 1 and single.dtype.kind in "iu" else None
    weights = getattr(source.model, "trainable_variables", None) if source.kind in (KERAS, KERAS3) else None
    parameters = None if weights is None else int(sum(math.prod(w.shape) for w in weights))
    return {"samples": len(fit), "classes": classes, "parameters": parameters}


def check_finite(outputs: Arrays, what: str) -> None:
    for name, array in outputs.items():
        bad = int(np.sum(~np.isfinite(array))) if np.issubdtype(array.dtype, np.floating) else 0
        if bad:
            raise NonFiniteError(
                f"{what}: {bad} of {array.size} values of {name!r} are NaN or infinite",
                hint="check the weights and the scale of the data",
            )


def keras_predictor(model: Any, signature: Signature) -> Any:
    """`predict(x) -> outputs` of a tf-keras model held in memory."""

    def predict(x: Arrays) -> dict[str, Array]:
        arrays = [x[t.name].astype(t.dtype) for t in signature.inputs]

        def run() -> Any:
            return model.predict_on_batch(arrays[0] if len(arrays) == 1 else arrays)

        def again() -> Any:
            model.predict_function = None
            return run()

        outputs = run_fused(run, again)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        return {t.name: np.asarray(o) for t, o in zip(signature.outputs, outputs, strict=True)}

    return predict


def predictor(artifact: Artifact, ctx: Context) -> Any:
    """`predict(x) -> outputs` for an artifact of any kind."""
    if artifact.kind == QAT:
        from edgecompile.quantization_aware import load_quantization_aware

        return keras_predictor(load_quantization_aware(artifact, ctx), artifact.signature)
    if artifact.kind == TFLITE:
        return LiteRtRunner(artifact.model, threads=2).run_real
    return ctx.load(artifact).predict


def _chunked(predict: Any, x: Arrays, report: Callable[[Progress], None], what: str) -> dict[str, Array]:
    n = len(next(iter(x.values())))
    parts: list[dict[str, Array]] = []
    for start in range(0, n, _CHUNK):
        parts.append(predict({name: array[start : start + _CHUNK] for name, array in x.items()}))
        report(Progress(what, min(n, start + _CHUNK), n))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _distances(outputs: Arrays, specs: Mapping[str, TensorInfo], source: Arrays) -> dict[str, dict[str, float]]:
    """By output, of outputs as a model gives them."""
    return {name: distance(dequantize(array, specs[name]), source[name]) for name, array in outputs.items()}


def distance(real: Array, source: Array) -> dict[str, float]:
    """How far the compressed model is from the float one on golden inputs: reported, seldom gated."""
    span = float(np.ptp(source)) or 1.0
    return {
        "max_abs": float(np.max(np.abs(real - source))),
        "relative": float(np.max(np.abs(real - source))) / span,
        "cosine": compare.cosine(real, source),
    }
