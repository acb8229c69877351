"""Where the classes and functions come from that a model's configuration names.

Keras looks a name up among what is registered, then among the symbols it exports, then in a module that it imports.
`Library.find` does the same and imports nothing: a module that isn't loaded once Keras is, is not Keras's. What it
finds is judged as an object, not by its name: an alias, a subclass or a function where a class is expected don't pass.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Objects that stand for plain values, made without looking any class up where they name no module.
VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__",
                    "__tuple__", "TensorShape", "TypeSpec", "CompositeTensor"})  # fmt: skip
# Keras's modules with names for functions that need no module ("builtins" in a configuration stands for them).
NAMED = ("activations", "constraints", "initializers", "losses", "metrics", "optimizers", "regularizers")
# Where the functions stand that a configuration may name: they compute, and touch nothing else.
PURE = ("activations", "constraints", "initializers", "losses", "metrics", "ops", "regularizers")
# Where TensorFlow's functions stand that compute, below tensorflow.python. Others read and write files, run Python or
# graphs of their own, load native code, call other machines, or change how the process works, by whatever name.
PURE_TF = frozenset({
    "framework.constant_op", "framework.tensor_conversion",
    "ops.array_ops", "ops.array_ops_stack", "ops.bincount_ops", "ops.check_ops", "ops.clip_ops", "ops.confusion_matrix",
    "ops.ctc_ops", "ops.embedding_ops", "ops.gen_array_ops", "ops.gen_bitwise_ops", "ops.gen_data_flow_ops",
    "ops.gen_image_ops", "ops.gen_linalg_ops", "ops.gen_math_ops", "ops.gen_nn_ops", "ops.gen_ragged_array_ops",
    "ops.gen_spectral_ops", "ops.gen_string_ops", "ops.histogram_ops", "ops.image_ops_impl", "ops.linalg_ops",
    "ops.manip_ops", "ops.math_ops", "ops.nn_impl", "ops.nn_ops", "ops.numerics", "ops.random_crop_ops",
    "ops.random_ops", "ops.sets_impl", "ops.sort_ops", "ops.sparse_ops", "ops.special_math_ops",
    "ops.stateless_random_ops", "ops.string_ops", "ops.tensor_getitem_override",
})  # fmt: skip
PURE_TF_PACKAGES = ("ops.linalg.", "ops.ragged.", "ops.signal.")
TENSOR_CLASSES = frozenset({"RaggedTensor", "SparseTensor", "IndexedSlices", "TensorShape"})


@dataclass(frozen=True)
class Library:
    """Keras 3 or tf-keras, as far as configurations name its objects.

    title: how messages call it
    package: its top package; `alias`: another one that means it in configurations
    exported: the object behind a public name ("keras.layers.Dense"), or None
    registered: the object registered under a name, given the user's own ones too, or None
    kinds: base classes of what configurations hold
    """

    title: str
    package: str
    alias: str
    exported: Callable[[str], Any]
    registered: Callable[[str, Mapping[str, Any]], Any]
    kinds: tuple[type, ...]

    def find(self, node: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
        """What the library would make of a serialized object's names: a class, a function, or None.

        own: the user's objects by name, found before all others.
        """
        function = node.get("class_name") == "function"
        name = node.get("config") if function else node.get("spec_name") or node.get("class_name")
        module = node.get("module")
        if not isinstance(name, str):
            return None
        key = name if function else node.get("registered_name", name)
        found = self.registered(key, own) if isinstance(key, str) else None
        if found is not None or not isinstance(module, str):
            return found
        if self.owns(module):
            found = self.exported(f"{module}.{name}")
        if found is None and function and module == "builtins":
            places = (self.exported(f"keras.{place}.{name}") for place in NAMED)
            return next((place for place in places if place is not None), None)
        return vars(sys.modules.get(self._imported(module), object)).get(name) if found is None else found

    def trusts(self, found: Any) -> bool:
        """Whether an object from `find` is a part of a model, and the library's own or TensorFlow's."""
        import tensorflow as tf

        home = str(getattr(found, "__module__", ""))
        if isinstance(found, type):
            return (self.owns(home) and issubclass(found, self.kinds)) or issubclass(found, tf.TypeSpec)
        if not inspect.isroutine(found):
            return False
        own = any(home.startswith(f"{self.package}.src.{part}") for part in PURE)
        return own or _computes(found)

    def is_registered(self, node: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
        """Whether the names are those of an object that the user's own code brought along."""
        return self.find({**node, "module": None}, own) is not None

    def owns(self, module: str) -> bool:
        """Whether the library takes a module of this name for one of its own."""
        return module.partition(".")[0] in (self.package, self.alias)

    def _imported(self, module: str) -> str:
        """The module that this name leads to: tf-keras takes keras for itself."""
        first, dot, rest = module.partition(".")
        return f"{self.package}{dot}{rest}" if first == self.alias else module

    def has_operation(self, name: str) -> bool:
        """Whether an operation of its `ops` has this class name."""
        place = f"{self.package}.src.ops."
        return any(key.startswith(place) and hasattr(module, name) for key, module in [*sys.modules.items()])

    @functools.cached_property
    def layers(self) -> frozenset[str]:
        """The names of all public layer and model classes, for formats that give no module."""
        public = vars(sys.modules[f"{self.package}.layers"])
        names = {name for name, value in public.items() if isinstance(value, type)}
        return frozenset(names | {"Functional", "Model", "Sequential"})

    @functools.cached_property
    def of_applications(self) -> dict[str, Any]:
        """By name, the layer classes that networks of its `applications` bring along. It has no public name for them,
        and finds them by their module alone, which not every format gives."""
        place = f"{self.package}.src.applications."
        modules = [module for name, module in sys.modules.items() if name.startswith(place)]
        layer = vars(sys.modules[f"{self.package}.layers"])["Layer"]
        return {
            name: cls
            for module in modules
            for name, cls in vars(module).items()
            if isinstance(cls, type) and issubclass(cls, layer) and cls.__module__ == module.__name__
        }


def is_pure(symbol: str) -> bool:
    """Whether a TensorFlow function of this public name ("nn.relu", "compat.v1.transpose") only computes."""
    from tensorflow.python.util import tf_export

    return _computes(tf_export.get_symbol_from_name(symbol))


def _computes(function: Any) -> bool:
    first, _, home = str(getattr(function, "__module__", "")).partition(".python.")
    return (
        inspect.isroutine(function) and first == "tensorflow" and (home in PURE_TF or home.startswith(PURE_TF_PACKAGES))
    )


@functools.cache
def keras3() -> Library:
    import keras
    from keras.src import api_export
    from keras.src.ops.operation import Operation
    from keras.src.saving import object_registration
    from keras.src.saving.keras_saveable import KerasSaveable

    kinds = (
        KerasSaveable, Operation, keras.DTypePolicy, keras.dtype_policies.DTypePolicyMap,
        keras.initializers.Initializer, keras.regularizers.Regularizer, keras.constraints.Constraint,
        keras.random.SeedGenerator, keras.quantizers.Quantizer, keras.optimizers.schedules.LearningRateSchedule,
    )  # fmt: skip
    return Library("Keras", "keras", "keras", api_export.get_symbol_from_name,
                   object_registration.get_registered_object, kinds)  # fmt: skip


@functools.cache
def tf_keras() -> Library:
    import tf_keras as library
    from tensorflow.python.util import tf_export
    from tf_keras.src.saving import object_registration

    def exported(name: str) -> Any:
        return tf_export.get_symbol_from_name(f"compat.v1.{name}" if "__internal__.legacy" in name else name)

    kinds = (
        library.layers.Layer, library.initializers.Initializer, library.regularizers.Regularizer,
        library.constraints.Constraint, library.mixed_precision.Policy, library.optimizers.Optimizer,
        library.optimizers.legacy.Optimizer, library.optimizers.schedules.LearningRateSchedule,
        library.losses.Loss, library.metrics.Metric,
    )  # fmt: skip
    return Library("tf-keras", "tf_keras", "keras", exported, object_registration.get_registered_object, kinds)


@functools.cache
def unsafe() -> dict[type, str]:
    """Layers that carry code, or load it from somewhere, and what each carries."""
    import keras
    import tf_keras as library
    from keras.src.utils.jax_layer import JaxLayer
    from keras.src.utils.torch_utils import TorchModuleWrapper
    from tf_keras.src.export.export_lib import ReloadedLayer

    return {
        keras.layers.Lambda: "a Python function",
        library.layers.Lambda: "a Python function",
        TorchModuleWrapper: "a pickled module",
        keras.layers.TFSMLayer: "the path of another model to load",
        ReloadedLayer: "the path of another model to load",
        JaxLayer: "a serialized program",  # FlaxLayer is one too
    }
