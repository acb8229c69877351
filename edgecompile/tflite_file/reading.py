"""From the bytes of a .tflite file to the dataclasses of graph.py."""

from __future__ import annotations

import functools
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.errors import ModelError
from edgecompile.tflite_file import checks
from edgecompile.tflite_file.graph import NamedSignature, Operator, Quantization, Subgraph, Tensor, TfliteModel
from edgecompile.tflite_file.structure import Malformed, verify

# What the generated schema raises on options that aren't what their type says.
_SCHEMA_ERRORS = (struct.error, IndexError, TypeError, ValueError, OverflowError, AttributeError)

# Options whose numbers are members of an enumeration of the schema.
_ENUMERATIONS = {
    "padding": "Padding",
    "fused_activation_function": "ActivationFunctionType",
    "weights_format": "FullyConnectedOptionsWeightsFormat",
    "mode": "MirrorPadMode",
}
_TYPES = frozenset({
    "in_data_type", "out_data_type", "output_type", "out_type", "idx_out_type", "index_type",
    "quantized_bias_type",
})  # fmt: skip


def read(path: Path) -> TfliteModel:
    """Read and validate a .tflite file; ModelError, with what was expected and received, for anything wrong in it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ModelError(f"{path}: expected a .tflite file, received a folder") from None
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror}") from error
    if not content:
        raise ModelError(f"{path}: expected a .tflite file, received an empty file")
    try:
        verify(content)
        model = _model(path, content)
        checks.check(model)
    except Malformed as error:
        raise ModelError(f"{path}: {error}", hint="write or download the file again") from error
    return model


@functools.cache
def _schema() -> Any:
    # Here and not at the top: modules of this package import without LiteRT.
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


@functools.cache
def names(enumeration: str) -> dict[int, str]:
    """value -> name, of an enumeration of the schema."""
    members = vars(getattr(_schema(), enumeration))
    return {value: name for name, value in members.items() if isinstance(value, int)}


@functools.cache
def dtypes() -> dict[int, str]:
    """The schema's TensorType: number -> name of the type. NumPy's names are the schema's in lower case."""
    return {value: name.lower() for value, name in names("TensorType").items()}


def _model(path: Path, content: bytes) -> TfliteModel:
    model = _schema().Model.GetRootAs(content)
    if model.ExternalBuffersLength():
        raise Malformed("its weights are in other files, which is not supported; expected one file")
    buffers = tuple(_buffer(model.Buffers(i), i, content) for i in range(model.BuffersLength()))
    codes = [_code(model.OperatorCodes(i), i) for i in range(model.OperatorCodesLength())]
    return TfliteModel(
        path=path,
        subgraphs=tuple(_subgraph(model.Subgraphs(i), i, codes, buffers) for i in range(model.SubgraphsLength())),
        signatures=tuple(_signature(model.SignatureDefs(i)) for i in range(model.SignatureDefsLength())),
        description=_text(model.Description()),
        metadata=tuple(_text(model.Metadata(i).Name()) for i in range(model.MetadataLength())),
        size=len(content),
        buffers=buffers,
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _integers(vector: Any) -> tuple[int, ...]:
    """The schema's AsNumpy gives the number 0 for a vector that is absent."""
    return tuple(vector.tolist()) if isinstance(vector, np.ndarray) else ()


def _buffer(buffer: Any, index: int, content: bytes) -> npt.NDArray[np.uint8]:
    offset, size = buffer.Offset(), buffer.Size()
    if offset <= 1:  # 1 is a place-holder that writers leave when a buffer has no bytes outside the FlatBuffers part
        data = buffer.DataAsNumpy()
        return data if isinstance(data, np.ndarray) else np.zeros(0, np.uint8)
    if offset + size > len(content):
        raise Malformed(
            f"the file is truncated: buffer {index} should end at byte {offset + size}, "
            f"the file has {len(content)} bytes"
        )
    return np.frombuffer(content, np.uint8, size, offset)


def _code(code: Any, index: int) -> tuple[str, int, bool]:
    """(name, version, whether custom). Old files have the operator in a field of one byte, new ones in both."""
    number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
    name = names("BuiltinOperator").get(number)
    if name is None:
        known = max(names("BuiltinOperator"))
        raise Malformed(f"operator code {index}: expected an operator from 0 to {known}, received {number}")
    if name != "CUSTOM":
        return name, code.Version(), False
    if not code.CustomCode():
        raise Malformed(f"operator code {index}: a custom operator without a name")
    return _text(code.CustomCode()), code.Version(), True


def _subgraph(
    graph: Any, index: int, codes: list[tuple[str, int, bool]], buffers: tuple[npt.NDArray[np.uint8], ...]
) -> Subgraph:
    return Subgraph(
        index=index,
        name=_text(graph.Name()),
        tensors=tuple(_tensor(graph.Tensors(i), i, buffers) for i in range(graph.TensorsLength())),
        inputs=_integers(graph.InputsAsNumpy()),
        outputs=_integers(graph.OutputsAsNumpy()),
        operators=tuple(_operator(graph.Operators(i), i, codes) for i in range(graph.OperatorsLength())),
    )


def _tensor(tensor: Any, index: int, buffers: tuple[npt.NDArray[np.uint8], ...]) -> Tensor:
    name = _text(tensor.Name())
    where = f"tensor {index} ({name!r})"
    dtype = dtypes().get(tensor.Type())
    if dtype is None:
        raise Malformed(f"{where}: expected a type from 0 to {max(dtypes())}, received {tensor.Type()}")
    buffer = tensor.Buffer()
    if buffer >= len(buffers) and buffer:
        raise Malformed(f"{where}: expected a buffer below {len(buffers)}, received {buffer}")
    size = len(buffers[buffer]) if buffers else 0
    shape = _integers(tensor.ShapeAsNumpy())
    parameters = tensor.Quantization()
    return Tensor(
        index=index,
        name=name,
        shape=shape,
        shape_signature=_integers(tensor.ShapeSignatureAsNumpy()) or shape,
        dtype=dtype,
        buffer=buffer,
        buffer_size=size,
        is_constant=size > 0,
        quantization=_quantization(parameters, where) if parameters is not None else None,
        is_variable=bool(tensor.IsVariable()),
        is_sparse=tensor.Sparsity() is not None,
        quantization_bytes=0
        if parameters is None
        else 4 * (parameters.MinLength() + parameters.MaxLength() + parameters.ScaleLength())
        + 8 * parameters.ZeroPointLength(),
    )


def _quantization(parameters: Any, where: str) -> Quantization | None:
    """None where only minima and maxima are given. LiteRT wants a zero point for every scale."""
    scales = parameters.ScaleLength()
    if not scales:
        return None
    if parameters.ZeroPointLength() != scales:
        raise Malformed(
            f"{where}: expected {scales} zero points, one for each scale, received {parameters.ZeroPointLength()}"
        )
    return Quantization(
        tuple(parameters.ScaleAsNumpy().tolist()),
        tuple(parameters.ZeroPointAsNumpy().tolist()),
        parameters.QuantizedDimension(),
    )


def _operator(operator: Any, index: int, codes: list[tuple[str, int, bool]]) -> Operator:
    code = operator.OpcodeIndex()
    if code >= len(codes):
        raise Malformed(f"operator {index}: expected an operator code below {len(codes)}, received {code}")
    name, version, custom = codes[code]
    try:
        options = {} if custom else _options(operator)
    except _SCHEMA_ERRORS as error:
        raise Malformed(f"operator {index} ({name}): its options are damaged: {error}") from error
    return Operator(
        index,
        name,
        _integers(operator.InputsAsNumpy()),
        _integers(operator.OutputsAsNumpy()),
        version,
        options,
        custom,
        operator.CustomOptionsAsNumpy().tobytes() if custom and operator.CustomOptionsLength() else b"",
    )


def _options(operator: Any) -> dict[str, Any]:
    """All fields of the operator's options table (of the second one, where new operators keep theirs)."""
    schema = _schema()
    parsed = None
    if operator.BuiltinOptions() is not None:
        parsed = schema.BuiltinOptionsCreator(operator.BuiltinOptionsType(), operator.BuiltinOptions())
    elif operator.BuiltinOptions2() is not None:
        parsed = schema.BuiltinOptions2Creator(operator.BuiltinOptions2Type(), operator.BuiltinOptions2())
    if parsed is None:
        return {}
    return {(key := _snake(field)): _plain(key, value) for field, value in vars(parsed).items()}


@functools.cache
def _snake(field: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", field).lower()


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if key in _ENUMERATIONS:
            return names(_ENUMERATIONS[key]).get(value, value)
        if key in _TYPES:
            return dtypes().get(value, value)
    return value


def _signature(signature: Any) -> NamedSignature:
    def indices(count: int, entry: Any) -> dict[str, int]:
        return {_text(entry(i).Name()): entry(i).TensorIndex() for i in range(count)}

    return NamedSignature(
        _text(signature.SignatureKey()),
        signature.SubgraphIndex(),
        indices(signature.InputsLength(), signature.Inputs),
        indices(signature.OutputsLength(), signature.Outputs),
    )
