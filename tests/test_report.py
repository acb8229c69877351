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

SECTIONS = ["comparison", "gates", "stages", "graph", "sparsity", "latency", "parity", "operators", "data",
            "environment", "reproduce"]  # fmt: skip
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
        self._row = self._of = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), (tag, attrs)
        self.tags.append((tag, found))
        self._row = found.get("data-figure") or self._row
        self._of = found.get("data-of") or ("" if tag == "td" else self._of)
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
    changed["optimization"].update(before={}, layers=[], summary={})
    changed["model"].update(format=TFLITE, layers=[], sha256="0" * 64)
    return {**changed, "measurement": None, "data": None}


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
