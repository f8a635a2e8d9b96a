"""The page: what is on it, that it is safe, light and complete at every stage of a run."""

from __future__ import annotations

import base64
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from hornbook.errors import HornbookError
from hornbook.report.build import build_report, distinct_names

HOSTILE = "</script><script>document.documentElement.dataset.hacked=1</script><img src=x onerror=y>"
SECTIONS = ["numbers", "curves", "samples", "evaluation", "data", "recipe", "words", "reproduce"]
VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """Tags, attributes and the visible text of a page, by section; checks that tags are closed."""

    def __init__(self, html: str):
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.sections: dict[str, str] = {"": ""}
        self.scripts: list[str] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self._section = ""
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = attributes["id"]
            self.sections[self._section] = ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self._open[-1:] != ["style"]:
            self.sections[self._section] += data

    @property
    def charts(self) -> dict[str, object]:
        """The JSON that the page's script draws."""
        return json.loads(self.scripts[0])


def page_of(*runs: Path) -> Page:
    out = build_report(list(runs), runs[0].parent / "report.html")
    return Page(out.read_text(encoding="utf-8"))


def test_a_finished_run_has_every_part(new_run: Callable[..., Path]) -> None:
    page = page_of(new_run())
    assert [name for name in page.sections if name] == SECTIONS
    links = {a["href"] for tag, a in page.tags if tag == "a"}
    assert links == {f"#{name}" for name in SECTIONS}
    assert len(page.ids) == len(set(page.ids))
    expected = {
        "": ["shakespeare", "bits per byte", "600 steps", "A small model of Shakespeare's plays."],
        "numbers": ["1.722", "3.700", "40.45", "5.87 million", "4.92 million", "4.94 MB"],
        "curves": ["Loss", "Learning rate", "Gradient norm", "Speed", "Waiting for data", "Memory",
                   "Loss spike", "Resumed", "Held-out loss"],
        "samples": ["ROMEO:", "Step 100", "Step 600", "the beginning of a document", "HAMLET"],
        "evaluation": ["1.722", "84,211", "validation"],
        "data": ["public domain", "1.59 million", "5.0 %", "40", "Exact copy", "4,096 tokens",
                 "From fairest creatures", "cut at blank lines"],
        "recipe": ["learning_rate: 0.001", "2.13.0", "AMD EPYC", "bf16 is slower here",
                   "16 rows from step 1, 8 rows from step 250"],
        "words": ["Bits per byte", "Perplexity"],
        "reproduce": ["hornbook run recipe.yaml --run runs/shakespeare", "0.1.0"],
    }  # fmt: skip
    for section, texts in expected.items():
        for text in texts:
            assert text in page.sections[section], (section, text)


def test_headings_descend_and_charts_are_described(new_run: Callable[..., Path]) -> None:
    page = page_of(new_run(steps=100))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    charts = [a for _, a in page.tags if a.get("class") == "chart"]
    assert charts and all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in charts)
    assert ("html", {"lang": "en"}) in page.tags


def test_nothing_is_loaded_from_anywhere(new_run: Callable[..., Path]) -> None:
    page = page_of(new_run())
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if name in attributes:
                assert attributes[name].startswith(("#", "data:,")), (tag, attributes)
    style = re.search(r"<style>(.*?)</style>", page.html, re.DOTALL)
    assert style and "url(" not in style[1] and "@import" not in style[1]
    assert all(word not in script for script in page.scripts[1:]
               for word in ("fetch(", "XMLHttpRequest", "import(", "sendBeacon"))  # fmt: skip


def test_only_the_pages_own_scripts_may_run(new_run: Callable[..., Path]) -> None:
    page = page_of(new_run(steps=50))
    policy = next(a["content"] for _, a in page.tags
                  if a.get("http-equiv") == "Content-Security-Policy")  # fmt: skip
    for script in page.scripts[1:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy.split("script-src")[1]
    assert "Permission is hereby granted" in page.scripts[1]


def poison(folder: Path) -> None:
    """Put hostile text wherever a stage copies text from outside."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["description"] = HOSTILE
    recipe["prepare"]["inputs"] = [HOSTILE]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for name in ("samples", "metrics"):
        lines = [
            {"step": 51, "prompt": HOSTILE, "text": HOSTILE + "\0\ud800"},
            {"step": 51, "event": HOSTILE, "message": HOSTILE},
        ]
        with open(folder / "pretrain" / f"{name}.jsonl", "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    prepare = folder / "prepare" / "prepare.json"
    report = json.loads(prepare.read_text())
    report["dropped"] = {HOSTILE: {"documents": 1, "bytes": 1, "samples": [{"text": HOSTILE}]}}
    report["sources"] = report["licences"] = {HOSTILE: {"documents": 1, "bytes": 1}}
    report["messages"] = [HOSTILE]
    prepare.write_text(json.dumps(report))
    for stage in ("pretrain", "evaluate"):
        path = folder / stage / "stage.json"
        failed = {"outcome": "failed", "summary": {"error": HOSTILE}, "versions": {HOSTILE: "1"}}
        path.write_text(json.dumps(json.loads(path.read_text()) | failed))
    (folder / "pretrain" / "machine.json").write_text(json.dumps({"device": HOSTILE}))
    evaluation = {"split": HOSTILE, "model": HOSTILE, "step": 50, "loss": 1.0, HOSTILE: 2.0}
    with open(folder / "evaluate" / "evals.jsonl", "a") as file:
        file.write(json.dumps(evaluation) + "\n")


@pytest.mark.parametrize("several", [False, True])
def test_hostile_text_stays_text(new_run: Callable[..., Path], several: bool) -> None:
    folder = new_run("<script>", steps=50)
    other = new_run("other", steps=60)
    clean = page_of(*([folder, other] if several else [folder]))
    poison(folder)
    page = page_of(*([folder, other] if several else [folder]))
    assert len(page.scripts) == len(clean.scripts) == 3
    assert page.scripts[1:] == clean.scripts[1:]
    tags = {tag for tag, _ in page.tags}
    assert "img" not in tags
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    shown = "samples" if several else "data"
    assert HOSTILE in page.sections[shown] and HOSTILE in page.sections[""]


def test_half_a_character_and_nul_can_be_shown(new_run: Callable[..., Path]) -> None:
    folder = new_run(steps=50)
    with open(folder / "pretrain" / "samples.jsonl", "a") as file:
        file.write(json.dumps({"step": 50, "prompt": "p", "text": "a\ud800b\0c\u2028d"}) + "\n")
    assert "a?b\ufffdc\u2028d" in page_of(folder).sections["samples"]


def test_a_typical_page_is_light(new_run: Callable[..., Path]) -> None:
    assert len(page_of(new_run(steps=5000)).html.encode()) < 300_000
    runs = [new_run(f"r{i}", steps=1000, seed=i) for i in range(4)]
    assert len(page_of(*runs).html.encode()) < 400_000


def test_before_anything_ran(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: new\nmodel:\n  preset: llama-5m\n")
    page = page_of(folder)
    assert "A model (llama-5m) is to be trained. No training step" in page.sections[""]
    assert "There are no numbers yet" in page.sections["numbers"]
    assert "No training step has been logged yet" in page.sections["curves"]
    assert "No samples have been written yet" in page.sections["samples"]
    assert "Nothing is known of the data yet" in page.sections["data"]
    assert page.charts["charts"] == []


def test_after_prepare_only(new_run: Callable[..., Path]) -> None:
    folder = new_run(steps=20)
    for stage in ("tokenize", "pretrain", "evaluate"):
        shutil.rmtree(folder / stage)
    page = page_of(folder)
    assert "is to be trained on text from shakespeare" in page.sections[""]
    assert "not been turned into tokens yet" in page.sections["data"]
    assert "5.31 MB" in page.sections["data"] and "4,061" in page.sections["data"]


def test_while_training_goes_on(new_run: Callable[..., Path]) -> None:
    folder = new_run(steps=400, logged=100, outcome="running", evaluated=False)
    with open(folder / "pretrain" / "metrics.jsonl", "a") as metrics:
        metrics.write('{"step": 101, "lo')
    page = page_of(folder)
    assert "The run is going on: 100 steps (25.0 % of the 400 steps" in page.sections[""]
    assert "The evaluate stage has not been run" in page.sections["evaluation"]
    assert "unreadable" not in page.sections[""]


def test_several_runs_side_by_side(new_run: Callable[..., Path]) -> None:
    runs = [
        new_run("slow", peak=1e-3),
        new_run("fast", peak=2e-3, floor=2.5, steps=500),
        new_run("young", logged=200, outcome="running", evaluated=False),
    ]
    page = page_of(*runs)
    assert [run["name"] for run in page.charts["runs"]] == ["slow", "fast", "young"]
    loss = page.charts["charts"][0]
    assert {curve["run"] for curve in loss["curves"]} == {0, 1, 2}
    differences = page.sections["differences"]
    assert "optimizer.learning_rate" in differences and "pretrain.steps" in differences
    assert "0.002" in differences and "500" in differences
    assert "tokenize.vocabulary" not in differences and "description" not in differences
    assert all(text in page.sections["evaluation"] for text in ("slow", "fast", "1.722", "1.536"))
    assert "All of these runs have the same data" in page.sections["data"]
    assert "slow, step 600" in page.sections["samples"]
    assert "step 500" not in page.sections["samples"].replace("fast, step 498", "")


def test_runs_with_other_data_are_told_apart(new_run: Callable[..., Path]) -> None:
    runs = [new_run("one", steps=20), new_run("two", steps=20)]
    path = runs[1] / "tokenize" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["totals"]["train"]["sources"] = {"wikipedia": 7}
    path.write_text(json.dumps(manifest))
    page = page_of(*runs)
    assert "wikipedia" in page.sections["data"] and "same data" not in page.sections["data"]
    assert "The recipes of these runs are the same" in page.sections["differences"]


def test_a_mixture_is_shown_with_its_shares(new_run: Callable[..., Path]) -> None:
    folder = new_run(steps=20)
    sources = [
        {"path": str(new_run(name, steps=5) / "tokenize"), "weight": weight}
        for name, weight in (("plays", 3.0), ("laws", 1.0))
    ]
    sources.append({"path": "not/here", "weight": 0})
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["data"]["sources"] = sources
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    page = page_of(folder)
    assert "75.0 %" in page.sections["data"] and "25.0 %" in page.sections["data"]
    assert "plays/tokenize" in page.sections["data"]
    assert "trained from random weights on 9.87 MB of text" in page.sections[""]


def test_many_samples_are_thinned_out(new_run: Callable[..., Path]) -> None:
    folder = new_run(steps=20)
    lines = [{"step": i, "prompt": "p", "text": "t" * 5000} for i in range(1, 101)]
    path = folder / "pretrain" / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page_of(folder).sections["samples"]
    assert "8 of 100 are shown" in text and "Step 1\n" not in text
    assert len(re.findall(r"Step \d+", text)) == 8
    assert re.search(r"Step 1p", text) and re.search(r"Step 100p", text)
    assert len(text) < 12_000


def test_a_run_of_unknown_format_still_gives_a_page(new_run: Callable[..., Path]) -> None:
    """Every file holds JSON of a shape that nobody expects."""
    folder = new_run(steps=20)
    odd = {"totals": [], "splits": 3, "dropped": {"x": None}, "sources": "y", "read": [],
           "messages": {"a": 1}, "versions": "1", "outcome": 5, "summary": [], "reasons": 1,
           "micro_batches": [1, 2], "vocabulary": "many", "family": None}  # fmt: skip
    for path in folder.rglob("*.json"):
        path.write_text(json.dumps(odd))
    for path in folder.rglob("*.jsonl"):
        path.write_text(json.dumps(odd) + "\n" + '{"step": "x", "text": 5, "prompt": null}\n')
    (folder / "recipe.yaml").write_text("model: 3\npretrain: [1]\nprepare:\n  inputs: 5\n")
    page = page_of(folder)
    assert [name for name in page.sections if name] == SECTIONS


def test_names_that_are_alike_get_their_parents(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"]
    assert distinct_names(paths[:2]) == ["a/run", "b/run"]
    assert distinct_names(paths[1:]) == ["run", "c"]


def test_wrong_uses_are_refused(new_run: Callable[..., Path], tmp_path: Path) -> None:
    folder, out = new_run(steps=5), tmp_path / "report.html"
    with pytest.raises(HornbookError, match="no run directory given"):
        build_report([], out)
    with pytest.raises(HornbookError, match="given twice"):
        build_report([folder, folder / ".." / "shakespeare"], out)
    with pytest.raises(HornbookError, match="at most 8 runs"):
        build_report([folder] * 9, out)
    assert not out.exists()


def test_a_full_disk_leaves_the_earlier_page(
    new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_run(steps=5)
    out = build_report([folder], folder / "report.html")
    before = out.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HornbookError, match="the disk is full"):
        build_report([folder], out)
    assert out.read_bytes() == before
    assert [path.name for path in folder.glob("report*")] == ["report.html"]
