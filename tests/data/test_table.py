"""CSV files of images and labels: what is read, and what each fault is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecompile.data import Expected, fingerprint, load, resolve
from edgecompile.data.expected import ExpectedOutput, ImageForm
from edgecompile.errors import DataError
from edgecompile.task import CLASSIFICATION, MIXED, MULTI_LABEL, REGRESSION, UNLABELED, Task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(10):
        Image.new("L", (4, 3), 20 * i).save(tmp_path / f"{i}.png")
    return tmp_path


def read(folder: Path, text: str, expected: Expected | None = None) -> Task:
    (folder / "labels.csv").write_text(text)
    return load(resolve(str(folder / "labels.csv")), expected)


def rows(header: str, *values: str) -> str:
    return "\n".join([header, *(f"{i}.png,{value}" for i, value in enumerate(values))]) + "\n"


def test_names_of_classes_are_numbered_in_their_order(folder: Path) -> None:
    task = read(folder, rows("file,label,split", "dog,train", "cat,train", "ant,test", "dog,test", "cat,val"))
    assert (task.name, task.kind) == ("labels", CLASSIFICATION)
    assert task.notes == ("classes: ant, cat, dog",)
    assert task.train is not None
    assert task.train.y is not None
    assert task.test is not None
    assert task.test.y is not None
    assert task.train.y[""].tolist() == [2, 1]
    assert task.test.y[""].tolist() == [0, 2]
    assert task.test.x[""].shape == (2, 3, 4, 1)
    assert task.test.x[""][:, 0, 0, 0].tolist() == [40, 60]
    assert len(task.splits["val"]) == 1


@pytest.mark.parametrize(
    ("header", "values", "kind", "labels"),
    [
        ("file,label", ["3", "1", "10", "0"] * 2, CLASSIFICATION, [3, 1, 10, 0] * 2),
        ("file,label", ["0.5", "1", "-2e1", "0"] * 2, REGRESSION, [0.5, 1, -20, 0] * 2),
        ("file,sea,sky", ["0,1", "1,1", "0,0", "1,0"] * 2, MULTI_LABEL, [[0, 1], [1, 1], [0, 0], [1, 0]] * 2),
        ("file,x,y", ["0.5,1", "7,1", "0,0", "1,0"] * 2, REGRESSION, [[0.5, 1], [7, 1], [0, 0], [1, 0]] * 2),
    ],
)
def test_numbers_stay_what_they_are(
    folder: Path, header: str, values: list[str], kind: str, labels: list[object]
) -> None:
    task = read(folder, rows(header, *values))
    assert task.kind == kind
    found = {
        int(x[0, 0, 0]) // 20: y for s in task.splits.values() for x, y in zip(s.x[""], s.y[""].tolist(), strict=True)
    }  # type: ignore[index]
    assert [found[i] for i in range(len(labels))] == labels


def test_several_outputs(folder: Path) -> None:
    text = rows(
        "file,label/age,label/kind,label/tags/sea,label/tags/sky,split",
        "31,cat,0,1,train", "4,dog,1,1,train", "17,cat,0,0,test", "60,dog,1,0,test",
    )  # fmt: skip
    outputs = (ExpectedOutput("age", (1,), "linear"), ExpectedOutput("kind", (2,)), ExpectedOutput("tags", (2,)))
    task = read(folder, text, Expected(ImageForm(2, 2, 3), outputs))
    assert (task.kind, task.kinds) == (MIXED, {"age": REGRESSION, "kind": CLASSIFICATION, "tags": MULTI_LABEL})
    assert task.test is not None
    assert task.test.x[""].shape == (2, 2, 2, 3)
    assert {name: y.tolist() for name, y in (task.test.y or {}).items()} == {
        "age": [17, 60], "kind": [0, 1], "tags": [[0, 0], [1, 0]],
    }  # fmt: skip


def test_rows_without_labels_calibrate(folder: Path) -> None:
    task = read(folder, "file\n0.png\n1.png\n2.png\n3.png\n4.png\n")
    assert (task.kind, task.metric) == (UNLABELED, None)


def test_without_a_column_split_whole_groups_are_held_out_and_it_is_said(folder: Path) -> None:
    text = rows("file,label,group", *(f"{'ab'[i % 2]},g{i // 2}" for i in range(10)))
    task = read(folder, text)
    assert task.train is not None
    assert task.test is not None
    assert task.train.groups is not None
    assert task.test.groups is not None
    assert (len(task.train), len(task.test)) == (8, 2)
    assert not set(task.train.groups.tolist()) & set(task.test.groups.tolist())
    assert task.notes[0] == "no column split: every fifth group of a shuffled order is for tests, 2 rows"
    np.testing.assert_array_equal(read(folder, text).test.x[""], task.test.x[""])  # type: ignore[union-attr]


def test_a_fingerprint_follows_the_table_and_its_images(folder: Path) -> None:
    text = rows("file,label,split", "a,train", "b,train", "a,test", "b,test")
    first = read(folder, text).fingerprint
    source = resolve(str(folder / "labels.csv"))
    assert fingerprint(source) == first
    Image.new("L", (4, 3), 9).save(folder / "0.png")
    assert fingerprint(source) != first
    assert read(folder, text.replace("b,test", "a,test")).fingerprint != first


FAULTS = {
    "no file": ("image,label\n0.png,a\n", "expected names of columns, one of them 'file'"),
    "semicolons": ("file;label\n0.png;a\n", "commas between"),
    "nothing": ("file,label\n", "has no rows"),
    "empty": ("", "its first line is ''"),
    "twice": ("file,label,label\n0.png,a,b\n", "'label' names more than one column"),
    "short row": ("file,label\n0.png,a\n1.png\n", "line 3: 1 values, expected 2: file, label"),
    "no label": ("file,label\n0.png,a\n1.png,\n", "line 3: there is no label"),
    "no such split": ("file,label,split\n0.png,a,tets\n", "line 2: split is 'tets', expected one of train, val, test"),
    "no test": ("file,label,split\n0.png,a,train\n", "no row has the split test"),
    "val alone": ("file,label,split\n0.png,a,val\n1.png,a,test\n", "none has train"),
    "both sides": (
        "file,label,split\n0.png,a,train\n0.png,a,test\n",
        "0.png is in train (line 2) and in test (line 3)",
    ),
    "odd column": ("file,label,weight\n0.png,a,3\n", "column 'weight' stands beside 'label'"),
    "text among numbers": ("file,sea,sky\n0.png,1,0\n1.png,1,x\n", "line 3: sky is 'x', expected a number"),
    "named and not": ("file,label,label/a\n0.png,1,2\n", "both label and label/<output>"),
    "no image": ("file,label,split\n0.png,a,train\nx.png,b,test\n1.png,b,test\n", "x.png can't be read"),
    "no end of a quote": ('file,label\n"0.png,a\n', "line 3: "),
    "NaN": ("file,label,split\n0.png,nan,test\n1.png,1.5,test\n", "line 2: label is 'nan', expected a number"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_tables(folder: Path, fault: str) -> None:
    text, message = FAULTS[fault]
    with pytest.raises(DataError) as caught:
        read(folder, text)
    assert message in caught.value.format_message()


def test_what_is_no_text_is_named(folder: Path) -> None:
    (folder / "t.csv").write_bytes(b"file,label\n0.png,\xff\n")
    with pytest.raises(DataError, match=r"line 1: .*utf-8"):
        load(resolve(str(folder / "t.csv")))
    with pytest.raises(DataError, match="there is no file"):
        resolve(str(folder / "none.csv"))
