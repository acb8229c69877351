"""Candidates that are judged by what a board makes of them, and those whose engine is built there: from one graph to an
engine, and whether it computes what it should.

Without a board such a candidate, or the graph, checked by another runtime, is in the bundle, never measured nor chosen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgecompile import compare, golden
from edgecompile.artifact import KERAS, KERAS3, SAVED_MODEL, Artifact, sha256_file, sha256_json
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate
from edgecompile.backends.tensorrt import FP16, GRAPHS, INT8
from edgecompile.backends.tensorrt.engine import Built, build, by_hand
from edgecompile.cache import SHA256, writing
from edgecompile.compression import as_float_tflite
from edgecompile.devices.base import Device
from edgecompile.devices.benchmark import outputs
from edgecompile.errors import DeviceError, ProvisioningError
from edgecompile.job import Job, Settings
from edgecompile.ondevice import runner
from edgecompile.ondevice.runner import load_inputs, save_arrays
from edgecompile.session import Session
from edgecompile.stages.base import Progress
from edgecompile.stages.evaluate import distance
from edgecompile.stages.onnx_form import EXPECTED, GRAPH, OnnxForm, OnnxInt8, tools
from edgecompile.task import Arrays
from edgecompile.tflite_file import read
from edgecompile.tflite_file.graph import WEIGHTS

_FLOAT = (KERAS, KERAS3, SAVED_MODEL)


@dataclass(frozen=True)
class Engines:
    """candidates: as they are measured and packaged, all there were in their order. graphs: {id: the file that it is
    built from}; checked: of these, verdicts as those of stage `verify`. verdicts, distances: of engines built now.
    built: {id: how it came to be}.
    """

    candidates: tuple[Candidate, ...]
    graphs: Mapping[str, Path] = field(default_factory=dict)
    checked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    verdicts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    distances: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    built: Mapping[str, Built] = field(default_factory=dict)

    @property
    def integer_graphs(self) -> list[Candidate]:
        """What engines in integers would be built from and weren't: nothing but the metric says how good these are."""
        return [
            c
            for c in self.candidates
            if c.id in self.graphs and c.id not in self.built and c.config["precision"] == INT8
        ]


def needed(backends: Sequence[str]) -> bool:
    return any(BACKENDS[name].on_board for name in backends)


def graphs(
    source: Artifact, steps: Sequence[Artifact], settings: Settings, session: Session, *, calibrated: bool
) -> dict[str, Artifact]:
    """{precision: the graph that its engine is built from, as ONNX, with the outputs that it shall give}.

    Of the compressed model's last float form, or of a .tflite that was given as it is. int8 is there where the .tflite
    computes in int8 too, if there is data to find ranges with (`calibrated`).
    """
    last = next((made for made in (*reversed(steps), source) if made.kind in _FLOAT), None)
    model = source if last is None else as_float_tflite(last, settings, session)
    found = {FP16: session.run(Job(OnnxForm(tools()), model, settings))}
    if calibrated and last is not None and steps and _computes_in_int8(steps[-1].model):
        session.total += 1
        found[INT8] = session.run(Job(OnnxInt8(tools()), found[FP16], settings))
    return found


def judged_there(candidate: Candidate) -> bool:
    """Whether a board that is named gives the outputs that it is judged by: it runs nowhere else, or its engine is a
    package, of another version or with other kernels than here."""
    return candidate.backend in runner.PACKAGES or not BACKENDS[candidate.backend].runs_here(candidate)


def golden_outputs(
    candidates: Sequence[Candidate],
    device: Device | None,
    optional: Collection[str],
    baseline: Artifact,
    session: Session,
) -> tuple[dict[str, Path], dict[str, str]]:
    """({id: an .npz of {output: [n, ...]}} of golden inputs, of what is judged there; {backend: why it is left out}).

    optional: backends whose engine, where it is a package, may fail there. Without a board both are empty: then it is
    said which candidates nothing is known of.
    """
    theirs = [c for c in candidates if not BACKENDS[c.backend].on_board and judged_there(c)]
    if device is None:
        for candidate in (c for c in theirs if not BACKENDS[c.backend].runs_here(c)):
            session.display.line(
                f"{candidate.id}: compiled for another processor than this one, and no board was named (--on): it is "
                "neither checked nor measured, and not chosen"
            )
        return {}, {}
    key = baseline.history[-1].key

    def inputs() -> Arrays:
        found: Arrays = golden.read(baseline.files["golden"], golden.INPUTS)[golden.INPUTS]
        return found

    found: dict[str, Path] = {}
    failed: dict[str, str] = {}
    for candidate in theirs:
        try:
            found[candidate.id] = kept_outputs(device, candidate, key, inputs, session)
        except (DeviceError, ProvisioningError) as problem:
            if candidate.backend not in runner.PACKAGES or candidate.backend not in optional:
                raise
            failed[candidate.backend] = problem.message.splitlines()[0].rstrip(":")
            session.display.line(f"{candidate.backend} left out: {problem.message}")
    return found, failed


def files(forms: Mapping[str, Artifact]) -> dict[str, Path]:
    """The graphs by the roles that the backend looks for."""
    return {GRAPHS[precision]: form.files[GRAPH] for precision, form in forms.items()}


def _computes_in_int8(model: Path) -> bool:
    """Whether some operator with a kernel has int8 activations: weights alone are no reason for integers elsewhere."""
    file = read(model)
    return any(
        operator.name in WEIGHTS and file.main.tensors[operator.outputs[0]].dtype == "int8"
        for operator in file.main.operators
    )


def engines(
    candidates: Sequence[Candidate],
    forms: Mapping[str, Artifact],
    device: Device | None,
    baseline: Artifact,
    session: Session,
    *,
    again: bool = False,
) -> Engines:
    """forms: `graphs`. device: None where there is no board. again: build them even where they are known.

    Errors: those of building, and of the runner there.
    """
    theirs = [c for c in candidates if BACKENDS[c.backend].on_board]
    if not theirs:
        return Engines(tuple(candidates))
    graphs = {c.id: c.model for c in theirs}
    form = {c.id: forms[c.config["precision"]] for c in theirs}
    checked = {name: made.history[-1].metrics["parity"] for name, made in form.items()}
    if device is None:
        return Engines(tuple(candidates), graphs, checked)
    session.announce("engine")
    stored = golden.read(baseline.files["golden"])
    ready, verdicts, distances, told = {}, {}, {}, {}
    for candidate in theirs:
        expected = load_inputs(form[candidate.id].files[EXPECTED])
        made = build(candidate, device, session.cache, session.display.progress, again=again)
        session.cached += made.cached
        session.ran += not made.cached
        ready[candidate.id] = made.candidate
        given = load_inputs(
            kept_outputs(device, made.candidate, baseline.history[-1].key, lambda: stored[golden.INPUTS], session)
        )
        found = {name: compare.half_parity(given[name], array) for name, array in expected.items()}
        verdicts[candidate.id] = {name: asdict(verdict) for name, verdict in found.items()}
        if all(verdict.passed for verdict in found.values()):
            distances[candidate.id] = {name: distance(given[name], stored[golden.FLOAT][name]) for name in expected}
        told[candidate.id] = made
        median = made.figures[0]
        session.display.line(
            f"{candidate.id}: built by TensorRT {made.version or 'of unknown version'}; trtexec's own median is "
            f"{median.value:.3f} ms ({median.label}, {median.date})"
        )
    return Engines(tuple(ready.get(c.id, c) for c in candidates), graphs, checked, verdicts, distances, told)


def kept_outputs(device: Device, candidate: Candidate, of: str, x: Callable[[], Arrays], session: Session) -> Path:
    """An .npz with {output: [n, ...]} by the engine on the board, made once. of: what tells `x` from other samples."""
    facts = device.facts()
    engine, program = sha256_file(candidate.model), sha256_file(Path(runner.__file__))
    version, variant = candidate.config.get("version"), candidate.config.get("variant")
    key = sha256_json([facts.identity, facts.label, engine, version, variant, program, of])[:32]
    path = session.cache.root / "measurements" / f"{key}.npz"
    told = path.with_suffix(".sha256")
    if not session.cache.is_whole(path, session.cache.kept(told)):
        name = f"{candidate.id} there"
        given = outputs(
            device, candidate.job(), x(), lambda done, total: session.display.progress(Progress(name, done, total))
        )
        part = path.with_suffix(f".{os.getpid()}.tmp")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_arrays(part, given)
            part.replace(path)
        session.cache.keep(told, {SHA256: sha256_file(path)})
    os.utime(path)  # what `cache prune` goes by
    return path


def instructions(made: Engines, out: Path) -> list[str]:
    """What a person does to finish on a board what was begun here, for the bundle at `out`."""
    lines = []
    for candidate in made.candidates:
        if candidate.id in made.graphs and candidate.id not in made.built:
            file = str(out / "candidates" / f"{candidate.id}.onnx")
            lines += by_hand(file, str(candidate.config["precision"]))
    return lines
