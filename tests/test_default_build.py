"""A build without --recipe: the model that is made first, what may beat it, and when nothing is trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Run, run_cli

from edgecompile.artifact import TFLITE, Artifact, Signature, StageRecord
from edgecompile.compare import RESAMPLES, paired_interval
from edgecompile.describing import Describing
from edgecompile.errors import (
    AccuracyGateError,
    ConversionError,
    EdgecompileError,
    InternalError,
    OutputError,
    UnsupportedLayerError,
    WorkerCrashError,
)
from edgecompile.search import Found, Judge, better, search
from edgecompile.search_space import FLOAT, FLOAT16, INT8, MIXED, QAT, Search
from edgecompile.stages.base import Stage
from edgecompile.task import Metric
from edgecompile.trials import blind, scarce

DEFAULT = Search(first=True, axes=("channels",), evaluations=3, patience=2)
BY_SPEED, BY_ACCURACY = ("latency", "size"), ("accuracy", "latency")
ORDERS = [BY_SPEED, BY_ACCURACY, ("size", "latency"), ("accuracy",)]


@dataclasses.dataclass(frozen=True)
class Made:
    """What a trial comes to: the drop in points, bytes, and milliseconds."""

    drop: float
    size: int
    latency: float


PLAIN = {INT8: Made(0.1, 100, 1.0), MIXED: Made(0.2, 150, 1.5), QAT: Made(0.0, 100, 1.0),
         FLOAT16: Made(0.0, 200, 3.0), FLOAT: Made(0.0, 400, 3.0)}  # fmt: skip
HALF = Made(0.5, 50, 0.5)


class World:
    """Trials by their precision, or by the share of channels that they keep; an error where there is one."""

    def __init__(self, made: dict[str, Made | EdgecompileError], cut: Made | EdgecompileError = HALF) -> None:
        self.made, self.cut = {**PLAIN, **made}, cut
        self.tried: list[str] = []

    def run(self, steps: tuple[Stage, ...], minutes: float | None) -> list[Artifact]:
        names = [step.name for step in steps]
        schemes = [step.scheme for step in steps if step.name == "quantize"]
        precision = (QAT if "qat" in names else MIXED if "mixed-precision" in names else FLOAT) if not schemes else (
            {"static_wi8_ai8": INT8, "float16": FLOAT16}[schemes[0]]
        )  # fmt: skip
        is_cut = "prune-channels" in names
        self.tried.append("cut" if is_cut else precision)
        # The first model is made however long it takes.
        assert (minutes is None) == (not any(t in ("cut", MIXED, QAT) for t in self.tried))
        found = self.cut if is_cut else self.made[precision]
        if isinstance(found, EdgecompileError):
            raise found
        metrics = {"validation": found.drop, "bytes": found.size, "latency": found.latency}
        return [Artifact(TFLITE, {}, Signature((), ()), (StageRecord("slim", "k", {}, {}, 1.0, "", metrics),))]

    def judge(self, prefers: tuple[str, ...] = BY_SPEED, **more: Any) -> Judge:
        def of(artifact: Artifact, name: str) -> float:
            return float(artifact.history[-1].metrics[name])

        return Judge(
            run=self.run,
            share=lambda _: 1.0,
            drop=lambda value: value,
            size=lambda artifact: int(of(artifact, "bytes")),
            say=lambda _: None,
            limit=1.0,
            prefers=prefers,
            latency=lambda a, b: (of(a, "latency") / of(b, "latency"), "measured"),
            **more,
        )

    def search(self, first: str = INT8, *, integer: bool = False, trains: bool = True, **judge: Any) -> Found:
        return search(DEFAULT, self.judge(**judge), trains=trains, packed=False, integer=integer, first=first)


def test_the_first_model_is_beaten_by_a_smaller_and_faster_one() -> None:
    world = World({})
    found = world.search()
    assert world.tried[:2] == [INT8, "cut"]
    assert MIXED not in world.tried, "what int8 holds needs no float operators"
    assert found.chosen.channels < 1
    assert found.first
    assert found.first != found.steps


@pytest.mark.parametrize("loss", [Made(3.0, 50, 0.5), Made(0.5, 120, 1.1), Made(0.5, 100, 1.0)])
def test_the_first_model_stays_where_nothing_beats_it(loss: Made) -> None:
    world = World({}, loss)
    found = world.search()
    assert found.chosen.precision == INT8
    assert found.chosen.channels == 1
    assert found.steps == found.first
    assert world.tried == [INT8, "cut", "cut"], "two trials in a row that gained nothing end the search"
    assert all(t.reason or not t.accepted for t in found.trials[1:])


def test_where_int8_loses_too_much_what_does_not_is_made_and_then_beaten() -> None:
    world = World({INT8: Made(4.0, 100, 1.0), QAT: Made(2.0, 100, 1.0)}, Made(5.0, 1, 1.0))
    found = world.search()
    assert world.tried[:4] == [INT8, FLOAT16, MIXED, QAT]
    assert found.chosen.precision == MIXED
    assert not found.trials[0].accepted
    nothing = World(dict.fromkeys((INT8, QAT, MIXED), Made(4.0, 100, 1.0)), Made(5.0, 1, 1.0)).search()
    assert nothing.chosen.precision == FLOAT16
    assert World(dict.fromkeys((INT8, FLOAT16, QAT, MIXED), Made(4.0, 9, 1.0))).search(
        trains=False
    ).chosen.precision == FLOAT  # fmt: skip


def test_a_target_that_prefers_accuracy_trains_for_it_alone() -> None:
    lossless = World({})
    assert lossless.search(FLOAT16, prefers=BY_ACCURACY).chosen.precision == FLOAT16
    assert lossless.tried == [FLOAT16]
    world = World({INT8: Made(0.8, 100, 1.0), MIXED: Made(0.75, 100, 1.0)})
    assert world.search(prefers=BY_ACCURACY).chosen.precision == QAT
    assert world.tried == [INT8, MIXED, QAT]


def test_integers_alone_are_looked_for_where_inputs_are_to_be_integers() -> None:
    world = World({INT8: Made(4.0, 100, 1.0)})
    found = world.search(integer=True)
    assert world.tried[:2] == [INT8, QAT]
    assert found.chosen.precision == QAT
    lossy = World(dict.fromkeys((INT8, QAT), Made(4.0, 100, 1.0)))
    with pytest.raises(AccuracyGateError, match="none of 2 trials"):
        lossy.search(integer=True)


@pytest.mark.parametrize(
    "problem",
    [
        UnsupportedLayerError("no"),
        WorkerCrashError("a signal"),
        InternalError("a fault"),
        ConversionError("refused"),
        AccuracyGateError("lost"),
    ],
)
def test_a_trial_that_fails_costs_nothing_else(problem: EdgecompileError) -> None:
    found = World({}, problem).search()
    assert found.chosen.precision == INT8
    assert [t.reason for t in found.trials[1:]] == [problem.message] * 2
    plainer = World({INT8: problem, MIXED: problem}, problem).search()
    assert plainer.chosen.precision == QAT
    assert plainer.trials[0].reason == problem.message


def test_where_nothing_can_be_made_the_first_reason_is_told() -> None:
    wrong: dict[str, Made | EdgecompileError] = {name: ConversionError(name) for name in PLAIN}
    with pytest.raises(ConversionError, match=r"^int8$"):
        World(wrong).search()
    with pytest.raises(OutputError):  # a folder that can't be written is no fault of the trial's
        World({}, OutputError("no space")).search()


drops = st.floats(-1.0, 4.0)
anything = st.builds(Made, drops, st.integers(10, 400), st.floats(0.1, 4.0))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([INT8, MIXED, QAT, FLOAT16]), anything), anything, st.sampled_from(ORDERS))
def test_the_winner_is_never_larger_and_slower_than_plain_int8(
    made: dict[str, Made | EdgecompileError], cut: Made, prefers: tuple[str, ...]
) -> None:
    """Where plain int8 keeps the drop; what keeps it is taken before what doesn't."""
    found = World(made, cut).search(prefers=prefers)
    chosen = next(t for t in found.trials if t.settings == found.chosen)
    assert chosen.accepted
    plain = found.trials[0]
    if plain.accepted:
        assert plain.bytes is not None
        assert chosen.bytes is not None
        slower = (chosen.latency or 1.0) > 1.0 + 0.03 + 1e-9
        assert not (chosen.bytes > plain.bytes and slower)
        assert not better(plain, chosen, prefers)


def test_too_few_samples_to_judge_by_or_to_train_with_train_nothing() -> None:
    world = World({})
    found = world.search(blind=lambda _: (5.0, "can't be seen"))
    assert (found.untrained, world.tried) == ("can't be seen", [INT8])
    world = World({})
    found = world.search(scarce="too few for it")
    assert (found.untrained, world.tried) == ("too few for it", [INT8])
    # What looks lost may be luck, and int8 stays; what is lost beyond that is not.
    luck = World({INT8: Made(5.5, 100, 1.0)}).search(blind=lambda _: (5.0, "can't be seen"))
    assert luck.chosen.precision == INT8
    assert "luck" in luck.trials[0].reason
    lost = World({INT8: Made(7.0, 100, 1.0)}).search(blind=lambda _: (5.0, "can't be seen"))
    assert lost.chosen.precision == FLOAT16
    # Mixed precision trains nothing: for that there are samples enough.
    world = World({INT8: Made(4.0, 100, 1.0)})
    assert world.search(scarce="too few for it").chosen.precision == MIXED
    assert QAT not in world.tried


def test_the_rule_for_a_validation_split_is_the_paired_interval() -> None:
    """2 points of accuracy can't be seen on 136 samples, whatever a model answers there; 137 are enough."""
    right = Metric("accuracy", lambda *_: 1.0, per_sample=lambda y, out, _: (out[""] == y[""]).astype(float))

    def half(samples: int) -> float:
        labels = {"": np.zeros(samples)}
        low, high = paired_interval(right, labels, labels, labels, {"": np.zeros((samples, 1))})
        return 100 * (high - low) / 2

    assert blind(half(137), 2.0, 137, " points")[1] == ""
    assert blind(half(136), 2.0, 136, " points")[1].startswith("136 validation samples tell a drop to within 2 points")
    assert half(20) > 10
    assert RESAMPLES == 1000


def test_the_rule_for_a_training_set() -> None:
    assert scarce({}) == ""
    assert scarce({"samples": 99, "classes": 10, "parameters": 1}).startswith("99 training samples are fewer than 10")
    assert scarce({"samples": 100, "classes": 10, "parameters": 100_000}) == ""
    assert "100,001 parameters" in scarce({"samples": 100, "classes": None, "parameters": 100_001})


# -- through the command line


def digits(count: int, *, classes: int = 10) -> dict[str, np.ndarray]:
    """The first `count` training samples, of so many classes, and the test set of all."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = (data.images / 16).astype(np.float32)[..., None], data.target
    rows = np.flatnonzero(y[360:] < classes)[:count] + 360
    return {"x_train": x[rows], "y_train": y[rows], "x_test": x[:360], "y_test": y[:360]}


def default_build(folder: Path, *options: str) -> Run:
    return run_cli("build", "digits", "--data", "d.npz", "--backends", "litert", "--out", "b", *options, cwd=folder)


@pytest.mark.parametrize("count", [39, 90])
def test_a_small_set_is_told_and_nothing_is_trained(count: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **digits(count))
    done = default_build(tmp_path)
    assert done.code == 0, done.err
    assert f"nothing is trained: {count // 10} validation samples tell a drop to within" in done.err
    assert "prune-channels" not in done.err
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["search"]["chosen"]["precision"] == "int8"
    assert manifest["search"]["untrained"] in (tmp_path / "b" / "report.html").read_text()
    # With a validation set of its own there is something to judge by, and still nothing to train with.
    more = digits(1400)
    np.savez(tmp_path / "d.npz", **digits(count), x_val=more["x_train"], y_val=more["y_train"])
    done = default_build(tmp_path)
    assert done.code == 0, done.err
    assert f"nothing is trained: {count} training samples are fewer than 10 for each of 10 classes" in done.err


@pytest.mark.slow
def test_a_choice_that_fails_on_the_test_set_fails_the_build_and_the_first_model_is_told(tmp_path: Path) -> None:
    """Zeros and ones alone to train and to validate with: what is trained on them forgets the other digits."""
    two = digits(300, classes=2)
    rng = np.random.default_rng(0)
    x = np.concatenate([two["x_train"]] * 4)
    validation = {"x_val": x + rng.normal(0, 0.01, x.shape).astype(np.float32), "y_val": np.tile(two["y_train"], 4)}
    np.savez(tmp_path / "d.npz", **two, **validation)
    done = default_build(tmp_path)
    assert done.code == AccuracyGateError.exit_code, done.err
    assert "--recipe int8, which was made first and would have passed" in done.err
    assert not (tmp_path / "b").exists()


def test_training_that_destroys_the_model_stops_at_once_and_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **digits(1400))
    (tmp_path / "wild.toml").write_text(
        'summary = "steps too large"\n[search]\nfirst = true\naxes = ["channels"]\nevaluations = 2\nepochs = 30\n'
        "learning_rate = 5.0\n"
    )
    done = default_build(tmp_path, "--recipe", "wild.toml")
    assert done.code == 0, done.err
    assert "training destroyed the model and was stopped: after " in done.err
    assert "epoch 30/30" not in done.err
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert [t["accepted"] for t in manifest["search"]["trials"]] == [True, False, False]
    assert "training destroyed the model" in (tmp_path / "b" / "report.html").read_text()


@pytest.mark.slow
def test_a_default_build_takes_what_is_better_and_repeats_itself(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **digits(1400))
    plan = json.loads(default_build(tmp_path, "--dry-run", "--json").out)
    assert (plan["recipe"], plan["first"], plan["budget_minutes"]) == ("default", "int8", 5.0)
    done = default_build(tmp_path, "--max-drop", "20%")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    found = manifest["search"]
    assert found["first"] == "int8"
    assert found["chosen"]["channels"] < 1
    first, *others = found["trials"]
    chosen = next(t for t in others if t["settings"] == found["chosen"])
    assert chosen["bytes"] == (tmp_path / "b" / "model.tflite").stat().st_size < first["bytes"]
    assert all(t["latency_label"] == "measured" for t in others if t["accepted"])
    assert "nothing to do" in default_build(tmp_path, "--max-drop", "20%").out


def test_what_only_describes_a_bundle_never_loses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecompile import accounting, pipeline, report
    from edgecompile.cli.display import make_display
    from edgecompile.pipeline import build
    from edgecompile.request import BuildRequest
    from edgecompile.session import Session

    def fails(*_: object, **__: object) -> Any:
        raise WorkerCrashError("it died")

    def breaks(*_: object) -> Any:
        raise ZeroDivisionError("of nothing")

    monkeypatch.setattr(pipeline, "_layer_errors", fails)
    monkeypatch.setattr(accounting, "rungs", fails)
    monkeypatch.setattr(report, "render", breaks)
    with make_display() as display, Session(display) as session:
        request = BuildRequest("digits", "host", recipe="int8", out=tmp_path / "b", backends=("litert",))
        manifest = build(request, session).manifest
    why = {"layer errors": "it died", "what each step bought": "it died", "its page": "ZeroDivisionError: of nothing"}
    assert manifest["not_described"] == why
    assert "ZeroDivisionError" in (tmp_path / "b" / "report.html").read_text()
    done = run_cli("verify", tmp_path / "b", cwd=tmp_path)
    assert done.code == 0, done.err


def test_a_description_that_can_be_made_is_given() -> None:
    said: list[str] = []
    describing = Describing(said.append)
    assert describing.attempt("a page", lambda: "text", "") == "text"
    assert (said, describing.left_out) == ([], {})
