"""Bad input of every kind: a clear message, its own exit code, no traceback, and the old bundle untouched."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import Run, digest, run_cli, run_until

from edgecompile import errors


@dataclass(frozen=True)
class World:
    """A folder with the bundle `out`, a good Keras 3 model two.keras and its data two.npz, and small other files."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def world(two_inputs: Path, digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(digits_bundle, folder / "out")
    for file in two_inputs.iterdir():
        shutil.copy(file, folder)
    (folder / "crashy.py").write_text(CRASHY)
    _small_models(folder)
    _data_files(folder)
    return World(folder)


CRASHY = '''
import inspect, os, signal
import tf_keras

class Crash(tf_keras.layers.Layer):
    """Dies of SIGSEGV when the converter traces it, as native code would."""
    def call(self, x):
        if any(frame.function == "convert" for frame in inspect.stack()):
            os.kill(os.getpid(), signal.SIGSEGV)
        return x
'''


def _small_models(folder: Path) -> None:
    import keras
    import tensorflow as tf
    import tf_keras

    x = tf_keras.Input((8, 8, 1), name="image")
    h = tf_keras.layers.Flatten(name="flatten")(x)
    good = tf_keras.Model(x, tf_keras.layers.Dense(10, activation="softmax", name="scores")(h), name="good")
    good.save(folder / "good.h5")
    broken = tf_keras.models.clone_model(good)
    weights = good.get_weights()
    weights[0][0, 0] = np.nan
    broken.set_weights(weights)
    broken.save(folder / "nan.keras")
    huge = tf_keras.models.clone_model(good)
    huge.set_weights([np.full_like(w, 3e38) for w in good.get_weights()])
    huge.save(folder / "overflow.keras")

    x3 = keras.Input((4,), name="x")
    keras.Model(x3, keras.layers.Lambda(lambda t: t * 2)(x3)).save(folder / "lambda.keras")
    x = tf_keras.Input((3, 3), name="x")
    tf_keras.Model(x, tf.linalg.inv(x)).save(folder / "inverse.keras")
    _crashing_model(folder)
    for name in ("two.keras", "good.h5"):
        content = (folder / name).read_bytes()
        (folder / f"cut-{name}").write_bytes(content[: len(content) * 2 // 3])
    tflite = (folder / "out" / "model.tflite").read_bytes()
    (folder / "cut.tflite").write_bytes(tflite[: len(tflite) // 2])
    (folder / "empty.keras").write_bytes(b"")
    (folder / "dimension.tflite").write_bytes(changed(tflite, _bad_dimension))
    (folder / "index.tflite").write_bytes(changed(tflite, _bad_index))


def _crashing_model(folder: Path) -> None:
    import tf_keras

    scope: dict[str, Any] = {}
    exec(CRASHY, scope)
    x = tf_keras.Input((4,), name="x")
    h = scope["Crash"](name="crash")(tf_keras.layers.Dense(4, name="first")(x))
    tf_keras.Model(x, tf_keras.layers.Dense(2, name="last")(h)).save(folder / "crash.keras")


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    """The .tflite with `change` made to its tables."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _bad_dimension(model: Any) -> None:
    found = [t.quantization for t in model.subgraphs[0].tensors if t.quantization and t.quantization.scale is not None]
    next(q for q in found if len(q.scale) > 1).quantizedDimension = 9


def _bad_index(model: Any) -> None:
    operator = model.subgraphs[0].operators[0]
    operator.inputs = np.array([9999, *operator.inputs[1:]], np.int32)


def _data_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 8, 8, 1), dtype=np.float32), np.arange(40) % 10
    good = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}

    def save(name: str, **arrays: Any) -> None:
        np.savez(folder / name, **arrays)

    save("good.npz", **good)
    save("keys.npz", x_trian=x, y_train=y, x_test=x, y_test=y)
    save("labels.npz", **{**good, "y_train": np.where(y == 3, 12, y)})
    save("shape.npz", **{**good, "x_train": x[:, :7], "x_test": x[:, :7]})
    nan = x.copy()
    nan[3, 1, 1] = np.nan
    save("nan.npz", **{**good, "x_train": nan})
    save("unlabelled.npz", x=x)
    (folder / "starve.toml").write_text(
        'summary = "x"\n[[steps]]\nstage = "prune"\nsparsity = 0.97\nepochs = 1\n[[steps]]\nstage = "convert"\n'
    )
    (folder / "recipe.toml").write_text('summary = "x"\n[[steps]]\nstage = "prune"\nsparsty = 0.5\n')
    (folder / "range.toml").write_text('summary = "x"\n[[steps]]\nstage = "prune"\nsparsity = 1.5\n')
    target = (Path(__file__).parent.parent / "targets" / "rpi4.toml").read_text()
    (folder / "mine.toml").write_text(target.replace('id = "rpi4"', 'id = "mine"').replace("mcpu", "mcppu"))


@dataclass(frozen=True)
class Case:
    """`arguments` of build, in the world's folder; the error class, and words its message must have."""

    name: str
    arguments: str
    error: type[errors.EdgecompileError]
    words: tuple[str, ...]


CASES = [
    Case("missing file", "absent.keras", errors.ModelError, ("absent.keras", "no such file")),
    Case("misspelt built-in", "digit", errors.ModelError, ("perhaps you meant 'digits'",)),
    Case("cut .keras", "cut-two.keras", errors.ModelError, ("cut-two.keras", "damaged or cut short")),
    Case("cut .h5", "cut-good.h5", errors.ModelError, ("cut-good.h5", "damaged or cut short")),
    Case("cut .tflite", "cut.tflite", errors.ModelError, ("cut.tflite",)),
    Case("empty file", "empty.keras", errors.ModelError, ("empty.keras", "empty")),
    Case("quantized dimension", "dimension.tflite --recipe float", errors.ModelError, ("dimension",)),
    Case("tensor index", "index.tflite --recipe float", errors.ModelError, ("9999",)),
    Case("npz keys", "good.h5 --data keys.npz", errors.DataError, ("x_trian", "x_train")),
    Case("labels out of range", "good.h5 --data labels.npz", errors.DataError, ("12", "10")),
    Case("shape mismatch", "good.h5 --data shape.npz", errors.DataError, ("[8, 8, 1]", "[7, 8, 1]")),
    Case("NaN in data", "good.h5 --data nan.npz", errors.DataError, ("x_train", "NaN")),
    Case("unknown target", "good.h5 --target rpi-4", errors.TargetError, ("perhaps you meant 'rpi4'",)),
    Case("unknown key in target", "good.h5 --target mine.toml", errors.TargetError, ("perhaps you meant 'mcpu'",)),
    Case("unknown recipe", "good.h5 --recipe qta", errors.RecipeError, ("perhaps you meant 'qat'",)),
    Case(
        "unknown key in recipe", "good.h5 --recipe recipe.toml", errors.RecipeError, ("perhaps you meant 'sparsity'",)
    ),
    Case(
        "setting out of range",
        "good.h5 --recipe range.toml",
        errors.RecipeError,
        ("sparsity is 1.5", "between 0 and 1"),
    ),
    Case("recipe without data", "good.h5 --recipe qat", errors.RecipeError, ("no data was given",)),
    Case("trained .tflite", "out/model.tflite --data good.npz --recipe qat", errors.RecipeError, ("tflite", "qat")),
    Case("quantized twice", "out/model.tflite --recipe dynamic", errors.RecipeError, ("quantized already",)),
    Case("int8 I/O of a float model", "good.h5 --recipe float --io int8", errors.RecipeError, ("--io int8",)),
    Case("output is a file", "good.h5 --recipe float --out good.npz", errors.OutputError, ("good.npz",)),
    Case("output below a file", "good.h5 --recipe float --out good.npz/x", errors.OutputError, ("good.npz/x",)),
    Case("output is a foreign folder", "good.h5 --recipe float --out .", errors.OutputError, ("not a bundle",)),
    Case("Lambda", "lambda.keras --recipe float", errors.UnsafeModelError, ("--allow-unsafe",)),
    Case("custom layer", "crash.keras --recipe float", errors.UnsupportedLayerError, ("Crash", "--custom")),
    Case("operator TFLite lacks", "inverse.keras --recipe float", errors.ConversionError, ("MatrixInverse",)),
    Case("NaN weights", "nan.keras --recipe float", errors.NonFiniteError, ("scores", "NaN")),
    Case("infinite outputs", "overflow.keras --recipe float", errors.NonFiniteError, ("outputs",)),
    Case("drop without labels", "good.h5 --data unlabelled.npz --max-drop 1%", errors.DataError, ("labels",)),
    Case("drop without data", "good.h5 --max-drop 1%", errors.DataError, ("labels",)),
    Case("no device for latency", "good.h5 --target rpi4 --max-latency 5ms", errors.LatencyGateError, ("rpi4",)),
    Case(
        "accuracy gate",
        "two.keras --data two.npz --recipe starve.toml",
        errors.AccuracyGateError,
        ("accuracy", "allowed 2 points"),
    ),
    Case("size gate", "good.h5 --recipe float --max-size 1KiB", errors.SizeGateError, ("1024 B",)),
    Case("latency gate", "good.h5 --recipe float --max-latency 0.001us", errors.LatencyGateError, ("p50",)),
    Case(
        "budget", "good.h5 --data good.npz --recipe qat --budget-minutes 0.000001", errors.BudgetError, ("one epoch",)
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_bad_input(case: Case, world: World) -> None:
    before = digest(world / "out")
    arguments = case.arguments.split()
    if "--out" not in arguments:
        arguments += ["--out", "out"]
    done = run_cli("build", *arguments, cwd=world.folder)
    check(done, case.error, *case.words)
    assert digest(world / "out") == before


def check(done: Run, error: type[errors.EdgecompileError], *words: str) -> None:
    assert done.code == error.exit_code, f"expected {error.__name__}, received {done.code}:\n{done.err}"
    assert "Traceback" not in done.err
    message = done.err.split("Error: ")[-1]
    for word in words:
        assert word in message
    assert done.out == ""


def test_project_file_with_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "edgecompile.toml").write_text('model = "digits"\nmax-dorp = "1%"\n')
    check(run_cli("build", cwd=tmp_path), errors.ProjectFileError, "perhaps you meant 'max-drop'")


def test_project_file_takes_any_option_and_no_nul(tmp_path: Path) -> None:
    file = tmp_path / "edgecompile.toml"
    file.write_text('model = "digits"\njson = true\ndry-run = true\n')
    done = run_cli("build", cwd=tmp_path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["model"] == "digits"
    file.write_text('model = "digits"\nout = "a\\u0000b"\n')
    done = run_cli("build", "--dry-run", cwd=tmp_path)
    assert done.code == errors.ProjectFileError.exit_code
    assert "without NUL" in done.err


def test_project_file_of_a_wrong_type(tmp_path: Path) -> None:
    (tmp_path / "edgecompile.toml").write_text('model = "digits"\nallow-unsafe = "yes"\n')
    check(run_cli("build", cwd=tmp_path), errors.ProjectFileError, "allow_unsafe", "true or false")


def test_converter_that_crashes_is_named_with_its_layer(world: World) -> None:
    before = digest(world / "out")
    done = run_cli(
        "build", "crash.keras", "--recipe", "float", "--custom", "crashy:Crash", "--out", "out", cwd=world.folder
    )
    check(done, errors.WorkerCrashError, "SIGSEGV", "'crash' (Crash)")
    assert digest(world / "out") == before


def test_interrupt_is_130_and_says_how_to_go_on(world: World) -> None:
    before = digest(world / "out")
    arguments = ["build", "two.keras", "--data", "two.npz", "--recipe", "prune", "--out", "out"]
    done = run_until("epoch 2/", *arguments, cwd=world.folder, env={}, send=signal.SIGINT)
    assert done.code == errors.INTERRUPTED, done.err
    assert "the same command goes on" in done.err
    assert "Traceback" not in done.err
    assert digest(world / "out") == before


def test_quota(world: World, tmp_path: Path) -> None:
    """The kernel refuses to write more than 16 KiB to any file."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))

    arguments = ["build", "two.keras", "--data", "two.npz", "--recipe", "float", "--out", "out"]
    before = digest(world / "out")
    done = run_cli(*arguments, cwd=world.folder, env={"EDGECOMPILE_CACHE": str(tmp_path)}, before=limit)
    check(done, errors.DiskFullError, "no space left")
    assert digest(world / "out") == before


@pytest.mark.parametrize("what", ["cache", "out"])
def test_full_disk(world: World, full_disk: Path, what: str) -> None:
    before = digest(world / "out")
    env, out = {}, world / "out"
    if what == "cache":
        env["EDGECOMPILE_CACHE"] = str(full_disk / "cache")
    else:
        out = full_disk / "out"
        (full_disk / "ballast").write_bytes(b"x" * 40_000)
    arguments = ["build", "two.keras", "--data", "two.npz", "--recipe", "float", "--out", str(out)]
    done = run_cli(*arguments, cwd=world.folder, env=env)
    check(done, errors.DiskFullError, "no space left", "Try: free some space")
    assert digest(world / "out") == before
    if what == "out":
        assert not out.exists()
