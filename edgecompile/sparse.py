"""What zeros in weights buy with the engine: the sentence that a report says about it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from edgecompile.sparse_chain import CONVOLUTIONS, FLOAT, NoChain, find_chain
from edgecompile.tflite_file import Operator, Subgraph, Tensor, TfliteModel

CONSIDERABLE = 0.3  # share of zeros from which a reader would expect them to buy something


def why_not(model: TfliteModel, features: Collection[str] = ()) -> str | None:
    """A sentence saying why the zeros of this model's weights don't make LiteRT faster, with its own counts.

    features: of the CPU that is to run it, as /proc/cpuinfo spells them. None where fewer than 30% of the weights are
    zero, and where the sparse form of the model can be faster. ModelError where a constant can't be read.
    """
    counts = _Counts.of(model)
    if counts.zeros < CONSIDERABLE * counts.elements or not counts.elements:
        return None
    if counts.stored_sparse:
        return None
    try:
        find_chain(model)
    except NoChain as problem:
        reason = counts.missing() or str(problem)
    else:
        if "avx" not in features:
            return None
        reason = "XNNPACK has sparse kernels for ARM, and for x86 only on CPUs without AVX, whose dense ones are faster"
    return (
        f"{counts.zeros:,} of {counts.elements:,} weights ({counts.zeros / counts.elements:.0%}) are zero, which makes "
        f"the packed file smaller and LiteRT no faster: {reason}."
    )


@dataclass
class _Counts:
    """Weights of the layers that multiply, by what they are: {what: [elements, zeros]}."""

    by_kind: dict[str, list[int]] = field(default_factory=dict)
    stored_sparse: bool = False

    @staticmethod
    def of(model: TfliteModel) -> _Counts:
        counts, seen = _Counts(), set()
        for graph in model.subgraphs:
            for operator in graph.operators:
                if operator.name not in (*CONVOLUTIONS, "FULLY_CONNECTED", "TRANSPOSE_CONV"):
                    continue
                tensor = _unpacked(graph, graph.tensors[operator.inputs[1]])
                counts.stored_sparse |= tensor.is_sparse
                if tensor.is_constant and not tensor.is_sparse and tensor.buffer not in seen:
                    seen.add(tensor.buffer)
                    found = model.sparsity(tensor)
                    entry = counts.by_kind.setdefault(_kind(operator, tensor), [0, 0])
                    entry[0] += found.elements
                    entry[1] += round(found.zeros * found.elements)
        return counts

    @property
    def elements(self) -> int:
        return sum(elements for elements, _ in self.by_kind.values())

    @property
    def zeros(self) -> int:
        return sum(zeros for _, zeros in self.by_kind.values())

    def missing(self) -> str | None:
        """Where hardly any zero is in weights that sparse kernels could take: what most of them are in."""
        fitting = sum(self.by_kind.get(kind, [0, 0])[1] for kind in (_POINTWISE, _DENSE))
        if fitting * 2 >= self.zeros:
            return None
        kind, (_, zeros) = max(self.by_kind.items(), key=lambda item: item[1][1])
        return (
            "XNNPACK's sparse kernels are for float32 1x1 convolutions and the fully connected layers behind them, and "
            f"{zeros:,} of the zeros are in {kind}"
        )


_POINTWISE, _DENSE = "float32 1x1 convolutions", "float32 fully connected layers"


def _kind(operator: Operator, weights: Tensor) -> str:
    if weights.dtype != FLOAT:
        return f"{weights.dtype} weights"
    if operator.name == "FULLY_CONNECTED":
        return _DENSE
    height, width = weights.shape[1:3]
    if operator.name == "CONV_2D":
        return _POINTWISE if height == width == 1 else f"{height}x{width} convolutions"
    return f"{height}x{width} {'depthwise' if operator.name == 'DEPTHWISE_CONV_2D' else 'transposed'} convolutions"


def _unpacked(graph: Subgraph, tensor: Tensor) -> Tensor:
    """The constant that DEQUANTIZE or DENSIFY makes `tensor` of, or `tensor` itself."""
    made = next((op for op in graph.operators if tensor.index in op.outputs), None)
    if made is not None and made.name in ("DEQUANTIZE", "DENSIFY"):
        return _unpacked(graph, graph.tensors[made.inputs[0]])
    return tensor
