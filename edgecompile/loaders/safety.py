"""What a model file may bring along: its configuration is read as plain data before Keras sees it.

Without `allow_unsafe` layers that carry code are refused: Lambda and marshalled functions, layers that unpickle or
that load another file, and TensorFlow operators that touch files or call Python. A class that isn't Keras's is refused
unless the user named it: Keras would import its module, whatever it is. origin.py says whose it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgecompile import keras3_layer, plain_json
from edgecompile.errors import ModelError, UnsafeModelError, UnsupportedLayerError
from edgecompile.loaders import origin
from edgecompile.loaders.base import LoadOptions

UNSAFE_CLASSES = {
    "Lambda": "a Python function",
    "__lambda__": "a marshalled Python function",
    "TorchModuleWrapper": "a pickled module",
    "TFSMLayer": "the path of another model to load",
    "ReloadedLayer": "the path of another model to load",
    "JaxLayer": "a serialized program",
    "FlaxLayer": "a serialized program",
}
UNSAFE_OPERATORS = frozenset(
    {"PyFunc", "PyFuncStateless", "EagerPyFunc", "ReadFile", "WriteFile", "MatchingFiles", "DeleteFile", "LoadLibrary"}
)
# Written by tf-keras for calls of TensorFlow functions in a functional model; not in tf_keras.layers.
INTERNAL_LAYERS = frozenset({"TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty",
                             "TensorFlowOpLayer", "AddLoss", "AddMetric", "ModuleWrapper"})  # fmt: skip
HINT = "if you trust where the file comes from, --allow-unsafe runs it; a layer of your own with --custom is better"


def check_config(
    config: Any, options: LoadOptions, library: origin.Library, own: Mapping[str, Any], source: str
) -> None:
    """Refuse what a model's configuration (parsed JSON) must not hold. Nothing that it names is imported or made.

    library: the one that loads the file
    own: the objects that --custom names, by name
    source: how to call the file in messages
    UnsafeModelError for code and for objects that are no parts of a model, UnsupportedLayerError for a layer class
    that is neither Keras's nor named by --custom.
    """
    known = {**library.of_applications, **own}
    for node, layer in _objects(config, "model"):
        _check_form(node, layer, source)
        if not options.allow_unsafe:
            _refuse_code(node, layer, source)
        if node.get("class_name") == keras3_layer.REGISTERED:
            inner = [parse_json(text, source) for text in keras3_layer.serialized(node)]
            check_config(inner, options, origin.keras3(), own, source)
        elif isinstance(node.get("class_name"), str):
            _check_origin(node, layer, options, library, known, source)


def _check_form(node: dict[str, Any], layer: str, source: str) -> None:
    """ModelError where what names a class isn't text: Keras would take it for something, or fail in its own way."""
    for key in ("class_name", "module", "registered_name"):
        value = node.get(key)
        if not isinstance(value, str) and (value is not None or key == "class_name"):
            raise ModelError(
                f"{source}: {layer!r}: {key} is {type(value).__name__}, expected text", hint="save or download it again"
            )


def _check_origin(
    node: dict[str, Any],
    layer: str,
    options: LoadOptions,
    library: origin.Library,
    own: Mapping[str, Any],
    source: str,
) -> None:
    """Refuse an object that isn't the library's own, nor one of the user's."""
    name, module = node["class_name"], node.get("module")
    if library.is_registered(node, own) or (module is None and name in origin.VALUES):
        return
    found = library.find(node, own)
    known = _known(name, library) if module is None else found is not None
    if _is_layer(node) and not known:
        home = module if isinstance(module, str) and not library.owns(module) else "module"
        hint = f"name it with --custom {home}:{name}"
        if module is None and library.has_operation(name):
            hint = "save the model as a .keras file: the format of this one doesn't hold operations of keras.ops"
        raise UnsupportedLayerError(
            f"{source}: layer {layer!r} is of the class {name!r}, which {library.title} doesn't have", hint=hint
        )
    if options.allow_unsafe or module is None:  # without a module it is looked up among the library's names alone
        return
    what = node.get("config") if name == "function" else node.get("spec_name") or name
    if found is None:
        raise ModelError(
            f"{source}: {layer!r} uses {what} of module {module!r}, which is not {library.title}'s",
            hint=f"name it with --custom {module}:{what}",
        )
    carried = next((held for cls, held in origin.unsafe().items() if _is_subclass(found, cls)), None)
    if carried:
        raise UnsafeModelError(f"{source}: layer {layer!r} ({name}) carries {carried}", hint=HINT)
    if not library.trusts(found):
        raise UnsafeModelError(f"{source}: {layer!r} uses {module}.{what}, which is no part of a model", hint=HINT)


def _is_subclass(found: Any, cls: type) -> bool:
    return isinstance(found, type) and issubclass(found, cls)


def _refuse_code(node: dict[str, Any], layer: str, source: str) -> None:
    name = node.get("class_name")
    config = node.get("config")
    config = config if isinstance(config, dict) else {}
    if name in UNSAFE_CLASSES:
        raise UnsafeModelError(f"{source}: layer {layer!r} ({name}) carries {UNSAFE_CLASSES[name]}", hint=HINT)
    if isinstance(config.get("vocabulary"), str):
        raise UnsafeModelError(f"{source}: layer {layer!r} ({name}) carries the path of a file to read", hint=HINT)
    if name in INTERNAL_LAYERS:
        symbol = str(config.get("function", ""))
        if symbol and not origin.is_pure(symbol):
            raise UnsafeModelError(f"{source}: layer {layer!r} calls tf.{symbol}", hint=HINT)
        cls = str(config.get("cls_symbol", ""))
        if cls and cls.rpartition(".")[2] not in origin.TENSOR_CLASSES:
            raise UnsafeModelError(f"{source}: layer {layer!r} calls a method of tf.{cls}", hint=HINT)
        operator = next((o for o in sorted(UNSAFE_OPERATORS) if o in str(config.get("node_def", ""))), None)
        if operator:
            raise UnsafeModelError(f"{source}: layer {layer!r} runs the operator {operator}", hint=HINT)


def _is_layer(node: dict[str, Any]) -> bool:
    """Layers stand in a model's list of layers: they alone have inbound nodes, a build config or a name."""
    config = node.get("config")
    return (
        "inbound_nodes" in node
        or "build_config" in node
        or (isinstance(config, dict) and "name" in config and "trainable" in config)
    )


def _known(name: str, library: origin.Library) -> bool:
    return name in library.layers or name in INTERNAL_LAYERS or name in UNSAFE_CLASSES


def _objects(value: Any, layer: str) -> Iterator[tuple[dict[str, Any], str]]:
    """All serialized objects in a configuration, outermost first, each with the name of the layer it belongs to."""
    if isinstance(value, dict):
        if "class_name" in value:
            config = value.get("config")
            own = value.get("name") or (config.get("name") if isinstance(config, dict) else None)
            kind = value["class_name"]
            if isinstance(own, str) and (_is_layer(value) or (isinstance(kind, str) and kind in UNSAFE_CLASSES)):
                layer = own
            yield value, layer
        elif _is_marshalled(value.get("value")):
            yield {"class_name": "__lambda__"}, layer
        for item in value.values():
            yield from _objects(item, layer)
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item, layer)


def _is_marshalled(value: Any) -> bool:
    """Whether `value` is what tf-keras writes for a lambda without naming its class: (code, defaults, closure)."""
    return isinstance(value, list) and len(value) == 3 and isinstance(value[0], str) and len(value[0]) > 40


def parse_json(text: str | bytes, source: str) -> Any:
    """Parsed JSON, or a ModelError that says the file is damaged."""
    try:
        return plain_json.parse(text)
    except ValueError as error:
        raise ModelError(f"{source}: its configuration is not valid JSON: {error}", hint="save it again") from error


def check_saved_model(folder: Path, options: LoadOptions) -> Any:
    """Check a SavedModel's operators and its Keras metadata. Returns the metadata of the root object (parsed JSON
    with "identifier" added), or None where Keras did not write the SavedModel."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2
    from tf_keras.protobuf import saved_metadata_pb2

    source = str(folder)
    proto, metadata = saved_model_pb2.SavedModel(), saved_metadata_pb2.SavedMetadata()
    try:
        proto.ParseFromString((folder / "saved_model.pb").read_bytes())
        if (folder / "keras_metadata.pb").is_file():
            metadata.ParseFromString((folder / "keras_metadata.pb").read_bytes())
    except DecodeError as error:
        raise ModelError(f"{source}: saved_model.pb is damaged or cut short", hint="export it again") from error
    if not proto.meta_graphs:
        raise ModelError(f"{source}: saved_model.pb holds no graph", hint="export the model again")
    graph = proto.meta_graphs[0]
    if not options.allow_unsafe:
        nodes = [*graph.graph_def.node, *(n for f in graph.graph_def.library.function for n in f.node_def)]
        for node in nodes:
            if node.op in UNSAFE_OPERATORS:
                raise UnsafeModelError(f"{source}: operator {node.op} ({node.name}) touches files or calls Python",
                                       hint=HINT)  # fmt: skip
    written = [(n.identifier, n.node_path, n.metadata) for n in metadata.nodes]
    if not written:  # before TensorFlow 2.5 it stood in the object graph
        written = [
            (n.user_object.identifier, "root" if i == 0 else "", n.user_object.metadata)
            for i, n in enumerate(graph.object_graph_def.nodes)
            if n.WhichOneof("kind") == "user_object" and n.user_object.identifier.startswith("_tf_keras")
        ]
    root = None
    for identifier, node_path, text in written:
        config = parse_json(text, source) if text else {}
        # A revived layer runs the graph that was saved, not the class: foreign classes are no danger here,
        # code in the configuration is (Keras deserializes it where it knows the class).
        named = {**config, "build_config": None} if isinstance(config, dict) and "class_name" in config else config
        if not options.allow_unsafe:
            for node, layer in _objects(named, str(node_path)):
                _check_form(node, layer, source)
                _refuse_code(node, layer, source)
        if node_path == "root" and isinstance(config, dict):
            root = {**config, "identifier": identifier}
    return root
