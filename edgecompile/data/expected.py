"""What a model takes and gives, as far as reading its data depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.task import KerasLoss, Task


@dataclass(frozen=True)
class ImageForm:
    """A model's image input. channels: None where it has no axis for them. integer: of 8 bits, without a sign."""

    height: int
    width: int
    channels: int | None
    integer: bool = False


@dataclass(frozen=True)
class ExpectedOutput:
    """shape: of one sample, -1 where it is free. activation: by Keras's name, None where it isn't known. loss: that the
    model was compiled with, and its weight. kind: of its labels, where that was decided before."""

    name: str
    shape: tuple[int, ...]
    activation: str | None = None
    loss: KerasLoss | None = None
    loss_weight: float | None = None
    kind: str | None = None


@dataclass(frozen=True)
class Expected:
    """image: the form of the first input, None where it is no image's. outputs: in the model's order."""

    image: ImageForm | None = None
    outputs: tuple[ExpectedOutput, ...] = ()

    def output(self, name: str, labelled: int) -> ExpectedOutput | None:
        """The output that labels of this name are for, where there are labels of so many names."""
        if labelled == 1 and len(self.outputs) == 1 and name in ("", self.outputs[0].name):
            return self.outputs[0]
        return next((output for output in self.outputs if output.name == name), None)


def of_model(signature: Signature, compiled: Mapping[str, Any], kinds: Mapping[str, str]) -> Expected:
    """compiled: by output, what `loaders.compiled` tells of a model's file. kinds: by output, as decided before."""
    outputs = []
    for tensor in signature.outputs:
        told = compiled.get(tensor.name, {})
        loss = told.get("loss")
        outputs.append(
            ExpectedOutput(
                tensor.name,
                tensor.shape[1:],
                told.get("activation"),
                KerasLoss(loss["name"], tuple(sorted(loss["settings"].items()))) if loss else None,
                told.get("loss_weight"),
                kinds.get(tensor.name, kinds.get("") if len(signature.outputs) == 1 else None),
            )
        )
    first = signature.inputs[:1]
    return Expected(image_form(first[0]) if first else None, tuple(outputs))


def image_form(tensor: TensorInfo) -> ImageForm | None:
    """The images that an input [batch, height, width, channels] or [batch, height, width] takes; None for another."""
    if len(tensor.shape) not in (3, 4) or -1 in tensor.shape[1:]:
        return None
    height, width, *channels = tensor.shape[1:]
    return ImageForm(height, width, channels[0] if channels else None, tensor.dtype == "uint8")


def compiled_losses(task: Task, expected: Expected) -> tuple[dict[str, KerasLoss], dict[str, float]]:
    """(losses, loss weights) that the model's file has for the task's outputs; its own weights go before those."""
    losses = {output.name: output.loss for output in expected.outputs if output.loss is not None}
    weights = {o.name: o.loss_weight for o in expected.outputs if o.loss_weight is not None}
    return losses, {**weights, **task.loss_weights}
