"""Mixed precision where plain int8 loses more than 2 points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compression_rows import networks
from compression_rows.common import Row, build, data_folder, recipe

if TYPE_CHECKING:
    from edgecompile.artifact import Artifact
    from edgecompile.task import Task

SPREAD = 2.5
IMAGENET = "scripts.compression_rows.tasks:imagenet200"
CANCER = "scripts.compression_rows.tasks:breast_cancer"


def _rescaled(out: Path) -> dict[str, Any]:
    """MobileNetV2 whose channels are rescaled: the same function, and far worse in int8."""
    import numpy as np
    import tf_keras
    from rescaling import rescale_channels

    folder = out.parent / f"{out.name}-source"
    folder.mkdir(parents=True, exist_ok=True)
    whole = tf_keras.models.load_model(
        data_folder() / "models/imagenet/mobilenet_v2_1.0_224_imagenet1001.h5", compile=False
    )
    changed = rescale_channels(whole, networks.SEED, SPREAD)
    changed.save(folder / "rescaled.h5")
    x = np.random.default_rng(networks.SEED).uniform(-1, 1, (8, 224, 224, 3)).astype(np.float32)
    a, b = whole.predict(x, verbose=0), changed.predict(x, verbose=0)
    rescaling = {"seed": networks.SEED, "spread": SPREAD, "float_output_changed_by": float(abs(a - b).max())}
    return {"rescaling": rescaling, **_against_int8(folder / "rescaled.h5", IMAGENET, out)}


def _units(out: Path) -> dict[str, Any]:
    """A network that takes measurements in their own units, from 0.002 to 4,254, and scales them itself: one int8 scale
    for its input has no level left for the small ones."""
    return {"trained": networks.train(_UNITS), **_against_int8(_UNITS.path, CANCER, out)}


def _measurements() -> Any:
    import tf_keras
    from tf_keras import layers

    from compression_rows import tasks

    units = layers.Normalization(name="units")
    train = tasks.breast_cancer().train
    assert train is not None
    units.adapt(train.x[""])
    inputs = layers.Input((30,), name="measurements")
    x = units(inputs)
    for number, width in enumerate((32, 16), start=1):
        init = tf_keras.initializers.HeNormal(seed=number)
        x = layers.Dense(width, "relu", kernel_initializer=init, name=f"hidden{number}")(x)
    init = tf_keras.initializers.GlorotUniform(seed=3)
    scores = layers.Dense(2, "softmax", kernel_initializer=init, name="scores")(x)
    return tf_keras.Model(inputs, scores, name="measurements")


_UNITS = networks.Network(
    "measurements", _measurements, CANCER, {"epochs": 60, "learning_rate": 0.002, "batch_size": 16}
)


def _against_int8(model: Path, data: str, out: Path) -> dict[str, Any]:
    made = build(model, recipe("mixed"), out, "--data", data, "--max-drop", "off", "--io", "float")
    chosen = made.stage("mixed-precision")
    return {
        "int8": _plain_int8(model, data, out.parent / f"{out.name}-int8", made.figure("accuracy", "source")),
        "mixed": {"test": made.figure("accuracy"), "drop": made.stage("test")["drop"]},
        "kept": [row for row in chosen["sensitivity"] if row["kept"]],
        "operators": chosen["operators"],
        "evaluations": chosen["evaluations"],
        **made.summary(),
    }


def _plain_int8(model: Path, data: str, out: Path, source: float) -> dict[str, Any]:
    """Static int8 on the test set, from the file that the quantizer gives: `build` refuses the rescaled network's,
    since XNNPACK and the reference kernels differ by more than rounding allows (`cosine` of their outputs).

    source: the float model's accuracy.
    """
    import numpy as np

    from edgecompile import compare
    from edgecompile import data as tasks
    from edgecompile.backends.litert import REFERENCE, XNNPACK, LiteRtRunner

    out.mkdir(parents=True, exist_ok=True)
    task = tasks.load(tasks.resolve(data))
    file = _quantized(model, task, out)
    assert task.test is not None
    assert task.test.y is not None
    x = {spec.name: task.test.x[""].astype(np.float32) for spec in file.signature.inputs}
    runners = (LiteRtRunner(file.model, kernels, threads=2) for kernels in (XNNPACK, REFERENCE))
    given, reference = (next(iter(runner.run_real(x).values())) for runner in runners)
    test = float((given.argmax(-1) == task.test.y[""]).mean())
    return {"test": test, "drop": 100 * (source - test), "cosine": compare.cosine(given, reference)}


def _quantized(model: Path, task: Task, out: Path) -> Artifact:
    """What recipe int8 makes of the tf-keras model before `build` looks at it."""
    import tf_keras

    from edgecompile.artifact import KERAS, Artifact, Signature, TensorInfo
    from edgecompile.loaders.base import LoadOptions
    from edgecompile.stages.base import Context
    from edgecompile.stages.convert import Convert
    from edgecompile.stages.quantize import Quantize

    whole = tf_keras.models.load_model(model, compile=False)
    ends = [(whole.input_names, whole.input_shape), (whole.output_names, whole.output_shape)]
    inputs, outputs = ((TensorInfo(names[0], (1, *shape[1:]), "float32"),) for names, shape in ends)
    artifact = Artifact(KERAS, {"model": model}, Signature(inputs, outputs))
    for stage in (Convert(), Quantize("static_wi8_ai8")):
        folder = out / stage.name
        folder.mkdir(exist_ok=True)
        ctx = Context(folder, folder, task, "float", LoadOptions(), networks.SEED, None, None, lambda _: None)
        done = stage.run(artifact, ctx)
        artifact = Artifact(done.kind, done.files, done.signature)
    return artifact


ROWS = {
    "mixed-mobilenet": Row("MobileNetV2, channels rescaled: mixed precision against plain int8", _rescaled),
    "mixed-units": Row("measurements in their own units, trained here: mixed precision against plain int8", _units),
}
