"""`edgecompile inspect`: what is in a model, whatever its format, or in a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgecompile import catalog
from edgecompile.artifact import TFLITE
from edgecompile.bundle import MODEL, open_bundle, unchanged
from edgecompile.errors import BundleError, ModelError, perhaps
from edgecompile.inspection import inspect_tflite
from edgecompile.layers import inspect_builtin, inspect_source
from edgecompile.loaders import sniff
from edgecompile.loaders.base import LoadOptions
from edgecompile.loaders.limits import call_within
from edgecompile.stages.base import Progress
from edgecompile.worker import Worker


def examine(model: str, options: LoadOptions, worker: Worker, *, report: Callable[[Progress], None]) -> dict[str, Any]:
    """Plain data for JSON: as `inspect_tflite` for a .tflite and for a bundle (whose manifest's headline is under
    "bundle"), as `inspect_source` for Keras models, SavedModels and built-in models.

    ModelError, BundleError, ChangedFileError and what the loaders raise; the loaders run in `worker`.
    """
    path = Path(model)
    if not path.exists():
        if model in catalog.ids():
            found: dict[str, Any] = worker.call("building the model", inspect_builtin, model, report=report)
            return found
        raise ModelError(
            f"{model}: there is no such file or folder, and no built-in model of that name",
            hint=perhaps(model, catalog.ids()),
        )
    if (path / "manifest.json").is_file():
        manifest = open_bundle(path)
        unchanged(path, manifest, MODEL)
        return {"bundle": _headline(path, manifest), **inspect_tflite(path / MODEL)}
    if sniff(path) == TFLITE:
        return inspect_tflite(path)
    loaded: dict[str, Any] = call_within(worker, path, f"loading {path}", inspect_source, path, options, report=report)
    return loaded


def _headline(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {
            "name": manifest["model"]["name"],
            "target": manifest["target"]["id"],
            "recipe": manifest["recipe"]["name"],
            "winner": manifest["winner"]["id"],
            "date": manifest["date"],
            "figures": [figure for figure in manifest["figures"] if figure["of"] == "model"],
        }
    except (KeyError, TypeError) as problem:
        raise BundleError(f"{path / 'manifest.json'} is damaged: {problem} is missing", hint="build it again") from None
