"""Keras or SavedModel to .tflite, with a static batch and stable names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from edgecompile.artifact import KERAS, KERAS3, QAT, SAVED_MODEL, TFLITE, Artifact, Signature
from edgecompile.errors import ConversionError
from edgecompile.loaders.base import call_keras
from edgecompile.stages.base import NOTHING, Context, Outcome
from edgecompile.stages.qat import load_quantization_aware
from edgecompile.tflite_file import read


@dataclass(frozen=True)
class Convert:
    """TensorFlow's converter. A model that comes quantization-aware becomes int8, any other stays float32."""

    name: ClassVar[str] = "convert"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: TFLITE, KERAS3: TFLITE, SAVED_MODEL: TFLITE, QAT: TFLITE}
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"io"})

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        model = load_quantization_aware(artifact, ctx) if artifact.kind == QAT else ctx.load(artifact).model
        serve = _signature_call(model, artifact.signature) if artifact.kind == SAVED_MODEL else _keras_call(model)
        path = ctx.out / "model.tflite"
        path.write_bytes(convert(model, serve, artifact.signature, quantized=artifact.kind == QAT, io=ctx.io))
        return Outcome(TFLITE, {"model": path}, read(path).signature, {"bytes": path.stat().st_size})


Serve = Callable[[Sequence[Any]], Sequence[Any]]


def _keras_call(model: Any) -> Serve:
    import tensorflow as tf

    return lambda tensors: tf.nest.flatten(call_keras(model, tensors))  # type: ignore[no-any-return]


def _signature_call(function: Any, signature: Signature) -> Serve:
    def call(tensors: Sequence[Any]) -> Sequence[Any]:
        outputs = function(**{t.name: x for t, x in zip(signature.inputs, tensors, strict=True)})
        return [outputs[t.name] for t in signature.outputs]

    return call


def convert(model: Any, call: Serve, signature: Signature, *, quantized: bool, io: str) -> bytes:
    """The .tflite of `call`, whose variables `model` holds: `serving_default` takes and gives tensors by the
    signature's names.

    Errors: ConversionError with the converter's own reason.
    """
    import tensorflow as tf

    specs = [tf.TensorSpec(t.shape, t.dtype, name=t.name) for t in signature.inputs]
    outputs = [t.name for t in signature.outputs]

    def serve(*arguments: Any) -> dict[str, Any]:
        return dict(zip(outputs, call(arguments), strict=True))

    concrete = tf.function(serve).get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if io == "int8":
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


def _first_error(problem: Exception) -> str:
    """The line of the converter's message that names the operator, without the passes' dumps."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    named = [line for line in lines if "error:" in line or "is not supported" in line or "failed" in line]
    return (named or lines or [type(problem).__name__])[0][:400]


