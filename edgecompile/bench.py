"""`edgecompile bench`: bundles and .tflite files, timed on this machine or on boards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import bundle, data, golden
from edgecompile.artifact import Signature, TensorInfo
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate, without_threads
from edgecompile.backends.litert import BUILTIN, XNNPACK
from edgecompile.data import DataSource
from edgecompile.devices.base import Device
from edgecompile.devices.local import LocalDevice
from edgecompile.devices.sustained import first_seconds, ranking
from edgecompile.errors import BundleError, ModelError
from edgecompile.loaders.interpreter import dequantize
from edgecompile.measure import Measurement, run
from edgecompile.stages.base import Progress
from edgecompile.stages.evaluate import golden_inputs
from edgecompile.task import Array
from edgecompile.tflite_file import read
from edgecompile.worker import Worker

BOTH = "both"
KERNELS = (XNNPACK, BUILTIN, BOTH)
_SEED = 0

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Options:
    """threads, kernels: None takes the winner's for a bundle; one thread and XNNPACK for a file.

    runs: timed ones, at least; the runner goes on until half a second was spent. data: as --data.
    sustain: seconds at most of a sustained run, in place of `runs`; 0 is none. cpus: as BenchJob's.
    """

    threads: int | None = None
    kernels: str | None = None
    runs: int = 200
    warmup: int = 20
    data: str | None = None
    sustain: float = 0.0
    cpus: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Subject:
    """A model and how to run it. golden: the bundle's golden inputs, None for a bare file."""

    name: str
    candidates: tuple[Candidate, ...]
    signature: Signature
    golden: dict[str, Array] | None


@dataclass(frozen=True)
class Group:
    """Candidates that take the same inputs and so were run interleaved. `inputs` says where those came from."""

    inputs: str
    measurement: Measurement

    def to_json(self) -> dict[str, Any]:
        found = self.measurement
        figures = [figure.to_json() for name in found.results for figure in found.figures(name, name)]
        return {
            "inputs": self.inputs,
            "figures": figures,
            "environment": dict(found.environment),
            "throttled": list(found.throttled),
            "busy": found.busy,
            "windows": list(found.windows),
            "ranking": _ranking(found.windows) if found.windows else None,
            "skipped": dict(found.skipped),
        }


def _ranking(windows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a sustained run, as `--json` has it: the fastest at the end first."""
    rows = [
        {
            "of": row.id,
            "first_p50_ms": row.first,
            "first_place": row.first_place,
            "last_p50_ms": row.last,
            "last_place": row.last_place,
            "change": row.change,
        }
        for row in ranking(windows)
    ]
    return {"first_seconds": first_seconds(windows), "last_seconds": windows[-1]["at"], "rows": rows}


@dataclass(frozen=True)
class Work:
    """Candidates that take the same inputs, and these. The same work can be done on several devices."""

    candidates: tuple[Candidate, ...]
    inputs: Mapping[str, Array]
    origin: str


def prepare(paths: Sequence[Path], options: Options, worker: Worker, *, report: Report) -> list[Work]:
    """What is to be measured of bundles and .tflite files: those with equal input shapes interleaved.

    Errors: ModelError and BundleError for what can't be measured, ChangedFileError for files that a bundle wasn't built
    with, DataError for --data.
    """
    source = data.resolve(options.data) if options.data else None
    subjects = [_subject(path, options) for path in dict.fromkeys(paths)]
    return [_work(group, source, worker, report) for group in _groups(subjects)]


def bench(work: Sequence[Work], options: Options, *, report: Report, device: Device | None = None) -> list[Group]:
    """Measure it on a device, None for this machine; DeviceError where LiteRT, or the device, fails."""
    where = device or LocalDevice()
    return [
        Group(
            each.origin,
            run(
                where,
                each.candidates,
                each.inputs,
                runs=options.runs,
                warmup=options.warmup,
                report=report,
                sustain=options.sustain,
                cpus=options.cpus,
            ),
        )
        for each in work
    ]


def _subject(path: Path, options: Options) -> Subject:
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder", hint="give a bundle's folder or a .tflite file")
    file = path / bundle.MODEL if path.is_dir() else path
    if not path.is_dir():
        return Subject(str(path), _litert(path, file, options, options.threads or 1), read(file).signature, None)
    manifest = bundle.open_bundle(path)
    winner = bundle.winner(manifest)
    bundle.unchanged(path, manifest, *sorted(bundle.loaded_files(manifest)))
    if winner["backend"] not in BACKENDS:
        raise BundleError(
            f"{path}: no backend {winner['backend']!r} in this edgecompile, it has {', '.join(BACKENDS)}",
            hint="use the edgecompile it was built with, or measure its model.tflite",
        )
    signature = read(file).signature
    try:
        threads = options.threads or int(winner["threads"])
        # The name that --kernels has for it: `litert-xnnpack` of the backend `litert` is `xnnpack`.
        name = f"{path} {without_threads(winner['id']).removeprefix(winner['backend'] + '-')}"
        won = Candidate(name, winner["backend"], path / winner["file"], threads, dict(winner["config"]))
        inputs = _golden(path / bundle.GOLDEN, signature)
    except (*golden.DAMAGED, TypeError, AttributeError) as problem:
        raise BundleError(f"{path} is damaged: {problem}", hint=f"see `edgecompile verify {path}`") from None
    candidates = _litert(path, file, options, threads) if options.kernels else (won,)
    return Subject(str(path), candidates, signature, inputs)


def _litert(path: Path, file: Path, options: Options, threads: int) -> tuple[Candidate, ...]:
    kernels = options.kernels or XNNPACK
    chosen = (XNNPACK, BUILTIN) if kernels == BOTH else (kernels,)
    return tuple(Candidate(f"{path} {name}", "litert", file, threads, {"xnnpack": name == XNNPACK}) for name in chosen)


def _golden(path: Path, signature: Signature) -> dict[str, Array]:
    """The golden inputs as real numbers: other models of the group quantize them in their own way."""
    arrays = golden.read(path, golden.INPUTS)[golden.INPUTS]
    specs = {t.name: t for t in signature.inputs}
    quantized = {name for name, array in arrays.items() if str(array.dtype) == specs[name].dtype}
    return {name: dequantize(array, specs[name]) if name in quantized else array for name, array in arrays.items()}


def _groups(subjects: Sequence[Subject]) -> Iterator[list[Subject]]:
    """By inputs: one set of samples serves all of a group."""
    groups: dict[object, list[Subject]] = {}
    for subject in subjects:
        inputs = subject.signature.inputs
        names = [t.name for t in inputs] if len(inputs) > 1 else []  # the runner takes an only input by any name
        kinds = [np.dtype(_real(t).dtype).kind for t in inputs]
        # threads: figures carry one number for a group
        key = (subject.candidates[0].threads, *names, *kinds, *(t.shape[1:] for t in inputs))
        groups.setdefault(key, []).append(subject)
    yield from groups.values()


def _work(group: Sequence[Subject], source: DataSource | None, worker: Worker, report: Report) -> Work:
    first = next((subject for subject in group if subject.golden), group[0])
    signature = dataclasses.replace(first.signature, inputs=tuple(_real(t) for t in first.signature.inputs))
    if source is not None:
        inputs: Mapping[str, Array] = worker.call("reading the data", samples, source, signature, report=report)
        origin = f"samples of {source.spec}"
    elif first.golden:
        inputs, origin = first.golden, f"golden inputs of {first.name}"
    else:
        inputs = golden_inputs(None, signature, _SEED)
        origin = f"random numbers (seed {_SEED}); give --data for real ones"
    return Work(tuple(candidate for subject in group for candidate in subject.candidates), inputs, origin)


def _real(tensor: TensorInfo) -> TensorInfo:
    """A quantized input is fed real numbers, which the runner quantizes."""
    return tensor if tensor.scale is None else dataclasses.replace(tensor, dtype="float32", scale=None, zero_point=None)


def samples(source: DataSource, signature: Signature, *, report: Report) -> dict[str, Array]:
    """A few inputs of the source's task, for the model's signature. In the worker: it may run a user's function."""
    del report
    task = data.load(source, data.expected(signature))
    return golden_inputs(task, signature, _SEED)
