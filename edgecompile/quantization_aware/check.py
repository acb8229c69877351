"""The untrained twin converted, and what is lost in it left in float by name: in seconds, before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import promises
from edgecompile.errors import ConversionError, UnsupportedLayerError
from edgecompile.quantization_aware.integer import in_float, kernels, within_model
from edgecompile.quantization_aware.placement import describe
from edgecompile.quantization_aware.ranges import calibrate
from edgecompile.quantization_aware.twin import Twin, quantization_aware
from edgecompile.task import Array
from edgecompile.tflite_file import TfliteModel, read
from edgecompile.ties import Ties

HINT = "take recipe int8 (post-training), which needs no change of the graph"


@dataclass(frozen=True)
class Settled:
    """A calibrated twin whose conversion holds what it says.

    in_float: layers that it had to leave in float for that, though the scheme has operators for them.
    floats: by name, all layers that compute in float in its .tflite, and what they are.
    file: its .tflite.
    """

    twin: Twin
    in_float: tuple[str, ...]
    floats: dict[str, str]
    file: TfliteModel

    @property
    def may_be_float(self) -> list[str]:
        """Names for the check of the trained model: layers, and operators whose names tell no layer."""
        unnamed = [within_model(name) for name in kernels(self.file).floats]
        return list(dict.fromkeys([*self.floats, *self.in_float, *self.twin.left, *unnamed]))


def settle(
    model: Any,
    ties: Mapping[str, Ties],
    batches: Iterable[Sequence[Array]],
    to_tflite: Callable[[Any], bytes],
    path: Path,
) -> Settled:
    """Make, calibrate and convert the twin until no kernel that it rounds is in float.

    model: a flat tf-keras model. batches: inputs in the model's order, [n, ...] each.
    to_tflite: the conversion that the trained twin will have. path: for its result.
    Errors: UnsupportedLayerError where nothing becomes int8, or the converter refuses the twin.
    """
    samples = list(batches)
    left: list[str] = []
    while True:
        twin = quantization_aware(model, ties, left)
        calibrate(twin.model, samples)
        try:
            path.write_bytes(to_tflite(twin.model))
        except ConversionError as problem:
            raise UnsupportedLayerError(
                f"the quantization-aware model can't be converted: {problem.message}", hint=HINT
            ) from problem
        file = read(path)
        found = kernels(file)
        lost = [name for name in twin.kernels if any(promises.is_of(output, name) for output in found.floats)]
        if not lost:
            break
        left += lost
    floats = {name: describe(model.get_layer(name)) for name in left} | in_float(file, twin.origins, twin.left)
    if not found.integer:
        named = ", ".join(f"{name} ({kind})" for name, kind in floats.items())
        raise UnsupportedLayerError(
            f"quantization-aware training can't quantize any layer of this model: {named}", hint=HINT
        )
    return Settled(twin, tuple(left), floats, file)
