"""Distillation: the student comes nearer to its teacher, also where it has other layers and fewer channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import run_cli

from edgecompile.artifact import TensorInfo
from edgecompile.errors import ModelError, RecipeError
from edgecompile.loaders.base import LoadOptions
from edgecompile.metrics import accuracy
from edgecompile.stages.base import Context
from edgecompile.task import AUTOENCODER, CLASSIFICATION, Split, Task
from edgecompile.training import Distillation, Schedule, Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 6, 6, 2)).astype(np.float32)
NOISE = RNG.integers(0, 3, 200)  # labels that say nothing: all there is to learn comes from the teacher


def network(filters: int, seed: int, activation: str | None = "softmax", classes: int = 3, sure: float = 1) -> Any:
    """sure: what the last kernel is multiplied by."""
    import tf_keras
    from tf_keras import layers

    start = tf_keras.initializers.GlorotUniform(seed=seed)
    inputs = layers.Input((6, 6, 2))
    x = layers.Conv2D(filters, 3, activation="relu", kernel_initializer=start, name="conv")(inputs)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    last = layers.Dense(classes, activation, kernel_initializer=start, name="scores")
    model = tf_keras.Model(inputs, last(x))
    last.kernel.assign(last.kernel * sure)
    return model


def learn(
    student: Any, teacher: Any, config: Distillation | None, work: Path, epochs: int, precision: str
) -> list[float]:
    """Train on X and its meaningless labels, and give the losses of the epochs."""
    split = Split({"": X}, {"": NOISE})
    task = Task("t", CLASSIFICATION, split, split, accuracy, fingerprint="t")
    work.mkdir(exist_ok=True)
    ctx = Context(work, work, task, "float", LoadOptions(), 0, None, None, lambda _: None)
    inputs = (TensorInfo("in", (-1, 6, 6, 2), "float32"),)
    outputs = (TensorInfo("out", tuple(d or -1 for d in student.output_shape), "float32"),)
    schedule = Schedule(epochs, 1e-2, 32, distillation=config, precision=precision)
    return Trainer(student, inputs, outputs, task, schedule, ctx, teacher=teacher).run().losses


def distil(student: Any, teacher: Any, config: Distillation | None, work: Path, epochs: int = 60) -> float:
    """Train, and give the distance of the student's outputs to the teacher's."""
    learn(student, teacher, config, work, epochs, "float32")
    return float(np.abs(probabilities(student) - probabilities(teacher)).mean())


def probabilities(model: Any) -> np.ndarray:
    """What the model says of X: logits may differ by a constant and say the same."""
    scores = model.predict_on_batch(X)
    if model.layers[-1].activation.__name__ == "softmax":
        return np.asarray(scores)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


@pytest.mark.parametrize("activation", ["softmax", None], ids=["probabilities", "logits"])
def test_a_student_follows_its_teacher_where_labels_say_nothing(tmp_path: Path, activation: str | None) -> None:
    teacher = network(8, 1, activation)
    alone = distil(network(8, 2, activation), teacher, None, tmp_path / "alone")
    taught = distil(network(8, 2, activation), teacher, Distillation(weight=1.0), tmp_path / "taught")
    assert taught < alone / 2
    assert taught < 0.05


def test_the_distance_to_a_teacher_is_the_same_in_bfloat16(tmp_path: Path) -> None:
    """A softmax in bfloat16 doesn't add up to 1, and probabilities taken for logits say next to nothing."""
    losses = []
    for precision in ("float32", "bfloat16"):
        teacher, student = network(16, 1, classes=40, sure=40), network(16, 2, classes=40)
        losses.append(learn(student, teacher, Distillation(weight=1.0), tmp_path / precision, 1, precision)[0])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_what_a_sure_student_gives_next_to_nothing_is_learnt_too(tmp_path: Path) -> None:
    teacher, student = network(8, 1), network(8, 2, sure=400)
    losses = learn(student, teacher, Distillation(weight=1.0, temperature=1.0), tmp_path / "work", 60, "float32")
    assert losses[-1] < losses[0] / 20


def test_mixtures_of_samples_teach_too(tmp_path: Path) -> None:
    teacher = network(8, 1)
    mixed = distil(network(8, 2), teacher, Distillation(weight=1.0, mixup=True), tmp_path / "mixed")
    assert mixed < distil(network(8, 2), teacher, None, tmp_path / "alone") / 2


def test_mixtures_need_numbers_that_can_be_mixed(tmp_path: Path) -> None:
    import tf_keras
    from tf_keras import layers

    from edgecompile.errors import DataError

    words = tf_keras.Sequential(
        [layers.Input((5,), dtype="int32"), layers.Embedding(9, 4), layers.Flatten(), layers.Dense(3)]
    )
    x = RNG.integers(0, 9, (40, 5)).astype(np.int32)
    split = Split({"": x}, {"": np.arange(40) % 3})
    task = Task("t", CLASSIFICATION, split, split, accuracy, fingerprint="t")
    ctx = Context(tmp_path, tmp_path, task, "float", LoadOptions(), 0, None, None, lambda _: None)
    schedule = Schedule(1, 1e-2, 32, distillation=Distillation(weight=1.0, mixup=True))
    specs = (TensorInfo("in", (-1, 5), "int32"),), (TensorInfo("out", (-1, 3), "float32"),)
    with pytest.raises(DataError, match="mixup needs floating point inputs"):
        Trainer(words, *specs, task, schedule, ctx, teacher=words).run()


def test_attention_of_a_narrower_student_comes_nearer(tmp_path: Path) -> None:
    import tf_keras

    teacher = network(8, 1)

    def attention(model: Any) -> np.ndarray:
        maps = tf_keras.Model(model.inputs, model.get_layer("conv").output).predict_on_batch(X)
        energy = (maps**2).mean(-1).reshape(len(X), -1)
        return energy / np.linalg.norm(energy, axis=1, keepdims=True)

    def distance(features: float) -> float:
        student = network(4, 2)
        distil(student, teacher, Distillation(weight=0.5, features=features), tmp_path / f"f{features}", epochs=20)
        return float(((attention(student) - attention(teacher)) ** 2).sum(1).mean())

    assert distance(10.0) < distance(0.0) * 0.8


def test_layers_that_one_of_both_lacks_are_named(tmp_path: Path) -> None:
    config = Distillation(features=1.0, layers=("convolution",))
    with pytest.raises(RecipeError, match="the teacher has no layer 'convolution'"):
        distil(network(4, 2), network(8, 1), config, tmp_path, epochs=1)


def test_a_teacher_of_another_task_is_refused(tmp_path: Path) -> None:
    import tf_keras
    from tf_keras import layers

    other = tf_keras.Sequential([layers.Input((6, 6, 2)), layers.Flatten(), layers.Dense(5)])
    with pytest.raises(ModelError, match=r"teacher's outputs have shapes \[\(None, 5\)\]"):
        distil(network(4, 2), other, Distillation(), tmp_path, epochs=1)


def test_an_autoencoder_learns_what_its_teacher_gives_back(tmp_path: Path) -> None:
    import tf_keras
    from tf_keras import layers

    def autoencoder(seed: int) -> Any:
        start = tf_keras.initializers.GlorotUniform(seed=seed)
        return tf_keras.Sequential([layers.Input((4,)), layers.Dense(4, kernel_initializer=start)])

    x = RNG.normal(size=(100, 4)).astype(np.float32)
    task = Task("t", AUTOENCODER, Split({"": x}), None, None, fingerprint="t")
    ctx = Context(tmp_path, tmp_path, task, "float", LoadOptions(), 0, None, None, lambda _: None)
    spec = (TensorInfo("in", (-1, 4), "float32"),), (TensorInfo("out", (-1, 4), "float32"),)
    teacher, student = autoencoder(1), autoencoder(2)
    schedule = Schedule(250, 3e-2, 32, distillation=Distillation(weight=1.0))
    Trainer(student, *spec, task, schedule, ctx, teacher=teacher).run()
    np.testing.assert_allclose(student.predict_on_batch(x), teacher.predict_on_batch(x), atol=0.05)


RECIPE = """[[steps]]
stage = "qat"
epochs = 1
[steps.distillation]
weight = 0.7
features = 1.0
[[steps]]
stage = "convert"
"""


def test_a_recipe_distils_from_the_model_itself_or_from_another(tmp_path: Path, two_inputs: Path) -> None:
    (tmp_path / "d.toml").write_text(RECIPE)
    common = ("--recipe", "d.toml", "--max-drop", "off", "--out", "b")
    done = run_cli("build", "digits", *common, cwd=tmp_path)
    assert done.code == 0, done.err
    # A Keras 3 model is bridged first, and its bridged form teaches: the layers have the same names.
    done = run_cli("build", two_inputs / "two.keras", "--data", two_inputs / "two.npz", *common, cwd=tmp_path)
    assert done.code == 0, done.err
    data = ("--data", two_inputs / "two.npz", "--teacher", two_inputs / "two.keras")
    done = run_cli("build", two_inputs / "two.keras", *data, *common, cwd=tmp_path)
    assert done.code == 0, done.err
    done = run_cli("build", two_inputs / "two.keras", *data, "--recipe", "int8", cwd=tmp_path)
    assert done.code == RecipeError.exit_code
    assert "no step that distils" in done.err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("weight = 0.0", "weight is 0.0"),
        ("temperature = -1.0", "temperature"),
        ("mixup = true", "mixtures have no labels"),
        ('layers = ["a"]', "features = 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, line: str, says: str) -> None:
    text = f'[[steps]]\nstage = "qat"\n[steps.distillation]\n{line}\n[[steps]]\nstage = "convert"\n'
    (tmp_path / "d.toml").write_text(text)
    done = run_cli("build", "digits", "--recipe", "d.toml", "--dry-run", cwd=tmp_path)
    assert done.code == RecipeError.exit_code
    assert says in done.err
