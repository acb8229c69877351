"""Keras 3 models: .keras files, and .h5 files that Keras 3 wrote."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgecompile.artifact import KERAS3
from edgecompile.errors import ModelError
from edgecompile.loaders import origin
from edgecompile.loaders.base import LoadOptions, SourceModel, custom_objects, keras_source, with_suffix
from edgecompile.loaders.keras2 import guarded, read_config, require_graph
from edgecompile.loaders.precision import in_float32
from edgecompile.loaders.safety import check_config


def load(path: Path, options: LoadOptions) -> SourceModel:
    """A Keras 3 file as a source of kind KERAS3; raises what `edgecompile.loaders.load` documents."""
    import keras
    from keras.src.models.functional import Functional

    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"Keras runs on {keras.backend.backend()!r}; conversion needs the backend 'tensorflow'",
            hint="unset KERAS_BACKEND, or set it to tensorflow",
        )
    library = origin.keras3()
    config, objects = read_config(path), custom_objects(options)
    check_config(config, options, library, objects, str(path))
    known = {**library.of_applications, **objects}
    suffix = ".keras" if zipfile.is_zipfile(path) else ".h5"
    with with_suffix(path, suffix) as named, keras.saving.custom_object_scope(known):
        model = guarded(path, lambda: keras.saving.load_model(named, compile=False, safe_mode=not options.allow_unsafe))
        require_graph(model, keras.Sequential, Functional, path, options)
        model, notes = guarded(path, lambda: in_float32(model, allow_unsafe=options.allow_unsafe))
        return keras_source(KERAS3, path, model, options, notes)
