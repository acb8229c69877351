"""What a model takes and gives, as far as reading its data depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from edgecompile.artifact import TensorInfo


@dataclass(frozen=True)
class ImageForm:
    """A model's image input. channels: None where it has no axis for them. integer: of 8 bits, without a sign."""

    height: int
    width: int
    channels: int | None
    integer: bool = False


@dataclass(frozen=True)
class Expected:
    """image: the form of the first input, None where it is no image's."""

    image: ImageForm | None = None


def image_form(tensor: TensorInfo) -> ImageForm | None:
    """The images that an input [batch, height, width, channels] or [batch, height, width] takes; None for another."""
    if len(tensor.shape) not in (3, 4) or -1 in tensor.shape[1:]:
        return None
    height, width, *channels = tensor.shape[1:]
    return ImageForm(height, width, channels[0] if channels else None, tensor.dtype == "uint8")
