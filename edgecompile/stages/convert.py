"""Keras or SavedModel to .tflite, with a static batch and stable names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgecompile import promises
from edgecompile.artifact import KERAS, KERAS3, QAT, SAVED_MODEL, TFLITE, Artifact, Signature
from edgecompile.backends.litert import LiteRtRunner, reference_kernels
from edgecompile.errors import ConversionError
from edgecompile.loaders.base import SourceModel, call_keras
from edgecompile.quantization_aware import check_integer, load_quantization_aware
from edgecompile.stages.base import NOTHING, Context, Outcome
from edgecompile.stages.evaluate import golden_inputs
from edgecompile.tflite_file import in_order, read

_FAITHFUL = 1e-3  # of the output's range: float32 summed in another order, through many layers


@dataclass(frozen=True)
class Convert:
    """TensorFlow's converter. A model that comes quantization-aware becomes int8, any other stays float32."""

    name: ClassVar[str] = "convert"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: TFLITE, KERAS3: TFLITE, SAVED_MODEL: TFLITE, QAT: TFLITE}
    judged: ClassVar[bool] = True
    tensorflow: ClassVar[bool] = True
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"io", "options", "task"})

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        path = ctx.out / "model.tflite"
        if artifact.kind == QAT:
            model = load_quantization_aware(artifact, ctx)
            path.write_bytes(
                convert(keras_call(model), variables_of(model), artifact.signature, int8_io=ctx.io == "int8")
            )
        else:
            source = ctx.load(artifact)
            path.write_bytes(convert(source.call, variables_of(source.model), artifact.signature))
            _check_faithful(source, path, golden_inputs(ctx.task, artifact.signature, ctx.seed))
        result = read(path)
        if names(result.signature) != names(artifact.signature):
            result = read(in_order(result, artifact.signature, path))
        metrics: dict[str, Any] = {"bytes": path.stat().st_size}
        notes: tuple[str, ...] = ()
        if artifact.kind == QAT:
            left = check_integer(result, artifact.meta["float_layers"])
            notes = (f"operators with weights in float: {', '.join(left)}",) if left else ()
            metrics["kept"] = promises.check(result, artifact.meta["promised"])
        return Outcome(TFLITE, {"model": path}, result.signature, metrics, notes)


def names(signature: Signature) -> tuple[list[str], list[str]]:
    return [t.name for t in signature.inputs], [t.name for t in signature.outputs]


Serve = Callable[[Sequence[Any]], Sequence[Any]]


def variables_of(model: Any) -> list[Any]:
    """The TensorFlow variables of a model or function. Keras 3 wraps them, and the converter wouldn't see them."""
    import tensorflow as tf

    return [v if isinstance(v, tf.Variable) else v.value for v in model.variables]


def keras_call(model: Any) -> Serve:
    """A Keras model as a function from its tensors, in order, to its outputs."""
    import tensorflow as tf

    return lambda tensors: tf.nest.flatten(call_keras(model, tensors))


def convert(call: Serve, variables: Sequence[Any], signature: Signature, *, int8_io: bool | None = None) -> bytes:
    """The .tflite of `call`: `serving_default` takes and gives tensors by the signature's names.

    int8_io: None for a float model; else the model is quantization-aware, and this says whether its inputs and
    outputs are int8 too. Errors: ConversionError with the converter's own reason.
    """
    import tensorflow as tf

    holder = tf.Module()
    holder.held = list(variables)
    specs = [tf.TensorSpec(t.shape, t.dtype, name=t.name) for t in signature.inputs]
    outputs = [t.name for t in signature.outputs]

    def serve(*arguments: Any) -> dict[str, Any]:
        return dict(zip(outputs, call(arguments), strict=True))

    holder.serve = tf.function(serve)
    concrete = holder.serve.get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], holder)
    if int8_io is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if int8_io:
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
    try:
        content: bytes = converter.convert()
    except Exception as problem:  # the converter raises a class of its own for each of its passes
        raise ConversionError(
            f"TensorFlow's converter refused the model: {_first_error(problem)}",
            hint="an operator TFLite lacks has to be replaced in the model",
        ) from problem
    return content


def _check_faithful(source: SourceModel, path: Path, inputs: dict[str, Any]) -> None:
    """A float conversion must compute what its source does; converters have been seen to lose weights."""
    expected = source.predict(inputs)
    received = LiteRtRunner(path, reference_kernels(read(path))).run(inputs)
    for name, array in expected.items():
        span = float(np.ptp(array)) or 1.0
        worst = float(np.max(np.abs(received[name] - array))) / span
        if not worst <= _FAITHFUL:
            raise ConversionError(
                f"the converted model's output {name!r} is {worst:.2g} of its range from the source model's, "
                f"at most {_FAITHFUL:g} was expected",
                hint="look for operators whose TFLite version differs (resizing, custom layers)",
            )


def _first_error(problem: Exception) -> str:
    """The line of the converter's message that names the operator, without the passes' dumps."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    named = [line for line in lines if "error:" in line or "is not supported" in line or "failed" in line]
    return (named or lines or [type(problem).__name__])[0][:400]
