"""SavedModel folders. One that tf-keras can give back as a functional or Sequential model is of kind KERAS (it can
be trained), any other of kind SAVED_MODEL, run and converted through its signature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import KERAS, SAVED_MODEL
from edgecompile.errors import ModelError, NonFiniteError
from edgecompile.loaders.base import (
    Array,
    LoadOptions,
    SourceModel,
    custom_objects,
    in_batches,
    infer_signature,
    keras_source,
    static_shapes,
)
from edgecompile.loaders.keras2 import guarded, scope
from edgecompile.loaders.precision import in_float32
from edgecompile.loaders.safety import check_saved_model

SERVING = "serving_default"
GRAPHS = ("_tf_keras_sequential", "_tf_keras_network")  # how Keras marks Sequential and functional roots
_MULTIPLYING = frozenset({"BatchMatMulV2", "BatchMatMulV3", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Einsum",
                         "MatMul"})  # fmt: skip


@dataclass(frozen=True)
class SavedModelSource(SourceModel):
    """`model` is the signature's function; `loaded` keeps its variables alive."""

    loaded: Any = None

    def predict(self, x: Mapping[str, Array], batch_size: int = 256) -> dict[str, Array]:
        specs = self.model.structured_input_signature[1]
        first = specs[self.signature.inputs[0].name].shape
        return in_batches(lambda batch: _run(self.model, self.signature_names, batch), x, self.signature,
                          batch_size, first[0])  # fmt: skip

    def call(self, tensors: Sequence[Any]) -> list[Any]:
        return _call(self.model, self.signature_names, tensors)

    @property
    def signature_names(self) -> tuple[list[str], list[str]]:
        return [i.name for i in self.signature.inputs], [o.name for o in self.signature.outputs]


def load(path: Path, options: LoadOptions) -> SourceModel:
    """A SavedModel; raises what `edgecompile.loaders.load` documents."""
    import tensorflow as tf
    import tf_keras

    root = check_saved_model(path, options)
    _check_finite(path)
    reason = "it was not written by tf-keras"
    if root is not None:
        reason = "its root is a subclassed model"
        if root["identifier"] in GRAPHS:
            with scope(custom_objects(options)):
                model = guarded(path, lambda: tf_keras.models.load_model(path, compile=False))
                revived = [layer.name for layer in model._flatten_layers() if _revived(layer)]
                if not revived and getattr(model, "inputs", None):
                    model, notes = guarded(path, lambda: in_float32(model, allow_unsafe=options.allow_unsafe))
                    return keras_source(KERAS, path, model, options, notes)
            reason = f"layer {revived[0]!r} is of an unknown class" if revived else "it has no input shape"
    loaded = guarded(path, lambda: tf.saved_model.load(str(path)))
    return _from_signature(path, loaded, options, (f"can't be trained: {reason}; used through its signature",))


def _revived(layer: Any) -> bool:
    """Whether Keras, not knowing the class, made a stand-in that runs the saved graph."""
    return bool(type(layer).__module__.endswith("saved_model.load"))


def _from_signature(path: Path, loaded: Any, options: LoadOptions, notes: tuple[str, ...]) -> SavedModelSource:
    signatures = dict(loaded.signatures)
    if SERVING not in signatures and len(signatures) != 1:
        raise ModelError(
            f"{path}: no signature {SERVING!r}, its signatures are {sorted(signatures)}",
            hint="export it with tf.saved_model.save(model, folder, signatures=model.call.get_concrete_function(...))",
        )
    function = signatures.get(SERVING) or next(iter(signatures.values()))
    _check_precision(path, function)
    specs = function.structured_input_signature[1]
    names = sorted(specs, key=_natural)
    for name in names:
        if specs[name].shape.rank is None:
            raise ModelError(f"{path}: input {name!r} has no known rank", hint="export it with an input signature")
    shapes = static_shapes([(name, tuple(specs[name].shape)) for name in names], options)
    outputs = sorted(function.structured_outputs, key=_natural)
    signature = guarded(
        path,
        lambda: infer_signature(
            [(name, shape, specs[name].dtype.name) for name, shape in zip(names, shapes, strict=True)],
            outputs,
            lambda tensors: _call(function, (names, outputs), tensors),
        ),
    )
    return SavedModelSource(SAVED_MODEL, path, function, signature, notes, loaded)


def _check_precision(path: Path, function: Any) -> None:
    """ModelError where the graph multiplies in other than float32: TFLite can't, and a graph is no more than that."""
    import tensorflow as tf

    other = {kind.as_datatype_enum: kind.name for kind in (tf.float16, tf.bfloat16, tf.float64)}
    graph = function.graph.as_graph_def()
    for node in (*graph.node, *(n for f in graph.library.function for n in f.node_def)):
        if node.op in _MULTIPLYING and node.attr["T"].type in other:
            raise ModelError(
                f"{path}: {node.op} ({node.name}) computes in {other[node.attr['T'].type]}; expected float32",
                hint="give the model as a .keras file, which is rebuilt in float32, or export it with a float32 policy",
            )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which output_10 comes after output_9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _call(function: Any, names: tuple[list[str], list[str]], tensors: Sequence[Any]) -> list[Any]:
    results = function(**dict(zip(names[0], tensors, strict=True)))
    return [results[name] for name in names[1]]


def _run(function: Any, names: tuple[list[str], list[str]], arrays: list[Array]) -> list[Array]:
    import tensorflow as tf

    return [tensor.numpy() for tensor in _call(function, names, [tf.constant(array) for array in arrays])]


def _check_finite(path: Path) -> None:
    """Every variable can be read and is finite; a SavedModel without variables is fine."""
    import tensorflow as tf

    prefix = path / "variables" / "variables"
    if not prefix.with_suffix(".index").is_file():
        return
    reader = guarded(path, lambda: tf.train.load_checkpoint(str(prefix)))
    for key in sorted(reader.get_variable_to_shape_map()):
        value = guarded(path, lambda key=key: reader.get_tensor(key))
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            name = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
            raise NonFiniteError(
                f"{path}: variable {name!r} has NaN or infinite values",
                hint="train the model again, with a smaller learning rate or gradient clipping",
            )
