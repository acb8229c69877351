"""report.html: what a reader sees is what the manifest says, and nothing in it can reach out or run."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.artifact import TFLITE
from edgecompile.report import charts, formats, render

SECTIONS = ["comparison", "gates", "stages", "techniques", "graph", "sparsity", "latency", "parity", "layers",
            "operators", "data", "environment", "reproduce"]  # fmt: skip
VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = "<script>alert('\"1\"')</script>"


class Page(HTMLParser):
    """Checks that tags are balanced, and collects what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.figures: dict[tuple[str, str], float] = {}
        self.rungs: dict[str, list[float]] = {}
        self._row = self._of = self._rung = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), (tag, attrs)
        self.tags.append((tag, found))
        self._row = found.get("data-figure") or self._row
        self._of = found.get("data-of") or ("" if tag == "td" else self._of)
        self._rung = (found.get("data-rung") or "") if tag == "tr" else self._rung
        if tag == "data" and self._rung:
            self.rungs.setdefault(self._rung, []).append(float(found["value"] or ""))
        if tag == "data" and self._of:
            self.figures[self._row, self._of] = float(found["value"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "script" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def manifest(digits_bundle: Path) -> dict[str, Any]:
    return json.loads((digits_bundle / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture
def unmeasured(manifest: dict[str, Any]) -> dict[str, Any]:
    """As a build for a board without a device, of a model file and without data, writes it."""
    changed = copy.deepcopy(manifest)
    no_labels = "not measured: the data has no labelled test set"
    gates = {"latency": "not measured: there is no device", "accuracy": no_labels}
    for gate in changed["gates"]:
        if gate["name"] in gates:
            gate.update(passed=None, text=gates[gate["name"]])
    changed["history"] = [r for r in changed["history"] if r["stage"] not in ("benchmark", "test")]
    for record in changed["history"]:
        record["metrics"] = {k: v for k, v in record["metrics"].items() if not k.startswith("validation")}
    changed["figures"] = [f for f in changed["figures"] if f["name"] in ("file_size", "file_size_gzip", "macs")]
    for row in changed["techniques"]:
        row.update(latency_p50=None, validation=None)
    changed["optimization"].update(before={}, layers=[], summary={})
    changed["model"].update(format=TFLITE, layers=[], sha256="0" * 64)
    return {**changed, "measurement": None, "data": None}


@pytest.fixture
def pruned(manifest: dict[str, Any]) -> dict[str, Any]:
    """As a recipe writes it that prunes before it quantizes, with --pack xz: the same file, easier to pack."""
    changed = copy.deepcopy(manifest)
    source = {f["name"]: f for f in changed["figures"] if f["of"] == "source"}
    changed["figures"].append({**source["file_size"], "name": "file_size_xz", "value": 36_000})
    changed["figures"].append({**source["file_size"], "name": "file_size_xz", "of": "model", "value": 12_000})
    row = {
        "stages": ["prune"],
        "bytes": source["file_size"]["value"],
        "packed": {"gzip": 25_000, "xz": 24_000},
        "macs": source["macs"]["value"],
        "latency_p50": source["latency_p50"]["value"],
        "validation": 0.5,
    }
    changed["techniques"] = [row, *changed["techniques"]]
    changed["options"]["pack"] = "xz"
    changed["measurement"]["results"]["after-prune"] = changed["measurement"]["results"]["float-source"]
    return changed


def test_the_bundle_holds_the_page_of_its_manifest(digits_bundle: Path, manifest: dict[str, Any]) -> None:
    assert (digits_bundle / "report.html").read_text(encoding="utf-8") == render({**manifest, "files": {}})


def test_every_section_is_there_and_tags_are_balanced(manifest: dict[str, Any]) -> None:
    page = Page(render(manifest))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert ids == SECTIONS
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == [f"#{section}" for section in SECTIONS]


def test_figures_are_the_manifests(manifest: dict[str, Any]) -> None:
    page = Page(render(manifest))
    expected = {(f["name"], f["of"]): f["value"] for f in manifest["figures"] if f["of"] in ("source", "model")}
    names = ("accuracy", "file_size", "file_size_gzip", "macs", "latency_p50", "latency_p90", "latency_p99",
             "init_time", "peak_rss")  # fmt: skip
    assert page.figures == {(name, of): expected[name, of] for name in names for of in ("source", "model")}


def test_each_figure_says_how_it_was_found(manifest: dict[str, Any]) -> None:
    text = Page(render(manifest)).text
    result = manifest["measurement"]["results"][manifest["winner"]["id"]]
    assert f"1 thread · {result['runs']:,} runs" in text
    assert "360 samples of the test set" in text
    assert "measured" in text
    assert manifest["measurement"]["device"] in text
    assert "95% interval" in text
    for gate in manifest["gates"]:
        assert gate["text"] in text


def test_nothing_is_fetched(manifest: dict[str, Any]) -> None:
    html = render(manifest)
    page = Page(html)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", html)
    assert not [tag for tag, attrs in page.tags if tag in ("link", "img", "iframe", "object") or "src" in attrs]
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_charts_are_described(manifest: dict[str, Any]) -> None:
    html = render(manifest)
    pictures = [attrs for tag, attrs in Page(html).tags if tag == "svg"]
    assert len(pictures) == html.count("<desc>") >= 8
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in pictures)
    assert "NaN" not in html
    assert "nan" not in html.split("</style>")[1].split("<script>")[0]


def test_a_build_without_device_data_or_layers_says_so(unmeasured: dict[str, Any]) -> None:
    page = Page(render(unmeasured))
    assert set(page.figures) == {(n, of) for n in ("file_size", "file_size_gzip", "macs") for of in ("source", "model")}
    assert page.text.count("not measured: there is no device") >= 7
    assert "not measured: the data has no labelled test set" in page.text
    assert "No data was given: accuracy is not measured" in page.text
    assert "what became of each is not known" in page.text
    assert [attrs["id"] for _, attrs in page.tags if "id" in attrs] == SECTIONS


def _strings(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every text in the manifest, but for those that decide something."""
    keep = {"stage", "label", "date", "of", "fate", "id", "split", "drop_unit"}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        if isinstance(item, str) and key not in keep:
            yield value, key
        elif isinstance(item, dict | list):
            yield from _strings(item)


def test_hostile_names_are_text(manifest: dict[str, Any]) -> None:
    changed = copy.deepcopy(manifest)
    places = list(_strings(changed))
    for container, key in places:
        container[key] = HOSTILE
    for candidate in changed["candidates"]:
        candidate["parity"] = {HOSTILE: next(iter(candidate["parity"].values()))}
    changed["optimization"]["after"] = {HOSTILE: 3}
    assert len(places) > 200
    html = render(changed)
    page = Page(html)
    assert html.count("<script>") == 1
    assert [attrs["id"] for _, attrs in page.tags if "id" in attrs] == SECTIONS
    assert f"{HOSTILE} for {HOSTILE}" in page.text
    assert HOSTILE in {attrs.get("title") for _, attrs in page.tags}


def test_a_candidate_with_a_file_of_its_own_says_so(manifest: dict[str, Any]) -> None:
    assert "file of its own" not in Page(render(manifest)).text
    changed = copy.deepcopy(manifest)
    changed["candidates"][1].update(file="candidates/sparse.tflite", bytes=12_345)
    assert "It has a file of its own: candidates/sparse.tflite , 12.3 kB." in Page(render(changed)).text


def test_a_failed_candidate_and_its_distance_in_lsb_are_shown(manifest: dict[str, Any]) -> None:
    changed = copy.deepcopy(manifest)
    candidate = changed["candidates"][1]
    candidate["passed"] = False
    for verdict in candidate["parity"].values():
        verdict.update(passed=False, lsb_histogram={"0": 150, "1": 9, "12": 1})
    del changed["measurement"]["results"][candidate["id"]]
    text = Page(render(changed)).text
    assert f"{candidate['id']} ✗ failed, left out" in text
    assert "values by how many LSB" in text


@pytest.mark.parametrize(("passed", "sign"), [(True, "✓"), (None, "○"), (False, "✗")])
def test_the_verdict_is_that_of_the_gates(manifest: dict[str, Any], passed: bool | None, sign: str) -> None:
    changed = copy.deepcopy(manifest)
    for gate in changed["gates"]:
        gate["passed"] = passed
    assert f"{sign} Gates" in Page(render(changed)).text


def test_a_long_model_is_folded_away_and_drawn_whole(manifest: dict[str, Any]) -> None:
    changed = copy.deepcopy(manifest)
    changed["optimization"]["layers"] = [
        {"name": f"block_{i}/" + "x" * 90, "type": "Conv2D", "fate": "kept", "operators": [i]} for i in range(150)
    ]
    changed["optimization"]["operators"] = [
        {"index": i, "type": "CONV_2D", "layers": [f"block_{i}/" + "x" * 90]} for i in range(150)
    ]
    page = Page(render(changed))
    assert "All 150 layers" in page.text
    heights = [float((a["viewbox"] or "").split()[3]) for t, a in page.tags if t == "svg"]
    assert max(heights) >= 150 * 20
    assert "block_149" in page.text


@given(low=st.floats(1e-4, 1e3), factor=st.floats(1.0001, 1e4))
def test_axes_have_ticks_within_their_range(low: float, factor: float) -> None:
    ticks = charts.ticks(low, low * factor)
    assert 1 <= len(ticks) <= 16
    assert all(low <= tick <= low * factor for tick in ticks)


@given(text=st.text(max_size=80), most=st.integers(3, 40))
def test_shortened_names_keep_their_ends(text: str, most: int) -> None:
    short = formats.short(text, most)
    assert len(short) <= most
    assert short == text or (text.startswith(short.split("…")[0][:1]) and text.endswith(short[-1]))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(100.0, 50.0, "2.00× smaller"), (50.0, 100.0, "2.00× larger"), (7.0, 7.001, "the same"), (0.0, 0.0, "")],
)
def test_ratios_say_which_way(before: float, after: float, expected: str) -> None:
    assert formats.ratio(before, after, "smaller", "larger") == expected


def _figure(manifest: dict[str, Any], name: str) -> float:
    return next(f["value"] for f in manifest["figures"] if (f["name"], f["of"]) == (name, "source"))


def _row(technique: dict[str, Any]) -> list[float]:
    packed = technique["packed"]
    return [technique["validation"], technique["bytes"], packed["gzip"], packed["xz"], technique["macs"],
            technique["latency_p50"]]  # fmt: skip


def test_a_row_for_each_step_from_the_float_source_on(pruned: dict[str, Any]) -> None:
    page = Page(render(pruned))
    names = ("file_size", "file_size_gzip", "file_size_xz", "macs", "latency_p50")
    baseline = next(r for r in pruned["history"] if r["stage"] == "baseline")["metrics"]["validation"]
    assert list(page.rungs) == ["float source", "prune", "quantize", "slim"]
    assert page.rungs["float source"] == [baseline, *(_figure(pruned, name) for name in names)]
    for technique in pruned["techniques"]:
        assert page.rungs[technique["stages"][-1]] == _row(technique)
    # 36,000 B to 24,000 B, and from there on
    quantized = pruned["techniques"][1]["packed"]["xz"]
    assert "24.0 kB step 1.50× smaller so far 1.50× smaller" in page.text
    step, total = f"{24_000 / quantized:.2f}× smaller", f"{36_000 / quantized:.2f}× smaller"
    assert f"step {step} so far {total}" in page.text
    assert f"step {formats.signed(100 * (0.5 - baseline), 2)} points" in page.text
    assert "after-prune after a step" in page.text
    results = pruned["measurement"]["results"].values()
    assert f"{min(r['runs'] for r in results):,} runs each" in page.text


def test_a_figure_that_is_missing_is_a_dash_with_its_reason(unmeasured: dict[str, Any]) -> None:
    page = Page(render(unmeasured))
    assert list(page.rungs) == ["float source", "quantize", "slim"]
    assert page.rungs["slim"] == [v for v in _row(unmeasured["techniques"][-1]) if v is not None]
    assert "Latency p50 –: not measured: there is no device." in page.text
    assert "Metric –: not measured: there is no metric." in page.text


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1.04, "Pruning bought packed bytes and no latency: the .tflite stays at"),
        (0.95, "Pruning bought packed bytes and no latency:"),  # the next run may turn that around
        (0.5, "Pruning bought packed bytes and latency:"),
        (2.0, "It cost latency:"),
        (None, "Its latency was not measured."),
    ],
)
def test_what_sparsity_bought_is_said_plainly(pruned: dict[str, Any], factor: float | None, said: str) -> None:
    row = pruned["techniques"][0]
    row["latency_p50"] = None if factor is None else factor * row["latency_p50"]
    text = Page(render(pruned)).text
    assert said in text
    assert "packed with xz it is 1.50× smaller" in text


def test_sharing_weights_that_packs_no_better_is_said_too(pruned: dict[str, Any]) -> None:
    pruned["techniques"][0].update(stages=["cluster"], packed={"gzip": 40_000, "xz": 36_000})
    assert "Clustering bought no packed bytes and no latency" in Page(render(pruned)).text


def test_slimming_stands_apart_from_compression(manifest: dict[str, Any]) -> None:
    text = Page(render(manifest)).text
    metrics = next(r for r in manifest["history"] if r["stage"] == "slim")["metrics"]
    before, after = metrics["bytes_before"], metrics["bytes_after"]
    assert f"Compression made {before / 1000:.1f} kB of" in text
    assert f"Slimming left out {before - after:,} B" in text
    for part, size in metrics["saved"].items():
        assert f"{part} {size:,} B" in text
    assert "its row and the one before share the latency" in text


def test_a_search_marks_what_it_chose(manifest: dict[str, Any]) -> None:
    settings = [{"channels": share, "rank": 1.0, "precision": "int8"} for share in (0.3, 0.6, 0.4, 0.2, 0.1)]
    outcomes: list[tuple[bool, float | None, int | None, str]] = [
        (False, 3.0, 8_000, ""),
        (True, 0.1, 12_000, ""),
        (True, 0.2, 9_000, ""),
        (False, None, None, "no channel is left"),
        (False, 6.8, None, "validation drop 6.80 after prune-channels"),
    ]
    trials = [
        {
            "settings": s,
            "accepted": ok,
            "validation": 0.9,
            "drop": drop,
            "bytes": size,
            "seconds": 1.0,
            "reason": why,
            "minutes": 4.0,
            "latency": 0.5,
            "latency_label": "measured",
        }
        for s, (ok, drop, size, why) in zip(settings, outcomes, strict=True)
    ]
    found = {
        "metric": "accuracy",
        "budget": 0.6,
        "prefers": ["size"],
        "first": None,
        "untrained": None,
        "chosen": settings[2],
        "trials": trials,
    }
    text = Page(render({**manifest, "search": found})).text
    assert text.count("✓ chosen") == 1
    assert "at most 0.6 was allowed here" in text
    assert "3 channels 0.4, int8 0.9000 0.2 9,000 B 1.0 s ✓ chosen" in text
    assert "1 channels 0.3, int8 0.9000 3 8,000 B 1.0 s drops too much" in text
    assert "could not be made no channel is left" in text
    assert "given up validation drop 6.80 after prune-channels" in text
    assert "✓ chosen" not in Page(render({**manifest, "search": None})).text
    beaten = {**found, "first": "int8", "prefers": ["latency", "size"], "untrained": "too few samples"}
    left_out = {"layer errors": "the process died"}
    text = Page(render({**manifest, "search": beaten, "not_described": left_out})).text
    assert "9,000 B 0.5 of the first's measured 1.0 s ✓ chosen" in text
    assert "the one to beat, by latency, then by size" in text
    assert "Nothing was trained: too few samples." in text
    assert "Left out of this page: layer errors. the process died" in text


def test_operators_that_mixed_precision_kept_are_marked(manifest: dict[str, Any]) -> None:
    def row(index: int, operator: str, snr_db: float | None, kept: bool) -> dict[str, Any]:
        more = {"tensor": f"t{index};alias", "finite": snr_db is not None, "weight_bytes": 100 * index}
        return {"index": index, "operator": operator, "snr_db": snr_db, "kept": kept, **more}

    measured = {
        "sensitivity": [row(1, "SUB", None, True), row(0, "FULLY_CONNECTED", 31.25, False)],
        **{"kept": ["SUB #1"], "operators": 2, "evaluations": 3, "drop": 0.25, "drop_unit": "points"},
    }
    record = {**manifest["history"][-1], "stage": "mixed-precision", "metrics": measured}
    record["config"] = {"fallback": "float", "max_drop": 0.5}
    text = Page(render({**manifest, "history": [*manifest["history"], record]})).text
    assert "1 of 2 operators, found in 3 evaluations" in text
    assert "drops by 0.25 points against the float model, 0.5 was allowed" in text
    assert "1 SUB t1 not finite 100 B float 0 FULLY_CONNECTED t0 31.2 quantized" in text
    assert "Which operators stayed" not in Page(render(manifest)).text


def test_the_sparsity_note_is_shown_where_there_is_one(manifest: dict[str, Any]) -> None:
    note = "the zeros are in int8 weights & nowhere else"
    assert note in Page(render({**manifest, "sparsity_note": note})).text
    assert Page(render({**manifest, "sparsity_note": None})).text.count("None") == 0


def test_each_tensor_has_its_error(manifest: dict[str, Any]) -> None:
    found = manifest["layer_errors"]
    page = Page(render(manifest))
    assert f"on {found['samples']} golden inputs from the data" in page.text
    for row in found["rows"]:
        assert row["tensor"] in " ".join(attrs.get("title") or "" for _, attrs in page.tags)
        assert f"{row['cosine']:.5f} {formats.number(row['max_abs'])} {formats.share(row['relative'])}" in page.text
    steepest = found["steepest"]
    assert f"Most is lost in one operator at {steepest['op']} {steepest['position']} (" in page.text
    assert f"the SNR falls {steepest['fall_db']:.1f} dB" in page.text
    assert found["first"] is None
    assert "Every tensor is within an SNR of 10 dB." in page.text
    worst = min(row["snr_db"] for row in found["rows"] if row["snr_db"] is not None)
    assert page.text.count("dB, worst") == 2  # the chart and its description
    assert f"{worst:.1f} dB, worst" in page.text


def test_the_first_tensor_past_the_limit_is_named(manifest: dict[str, Any]) -> None:
    changed = copy.deepcopy(manifest)
    found = changed["layer_errors"]
    for row, snr in zip(found["rows"][2:5], (9.0, -4.0, None), strict=True):
        row.update(snr_db=snr, over=True, max_abs=3.0, relative=0.4)
    found.update(first=copy.deepcopy(found["rows"][2]), parted=True)
    text = Page(render(changed)).text
    first = found["first"]
    assert f"The first past an SNR of 10 dB is {first['op']} {first['position']} (" in text
    assert "an SNR of 9.0 dB, a largest error of 40.0% of the tensor's range" in text
    assert text.count("9.0 dB, first past the limit") == 2  # the chart and its description
    # infinitely bad is worse than -4 dB: nothing of the signal is left
    assert text.count("past the limit, worst") == 3  # in the chart, its description and the table
    assert "The worst is" in text
    assert "no signal is left" in text
    assert "−4.0 dB, past the limit" in text


def test_operators_without_a_counterpart_are_listed_in_a_fold(manifest: dict[str, Any]) -> None:
    changed = copy.deepcopy(manifest)
    lone = {"position": 7, "op": "CONV_2D", "tensor": "a/b/c", "shape": [1, 4], "reason": "its namesake differs"}
    changed["layer_errors"].update(only_a=[lone], only_b=[{**lone, "op": "PAD"}], outputs_alone=["boxes"])
    html = render(changed)
    text = Page(html).text
    assert "<details><summary>2 operators without a counterpart</summary>" in html
    assert "float model 7 CONV_2D b/c 1×4 its namesake differs" in text
    assert "bundle 7 PAD b/c" in text
    assert "for lack of a counterpart: the outputs boxes" in text
    assert "Most is lost on the way to" in text


def test_many_tensors_are_folded_away(manifest: dict[str, Any]) -> None:
    changed = copy.deepcopy(manifest)
    rows = changed["layer_errors"]["rows"]
    changed["layer_errors"]["rows"] = [{**rows[-1], "position": i, "tensor": f"m/layer_{i}/Relu"} for i in range(90)]
    text = Page(render(changed)).text
    assert "SNR of all 90 tensors" in text
    assert "All 90 tensors as a table" in text
    assert "layer_89/Relu" in text


def test_a_build_that_compressed_nothing_says_so(unmeasured: dict[str, Any]) -> None:
    unmeasured.update(layer_errors=None, techniques=[], search=None, sparsity_note=None)
    unmeasured["history"] = [r for r in unmeasured["history"] if r["stage"] not in ("quantize", "slim")]
    page = Page(render(unmeasured))
    assert "Nothing was compressed, so there is no float model to compare with." in page.text
    assert "The recipe changed nothing" in page.text
    assert [attrs["id"] for _, attrs in page.tags if "id" in attrs] == SECTIONS


@given(sizes=st.lists(st.tuples(st.integers(1, 10**9), st.none() | st.integers(1, 10**9)), min_size=1, max_size=8))
def test_bars_of_sizes_stay_in_the_picture(sizes: list[tuple[int, int | None]]) -> None:
    rows = [{"label": "a", "bytes": size, "packed": packed, "form": "xz"} for size, packed in sizes]
    drawn = Page(charts.sizes(rows)).tags
    edges = [float(a["x"] or 0) + float(a["width"] or 0) for tag, a in drawn if tag == "rect"]
    assert len(edges) == len(sizes) + sum(packed is not None for _, packed in sizes)
    assert max(edges) <= charts.WIDTH
