"""From a .tflite's graph to a plan: which operators become one call, where channels are padded, what is an alias."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np

from edgecompile.backends.tvm import lowerings
from edgecompile.backends.tvm.arithmetic import REFERENCE, Range
from edgecompile.backends.tvm.isa import InstructionSet
from edgecompile.backends.tvm.operators.pointwise import compact, filled
from edgecompile.backends.tvm.plan import BYTES, Padded, Plan, Step, Value
from edgecompile.backends.tvm.schedules import plain
from edgecompile.backends.tvm.statics import folded
from edgecompile.errors import UnsupportedLayerError
from edgecompile.task import Array
from edgecompile.tflite_file import TfliteModel
from edgecompile.tflite_file.graph import WEIGHTS, Operator, Tensor


class Planner:
    """mode: FAST or REFERENCE, for integers. source: the model as its file has it."""

    def __init__(self, model: TfliteModel, isa: InstructionSet, mode: str, threads: int) -> None:
        self.source, self.model, self.isa, self.threads = model, folded(model), isa, threads
        # XNNPACK has no kernels for 16 bits: what others compute there is LiteRT's own rounding.
        wide = any(tensor.dtype == "int16" and not tensor.is_constant for tensor in model.main.tensors)
        self.mode = REFERENCE if wide else mode
        self.graph = self.model.main
        self.plan = Plan(operators={o.index: (o.name, self.graph.macs(o)) for o in self.graph.operators})
        self._values: dict[int, Value] = {}
        self._padded: dict[int, Padded] = {}
        self._done: set[int] = set()
        self._uses = Counter(index for operator in self.graph.operators for index in operator.inputs)
        self._uses.update(self.graph.outputs)

    def run(self) -> Plan:
        """UnsupportedLayerError for an operator that there is no lowering for."""
        for index in self.graph.inputs:
            self._values[index] = self._taken_in(index)
        for operator in self.graph.operators:
            if operator.index not in self._done:
                lower = (lowerings.CUSTOM if operator.custom else lowerings.LOWERINGS).get(operator.name)
                if lower is None:
                    raise self.unsupported(operator, "there is no TVM code of ours for it")
                self._check_types(operator)
                number = self.only_number(operator)
                if number is None:
                    lower(self, operator)
                else:
                    self._fill(operator, number)
                self._done.add(operator.index)
        for index in self.graph.outputs:
            self.plan.outputs.append(self._handed_out(index))
        return self.plan

    def _check_types(self, operator: Operator) -> None:
        """Lowerings see no others; weights may be narrower in the file."""
        for index in (*operator.inputs, *operator.outputs):
            dtype = self.tensor(index).dtype if index >= 0 else "bool"
            weights = operator.name in WEIGHTS and self.tensor(index).is_constant
            if dtype not in BYTES and dtype != "bool" and not weights:
                raise self.unsupported(operator, f"of {dtype}")

    # -- what lowerings ask

    def tensor(self, index: int) -> Tensor:
        return self.graph.tensors[index]

    def constant(self, index: int) -> Array | None:
        """The elements of a constant tensor; None for one that is computed."""
        tensor = self.tensor(index)
        return self.model.data(tensor) if tensor.is_constant else None

    def value(self, index: int) -> Value:
        return self._values[index]

    def whole(self, index: int) -> Value:
        """The value without padding channels."""
        found = self._values[index]
        if found.stored == found.shape:
            return found
        made = dataclasses.replace(found, stored=found.shape)
        self._copy(found, made, "without padding channels")
        self._values[index] = made
        return made

    def operand(self, index: int) -> Value | Array:
        """What a function reads: the value without padding channels, or a constant as values are stored."""
        data = self.constant(index)
        if data is None:
            return self.whole(index)
        shifted = data
        if self.dtype(index) != data.dtype:
            shifted = (data.astype(np.int16) + self.shift(index)).astype(self.dtype(index))
        return np.ascontiguousarray(shifted.reshape(shifted.shape or (1,)))

    def range(self, index: int, activation: str = "NONE") -> Range | None:
        """Of a quantized tensor, as it is stored; None for any other."""
        tensor = self.tensor(index)
        if tensor.quantization is None or tensor.dtype not in ("int8", "uint8", "int16"):
            return None
        scale, zero = tensor.quantization.scales[0], tensor.quantization.zero_points[0]
        limits = np.iinfo(tensor.dtype)
        low, high = int(limits.min), int(limits.max)
        if activation in ("RELU", "RELU6"):
            low = max(low, zero)
        if activation == "RELU6":
            high = min(high, zero + round(6 / scale))
        if activation == "RELU_N1_TO_1":
            low, high = max(low, zero + round(-1 / scale)), min(high, zero + round(1 / scale))
        shift = self.shift(index)
        return Range(scale, zero + shift, low + shift, high + shift, self.dtype(index), tensor.dtype == "uint8")

    def only_number(self, operator: Operator) -> int | None:
        """What the operator's activation makes of all numbers, as it is stored; None where it leaves more than one."""
        activation = operator.options.get("fused_activation_function", "NONE")
        of = self.range(operator.outputs[0], activation) if activation != "NONE" else None
        return None if of is None or of.low < of.high else of.low

    def shift(self, index: int) -> int:
        """What is added to the tensor's integers where they are stored."""
        kept, dtype = self.dtype(index), self.tensor(index).dtype
        return 0 if kept == dtype or dtype == "bool" else 128 if kept == "uint8" else -128

    def dtype(self, index: int) -> str:
        """As the tensor is stored between calls: bytes all signed or all unsigned, truth values as 0 and 1."""
        dtype = self.tensor(index).dtype
        if dtype in ("int8", "uint8"):
            return "uint8" if self.isa.unsigned else "int8"
        return "uint8" if dtype == "bool" else dtype

    def output(self, index: int, stored: tuple[int, ...] | None = None) -> Value:
        """A new value for a tensor, which the step that is emitted next writes."""
        shape = self.tensor(index).shape
        value = Value(shape, stored or shape, self.dtype(index), self.range(index))
        self._values[index] = value
        return value

    def sized(self, index: int, shape: tuple[int, ...]) -> Value:
        """As `output`, of a tensor whose shape the file doesn't say."""
        value = Value(shape, shape, self.dtype(index), self.range(index))
        self._values[index] = value
        return value

    def alias(self, index: int, of: Value) -> None:
        """The tensor is `of` in another shape."""
        shape = self.tensor(index).shape
        assert math.prod(shape) == math.prod(of.stored)
        self._values[index] = Value(shape, shape, of.dtype, self.range(index), of.place)

    def same(self, index: int, of: Value) -> None:
        """The tensor is `of`, element by element."""
        self._values[index] = dataclasses.replace(of, of=self.range(index), root=of.place)

    def pad(self, index: int, of: Padded) -> None:
        """The tensor is read as a part of another, by the one operator that reads it."""
        self._padded[index] = of

    def padded(self, index: int) -> Padded:
        return self._padded.get(index, Padded(index))

    def emit(self, step: Step) -> None:
        self.plan.steps.append(step)

    def take(self, operator: Operator) -> None:
        """The operator is part of a step that is emitted now."""
        self._done.add(operator.index)

    def only_reader(self, index: int) -> Operator | None:
        """The operator that alone reads a tensor which isn't an output."""
        if self._uses[index] != 1:
            return None
        return next((o for o in self.graph.operators if index in o.inputs), None)

    def known(self, index: int) -> bool:
        """Whether the tensor was computed before this point."""
        return index in self._values

    def vector(self, channels: int) -> int:
        """Lanes for so many channels: the least work, the fewest vectors, and then the narrowest."""
        whole = self.isa.lanes // 2 if self.isa.halves else self.isa.lanes  # what is narrower costs as much

        def cost(width: int) -> tuple[int, int, int]:
            vectors = -(-channels // width)
            return vectors * -(-width // whole), vectors, width

        return min((width for width in (16, 8, 4) if width <= self.isa.lanes), key=cost)

    def unsupported(self, operator: Operator, why: str) -> UnsupportedLayerError:
        name = self.tensor(operator.outputs[0]).name
        return UnsupportedLayerError(
            f"operator {operator.index} ({operator.name}, {name[:80]!r}): {why}",
            hint="--backends litert leaves TVM out",
        )

    # -- the model's own inputs and outputs, as its signature has them

    def _taken_in(self, index: int) -> Value:
        tensor, kept = self.tensor(index), self.dtype(index)
        given = "uint8" if tensor.dtype == "bool" else tensor.dtype
        value = Value(tensor.shape, tensor.shape, given, self.range(index) if kept == given else None)
        self.plan.inputs.append(value)
        return value if kept == given else self._recentred(value, kept, self.range(index))

    def _handed_out(self, index: int) -> Value:
        found, dtype = self.whole(index), self.tensor(index).dtype
        dtype = "uint8" if dtype == "bool" else dtype
        if found.dtype != dtype:
            return self._recentred(found, dtype, None)
        taken = found.place in (*self.plan.inputs, *(each.place for each in self.plan.outputs))
        return self._recentred(found, dtype, None) if taken else found

    def _recentred(self, value: Value, dtype: str, of: Range | None) -> Value:
        made = Value(value.shape, value.shape, dtype, of)
        self._copy(value, made, "in or out")
        return made

    def _copy(self, value: Value, made: Value, why: str) -> None:
        function = compact(value.stored, made.shape, value.dtype, made.dtype)
        scheduled, note = plain.pointwise(function, self._whole_registers(value), self.threads)
        self.emit(Step(scheduled, (value, made), (made,), (), f"{why}, {note}"))

    def _fill(self, operator: Operator, number: int) -> None:
        """The operator's output is one number: in its sums, which nothing would read, TVM would lose all loops."""
        made = self.output(operator.outputs[0])
        function, note = plain.pointwise(filled(made.shape, made.dtype, number), self._whole_registers(made), 1)
        done = (*self.padded(operator.inputs[0]).operators, operator.index)
        self.emit(Step(function, (made,), (made,), done, f"one number, {note}"))
        self.plan.operators[operator.index] = (operator.name, 0)  # nothing is multiplied

    def _whole_registers(self, value: Value) -> int:
        return max(self.isa.lanes * 4 // BYTES[value.dtype], 2)
