"""The command line as a user meets it: help, hints, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hornbook.cli import VERBS, main


def run_main(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = main(words)
    except SystemExit as left:  # argparse leaves this way after --help
        code = int(left.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_main(capsys, "--help")
    assert code == 0
    assert all(f"  {name} " in out for name in VERBS)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from hornbook.cli import main; main(['--help']);"
        "heavy = {'torch', 'pyarrow', 'numpy', 'jsonargparse', 'yaml'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = run_main(capsys, verb, "--help")
    assert code == 0
    assert VERBS[verb].description.split("\n")[0][:60] in " ".join(out.split())
    for section in VERBS[verb].sections:
        assert f"--{section}." in out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["pretrian"], "unknown command 'pretrian'. Did you mean 'pretrain'?"),
        (["pretrain", "--pretrain.stepz", "3"], "Did you mean --pretrain.steps?"),
        (["pretrain", "--steps", "3"], "Did you mean --pretrain.steps?"),
        (["pretrain", "--pretrain.steps", "x"], "pretrain.steps: expected int, got x"),
        (["pretrain", "extra"], "unexpected argument 'extra'"),
        (["pretrain"], "which run? Give --run DIR"),
        (["run"], "recipe"),
        (["run", "quickstrat"], "Did you mean 'quickstart'?"),
        (["recipes", "quickstrat"], "Did you mean 'quickstart'?"),
        (["generate", "nowhere"], "nowhere"),
        (["evaluate", "nowhere"], "nowhere"),
        (["export", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["inspect", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    code, out, err = run_main(capsys, *words)
    assert code == 2
    assert out == ""
    assert problem in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1


def test_dashes_and_underscores_are_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for option in ("--pretrain.stop-at-loss", "--pretrain.stop_at_loss"):
        words = ["pretrain", "--run", str(tmp_path / "run"), "--pretrain.steps", "1"]
        _, _, err = run_main(capsys, *words, option, "1.5")
        assert "pretrain needs tokenize" in err


def test_our_own_mistakes_exit_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("hornbook.commands.recipes", broken)
    code, _, err = run_main(capsys, "recipes")
    assert code == 1
    assert "internal error: ZeroDivisionError: oops" in err
    with pytest.raises(ZeroDivisionError):
        main(["recipes", "--debug"])


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_main(capsys, "recipes")
    assert code == 0
    assert "quickstart" in out
    assert "gpt2-124m" in out
    code, out, _ = run_main(capsys, "recipes", "quickstart")
    assert code == 0
    assert out.startswith("name: quickstart")
