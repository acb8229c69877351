"""Ways through TensorFlow's converter: the usual one, and those for what it refuses."""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgecompile.artifact import Signature
from edgecompile.errors import ConversionError

Serve = Callable[[Sequence[Any]], Sequence[Any]]

# Of erf(x) = x P(x²) / Q(x²) on [-4, 4], to a unit in the last place or two: Eigen's coefficients, highest power first.
_ERF_P = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
          -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)  # fmt: skip
_ERF_Q = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
          -1.42647390514189e-02)  # fmt: skip


def convert_by_any(
    call: Serve, variables: Sequence[Any], signature: Signature, int8_io: bool | None
) -> tuple[bytes, tuple[str, ...]]:
    """(the .tflite of `call`, a note on the way it took where that isn't the usual one).

    int8_io: as in `edgecompile.stages.convert.convert`
    ConversionError with the converter's reason on the usual way, where all are refused.
    """
    reason: Exception | None = None
    for note, way in _WAYS.items():
        try:
            content = way(call, variables, signature, int8_io)
        except Exception as problem:  # the converter raises a class of its own for each of its passes
            reason = reason or problem
            continue
        return content, (f"TensorFlow's converter took the model {note}: {first_error(reason)}",) if reason else ()
    assert reason is not None
    raise ConversionError(
        f"TensorFlow's converter refused the model: {first_error(reason)}",
        hint="an operator TFLite lacks has to be replaced in the model",
    ) from reason


def first_error(problem: Exception) -> str:
    """The line of the converter's message that names the operator, without the passes' dumps."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    named = [line for line in lines if "error:" in line or "is not supported" in line or "failed" in line]
    return (named or lines or [type(problem).__name__])[0][:400]


def trace(call: Serve, variables: Sequence[Any], signature: Signature) -> tuple[Any, Any]:
    """(a module that keeps the variables alive, its one function): `serving_default` by the signature's names."""
    import tensorflow as tf

    holder = tf.Module()
    holder.held = list(variables)
    specs = [tf.TensorSpec(t.shape, t.dtype, name=t.name) for t in signature.inputs]
    outputs = [t.name for t in signature.outputs]

    def serve(*arguments: Any) -> dict[str, Any]:
        return dict(zip(outputs, call(arguments), strict=True))

    holder.serve = tf.function(serve)
    return holder, holder.serve.get_concrete_function(*specs)


def _usual(call: Serve, variables: Sequence[Any], signature: Signature, int8_io: bool | None) -> bytes:
    import tensorflow as tf

    holder, concrete = trace(call, variables, signature)
    return _finish(tf.lite.TFLiteConverter.from_concrete_functions([concrete], holder), int8_io)


def _substituted(call: Serve, variables: Sequence[Any], signature: Signature, int8_io: bool | None) -> bytes:
    with _substitutes():
        return _usual(call, variables, signature, int8_io)


def _frozen(call: Serve, variables: Sequence[Any], signature: Signature, int8_io: bool | None) -> bytes:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    _, concrete = trace(call, variables, signature)
    frozen = convert_variables_to_constants_v2(concrete)
    return _finish(tf.lite.TFLiteConverter.from_concrete_functions([frozen], frozen), int8_io)


def _saved(call: Serve, variables: Sequence[Any], signature: Signature, int8_io: bool | None) -> bytes:
    import tensorflow as tf

    holder, concrete = trace(call, variables, signature)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(holder, folder, signatures=concrete)
        return _finish(tf.lite.TFLiteConverter.from_saved_model(folder), int8_io)


def _finish(converter: Any, int8_io: bool | None) -> bytes:
    import tensorflow as tf

    if int8_io is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if int8_io:
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
    content: bytes = converter.convert()
    return content


@contextlib.contextmanager
def _substitutes() -> Iterator[None]:
    """Functions of Keras 3 that TFLite has no operator for, made of such as it has while the model is traced.

    argmax and argmin ask for the sign bit of zeros: here -0 is 0. erf is a quotient of polynomials.
    """
    import tensorflow as tf

    def signbit(x: Any) -> Any:
        return tf.less(x, 0)

    def erf(x: Any) -> Any:
        x = tf.clip_by_value(tf.cast(x, tf.float32), -4.0, 4.0)
        square = x * x
        return x * _polynomial(_ERF_P, square) / _polynomial(_ERF_Q, square)

    backend = "keras.src.backend.tensorflow"
    with contextlib.ExitStack() as undo:
        if "keras" in sys.modules:
            for module, name, substitute in ((f"{backend}.numpy", "signbit", signbit), (f"{backend}.math", "erf", erf)):
                place = importlib.import_module(module)
                undo.callback(setattr, place, name, getattr(place, name))
                setattr(place, name, substitute)
        yield


def _polynomial(coefficients: Sequence[float], x: Any) -> Any:
    result = coefficients[0]
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result


_WAYS: dict[str, Callable[[Serve, Sequence[Any], Signature, bool | None], bytes]] = {
    "as it is": _usual,
    "with operators that TFLite has in place of Keras's": _substituted,
    "with its variables made constants": _frozen,
    "as a SavedModel": _saved,
}
