"""The recipe `feed-cpu` through the command line: a feed, and a run that has no other text."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.feed.feed_process import FeedProcess, free_port

from hornbook.cli import main
from hornbook.files import read_json
from hornbook.recipe import load_recipe

SMALL = [
    "--tokenize.vocabulary", "512", "--tokenize.encoder", "tokenizers", "--tokenize.workers", "1",
    "--model.layers", "2", "--model.width", "32", "--model.heads", "2", "--model.kv_heads", "2",
    "--model.head_dim", "16", "--model.context", "64", "--model.mlp_width", "64",
    "--pretrain.minutes", "0", "--pretrain.global_batch_tokens", "256",
    "--pretrain.precision", "fp32", "--pretrain.threads", "1", "--pretrain.evaluate_tokens", "1024",
    "--pretrain.sample_tokens", "8", "--pretrain.tensorboard", "false",
    "--pretrain.epoch_steps", "4", "--evaluate.max_tokens", "2000",
]  # fmt: skip


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedProcess]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "archive.jsonl").write_text(archive_lines())
    options = ["--feed.archive", str(folder / "archive.jsonl"), "--feed.teachers", "[]"]
    served = FeedProcess(
        "feed-cpu", "--feed.folder", str(folder / "feed"), *options, said=folder / "said"
    )
    served.start()
    yield served
    served.kill()


def archive_lines() -> str:
    """Real text that every Python has: the source of a module, in 60 pieces."""
    source = Path(argparse.__file__).read_text(encoding="utf-8")
    size = len(source) // 60
    pieces = [source[begin : begin + size] for begin in range(0, 60 * size, size)]
    return "".join(json.dumps({"text": piece}) + "\n" for piece in pieces)


def words(feed: FeedProcess, run: Path, steps: int) -> list[str]:
    more = ["--data.feed", feed.url, "--pretrain.steps", str(steps)]
    return ["run", "feed-cpu", "--run", str(run), *SMALL, *more]


def test_a_run_whose_text_is_all_a_feeds(
    tmp_path: Path, feed: FeedProcess, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(words(feed, run, 10)) == 0
    said = capfd.readouterr()
    assert "Epoch: 0003 Step count: 2 loss = " in said.out
    assert (run / "pretrain" / "train.log").read_text().count("\n") == 10
    prepared = read_json(run / "prepare" / "prepare.json")
    assert prepared["splits"]["validation"]["documents"] == 6, "a tenth of the archive"
    assert prepared["splits"]["train"]["documents"] == 1000
    for stage in ("prepare", "tokenize", "pretrain", "evaluate", "export"):
        assert read_json(run / stage / "stage.json")["outcome"] == "done"
    assert "bits per byte" in (run / "report.html").read_text()

    assert main(["inspect", str(run)]) == 0
    assert "what the run trains on comes from its feed" in capfd.readouterr().err.replace("\n", " ")

    alone = ["pretrain", "--recipe", "feed-cpu", "--run", str(tmp_path / "other")]
    mine = ("--model", "--data", "--pretrain")
    given = words(feed, run, 2)[4:]
    pairs = zip(given[::2], given[1::2], strict=True)
    more = [word for pair in pairs if pair[0].startswith(mine) for word in pair]
    assert main([*alone, *more]) == 0
    assert read_json(tmp_path / "other" / "pretrain" / "stage.json")["outcome"] == "done"
    capfd.readouterr()

    assert main(words(feed, run, 12)) == 0
    said = capfd.readouterr()
    assert "prepare: done already" in said.err
    assert "Epoch: 0003 Step count: 3 loss = " in said.out
    assert "Epoch: 0003 Step count: 2 " not in said.out

    record = run / "pretrain" / "stage.json"  # as if killed after the last checkpoint
    record.write_text(record.read_text().replace('"outcome": "done"', '"outcome": "running"'))
    nowhere = ["--data.feed", f"http://127.0.0.1:{free_port()}"]
    assert main([*words(feed, run, 12), *nowhere]) == 0
    assert read_json(record)["outcome"] == "done"


def test_a_feed_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error after the set time."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    impatient = ["--data.feed", nowhere, "--data.feed_give_up_minutes", "0.01"]
    assert main(["run", "feed-cpu", "--run", str(tmp_path / "run"), *impatient]) == 2
    assert f"error: {nowhere}: gave nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--data.mode", "windows", "data.mode: must be chunks: a feed's texts come in their order"),
        ("--data.feed", "nonsense", "'nonsense' is no address of a feed"),
        ("--data.feed_batch", "0", "data.feed_batch: must be at least 1"),
    ],
)
def test_settings_that_a_feed_cannot_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    assert main(["run", "feed-cpu", "--run", str(tmp_path / "run"), option, value]) == 2
    assert said in capsys.readouterr().err


def test_phi2_feed_is_phi2_40gb_on_a_feed() -> None:
    feed, text = load_recipe("phi2-feed"), load_recipe("phi2-40gb")
    assert (feed.model, feed.tokenize) == (text.model, text.tokenize)
    assert feed.data.sequence_length == text.data.sequence_length
    assert feed.optimizer.kind == text.optimizer.kind
    assert feed.pretrain.stop_at_loss == "initial-1"
    assert (feed.pretrain.log_style, feed.pretrain.epoch_steps) == ("lines", 30)


@pytest.mark.long
def test_archive_and_teacher_of_ones_own(tmp_path: Path) -> None:
    """As the recipe says: the quickstart's text is the archive, and its model the teacher."""
    taught, run = tmp_path / "quickstart", tmp_path / "run"
    (tmp_path / "texts.jsonl").write_text(archive_lines())
    inputs = ["--prepare.inputs", f'["{tmp_path / "texts.jsonl"}"]']
    steps = ["--pretrain.steps", "30"]
    assert main(["run", "quickstart", "--run", str(taught), *inputs, *SMALL, *steps]) == 0
    teacher = {"kind": "hornbook", "model": str(taught), "weight": 0.3, "max_tokens": 60}
    served = FeedProcess(
        "feed-cpu", "--feed.folder", str(tmp_path / "feed"), "--feed.fill_in", "false",
        "--feed.archive", str(taught / "prepare" / "train"), "--feed.ahead_texts", "60",
        "--feed.teachers", json.dumps([teacher]), said=tmp_path / "said",
    )  # fmt: skip
    served.start()
    try:
        assert main(words(served, run, 200)) == 0
        made = httpx2.get(f"{served.url}/stats").json()["production"]["produced"]
    finally:
        served.kill()
    assert made["archive"] > 0
    assert made["teacher:quickstart"] > 0
    lines = (run / "pretrain" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if '"loss"' in line]
    assert losses[-1] < losses[0] - 1
