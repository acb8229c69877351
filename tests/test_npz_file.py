"""Archives of arrays that were damaged, or made to do harm: each is a DataError that names what is wrong."""

from __future__ import annotations

import io
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from running import patch_sha256, run_cli

from edgecompile import golden
from edgecompile.data.npz import load_npz
from edgecompile.errors import DataError
from edgecompile.npz_file import opened

X = np.arange(24, dtype=np.float32).reshape(4, 6)


def good() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, x_train=X, y_train=np.arange(4), x_test=X, y_test=np.arange(4))
    return file.getvalue()


def repacked(change: Callable[[dict[str, bytes]], object], method: int = zipfile.ZIP_STORED) -> bytes:
    """The good archive with other members."""
    with zipfile.ZipFile(io.BytesIO(good())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def with_header(pattern: bytes, text: bytes) -> bytes:
    """Another header for one of the arrays."""

    def change(members: dict[str, bytes]) -> None:
        members["x_train.npy"] = re.sub(pattern, lambda _: text, members["x_train.npy"], count=1)

    return repacked(change)


def encrypted() -> bytes:
    """The flag of encryption, in the directory and in the local headers."""
    content = bytearray(good())
    for mark, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        for found in re.finditer(re.escape(mark), bytes(content)):
            content[found.start() + at] |= 1
    return bytes(content)


def declaring(size: int) -> bytes:
    """A directory that says how large the first member is."""
    content = bytearray(good())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", size)
    return bytes(content)


BAD = {
    "encrypted": (encrypted(), "is encrypted"),
    "another compression": (repacked(lambda _: None, zipfile.ZIP_BZIP2), "compressed by method 12"),
    "no array": (repacked(lambda m: m.update({"x_train.txt": b"x"})), "is no array"),
    "more than can be": (declaring(0xFFFF_0000), "compressed ones hold less"),
    "a shape of terabytes": (with_header(rb"\(4, 6\)", b"(9999999999, 6)"), "takes "),
    "a shape below nothing": (with_header(rb"\(4, 6\)", b"(-4, 6)"), "has the shape (-4, 6)"),
    "a shape of brackets": (with_header(rb"\(4, 6\)", b"(" * 200), "has no header of an array"),
    "another version": (with_header(rb"NUMPY\x01", b"NUMPY\x07"), "version"),
    "objects": (with_header(rb"'<f4'", b"'|O' "), "Object arrays cannot be loaded"),
    "cut short": (good()[:-30], ""),
    "a text": (b"x_train = 1", ""),
    "a pointer of LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_it_is_refused_by_name(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npz can't be read as \.npz") as error:
        load_npz(path)
    assert said in error.value.message
    with pytest.raises(golden.DAMAGED):
        golden.read(path)


def test_what_takes_more_than_this_machine_has_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.npz"
    np.savez_compressed(path, x=np.zeros((1000, 100), np.float32))
    monkeypatch.setattr("os.sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 50)
    with pytest.raises(DataError, match=r"its arrays take 400\.1 kB, this machine has 204\.8 kB of memory"):
        load_npz(path)


def test_good_ones_are_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {"a": X, "b": np.asfortranarray(X), "empty": np.zeros((0, 3)), "scalar": np.array(3)}
    arrays["text"] = np.array(["x"])
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        with opened(tmp_path / "a.npz") as file:
            assert all(np.array_equal(file[name], array) for name, array in arrays.items())
    np.save(tmp_path / "one.npy", X)
    with opened(tmp_path / "one.npy") as array:
        assert np.array_equal(array, X)
    with pytest.raises(DataError, match="holds a single array"):
        load_npz(tmp_path / "one.npy")


@pytest.mark.parametrize("kind", ["encrypted", "a shape of terabytes", "another compression"])
def test_golden_arrays_that_were_made_so_fail_the_check(digits_bundle: Path, tmp_path: Path, kind: str) -> None:
    bundle = Path(shutil.copytree(digits_bundle, tmp_path / "bundle"))
    (bundle / "golden.npz").write_bytes(BAD[kind][0])
    patch_sha256(bundle, "golden.npz")
    done = run_cli("verify", "bundle", cwd=tmp_path)
    assert done.code == 41, done.err
    assert "FAILED golden outputs: golden.npz can't be read: x_train.npy" in done.out
    assert BAD[kind][1] in done.out
