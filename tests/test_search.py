"""Recipe auto: what the search tries, what it takes, and that a build with it keeps its budget."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import run_cli

from edgecompile.artifact import TFLITE, Artifact, Signature, StageRecord
from edgecompile.errors import AccuracyGateError, CompressionGateError, RecipeError, UnsupportedLayerError
from edgecompile.search import Judge, search
from edgecompile.search_space import FLOAT16, MIXED, QAT, Search
from edgecompile.stages.base import Stage
from edgecompile.stages.prune_channels import PruneChannels

FULL = 1000


class World:
    """A model of which `needed` of its channels hold the accuracy; bytes follow what is kept."""

    def __init__(self, needed: float, *, int8_drop: float = 0.1, mixed_drop: float = 0.1) -> None:
        self.needed, self.int8_drop, self.mixed_drop = needed, int8_drop, mixed_drop
        self.tried: list[tuple[str, ...]] = []

    def run(self, steps: tuple[Stage, ...], minutes: float | None) -> Sequence[Artifact]:
        assert minutes == 7.0
        names = tuple(step.name for step in steps)
        self.tried.append(names)
        kept = 1.0
        for step in steps:
            if step.name == "factorize":
                raise CompressionGateError("nothing can be factorised")
            kept *= getattr(step, "keep", 1.0) if step.name == "prune-channels" else 1.0
        drop = 5.0 if kept < self.needed else self.mixed_drop if "mixed-precision" in names else self.int8_drop
        size = FULL * kept
        if "quantize" in names and "qat" not in names:
            drop, size = 0.0, 2 * size  # float16
        record = StageRecord("convert", "k", {}, {}, 1.0, "", {"validation": drop, "bytes": size})
        return [Artifact(TFLITE, {}, Signature((), ()), (record,))]

    def judge(self, limit: float = 1.0) -> Judge:
        return Judge(
            run=self.run,
            share=lambda _: 7.0,
            drop=lambda value: value,
            size=lambda artifact: int(artifact.history[-1].metrics["bytes"]),
            say=lambda _: None,
            limit=limit,
        )


@settings(max_examples=30, deadline=None)
@given(st.floats(0.02, 0.98), st.integers(3, 12))
def test_the_search_comes_near_to_what_is_needed(needed: float, evaluations: int) -> None:
    world = World(needed)
    found = search(Search(evaluations=evaluations), world.judge(), trains=True, packed=False, integer=False)
    assert len(found.trials) <= evaluations
    smallest = min(t.bytes or FULL for t in found.trials if t.accepted)
    chosen = next(t for t in found.trials if t.settings == found.chosen)
    assert chosen.accepted
    assert chosen.bytes == smallest
    if evaluations == 12:  # bisected to within the ratio at which it stops
        assert max(needed, 0.1) <= found.chosen.channels <= max(needed * 1.35, 0.14) or found.chosen.channels == 1.0


@settings(max_examples=60, deadline=None)
@given(st.floats(0.12, 0.9), st.floats(0.5, 4.0), st.floats(-1.0, 0.5))
def test_drops_tell_where_to_look(needed: float, power: float, whole: float) -> None:
    """Few trials are enough where the drop grows with what goes, however steeply; `whole`: the drop of the whole
    model, which training in int8 may make a gain."""

    def run(steps: tuple[Stage, ...], minutes: float | None) -> list[Artifact]:
        del minutes
        kept = next((step.keep for step in steps if isinstance(step, PruneChannels)), 1.0)
        drop = whole + (1 - whole) * ((1 - kept) / (1 - needed)) ** power
        record = StageRecord("convert", "k", {}, {}, 1.0, "", {"validation": drop, "bytes": FULL * kept})
        return [Artifact(TFLITE, {}, Signature((), ()), (record,))]

    judge = dataclasses.replace(World(0.0).judge(), run=run)
    found = search(Search(axes=("channels",), evaluations=9), judge, trains=True, packed=False, integer=False)
    assert needed <= found.chosen.channels <= needed * 1.2


def test_a_trial_that_cannot_be_made_is_told_and_passed_over() -> None:
    found = search(Search(), World(0.4).judge(), trains=True, packed=False, integer=False)
    failed = [t for t in found.trials if t.reason]
    assert failed
    assert all(t.settings.rank < 1 and not t.accepted for t in failed)
    assert found.chosen.rank == 1.0


def test_a_model_that_cannot_be_trained_in_int8_is_quantized_after_training() -> None:
    class Refusing(World):
        def run(self, steps: tuple[Stage, ...], minutes: float | None) -> Sequence[Artifact]:
            if any(step.name == "qat" for step in steps):
                raise UnsupportedLayerError("TF-MOT can't make this model quantization-aware")
            return super().run(steps, minutes)

    found = search(Search(), Refusing(0.999).judge(), trains=True, packed=False, integer=False)
    assert found.chosen.precision == MIXED


def test_what_no_training_in_int8_can_save_is_not_trained_in_int8() -> None:
    """And the time it would have taken goes to the trials that are left."""
    given: list[str] = []
    spent, shares = 0.0, []

    def run(steps: tuple[Stage, ...], minutes: float | None) -> Iterator[Artifact]:
        nonlocal spent
        assert minutes is not None
        shares.append(minutes)
        kept = next((step.keep for step in steps if isinstance(step, PruneChannels)), 1.0)
        for step in steps:
            spent += minutes / len(steps)
            given.append(step.name)
            metrics = {"validation": 10 * (1 - kept), "bytes": FULL * kept}
            yield Artifact(TFLITE, {}, Signature((), ()), (StageRecord(step.name, "k", {}, {}, 60.0, "", metrics),))

    judge = dataclasses.replace(World(0.0).judge(), run=run, share=lambda left: (60 - spent) / left)
    found = search(Search(axes=("channels",)), judge, trains=True, packed=False, integer=False)
    first, second, third, *_ = found.trials
    assert first.settings.channels == 0.316
    assert first.reason == "validation drop 6.84 after prune-channels, 1.00 allowed"
    assert (first.drop, first.bytes, first.seconds) == (pytest.approx(6.84), None, 60)
    assert given[:3] == ["prune-channels", "prune-channels", "qat"]
    # Drops tell where to look: the border is at 0.9, and two trials were enough to be beside it.
    assert 0.8 < second.settings.channels < 0.9 < third.settings.channels < 0.95
    assert (second.accepted, third.accepted) == (False, True)
    assert shares == [t.minutes for t in found.trials]
    assert shares[0] == 10
    assert shares[1] == pytest.approx((60 - 10 / 3) / 5)


def test_sparsity_is_tried_only_where_the_packed_form_counts() -> None:
    for packed in (False, True):
        world = World(0.4)
        search(Search(), world.judge(), trains=True, packed=packed, integer=False)
        assert any("prune" in names for names in world.tried) == packed


@pytest.mark.parametrize(("int8", "mixed", "expected"), [(0.5, 9.0, QAT), (9.0, 0.5, MIXED), (9.0, 9.0, FLOAT16)])
def test_precision_is_walked_back_until_the_budget_is_kept(int8: float, mixed: float, expected: str) -> None:
    world = World(2.0, int8_drop=int8, mixed_drop=mixed)  # no channel can go
    world.needed = 0.999
    found = search(Search(), world.judge(), trains=True, packed=False, integer=False)
    assert found.chosen.precision == expected


def test_a_budget_that_nothing_keeps_is_an_error() -> None:
    with pytest.raises(AccuracyGateError, match=r"none of .* trials keeps the budget"):
        search(Search(), World(0.999, int8_drop=7.0).judge(), trains=True, packed=False, integer=True)


RECIPE = """summary = "short"
[search]
axes = ["channels"]
evaluations = 3
epochs = 3
qat_epochs = 2
"""


def test_a_build_finds_a_smaller_model_within_its_budget(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(RECIPE)
    done = run_cli("build", "digits", "--recipe", "short.toml", "--max-drop", "5%", "--out", "b", cwd=tmp_path)
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    trials = manifest["search"]["trials"]
    assert 2 <= len(trials) <= 3
    chosen = next(t for t in trials if t["settings"] == manifest["search"]["chosen"])
    assert chosen["accepted"]
    assert chosen["drop"] <= 3.0  # the margin keeps 40% of 5 points back
    assert chosen["bytes"] == (tmp_path / "b" / "model.tflite").stat().st_size
    again = run_cli("build", "digits", "--recipe", "short.toml", "--max-drop", "5%", "--out", "b", cwd=tmp_path)
    assert "nothing to do" in again.out


def test_a_training_that_no_budget_cut_serves_every_budget(tmp_path: Path) -> None:
    """And a step that is added leaves those before it as they were."""
    steps = ['[[steps]]\nstage = "fine-tune"\nepochs = 1\n', '[[steps]]\nstage = "qat"\nepochs = 1\n']
    end = '[[steps]]\nstage = "convert"\n'
    (tmp_path / "one.toml").write_text('summary = "one"\n' + steps[0] + end)
    (tmp_path / "two.toml").write_text('summary = "two"\n' + "".join(steps) + end)

    def build(recipe: str, *options: str) -> str:
        arguments = ["build", "digits", "--recipe", recipe, "--max-drop", "off", "--out", "b", *options]
        done = run_cli(*arguments, cwd=tmp_path)
        assert done.code == 0, done.err
        return done.err.partition("fine-tune\n")[2].partition("[")[0]

    assert "done before" not in build("one.toml", "--budget-minutes", "20")
    assert "done before" in build("two.toml", "--budget-minutes", "20")
    assert "done before" in build("two.toml", "--budget-minutes", "10")
    assert "done before" in build("one.toml", "--budget-minutes", "0.0001")  # takes no time any more


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--max-drop", "off"), "searches within --max-drop"),
        (("--recipe", "both.toml"), "not both"),
        (("--recipe", "axis.toml"), "axes"),
        (("--recipe", "twice.toml"), "each once"),
        (("--recipe", "batch.toml"), "batch_size is 0"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    (tmp_path / "both.toml").write_text('[search]\n[[steps]]\nstage = "convert"\n')
    (tmp_path / "twice.toml").write_text('[search]\naxes = ["rank", "rank"]\n')
    (tmp_path / "batch.toml").write_text("[search]\nbatch_size = 0\n")
    (tmp_path / "axis.toml").write_text('[search]\naxes = ["depth"]\n')
    recipe = () if "--recipe" in options else ("--recipe", "auto")
    done = run_cli("build", "digits", *recipe, *options, "--dry-run", cwd=tmp_path)
    assert done.code == RecipeError.exit_code
    assert says in done.err


def test_a_search_needs_labels(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "d.npz", x=np.zeros((4, 8, 8, 1), np.float32))
    done = run_cli("build", "digits", "--data", "d.npz", "--recipe", "auto", "--dry-run", cwd=tmp_path)
    assert done.code == RecipeError.exit_code
    assert "labelled training and test samples" in done.err
