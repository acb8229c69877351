"""A .tflite's main subgraph as what is computed, whatever the numbers are stored as.

QUANTIZE and DEQUANTIZE change how a value is stored and compute nothing: a tensor behind them is a cast of the same
value. An activation function that stands as an operator of its own counts to the operator whose only reader it is,
as converters fuse it there or don't. What is inside loops and branches (other subgraphs) counts to their operator.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edgecompile.tflite_file import Operator, Tensor, TfliteModel
from edgecompile.tflite_file.graph import UNSIZED

CASTS = frozenset({"QUANTIZE", "DEQUANTIZE"})
# Operators that `fused_activation_function` can stand for, under the same name.
_ACTIVATIONS = frozenset({"RELU", "RELU6", "RELU_N1_TO_1", "TANH"})


@dataclass(frozen=True)
class Node:
    """One operator. Tensors go by their index in the subgraph.

    position: in execution order. kind: the operator without its activation. inputs: the values it reads, casts looked
    through, no constants. reads: the same as it reads them. weights: (shape, dtype as stored) of its constants of rank
    2 or more. outputs: what it gives, after its activation.
    """

    position: int
    kind: str
    activation: str
    inputs: tuple[int, ...]
    reads: tuple[int, ...]
    weights: tuple[tuple[tuple[int, ...], str], ...]
    outputs: tuple[int, ...]

    @property
    def label(self) -> str:
        return f"{self.kind}+{self.activation}" if self.activation else self.kind


@dataclass(frozen=True)
class Graph:
    """nodes: in execution order. producer: {value: index of its node}. casts: {value: its tensors behind QUANTIZE}.
    source: {tensor behind QUANTIZE or DEQUANTIZE: the tensor it was made of}. inputs, outputs: values. used: these
    and all that operators read."""

    model: TfliteModel
    nodes: tuple[Node, ...]
    producer: dict[int, int]
    casts: dict[int, tuple[int, ...]]
    source: dict[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    used: frozenset[int]

    def tensor(self, index: int) -> Tensor:
        return self.model.main.tensors[index]

    def shapes(self, node: Node) -> tuple[tuple[int, ...], ...]:
        return tuple(self.tensor(index).shape for index in node.outputs)

    def comparable(self, index: int) -> bool:
        """Whether the tensor holds numbers: one that nothing reads may have no memory."""
        return self.tensor(index).dtype not in UNSIZED and index in self.used

    def value(self, index: int) -> int:
        return _value(self.source, index)


def graph_of(model: TfliteModel) -> Graph:
    """The graph of the model's main subgraph."""
    main = model.main
    source: dict[int, int] = {}
    casts: dict[int, list[int]] = {}
    for op in main.operators:
        if op.name in CASTS:
            source[op.outputs[0]] = op.inputs[0]
            if op.name == "QUANTIZE":
                casts.setdefault(_value(source, op.inputs[0]), []).append(op.outputs[0])
    fused = _fused(model)
    absorbed = {activation.index for activation in fused.values()}
    nodes = tuple(
        _node(model, op, fused.get(op.index), source)
        for op in main.operators
        if op.name not in CASTS and op.index not in absorbed
    )
    return Graph(
        model=model,
        nodes=nodes,
        producer={output: index for index, node in enumerate(nodes) for output in node.outputs},
        casts={value: tuple(tensors) for value, tensors in casts.items()},
        source=source,
        inputs=main.inputs,
        outputs=tuple(_value(source, index) for index in main.outputs),
        used=frozenset([*main.inputs, *main.outputs, *(index for op in main.operators for index in op.inputs)]),
    )


def _value(source: dict[int, int], index: int) -> int:
    while index in source:
        index = source[index]
    return index


def _fused(model: TfliteModel) -> dict[int, Operator]:
    """{operator's index: the activation that alone reads its output}, for operators that could have it fused."""
    main = model.main
    readers = Counter(index for op in main.operators for index in op.inputs)
    readers.update(main.outputs)
    makers = {op.outputs[0]: op for op in main.operators if op.options.get("fused_activation_function") == "NONE"}
    found = {}
    for op in main.operators:
        if op.name in _ACTIVATIONS and op.inputs[0] in makers and readers[op.inputs[0]] == 1:
            found[makers[op.inputs[0]].index] = op
    return found


def _node(model: TfliteModel, op: Operator, activation: Operator | None, source: dict[int, int]) -> Node:
    tensors = model.main.tensors
    own = op.options.get("fused_activation_function")
    reads = [index for index in op.inputs if index >= 0]
    constant = {index for index in reads if tensors[_value(source, index)].is_constant}
    return Node(
        position=activation.index if activation else op.index,
        kind=op.name,
        activation=activation.name if activation else own if isinstance(own, str) and own != "NONE" else "",
        inputs=tuple(_value(source, index) for index in reads if index not in constant),
        reads=tuple(index for index in reads if index not in constant),
        weights=tuple(
            (tensors[i].shape, tensors[_value(source, i)].dtype)
            for i in reads
            if i in constant and len(tensors[i].shape) >= 2
        ),
        outputs=activation.outputs if activation else op.outputs,
    )
