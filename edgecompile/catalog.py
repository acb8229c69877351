"""The built-in models: which there are, and where their data lies.

A model is a folder models/<id>/ with `SUMMARY`, `REFERENCE`, `TRAINING`, `build()`, `task(root)` and
`fingerprint_files(root)`; none of them imports TensorFlow before `build` is called.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from edgecompile.artifact import sha256_file
from edgecompile.errors import DataError, ModelError, perhaps

DATA_VARIABLE = "EDGECOMPILE_DATA"


@dataclass(frozen=True)
class Training:
    """How a built-in model is trained from nothing: Adam at `learning_rate` for `epochs`.

    on_first_use: it takes seconds, so a build may do it unasked.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    on_first_use: bool = False


def ids() -> list[str]:
    """Ids of the built-in models, sorted."""
    package = importlib.import_module("edgecompile.models")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg)


def get(model: str) -> ModuleType:
    """The module of a built-in model. ModelError for an unknown id."""
    known = ids()
    if model not in known:
        raise ModelError(f"no built-in model is called {model!r}", hint=perhaps(model, known))
    return importlib.import_module(f"edgecompile.models.{model}")


def data_root() -> Path | None:
    """The folder named by EDGECOMPILE_DATA, None where it is unset or empty. DataError if it is no folder."""
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        return None
    folder = Path(value)
    if not folder.is_dir():
        raise DataError(
            f"{DATA_VARIABLE} is {value!r}, which is not a folder", hint="point it to the data sets' folder"
        )
    return folder


def fingerprint(model: str, root: Path | None) -> str:
    """Digest of all that makes a built-in model's data: its files and the code that reads them. Decodes nothing."""
    module = get(model)
    digest = hashlib.sha256()
    sources = [Path(str(m.__file__)) for m in (module, importlib.import_module("edgecompile.models"))]
    for path in [*sources, *module.fingerprint_files(root)]:
        digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()
