"""Facts of a task: kept for the next build, never for another source or another version of the code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgecompile import tasks
from edgecompile.cache import Cache
from edgecompile.data import DataSource, fingerprint, resolve
from edgecompile.tasks import TaskFacts, read_facts, remember, remembered

X = np.zeros((4, 2), np.float32)


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    np.savez(tmp_path / "a.npz", x_train=X, y_train=np.arange(4), x_test=X[:2], y_test=np.arange(2))
    return resolve(str(tmp_path / "a.npz"))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def kept(cache: Cache, source: DataSource) -> TaskFacts:
    facts = read_facts(source, report=lambda _: None)
    remember(cache, facts, source)
    return facts


def test_facts_come_back(cache: Cache, source: DataSource, kept: TaskFacts) -> None:
    assert (kept.name, kept.train, kept.test, kept.trainable, kept.metric) == ("a", 4, 2, True, "accuracy")
    assert remembered(cache, fingerprint(source), source) == kept
    assert remembered(cache, None, source) is None
    assert [p.suffix for p in (cache.root / "tasks").iterdir()] == [".json"]


def test_equal_bytes_under_another_name_are_another_source(
    cache: Cache, source: DataSource, kept: TaskFacts, tmp_path: Path
) -> None:
    other = tmp_path / "b.npz"
    other.write_bytes(Path(source.spec).read_bytes())
    assert fingerprint(resolve(str(other))) == kept.fingerprint
    assert remembered(cache, kept.fingerprint, resolve(str(other))) is None


@pytest.mark.parametrize("change", ["__version__", "package_digest"])
def test_another_version_finds_out_for_itself(
    cache: Cache, source: DataSource, kept: TaskFacts, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, change, "9.9" if change == "__version__" else lambda: "changed")
    assert remembered(cache, kept.fingerprint, source) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"name": "a"}', "more"])
def test_a_file_of_another_form_is_as_good_as_none(
    cache: Cache, source: DataSource, kept: TaskFacts, content: str
) -> None:
    (path,) = (cache.root / "tasks").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}) if content == "more" else content)
    assert remembered(cache, kept.fingerprint, source) is None
    remember(cache, kept, source)
    assert remembered(cache, kept.fingerprint, source) == kept


def test_a_scratch_file_of_another_build_is_not_touched(cache: Cache, source: DataSource, kept: TaskFacts) -> None:
    """A second build that writes at the same time has a half-written file of its own in the folder."""
    (path,) = (cache.root / "tasks").iterdir()
    theirs = path.with_suffix(".tmp")
    theirs.write_text("half")
    remember(cache, kept, source)
    assert theirs.read_text() == "half"
