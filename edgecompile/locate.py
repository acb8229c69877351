"""Where a converter died.

A crash in native code leaves no Python error behind. But a model can be converted up to any of its layers, so the
first layer with which the converter dies is found by bisection, each try in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgecompile.artifact import KERAS, KERAS3, Signature, TensorInfo
from edgecompile.errors import EdgecompileError, WorkerCrashError
from edgecompile.job import Job
from edgecompile.stages.base import Progress
from edgecompile.stages.convert import convert, keras_call, variables_of
from edgecompile.worker import Worker


def crashing_layer(worker: Worker, job: Job, say: Callable[[str], None]) -> str:
    """ " at layer 'x' (Class)", or "" where it can't be known (no Keras graph, or the parts convert)."""
    if job.artifact is None or job.artifact.kind not in (KERAS, KERAS3):
        return ""
    say("the converter died; looking for the layer at which it does")
    try:
        layers = worker.call("listing layers", layer_names, job, report=_silent)
        low, high = 0, len(layers) - 1
        if _converts(worker, job, high):
            return ""
        while low < high:
            middle = (low + high) // 2
            if _converts(worker, job, middle):
                low = middle + 1
            else:
                high = middle
    except EdgecompileError:
        return ""  # what is looked for is help for the message; the crash itself is what gets raised
    name, kind = layers[low]
    return f", at layer {name!r} ({kind})"


def _converts(worker: Worker, job: Job, last: int) -> bool:
    try:
        worker.call("converting a part", convert_part, job, last, report=_silent)
    except WorkerCrashError:
        return False
    return True


def layer_names(job: Job, *, report: Callable[[Progress], None]) -> list[tuple[str, str]]:
    """(name, class) of each layer in topological order. In the worker."""
    del report
    return [(layer.name, type(layer).__name__) for layer in _load(job).layers]


def convert_part(job: Job, last: int, *, report: Callable[[Progress], None]) -> None:
    """Convert the model up to its layer number `last`. In the worker, which may die of it."""
    del report
    import keras
    import tf_keras

    assert job.artifact is not None
    model = _load(job)
    framework = tf_keras if isinstance(model, tf_keras.Model) else keras
    part: Any = framework.Model(model.inputs, model.layers[last].output)
    inputs = job.artifact.signature.inputs
    count = len(part.outputs)
    outputs = tuple(TensorInfo(f"output_{i}", (), "float32") for i in range(count))
    convert(keras_call(part), variables_of(part), Signature(inputs, outputs))


def _load(job: Job) -> Any:
    from edgecompile import loaders

    assert job.artifact is not None
    return loaders.load(job.artifact.model, job.settings.options).model


def _silent(progress: Progress) -> None:
    del progress
