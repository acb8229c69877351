"""Data sources: what is read, and what each fault is called."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgecompile import data as sources
from edgecompile.artifact import Signature, TensorInfo
from edgecompile.data import DataSource, Expected, check_labels, fingerprint, load, resolve
from edgecompile.data.expected import ImageForm
from edgecompile.errors import DataError
from edgecompile.task import CLASSIFICATION, MIXED, REGRESSION, UNLABELED, Split, Task
from edgecompile.tasks import facts_of

X = np.arange(24, dtype=np.float32).reshape(6, 4)
Y = np.array([0, 1, 2, 0, 1, 2])
GOOD = {"x_train": X, "y_train": Y, "x_test": X[:3], "y_test": Y[:3]}


def npz(folder: Path, **arrays: np.ndarray) -> Task:
    """Saves and loads; `_` in a key stands as it is, "__" for a slash."""
    path = folder / "data.npz"
    np.savez(path, **{key.replace("__", "/"): array for key, array in arrays.items()})
    return load(resolve(str(path)))


def signature(*outputs: tuple[str, tuple[int, ...]]) -> Signature:
    return Signature((), tuple(TensorInfo(name, shape, "float32") for name, shape in outputs))


# ---- resolve


def test_kinds_are_told_by_spelling(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **GOOD)
    assert resolve(str(tmp_path / "a.npz")).kind == "npz"
    assert resolve(str(tmp_path)).kind == "images"
    assert resolve("digits").kind == "builtin"
    assert resolve("my.tasks:make").kind == "callable"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "perhaps you meant 'digits'"),
        ("nowhere/my.npz", "there is no file nowhere/my.npz"),
        ("{tmp}/table.txt", "neither an .npz or .csv file nor a folder"),
    ],
)
def test_unknown_sources_are_errors_with_a_hint(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "table.txt").write_text("1,2\n")
    with pytest.raises(DataError) as caught:
        resolve(spec.format(tmp=tmp_path))
    assert message in caught.value.format_message()


# ---- .npz


def test_npz_of_classes(tmp_path: Path) -> None:
    task = npz(tmp_path, **GOOD)
    assert (task.name, task.kind) == ("data", CLASSIFICATION)
    assert task.metric is not None
    assert task.metric.name == "accuracy"
    assert task.train is not None
    assert task.test is not None
    np.testing.assert_array_equal(task.train.x[""], X)
    assert (len(task.train), len(task.test)) == (6, 3)
    assert task.fingerprint == fingerprint(DataSource(str(tmp_path / "data.npz")))


def test_npz_of_targets_is_a_regression(tmp_path: Path) -> None:
    task = npz(tmp_path, **{**GOOD, "y_train": Y * 0.5, "y_test": Y[:3] * 0.5})
    assert task.kind == REGRESSION
    assert task.metric is not None
    assert not task.metric.higher_is_better


@pytest.mark.parametrize("label", [np.eye(3)[Y], Y[:, None]], ids=["one-hot", "column"])
def test_one_hot_rows_and_columns_become_class_numbers(tmp_path: Path, label: np.ndarray) -> None:
    task = npz(tmp_path, **{**GOOD, "y_train": label, "y_test": label[:3]})
    assert task.kind == CLASSIFICATION
    assert task.train is not None
    assert task.train.y is not None
    assert task.train.y[""].tolist() == Y.tolist()


def test_x_alone_calibrates(tmp_path: Path) -> None:
    task = npz(tmp_path, x=X)
    assert task.kind == UNLABELED
    assert task.metric is None
    assert task.test is not None
    assert task.test.y is None
    np.testing.assert_array_equal(task.representative.x[""], task.test.x[""])
    assert npz(tmp_path, x_train=X, x_test=X[:2]).kind == UNLABELED


def test_unlabelled_training_samples_with_a_labelled_test_set(tmp_path: Path) -> None:
    task = npz(tmp_path, x_train=X, x_test=X[:3], y_test=Y[:3])
    assert task.kind == CLASSIFICATION
    assert task.train is not None
    assert task.train.y is None


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    task = npz(
        tmp_path,
        x_train__a=X, x_train__b=X[:, :1], y_train__p=Y, y_train__q=Y,
        x_test__a=X[:3], x_test__b=X[:3, :1], y_test__p=Y[:3], y_test__q=Y[:3],
    )  # fmt: skip
    assert task.train is not None
    assert task.train.y is not None
    assert set(task.train.x) == {"a", "b"}
    assert set(task.train.y) == {"p", "q"}


def test_outputs_of_different_kinds_are_a_mixed_task(tmp_path: Path) -> None:
    task = npz(tmp_path, x_test=X, y_test__a=Y, y_test__b=Y * 0.5)
    assert (task.kind, dict(task.kinds)) == (MIXED, {"a": CLASSIFICATION, "b": REGRESSION})
    assert {name: metric.name for name, metric in task.metrics.items()} == {"a": "accuracy", "b": "mse"}


def test_weights_of_classes_and_outputs(tmp_path: Path) -> None:
    weights = {"class_weight__a": np.array([1, 2, 3]), "loss_weight__b": np.float32(0.5)}
    task = npz(tmp_path, x_test=X, y_test__a=Y, y_test__b=Y * 0.5, **weights)
    assert task.loss_weights == {"b": 0.5}
    assert task.class_weights["a"].tolist() == [1, 2, 3]
    check_labels(task, signature(("a", (-1, 3)), ("b", (-1, 1))))
    with pytest.raises(DataError, match="class_weight has 3 numbers, output 'a' has 4 classes"):
        check_labels(task, signature(("a", (-1, 4)), ("b", (-1, 1))))


NAN = X.copy()
NAN[2, 1:3] = np.nan

FAULTS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "misspelt": ({"x_trian": X}, "perhaps you meant 'x_train'"),
    "unknown": ({"images": X}, "received images"),
    "nothing": ({}, "holds no arrays"),
    "x with others": ({**GOOD, "x": X}, "has x beside x_test, x_train, y_test, y_train"),
    "no test": ({"x_train": X, "y_train": Y}, "add x_test and y_test"),
    "labels without samples": ({"x_train": X, "y_test": Y}, "has y_test but no x_test"),
    "fewer labels": ({**GOOD, "y_train": Y[:5]}, "x_train has 6 samples, y_train has 5 labels"),
    "no samples": ({"x": X[:0]}, "x has no samples"),
    "scalar": ({"x": np.float32(3)}, "x has no samples"),
    "NaN": ({**GOOD, "x_train": NAN}, "x_train has 2 values that are NaN or infinite, of 24"),
    "infinite target": ({**GOOD, "y_train": Y / 1.0, "y_test": np.array([1, np.inf, 0])}, "y_test has 1 values"),
    "text": ({"x": np.array(["a", "b"])}, "x is of type <U1, expected numbers"),
    "pickled": ({"x": np.array([None, {}], dtype=object)}, "can't be read as .npz"),
    "shapes": ({**GOOD, "x_test": X[:3, :2]}, "samples of x_train have shape [4], those of x_test [2]"),
    "named and not": ({"x": X, "x/a": X}, "has both x and x/<name>"),
    "inputs differ": (
        {"x_train/a": X, "y_train": Y, "x_test/b": X, "y_test": Y},
        "x_train has ['a'], x_test has ['b']",
    ),
    "weights of nothing": ({**GOOD, "class_weight/scores": Y}, "class_weight/scores is for an output without labels"),
    "weights without labels": ({"x_train": X, "class_weight": Y}, "leave it out"),
    "negative weights": ({**GOOD, "class_weight": -Y}, "expected a number for each class from 0 to 1,000"),
    "weights of text": ({**GOOD, "class_weight": np.array(["a"])}, "expected a number for each class from 0 to 1,000"),
    "a weight that is none": ({**GOOD, "loss_weight": np.float32(np.inf)}, "expected one number from 0 to 1,000"),
    "classes of targets": ({**GOOD, "y_test": Y[:3] / 2, "class_weight": Y}, "targets, which have no classes"),
    "one sample": ({"x_test": X[:1], "y_test": Y[:1]}, "too few for any comparison"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_npz(tmp_path: Path, fault: str) -> None:
    arrays, message = FAULTS[fault]
    with pytest.raises(DataError) as caught:
        npz(tmp_path, **arrays)
    assert message in caught.value.format_message()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)


def plain_npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, X)


@pytest.mark.parametrize(
    "damage", [truncated, flipped, plain_npy, lambda p: p.write_bytes(b""), lambda p: p.write_text("not a zip")]
)
def test_damaged_npz(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **GOOD)
    damage(path)
    with pytest.raises(DataError, match=r"data\.npz"):
        load(resolve(str(path)))


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 1200), xor=st.integers(1, 255), at=st.integers(0, 1200))
def test_no_damage_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, cut: int, xor: int, at: int) -> None:
    path = tmp_path_factory.mktemp("damaged") / "data.npz"
    np.savez(path, **GOOD)
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= xor
    path.write_bytes(content[: len(content) - cut % len(content)])
    try:
        task = load(resolve(str(path)))
    except DataError:
        return
    assert len(task.representative) == 6  # damage that zip doesn't look at: times, attributes


def test_what_cannot_be_read_is_an_error_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match=r"folder\.npz is a folder"):
        resolve(str(tmp_path / "folder.npz"))
    with pytest.raises(DataError, match="can't be read: Is a directory"):
        fingerprint(DataSource(str(tmp_path / "folder.npz")))
    with pytest.raises(DataError, match="can't be read"):
        load(DataSource(str(tmp_path / "folder.npz")))
    with pytest.raises(DataError, match="can't be read: File name too long"):
        resolve("n" * 5000 + ".npz")
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF")
    with pytest.raises(DataError, match=r"weights\.h5 is neither an \.npz or \.csv file nor a folder"):
        resolve(str(tmp_path / "weights.h5"))


# ---- images


def image(path: Path, value: int = 0, size: tuple[int, int] = (4, 3), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("test", 2)):
        for value, name in enumerate(("cat", "dog")):
            for i in range(count):
                image(tmp_path / "pets" / split / name / f"{i}.png", 100 * value + i)
    return tmp_path / "pets"


def test_image_folder(folder: Path) -> None:
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    task = load(resolve(str(folder)))
    assert task.train is not None
    assert task.train.y is not None
    assert task.train.x[""].shape == (6, 3, 4, 3)
    assert task.train.x[""].dtype == np.uint8
    assert task.train.y[""].tolist() == [0, 0, 0, 1, 1, 1]
    assert task.train.x[""][:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert task.name == "pets"
    assert task.fingerprint == fingerprint(DataSource(str(folder)))


def test_images_are_resized_to_the_model(folder: Path) -> None:
    image(folder / "train" / "cat" / "9.png", 7, size=(9, 9))
    with pytest.raises(DataError, match=r"images differ in size: .*0\.png is 4x3, .*9\.png is 9x9"):
        load(resolve(str(folder)))
    task = load(resolve(str(folder)), Expected(ImageForm(8, 6, 3)))
    assert task.representative.x[""].shape == (7, 8, 6, 3)


def test_grey_images_have_one_channel_unless_one_is_coloured(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / "test" / name / "0.png", mode="L")
    source = resolve(str(tmp_path))
    assert load(source).test.x[""].shape == (2, 3, 4, 1)  # type: ignore[union-attr]
    image(tmp_path / "test" / "b" / "1.png", 255, mode="RGBA")
    assert load(source).test.x[""].shape == (3, 3, 4, 3)  # type: ignore[union-attr]


def test_a_folder_may_hold_samples_to_validate_with(folder: Path) -> None:
    for value, name in enumerate(("cat", "dog")):
        image(folder / "val" / name / "0.png", 50 + value)
    task = load(resolve(str(folder)))
    fit, held = task.split(0)
    assert (len(fit), held.x[""][:, 0, 0, 0].tolist()) == (6, [50, 51])


def test_a_dangling_link_among_images_is_named(folder: Path) -> None:
    (folder / "test" / "cat" / "gone.png").symlink_to(folder / "nowhere.png")
    for read in (fingerprint, load):
        with pytest.raises(DataError, match=r"gone\.png can't be read"):
            read(DataSource(str(folder)))


def remove_test(folder: Path) -> None:
    (folder / "test").rename(folder / "validation")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda f: (f / "train/cat/1.png").write_bytes(b"\x89PNG broken"), "1.png can't be read as an image"),
        (lambda f: image(f / "test/bird/0.png"), "different classes: ['bird']"),
        (lambda f: (f / "test/bird").mkdir(), "bird has no images"),
        (lambda f: (f / "test/cat/a.heic").write_bytes(b"-"), "a.heic: images of this format aren't read"),
        (lambda f: image(f / "val/cat/0.png"), "val/ and test/ have different classes: ['dog']"),
        (remove_test, "has no test/ folder"),
        (lambda f: f.joinpath("train").rename(f / "a") and remove_test(f), "neither a train/ nor a test/ folder"),
    ],
)
def test_faulty_image_folder(folder: Path, fault: Callable[[Path], object], message: str) -> None:
    fault(folder)
    with pytest.raises(DataError) as caught:
        load(resolve(str(folder)))
    assert message in caught.value.format_message()


# ---- functions

TASKS = """
import dataclasses
import numpy as np
from edgecompile import metrics
from edgecompile.task import CLASSIFICATION, Metric, Split, Task, UNLABELED
X, Y = np.ones((3, 2)), np.array([0, 1, 1])
GOOD = Task("mine", CLASSIFICATION, Split({"": X}, {"": Y}), Split({"": X}, {"": Y}), metrics.accuracy, "")
def good(): return GOOD
def marked(): return dataclasses.replace(GOOD, fingerprint="fixed")
def tolerant(): return dataclasses.replace(GOOD, parity_tolerance=0.1)
def lossy(): return dataclasses.replace(GOOD, loss="mse")
def kind(): return dataclasses.replace(GOOD, kind="clasification")
def bare(): return dataclasses.replace(GOOD, train=X)
def bare_x(): return dataclasses.replace(GOOD, train=Split(X, {"": Y}))
def bare_y(): return dataclasses.replace(GOOD, test=Split({"": X}, Y))
def listed(): return dataclasses.replace(GOOD, test=Split({"": [[1, 2]]}))
def objects(): return dataclasses.replace(GOOD, test=Split({"": np.array([None, {}], dtype=object)}))
def metric(): return dataclasses.replace(GOOD, metric="accuracy")
def unfunctional(): return dataclasses.replace(GOOD, metric=Metric("m", 3))
def two(): return dataclasses.replace(GOOD, test=Split({"": X}, {"a": Y, "b": Y}))
def mixed(): return dataclasses.replace(GOOD, kind="mixed", kinds={"a": CLASSIFICATION})
def weights(): return dataclasses.replace(GOOD, class_weights={"": [1, 2]})
def contradictory(): return dataclasses.replace(GOOD, kind=UNLABELED)
def loss(): return dataclasses.replace(GOOD, loss=3)
def augment(): return dataclasses.replace(GOOD, augment="flip")
def tolerance(): return dataclasses.replace(GOOD, parity_tolerance="much")
def batched(): return dataclasses.replace(GOOD, batch_size=3)
def own(score, each=None): return dataclasses.replace(GOOD, metric=Metric("odd", score, per_sample=each))
def raises(): return own(lambda labels, outputs, inputs: outputs["missing"])
def words(): return own(lambda labels, outputs, inputs: "good")
def each_raises(): return own(lambda *_: np.float32(0.5), lambda *_: 1 / 0)
def each_flat(): return own(lambda *_: np.array([0.5]), lambda *_: 3)
def rows(): return own(metrics.RowScore(lambda *_: 1 / 0, lambda label, values: 1.0))
def make(): return Task("mine", UNLABELED, Split({"": np.ones((3, 2))}), None, None, fingerprint="")
def wrong(): return {"x": 1}
def broken(): return 1 / 0
def empty(): return Task("mine", UNLABELED, None, None, None, fingerprint="")
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder, a new one for each test."""
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_function_of_the_users_own(own: str) -> None:
    source = resolve(f"{own}:make")
    before = list(sys.path)
    task = load(source)
    assert task.name == "mine"
    assert fingerprint(source) is None
    assert len(task.fingerprint) == 64
    assert load(source).fingerprint == task.fingerprint
    assert sys.path == before


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong", "returned a dict, expected an edgecompile.task.Task"),
        ("broken", "ZeroDivisionError: division by zero"),
        ("empty", "neither training nor test samples"),
        ("number", "number is a int, not a function"),
        ("missing", "AttributeError"),
        (
            "kind",
            "kind is 'clasification', expected one of classification, multi-label, regression, mixed, ",
        ),
        ("kind", "perhaps you meant 'classification'"),
        ("bare", 'train is ndarray, expected an edgecompile.task.Split or None\n  Try: write Split({"": x}, {"": y})'),
        ("bare_x", 'train.x is a ndarray, expected {name: numpy array}\n  Try: write Split({"": x}, {"": y})'),
        ("bare_y", "test.y is a ndarray"),
        ("listed", "test.x[''] is a list, expected text and a numpy array"),
        ("objects", "x_test is of type object, expected numbers"),
        ("metric", "metric is 'accuracy', expected an edgecompile.task.Metric or None"),
        ("unfunctional", "expected a Metric with a name and functions"),
        ("mixed", "expected the kind of each output, since the task's is mixed"),
        ("weights", "class_weights is dict, expected {output: ndarray}"),
        ("contradictory", "expected None, since its kind is unlabeled"),
        ("loss", "loss is 3, expected a tf-keras loss"),
        ("augment", "augment is 'flip', expected a function"),
        ("tolerance", "parity_tolerance is 'much', expected a share"),
        ("batched", "TypeError"),
    ],
)
def test_faulty_functions(own: str, function: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(resolve(f"{own}:{function}"))
    assert message in caught.value.format_message()


@pytest.mark.parametrize(
    ("function", "part", "message"),
    [
        ("raises", "score", "metric 'odd': score failed: KeyError: 'missing'"),
        ("words", "score", "metric 'odd': score gave a str, expected a number"),
        ("each_raises", "per_sample", "metric 'odd': per_sample failed: ZeroDivisionError"),
        ("each_flat", "per_sample", "per_sample gave int64 of shape [], expected one number a sample"),
        ("rows", "score", "metric 'odd': rows failed: ZeroDivisionError"),
    ],
)
def test_a_failing_metric_is_named(own: str, function: str, part: str, message: str) -> None:
    task = load(resolve(f"{own}:{function}"))
    assert task.metric is not None
    assert task.test is not None
    with pytest.raises(DataError) as caught:
        getattr(task.metric, part)(task.test.y, {"": X}, task.test.x)
    assert message in caught.value.format_message()


def test_several_outputs_of_a_function_have_a_metric_each(own: str) -> None:
    task = load(resolve(f"{own}:two"))
    assert {name: metric.name for name, metric in task.metrics.items()} == {"a": "accuracy", "b": "accuracy"}
    assert [(o.name, o.kind, o.metric) for o in facts_of(task).outputs] == [
        ("a", CLASSIFICATION, "accuracy"), ("b", CLASSIFICATION, "accuracy"),
    ]  # fmt: skip


def test_numbers_of_numpy_are_scores(own: str) -> None:
    for function in ("each_raises", "each_flat"):
        task = load(resolve(f"{own}:{function}"))
        assert task.metric is not None
        assert task.metric.score({}, {}, {}) == 0.5


def test_settings_of_a_task_are_part_of_its_fingerprint(own: str) -> None:
    found = {load(resolve(f"{own}:{name}")).fingerprint for name in ("good", "marked", "tolerant", "lossy")}
    assert len(found) == 4
    assert "fixed" not in found


@pytest.mark.parametrize("change", ["itself", "helper", "package", "nothing", "elsewhere"])
@pytest.mark.parametrize("function", ["good", "marked"])
def test_code_of_a_task_is_part_of_its_fingerprint(own: str, tmp_path: Path, change: str, function: str) -> None:
    """Another metric or augmentation is another task, in whatever imported file beside it the change was made."""
    files = {"itself": f"{own}.py", "helper": f"{own}_help.py", "package": f"{own}_parts/deep.py", "elsewhere": "x.py"}
    (tmp_path / f"{own}_parts").mkdir()
    (tmp_path / f"{own}_parts" / "__init__.py").write_text("from . import deep\n")
    (tmp_path / f"{own}_parts" / "deep.py").write_text("")
    (tmp_path / f"{own}_help.py").write_text(f"def late():\n    import {own}_parts.deep\n")
    (tmp_path / f"{own}.py").write_text(f"import numpy\nfrom {own}_help import late\n{TASKS}")
    before = load(resolve(f"{own}:{function}")).fingerprint
    if change != "nothing":
        with (tmp_path / files[change]).open("a") as file:
            file.write("# changed\n")
    after = load(resolve(f"{own}:{function}")).fingerprint
    assert (after == before) == (change in ("nothing", "elsewhere"))


def test_a_missing_module_is_named() -> None:
    with pytest.raises(DataError, match="No module named 'no_such_module'"):
        load(resolve("no_such_module:make"))


# ---- labels against a model


def classes(tmp_path: Path, y: np.ndarray) -> Task:
    return npz(tmp_path, x_test=np.zeros((len(y), 2)), y_test=y)


def test_labels_that_fit(tmp_path: Path) -> None:
    check_labels(classes(tmp_path, np.array([0, 9, 3])), signature(("scores", (-1, 10))))
    check_labels(classes(tmp_path, np.array([0, 1])), signature(("p", (-1, 1))))
    check_labels(npz(tmp_path, x=X), signature(("scores", (-1, 10))))
    check_labels(classes(tmp_path, np.array([0.5, 2.0])), signature(("y", (-1, 1))))
    check_labels(classes(tmp_path, np.ones((3, 4, 4), np.uint8)), signature(("mask", (-1, 4, 4, 2))))


@pytest.mark.parametrize(
    ("labels", "output", "message"),
    [
        (
            np.array([0, 12, 3, 11]),
            (-1, 10),
            "y_test[1] is 12: output 'out' has 10 classes, so labels go from 0 to 9 (2 of 4 are outside)",
        ),
        (np.array([0, -1]), (-1, 10), "y_test[1] is -1"),
        (np.array([0, 2]), (-1, 1), "y_test[1] is 2: output 'out' is one score for two classes"),
        (np.array([[0, 2, 1], [1, 1, 1]]), (-1, 10), "labels of shape [3] a sample"),
        (np.ones((2, 3)) * 0.5, (-1, 4), "targets of shape [3], output 'out' gives [4]"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit(tmp_path: Path, labels: np.ndarray, output: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_labels(classes(tmp_path, labels), signature(("out", output)))
    assert message in caught.value.format_message()


def test_labels_are_matched_to_outputs_by_name(tmp_path: Path) -> None:
    task = npz(tmp_path, x_test=X, y_test__a=Y, y_test__b=Y)
    check_labels(task, signature(("b", (-1, 3)), ("a", (-1, 3))))
    with pytest.raises(DataError, match=r"y_test/b\[2\] is 2"):
        check_labels(task, signature(("b", (-1, 2)), ("a", (-1, 3))))
    with pytest.raises(DataError, match=r"outputs \['a', 'b'\], the model has \['a', 'c'\]"):
        check_labels(task, signature(("a", (-1, 3)), ("c", (-1, 3))))


# ---- fingerprints


def test_a_fingerprint_follows_content_not_place(folder: Path, tmp_path: Path) -> None:
    before = fingerprint(DataSource(str(folder)))
    moved = folder.rename(tmp_path / "moved")
    assert fingerprint(DataSource(str(moved))) == before
    image(moved / "test" / "cat" / "1.png", 55)
    assert fingerprint(DataSource(str(moved))) != before


def test_built_in_data_is_fingerprinted_without_decoding() -> None:
    code = (
        "import sys; from edgecompile.data import fingerprint, resolve; print(fingerprint(resolve('digits')));"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'tf_keras', 'keras', 'sklearn')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sources.load(resolve("digits")).fingerprint


def test_a_validation_set_of_its_own_judges_and_all_training_samples_train(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {name: (rng.normal(size=(n, 3)), np.arange(n) % 2) for name, n in (("train", 20), ("val", 6), ("test", 8))}
    arrays = {f"{key}_{name}": part[i] for name, part in parts.items() for i, key in enumerate("xy")}
    np.savez(tmp_path / "d.npz", **arrays)
    task = load(resolve(str(tmp_path / "d.npz")))
    fit, held = task.split(0)
    assert (len(fit), len(held)) == (20, 6)
    np.testing.assert_array_equal(held.x[""], parts["val"][0])
    del arrays["y_val"]
    np.savez(tmp_path / "half.npz", **arrays)
    with pytest.raises(DataError, match="x_val"):
        load(resolve(str(tmp_path / "half.npz")))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=4, max_size=80), st.integers(0, 5))
def test_no_group_is_on_both_sides(groups: list[int], seed: int) -> None:
    n = len(groups)
    split = Split({"": np.arange(n)}, {"": np.zeros(n, int)}, np.array(groups))
    task = Task("t", CLASSIFICATION, split, split, None, fingerprint="t")
    if len(set(groups)) == 1:
        with pytest.raises(DataError, match="one group"):
            task.split(seed)
        return
    fit, held = task.split(seed)
    assert sorted([*fit.x[""].tolist(), *held.x[""].tolist()]) == list(range(n))
    assert fit.groups is not None
    assert held.groups is not None
    assert not set(fit.groups.tolist()) & set(held.groups.tolist())
    assert len(held) >= min(n // 10, 1)
