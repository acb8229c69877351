"""Rows built as a user builds them, with all engines."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from compression_rows.common import Build, build, data_folder, facts

import edgecompile.ondevice.runner as runner
from edgecompile import data as datasets
from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.base import Candidate
from edgecompile.backends.tvm import LIBRARY, REFERENCE_LIBRARY, role
from edgecompile.backends.tvm.isa import INSTRUCTION_SETS, InstructionSet, best
from edgecompile.loaders.base import LoadOptions
from edgecompile.stages.base import Context
from edgecompile.stages.compile_tvm import CompileTvm
from edgecompile.stages.evaluate import on_test_set
from edgecompile.tflite_file import read
from engine_rows.measuring import TVM, Prepared, outputs
from engine_rows.networks import MODELS, PRECISIONS, QUANTIZED


def prepared(model: str, precision: str, threads: int, out: Path, instructions: str | None = None) -> Prepared:
    """A row whose bundle is in `out`. instructions: TVM's libraries are for a machine that has these, not for this one,
    and come with what they should give."""
    there = next((each for each in INSTRUCTION_SETS if each.name == instructions), None)
    if instructions is not None and there is None:
        raise SystemExit(f"--for takes {', '.join(each.name for each in INSTRUCTION_SETS)}, received {instructions}")
    source, *options = (data_folder() / MODELS[model][0], "--data", MODELS[model][1])
    recipe = PRECISIONS[precision]
    if model == "mobilenet-v1-224":
        source, *options = random_mobilenet(out.parent)
    if precision == "int8" and model in QUANTIZED:
        source, recipe = data_folder() / QUANTIZED[model], "float"
    made = build(
        source, recipe, out, "--target", "host", "--backends", "litert,onnx,openvino,tvm",
        "--threads", str(threads), "--max-drop", "off", *options,
    )  # fmt: skip
    passed = [each for each in made.manifest["candidates"] if each["passed"]]
    if TVM not in {each["id"] for each in passed}:
        raise SystemExit(f"tvm was left out: {made.manifest['gates'][0]}")
    inputs = out.with_name(f"{out.name}-inputs.npz")
    golden = runner.load_inputs(out / "golden.npz")
    runner.save_arrays(inputs, {k[len("inputs/") :]: a for k, a in golden.items() if k.startswith("inputs/")})
    candidates = tuple(
        {
            "id": each["id"], "engine": each["backend"], "model": str((out / each["file"]).absolute()),
            **each["config"], "threads": threads,
        }
        for each in passed
    )  # fmt: skip
    row = Prepared(threads, candidates, inputs, _known(f"{model}-{precision}-{threads}", made, passed), {}, {})
    isa = there or best(runner.machine(), runner.cpu_features(Path("/proc")))
    if there is not None:
        row = _elsewhere(row, out, there)
    else:
        scores = accuracies(out, made.manifest, passed)
        told = {name: {**known, "accuracy": scores.get(name)} for name, known in row.known["candidates"].items()}
        row = replace(row, known={**row.known, "candidates": told})
    if isa is not None and isa.tiles and precision == "int8":  # no code for floats has tiles
        plain = best(isa.arch, [need for need in isa.needs if not need.startswith("amx")])
        assert plain is not None
        row = replace(row, without_amx=libraries(out, plain, threads)[0])
    return row


def _known(name: str, made: Build, passed: list[Mapping[str, Any]]) -> dict[str, Any]:
    tested: Mapping[str, Any] = next(
        (r["metrics"] for r in reversed(made.manifest["history"]) if r["stage"] == "test"), {}
    )
    return {
        "row": name,
        **facts(),
        "candidates": {each["id"]: {"bytes": each["bytes"], "parity": each["parity"]} for each in passed},
        "left_out": [each["id"] for each in made.manifest["candidates"] if not each["passed"]],
        "winner": made.manifest["winner"]["id"],
        "tvm_build": {each["id"]: each["compiled"] for each in passed if each["compiled"]},
        "accuracy": {key: tested.get(key) for key in ("metric", "value", "samples")} if tested else None,
        "command": " ".join(made.command),
    }


def _elsewhere(row: Prepared, out: Path, isa: InstructionSet) -> Prepared:
    """With TVM's libraries for another machine; of all gates only the parity of this machine's code was seen here."""
    names = [each["id"] for each in row.candidates if each["engine"] == TVM]
    expected = {name: out.with_name(f"{out.name}-{name}.npz") for name in names}
    for name, path in expected.items():
        outputs(row, name, path)
    files, compiled = libraries(out, isa, row.threads)
    candidates = tuple(
        {**each, "model": str(files[each["id"]]), "instructions": isa.name, "needs": isa.features}
        if each["id"] in files
        else each
        for each in row.candidates
    )
    told = {
        name: {**known, **({"bytes": files[name].stat().st_size, "parity": None} if name in files else {})}
        for name, known in row.known["candidates"].items()
    }
    known = {
        **{key: value for key, value in row.known.items() if key != "packages"},
        "candidates": told, "winner": None, "accuracy": None, "tvm_build": compiled, "instructions": isa.name,
        "built_on": row.known["cpu"], "built_with": row.known["packages"],
    }  # fmt: skip
    return replace(row, candidates=candidates, known=known, expected=expected)


def accuracies(out: Path, manifest: Mapping[str, Any], candidates: list[Mapping[str, Any]]) -> dict[str, float]:
    """{candidate: the metric on the whole test set}, empty where there is none."""
    facts = manifest["data"]
    if not facts or not facts["metric"]:
        return {}
    source, signature = datasets.resolve(facts["source"]), read(out / "model.tflite").signature
    task = datasets.load(source, datasets.expected(signature))
    if task.test is None or task.test.y is None:
        return {}
    found = {}
    for each in candidates:
        candidate = Candidate(each["id"], each["backend"], out / each["file"], each["threads"], each["config"])
        metric, labels, x, outputs = on_test_set(candidate, task, signature, lambda _: None)
        found[each["id"]] = round(metric.score(labels, outputs, x), 6)
    return found


def libraries(out: Path, isa: InstructionSet, threads: int) -> tuple[dict[str, Path], dict[str, Any]]:
    """({candidate: TVM's library of the bundle's model, for these instructions}, {candidate: what compiling took})"""
    model = out / "model.tflite"
    folder = out.with_name(f"{out.name}-{isa.name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    context = Context(folder, folder, None, "float", LoadOptions(), 0, None, None, lambda _: None)
    made = CompileTvm.now((isa,), threads).run(Artifact(TFLITE, {"model": model}, read(model).signature), context)
    names = {role(name, threads): name for name in (LIBRARY, REFERENCE_LIBRARY)}
    files = {names[file]: path for file, path in made.files.items()}
    return files, {names[file]: metrics for file, metrics in made.metrics.items()}


def random_mobilenet(folder: Path) -> tuple[Any, ...]:
    """(MobileNetV1 at 224x224 with random weights, and the options for it): its activations are kept in a usual range
    by BatchNorm statistics of random images, and without a softmax, which would make 0 or 1 of 256 steps of them."""
    path, data = folder / "mobilenet_v1_224.keras", folder / "random_images.npz"
    if not (path.exists() and data.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        import keras

        keras.utils.set_random_seed(0)
        model = keras.applications.MobileNet(weights=None, input_shape=(224, 224, 3), classifier_activation=None)
        images = np.random.default_rng(0).random((120, 224, 224, 3), np.float32)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        model(images[:16], training=True)
        model.save(path)
        np.savez(data, x=images)
    return path, "--data", str(data)
