"""Bad input through the command line: each mistake is one clear line and exit code 2."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from hornbook.cli import main

PROSE = "\n\n".join(
    f"Line {n}: the {n % 7}th fox jumps over dog number {n * n % 101}." for n in range(400)
)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must be refused; returns its one line."""
    capsys.readouterr()
    code = main(words)
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def prepare(capsys: pytest.CaptureFixture[str], run: Path, path: Path) -> str:
    return refused(capsys, "prepare", str(path), "--run", str(run))


def write_bytes(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "input.txt"
        path.write_bytes(content)
        return path

    return write


def empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"


def broken(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (empty_folder, "there is no text in here"),
        (lambda folder: folder / "absent.txt", "absent.txt: no such file"),
        (write_bytes(b"caf\xe9 " * 500), "UTF-8"),
        (broken("texts.zip", b"PK\x03\x04 and then nothing of the kind" * 9), "not a readable zip"),
        (broken("texts.parquet", b"PAR1 and then nothing of the kind"), "not a readable parquet"),
        (write_bytes(b""), "is empty (0 bytes)"),
        (write_bytes(b"Too short to hold any out.\n"), "too little to hold any out"),
    ],
)
def test_text_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    make: Callable[[Path], Path],
    problem: str,
) -> None:
    assert problem.lower() in prepare(capsys, tmp_path / "run", make(tmp_path)).lower()


def test_a_zip_under_another_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sample.mp4"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inside/text.txt", PROSE)
    assert main(["prepare", str(path), "--run", str(tmp_path / "run")]) == 0


def test_one_enormous_line_is_cut_and_used(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_text(" ".join(f"word{n % 997}" for n in range(400_000)), encoding="utf-8")
    assert main(["prepare", str(path), "--run", str(tmp_path / "run")]) == 0


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory up to its tokens."""
    folder = tmp_path_factory.mktemp("tokenized")
    (folder / "prose.txt").write_text(PROSE, encoding="utf-8")
    run = folder / "run"
    small = ["--tokenize.vocabulary", "300", "--tokenize.encoder", "tokenizers"]
    assert main(["prepare", str(folder / "prose.txt"), "--run", str(run)]) == 0
    assert main(["tokenize", "--run", str(run), *small, "--tokenize.workers", "1"]) == 0
    return run


@pytest.fixture
def run(tokenized: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tokenized, tmp_path / "run"))


TINY = [
    "--model.preset", "llama-1m", "--model.layers", "1", "--model.width", "16",
    "--model.heads", "1", "--model.kv_heads", "1", "--model.context", "32",
    "--model.mlp_width", "32", "--pretrain.global_batch_tokens", "64",
    "--pretrain.precision", "fp32", "--pretrain.micro_batch", "2",
    "--pretrain.threads", "1", "--pretrain.tensorboard", "false", "--pretrain.sample_tokens", "2",
]  # fmt: skip
ON_CPU = ["--pretrain.device", "cpu"]


@pytest.fixture(scope="module")
def trained(tokenized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a model of two steps."""
    run = Path(shutil.copytree(tokenized, tmp_path_factory.mktemp("trained") / "run"))
    assert main(["pretrain", "--run", str(run), *TINY, "--pretrain.steps", "2"]) == 0
    return run


def test_a_vocabulary_larger_than_the_data_allows(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    line = refused(capsys, "tokenize", "--run", str(run), "--tokenize.vocabulary", "60000")
    assert "allows a vocabulary of only" in line


def test_a_context_longer_than_the_data(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    words = ["pretrain", "--run", str(run), *TINY, "--model.context", "100000"]
    line = refused(capsys, *words, "--pretrain.steps", "2")
    assert "tokens" in line
    assert "100,000" in line or "100,001" in line


def test_no_length_given(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    assert "pretrain.steps" in refused(capsys, "pretrain", "--run", str(run), *TINY)


def test_a_run_directory_of_another_recipe(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    line = refused(capsys, "run", "quickstart", "--run", str(run))
    assert "belongs to the recipe 'run', not 'quickstart'" in line


def test_a_checkpoint_of_another_architecture(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    assert main(["pretrain", "--run", str(run), *TINY, "--pretrain.steps", "2"]) == 0
    (checkpoint,) = (run / "pretrain" / "checkpoints").iterdir()
    other = shutil.copytree(run, run.parent / "other", ignore=shutil.ignore_patterns("pretrain"))
    words = ["pretrain", "--run", str(other), *TINY, "--model.width", "32"]
    line = refused(capsys, *words, "--init", str(checkpoint), "--pretrain.steps", "2")
    assert "width" in line


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--model.preset", "lama-1m"], "llama-1m"),
        (["--pretrain.steps", "0"], "pretrain.steps"),
        (["--pretrain.stop-at-loss", "soon"], "soon"),
        (["--init", "nowhere"], "nowhere"),
        (["--optimizer.learning_rate", "-1"], "optimizer.learning_rate"),
        (["--data.sequence_length", "-5"], "data.sequence_length"),
        (["--data.sequence_length", "5000"], "data.sequence_length"),
        (["--pretrain.sample_prompts", f"['{'word ' * 99}']"], "pretrain.sample_prompts"),
        (["--pretrain.float8", "true", *ON_CPU], "pretrain.float8"),
        (["--pretrain.attention", "cudnn", *ON_CPU], "pretrain.attention: cudnn is a kernel"),
        (["--pretrain.cross_entropy", "fused", *ON_CPU], "pretrain.cross_entropy: fused needs"),
        (["--pretrain.activation_checkpointing", "budget", *ON_CPU], "by the compiler"),
        # Gone on from the checkpoint, and refused when the machine is looked at.
        (["--pretrain.steps", "4", "--pretrain.cuda_graph", "on", *ON_CPU], "an NVIDIA GPU"),
    ],
)
def test_a_refused_setting_leaves_the_trained_model_and_its_recipe(
    capsys: pytest.CaptureFixture[str],
    trained: Path,
    tmp_path: Path,
    options: list[str],
    problem: str,
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    recipe = (run / "recipe.yaml").read_text()
    assert problem in refused(capsys, "pretrain", "--run", str(run), *options)
    assert (run / "recipe.yaml").read_text() == recipe
    assert (run / "pretrain" / "checkpoints").is_dir()
    assert not (run / "retired").exists()


def test_a_full_disk_while_training(
    capsys: pytest.CaptureFixture[str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def full(descriptor: int | IO[Any]) -> None:
        where = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if "checkpoints" in where:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    line = refused(capsys, "pretrain", "--run", str(run), *TINY, "--pretrain.steps", "2")
    assert "the disk is full" in line
    monkeypatch.undo()
    assert main(["pretrain", "--run", str(run), *TINY, "--pretrain.steps", "2"]) == 0


def test_a_truncated_shard_is_named(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    shard = run / "tokenize" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    line = refused(capsys, "pretrain", "--run", str(run), *TINY, "--pretrain.steps", "2")
    assert "train-00000.bin" in line
    assert "hornbook tokenize --again" in line
    assert main(["tokenize", "--run", str(run), "--again"]) == 0
    assert main(["pretrain", "--run", str(run), *TINY, "--pretrain.steps", "2"]) == 0


def test_a_read_only_run_directory(
    capsys: pytest.CaptureFixture[str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: the tests may run as root, whom permissions do not stop."""
    real_open = os.open

    def refuse(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if str(run) in str(path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_open(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    line = refused(capsys, "pretrain", "--run", str(run), *TINY, "--pretrain.steps", "2")
    assert "cannot write here" in line
