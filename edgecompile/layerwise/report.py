"""Two .tflite files on the same inputs, tensor by tensor: the rows, and where the models part.

Both run with LiteRT's reference kernels. The error of a tensor holds what its inputs brought along; what its own
operator added is seen in the fall of the SNR from the worst of its inputs (each at most what its number format
allows) to it. To measure that alone, each operator would have to be run on the other model's inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.errors import DataError, ModelError
from edgecompile.layerwise.distance import Distance
from edgecompile.layerwise.graph import Graph, graph_of
from edgecompile.layerwise.match import Unmatched, match
from edgecompile.layerwise.pairs import Pair, pairs_of
from edgecompile.layerwise.probe import Probe
from edgecompile.loaders.interpreter import own_signature
from edgecompile.stages.base import Progress
from edgecompile.task import Array
from edgecompile.tflite_file import Tensor, TfliteModel, read

LIKE_TOLERANCE = 1e-4  # of a tensor's range, where both models store their numbers alike
# dB, where they don't: the error has a tenth of the signal's power. The worst tensors of sound int8 models are a few dB
# better: of MLPerf Tiny's, 12 dB in the autoencoder, 16 in visual wake words, 18 in keyword spotting, 23 in ResNet8.
SNR_LIMIT = 10.0

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Row:
    """One tensor of A and its counterpart in B, compared over all samples.

    position: of its operator in A's execution order, -1 for inputs. op: the operator with its fused activation;
    INPUT and QUANTIZE for what is no operator of the model's own. shape: A's. scale, zero_point: None where the
    tensor isn't quantized by one scale.
    snr_db: A's power over the error's; infinite where both are equal, minus infinity where A is all zero.
    fall_db: from the worst of the tensor's inputs to it; None where there is none, or where either isn't finite.
    cosine: in [-1, 1]. max_abs: the largest error, in real numbers; relative: as a share of A's range in this tensor,
    which includes zero; lsb: in steps of the coarser scale.
    nonfinite: how many values are NaN or infinite in one model only.
    over: past the limit. origin: over, and all its compared inputs are not.
    """

    position: int
    op: str
    op_b: str
    tensor: str
    tensor_b: str
    shape: tuple[int, ...]
    dtype: str
    dtype_b: str
    scale: float | None
    scale_b: float | None
    zero_point: int | None
    zero_point_b: int | None
    snr_db: float
    fall_db: float | None
    cosine: float
    max_abs: float
    relative: float
    lsb: float | None
    nonfinite: int
    over: bool = False
    origin: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data. snr_db is None where it is infinite: max_abs then tells equal (0) from all lost."""
        finite = self.snr_db if math.isfinite(self.snr_db) else None
        return {**dataclasses.asdict(self), "shape": list(self.shape), "snr_db": finite}


@dataclass(frozen=True)
class Limit:
    """What still counts as the same: a largest error as a share of the tensor's range, or a least SNR in dB.

    An error of at most one step of a tensor's scale is never over an SNR's limit: that is rounding.
    """

    relative: float | None = None
    snr_db: float | None = None

    def is_over(self, row: Row) -> bool:
        if row.nonfinite:
            return True
        if self.relative is not None:
            return row.relative > self.relative
        assert self.snr_db is not None
        # a hair: the step itself is a float32
        return row.snr_db < self.snr_db and not (row.lsb is not None and row.lsb <= 1.001)

    @property
    def text(self) -> str:
        if self.relative is not None:
            return f"a largest error of {self.relative:g} of the tensor's range"
        return f"an SNR of {self.snr_db:g} dB"


@dataclass(frozen=True)
class Alone:
    """An operator that one model has and the other not. tensor: of its first output."""

    position: int
    op: str
    tensor: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Comparison:
    """rows: in A's execution order. only_a, only_b: operators without a counterpart, in theirs. outputs_alone: names of
    A's outputs that B has no counterpart of."""

    rows: tuple[Row, ...]
    only_a: tuple[Alone, ...]
    only_b: tuple[Alone, ...]
    outputs_alone: tuple[str, ...]
    limit: Limit
    samples: int

    @property
    def first(self) -> Row | None:
        """The first tensor over the limit; those it was computed from are within it."""
        return next((row for row in self.rows if row.over), None)

    @property
    def steepest(self) -> Row | None:
        """Where most SNR is lost from the inputs to the output of one operator."""
        falls = [row for row in self.rows if row.fall_db is not None and row.fall_db > 0]
        return max(falls, key=lambda row: row.fall_db or 0.0, default=None)

    @property
    def parted(self) -> bool:
        return self.first is not None or bool(self.outputs_alone)

    def to_json(self) -> dict[str, Any]:
        first, steepest = self.first, self.steepest
        return {
            "parted": self.parted,
            "limit": dataclasses.asdict(self.limit),
            "samples": self.samples,
            "first": first and first.to_json(),
            "steepest": steepest and steepest.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "only_a": [dataclasses.asdict(alone) for alone in self.only_a],
            "only_b": [dataclasses.asdict(alone) for alone in self.only_b],
            "outputs_alone": list(self.outputs_alone),
        }


def layer_errors(float_tflite: Path, compressed_tflite: Path, inputs: Mapping[str, Array]) -> list[Row]:
    """The rows of `compare` by its default limit: how far each tensor of the compressed model is from the float one's.

    inputs: {input: [n, ...]} real numbers by the names of the float model's signature.
    """
    return list(compare(float_tflite, compressed_tflite, inputs).rows)


def compare(
    a: Path,
    b: Path,
    inputs: Mapping[str, Array],
    *,
    tolerance: float | None = None,
    snr_db: float | None = None,
    report: Report | None = None,
    names: tuple[Mapping[int, str], Mapping[int, str]] = ({}, {}),
) -> Comparison:
    """Run both files on the same inputs and compare every tensor that they have in common.

    inputs: {input: [n, ...]} by the names of A's signature, n >= 1; real numbers also for a quantized input. Samples
    run in steps of the models' batch size, the last one filled with the first samples again. One batch of each
    model's tensors is in memory at a time, no more.
    tolerance: the largest error allowed, as a share of a tensor's range; snr_db: the least SNR instead. Where both are
    None: LIKE_TOLERANCE for models that store all their numbers alike, else an SNR of SNR_LIMIT.
    names: of each model's tensors by index, for those that lost theirs.
    ModelError for files that can't be run and for models with other inputs, DataError for inputs that don't fit.
    """
    models = read(a).named(names[0]), read(b).named(names[1])
    signatures = own_signature(models[0]), own_signature(models[1])
    partners = paired_inputs(*signatures)
    graphs = graph_of(models[0]), graph_of(models[1])
    known = _same_inputs(models, signatures, partners)
    matching = match(*graphs, known, _same_outputs(graphs, signatures))
    pairs = pairs_of(*graphs, known, matching)
    distances, other_shape = _run(models, signatures, partners, pairs, inputs, report)
    given = tolerance is not None or snr_db is not None
    limit = Limit(tolerance, snr_db) if given else _limit(pairs)
    rows = _rows(graphs, pairs, distances, other_shape, limit)
    compared = {pair.a for k, pair in enumerate(pairs) if k not in other_shape}
    return Comparison(
        rows=tuple(rows),
        only_a=_alone(graphs[0], matching.only_a)
        + tuple(_reshaped(graphs[0], pairs[k], shape) for k, shape in other_shape.items()),
        only_b=_alone(graphs[1], matching.only_b),
        outputs_alone=tuple(
            spec.name
            for spec, value in zip(signatures[0].outputs, graphs[0].outputs, strict=True)
            if value not in compared and value not in graphs[0].inputs
        ),
        limit=limit,
        samples=len(inputs[next(iter(partners))]),
    )


def _limit(pairs: Sequence[Pair]) -> Limit:
    alike = all(pair.alike for pair in pairs)
    return Limit(relative=LIKE_TOLERANCE) if alike else Limit(snr_db=SNR_LIMIT)


def _rows(
    graphs: tuple[Graph, Graph],
    pairs: Sequence[Pair],
    distances: Sequence[Distance],
    left_out: Container[int],
    limit: Limit,
) -> list[Row]:
    rows: list[Row] = []
    over: set[int] = set()
    for k, (pair, distance) in enumerate(zip(pairs, distances, strict=True)):
        if k in left_out:
            continue
        before = [i for i in sorted(pair.reads) if i not in left_out]
        row = _row(graphs, pair, distance, [distances[i].snr_db for i in before])
        if limit.is_over(row):
            row = dataclasses.replace(row, over=True, origin=not over.intersection(before))
            over.add(k)
        rows.append(row)
    return rows


def _row(graphs: tuple[Graph, Graph], pair: Pair, distance: Distance, before: Sequence[float]) -> Row:
    x, y = graphs[0].tensor(pair.a), graphs[1].tensor(pair.b)
    scales = [_scale(tensor) for tensor in (x, y)]
    coarser = max((scale for scale in scales if scale is not None), default=None)
    snr = distance.snr_db
    # Before it, too, no more can be had than the number format has: else the first operator in integers lost most.
    fall = min(*before, pair.ceiling_db) - snr if before else math.nan
    return Row(
        position=pair.position,
        op=pair.op,
        op_b=pair.op_b,
        tensor=x.name,
        tensor_b=y.name,
        shape=x.shape,
        dtype=x.dtype,
        dtype_b=y.dtype,
        scale=scales[0],
        scale_b=scales[1],
        zero_point=_zero_point(x),
        zero_point_b=_zero_point(y),
        snr_db=snr,
        fall_db=fall if math.isfinite(fall) else None,
        cosine=distance.cosine,
        max_abs=distance.max_abs,
        relative=distance.relative,
        lsb=None if coarser is None else distance.max_abs / coarser,
        nonfinite=distance.nonfinite,
    )


def _scale(tensor: Tensor) -> float | None:
    q = tensor.quantization
    return None if q is None or q.per_channel else q.scales[0]


def _zero_point(tensor: Tensor) -> int | None:
    q = tensor.quantization
    return None if q is None or q.per_channel else q.zero_points[0]


def _alone(graph: Graph, unmatched: Sequence[Unmatched]) -> tuple[Alone, ...]:
    found = []
    for each in unmatched:
        node = graph.nodes[each.node]
        tensor = graph.tensor(node.outputs[0]) if node.outputs else None
        name, shape = (tensor.name, tensor.shape) if tensor else ("", ())
        found.append(Alone(node.position, node.label, name, shape, each.reason))
    return tuple(found)


def _reshaped(graph: Graph, pair: Pair, shape: tuple[int, ...]) -> Alone:
    tensor = graph.tensor(pair.a)
    return Alone(pair.position, pair.op, tensor.name, tensor.shape, f"its counterpart came out as {list(shape)}")


def paired_inputs(a: Signature, b: Signature) -> dict[str, str]:
    """{input of A: input of B}: by name, or by order where names differ. ModelError where B takes other samples."""
    mine, its = {t.name: t for t in a.inputs}, {t.name: t for t in b.inputs}
    pairs = {name: name for name in mine} if set(mine) == set(its) else dict(zip(mine, its, strict=False))
    fits = len(mine) == len(its) and all(_fits(mine[i].shape[1:], its[j].shape[1:]) for i, j in pairs.items())
    if not fits:
        raise ModelError(
            f"the models take different inputs: A {_described(a.inputs)}, B {_described(b.inputs)}",
            hint="compare two forms of one model",
        )
    return pairs


def _fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return len(a) == len(b) and all(x == y or -1 in (x, y) for x, y in zip(a, b, strict=True))


def _described(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{t.name!r} {list(t.shape[1:])}" for t in tensors) or "none"


def _same_inputs(
    models: tuple[TfliteModel, TfliteModel], signatures: tuple[Signature, Signature], names: Mapping[str, str]
) -> list[tuple[int, int]]:
    mine, its = (
        dict(zip((t.name for t in signature.inputs), model.main.inputs, strict=True))
        for model, signature in zip(models, signatures, strict=True)
    )
    return [(mine[i], its[j]) for i, j in names.items()]


def _same_outputs(graphs: tuple[Graph, Graph], signatures: tuple[Signature, Signature]) -> list[tuple[int, int]]:
    """By name where both have the same names, else by order."""
    mine, its = (
        dict(zip((t.name for t in signature.outputs), graph.outputs, strict=True))
        for graph, signature in zip(graphs, signatures, strict=True)
    )
    if set(mine) == set(its):
        return [(value, its[name]) for name, value in mine.items()]
    return list(zip(mine.values(), its.values(), strict=False))


def _run(
    models: tuple[TfliteModel, TfliteModel],
    signatures: tuple[Signature, Signature],
    names: Mapping[str, str],
    pairs: Sequence[Pair],
    inputs: Mapping[str, Array],
    report: Report | None,
) -> tuple[list[Distance], dict[int, tuple[int, ...]]]:
    """(the distance of each pair, {pair: B's shape} of those whose shapes turned out to differ)."""
    counts = {len(inputs[name]) if name in inputs else 0 for name in names}
    if len(counts) != 1 or counts == {0}:
        raise DataError(
            f"the models take {_described(signatures[0].inputs)}, received "
            f"{ ({name: list(array.shape) for name, array in inputs.items()}) }",
            hint="give each input the same number of samples, one or more",
        )
    batch = _batch(signatures)
    probes = [Probe(m, s.inputs, batch) for m, s in zip(models, signatures, strict=True)]
    n = counts.pop()
    distances = [Distance() for _ in range(len(pairs))]
    other_shape: dict[int, tuple[int, ...]] = {}
    for start in range(0, n, batch):
        index = np.arange(start, start + batch) % n
        probes[0].run({i: inputs[i][index] for i in names})
        probes[1].run({j: inputs[i][index] for i, j in names.items()})
        for k, pair in enumerate(pairs):
            reference, other = probes[0].real(pair.a), probes[1].real(pair.b)
            if reference.shape == other.shape:
                distances[k].add(reference, other)
            else:
                other_shape[k] = other.shape
        if report is not None:
            report(Progress("comparing", min(n, start + batch), n))
    return distances, other_shape


def _batch(signatures: tuple[Signature, Signature]) -> int:
    """The batch size of both files; 1 where both leave it free."""
    sizes = {t.shape[0] if t.shape else 0 for signature in signatures for t in signature.inputs} - {-1}
    if len(sizes) > 1 or sizes == {0}:
        raise ModelError(
            f"the models have no batch size in common: A {[list(t.shape) for t in signatures[0].inputs]}, "
            f"B {[list(t.shape) for t in signatures[1].inputs]}",
            hint="convert both with the same batch size",
        )
    return sizes.pop() if sizes else 1
