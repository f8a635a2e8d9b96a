"""The feed notebooks run from top to bottom, as a reader would run them, but shortened."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import hornbook

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("fastapi")

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TOKEN = "a-token-of-the-test"

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    lines = [
        {"text": f"Once there was a number {n}. " + "It was told again. " * 20} for n in range(300)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def port() -> int:
    with socket.socket() as any_free:
        any_free.bind(("127.0.0.1", 0))
        return int(any_free.getsockname()[1])


def executed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **parameters: object) -> str:
    """What a notebook printed, with other parameters than it comes with."""
    notebook: Any = nbformat.read(NOTEBOOKS / name, as_version=4)
    (given,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    known = {line.split(" = ")[0] for line in given.source.splitlines()}
    assert all(any(name in each.split(", ") for each in known) for name in parameters)
    given.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
    scripts = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(hornbook.__file__).parents[1]))
    assert shutil.which("hornbook") == str(scripts / "hornbook")
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=500, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def test_the_server(
    tmp_path: Path, archive: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORNBOOK_FEED_TOKEN", TOKEN)
    said = executed(
        "data_feed_server.ipynb", tmp_path, monkeypatch,
        HORNBOOK="", ARCHIVE=str(archive), PORT=port, TUNNEL="", MINUTES=0,
    )  # fmt: skip
    assert f"http://127.0.0.1:{port}" in said
    assert '"number": 0' in said and "Once there was a number" in said
    assert "feed: stopped; everything that was made is in the log" in said


def test_the_trainer(
    tmp_path: Path, archive: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "model": {"preset": "llama-1m", "layers": 1},
        "tokenize": {"vocabulary": 300},
        "pretrain": {"steps": 5, "minutes": 0, "global_batch_tokens": 512, "sample_tokens": 5},
    }
    said = executed(
        "train_from_feed.ipynb", tmp_path, monkeypatch,
        HORNBOOK="", ARCHIVE=str(archive), PORT=port, CHANGES=changes,
    )  # fmt: skip
    run = tmp_path / "runs" / "from-a-feed"
    losses = [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").open()]
    assert max(line.get("step", 0) for line in losses) == 5
    assert "error:" in said  # the forecast refuses to extrapolate from five steps
    assert (run / "report.html").is_file()
