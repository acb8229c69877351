"""tf-keras (Keras 2) models: .h5 and .keras files."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgecompile.artifact import KERAS
from edgecompile.errors import EdgecompileError, ModelError
from edgecompile.keras3_layer import layer_class
from edgecompile.loaders import origin
from edgecompile.loaders.base import LoadOptions, SourceModel, custom_objects, keras_source, with_suffix
from edgecompile.loaders.precision import in_float32
from edgecompile.loaders.safety import check_config, parse_json

SUBCLASSED = "export it as a SavedModel (model.export(folder)) and give that: it can be quantized, though not trained"


def load(path: Path, options: LoadOptions) -> SourceModel:
    """A tf-keras file as a source of kind KERAS; raises what `edgecompile.loaders.load` documents."""
    import tf_keras
    from tf_keras.src.engine.functional import Functional

    config, objects = read_config(path), custom_objects(options)
    layer_class()
    check_config(config, options, origin.tf_keras(), objects, str(path))
    suffix = ".keras" if zipfile.is_zipfile(path) else ".h5"
    with with_suffix(path, suffix) as named, scope(objects):
        model = guarded(
            path, lambda: tf_keras.models.load_model(named, compile=False, safe_mode=not options.allow_unsafe)
        )
        require_graph(model, tf_keras.Sequential, Functional, path, options)
        model, notes = guarded(path, lambda: in_float32(model, allow_unsafe=options.allow_unsafe))
        return keras_source(KERAS, path, model, options, notes)


@contextlib.contextmanager
def scope(objects: Mapping[str, Any]) -> Iterator[None]:
    """Where tf-keras knows the user's objects and layers that it has no public names for, and Keras 3, whose layers
    tf-keras models may hold, the user's."""
    import keras
    import tf_keras

    known = {**origin.tf_keras().of_applications, **objects}
    with tf_keras.saving.custom_object_scope(known), keras.saving.custom_object_scope(objects):
        yield


def read_config(path: Path) -> Any:
    """The model's configuration as plain data, nothing deserialized; ModelError where the file has weights only.

    Without what it was compiled with: it is loaded without that (loaders.compiled reads it as plain data).
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            config = parse_json(archive.read("config.json"), str(path))
        if isinstance(config, dict):
            config.pop("compile_config", None)
        return config
    import h5py

    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config")
    if text is None:
        raise ModelError(
            f"{path}: holds weights only: there is no model in it (no model_config)",
            hint="save the whole model: model.save('model.keras'), not save_weights",
        )
    return parse_json(text, str(path))


def guarded(path: Path, read: Any) -> Any:
    """read(), any failure of the library's being a ModelError with its reason."""
    try:
        return read()
    except EdgecompileError:
        raise
    except Exception as error:  # Keras raises all sorts, depending on what is damaged
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{path}: the model can't be loaded: {reason[:300]}",
            hint="the file may be damaged, or need --custom module:Name for objects of its own",
        ) from error


def require_graph(model: Any, sequential: Any, functional: Any, path: Path, options: LoadOptions) -> None:
    """ModelError unless `model` is functional, or Sequential with a known input shape (built here if it can be)."""
    if isinstance(model, sequential):
        if getattr(model, "inputs", None):
            return
        shape = dict(options.input_shape).get("")
        if shape is None:
            raise ModelError(
                f"{path}: the Sequential model has no input shape",
                hint="give it with --input-shape =1,H,W,C (an empty name), or save the model after building it",
            )
        guarded(path, lambda: model.build((None, *shape[1:])))
    elif not isinstance(model, functional):
        raise ModelError(
            f"{path}: a subclassed model ({type(model).__name__}): its graph is Python code, not in the file",
            hint=SUBCLASSED,
        )
