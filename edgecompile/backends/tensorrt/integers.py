"""An ONNX graph in symmetric int8, as TensorRT takes it: scales with the graph, and no zero points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecompile.backends.onnx.graph import check_symmetric
from edgecompile.errors import ConversionError
from edgecompile.task import Array

# Where TensorRT has int8 kernels that pay off. What is between them stays as it is and runs in float16.
_OPERATORS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,  # TensorRT adds biases in float
    "AddQDQPairToWeight": True,  # TensorRT 8 quantizes weights itself, and takes no int8 ones
    "OpTypesToExcludeOutputQuantization": _OPERATORS,
    "QDQOpTypePerChannelSupportToAxis": {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": -1},
}


def quantize(graph: Path, samples: Sequence[Mapping[str, Array]], out: Path) -> None:
    """Write `graph` to `out` with QuantizeLinear and DequantizeLinear at the inputs of its convolutions and products:
    int8 activations with a scale for each tensor, int8 weights with one for each output channel, all zero points 0.

    samples: {input: [1, ...]}, whose widest values make the ranges. ONNX Runtime's quantizer does the work.
    Errors: ConversionError with its reason; UnsupportedLayerError where it gave zero points after all.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    try:
        quantize_static(
            str(graph),
            str(out),
            _Reader(samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options=_OPTIONS,
        )
    except Exception as problem:  # ValueError, RuntimeError and classes of ONNX's own
        raise ConversionError(
            f"ONNX Runtime could not quantize the graph: {problem}",
            hint="recipe float16 runs TensorRT in half precision; --backends litert leaves it out",
        ) from problem
    check_symmetric(onnx.load(str(out)))


class _Reader:
    """Samples as ONNX Runtime's calibrators ask for them, one at a time until None."""

    def __init__(self, samples: Sequence[Mapping[str, Array]]) -> None:
        self._samples: Iterator[Mapping[str, Array]] = iter(samples)

    def get_next(self) -> Any:
        return next(self._samples, None)
