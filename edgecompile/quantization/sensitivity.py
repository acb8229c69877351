"""How much the output suffers when one operator alone is quantized: no labels, few samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import compare
from edgecompile.backends.litert import LiteRtRunner
from edgecompile.quantization.calibration import Sample
from edgecompile.quantization.engine import FloatModel
from edgecompile.quantization.operators import Place
from edgecompile.quantization.schemes import FLOAT

Array = np.typing.NDArray[Any]


def output_snr(
    model: FloatModel,
    scheme: str,
    candidates: Sequence[Place],
    samples: Sequence[Sample],
    scratch: Path,
    report: Callable[[int, int], None],
) -> dict[Place, float]:
    """{operator: SNR in dB of the model's outputs, the worst of them, when it alone has `scheme`}; higher is better.

    Everything else stays float, so an operator's own error is seen: of its weights, of its result, and of what it
    reads. The opposite, all quantized but one, tells nothing where several operators do harm, since the harm of the
    rest hides what one more in float would save (on a MobileNetV2 with rescaled channels, keeping the 30 operators
    that it ranks first brought accuracy from 51 to 67 percent, against 84 with this ranking; 86.5 in float). Dong et
    al., "HAWQ" (ICCV 2019), and others rank layers by a Hessian, which needs labels and gradients; a .tflite has
    neither. report: called with (done, total).
    """
    inputs = {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}
    reference = LiteRtRunner(model.file.path, threads=2).run_real(inputs)
    path = scratch / "alone.tflite"
    found = {}
    for done, place in enumerate(candidates, 1):
        rest = {other: FLOAT for other in candidates if other != place}
        model.quantize(scheme, "float", rest, path)
        found[place] = _worst(LiteRtRunner(path, threads=2).run_real(inputs), reference)
        report(done, len(candidates))
    path.unlink()
    return found


def _worst(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """-inf where an output isn't finite any more."""
    if not all(np.isfinite(array).all() for array in outputs.values()):
        return -math.inf
    return min(compare.snr_db(array, reference[name]) for name, array in outputs.items())
