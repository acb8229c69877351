"""The last step: everything a build found out becomes a manifest, a report and a bundle."""

from __future__ import annotations

import dataclasses
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgecompile import accounting, bundle, gates, on_board, packing, report, sparse
from edgecompile.accounting import Rung
from edgecompile.artifact import TFLITE, Artifact, StageRecord
from edgecompile.backends.base import VARIANTS, Candidate
from edgecompile.backends.variants import Variants
from edgecompile.cache import writing
from edgecompile.cautions import cautions
from edgecompile.describing import Describing
from edgecompile.devices.local import LocalDevice
from edgecompile.gates import Check
from edgecompile.inspection import inspect_tflite
from edgecompile.job import now, tool_versions
from edgecompile.manifest import MEASURED, SCHEMA_VERSION, Figure, metric_of, write_manifest
from edgecompile.measure import Measurement, engine_of
from edgecompile.on_board import Engines
from edgecompile.optimization import graph_changes
from edgecompile.request import Plan
from edgecompile.search import Found
from edgecompile.tflite_file import read

_TOLD_BY_COMPILERS = ("device", "seconds", "kernels", "arena_bytes", "weight_bytes")


@dataclass(frozen=True)
class Result:
    plan: Plan
    source: Artifact
    artifact: Artifact
    named: Artifact  # the last one whose inner tensors have names
    ladder: tuple[Rung, ...]
    errors: Artifact | None
    found: Found | None
    uncompressed: Artifact
    baseline: Artifact
    parity: Artifact
    tested: Artifact | None
    graphs_tested: Mapping[str, Artifact]
    measurement: Measurement | None
    verdicts: Mapping[str, Mapping[str, Any]]
    variants: Variants
    of_variants: Mapping[str, Mapping[str, Mapping[str, Any]]]  # verdicts, by candidate and variant
    engines: Engines
    forms: tuple[Artifact, ...]  # the files of candidates, each as its stage left it
    winner: Candidate
    why: str
    checks: tuple[Check, ...]
    describing: Describing
    float_id: str
    steps: Callable[[], list[dict[str, Any]]]  # as the display counted them, with their seconds

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return self.engines.candidates


def write(result: Result) -> dict[str, Any]:
    """Write the bundle in place of the one that may be there; its manifest."""
    manifest = _manifest(result)
    manifest["cautions"] = cautions(manifest)
    page = result.describing.attempt("its page", lambda: report.render(manifest), "")
    page = page or report.without_page(manifest)
    out = result.plan.out
    with bundle.replacing(out) as folder, writing(out):
        shutil.copyfile(result.artifact.model, folder / "model.tflite")
        shutil.copyfile(result.parity.files["golden"], folder / "golden.npz")
        names = ["model.tflite", "golden.npz", "report.html"]
        if result.plan.request.pack:
            names.append(packing.pack(folder / "model.tflite", result.plan.request.pack).name)
        for candidate in result.candidates:
            if candidate.model != result.artifact.model and _passed(candidate, result) is not False:
                own = folder / _file(candidate, result)
                own.parent.mkdir(exist_ok=True)
                shutil.copyfile(candidate.model, own)
                names.append(_file(candidate, result))
                graph = result.engines.graphs.get(candidate.id)
                if graph is not None and graph != candidate.model:
                    beside = own.with_suffix(graph.suffix)
                    shutil.copyfile(graph, beside)
                    names.append(str(beside.relative_to(folder)))
        # Names of files may hold what UTF-8 has no bytes for.
        (folder / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")
        manifest["files"] = bundle.file_facts(folder, names)
        write_manifest(folder, manifest)
    return manifest


def _manifest(result: Result) -> dict[str, Any]:
    plan = result.plan
    model = read(result.named.model)
    verified = result.parity.history[-1].metrics
    attempt, no_steps = result.describing.attempt, list[dict[str, Any]]()
    return {
        "schema": SCHEMA_VERSION,
        "edgecompile": tool_versions()["edgecompile"],
        "date": now(),
        "model": {
            "name": plan.source.name,
            "format": plan.source.kind,
            "sha256": getattr(plan.source.first, "digest", None),
            "layers": result.source.meta.get("layers", []),
        },
        "models": {"model": {"file": "model.tflite", "signature": dataclasses.asdict(result.artifact.signature)}},
        "target": {"id": plan.target.id, "name": plan.target.name, "cpu": dataclasses.asdict(plan.target.cpu)},
        "recipe": {"name": plan.recipe.name, "summary": plan.recipe.summary, "reason": plan.reason},
        "options": _options(plan),
        "data": _data(plan),
        "history": [dataclasses.asdict(record) for record in _history(result)],
        "steps": result.steps(),
        "candidates": [_candidate(c, result) for c in result.candidates],
        "winner": {
            "id": result.winner.id,
            "backend": result.winner.backend,
            "threads": result.winner.threads,
            "why": result.why,
        },
        "figures": [figure.to_json() for figure in figures(result)],
        "gates": [check.to_json() for check in result.checks],
        "distance": verified["distance"],
        "techniques": attempt(
            "what each step bought",
            lambda: accounting.table(
                result.ladder, result.measurement, result.winner.id, plan.facts.metric if plan.facts else None
            ),
            no_steps,
        ),
        "search": _search(result),
        "sparsity_note": attempt("the note on sparsity", lambda: _sparsity_note(result), None),
        "layer_errors": result.errors.history[-1].metrics if result.errors else None,
        "optimization": attempt(
            "what became of its layers",
            lambda: graph_changes(result.source.meta.get("layers", []), model),
            graph_changes([], model),
        ),
        "not_described": result.describing.left_out,
        "inspection": _inspection(result),
        "measurement": dataclasses.asdict(result.measurement) if result.measurement else None,
        "environment": {
            "machine": platform.machine(),
            "cpu": _cpu(),
            "system": platform.platform(),
            "packages": tool_versions(),
        },
        "files": {},
    }


def _sparsity_note(result: Result) -> str | None:
    """Why zeros buy no speed, where there are many and the sparse form is no candidate."""
    here = result.plan.target.local
    return sparse.why_not(read(result.artifact.model), LocalDevice().facts().details["features"] if here else ())


def _search(result: Result) -> dict[str, Any] | None:
    """What a search tried, and which it took."""
    if result.found is None:
        return None
    assert result.plan.facts is not None
    return {
        "metric": result.plan.facts.metric,
        "budget": result.found.limit,
        "prefers": list(result.plan.target.prefers) if result.plan.first else ["size"],
        "first": result.plan.first,
        "untrained": result.found.untrained or None,
        "chosen": dataclasses.asdict(result.found.chosen),
        "trials": [trial.to_json() for trial in result.found.trials],
    }


def _inspection(result: Result) -> dict[str, Any]:
    """Of the bundle's file; tensors with the names that they had before slimming, which changes no operator."""
    slim, named = inspect_tflite(result.artifact.model), inspect_tflite(result.named.model)
    found = {**named, **{key: slim[key] for key in ("size", "sizes", "metadata", "description")}}
    return {key: value for key, value in found.items() if key != "path"}


def _cpu() -> dict[str, Any]:
    """What tells one machine from another when figures are compared: verify goes by it."""
    details = LocalDevice().facts().details
    return {"model": details["cpu"], "features": details["features"]}


def _options(plan: Plan) -> dict[str, Any]:
    """What was asked for or taken by default: enough to repeat the build."""
    request = plan.request
    return {
        "io": plan.io,
        "seed": request.seed,
        "threads": plan.threads_told,
        "backends": list(plan.backends),
        "budget_minutes": request.budget_minutes,
        "pack": request.pack,
        "max_drop": plan.max_drop,
        "max_size": plan.max_size,
        "max_latency_ms": request.max_latency_ms,
        "input_shape": {name: list(shape) for name, shape in request.input_shape},
        "custom": list(request.custom),
        "allow_unsafe": request.allow_unsafe,
    }


def _data(plan: Plan) -> dict[str, Any] | None:
    if plan.data is None or plan.facts is None:
        return None
    return {"source": plan.data.spec, **dataclasses.asdict(plan.facts)}


def _history(result: Result) -> list[StageRecord]:
    """In the order in which it happened: source, baseline, compression, verification, test."""
    first, *rest = result.artifact.history
    records = [first, result.baseline.history[-1], *rest, result.parity.history[-1]]
    if result.measurement:
        records.append(result.measurement.record)
    return [*records, *([result.tested.history[-1]] if result.tested else [])]


def _candidate(candidate: Candidate, result: Result) -> dict[str, Any]:
    built = result.engines.built.get(candidate.id)
    measured = result.measurement and result.measurement.results.get(candidate.id)
    return {
        "id": candidate.id,
        "backend": candidate.backend,
        "file": _file(candidate, result),
        "bytes": candidate.model.stat().st_size,
        "threads": candidate.threads,
        "config": dict(candidate.config),
        "parity": result.verdicts.get(candidate.id) or result.engines.checked.get(candidate.id, {}),
        "variants": _variants(candidate, result),
        "passed": _passed(candidate, result),
        "built": {"tensorrt": built.version} if built else None,
        "compiled": _compiled(candidate, result),
        "latency_p50_ms": measured["p50"] if measured else None,
        "left_out": result.measurement.skipped.get(candidate.id) if result.measurement else None,
    }


def _compiled(candidate: Candidate, result: Result) -> dict[str, Any] | None:
    """What the compiler told of a library, and when and where that was: a build before this one may have made it."""
    for form in result.forms:
        record = form.history[-1]
        for role, path in form.files.items():
            if path == candidate.model and role in record.metrics:
                told = record.metrics[role]
                return {"date": record.date, **{name: told[name] for name in _TOLD_BY_COMPILERS}}
    return None


def _passed(candidate: Candidate, result: Result) -> bool | None:
    """None for an engine that wasn't built, and for what ran nowhere."""
    return gates.passed(candidate.id, result.verdicts, result.of_variants)


def _variants(candidate: Candidate, result: Result) -> list[dict[str, Any]]:
    """Each of its variants, with its parity or why it wasn't checked."""
    judged, unchecked = result.of_variants.get(candidate.id, {}), result.variants.unchecked.get(candidate.id, {})
    return [
        {"instructions": name, "parity": judged.get(name, {}), "not_checked": unchecked.get(name)}
        for name in candidate.config.get(VARIANTS, ())
    ]


def _file(candidate: Candidate, result: Result) -> str:
    """Where in the bundle the candidate's model is."""
    own = candidate.model != result.artifact.model
    return f"{bundle.CANDIDATES}/{candidate.id}{candidate.model.suffix}" if own else "model.tflite"


def figures(result: Result) -> list[Figure]:
    """Every number of the bundle, the source's beside the bundle's own."""
    found = [
        *_sizes(result.uncompressed, "source", result.plan.request.pack),
        *_sizes(result.artifact, "model", result.plan.request.pack),
        *_accuracies(result),
    ]
    if result.measurement:
        found += result.measurement.figures(result.float_id, "source")
        found += result.measurement.figures(result.winner.id, "model")
        for candidate in result.candidates:
            if candidate.id in result.measurement.results:
                found += result.measurement.figures(candidate.id, candidate.id)
    for built in result.engines.built.values():
        found += built.figures
    for candidate in result.candidates:
        found += _compilations(candidate, result)
    return found


def _compilations(candidate: Candidate, result: Result) -> list[Figure]:
    told = _compiled(candidate, result)
    if told is None:
        return []
    date, compiler = told["date"], engine_of(candidate) or ""
    sizes = {"arena_size": told["arena_bytes"], "weight_size": told["weight_bytes"]}
    return [
        Figure("compile_time", candidate.id, told["seconds"], "s", MEASURED, told["device"], date, runs=1,
               executed_on=compiler),
        *(Figure(name, candidate.id, value, "B", MEASURED, "none", date) for name, value in sizes.items()),
    ]  # fmt: skip


def _sizes(artifact: Artifact, of: str, pack: str | None) -> list[Figure]:
    """Exact counts of the file, as a .tflite for both sides so that like is compared with like."""
    assert artifact.kind == TFLITE
    date = artifact.history[-1].date
    sizes = {"file_size": artifact.model.stat().st_size}
    for form in dict.fromkeys(("gzip", pack or "gzip")):
        sizes[f"file_size_{form}"] = packing.packed_size(artifact.model, form)
    counted = [Figure(name, of, value, "B", MEASURED, "none", date) for name, value in sizes.items()]
    return [*counted, Figure("macs", of, read(artifact.model).macs, "MAC", MEASURED, "none", date)]


def _accuracies(result: Result) -> list[Figure]:
    if result.tested is None or result.plan.facts is None:
        return []
    name = result.plan.facts.metric or "metric"
    tested, before = result.tested.history[-1], result.baseline.history[-1]
    host = f"{platform.machine()} (this machine)"
    there = host
    if result.measurement and result.plan.request.on and on_board.judged_there(result.winner):
        there = result.measurement.device
    common = {"unit": "", "label": MEASURED, "split": "test", "samples": tested.metrics["samples"]}
    kind, winner = result.source.kind, result.winner.id
    found = [
        Figure(name, "source", before.metrics["test"], date=before.date, device=host, executed_on=kind, **common),
        Figure(name, "model", tested.metrics["value"], date=tested.date, device=there, executed_on=winner, **common),
    ]
    for output, own_metric in tested.metrics["outputs"].items():
        of_output = metric_of(own_metric["metric"], output)
        found += [
            Figure(
                of_output, "source", own_metric["before"], date=before.date, device=host, executed_on=kind, **common
            ),
            Figure(
                of_output, "model", own_metric["value"], date=tested.date, device=there, executed_on=winner, **common
            ),
        ]
    for candidate, of in result.graphs_tested.items():
        made = of.history[-1]
        own = {**common, "executed_on": "ONNX Runtime: the engine's graph"}
        found.append(Figure(name, candidate, made.metrics["value"], date=made.date, device=host, **own))
    return found
