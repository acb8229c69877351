"""What a Keras file says of its outputs beside their shapes: activations, and the losses that it was compiled with.

A loss is read as plain data: its name is looked up here and nothing that the file names is imported or made. Losses
other than Keras's own are told by a note, and not used.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecompile.artifact import KERAS, KERAS3, TFLITE
from edgecompile.loaders.base import SourceModel, clean_name, output_names
from edgecompile.loaders.safety import parse_json
from edgecompile.tflite_file import read

LOSSES = (
    "BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy",
    "CategoricalHinge", "CosineSimilarity", "Hinge", "Huber", "KLDivergence", "LogCosh", "MeanAbsoluteError",
    "MeanAbsolutePercentageError", "MeanSquaredError", "MeanSquaredLogarithmicError", "Poisson",
    "SparseCategoricalCrossentropy", "SquaredHinge",
)  # fmt: skip
# Keras's other names for them, written small and without underscores.
_ALIASES = {
    "mse": "MeanSquaredError", "mae": "MeanAbsoluteError", "mape": "MeanAbsolutePercentageError",
    "msle": "MeanSquaredLogarithmicError", "bce": "BinaryCrossentropy", "kld": "KLDivergence",
    "kullbackleiblerdivergence": "KLDivergence", "huberloss": "Huber",
    **{name.lower(): name for name in LOSSES},
}  # fmt: skip
# Arguments that change what a loss computes; name, dtype and reduction don't.
_SETTINGS = frozenset({"from_logits", "label_smoothing", "axis", "delta", "alpha", "gamma", "apply_class_balancing"})
_LARGEST = 1e30  # of a loss weight: a file may hold integers that no float does
_ACTIVATIONS = {"LOGISTIC": "sigmoid", "SOFTMAX": "softmax"}
_PASSED_THROUGH = frozenset({"DEQUANTIZE", "QUANTIZE", "RESHAPE", "CAST"})


def compiled(source: SourceModel) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """({output: {"activation": Keras's name or None, "loss": {"name", "settings"} or None, "loss_weight": number or
    None}}, notes on what isn't used), all of it plain data."""
    names = [tensor.name for tensor in source.signature.outputs]
    activations = _activations(source, len(names))
    losses, weights, notes = _losses(source, names)
    return {
        name: {"activation": activation, "loss": losses.get(name), "loss_weight": weights.get(name)}
        for name, activation in zip(names, activations, strict=True)
    }, notes


def _losses(
    source: SourceModel, names: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, float], tuple[str, ...]]:
    config = _compile_config(source.path) if source.kind in (KERAS, KERAS3) else None
    if not isinstance(config, dict) or config.get("loss") is None:
        return {}, {}, ()
    losses: dict[str, dict[str, Any]] = {}
    notes = []
    by_output = _by_output(config["loss"], names)
    if not by_output:
        notes.append(
            f"compiled losses are for none of the outputs {', '.join(names)}: those that fit the labels are taken"
        )
    for name, given in by_output.items():
        found = _known(given)
        if found is not None:
            losses[name] = found
        elif given is not None:
            notes.append(f"{name!r} was compiled with {_called(given)}, no loss of Keras's own: one that fits is taken")
    weights = {
        name: float(weight)
        for name, weight in _by_output(config.get("loss_weights"), names).items()
        if isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight < _LARGEST
    }
    return losses, weights, tuple(notes)


def _compile_config(path: Path) -> Any:
    """The arguments of `compile` as the file has them, None where it has none."""
    if path.is_dir():
        return _training_config(path / "keras_metadata.pb")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            config = parse_json(archive.read("config.json"), str(path))
        found = config.get("compile_config") if isinstance(config, dict) else None
        return found.get("config", found) if isinstance(found, dict) and "class_name" in found else found
    import h5py

    with h5py.File(path, "r") as file:
        text = file.attrs.get("training_config")
    return None if text is None else parse_json(text, str(path))


def _training_config(path: Path) -> Any:
    """The same of a SavedModel that tf-keras wrote: it stands with the root object."""
    from tf_keras.protobuf import saved_metadata_pb2

    if not path.is_file():
        return None
    metadata = saved_metadata_pb2.SavedMetadata()
    metadata.ParseFromString(path.read_bytes())
    root = next((node.metadata for node in metadata.nodes if node.node_path == "root"), "")
    config = parse_json(root, str(path)) if root else None
    return config.get("training_config") if isinstance(config, dict) else None


def _by_output(given: Any, names: Sequence[str]) -> dict[str, Any]:
    """By output, what was given for all of them, in their order, or by name."""
    if isinstance(given, list):
        return dict(zip(names, given, strict=False))
    if isinstance(given, dict) and "class_name" not in given:
        return {clean_name(name): value for name, value in given.items() if clean_name(name) in names}
    return dict.fromkeys(names, given)


def _known(given: Any) -> dict[str, Any] | None:
    """One of LOSSES with its settings, None where it is none of them."""
    settings: Mapping[str, Any] = {}
    if isinstance(given, dict):
        module, config = given.get("module"), given.get("config")
        own = isinstance(module, str) and module.partition(".")[0] not in ("keras", "tf_keras", "builtins")
        if own or given.get("registered_name") not in (None, given.get("class_name")):
            return None
        if given.get("class_name") == "function":
            given = config
        else:
            given, settings = given.get("class_name"), config if isinstance(config, dict) else {}
            if given == "LossFunctionWrapper":
                given = settings.get("fn")
    name = _ALIASES.get(given.replace("_", "").lower()) if isinstance(given, str) else None
    if name is None:
        return None
    kept = {k: v for k, v in settings.items() if k in _SETTINGS and isinstance(v, bool | int | float)}
    return {"name": name, "settings": kept}


def _called(given: Any) -> str:
    """A loss's name, for a message."""
    if isinstance(given, dict):
        function = given.get("class_name") == "function"
        given = given.get("config") if function else given.get("registered_name") or given.get("class_name")
    return f"{given!r}"[:80]


def _activations(source: SourceModel, count: int) -> list[str | None]:
    """Of each output, as far as it can be told."""
    if source.kind in (KERAS, KERAS3):
        layers = {layer.name: layer for layer in source.model.layers}
        found = [_activation(layers.get(name)) for name in output_names(source.model)]
        return found if len(found) == count else [None] * count
    if source.kind == TFLITE:
        return _last_operators(Path(source.model), count)
    return [None] * count


def _activation(layer: Any) -> str | None:
    kind = type(layer).__name__
    if kind in ("Softmax", "Sigmoid"):
        return kind.lower()
    activation = getattr(layer, "activation", None)
    return str(getattr(activation, "__name__", "")) or None


def _last_operators(path: Path, count: int) -> list[str | None]:
    main = read(path).main
    made = {index: operator for operator in main.operators for index in operator.outputs}
    found: list[str | None] = []
    for index in main.outputs[:count]:
        operator = made.get(index)
        while operator is not None and operator.name in _PASSED_THROUGH:
            operator = made.get(operator.inputs[0])
        found.append(_ACTIVATIONS.get(operator.name) if operator else None)
    return found + [None] * (count - len(found))
