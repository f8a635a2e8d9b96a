"""The whole road on real text through the command line, as a user walks it."""

from __future__ import annotations

import argparse
import json
import mailbox
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hornbook.cli import main
from hornbook.files import read_json

SMALL = [
    "--tokenize.vocabulary", "512", "--tokenize.encoder", "tokenizers", "--tokenize.workers", "1",
    "--model.preset", "llama-1m", "--model.layers", "2", "--model.width", "32",
    "--model.heads", "2", "--model.kv_heads", "2", "--model.context", "64",
    "--model.mlp_width", "64", "--pretrain.minutes", "0", "--pretrain.global_batch_tokens", "256",
    "--pretrain.micro_batch", "4", "--pretrain.precision", "fp32", "--pretrain.threads", "1",
    "--pretrain.evaluate_tokens", "1024", "--pretrain.evaluate_every", "10",
    "--pretrain.sample_every", "10", "--pretrain.sample_tokens", "8",
    "--pretrain.tensorboard", "false", "--evaluate.max_tokens", "2000",
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real text that every Python has: the sources of some of its modules, as .txt."""
    folder = tmp_path_factory.mktemp("text")
    for module in (argparse, mailbox, tarfile):
        assert module.__file__
        source = Path(module.__file__).read_text(encoding="utf-8")
        (folder / f"{module.__name__}.txt").write_text(source, encoding="utf-8")
    return folder


def words(run: Path, text: Path, steps: int) -> list[str]:
    """The command line of a small run."""
    inputs = ["--prepare.inputs", str(text)]
    return ["run", "quickstart", "--run", str(run), *inputs, *SMALL, "--pretrain.steps", str(steps)]


def losses(run: Path) -> list[tuple[int, float]]:
    lines = (run / "pretrain" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["step"], r["loss"]) for r in records if "loss" in r]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A finished small run of 20 steps."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert main(words(folder, text, 20)) == 0
    return folder


def test_every_stage_leaves_what_it_promises(run: Path) -> None:
    for stage in ("prepare", "tokenize", "pretrain", "evaluate", "export"):
        assert read_json(run / stage / "stage.json")["outcome"] == "done"
    assert [step for step, _ in losses(run)] == list(range(1, 21))
    assert losses(run)[-1][1] < losses(run)[0][1]
    samples = (run / "pretrain" / "samples.jsonl").read_text().splitlines()
    assert {json.loads(line)["step"] for line in samples} == {10, 20}
    page = (run / "report.html").read_text()
    assert "bits per byte" in page
    evaluation = json.loads((run / "evaluate" / "evals.jsonl").read_text())
    assert 0 < evaluation["bits_per_byte"] < 8
    manifest = read_json(run / "tokenize" / "manifest.json")
    assert manifest["vocabulary"] == 512


def test_stock_transformers_loads_the_export_and_agrees(run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hornbook.tokenizer.tokenizer import Tokenizer
    from hornbook.train.load import load_model

    stock = AutoModelForCausalLM.from_pretrained(run / "export")
    stock_tokenizer = AutoTokenizer.from_pretrained(run / "export")
    loaded = load_model(run)
    tokenizer = Tokenizer.load(loaded.tokenizer_file)
    line = "def parse(self, arguments):  # naïve 東京 🙂\n"
    ids = tokenizer.encode(line)
    assert stock_tokenizer(line, add_special_tokens=False)["input_ids"] == ids
    assert stock_tokenizer.decode(ids) == line
    with torch.no_grad():
        ours = loaded.decoder(torch.tensor([ids]))[..., : tokenizer.size]
        theirs = stock(torch.tensor([ids])).logits[..., : tokenizer.size]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_export_measures_as_the_run_does(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = []
    for model in (run, run / "export"):
        options = ["--evaluate.text", str(text / "mailbox.txt"), "--evaluate.max_tokens", "1500"]
        assert main(["evaluate", str(model), "--json", "--out", str(run / "x"), *options]) == 0
        measured.append(json.loads(capsys.readouterr().out)["bits_per_byte"])
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)


def test_generate_and_inspect_show_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = ["--generate.temperature", "0", "--generate.max_tokens", "8"]
    assert main(["generate", str(run), "import", *greedy]) == 0
    ours = capsys.readouterr().out
    assert ours.startswith("import")
    assert main(["generate", str(run / "export"), "import", *greedy]) == 0
    assert capsys.readouterr().out == ours
    assert main(["inspect", str(run), "--rows", "1"]) == 0
    assert "target" in capsys.readouterr().out


def test_a_prompt_longer_than_the_context_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(run), "import os " * 100]) == 2
    assert "the model's context holds 64" in capsys.readouterr().err


def test_running_again_skips_and_a_raised_horizon_continues(
    tmp_path: Path, text: Path, run: Path
) -> None:
    folder = tmp_path / "again"
    assert main(words(folder, text, 10)) == 0
    manifest = (folder / "tokenize" / "manifest.json").stat().st_mtime_ns
    assert main(words(folder, text, 10)) == 0
    assert len(losses(folder)) == 10
    assert main(words(folder, text, 14)) == 0
    assert (folder / "tokenize" / "manifest.json").stat().st_mtime_ns == manifest
    assert [step for step, _ in losses(folder)] == list(range(1, 15))
    assert not (folder / "retired").exists()


def test_a_model_trained_anew_is_measured_and_exported_anew(tmp_path: Path, text: Path) -> None:
    """The same number of steps with another learning rate gives another model."""
    folder = tmp_path / "anew"
    assert main(words(folder, text, 2)) == 0
    before = (folder / "export" / "model.safetensors").read_bytes()
    assert main([*words(folder, text, 2), "--optimizer.learning_rate", "0.01"]) == 0
    assert (folder / "export" / "model.safetensors").read_bytes() != before
    evaluations = (folder / "evaluate" / "evals.jsonl").read_text().splitlines()
    assert len({json.loads(line)["loss"] for line in evaluations}) == 2


def test_quickstart_goes_on_with_the_recipe_of_its_run_directory(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "recipe.yaml").read_text()
    assert main(["quickstart", "--run", str(run)]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("done already") == 5
    assert "held-out bits per byte" in shown.out
    assert "--pretrain.steps 60" in shown.out
    assert (run / "recipe.yaml").read_text() == before


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hornbook.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def test_interrupted_it_saves_and_the_same_command_goes_on_bit_for_bit(
    tmp_path: Path, text: Path, run: Path
) -> None:
    folder = tmp_path / "interrupted"
    process = start(words(folder, text, 20))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        metrics = folder / "pretrain" / "metrics.jsonl"
        if metrics.exists() and metrics.read_text().count('"loss"') >= 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=120)
    if process.returncode != 0:  # a quick machine may have finished first
        assert process.returncode == 130, messages
        assert "goes on from here" in messages
        assert read_json(folder / "pretrain" / "stage.json")["outcome"] == "stopped"
    assert main(words(folder, text, 20)) == 0
    assert losses(folder) == losses(run)
