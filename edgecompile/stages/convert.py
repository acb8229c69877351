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
from edgecompile.recurrent import FORMS, converted_as, count_steps, forms, recurrent_layers
from edgecompile.stages.base import NOTHING, Context, Outcome, require
from edgecompile.stages.converter_routes import Serve, convert_by_any, trace
from edgecompile.stages.evaluate import golden_inputs
from edgecompile.tflite_file import in_order, read, with_even_splits

# The file that says in which form recurrent layers are being converted, and which are left if the converter dies of it.
FORMS_IN_WORK = "recurrent"
_FAITHFUL = 1e-3  # of the output's range: float32 summed in another order, through many layers


@dataclass(frozen=True)
class Convert:
    """TensorFlow's converter. A model that comes quantization-aware becomes int8, any other stays float32.

    recurrent: the form of recurrent layers (recurrent.py) to try first, "" for the one that their steps suggest.
    avoid: forms of which the converter died here.
    """

    name: ClassVar[str] = "convert"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: TFLITE, KERAS3: TFLITE, SAVED_MODEL: TFLITE, QAT: TFLITE}
    judged: ClassVar[bool] = True
    tensorflow: ClassVar[bool] = True
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"io", "options", "task"})

    recurrent: str = ""
    avoid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = " or ".join(map(repr, FORMS))
        require(self.name, recurrent=(self.recurrent, self.recurrent in ("", *FORMS), expected))

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        path = ctx.out / "model.tflite"
        if artifact.kind == QAT:
            model = load_quantization_aware(artifact, ctx)

            # As it was converted before it trained: what it promises was looked for in that form.
            made, notes = convert_by_any(keras_call(model), variables_of(model), artifact.signature, ctx.io == "int8")
            path.write_bytes(made)
        else:
            source = ctx.load(artifact)
            inputs = golden_inputs(ctx.task, artifact.signature, ctx.seed)

            def faithfully() -> tuple[str, ...]:
                made, route = convert_by_any(source.call, variables_of(source.model), artifact.signature, None)
                path.write_bytes(made)
                _check_faithful(source, path, inputs)
                return route

            notes = self._convert(source.model, artifact, ctx, faithfully)
        result = with_even_splits(read(path), path)
        if names(result.signature) != names(artifact.signature):
            result = read(in_order(result, artifact.signature, path))
        metrics: dict[str, Any] = {"bytes": path.stat().st_size}
        if artifact.kind == QAT:
            left = check_integer(result, artifact.meta["float_layers"])
            notes += (f"operators with weights in float: {', '.join(left)}",) if left else ()
            metrics["kept"] = promises.check(result, artifact.meta["promised"])
        return Outcome(TFLITE, {"model": path}, result.signature, metrics, notes)

    def _convert(
        self, model: Any, artifact: Artifact, ctx: Context, conversion: Callable[[], tuple[str, ...]]
    ) -> tuple[str, ...]:
        """Run `conversion` with recurrent layers in the first form in which it passes; notes that name the form."""
        layers = [] if artifact.kind == SAVED_MODEL else recurrent_layers(model)
        if not layers:
            return conversion()
        steps = count_steps(layers, lambda: trace(keras_call(model), variables_of(model), artifact.signature))
        notes = [f"not {form}: the converter died" for form in self.avoid]
        problem = None
        left = [form for form in forms(layers, steps, self.recurrent) if form not in self.avoid]
        for number, form in enumerate(left):
            (ctx.work / FORMS_IN_WORK).write_text(" ".join(left[number:]))
            try:
                with converted_as(form, layers):
                    route = conversion()
            except ConversionError as refused:
                problem = problem or refused
                notes.append(f"not {form}: {refused.message}")
                continue
            described = ", ".join(_with_steps(layer.name, steps) for layer in layers)
            return f"recurrent layers {form}: {described}", *notes, *route
        raise problem or ConversionError("recurrent layers: there is no form left to convert them in")


def _with_steps(layer: str, steps: Mapping[str, int]) -> str:
    return f"{layer} ({steps[layer]} steps)" if layer in steps else layer


def names(signature: Signature) -> tuple[list[str], list[str]]:
    return [t.name for t in signature.inputs], [t.name for t in signature.outputs]


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
    return convert_by_any(call, variables, signature, int8_io)[0]


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
