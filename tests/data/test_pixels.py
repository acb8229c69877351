"""Files of images: whatever their form, the pixels that a model is given are right, or the file is refused by name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecompile.data.expected import ImageForm
from edgecompile.data.pixels import read_pixels
from edgecompile.errors import DataError

HEIGHT, WIDTH = 5, 7
RAMP = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
BYTES = np.rint(RAMP * 255).astype(np.uint8)
WORDS = np.rint(RAMP * 65535).astype(np.uint16)
COLOUR = np.stack([BYTES, BYTES[::-1], 255 - BYTES], axis=-1)
TRANSPARENT = np.dstack([COLOUR, np.full_like(BYTES, 254)])
Saver = Callable[[Path], object]

GREY = ImageForm(HEIGHT, WIDTH, 1)
RGB = ImageForm(HEIGHT, WIDTH, 3)


def netpbm(kind: str, most: int, values: np.ndarray) -> Saver:
    head = f"{kind} {WIDTH} {HEIGHT} {most}\n".encode()
    return lambda path: path.write_bytes(head + values.tobytes())


def saved(array: np.ndarray, mode: str | None = None, **options: object) -> Saver:
    def save(path: Path) -> None:
        image = Image.fromarray(array)
        (image if mode is None else image.convert(mode)).save(path, **options)

    return save


def with_alpha(alpha: np.ndarray) -> Saver:
    return saved(np.dstack([BYTES, alpha]))


def palette(**options: object) -> Saver:
    def save(path: Path) -> None:
        image = Image.fromarray(BYTES // 64)
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 255, 255, 255])
        image.save(path, **options)

    return save


def turned(path: Path) -> None:
    """The image a quarter turn off, and a tag that says so."""
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(COLOUR)).save(path, exif=exif)


def of_32_bits(path: Path) -> None:
    """Pillow writes signed integers; the tag that says so is made to say the other."""
    Image.fromarray(WORDS.astype(np.int32)).save(path)
    tag = struct.pack("<HHII", 339, 3, 1, 2)
    content = path.read_bytes()
    assert tag in content
    path.write_bytes(content.replace(tag, struct.pack("<HHII", 339, 3, 1, 1)))


OPAQUE = np.full_like(BYTES, 255)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [255, 255, 255]], np.uint8)
TWELVE_BITS = np.rint(RAMP * 1023).astype(">u2")

GREYS: dict[str, tuple[str, Saver, np.ndarray]] = {
    "8 bits": ("a.png", saved(BYTES), BYTES),
    "16 bits in PNG": ("a.png", saved(WORDS), RAMP * 255),
    "16 bits in TIFF": ("a.tif", saved(WORDS), RAMP * 255),
    "big-endian TIFF": ("a.tif", saved(WORDS.astype(">u2")), RAMP * 255),
    "0 is white": ("a.tif", saved(WORDS, tiffinfo={262: 0}), (1 - RAMP) * 255),
    "16 bits in PGM": ("a.pgm", netpbm("P5", 65535, WORDS.astype(">u2")), RAMP * 255),
    "10 bits in PGM": ("a.pgm", netpbm("P5", 1023, TWELVE_BITS), RAMP * 255),
    "4 bits in PGM": ("a.pgm", netpbm("P5", 15, np.rint(RAMP * 15).astype(np.uint8)), np.rint(RAMP * 15) * 17),
    "floats to 1": ("a.tif", saved(RAMP.astype(np.float32)), RAMP * 255),
    "floats to 255": ("a.tif", saved((RAMP * 255).astype(np.float32)), RAMP * 255),
    "1 bit": ("a.png", saved((BYTES > 99).astype(np.uint8) * 255, "1"), (BYTES > 99) * 255),
    "opaque alpha": ("a.png", with_alpha(OPAQUE), BYTES),
    "colour": ("a.png", saved(COLOUR), np.asarray(Image.fromarray(COLOUR).convert("L"))),
}


@pytest.mark.parametrize("kind", GREYS)
def test_grey_has_one_scale_whatever_its_depth(tmp_path: Path, kind: str) -> None:
    name, save, expected = GREYS[kind]
    save(tmp_path / name)
    found = read_pixels([tmp_path / name], GREY)
    assert found.shape == (1, HEIGHT, WIDTH, 1)
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=0.13)  # half a step of 10 bits


COLOURED: dict[str, tuple[str, Saver, np.ndarray]] = {
    "opaque RGBA": ("a.png", saved(np.dstack([COLOUR, OPAQUE])), COLOUR),
    "palette": ("a.png", palette(), COLOURS[BYTES // 64]),
    "palette with an unused key": ("a.png", palette(transparency=7), COLOURS[BYTES // 64]),
    "CMYK": ("a.tif", saved(COLOUR, "CMYK"), COLOUR),
    "EXIF": ("a.png", turned, COLOUR),
    "grey": ("a.png", saved(BYTES), np.dstack([BYTES] * 3)),
    "16 bits of grey": ("a.png", saved(WORDS), np.dstack([RAMP * 255] * 3)),
    "colours of 16 bits": (
        "a.ppm",
        netpbm("P6", 65535, (COLOUR.astype(np.uint16) * 257).astype(">u2")),
        COLOUR,
    ),
}


@pytest.mark.parametrize("kind", COLOURED)
def test_colours_are_those_of_the_picture(tmp_path: Path, kind: str) -> None:
    name, save, expected = COLOURED[kind]
    save(tmp_path / name)
    found = read_pixels([tmp_path / name], RGB)
    assert found.shape == (1, HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(found[0], expected, atol=0.01)


REFUSED: dict[str, tuple[str, Saver, str]] = {
    "transparent": ("a.png", saved(TRANSPARENT), "is transparent in places"),
    "grey and transparent": ("a.png", with_alpha(BYTES), "is transparent in places"),
    "transparent colour of a palette": ("a.png", palette(transparency=1), "is transparent in places"),
    "transparent value": ("a.png", saved(WORDS, transparency=65535), "is transparent in places"),
    "32 bits": ("a.tif", of_32_bits, "32 bits"),
    "signed": ("a.tif", saved(WORDS.astype(np.int32) - 9), "signed integers"),
    "floats beyond 255": ("a.tif", saved((RAMP * 4096).astype(np.float32)), "values from 0 to 4096"),
    "negative floats": ("a.tif", saved((RAMP - 0.5).astype(np.float32)), "values from -0.5 to 0.5"),
    "NaN": ("a.tif", saved(np.full((HEIGHT, WIDTH), np.nan, np.float32)), "values from nan to nan"),
    "several": ("a.gif", saved(BYTES, save_all=True, append_images=[Image.fromarray(255 - BYTES)]), "holds 2 images"),
    "cut": ("a.png", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n\0\0"), "can't be read as an image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_such_scale_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    name, save, message = REFUSED[kind]
    save(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name.replace('.', '[.]')} .*{message}"):
        read_pixels([tmp_path / name], RGB)


def test_a_folder_of_several_depths_has_one_scale(tmp_path: Path) -> None:
    files = []
    for i, kind in enumerate(("8 bits", "16 bits in PNG", "floats to 1", "16 bits in PGM", "opaque alpha")):
        name, save, _ = GREYS[kind]
        files.append(tmp_path / f"{i}{name}")
        save(files[-1])
    found = read_pixels(files, None)
    assert (found.shape, found.dtype) == ((5, HEIGHT, WIDTH, 1), np.float32)
    np.testing.assert_allclose(found[..., 0], np.stack([RAMP * 255] * 5), atol=0.51)


def test_floats_of_a_folder_have_one_scale(tmp_path: Path) -> None:
    for name, scale in (("a", 0.0), ("b", 200.0), ("c", 1.0)):
        saved((RAMP * scale).astype(np.float32))(tmp_path / f"{name}.tif")
    found = read_pixels([tmp_path / "a.tif", tmp_path / "b.tif"], GREY)
    np.testing.assert_allclose(found[1, ..., 0], RAMP * 200, rtol=1e-6)
    with pytest.raises(DataError, match=r"two scales: .*c\.tif stays within 0 to 1, .*b\.tif doesn't"):
        read_pixels(sorted(tmp_path.iterdir()), GREY)


def test_channels_and_type_are_the_models(tmp_path: Path) -> None:
    saved(TRANSPARENT)(tmp_path / "a.png")
    saved(WORDS)(tmp_path / "b.png")
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    found = read_pixels(files, ImageForm(HEIGHT, WIDTH, 4))
    assert found[:, 0, 0, 3].tolist() == [254, 255]
    assert read_pixels(files[1:], ImageForm(3, 2, None)).shape == (1, 3, 2)
    whole = read_pixels(files[1:], ImageForm(HEIGHT, WIDTH, 1, integer=True))
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole[0, ..., 0], BYTES)
    with pytest.raises(DataError, match="images of 5 channels"):
        read_pixels(files, ImageForm(HEIGHT, WIDTH, 5))


def test_deep_images_are_resized_as_others_are(tmp_path: Path) -> None:
    saved(BYTES)(tmp_path / "a.png")
    saved(BYTES.astype(np.uint16) * 257)(tmp_path / "b.png")
    eight, sixteen = read_pixels([tmp_path / "a.png", tmp_path / "b.png"], ImageForm(9, 4, 1))
    np.testing.assert_allclose(eight, sixteen, atol=1.01)  # Pillow rounds bytes twice
