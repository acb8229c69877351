"""The TVM backend's operators on elements, matrices and places, against LiteRT's reference kernels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema
from backends.compiled import FAST, agree, compiled, own_isa, quick
from backends.operators import OneOperator, enumerated
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.backends.litert import BUILTIN, REFERENCE, LiteRtRunner
from edgecompile.backends.tvm.planner import Planner
from edgecompile.errors import UnsupportedLayerError
from edgecompile.loaders.interpreter import own_signature
from edgecompile.tflite_file import read

Array = npt.NDArray[Any]
bytes_or_floats = st.sampled_from(("int8", "float32"))
seeds = st.integers(0, 1 << 30)
scales, zeros = st.floats(5e-3, 0.5), st.integers(-128, 127)


def numbers(rng: np.random.Generator, dtype: str, *shape: int) -> Array:
    if dtype == "float32":
        return rng.normal(size=shape).astype(np.float32)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def judged(
    of: OneOperator, name: str, options: tuple[str, Any], x: dict[str, Array], kernels: str = REFERENCE, **more: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        agree(of.write(name, *options, Path(folder, "operator.tflite"), **more), x, kernels=kernels)


def options(kind: str, **fields: Any) -> tuple[str, Any]:
    made = getattr(schema, f"{kind}T")() if kind != "NONE" else None
    for name, value in fields.items():
        setattr(made, name, value)
    return kind, made


NO_ACTIVATION = {"fusedActivationFunction": enumerated(schema.ActivationFunctionType, "NONE")}
PAIRS: dict[str, tuple[str, ...]] = {
    "ADD": ("AddOptions",),
    "SUB": ("SubOptions",),
    "MUL": ("MulOptions",),
    "SQUARED_DIFFERENCE": ("SquaredDifferenceOptions",),
    "MAXIMUM": ("MaximumMinimumOptions",),
    "MINIMUM": ("MaximumMinimumOptions",),
}


@settings(quick, max_examples=32)
@given(
    st.sampled_from(list(PAIRS)), bytes_or_floats, seeds, st.tuples(scales, zeros), st.tuples(scales, zeros),
    st.sampled_from(("same", "a row", "one", "constant row", "constant", "other way round")),
)  # fmt: skip
def test_of_two(
    name: str, dtype: str, seed: int, first: tuple[float, int], second: tuple[float, int], shapes: str
) -> None:
    rng = np.random.default_rng(seed)
    height, channels = int(rng.integers(1, 6)), int(rng.integers(1, 37))
    whole = (1, height, 3, channels)
    if name in ("MAXIMUM", "MINIMUM"):  # LiteRT compares the integers
        second = first
    into = first if name in ("MAXIMUM", "MINIMUM") else (first[0] + second[0], 7)

    def add(made: OneOperator, shape: Sequence[int], of: tuple[float, int], constant: bool = False) -> None:
        data = numbers(rng, dtype, *shape) if constant else None
        made.tensor(shape, dtype, [of[0]] if dtype == "int8" else [], of[1], data)

    other = {"same": whole, "a row": (1, 1, 1, channels), "one": (1, 1, 1, 1), "constant row": (channels,),
             "constant": (), "other way round": whole}[shapes]  # fmt: skip
    made = OneOperator()
    add(made, (1, 1, 1, channels) if shapes == "other way round" else whole, first)
    add(made, other, second, "constant" in shapes)
    add(made, whole, into)
    x = {"t0": numbers(rng, dtype, 3, *(int(size) for size in made.tensors[0].shape[1:]))}
    if "constant" not in shapes:
        x["t1"] = numbers(rng, dtype, 3, *other[1:])
    plain = NO_ACTIVATION if name in ("ADD", "SUB", "MUL") else {}
    judged(made, name, options(*PAIRS[name], **plain), x, version=2)


SINGLE: dict[str, tuple[str, dict[str, Any]]] = {
    "HARD_SWISH": ("HardSwishOptions", {}),
    "LOGISTIC": ("NONE", {}),
    "TANH": ("NONE", {}),
    "GELU": ("GeluOptions", {"approximate": False}),
    "LEAKY_RELU": ("LeakyReluOptions", {"alpha": 0.3}),
    "RELU": ("NONE", {}),
    "RELU6": ("NONE", {}),
    "NEG": ("NegOptions", {}),
    "ABS": ("AbsOptions", {}),
    "EXP": ("ExpOptions", {}),
}
# What LiteRT's kernels want of an output.
OUTPUTS = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}


@settings(quick, max_examples=32)
@given(st.sampled_from(list(SINGLE)), bytes_or_floats, seeds, scales, zeros)
def test_of_one(name: str, dtype: str, seed: int, scale: float, zero: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (1, int(rng.integers(1, 9)), int(rng.integers(1, 40)))
    if name == "NEG" and dtype == "int8":  # LiteRT has none
        return
    into = OUTPUTS.get(name, (scale * 0.7, 3) if name not in ("ABS", "RELU", "RELU6") else (scale, zero))
    made = OneOperator()
    made.tensor(shape, dtype, [scale] if dtype == "int8" else [], zero)
    made.tensor(shape, dtype, [into[0]] if dtype == "int8" else [], into[1])
    kind, fields = SINGLE[name]
    judged(made, name, options(kind, **fields), {"t0": numbers(rng, dtype, 3, *shape[1:])}, version=1)


@settings(quick, max_examples=4)
@given(st.sampled_from(("int8", "uint8")), seeds, st.tuples(scales, zeros), st.tuples(scales, zeros), zeros)
def test_quotients_of_bytes(
    dtype: str, seed: int, first: tuple[float, int], second: tuple[float, int], zero: int
) -> None:  # fmt: skip
    """All that there are."""
    more, rng = 128 if dtype == "uint8" else 0, np.random.default_rng(seed)
    values = np.arange(-128, 128) + more
    a, b = (each.reshape(1, -1) for each in np.meshgrid(values, values[values != second[1] + more]))
    made = OneOperator()
    made.tensor(a.shape, dtype, [first[0]], first[1] + more)
    made.tensor(b.shape, dtype, [second[0]], second[1] + more)
    made.tensor(a.shape, dtype, [first[0] / second[0] / rng.uniform(130, 900)], zero + more)
    x = {"t0": a.astype(dtype), "t1": b.astype(dtype)}
    with tempfile.TemporaryDirectory() as folder:
        path = made.write("DIV", *options("DivOptions"), Path(folder, "operator.tflite"), version=2)
        (expected,) = LiteRtRunner(path, REFERENCE).run(x).values()
        (found,) = compiled(path, FAST).run(x).values()  # XNNPACK has no kernel for it
    assert np.array_equal(found, expected)
    assert len(np.unique(expected)) > 20


def test_quotients_that_litert_has_no_bits_for(tmp_path: Path) -> None:
    made = OneOperator()
    for scale in (0.01, 0.01, 0.5):
        made.tensor((1, 4), "int8", [scale], 3)
    path = made.write("DIV", *options("DivOptions"), tmp_path / "div.tflite", version=2)
    with pytest.raises(UnsupportedLayerError, match=r"operator 0 \(DIV, 't2'\): with these scales"):
        compiled(path, FAST)


@settings(quick, max_examples=8)
@given(
    st.sampled_from(("LOG_SOFTMAX", "L2_NORMALIZATION")), st.sampled_from(("int8", "uint8")), seeds, scales, zeros,
    st.integers(1, 60), st.floats(1, 90),
)  # fmt: skip
def test_rows_of_bytes(
    name: str, dtype: str, seed: int, scale: float, zero: int, count: int, spread: float
) -> None:  # fmt: skip
    """To the bit in either mode: XNNPACK has no kernels for them. A row is all zeros."""
    more, rng = 128 if dtype == "uint8" else 0, np.random.default_rng(seed)
    log = name == "LOG_SOFTMAX"
    made = OneOperator()
    made.tensor((1, 50, count), dtype, [scale], zero + more)
    made.tensor((1, 50, count), dtype, [1 / 16 if log else 1 / 128], (127 if log else 0) + more)
    x = (rng.normal(size=(2, 50, count)) * spread + zero).round().clip(-128, 127) + more
    x[:, 0] = zero + more
    kind = options("LogSoftmaxOptions" if log else "L2NormOptions")
    with tempfile.TemporaryDirectory() as folder:
        path, given_ = made.write(name, *kind, Path(folder, "operator.tflite"), version=2), {"t0": x.astype(dtype)}
        (expected,) = LiteRtRunner(path, REFERENCE).run(given_).values()
        (found,) = compiled(path, FAST).run(given_).values()
    assert np.array_equal(found, expected)


@settings(quick, max_examples=12)
@given(seeds, st.booleans())
def test_the_tanh_form_of_gelu(seed: int, whole: bool) -> None:
    made = OneOperator()
    for _ in range(2):
        made.tensor((1, 33), "int8" if whole else "float32", [0.03] if whole else [], -5)
    x = {"t0": numbers(np.random.default_rng(seed), "int8" if whole else "float32", 3, 33)}
    judged(made, "GELU", options("GeluOptions", approximate=True), x, version=1)


@settings(quick, max_examples=5)
@given(bytes_or_floats, seeds, scales, zeros, st.booleans())
def test_swish_is_one_call(dtype: str, seed: int, scale: float, zero: int, turned: bool) -> None:
    """LOGISTIC and the MUL by its input, in either order: of bytes in LiteRT's rounding to the bit."""
    scaled = dtype == "int8"
    made, shape = OneOperator(), (1, 7, int(np.random.default_rng(seed).integers(1, 40)))
    made.tensor(shape, dtype, [scale] if scaled else [], zero)
    made.tensor(shape, dtype, [1 / 256] if scaled else [], -128, inner=True)
    made.tensor(shape, dtype, [scale * 0.6] if scaled else [], -9)
    made.in_front("LOGISTIC", "NONE", None, [0], 1)
    x = {"t0": numbers(np.random.default_rng(seed), dtype, 3, *shape[1:])}
    with tempfile.TemporaryDirectory() as folder:
        path = made.write(
            "MUL", *options("MulOptions", **NO_ACTIVATION), Path(folder, "swish.tflite"), version=2,
            takes=[1, 0] if turned else [0, 1],
        )  # fmt: skip
        agree(path, x)
        steps = [step.operators for step in Planner(read(path), own_isa(), FAST, 1).run().steps if step.operators]
    assert steps == [(0, 1)]


@quick
@given(st.sampled_from(("int8", "uint8", "float32")), st.sampled_from(("int8", "uint8")), seeds, scales, zeros)
def test_quantizing(dtype: str, into: str, seed: int, scale: float, zero: int) -> None:
    made = OneOperator()
    made.tensor((1, 50), dtype, [scale] if dtype != "float32" else [], zero % 256 if dtype == "uint8" else zero)
    made.tensor((1, 50), into, [scale * 0.6], 12)
    x = numbers(np.random.default_rng(seed), dtype, 3, 50)
    if dtype == "float32":
        x = np.round(x * 40) * np.float32(scale * 0.3)  # halves of the output's steps among them
    judged(made, "QUANTIZE", options("QuantizeOptions"), {"t0": x}, version=2)


@settings(quick, max_examples=28)
@given(
    st.sampled_from(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")), bytes_or_floats, seeds,
    st.sampled_from(([1, 2], [-1], [1], [2, 3], [3, 1])), st.booleans(), st.tuples(scales, zeros),
)  # fmt: skip
def test_reductions(name: str, dtype: str, seed: int, axes: list[int], keep: bool, of: tuple[float, int]) -> None:
    rng = np.random.default_rng(seed)
    shape = (1, *(int(size) for size in rng.integers(1, 12, 2)), int(rng.integers(1, 33)))
    over = {axis % 4 for axis in axes}
    left = [1 if axis in over else size for axis, size in enumerate(shape) if keep or axis not in over]
    # LiteRT's reference kernel gives -1 for most sums of int8.
    kernels = BUILTIN if name == "SUM" and dtype == "int8" else REFERENCE
    into = of if name.startswith("REDUCE") else (of[0] * 0.8, 4)
    made = OneOperator()
    made.tensor(shape, dtype, [of[0]] if dtype == "int8" else [], of[1])
    made.tensor((len(axes),), "int32", constant=np.array(axes))
    made.tensor(left, dtype, [into[0]] if dtype == "int8" else [], into[1])
    x = {"t0": numbers(rng, dtype, 3, *shape[1:])}
    judged(made, name, options("ReducerOptions", keepDims=keep), x, kernels, version=2)


@pytest.mark.parametrize(("name", "axis"), [("SOFTMAX", -1), ("MEAN", 1), ("MEAN", -1)])
def test_rows_that_threads_share(name: str, axis: int, tmp_path: Path) -> None:
    made, shape = OneOperator(), (1, 40, 20, 32)
    made.tensor(shape, "float32")
    if name == "MEAN":
        made.tensor((1,), "int32", constant=np.array([axis]))
    left = shape if name == "SOFTMAX" else tuple(np.delete(shape, axis))
    made.tensor(left, "float32")
    kind = options("SoftmaxOptions", beta=1.0) if name == "SOFTMAX" else options("ReducerOptions")
    path = made.write(name, *kind, tmp_path / "rows.tflite", version=1)
    agree(path, {"t0": numbers(np.random.default_rng(0), "float32", 2, *shape[1:])}, threads=2)
    (step,) = Planner(read(path), own_isa(), FAST, 2).run().steps
    assert "2 threads" in step.note


@settings(quick, max_examples=24)
@given(bytes_or_floats, seeds, st.booleans(), st.booleans(), scales, st.booleans())
def test_products_of_matrices(
    dtype: str, seed: int, adj_x: bool, adj_y: bool, scale: float, constant: bool
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    rows, depth, columns = (int(size) for size in rng.integers(1, 34, 3))
    a = (1, 2, *((depth, rows) if adj_x else (rows, depth)))
    b = (1, 2, *((columns, depth) if adj_y else (depth, columns)))
    second = numbers(rng, dtype, *b)
    made = OneOperator()
    made.tensor(a, dtype, [scale] if dtype == "int8" else [], 3)
    made.tensor(b, dtype, [0.02] if dtype == "int8" else [], 0, second if constant else None)
    made.tensor((1, 2, rows, columns), dtype, [scale * depth**0.5] if dtype == "int8" else [], -9)
    x = {"t0": numbers(rng, dtype, 3, *a[1:])}
    if not constant:
        x["t1"] = numbers(rng, dtype, 3, *b[1:])
    judged(made, "BATCH_MATMUL", options("BatchMatMulOptions", adjX=adj_x, adjY=adj_y), x, version=2)


def _transpose(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    order = [0, *(1 + int(axis) for axis in rng.permutation(3))]
    return "TRANSPOSE", ("TransposeOptions", {}), [order], [shape[axis] for axis in order]


def _slice(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    begin = [0, *(int(rng.integers(0, size)) for size in shape[1:])]
    left = [1, *(int(rng.integers(1, size - b + 1)) for size, b in zip(shape[1:], begin[1:], strict=True))]
    return "SLICE", ("SliceOptions", {}), [begin, left], left


def _strided(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    begin = [0, *(int(rng.integers(0, size)) for size in shape[1:])]
    step = [1, *(int(rng.integers(1, 4)) for _ in range(3))]
    masks = {"endMask": 0b0111, "beginMask": 0b0001, "shrinkAxisMask": 0b1000}
    end = [0, 0, 0, begin[3] + 1]
    left = [1, *(-(-(size - b) // s) for size, b, s in zip(shape[1:3], begin[1:3], step[1:3], strict=True))]
    step[3] = 1
    return "STRIDED_SLICE", ("StridedSliceOptions", masks), [begin, end, step], left


def _pad(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    pads = [[0, 0], *([int(n) for n in rng.integers(0, 4, 2)] for _ in range(3))]
    return "PAD", ("PadOptions", {}), [pads], [size + sum(p) for size, p in zip(shape, pads, strict=True)]


@settings(quick, max_examples=28)
@given(st.sampled_from((_transpose, _slice, _strided, _pad)), bytes_or_floats, seeds)
def test_other_places(of: Callable[..., Any], dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (1, *(int(size) for size in rng.integers(1, 12, 3)))
    name, kind, constants, left = of(rng, shape)
    made = OneOperator()
    made.tensor(shape, dtype, [0.1] if dtype == "int8" else [], 11)
    for values in constants:
        array = np.array(values, np.int32)
        made.tensor(array.shape, "int32", constant=array)
    made.tensor(left, dtype, [0.1] if dtype == "int8" else [], 11)
    judged(made, name, options(kind[0], **kind[1]), {"t0": numbers(rng, dtype, 3, *shape[1:])}, version=2)


@quick
@given(bytes_or_floats, seeds, st.sampled_from(("CONCATENATION", "PACK")), st.integers(2, 4))
def test_putting_together(dtype: str, seed: int, name: str, count: int) -> None:
    rng = np.random.default_rng(seed)
    together = name == "CONCATENATION"
    sizes = [int(size) for size in rng.integers(1, 7, count)] if together else [5] * count
    made = OneOperator()
    for size in sizes:
        made.tensor((1, 4, size), dtype, [0.1] if dtype == "int8" else [], 3)
    made.tensor((1, 4, sum(sizes)) if together else (1, 4, 5, count), dtype, [0.1] if dtype == "int8" else [], 3)
    x = {f"t{i}": numbers(rng, dtype, 3, 4, size) for i, size in enumerate(sizes)}
    kind = options("ConcatenationOptions", axis=-1, **NO_ACTIVATION) if together else options(
        "PackOptions", axis=3, valuesCount=count
    )  # fmt: skip
    judged(made, name, kind, x, version=2)


@quick
@given(bytes_or_floats, seeds)
def test_taking_apart(dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts, size = int(rng.integers(2, 4)), int(rng.integers(1, 18))
    made = OneOperator()
    made.tensor((), "int32", constant=np.array(2))
    for each in (parts * size, *[size] * parts):
        made.tensor((1, 4, each), dtype, [0.1] if dtype == "int8" else [], 3)
    x = {"t1": numbers(rng, dtype, 3, 4, parts * size)}
    judged(made, "SPLIT", options("SplitOptions", numSplits=parts), x, version=2, made=parts)


@quick
@given(bytes_or_floats, seeds)
def test_embeddings(dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    words, width = int(rng.integers(2, 40)), int(rng.integers(1, 20))
    made = OneOperator()
    made.tensor((words, width), dtype, [0.1] if dtype == "int8" else [], 3, numbers(rng, dtype, words, width))
    made.tensor((1, 6), "int32")
    made.tensor((1, 6, width), dtype, [0.1] if dtype == "int8" else [], 3)
    x = {"t1": rng.integers(0, words, (3, 6)).astype(np.int32)}
    judged(made, "GATHER", options("GatherOptions", axis=0), x, version=2)


def test_an_index_out_of_range_reads_nobody_elses_memory(tmp_path: Path) -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    made = OneOperator()
    made.tensor(table.shape, "float32", constant=table)
    made.tensor((1, 2), "int32")
    made.tensor((1, 2, 3), "float32")
    path = made.write("GATHER", *options("GatherOptions", axis=0), tmp_path / "gather.tflite", version=2)
    (found,) = compiled(path, FAST).run({"t1": np.array([[1 << 30, -(1 << 30)]], np.int32)}).values()
    assert np.array_equal(found[0], table[[3, 0]])


def test_an_operator_that_there_is_no_code_for(tmp_path: Path) -> None:
    made = OneOperator()
    made.tensor((1, 4), "float32")
    made.tensor((1, 4), "float32")
    path = made.write("ZEROS_LIKE", "NONE", None, tmp_path / "zeros.tflite", version=1)
    with pytest.raises(UnsupportedLayerError, match=r"operator 0 \(ZEROS_LIKE, 't1'\)"):
        compiled(path, FAST)


def test_a_transformer(data: Path) -> None:
    """With sizes that the graph computes, embeddings, and layers of attention."""
    model = data / "models" / "text" / "sst2_transformer_fp32.tflite"
    (spec,) = own_signature(read(model)).inputs
    x = {spec.name: np.random.default_rng(0).integers(0, 8000, (6, *spec.shape[1:])).astype(np.int32)}
    agree(model, x)
