"""Tasks from a function of the user's own: called, checked, and digested with the code they come from.

What such a function brings runs later and elsewhere; each of its callables is wrapped, so that an exception of
theirs becomes a DataError that names the culprit.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgecompile import metrics
from edgecompile.artifact import sha256_file
from edgecompile.code import working_folder_on_path
from edgecompile.errors import DataError, EdgecompileError, perhaps
from edgecompile.metrics import RowScore
from edgecompile.task import (
    AUTOENCODER,
    CLASSIFICATION,
    MIXED,
    MULTI_LABEL,
    REGRESSION,
    UNLABELED,
    Array,
    Arrays,
    Metric,
    Split,
    Task,
)

KINDS = (CLASSIFICATION, MULTI_LABEL, REGRESSION, MIXED, AUTOENCODER, UNLABELED)
_OF_OUTPUTS = (CLASSIFICATION, MULTI_LABEL, REGRESSION)
_OURS = (metrics.accuracy, metrics.macro_ap, metrics.mse, metrics.autoencoder_auc)


def load_callable(spec: str) -> tuple[Task, str]:
    """(the task that `module:function` returns, its fields checked for type, a digest of the code behind it)."""
    module_name, _, function_name = spec.partition(":")
    try:
        with working_folder_on_path():
            module = importlib.import_module(module_name)
            found: object = module
            for part in function_name.split("."):
                found = getattr(found, part)
            if not callable(found):
                raise DataError(f"--data {spec}: {function_name} is a {type(found).__name__}, not a function")
            task = found()
    except EdgecompileError:
        raise
    except Exception as error:  # the user's own code may raise anything; the message says what
        raise DataError(
            f"--data {spec} failed: {type(error).__name__}: {error}",
            hint=f"it must work as `python -c 'from {module_name} import {function_name}'` in this folder",
        ) from error
    if not isinstance(task, Task):
        raise DataError(
            f"--data {spec} returned a {type(task).__name__}, expected an edgecompile.task.Task",
            hint="build one: Task(name, kind, train, test, metric, fingerprint)",
        )
    _check_fields(spec, task)
    own = {name: _guarded(metric) for name, metric in _metrics_of_outputs(task).items()}
    return dataclasses.replace(task, metric=task.metric and _guarded(task.metric), metrics=own), _code(module)


def _metrics_of_outputs(task: Task) -> Mapping[str, Metric]:
    """Those of the task; where it has none, the metric of all of several outputs if that is a mean over them."""
    labels = task.test.y if task.test is not None and task.test.y is not None else {}
    if task.metrics or len(labels) < 2 or task.metric not in (metrics.accuracy, metrics.mse):
        return task.metrics
    return dict.fromkeys(labels, task.metric)


# -- fields


def _check_fields(spec: str, task: Task) -> None:
    """DataError for the first field of another type than Task says; values of arrays are looked at elsewhere."""

    def expect(name: str, passed: bool, expected: str, hint: str | None = None) -> None:
        if not passed:
            value = getattr(task, name)
            shown = repr(value) if isinstance(value, str | int | float) else type(value).__name__
            raise DataError(f"--data {spec}: the task's {name} is {shown}, expected {expected}", hint=hint)

    expect("name", isinstance(task.name, str) and bool(task.name), "some text")
    kind_hint = perhaps(task.kind, KINDS) if isinstance(task.kind, str) else None
    expect("kind", task.kind in KINDS, f"one of {', '.join(KINDS)}", kind_hint)
    expect("fingerprint", isinstance(task.fingerprint, str), "text, empty to have it computed")
    for name in ("train", "validation", "test"):
        split = getattr(task, name)
        hint = 'write Split({"": x}, {"": y}), or Split({"": x}) without labels'
        expect(name, split is None or isinstance(split, Split), "an edgecompile.task.Split or None", hint)
        if split is not None:
            _check_part(spec, f"{name}.x", split.x, hint)
            if split.y is not None:
                _check_part(spec, f"{name}.y", split.y, hint)
    hint = "take one of edgecompile.metrics, or Metric(name, score)"
    expect("metric", task.metric is None or isinstance(task.metric, Metric), "an edgecompile.task.Metric or None", hint)
    if task.metric is not None:
        m = task.metric
        sound = isinstance(m.name, str) and callable(m.score) and (m.per_sample is None or callable(m.per_sample))
        expect("metric", sound, "a Metric with a name and functions for score and per_sample")
    contradicts = task.kind == UNLABELED and task.metric is not None
    expect("metric", not contradicts, f"None, since its kind is {UNLABELED}", "give the kind that the labels have")
    loss = task.loss
    expect("loss", loss is None or isinstance(loss, str) or callable(loss), "a tf-keras loss, by name or as a function")
    expect("augment", task.augment is None or callable(task.augment), "a function f(x, seed) -> x, or None")
    for name, kind in (("metrics", Metric), ("loss_weights", int | float | np.number), ("class_weights", np.ndarray)):
        found = getattr(task, name)
        sound = isinstance(found, Mapping) and all(isinstance(value, kind) for value in found.values())
        expect(name, sound, f"{{output: {getattr(kind, '__name__', 'number')}}}")
    sound = isinstance(task.kinds, Mapping) and all(kind in _OF_OUTPUTS for kind in task.kinds.values())
    expect("kinds", sound, f"{{output: one of {', '.join(_OF_OUTPUTS)}}}")
    given = {name for split in (task.train, task.test) if split is not None for name in split.y or {}}
    told = task.kind != MIXED or given <= set(task.kinds)
    expect("kinds", told, f"the kind of each output, since the task's is {MIXED}")
    limit = task.parity_tolerance
    expect(
        "parity_tolerance",
        limit is None or (isinstance(limit, int | float | np.number) and not isinstance(limit, bool) and limit >= 0),
        "a share of the output's range (0 or more), or None",
    )


def _check_part(spec: str, name: str, arrays: object, hint: str) -> None:
    if not isinstance(arrays, Mapping):
        raise DataError(
            f"--data {spec}: {name} is a {type(arrays).__name__}, expected {{name: numpy array}}", hint=hint
        )
    for key, array in arrays.items():
        if not isinstance(key, str) or not isinstance(array, np.ndarray):
            raise DataError(
                f"--data {spec}: {name}[{key!r}] is a {type(array).__name__}, expected text and a numpy array",
                hint="numpy.asarray makes one of a list or a tensor",
            )


# -- the user's functions


def guarded(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose exceptions come as a DataError that begins with `what`."""

    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except EdgecompileError:
            raise
        except Exception as error:  # the user's own code may raise anything; the message says what
            raise DataError(
                f"{what} failed: {type(error).__name__}: {_last_words(error)}", hint="correct it in your task"
            ) from error

    return call


def _last_words(error: Exception) -> str:
    """The message; of one that TensorFlow wrapped in its trace of the code, the line that says what happened."""
    text = str(error).strip()
    return (text.splitlines()[-1].strip() if text.startswith("in user code") else text)[:500]


def _guarded(metric: Metric) -> Metric:
    """A metric of the user's own that fails, or gives something else than numbers, with a DataError."""
    if metric in _OURS:
        return metric
    what = f"metric {metric.name!r}"
    score: Callable[[Arrays, Arrays, Arrays], float]
    if isinstance(metric.score, RowScore):  # a bootstrap repeats its second step only: keep it in two
        rows = guarded(f"{what}: rows", metric.score.rows)
        summary = guarded(f"{what}: summary", metric.score.summary)
        score = RowScore(rows, lambda label, values: _number(f"{what}: summary", summary(label, values)))
    else:
        whole = guarded(f"{what}: score", metric.score)

        def score(labels: Arrays, outputs: Arrays, inputs: Arrays) -> float:
            return _number(f"{what}: score", whole(labels, outputs, inputs))

    if metric.per_sample is None:
        return dataclasses.replace(metric, score=score)
    each = guarded(f"{what}: per_sample", metric.per_sample)

    def per_sample(labels: Arrays, outputs: Arrays, inputs: Arrays) -> Array:
        values = np.asarray(each(labels, outputs, inputs))
        if values.dtype.kind not in "buif" or values.ndim != 1:
            raise DataError(
                f"{what}: per_sample gave {values.dtype} of shape {list(values.shape)}, expected one number a sample"
            )
        return values

    return dataclasses.replace(metric, score=score, per_sample=per_sample)


def _number(what: str, value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "buif":
        raise DataError(f"{what} gave a {type(value).__name__}, expected a number", hint="return a float")
    return float(array.reshape(()))


# -- fingerprint


def full_fingerprint(task: Task, code: str) -> str:
    """Digest of the arrays (or of what the task says they are), of its settings and of the code behind it."""
    digest = hashlib.sha256((task.fingerprint or arrays_digest(task)).encode())
    metric = (task.metric.name, task.metric.higher_is_better) if task.metric else None
    loss = task.loss if isinstance(task.loss, str) else getattr(task.loss, "__qualname__", type(task.loss).__qualname__)
    outputs = [sorted(task.kinds.items()), sorted(task.metrics), sorted(task.loss_weights.items())]
    weights = sorted((name, array.tolist()) for name, array in task.class_weights.items())
    facts = (task.name, task.kind, metric, loss, task.parity_tolerance, outputs, weights, code)
    digest.update(repr(facts).encode())
    return digest.hexdigest()


def arrays_digest(task: Task) -> str:
    """Fingerprint of arrays: for data of which nothing else is known."""
    digest = hashlib.sha256(f"{task.name} {task.kind} {task.metric.name if task.metric else None}".encode())
    for name, split in task.splits.items():
        groups = {} if split.groups is None else {"": split.groups}
        for part, arrays in (("x", split.x), ("y", split.y or {}), ("groups", groups)):
            for key, array in sorted(arrays.items()):
                digest.update(f"\0{name} {part} {key} {array.dtype.str} {array.shape}\0".encode())
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _code(module: ModuleType) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(_sources(module).items()):
        digest.update(f"{name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _sources(module: ModuleType) -> dict[str, Path]:
    """{name: file} of the module and of what it imports from beside it, and what those import in turn.

    Told from the text of the import statements, not from what happens to be imported in this process. Installed
    packages are followed only within the module's own.
    """
    if not module.__file__ or not module.__file__.endswith(".py"):
        return {}
    file = Path(module.__file__).resolve()
    depth = module.__name__.count(".") + (file.name == "__init__.py")
    root = file.parents[depth]
    own = module.__name__.partition(".")[0]
    installed = bool({"site-packages", "dist-packages"} & set(root.parts))
    found: dict[str, Path] = {}
    left = [file]
    while left:
        path = left.pop()
        name = path.relative_to(root).as_posix()
        if name in found:
            continue
        found[name] = path
        for imported in _imports(path, root):
            top = imported.partition(".")[0]
            base = root.joinpath(*imported.split("."))
            if top != "edgecompile" and (top == own or not installed):
                left += [p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()]
    return found


def _imports(path: Path, root: Path) -> set[str]:
    """Dotted names that a file imports, relative ones made absolute; of `from a import b` both a and a.b."""
    names: set[str] = set()
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # of another Python, say: whoever imports it has to cope
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(root).parts[: -node.level] if node.level else ()
            base = ".".join([*package, *(node.module or "").split(".")]).strip(".")
            names |= {base, *(f"{base}.{alias.name}".strip(".") for alias in node.names if alias.name != "*")}
    packages = {name[:i] for name in names for i, letter in enumerate(name) if letter == "."}
    return {name for name in names | packages if name}
