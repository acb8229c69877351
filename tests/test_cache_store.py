"""The cache under kills, damage and other processes; one measurement at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgecompile import measure as measuring
from edgecompile.artifact import TFLITE, Artifact, Signature, StageRecord, sha256_file
from edgecompile.cache import SHA256, Cache, system_error, write_file
from edgecompile.devices import provision
from edgecompile.devices.local import LocalDevice
from edgecompile.errors import DiskFullError, EdgecompileError, OutputError
from edgecompile.stages.base import Progress

LONG_AGO = time.time() - 40 * 86400


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def put(cache: Cache, key: str, content: bytes = b"model") -> Artifact:
    file = cache.new_folder(key) / "model.tflite"
    file.write_bytes(content)
    record = StageRecord("convert", key, {}, {}, 1.0, "2025-01-01T00:00:00+00:00")
    return cache.put(key, Artifact(TFLITE, {"model": file}, Signature((), ()), (record,)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


@pytest.mark.parametrize("lost", ["model.tflite", "artifact.json", "half of artifact.json"])
def test_a_broken_entry_is_absent_and_replaced(cache: Cache, lost: str) -> None:
    put(cache, "a")
    record = cache.root / "stages" / "a" / "artifact.json"
    if lost.startswith("half"):
        record.write_text(record.read_text()[:50])
    else:
        record.with_name(lost).unlink()
    assert cache.get("a") is None
    assert [entry.key for entry in cache.entries()] == ["a"]  # it takes space
    assert put(cache, "a", b"again").model.read_bytes() == b"again"
    assert names(cache.root / "trash") == []


def test_a_prune_that_is_killed_leaves_whole_entries_only(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache, "a")

    def killed(folder: Path, **_: object) -> None:
        next(Path(folder).glob("*.tflite")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.prune(older_than_days=0)
    assert names(cache.root / "stages") == []
    assert put(cache, "a").model.is_file()
    cache.prune(older_than_days=30)
    assert names(cache.root / "trash") == []
    assert cache.get("a") is not None


def test_prune_leaves_a_running_build_its_folders_and_lock(cache: Cache) -> None:
    put(cache, "done")
    with cache.lock("running"):
        checkpoint = cache.work_folder("running") / "epoch-1"
        checkpoint.write_text("weights")
        os.utime(checkpoint.parent, (LONG_AGO, LONG_AGO))
        assert cache.prune(older_than_days=0) > 0
        assert checkpoint.is_file()
        assert names(cache.root / "locks") == ["running"]
    assert cache.entries() == []
    cache.prune(older_than_days=0)
    assert not checkpoint.exists()
    assert names(cache.root / "locks") == []


def test_a_lock_has_one_holder_though_its_file_is_pruned_all_the_time(cache: Cache) -> None:
    holders, most, ends = 0, 0, threading.Event()

    def build() -> None:
        nonlocal holders, most
        for _ in range(200):
            with cache.lock("key"):
                holders += 1
                most = max(most, holders)
                time.sleep(0)
                holders -= 1

    def prune() -> None:
        while not ends.is_set():
            cache.prune(older_than_days=0)

    builds = [threading.Thread(target=build) for _ in range(3)]
    pruner = threading.Thread(target=prune)
    for thread in (*builds, pruner):
        thread.start()
    for thread in builds:
        thread.join()
    ends.set()
    pruner.join()
    assert most == 1


def test_prune_removes_all_kinds_of_files(cache: Cache) -> None:
    put(cache, "a")
    logs = [cache.root / "logs" / f"{os.getpid()}.log", cache.root / "logs" / "internal-error.txt"]
    others = [cache.root / "measurements" / "m.json", cache.root / "tasks" / "t.json", *logs]
    for path in others:
        write_file(path, "{}")
    cache.work_folder("w")
    cache.prune(older_than_days=30)
    assert all(path.is_file() for path in others)
    os.utime(others[1], (LONG_AGO, LONG_AGO))
    cache.prune(older_than_days=30)
    assert [path.is_file() for path in others] == [True, False, True, True]
    cache.prune(older_than_days=0)
    left = [path for path in cache.root.rglob("*") if path.is_file()]
    assert left == [logs[0]]  # of a process that is alive: this one


def test_a_file_is_written_whole_by_many_at_once(cache: Cache) -> None:
    path = cache.root / "measurements" / "m.json"
    failed = []

    def write(letter: str) -> None:
        try:
            for _ in range(50):
                write_file(path, json.dumps(letter * 5000))
        except OutputError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(set(json.loads(path.read_text()))) == 1
    assert names(path.parent) == ["m.json"]


def test_one_measurement_at_a_time(cache: Cache) -> None:
    said: list[Progress] = []
    order = []
    waits = threading.Event()

    def report(progress: Progress) -> None:
        said.append(progress)
        waits.set()

    def second() -> None:
        with measuring.alone(cache, report):
            order.append("second")

    thread = threading.Thread(target=second)
    with measuring.alone(cache, report):
        thread.start()
        assert waits.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert said == [Progress("waiting for another measurement")]


def test_a_measurement_waits_for_one_that_runs(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes its figures, where they are of the same candidates."""
    runs = []
    found = measuring.Measurement("here", 1, "2025-01-01", {}, {}, "key", 1.0, windows=[], throttled=[])
    running, waits = threading.Event(), threading.Event()

    def run(*_: object, **__: object) -> measuring.Measurement:
        runs.append(1)
        running.set()
        assert waits.wait(10)
        return found

    monkeypatch.setattr(measuring, "_run", run)
    results = {}

    def build(name: str) -> None:
        inputs = {"x": np.zeros(1, np.float32)}
        results[name] = measuring.measure(
            LocalDevice(), (), inputs, depends=("a",), cache=cache, again=False, report=lambda _: waits.set()
        )

    first, second = (threading.Thread(target=build, args=(name,)) for name in ("first", "second"))
    first.start()
    running.wait(10)
    second.start()
    first.join()
    second.join()
    assert results == {"first": (found, False), "second": (found, True)}
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, DiskFullError, "no space left while writing to /some/file"),
        (errno.EROFS, OutputError, "/some/file can't be written"),
        (errno.EACCES, OutputError, "/some/file can't be read or written: permission denied"),
        (errno.EPERM, OutputError, "/some/file can't be read or written: permission denied"),
    ],
)
def test_what_the_system_says(number: int, kind: type[EdgecompileError], words: str) -> None:
    for name in ("/some/file", b"/some/file"):
        error = system_error(OSError(number, os.strerror(number), name), "the cache")
        assert isinstance(error, kind)
        assert words in error.message


def test_a_file_that_is_missing_is_not_known() -> None:
    assert system_error(FileNotFoundError(errno.ENOENT, "none"), "the cache") is None
    nameless = system_error(OSError(errno.ENOSPC, "full", 3), "the cache")
    assert nameless is not None
    assert "the cache" in nameless.message


def test_a_prune_takes_wheels_and_engines_that_no_board_needed_for_long(cache: Cache) -> None:
    for age, name in ((LONG_AGO, "old"), (time.time(), "new")):
        wheel, engine = cache.root / "wheels" / name / "litert.whl", cache.root / "engines" / f"{name}.plan"
        for path in (wheel, engine):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 1000)
            os.utime(path, (age, age))
        os.utime(wheel.parent, (age, age))
    assert cache.prune(older_than_days=30) >= 2000
    assert names(cache.root / "wheels") == ["new"]
    assert names(cache.root / "engines") == ["new.plan"]


def change(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("what", ["model.tflite", "artifact.json", "a folder's file"])
def test_an_entry_of_which_a_bit_changed_is_absent_and_said(cache: Cache, what: str) -> None:
    folder = cache.new_folder("a")
    (folder / "model").mkdir()
    (folder / "model" / "saved_model.pb").write_bytes(b"graph")
    (folder / "model.tflite").write_bytes(b"model")
    record = StageRecord("convert", "a", {}, {}, 1.0, "2025-01-01T00:00:00+00:00")
    files = {"model": folder / "model.tflite", "source": folder / "model"}
    cache.put("a", Artifact(TFLITE, files, Signature((), ()), (record,)))
    changed = "model/saved_model.pb" if "folder" in what else what
    change(cache.root / "stages" / "a" / changed)
    said: list[str] = []
    another = Cache(cache.root, say=said.append)
    assert another.get("a") is None
    assert another.get("a") is None
    assert len(said) == 1
    assert said[0].endswith("was changed or damaged since it was written: it is made again")
    assert put(another, "a").model.read_bytes() == b"model"
    assert Cache(cache.root, say=said.append).get("a") is not None
    assert len(said) == 1


def test_facts_are_kept_until_a_bit_of_them_changes(cache: Cache) -> None:
    path = cache.root / "measurements" / "m.json"
    facts = {"p50": 0.1, "of": ["a", None], "nested": {"1": True}}
    cache.keep(path, facts)
    assert cache.kept(path) == facts
    for at in range(0, path.stat().st_size, 3):
        whole = path.read_bytes()
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert cache.kept(path) in (None, facts)  # a space more or less is no change
        path.write_bytes(whole)
    for content in (b"", b"{", b"[" * 100_000, b"[]", b'{"sha256": 3}', b"\xff\xfe", b'{"p50": 0.1}'):
        path.write_bytes(content)
        assert cache.kept(path) is None
    path.unlink()
    assert cache.kept(path) is None


def test_a_file_is_whole_with_the_digest_that_was_kept_of_it(cache: Cache) -> None:
    path = cache.root / "engines" / "e.plan"
    write_file(path, "engine")
    kept = {SHA256: sha256_file(path)}
    assert cache.is_whole(path, kept)
    assert not cache.is_whole(path, None)
    change(path)
    assert not cache.is_whole(path, kept)
    path.unlink()
    assert not cache.is_whole(path, kept)


def test_wheels_of_which_a_byte_changed_are_downloaded_again(cache: Cache) -> None:
    downloads = []

    def download(folder: Path) -> None:
        downloads.append(folder)
        (folder / "a-1.0-py3-none-any.whl").write_bytes(b"wheel")

    first = provision._kept(["a"], cache, download)
    assert provision._kept(["a"], cache, download) == first
    assert [path.name for path in first] == ["a-1.0-py3-none-any.whl"]
    assert len(downloads) == 1
    change(first[0])
    assert provision._kept(["a"], cache, download) == first
    assert first[0].read_bytes() == b"wheel"
    assert len(downloads) == 2


@pytest.mark.parametrize("file", ["artifact.json", "model.tflite"])
def test_a_folder_in_a_files_place_is_damage_that_is_made_again(cache: Cache, file: str) -> None:
    put(cache, "key")
    place = cache.root / "stages" / "key" / file
    place.unlink()
    place.mkdir()
    fresh = Cache(cache.root)
    assert fresh.get("key") is None
    assert put(fresh, "key").model.read_bytes() == b"model"
    facts = cache.root / "tasks" / "facts.json"
    facts.mkdir(parents=True)
    assert fresh.kept(facts) is None
    fresh.keep(facts, {"a": 1})
    assert fresh.kept(facts) == {"a": 1}
