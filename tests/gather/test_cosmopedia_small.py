"""The recipe cosmopedia-small on stand-ins with real text: from four sources to token shards."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pytest_httpserver import HTTPServer
from tests.gather import own_site
from tests.gather.hub_server import Hub, serve_hub
from tests.gather.own_youtube import CHANNEL, KEY, UPLOADS, OwnYoutube, session_to
from tests.gather.scripted import in_process, kill_self, shards_of
from tests.mediawiki import MediaWiki, mediawiki  # noqa: F401

from hornbook.documents import byte_length, read_documents
from hornbook.files import read_json
from hornbook.gather.journal import Journal
from hornbook.gathering import gather
from hornbook.recipe import Recipe, load_recipe
from hornbook.run import RunDirectory
from hornbook.stages import run_stages

pytestmark = [
    pytest.mark.long,
    pytest.mark.shared,
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL"),
]


@pytest.fixture
def recipe(
    shared_data: Path,
    mediawiki: MediaWiki,  # noqa: F811
    httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """The built-in recipe, smaller, with every address on this machine."""
    lines = pa.input_stream(str(shared_data / "wikipedia-en-sample.jsonl.zst")).read(6 * 10**6)
    rows = [json.loads(line) for line in lines.decode("utf-8", "ignore").split("\n")[:-1]]
    files = {}
    for number in range(3):
        file = io.BytesIO()
        part = [{"prompt": "about it", "text": row["text"]} for row in rows[number::3]]
        pq.write_table(pa.Table.from_pylist(part), file, row_group_size=50)
        files[f"data/part-{number}.parquet"] = file.getvalue()
    monkeypatch.setenv("YOUTUBE_API_KEY", KEY)
    youtube = OwnYoutube({UPLOADS[CHANNEL]: [f"video-{number:05d}" for number in range(6)]})
    session = session_to(httpserver.url_for(""))
    monkeypatch.setattr("hornbook.gather.youtube.open_session", lambda: session)
    recipe = load_recipe("cosmopedia-small")
    recipe.gather.network.contact = "tests@example.org"
    recipe.gather.network.allow_private = True
    recipe.gather.network.requests_per_minute = 60_000.0
    recipe.gather.megabytes, recipe.gather.shard_megabytes = 2.0, 1
    recipe.tokenize.vocabulary = 1024
    with serve_hub(Hub("HuggingFaceTB/cosmopedia", files)) as hub:
        changes: dict[str, dict[str, Any]] = {
            "hub": {"endpoint": hub.url},
            "wikipedia": {"api_url": mediawiki.api_url},
            "britannica": {
                "site": own_site.serve(httpserver),
                "queries": ["tide", "ship"],
                "i_have_permission": True,
            },
            "youtube": {
                "api_url": youtube.serve(httpserver),
                "channels": [CHANNEL],
                "seconds_between": 0.0,
            },
        }
        for source in recipe.gather.sources:
            source.settings |= changes[source.source]
        yield recipe


def test_from_four_sources_to_tokens(recipe: Recipe, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.adopt(recipe)
    assert run_stages(recipe, run, ["gather", "prepare", "tokenize"])
    gathered = Counter[str]()
    for document in read_documents(run.folder("gather")):
        assert document.text.strip() and document.id
        gathered[document.source] += byte_length(document.text)
    report = read_json(run.folder("gather") / "gather.json")
    assert report["bytes"] == gathered.total() >= 2_000_000
    assert len(gathered) == 4 and len(report["shards"]) == 2
    share = report["counts"]["bytes of cosmopedia"] / gathered.total()
    assert 0.8 < share < 1, "as weighted, and more where another source ended early"
    prepared = read_json(run.folder("prepare") / "prepare.json")
    assert prepared["kept"]["documents"] > 100
    tokens = read_json(run.folder("tokenize") / "manifest.json")
    assert sum(shard["tokens"] for shard in tokens["shards"]) > 300_000


def test_killed_three_times_it_gathers_the_same(recipe: Recipe, tmp_path: Path) -> None:
    gather(recipe.gather, tmp_path / "whole")

    def killed_after(steps: int) -> None:
        step, left = Journal.step, steps

        def counted(journal: Journal) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                kill_self()
            step(journal)

        Journal.step = counted  # type: ignore[method-assign]
        gather(recipe.gather, tmp_path / "killed")

    for steps in (5, 60, 70):
        assert in_process(lambda steps=steps: killed_after(steps)) == -9  # type: ignore[misc]
    gather(recipe.gather, tmp_path / "killed")
    assert shards_of(tmp_path / "killed") == shards_of(tmp_path / "whole")
