"""Tasks from a CSV file that names images and their labels, one a row.

    file,label,split
    a/001.png,cat,train
    b/17.jpg,dog,test

file: an image, from the CSV's own folder. split: train, val or test; without that column every fifth row of a shuffled
order is a test sample. group: rows of one group are on one side. All other columns are labels:

    label               names of classes, numbered in the order of the names; numbers stay as they are
    label/<output>      the same, for a model with several outputs
    anything else       several numbers a row, in the order of the columns: labels (1: it is there, 0: not) or targets
    label/<output>/...  the same, for one of several outputs
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecompile.data.checks import LARGEST
from edgecompile.data.expected import Expected
from edgecompile.data.images import SPLITS
from edgecompile.data.labels import labelled_task, read_labels
from edgecompile.data.pixels import read_pixels
from edgecompile.errors import DataError, perhaps
from edgecompile.task import CLASSIFICATION, UNLABELED, Array, Split, Task

FILE, SPLIT, GROUP, LABEL = "file", "split", "group", "label"
_TEST_EVERY = 5
_WHOLE = re.compile(r"[+-]?\d{1,18}")


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file as columns of text. lines: where in the file each row begins."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]

    @property
    def files(self) -> list[Path]:
        return [self.path.parent / name for name in self.columns[FILE]]


def read_table(path: Path) -> Table:
    """The file's text, its rows whole. DataError names the line."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = _rows(path, file)
        _, header = next(rows, (0, []))
        header = [name.strip() for name in header]
        if FILE not in header:
            raise DataError(
                f"{path}: its first line is {','.join(header)[:80]!r}, expected names of columns, one of them {FILE!r}",
                hint="file,label,split: commas between, and the names first",
            )
        if repeated := {name for name in header if header.count(name) > 1 or not name}:
            raise DataError(f"{path}: {sorted(repeated)[0]!r} names more than one column, or none")
        columns: dict[str, list[str]] = {name: [] for name in header}
        lines = []
        for line, row in rows:
            if len(row) != len(header):
                raise DataError(f"{path}, line {line}: {len(row)} values, expected {len(header)}: {', '.join(header)}")
            for name, value in zip(header, row, strict=True):
                if not value.strip() or "\0" in value:
                    raise DataError(f"{path}, line {line}: there is no {name}", hint="give it, or leave the line out")
                columns[name].append(value.strip())
            lines.append(line)
    if not lines:
        raise DataError(f"{path} has no rows below its first line")
    return Table(path, columns, lines)


def _rows(path: Path, file: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, values) of rows that aren't empty."""
    reader = csv.reader(file, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as problem:
        raise DataError(f"{path}, line {reader.line_num + 1}: {problem}", hint="save it as CSV in UTF-8") from problem


def load_table(path: Path, expected: Expected | None = None) -> Task:
    """The task of a CSV file; expected: what the model takes and gives, as for folders and .npz files."""
    table = read_table(path)
    split, notes = _splits(table)
    _require_apart(table, split)
    labels, classes = _labels(table)
    pixels = read_pixels(table.files, expected.image if expected else None)
    groups = np.array(table.columns[GROUP]) if GROUP in table.columns else None

    def part(name: str, y: dict[str, dict[str, Array]] | None = None) -> Split | None:
        index = split == name
        if not index.any():
            return None
        labels = None if y is None else y[name]
        return Split({"": pixels[index]}, labels, None if groups is None else groups[index])

    if not labels:
        train, test = part("train"), part("test")
        return Task(path.stem, UNLABELED, train or test, test, None, "", notes=notes)
    by_split = {name: {key: y[split == name] for key, y in labels.items()} for name in SPLITS if name in split}
    kinds, read = read_labels(by_split, expected)
    kinds |= dict.fromkeys(classes, CLASSIFICATION)  # names are no targets, whatever the model gives
    tested = part("test", read)
    assert tested is not None
    task = labelled_task(path.stem, kinds, part("train", read), tested, part("val", read))
    told = (f"classes{f' of {key!r}' if key else ''}: {', '.join(names)}" for key, names in classes.items())
    return dataclasses.replace(task, notes=(*notes, *told))


def _splits(table: Table) -> tuple[Array, tuple[str, ...]]:
    """(the split of each row, what is to be said of it)"""
    if SPLIT in table.columns:
        for line, name in zip(table.lines, table.columns[SPLIT], strict=True):
            if name not in SPLITS:
                raise DataError(
                    f"{table.path}, line {line}: split is {name!r}, expected one of {', '.join(SPLITS)}",
                    hint=perhaps(name, SPLITS),
                )
        found = np.array(table.columns[SPLIT])
        if "val" in found and "train" not in found:
            raise DataError(
                f"{table.path}: rows have the split val, and none has train", hint="val judges what is trained"
            )
        if "test" not in found:
            raise DataError(f"{table.path}: no row has the split test, which the model is judged by")
        return found, ()
    units = np.array(table.columns.get(GROUP, table.columns[FILE]))
    _, unit = np.unique(units, return_inverse=True)
    place = np.random.default_rng(0).permutation(unit.max() + 1)[unit]
    found = np.where(place % _TEST_EVERY == 0, "test", "train")
    what = "group" if GROUP in table.columns else "row"
    return found, (
        f"no column split: every fifth {what} of a shuffled order is for tests, {(found == 'test').sum()} rows",
    )


def _require_apart(table: Table, split: Array) -> None:
    """DataError for an image that is in two splits: what was trained on would judge."""
    seen: dict[Path, tuple[int, str]] = {}
    for line, file, name in zip(table.lines, table.files, split.tolist(), strict=True):
        first, other = seen.setdefault(file.resolve(), (line, name))  # one file has many spellings
        if other != name:
            raise DataError(f"{table.path}: {file} is in {other} (line {first}) and in {name} (line {line})")


def _labels(table: Table) -> tuple[dict[str, Array], dict[str, list[str]]]:
    """({output: labels}, {output: class names} of those that are text)"""
    names = [name for name in table.columns if name not in (FILE, SPLIT, GROUP)]
    ours = [name for name in names if name.partition("/")[0] == LABEL]
    if ours and len(ours) != len(names):
        other = next(name for name in names if name not in ours)
        raise DataError(
            f"{table.path}: column {other!r} stands beside {ours[0]!r}",
            hint=f"known: {FILE}, {LABEL}, {SPLIT}, {GROUP}; without {LABEL} all others are labels",
        )
    outputs: dict[str, list[str]] = {}
    for name in names:
        outputs.setdefault(name.split("/")[1] if name in ours and "/" in name else "", []).append(name)
    if "" in outputs and len(outputs) > 1:
        raise DataError(f"{table.path} has both {LABEL} and {LABEL}/<output>", hint="name every output's")
    labels, classes = {}, {}
    for output, columns in outputs.items():
        if len(columns) == 1 and not all(map(_is_number, table.columns[columns[0]])):
            text = table.columns[columns[0]]
            classes[output] = sorted(set(text))
            labels[output] = np.array([classes[output].index(value) for value in text], np.int64)
            continue
        values = np.stack([_numbers(table, name) for name in columns], axis=-1)
        labels[output] = values[:, 0] if len(columns) == 1 else values
    return labels, classes


def _numbers(table: Table, column: str) -> Array:
    values: Sequence[str] = table.columns[column]
    for line, value in zip(table.lines, values, strict=True):
        if not _is_number(value) or not abs(float(value)) <= LARGEST:
            raise DataError(f"{table.path}, line {line}: {column} is {value!r}, expected a number that float32 holds")
    whole = all(map(_WHOLE.fullmatch, values))
    return np.array(values).astype(np.float64).astype(np.int64 if whole else np.float32)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # of Python's own spelling of numbers
