"""Models that load for ever, and files that are no model but look like one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from running import run_cli

from edgecompile.errors import ModelError, WorkerTimeoutError
from edgecompile.loaders import LoadOptions, load, sniff
from edgecompile.loaders.limits import VARIABLE, seconds_to_load

SLOW = """
import os, time
import keras

class Slow(keras.layers.Layer):
    def call(self, x):
        time.sleep(float(os.environ.get("SLOW", "0")))
        return x
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slow.keras, with a layer that sleeps as long as SLOW says, and plain.keras."""
    import keras

    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.py").write_text(SLOW)
    scope: dict[str, Any] = {"__name__": "slow"}
    exec(SLOW, scope)
    x = keras.Input((3,), name="x")
    keras.Model(x, scope["Slow"](name="slow")(x)).save(folder / "slow.keras")
    keras.Model(x, keras.layers.Dense(2, name="dense")(x)).save(folder / "plain.keras")
    return folder


@pytest.mark.parametrize("command", [("inspect", "slow.keras"), ("build", "slow.keras", "--recipe", "float")])
def test_a_model_that_loads_for_ever_is_given_up(folder: Path, command: tuple[str, ...]) -> None:
    env = {"SLOW": "600", VARIABLE: "2"}
    done = run_cli(*command, "--custom", "slow:Slow", cwd=folder, env=env, timeout=120)
    assert done.code == WorkerTimeoutError.exit_code, done.err
    assert "slow.keras: no end after 2 s, so it was stopped" in done.err
    assert VARIABLE in done.err


def test_a_model_that_loads_in_time_is_shown(folder: Path) -> None:
    done = run_cli("inspect", "slow.keras", "--custom", "slow:Slow", cwd=folder, env={"SLOW": "0.1"})
    assert done.code == 0, done.err


def test_large_files_may_take_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "variables").write_bytes(b"\0" * 4_000_000)
    assert seconds_to_load(tmp_path / "model") == 42
    for given, seconds in (("7", 7), ("nan", 42), ("-1", 42), ("inf", 42), ("x", 42)):
        monkeypatch.setenv(VARIABLE, given)
        assert seconds_to_load(tmp_path / "model") == seconds


def edited(source: Path, target: Path, change: Any, member: str = "config.json") -> Path:
    """A .keras with another member."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as made:
        for name in archive.namelist():
            content = archive.read(name)
            if name == member:
                content = change(content)
            made.writestr(name, content)
    return target


@pytest.mark.parametrize("value", [["Functional"], {"a": 1}, 7, None, True])
@pytest.mark.parametrize("key", ["class_name", "module", "registered_name"])
def test_what_names_a_class_is_text(folder: Path, tmp_path: Path, key: str, value: Any) -> None:
    if value is None and key != "class_name":
        return  # as it may be

    def change(content: bytes) -> bytes:
        config = json.loads(content)
        config["config"]["layers"][1][key] = value
        return json.dumps(config).encode()

    path = edited(folder / "plain.keras", tmp_path / "bad.keras", change)
    with pytest.raises(ModelError, match=f"{key} is {type(value).__name__}, expected text"):
        load(path, LoadOptions())


@pytest.mark.parametrize("member", ["config.json", "metadata.json"])
@pytest.mark.parametrize("text", [b"[" * 100_000, b"[]", b"null", b"7", b'{"a": 1', b"\xff\xff", b"{}"])
def test_any_configuration_is_a_model_error(folder: Path, tmp_path: Path, member: str, text: bytes) -> None:
    path = edited(folder / "plain.keras", tmp_path / "bad.keras", lambda _: text, member)
    with pytest.raises(ModelError, match=r"bad\.keras"):
        load(path, LoadOptions())


def test_archives_that_python_cannot_open(folder: Path, tmp_path: Path) -> None:
    content = (folder / "plain.keras").read_bytes()
    at = content.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 99), (10, 12), (42, 255)):  # encrypted, an unknown method, bzip2, elsewhere
        (tmp_path / "bad.keras").write_bytes(content[: at + offset] + bytes([value]) + content[at + offset + 1 :])
        with pytest.raises(ModelError, match=r"bad\.keras"):
            sniff(tmp_path / "bad.keras")


def test_pointers_of_lfs_are_called_that(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(ModelError, match="a pointer of Git LFS") as error:
        sniff(tmp_path / "m.keras")
    assert error.value.hint == "git lfs pull fetches the file itself"
