"""What all loaders share: options, the loaded model's interface, names, shapes and checks of weights."""

from __future__ import annotations

import abc
import contextlib
import functools
import importlib
import math
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.code import working_folder_on_path
from edgecompile.errors import DataError, ModelError, NonFiniteError, perhaps
from edgecompile.recurrent import begin_each_sample_anew
from edgecompile.remapping import run_fused

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model.

    custom: "module:Name" of each custom layer, activation, ... that the model needs
    allow_unsafe: let the model bring code of its own (Lambda layers, pickled functions)
    input_shape: (name, full shape with the batch) of inputs; "" names the only input
    """

    custom: tuple[str, ...] = ()
    allow_unsafe: bool = False
    input_shape: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class SourceModel(abc.ABC):
    """A loaded model. `kind` is an artifact kind; `model` is a keras.Model, a tf_keras.Model, the function of a
    SavedModel's signature, or the path of a .tflite."""

    kind: str
    path: Path
    model: Any
    signature: Signature
    notes: tuple[str, ...] = ()

    @abc.abstractmethod
    def predict(self, x: Mapping[str, Array], batch_size: int = 256) -> dict[str, Array]:
        """Outputs by name, in the signature's order, for samples by input name: [n, ...] -> [n, ...]."""

    def call(self, tensors: Sequence[Any]) -> list[Any]:
        """Output tensors for input tensors, both in the signature's order: what a converter traces. ModelError for
        a format that is converted already."""
        del tensors
        raise ModelError(f"{self.path} can't be traced: a {self.kind} model is converted already")

    def save(self, path: Path) -> Path:
        """Write the model to `path` and return where it is: here, a copy of the source as it was given."""
        if self.path.is_dir():
            shutil.copytree(self.path, path, dirs_exist_ok=True)
        else:
            shutil.copyfile(self.path, path)
        return path


@dataclass(frozen=True)
class KerasSource(SourceModel):
    """A functional or Sequential model, of Keras 3 (kind KERAS3) or tf-keras (kind KERAS)."""

    def predict(self, x: Mapping[str, Array], batch_size: int = 256) -> dict[str, Array]:
        import tensorflow as tf

        fixed = self.model.inputs[0].shape[0]

        def on_batch(batch: list[Array]) -> list[Array]:
            def run() -> list[Array]:
                return [out.numpy() for out in self._run([tf.constant(a) for a in batch])]

            def again() -> list[Array]:
                vars(self).pop("_run", None)
                return run()

            return run_fused(run, again)

        return in_batches(on_batch, x, self.signature, batch_size, fixed)

    @functools.cached_property
    def _run(self) -> Any:
        """Traced once, however many batches follow."""
        import tensorflow as tf

        return tf.function(self.call, reduce_retracing=True)

    def call(self, tensors: Sequence[Any]) -> list[Any]:
        return _flat(call_keras(self.model, tensors))

    def save(self, path: Path) -> Path:
        """Write a .keras file (the suffix is added where it is missing); equal models give equal bytes."""
        path = path if path.suffix == ".keras" else path.with_name(path.name + ".keras")
        return save_keras(self.model, path)


def call_keras(model: Any, tensors: Sequence[Any]) -> Any:
    """model(tensors) for inference; `tensors` in the order of `model.inputs`, whatever structure it was built with."""
    structure = getattr(model, "_inputs_struct", None)
    if structure is not None:
        import keras

        return model(keras.tree.pack_sequence_as(structure, list(tensors)), training=False)
    return model(tensors[0] if len(tensors) == 1 else list(tensors), training=False)


def output_names(model: Any) -> list[str]:
    """The names of the layers that give a Keras model's outputs; a Keras 3 Sequential keeps them inside."""
    names = getattr(model, "output_names", None)
    return list(model._functional.output_names if names is None else names)


def _flat(outputs: Any) -> list[Any]:
    import tensorflow as tf

    return list(tf.nest.flatten(outputs))


def in_batches(
    run: Callable[[list[Array]], list[Array]],
    x: Mapping[str, Array],
    signature: Signature,
    batch_size: int,
    fixed: int | None,
) -> dict[str, Array]:
    """Outputs by name for all samples. `fixed`: the only batch size that `run` takes (the rest of the last batch
    is filled with its last sample and dropped), or None where it takes any."""
    missing = [spec.name for spec in signature.inputs if spec.name not in x]
    if missing:
        raise DataError(f"the model expects inputs {[s.name for s in signature.inputs]}, received {sorted(x)}")
    arrays = [np.asarray(x[spec.name]).astype(spec.dtype, copy=False) for spec in signature.inputs]
    n = len(arrays[0])
    if n == 0:
        raise DataError("there is no sample to run the model on", hint="give at least one sample")
    step = fixed or batch_size
    parts: list[list[Array]] = []
    for start in range(0, n, step):
        batch = [a[start : start + step] for a in arrays]
        have = len(batch[0])
        if fixed and have < fixed:
            batch = [np.concatenate([b, np.repeat(b[-1:], fixed - have, axis=0)]) for b in batch]
        outputs = run(batch)
        parts.append([out[:have] if fixed and out.ndim and len(out) == fixed else out for out in outputs])
    names = [spec.name for spec in signature.outputs]
    return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def save_keras(model: Any, path: Path) -> Path:
    """Save to a .keras file without the date and times that Keras puts in: equal models, equal bytes."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        raw = Path(folder) / "model.keras"
        model.save(raw)
        ready = Path(folder) / "ready.keras"
        with zipfile.ZipFile(raw) as source, zipfile.ZipFile(ready, "w") as target:
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    content = re.sub(rb'"date_saved": "[^"]*"', b'"date_saved": "1980-01-01@00:00:00"', content)
                target.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), content)
        ready.replace(path)
    return path


@contextlib.contextmanager
def with_suffix(path: Path, suffix: str) -> Iterator[Path]:
    """`path`, or a link to it that ends in `suffix`: Keras goes by the name, we by the content."""
    if path.suffix == suffix:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{suffix}"
        link.symlink_to(path.resolve())
        yield link


def clean_name(name: str) -> str:
    """`name` with all that TensorFlow forbids in a scope's name replaced by "_"."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return name if re.match(r"[A-Za-z0-9.]", name) else f"x{name}"


def unique_names(names: Iterable[str]) -> list[str]:
    """Cleaned names, repeated ones numbered as tf-keras numbers its outputs: d, d_1, d_2."""
    out: list[str] = []
    for name in map(clean_name, names):
        candidate, count = name, 0
        while candidate in out:
            count += 1
            candidate = f"{name}_{count}"
        out.append(candidate)
    return out


def static_shapes(specs: Sequence[tuple[str, Sequence[int | None]]], options: LoadOptions) -> list[Shape]:
    """The full static shape of each input (name, shape with None or -1 where dynamic): the batch is 1 unless it is
    fixed. ModelError where an option doesn't fit the model, DataError where a dimension stays unknown."""
    wanted = dict(options.input_shape)
    if "" in wanted and len(specs) == 1:
        wanted[specs[0][0]] = wanted.pop("")
    for name in wanted:
        if name not in dict(specs):
            known = [spec_name for spec_name, _ in specs]
            raise ModelError(f"--input-shape: the model has no input {name!r}, its inputs are {known}",
                             hint=perhaps(name, known))  # fmt: skip
    shapes = []
    for name, given in specs:
        shape = [-1 if d is None else int(d) for d in given]
        fixed = wanted.get(name)
        if fixed is not None:
            agrees = len(fixed) == len(shape) and all(f > 0 and d in (-1, f) for d, f in zip(shape, fixed, strict=True))
            if not agrees:
                raise ModelError(
                    f"--input-shape of {name!r}: {list(fixed)} doesn't fit the model's {shape} (-1 is free)",
                    hint="give the full shape, batch first, with the model's own sizes where they are fixed",
                )
            shape = list(fixed)
        elif shape and shape[0] == -1:
            shape[0] = 1
        if -1 in shape:
            example = ",".join("?" if d == -1 else str(d) for d in shape)
            raise DataError(
                f"input {name!r} has the shape {shape}, in which -1 is not known before it runs",
                hint=f"fix it with --input-shape {name}={example}",
            )
        shapes.append(tuple(shape))
    return shapes


def infer_signature(
    inputs: Sequence[tuple[str, Shape, str]],
    output_names: Sequence[str],
    call: Callable[[list[Any]], Sequence[Any]],
) -> Signature:
    """The signature with the outputs' shapes and dtypes as tracing `call` gives them; -1 where they stay unknown.

    `call` takes and gives tensors in order. Nothing is run: a model may well fail on a made-up sample.
    """
    import tensorflow as tf

    specs = [tf.TensorSpec(shape, dtype) for _, shape, dtype in inputs]
    outputs = tf.nest.flatten(tf.function(call).get_concrete_function(specs).structured_outputs)
    return Signature(
        tuple(TensorInfo(name, shape, dtype) for name, shape, dtype in inputs),
        tuple(
            TensorInfo(name, tuple(-1 if d is None else d for d in out.shape), out.dtype.name)
            for name, out in zip(output_names, outputs, strict=True)
        ),
    )


def keras_source(kind: str, path: Path, model: Any, options: LoadOptions, notes: tuple[str, ...] = ()) -> KerasSource:
    """Check a functional or Sequential model's weights and inputs, and wrap it."""
    import tensorflow as tf

    check_finite(model)
    notes += begin_each_sample_anew(model)
    inputs = list(model.inputs)
    names = unique_names(getattr(model, "input_names", None) or [tensor.name for tensor in inputs])
    shapes = static_shapes([(n, tuple(t.shape)) for n, t in zip(names, inputs, strict=True)], options)
    dtypes = [tf.as_dtype(tensor.dtype).name for tensor in inputs]
    signature = infer_signature(
        list(zip(names, shapes, dtypes, strict=True)),
        unique_names(output_names(model)),
        lambda tensors: _flat(call_keras(model, tensors)),
    )
    return KerasSource(kind, path, model, signature, notes)


def check_finite(model: Any) -> None:
    """NonFiniteError that names the first layer with NaN or infinity in its weights."""
    for layer in model._flatten_layers():
        if layer is model:
            continue
        for variable in layer.weights:
            value = np.asarray(variable)
            if value.dtype.kind in "fV" and not np.isfinite(value.astype(np.float32)).all():
                bad = int(math.prod(value.shape) - np.isfinite(value.astype(np.float32)).sum())
                raise NonFiniteError(
                    f"layer {layer.name!r} has {bad} NaN or infinite values in its weight {variable.name!r}",
                    hint="train the model again, with a smaller learning rate or gradient clipping",
                )


def custom_objects(options: LoadOptions) -> dict[str, Any]:
    """The objects that `options.custom` names, by their name and by the name they are registered under."""
    found: dict[str, Any] = {}
    for spec in options.custom:
        module_name, colon, name = spec.partition(":")
        if not (module_name and colon and name):
            raise ModelError(f"--custom {spec!r} is not of the form module:Name", hint="for example my_layers:Swish6")
        with working_folder_on_path():
            try:
                module = importlib.import_module(module_name)
            except Exception as error:  # the user's module may raise anything
                raise ModelError(
                    f"--custom {spec}: module {module_name!r} can't be imported: {error}",
                    hint="run in the folder that holds the module, or install it",
                ) from error
        if not hasattr(module, name):
            raise ModelError(f"--custom {spec}: module {module_name!r} has no {name!r}",
                             hint=perhaps(name, [n for n in vars(module) if not n.startswith("_")]))  # fmt: skip
        found[name] = getattr(module, name)
    return found
