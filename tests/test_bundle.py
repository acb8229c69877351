"""Where a bundle may be written, and how it takes the place of the one before."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgecompile import bundle
from edgecompile.errors import BundleError, OutputError
from edgecompile.manifest import MEASURED, Figure, read_manifest, write_manifest


def make(folder: Path, name: str = "first") -> Path:
    """A small bundle; `name` tells one from another."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(name.encode())
    facts = bundle.file_facts(folder, ("model.tflite",))
    write_manifest(folder, {"schema": 1, "model": {"name": name}, "files": facts, "figures": [], "winner": {}})
    return folder


def name(folder: Path) -> str:
    found: str = bundle.find_bundle(folder)["model"]["name"]
    return found


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def replace(out: Path, name: str) -> None:
    with bundle.replacing(out) as new:
        make(new, name)


@pytest.mark.parametrize("before", ["bundle", "empty", "absent"])
def test_a_bundle_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path, before: str) -> None:
    out = tmp_path / "parent" / "out"
    if before != "absent":
        out.mkdir(parents=True)
    if before == "bundle":
        make(out)
    bundle.check_output(out)
    replace(out, "second")
    assert name(out) == "second"
    assert tree(tmp_path) == ["parent", "parent/out", "parent/out/manifest.json", "parent/out/model.tflite"]


FOREIGN = {
    "a web app's manifest": {"manifest.json": '{"name": "app"}'},
    "a web app": {"manifest.json": '{"name": "app"}', "index.html": ""},
    "notes in a bundle": {"notes.txt": "mine"},
    "a manifest cut short": {"manifest.json": '{"schema": 1, "mod'},
    "another schema": {"manifest.json": '{"schema": 0, "model": 1, "files": {}, "figures": [], "winner": 1}'},
    "a folder of results": {"candidates/a.txt": "mine"},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_what_is_not_a_whole_bundle_is_left_alone(tmp_path: Path, files: dict[str, str]) -> None:
    out = tmp_path / "out"
    if "notes.txt" in files:
        make(out)
    for file, text in files.items():
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_text(text)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="exists and is not a bundle: it is left alone") as error:
        bundle.check_output(out)
    foreign = [file for file in files if file.endswith((".html", "notes.txt"))]
    assert (repr(foreign[0]) in error.value.message) if foreign else ("remove it" in str(error.value.hint))
    with pytest.raises(OutputError):  # as it is when it came there after the check
        replace(out, "second")
    assert tree(tmp_path) == before
    assert all((out / file).read_text() == text for file, text in files.items())


def test_a_check_writes_nothing(tmp_path: Path) -> None:
    bundle.check_output(tmp_path / "a" / "b" / "out")
    assert tree(tmp_path) == []


@pytest.mark.parametrize("out", ["file/out", "file/deep/out", "file", "x" * 250])
def test_places_where_no_folder_can_be(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=out):
        bundle.check_output(tmp_path / out)


def test_a_folder_that_is_not_writable() -> None:
    code = """
import os, pathlib
from edgecompile import bundle, errors
if os.getuid() == 0:
    os.setuid(65534)
try:
    bundle.check_output(pathlib.Path("/usr/some/out"))
except errors.OutputError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "/usr/some/out can't be written" in done.stdout


def test_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for step in (lambda: None, lambda: make(tmp_path)):
        step()
        with pytest.raises(OutputError, match="current folder") as error:
            bundle.check_output(Path())
        assert "--out out" in str(error.value.hint)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a bundle"):
        bundle.check_output(Path())


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "out")
    for each in ("first", "second"):
        bundle.check_output(link)
        replace(link, each)
        assert name(link) == each
        assert link.is_symlink()
    assert bundle.resolved(link) == (tmp_path / "real" / "out").resolve()


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OutputError):
        bundle.check_output(tmp_path / "a")


def test_a_reader_always_finds_a_whole_bundle(tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    if not bundle._exchange(make(tmp_path / "probe"), out):
        pytest.skip("this file system can't swap two folders in one step")
    done = threading.Event()
    lost: list[str] = []

    def read() -> None:
        while not done.is_set():
            if not (out / "manifest.json").exists():
                lost.append("manifest.json")

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        replace(out, str(number))
    done.set()
    reader.join()
    assert lost == []


@pytest.mark.parametrize("atomic", [True, False])
def test_the_bundle_stays_where_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    if not atomic:
        monkeypatch.setattr(bundle, "_exchange", lambda *_: False)
    out = make(tmp_path / "out")
    with pytest.raises(FileNotFoundError), bundle.replacing(out) as new:
        make(new, "second").joinpath("golden.npz").read_bytes()
    assert name(out) == "first"
    replace(out, "second")
    assert name(out) == "second"
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208


@pytest.mark.parametrize("then", ["read", "build"])
def test_a_kill_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    """Where the system can't swap two folders at once."""

    class Killed(BaseException):
        pass

    rename = Path.rename

    def kill(self: Path, target: Path) -> Path:
        if self.name.endswith("-new"):
            raise Killed
        return rename(self, target)

    out = make(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "_exchange", lambda *_: False)
        patch.setattr(bundle, "_restore", lambda _: None)  # a killed process restores nothing
        patch.setattr(Path, "rename", kill)
        with pytest.raises(Killed):
            replace(out, "second")
    assert not out.exists()
    if then == "build":
        bundle.check_output(out)
        with pytest.raises(ZeroDivisionError), bundle.replacing(out):
            raise ZeroDivisionError
    assert name(out) == "first"


def test_two_builds_into_one_folder_take_turns(tmp_path: Path) -> None:
    out = tmp_path / "out"
    second = threading.Thread(target=replace, args=(out, "second"))
    with bundle.replacing(out) as new:
        second.start()
        second.join(0.3)
        assert second.is_alive()
        make(new, "first")
    second.join(10)
    assert name(out) == "second"
    assert not list(tmp_path.glob(".out*"))


def test_no_bundle_to_open(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        bundle.open_bundle(tmp_path / "none")


def test_names_that_are_not_text(tmp_path: Path) -> None:
    write_manifest(make(tmp_path), {**read_manifest(tmp_path), "model": {"name": "caf\udce9 é"}})
    assert read_manifest(tmp_path)["model"] == {"name": "caf\udce9 é"}


def test_a_figure_has_a_known_label() -> None:
    with pytest.raises(ValueError, match="guessed"):
        Figure("file_size", "model", 1, "B", "guessed", "none", "2025-01-01")
    assert Figure("file_size", "model", 1, "B", MEASURED, "none", "2025-01-01").label == MEASURED
