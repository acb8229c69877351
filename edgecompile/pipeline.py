"""The build: plan, compress, verify, benchmark, select, then the gates, then the bundle."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import accounting, data, gates, golden, on_board, packaging
from edgecompile.accounting import Rung
from edgecompile.artifact import TFLITE, Artifact, sha256_file
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate, with_threads
from edgecompile.backends.candidates import candidates as candidates_of
from edgecompile.backends.candidates import stages as stages_of
from edgecompile.backends.litert import AS_IT_COMES
from edgecompile.backends.questions import confirmed
from edgecompile.backends.variants import variants
from edgecompile.compression import as_float_tflite, compress, load_source, with_steps
from edgecompile.describing import Describing
from edgecompile.devices.base import Device
from edgecompile.devices.local import LocalDevice
from edgecompile.errors import DeviceError, EdgecompileError
from edgecompile.job import Job, Settings
from edgecompile.manifest import EMULATED
from edgecompile.measure import Measurement, measure, of_device
from edgecompile.request import BuildRequest, Plan, after, data_source, load_options, look_up, plan
from edgecompile.session import Session
from edgecompile.stages.evaluate import Baseline, Parity, Test, test_inputs
from edgecompile.stages.layer_errors import LayerErrors
from edgecompile.task import Arrays
from edgecompile.trials import Trials, told_of_first
from edgecompile.units import format_ms

_TIE = 0.03
FLOAT_SOURCE = "float-source"  # the uncompressed model's id in a benchmark


@dataclass(frozen=True)
class Built:
    """Where the bundle is, its manifest, and how much of the build came from the cache."""

    out: Path
    manifest: Mapping[str, Any]
    cached: int
    ran: int


def make_plan(request: BuildRequest, session: Session, device: Device) -> Plan:
    named = look_up(request, device if request.on else None)
    named = dataclasses.replace(named, backends=confirmed(named.target, named.backends, session))
    return plan(request, named, session.facts(data_source(request)))


def settings_of(made: Plan) -> Settings:
    """What the jobs of the plan share, before the model is read."""
    request = made.request
    return Settings(
        data=made.data,
        fingerprint=made.facts.fingerprint if made.facts else None,
        options=load_options(request),
        io=made.io,
        seed=request.seed,
        tensorboard=request.tensorboard.resolve() if request.tensorboard else None,
    )


def read_model(made: Plan, session: Session) -> tuple[Plan, Settings, Artifact]:
    """(the plan and the settings of its jobs, with what the data is to this model; the loaded model)"""
    settings = settings_of(made)
    source = load_source(made.source, settings, session)
    if made.data is not None:
        expected = data.expected(source.signature, source.meta.get("outputs"))
        settings = dataclasses.replace(settings, expected=expected)
        assert made.facts is not None
        made = dataclasses.replace(made, facts=session.facts_for_model(made.facts, settings))
    return made, settings, source


def build(request: BuildRequest, session: Session, device: Device | None = None) -> Built:
    """Build the bundle, or raise: an error of a gate leaves the bundle that was there as it was.

    device: where the candidates are measured; None is this machine, if the target is.
    """
    device = device or LocalDevice()
    made = make_plan(request, session, device)
    session.total = 2 + len(made.steps) + len(after(made))
    session.display.line(f"{made.source.name} for {made.target.id}: recipe {made.recipe.name} ({made.reason})")
    made, settings, source = read_model(made, session)
    baseline = session.run(Job(Baseline(), source, settings))

    found, trials = None, Trials(made, source, baseline, settings, session, device)
    if made.recipe.search is not None:
        found = trials.find(made.recipe.search)
        made = with_steps(made, found.steps, found.minutes)
        session.total += len(made.steps)
    steps = list(compress(made, source, settings, session))
    artifact = steps[-1] if steps else source
    if steps:  # what stays as it came may have inputs of one type and outputs of the other
        gates.check_io(artifact.signature, made.io)
    uncompressed = _uncompressed(source, settings, session)
    forms_of, left_out = _forms(made, artifact, settings, session)
    backends = [name for name in made.backends if name not in left_out]
    forms = {}
    if on_board.needed(backends):
        calibrated = made.facts is not None and made.facts.train > 0
        forms = on_board.graphs(source, steps, settings, session, calibrated=calibrated)
    runnable = artifact.replace(files={**artifact.files, **_files(forms_of), **on_board.files(forms)})
    candidates = [of_device(c, device) for c in candidates_of(backends, runnable, made.target, made.threads)]
    board = device if request.on else None
    several = variants(candidates, board)
    there, failed = on_board.golden_outputs([*candidates, *several.candidates], board, made.optional, baseline, session)
    left_out |= failed
    candidates = [candidate for candidate in candidates if candidate.backend not in failed]
    judged = [c for c in (*candidates, *several.candidates) if BACKENDS[c.backend].runs_here(c) or c.id in there]
    stage = Parity(tuple(judged), str(baseline.files["golden"]), {name: str(path) for name, path in there.items()})
    depends = (*_ids(baseline, judged), *map(sha256_file, there.values()))
    parity = session.run(Job(stage, artifact, settings, depends=depends))
    engines = on_board.engines(candidates, forms, board, baseline, session, again=request.remeasure)
    found_by = {**parity.history[-1].metrics["parity"], **engines.verdicts}
    verdicts = {c.id: found_by[c.id] for c in engines.candidates if c.id in found_by}
    of_variants = several.verdicts(found_by)
    # What ran nowhere has no verdict: it is neither measured nor chosen.
    passed = [c for c in engines.candidates if gates.passed(c.id, verdicts, of_variants)]
    checks = [
        gates.parity(verdicts, of_variants, parity.history[-1].metrics["kernels"]),
        gates.size(artifact.model.stat().st_size, made.max_size),
    ]
    complete = several.complete and all(gates.passed(name, verdicts, of_variants) for name in of_variants)
    if checked := gates.variants(several.told(), complete=complete):
        checks.append(checked)
    if without := gates.backends(left_out):
        checks.append(without)
    gates.enforce(checks)

    named = next((step for step in reversed(steps) if step.history[-1].stage != "slim"), source)
    describing = Describing(session.display.line)
    ladder: list[Rung] = describing.attempt(
        "what each step bought",
        lambda: accounting.rungs(steps, lambda made: as_float_tflite(made, settings, session)),
        [],
    )
    measurement = _measure(made, device, passed, uncompressed, ladder, baseline, (parity, *forms.values()), session)
    session.announce("select")
    winner, why = select(_measured(passed, measurement, session), measurement)
    session.display.line(f"{winner.id}: {why}")
    p50 = measurement.p50(winner.id) if measurement else None
    checks.append(gates.latency(p50, request.max_latency_ms, measurement.label if measurement else None))
    gates.enforce(checks)

    tested, graphs_tested = None, {}
    if made.labelled:
        tested = _test(made, winner, artifact, baseline, settings, session, board)
        for candidate in engines.integer_graphs:
            graphs_tested[candidate.id] = _test(
                made, candidate, artifact, baseline, settings, session, None, announce=False
            )
    accuracy, *of_outputs = gates.accuracies(tested.history[-1].metrics if tested else None, made.max_drop)
    if found is not None:

        def test_first(first: Artifact) -> Mapping[str, Any]:
            plain = BACKENDS["litert"].compile(first, made.target, made.threads[0])[0]
            return _test(made, plain, first, baseline, settings, session, None, announce=False).history[-1].metrics

        accuracy = told_of_first(accuracy, found, trials, test_first)
    checks += [accuracy, *of_outputs]
    for name, of in graphs_tested.items():
        checks += gates.accuracies(of.history[-1].metrics, made.max_drop, f"{name}'s graph by ONNX Runtime")
    if made.facts and made.facts.parity_tolerance is not None:
        distances = {**parity.history[-1].metrics["distances"], **engines.distances}
        checks.append(gates.tolerance(distances[winner.id], made.facts.parity_tolerance))
    gates.enforce(checks)

    session.announce("package")
    errors = describing.attempt(
        "layer errors", lambda: _layer_errors(named, uncompressed, baseline, settings, session), None
    )
    ladder = [dataclasses.replace(r, id=r.id and _beside(r.id, winner.threads, made)) for r in ladder]
    result = packaging.Result(
        plan=made,
        source=source,
        artifact=artifact,
        named=named,
        errors=errors,
        found=found,
        ladder=tuple(ladder),
        uncompressed=uncompressed,
        baseline=baseline,
        parity=parity,
        tested=tested,
        graphs_tested=graphs_tested,
        measurement=measurement,
        verdicts=verdicts,
        variants=several,
        of_variants=of_variants,
        engines=engines,
        forms=tuple(forms_of),
        winner=winner,
        why=why,
        checks=tuple(checks),
        describing=describing,
        float_id=_beside(FLOAT_SOURCE, winner.threads, made),
        steps=session.steps,
    )
    manifest = packaging.write(result)
    if by_hand := on_board.instructions(engines, made.out):
        session.display.line("no board was named: nothing was measured there. To build and time the engine on it:")
        for line in by_hand:
            session.display.line(f"  {line}")
    return Built(made.out, manifest, session.cached, session.ran)


def _forms(
    made: Plan, artifact: Artifact, settings: Settings, session: Session
) -> tuple[list[Artifact], dict[str, str]]:
    """(the final .tflite in the forms that backends take, {backend: why it is left out}); an error of a backend that
    was asked for ends the build."""
    forms, left_out = [], dict(made.left_out)
    session.announce("compile")
    for name in made.backends:
        try:
            forms += [
                session.run(Job(stage, artifact, settings), announce=False)
                for stage in stages_of(name, made.target, made.threads)
            ]
        except EdgecompileError as problem:
            if name not in made.optional:
                raise
            left_out[name] = problem.message
            session.display.line(f"{name} left out: {problem.message}")
    if made.left_out:
        session.display.line(f"not tried: {', '.join(made.left_out)} (--dry-run says why)")
    return forms, left_out


def _uncompressed(source: Artifact, settings: Settings, session: Session) -> Artifact:
    """The source as a plain float .tflite: what size and latency are compared with."""
    return source if source.kind == TFLITE else as_float_tflite(source, settings, session)


def _test(
    made: Plan,
    winner: Candidate,
    artifact: Artifact,
    baseline: Artifact,
    settings: Settings,
    session: Session,
    board: Device | None,
    *,
    announce: bool = True,
) -> Artifact:
    """The metric on the test set: of outputs that the board gives, where the engine is judged by those."""
    given = None
    if board is not None and on_board.judged_there(winner):
        assert made.data is not None
        source = made.data

        def x() -> Arrays:
            what = "reading the test set"
            read: Arrays = session.worker.call(
                what, test_inputs, source, artifact.signature, report=session.display.progress
            )
            return read

        given = on_board.kept_outputs(board, winner, str(settings.fingerprint), x, session)
    stage = Test(winner, str(baseline.files["test_outputs"]), str(given) if given else None)
    depends = (*_ids(baseline, [winner]), *([sha256_file(given)] if given else []))
    return session.run(Job(stage, artifact, settings, depends=depends), announce=announce)


def _layer_errors(
    named: Artifact, uncompressed: Artifact, baseline: Artifact, settings: Settings, session: Session
) -> Artifact | None:
    """Tensor by tensor, the compressed model against the float one; None where nothing was compressed."""
    keys = [made.history[-1].key for made in (named, uncompressed, baseline)]
    if keys[0] == keys[1]:
        return None
    stage = LayerErrors(str(uncompressed.model), str(baseline.files["golden"]))
    return session.run(Job(stage, named, settings, depends=tuple(keys[1:])), announce=False)


def _files(made: Iterable[Artifact]) -> dict[str, Path]:
    return {role: path for artifact in made for role, path in artifact.files.items()}


def _ids(baseline: Artifact, candidates: list[Candidate]) -> tuple[str, ...]:
    described = [f"{c.id} {c.threads} {sorted(c.config.items())} {sha256_file(c.model)}" for c in candidates]
    return (baseline.history[-1].key, *described)


def _measure(
    made: Plan,
    device: Device,
    passed: list[Candidate],
    uncompressed: Artifact,
    ladder: list[Rung],
    baseline: Artifact,
    judged: tuple[Artifact, ...],
    session: Session,
) -> Measurement | None:
    if not made.measures:
        return None
    session.announce("benchmark")
    others = {FLOAT_SOURCE: uncompressed, **{rung.id: rung.artifact for rung in ladder if rung.id}}
    everyone = [*passed]
    for name, model in others.items():
        for threads in made.threads:  # whichever wins, there is the same with as many
            plain = BACKENDS["litert"].compile(model, made.target, threads)[0]
            everyone.append(dataclasses.replace(plain, id=_beside(name, threads, made), config=AS_IT_COMES))
    inputs = golden.read(baseline.files["golden"], golden.INPUTS)[golden.INPUTS]
    measurement, cached = measure(
        device,
        everyone,
        inputs,
        depends=tuple(made.history[-1].key for made in (*judged, *others.values())),
        cache=session.cache,
        again=made.request.remeasure,
        report=session.display.progress,
        choose=[c.id for c in passed],
    )
    if cached:
        session.cached += 1
    else:
        session.ran += 1
    session.took(measurement.record.seconds)
    session.display.done(measurement.record, cached=cached)
    return measurement


def _beside(name: str, threads: int, made: Plan) -> str:
    """The id in a benchmark of the source, or of the model after a step, with the threads of a candidate; an engine
    that takes no number of them has the preferred one beside it."""
    if len(made.threads) == 1:
        return name
    return with_threads(name, threads if threads in made.threads else made.threads[0])


def _measured(passed: list[Candidate], measurement: Measurement | None, session: Session) -> list[Candidate]:
    """Those of `passed` that have a figure, all without a device; DeviceError where none has one."""
    if measurement is None:
        return passed
    for name, reason in measurement.skipped.items():
        session.display.line(f"{name}: left out: {reason}")
    found = [c for c in passed if c.id in measurement.results]
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in measurement.skipped.items())
        raise DeviceError(
            f"no candidate could be measured on {measurement.device}: {reasons}",
            hint="a runtime there whose XNNPACK takes the model (a newer Python brings one), or more --backends",
        )
    return found


def select(passed: list[Candidate], measurement: Measurement | None) -> tuple[Candidate, str]:
    """The candidate measured fastest, by the medians of the run-off if there was one; the target's first preference,
    said to be not measured, without a device."""
    if measurement is None:
        return passed[0], "taken by preference, not measured: there is no device"
    runs = measurement.run_off or {c.id: [measurement.p50(c.id)] for c in passed}
    times = {name: statistics.median(found) for name, found in runs.items()}
    fastest = min(times, key=times.__getitem__)
    of = str(len(passed))
    if measurement.run_off:
        told = ", ".join(f"{name} {format_ms(times[name])}" for name in sorted(times, key=times.__getitem__)[:2])
        of += f" (close, so measured in {len(runs[fastest])} more processes: {told})"

    def tied(name: str) -> bool:
        """A difference that the next run may turn around is none; one that each of several runs had is one."""
        close = times[name] <= times[fastest] * (1 + _TIE)
        return close and (len(runs[name]) == 1 or any(a <= b for a, b in zip(runs[name], runs[fastest], strict=True)))

    # The target's order of preference decides then.
    best = next(c for c in passed if c.id in times and tied(c.id))
    counted = measurement.label == EMULATED
    if best.id != fastest:
        least = "fewest instructions" if counted else "fastest"
        return best, f"preferred: within {_TIE:.0%} of the {least} of {of}"
    if counted:
        return best, f"fewest instructions of {of}, counted by an emulator"
    return best, f"{measurement.label} fastest of {of}"
