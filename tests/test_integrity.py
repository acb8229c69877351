"""Nothing of a bundle that isn't as it was built is loaded, and no library that its manifest doesn't name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import edit_manifest, run_cli

from edgecompile.artifact import sha256_file
from edgecompile.bench import Options, prepare
from edgecompile.bundle import file_facts, open_bundle
from edgecompile.cli.display import PlainDisplay
from edgecompile.errors import BundleError, ChangedFileError, OutputError
from edgecompile.examine import examine
from edgecompile.layerwise.subjects import Options as DiffOptions
from edgecompile.layerwise.subjects import diff
from edgecompile.lfs import is_pointer
from edgecompile.loaders.base import LoadOptions
from edgecompile.manifest import write_manifest
from edgecompile.session import Session
from edgecompile.verify import read_promise, verify
from edgecompile.worker import Worker

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.fixture(scope="module")
def session(cache_folder: Path) -> Iterator[Session]:
    del cache_folder
    with Session(PlainDisplay()) as opened:
        yield opened


@pytest.fixture
def bundle(digits_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_bundle, tmp_path / "bundle"))


def quiet(_: object) -> None:
    pass


def commands(session: Session) -> dict[str, Callable[[Path], object]]:
    """What loads something of a bundle, by name, but for `verify`, which says what it found."""
    return {
        "bench": lambda path: prepare([path], Options(), session.worker, report=quiet),
        "inspect": lambda path: examine(str(path), LoadOptions(), session.worker, report=quiet),
        "diff": lambda path: diff(str(path), str(path), DiffOptions(), session),
    }


def boast(path: Path) -> None:
    """Another accuracy, by an editor."""
    manifest = json.loads((path / "manifest.json").read_text())
    next(f for f in manifest["figures"] if f["of"] == "model" and f["name"] == "accuracy")["value"] = 1.0
    (path / "manifest.json").write_text(json.dumps(manifest))


CHANGES: dict[str, Callable[[Path], object]] = {
    "model.tflite": lambda path: shutil.copyfile(path / "golden.npz", path / "model.tflite"),
    "golden.npz": lambda path: (path / "golden.npz").write_bytes((path / "golden.npz").read_bytes()[:-1] + b"x"),
    "manifest.json": boast,
    "LFS": lambda path: (path / "model.tflite").write_bytes(LFS),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_is_refused_before_it_is_loaded(bundle: Path, session: Session, what: str) -> None:
    CHANGES[what](bundle)
    for name, run in commands(session).items():
        if (name, what) == ("inspect", "golden.npz"):
            continue  # it loads none
        with pytest.raises(ChangedFileError, match="LFS: git lfs pull" if what == "LFS" else what):
            run(bundle)
    assert session.worker._process is None  # nothing got as far as native code


def test_the_command_ends_with_a_code_of_its_own(bundle: Path) -> None:
    CHANGES["model.tflite"](bundle)
    done = run_cli("bench", "bundle", cwd=bundle.parent)
    assert done.code == ChangedFileError.exit_code, done.err
    assert "model.tflite changed since the build: not loaded" in done.err


@pytest.mark.parametrize("what", CHANGES)
def test_verify_loads_nothing_that_was_changed(bundle: Path, session: Session, what: str) -> None:
    CHANGES[what](bundle)
    if what == "manifest.json":
        with pytest.raises(ChangedFileError, match="hasn't the sha256 that it names"):
            verify(bundle, session.worker, report=quiet)
        return
    found = verify(bundle, session.worker, report=quiet)
    assert [(c.name, c.passed) for c in found.checks] == [
        ("files", False), ("model", None), ("golden outputs", None), ("parity", None), ("accuracy", None),
    ]  # fmt: skip
    assert ("Git LFS" in found.checks[0].text) == (what == "LFS")
    assert session.worker._process is None


def test_a_page_that_was_changed_is_said_and_hinders_no_check(bundle: Path) -> None:
    (bundle / "report.html").write_text("mine")
    done = run_cli("verify", "bundle", "--json", cwd=bundle.parent)
    assert {c["name"]: c["passed"] for c in json.loads(done.out)["checks"]} == {
        "files": False, "model": True, "golden outputs": True, "parity": True, "accuracy": True,
    }  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a library, the file that it makes when it is loaded)"""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("library")
    mark = folder / "loaded"
    source = folder / "made.c"
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void loaded(void) "
        f'{{ FILE *file = fopen("{mark}", "w"); if (file) fclose(file); }}\n'
    )
    made = folder / "made.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    subprocess.run([sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(made)!r})"], check=True)
    assert mark.exists()
    mark.unlink()
    return made, mark


def won_by_a_library(bundle: Path, library: Path, *, named: bool = True, file: str = "candidates/tvm.so") -> None:
    """The bundle of another build, whose winner is a library."""
    place = bundle / file
    place.parent.mkdir(exist_ok=True)
    shutil.copyfile(library, place)

    def change(manifest: dict[str, Any]) -> None:
        candidate = dict(manifest["candidates"][0], id="tvm", backend="tvm", file=file)
        manifest["candidates"].append(candidate)
        manifest["winner"] = {"id": "tvm", "backend": "tvm", "threads": 1, "why": "the test's choice"}
        if named:
            manifest["files"] |= file_facts(bundle, [file])

    edit_manifest(bundle, change)


def test_a_replaced_library_is_never_loaded(bundle: Path, library: tuple[Path, Path]) -> None:
    made, mark = library
    won_by_a_library(bundle, bundle / "model.tflite")
    shutil.copyfile(made, bundle / "candidates" / "tvm.so")
    done = run_cli("bench", "bundle", cwd=bundle.parent)
    assert done.code == ChangedFileError.exit_code, done.err
    assert "candidates/tvm.so changed" in done.err
    done = run_cli("verify", "bundle", cwd=bundle.parent)
    assert "FAILED files: changed since the build: candidates/tvm.so" in done.out
    assert not mark.exists()


@pytest.mark.parametrize("file", ["candidates/tvm.so", "../tvm.so"])
def test_a_library_that_the_manifest_does_not_name_is_never_loaded(
    bundle: Path, library: tuple[Path, Path], session: Session, file: str
) -> None:
    made, mark = library
    won_by_a_library(bundle, made, named=False, file=file)
    for run in (commands(session)["bench"], lambda path: verify(path, session.worker, report=quiet)):
        with pytest.raises(BundleError, match="is none of its files"):
            run(bundle)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/hostname", "candidates/../../x", "candidates/..", "notes.txt"])
def test_a_manifest_names_nothing_outside_the_bundle(bundle: Path, name: str) -> None:
    facts = {"sha256": sha256_file(bundle / "model.tflite"), "bytes": 1}
    edit_manifest(bundle, lambda manifest: manifest["files"].update({name: facts}))
    with pytest.raises(BundleError, match="no file of a bundle"):
        open_bundle(bundle)


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def test_any_manifest_is_read_or_refused(bundle: Path) -> None:
    """Each field in turn is left out, and is of each type; the digest is that of the manifest as it then is."""
    whole = json.loads((bundle / "manifest.json").read_text())
    others = (None, 7, "text", [[[{}]]], {"a": 1})
    damaged: list[dict[str, Any]] = [{k: v for k, v in whole.items() if k != key} for key in whole]
    damaged += [{**whole, key: other} for key in whole for other in others]
    for part in ("winner", "model", "environment", "models"):
        damaged += [{**whole, part: {**whole[part], key: other}} for key in whole[part] for other in others]
    for part in ("candidates", "figures"):
        damaged += [
            {**whole, part: [{**whole[part][0], k: o}, *whole[part][1:]]} for k in whole[part][0] for o in others
        ]
    refused = 0
    for manifest in damaged:
        write_manifest(bundle, manifest)
        try:
            read_promise(bundle, open_bundle(bundle))
        except BundleError:
            refused += 1
    assert refused > len(damaged) * 0.8
    path = bundle / "manifest.json"
    path.write_text(deep(100_000))
    with pytest.raises(BundleError, match="nested too deep"):
        open_bundle(bundle)
    path.write_text(json.dumps(whole)[:-1] + ', "more": ' + deep(900) + "}")
    with pytest.raises(ChangedFileError):
        open_bundle(bundle)


def test_the_schema_of_the_manifest_is_held_to(bundle: Path) -> None:
    whole = open_bundle(bundle)
    for place, value, said in (
        ("figures/0/value", "12", "figures/0/value: expected number, received '12'"),
        ("figures/0/value", 10**400, "figures/0/value: expected a finite number"),
        ("candidates/0/threads", 0, "candidates/0/threads: expected 1 or more, received 0"),
        ("files/model.tflite/sha256", "00", "files/model.tflite/sha256: expected what matches"),
        ("options/io", "int4", "options/io: expected one of"),
        ("data/metric", 3, "data/metric: expected"),
        ("winner/more", 1, "winner/more is not expected"),
    ):
        manifest: Any = json.loads(json.dumps(whole))
        *parts, last = place.split("/")
        at = manifest
        for part in parts:
            at = at[int(part) if isinstance(at, list) else part]
        at[last] = value
        write_manifest(bundle, manifest)
        with pytest.raises(BundleError) as error:
            open_bundle(bundle)
        assert said in error.value.message


def test_a_pointer_of_lfs_is_known_by_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(LFS)
    (tmp_path / "b").write_bytes(LFS[:20])
    assert [is_pointer(tmp_path / name) for name in ("a", "b", "absent", ".")] == [True, False, False, False]


def test_verify_judges_where_the_cache_cannot_be_written(bundle: Path) -> None:
    (bundle.parent / "file").write_text("")
    env = {"EDGECOMPILE_CACHE": str(bundle.parent / "file" / "cache")}
    done = run_cli("verify", "bundle", cwd=bundle.parent, env=env)
    assert done.code == 0, done.err
    assert "can't be written (Not a directory): a temporary folder takes its place" in done.err
    assert "FAILED" not in done.out
    assert done.out.count("ok ") == 5
    CHANGES["golden.npz"](bundle)
    assert "FAILED files" in run_cli("verify", "bundle", cwd=bundle.parent, env=env).out


def test_what_this_machine_lacks_condemns_no_bundle(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        verify(bundle, Worker(tmp_path / "file" / "log"), report=quiet)


def test_damaged_entries_of_the_cache_are_found_and_made_again(
    digits_bundle: Path, cache_folder: Path, tmp_path: Path
) -> None:
    """A bit of the model of a stage, of a stage's record, of a measurement, and of facts about data."""
    cache = Path(shutil.copytree(cache_folder, tmp_path / "cache"))
    history = {r["stage"]: r["key"] for r in json.loads((digits_bundle / "manifest.json").read_text())["history"]}
    damaged = [
        next((cache / "stages" / history["quantize"]).glob("*.tflite")),
        next((cache / "stages" / history["baseline"]).glob("golden*")),
        cache / "stages" / history["verify"] / "artifact.json",
        cache / "measurements" / f"{history['benchmark']}.json",
        *(cache / "tasks").iterdir(),
    ]
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    env = {"EDGECOMPILE_CACHE": str(cache)}
    arguments = ("build", "digits", "--recipe", "int8", "--out", "bundle")
    done = run_cli(*arguments, cwd=tmp_path, env=env)
    assert done.code == 0, done.err
    told = {
        path: f"{path.parent if path.name == 'artifact.json' else path} was changed or damaged since it was written: "
        "it is made again"
        for path in damaged
    }
    for path in damaged[:4]:
        assert told[path] in done.err
    assert any(told[path] in done.err for path in damaged[4:])  # facts of other data may lie in the cache as well
    made, before = (json.loads((at / "manifest.json").read_text()) for at in (tmp_path / "bundle", digits_bundle))
    assert made["files"]["model.tflite"] == before["files"]["model.tflite"]
    again = run_cli(*arguments, cwd=tmp_path, env=env)
    assert "made again" not in again.err
    assert "nothing to do" in again.out
