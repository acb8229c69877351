"""What is no file, and what numbers are too large: refused by name before anything waits or overflows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecompile import loaders
from edgecompile.data.images import load_images
from edgecompile.data.npz import load_npz
from edgecompile.data.pixels import read_pixels
from edgecompile.data.table import load_table
from edgecompile.errors import DataError, ModelError


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.tflite")
    with pytest.raises(ModelError, match="neither a file nor a folder"):
        loaders.sniff(tmp_path / "model.tflite")
    os.mkfifo(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"0\.png is no file"):
        read_pixels([tmp_path / "0.png"], None)


def test_a_pointer_of_git_lfs_in_place_of_an_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match="pointer of Git LFS"):
        read_pixels([tmp_path / "0.png"], None)


@pytest.mark.parametrize("bits", [2, 4])
def test_a_transparent_grey_value_of_few_bits_is_refused(tmp_path: Path, bits: int) -> None:
    """Pillow leaves the value of a tRNS chunk as it is in the file, and scales the pixels."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    largest = 2**bits - 1
    row = b"\0" + bytes([largest << (8 - bits)])  # two pixels: white, and black
    content = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)),
        chunk(b"tRNS", struct.pack(">H", largest)),
        chunk(b"IDAT", zlib.compress(row)),
        chunk(b"IEND", b""),
    ]
    (tmp_path / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))
    with pytest.raises(DataError, match="transparent"):
        read_pixels([tmp_path / "0.png"], None)


def images(folder: Path, count: int = 4) -> None:
    for i in range(count):
        Image.fromarray(np.full((4, 4), 40 * i, np.uint8)).save(folder / f"{i}.png")


def test_an_image_in_two_splits_is_found_by_any_spelling(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "d.csv").write_text(
        "file,label,split\n0.png,a,train\n1.png,b,train\n./../" + tmp_path.name + "/0.png,a,test\n"
    )
    with pytest.raises(DataError, match="is in train"):
        load_table(tmp_path / "d.csv")


def test_a_number_that_float32_cannot_hold_is_named(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "d.csv").write_text("file,label,split\n0.png,0.5,train\n1.png,1e999,train\n2.png,1,test\n")
    with pytest.raises(DataError, match="line 3: label is '1e999'"):
        load_table(tmp_path / "d.csv")
    x = np.ones((4, 3))
    np.savez(tmp_path / "d.npz", x_train=x * 1e300, y_train=np.arange(4) % 2, x_test=x, y_test=np.arange(4) % 2)
    with pytest.raises(DataError, match="x_train has 12 values that float32 can't hold"):
        load_npz(tmp_path / "d.npz")


def test_files_of_a_folder_that_are_no_images_are_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            images(tmp_path / split / name, 2)
    assert load_images(tmp_path, None).notes == ()
    (tmp_path / "train" / "a" / "2.pam").write_text("no")
    (tmp_path / "test" / "stray.png").write_text("no")
    (tmp_path / "test" / ".DS_Store").write_text("hidden")
    (note,) = load_images(tmp_path, None).notes
    assert "train/a/2.pam and 1 more" in note
