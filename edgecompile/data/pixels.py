"""Files of images as pixels: 0 to 255 whatever their bit depth, in as many channels as the model takes.

What Pillow opens is brought to one scale: n bits of grey by 255 / (2**n - 1), floating point from [0, 1] or [0, 255].
Whatever has no such scale (32-bit or signed integers, floats beyond it), shows something that isn't in the file
(transparency) or is more than one image is refused by the file's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import lfs
from edgecompile.data.expected import ImageForm
from edgecompile.errors import DataError, EdgecompileError
from edgecompile.task import Array

_MODES = {None: "L", 1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by the channels of the model
_GREY = ("1", "L", "LA", "La", "I", "F")  # and I;16 of either byte order
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF 6.0
_WHITE_IS_ZERO, _SIGNED = 0, 2  # their values
_WHITE = 255.0


@dataclass(frozen=True)
class _Picture:
    """pixels: uint8 in the channels that are wanted, of a file with 8 bits, or the grey values [height, width] of a
    deeper one, in float32. extremes: of a file of floats, whose scale all of them tell together; None for integers."""

    pixels: Array
    deep: bool = False
    extremes: tuple[float, float] | None = None


def read_pixels(files: Sequence[Path], form: ImageForm | None) -> Array:
    """All images as one array, [n, height, width, channels] or [n, height, width], values 0 to 255.

    uint8 where all files have 8 bits a channel, and for a model that takes bytes; else float32, neither rounded nor
    clipped. form: what the model takes (images are resized to it, bilinear); None leaves their size, which must be one,
    and gives one channel where all are grey, else three.
    DataError that names the first file that can't be read, or can't be brought to that scale.
    """
    channels = form.channels if form else (1 if all(_is_grey(file) for file in files) else 3)
    if channels not in _MODES:
        raise DataError(
            f"the model takes images of {channels} channels: files hold 1 (grey), 2 (with alpha), 3 (RGB) or 4 (RGBA)",
            hint="give --data with the arrays in an .npz",
        )
    mode = _MODES[channels]
    pictures = [_read(file, mode, form) for file in files]
    _require_one_size(files, pictures)
    scale = np.float32(_scale_of_floats(files, pictures))
    found = np.stack(
        [_in_channels(p.pixels * (scale if p.extremes else 1), mode) if p.deep else p.pixels for p in pictures]
    )
    if form is not None and form.integer and found.dtype != np.uint8:
        found = np.rint(found).astype(np.uint8)
    return found[..., None] if channels == 1 else found


def _is_grey(file: Path) -> bool:
    from PIL import Image

    with _named_errors(file), Image.open(file) as image:
        return image.mode in _GREY or image.mode.startswith("I;16")


def _read(file: Path, mode: str, form: ImageForm | None) -> _Picture:
    from PIL import Image, ImageOps

    with _named_errors(file), Image.open(file) as opened:
        _require_one_frame(file, opened)
        depth = _white(file, opened)
        image = ImageOps.exif_transpose(opened)
        if depth is None:
            converted = _converted(file, image, mode)
            return _Picture(np.asarray(converted if form is None else _resized(converted, form)))
        grey = np.asarray(image).astype(np.float32)
        extremes = (float(grey.min()), float(grey.max())) if image.mode == "F" else None
        if extremes is None:
            _require_no_key(file, image, grey)
            grey = (depth - grey if _inverted(opened) else grey) * np.float32(_WHITE / depth)
        if form is not None:
            grey = np.asarray(_resized(Image.fromarray(grey), form))
        return _Picture(grey, True, extremes)


def _white(file: Path, image: Any) -> float | None:
    """The value that stands for white in an image of more than 8 bits; None where Pillow gives 8."""
    tags = getattr(image, "tag_v2", {})
    if _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)):
        raise _refused(file, "has signed integers, of which none is known to be white", "save them without a sign")
    if image.mode == "F":
        if _inverted(image):
            raise _refused(file, "has floating point values of which 0 is white", "save it with 0 for black")
        return 1.0
    if image.mode.startswith("I;16"):
        bits = int(np.max(tags.get(_BITS_PER_SAMPLE, 16)))  # TIFF has 12, too
        return float(2**bits - 1)
    if image.mode == "I":
        if image.format not in ("PNG", "PPM"):  # of these all that isn't 8 bits comes as 16
            raise _refused(file, "has integers of 32 bits, of which none is known to be white", "save it with 16 bits")
        return float(2**16 - 1)
    return None


def _inverted(image: Any) -> bool:
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _converted(file: Path, image: Any, mode: str) -> Any:
    """An image of 8 bits a channel in another mode; what alpha it has must be opaque, unless the model takes it."""
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int) and not mode.endswith("A"):
        # Pillow brings grey of 2 and 4 bits to 8, and leaves its transparent value as it is in the file.
        values = np.asarray(image)
        if any((values == key * step).any() for step in (1, 17, 85)):
            raise _transparent(file)
    if image.has_transparency_data and not mode.endswith("A"):
        image = image.convert("RGBA")
        lowest = image.getchannel("A").getextrema()[0]
        if lowest < _WHITE:
            raise _transparent(file)
    return image.convert(mode)


def _require_no_key(file: Path, image: Any, values: Array) -> None:
    """DataError where a value of grey that stands for transparent is used."""
    key = image.info.get("transparency")
    if key is not None and (values == key).any():
        raise _transparent(file)


def _transparent(file: Path) -> DataError:
    return _refused(file, "is transparent in places", "put it on the background that the model was trained with")


def _resized(image: Any, form: ImageForm) -> Any:
    from PIL import Image

    return image.resize((form.width, form.height), Image.Resampling.BILINEAR)


def _in_channels(grey: Array, mode: str) -> Array:
    """Grey values [height, width] in the channels of a mode."""
    if mode == "L":
        return grey
    alpha = [np.full_like(grey, _WHITE)] if mode.endswith("A") else []
    return np.stack([grey] * len(mode.removesuffix("A")) + alpha, axis=-1)


def _scale_of_floats(files: Sequence[Path], pictures: Sequence[_Picture]) -> float:
    """What brings the floating point images to 0 to 255: all of them have one scale, 0 to 1 or 0 to 255."""
    floats = [(file, p.extremes) for file, p in zip(files, pictures, strict=True) if p.extremes is not None]
    for file, (low, high) in floats:
        if not (low >= 0 and high <= _WHITE):  # a NaN is in neither
            raise _refused(file, f"has floating point values from {low:g} to {high:g}", "scale them to 0 to 1")
    small = [file for file, (_, high) in floats if 0 < high <= 1]
    large = [file for file, (_, high) in floats if high > 1]
    if small and large:
        raise DataError(
            f"floating point images of two scales: {small[0]} stays within 0 to 1, {large[0]} doesn't",
            hint="scale all of them to 0 to 1",
        )
    return 1.0 if large else _WHITE


def _require_one_size(files: Sequence[Path], pictures: Sequence[_Picture]) -> None:
    first = pictures[0].pixels.shape
    for file, picture in zip(files, pictures, strict=True):
        shape = picture.pixels.shape
        if shape[:2] != first[:2]:
            raise DataError(
                f"images differ in size: {files[0]} is {first[1]}x{first[0]}, {file} is "
                f"{shape[1]}x{shape[0]} (width x height)",
                hint="resize them to the model's input",
            )


def _require_one_frame(file: Path, image: Any) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a photograph with a preview of itself
        raise _refused(file, f"holds {frames} images", "save each as a file of its own")


def _refused(file: Path, what: str, hint: str) -> DataError:
    return DataError(f"{file} {what}", hint=hint)


@contextmanager
def _named_errors(file: Path) -> Iterator[None]:
    """Pillow's errors as one that names the file."""
    if file.exists() and not file.is_file():
        raise DataError(f"{file} is no file: it can't be read as an image", hint="remove it")
    if file.is_file() and lfs.is_pointer(file):
        raise DataError(f"{file} is a pointer of Git LFS in place of the image", hint=lfs.CURE)
    try:
        yield
    except EdgecompileError:
        raise
    except Exception as error:  # Pillow raises all sorts, depending on what is damaged
        what = str(error) or type(error).__name__
        raise DataError(f"{file} can't be read as an image: {what}", hint="replace or remove the file") from error
