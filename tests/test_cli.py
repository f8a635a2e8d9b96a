"""The command line as a user meets it: help, hints, exit codes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hornbook.cli import main
from hornbook.commands import _show_outcome
from hornbook.recipe import Recipe, load_recipe
from hornbook.run import RunDirectory
from hornbook.verbs import VERBS


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


def test_help_names_the_short_options(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run_main(capsys, "plan", "--help")
    assert "Short: --gpus." in " ".join(out.split())


def test_the_help_of_quickstart_shows_its_own_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = run_main(capsys, "quickstart", "--help")
    assert "default: llama-1m" in out
    assert "default: 3" in " ".join(out.partition("--pretrain.minutes MINUTES")[2].split())[:200]
    assert all(len(line) <= 96 for line in out.splitlines())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["pretrian"], "unknown command 'pretrian'. Did you mean 'pretrain'?"),
        (["pretrain", "--pretrain.stepz", "3"], "Did you mean --pretrain.steps?"),
        (["pretrain", "--steps", "3"], "Did you mean --pretrain.steps?"),
        (["pretrain", "--pretrain.steps", "x"], "pretrain.steps: expected int, got x"),
        (["pretrain", "extra"], "unexpected argument 'extra'"),
        (["pretrain"], "which run? Give --run DIR"),
        (["run"], "NAME|FILE|RUN must be given"),
        (["run", "gpt2-124m"], "nothing was named to read"),
        (["pretrain", "--feed", "x"], "unknown option --feed"),
        (["run", "quickstrat"], "Did you mean 'quickstart'?"),
        (["recipes", "quickstrat"], "Did you mean 'quickstart'?"),
        (["generate", "nowhere"], "nowhere"),
        (["generate", "nowhere", "--device", "gpu"], "device: expected one of"),
        (["feed", "server"], "error: serve|read|check: expected one of"),
        (["evaluate", "nowhere"], "nowhere"),
        (["export", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["inspect", "nowhere"], "nowhere: is no run directory"),
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


def test_a_file_where_a_folder_is_needed_and_the_other_way_round(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run, file = tmp_path / "run", tmp_path / "file.txt"
    RunDirectory(run).adopt(Recipe())
    file.write_text("text")
    for words in (
        ["prepare", str(file), "--run", str(file)],
        ["prepare", str(file), "--run", str(file / "run")],
        ["report", str(run), "--out", str(run)],
        ["report", str(run), "--out", str(file / "page.html")],
    ):
        code, _, err = run_main(capsys, *words)
        assert code == 2, err
        assert "Choose another name" in err


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


PRINTS = "import sys; from hornbook import cli; cli._dispatch = lambda words: print({!r}) or 0;"
LEAVES = "sys.exit(cli.main(['x']))"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS.format("held back until the exit") + LEAVES],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0


def test_text_that_the_terminal_cannot_show_is_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTS.format("東京 ok") + LEAVES],
        capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "?? ok\n")


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_main(capsys, "recipes")
    assert code == 0
    assert "quickstart" in out
    assert "gpt2-124m" in out
    code, out, _ = run_main(capsys, "recipes", "quickstart")
    assert code == 0
    assert out.startswith("name: quickstart")


def recipes_of_runs(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that commands would run from now on; no stage is run."""
    seen: list[Recipe] = []

    def note(recipe: Recipe, *_: object, **__: object) -> bool:
        seen.append(recipe)
        return False

    monkeypatch.setattr("hornbook.commands.run_stages", note)
    monkeypatch.setattr("hornbook.commands._write_report", lambda *_: None)
    return seen


def test_quickstart_on_own_text_has_no_prompts_of_shakespeares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = recipes_of_runs(monkeypatch)
    main(["quickstart", "--text", "a.txt", "b.txt", "--run", str(tmp_path / "own")])
    assert seen[0].prepare.inputs == ["a.txt", "b.txt"]
    assert seen[0].pretrain.sample_prompts == [] and "Shakespeare" not in seen[0].description
    main(["quickstart", "--run", str(tmp_path / "plays")])
    assert seen[1].prepare.inputs == ["shakespeare"]
    assert seen[1].pretrain.sample_prompts


def test_a_built_in_recipe_is_not_taken_for_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hornbook run quickstart` inside runs/, where an earlier run of that name is."""
    monkeypatch.chdir(tmp_path)
    seen = recipes_of_runs(monkeypatch)
    main(["quickstart", "--text", "mine.txt", "--run", "quickstart"])
    before = Path("quickstart/recipe.yaml").read_text()
    main(["run", "quickstart"])
    assert Path("quickstart/recipe.yaml").read_text() == before
    assert Path("runs/quickstart/recipe.yaml").is_file()
    main(["run", "./quickstart"])
    assert [recipe.prepare.inputs for recipe in seen] == [
        ["mine.txt"],
        ["shakespeare"],
        ["mine.txt"],
    ]


def test_a_stage_with_a_recipe_keeps_what_the_other_stages_were_done_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = recipes_of_runs(monkeypatch)
    where = ["--recipe", "qwen3-15m", "--run", str(tmp_path / "run")]
    main(["prepare", "a.txt", *where])
    main(["tokenize", *where, "--tokenize.vocabulary", "999"])
    main(["pretrain", *where, "--pretrain.steps", "5"])
    assert seen[-1].prepare.inputs == ["a.txt"]
    assert seen[-1].tokenize.vocabulary == 999
    assert seen[-1].pretrain.steps == 5
    assert seen[-1].model.preset == "qwen3-15m"
    assert load_recipe(str(tmp_path / "run")) == seen[-1]


@pytest.mark.parametrize("prompts", [[], ["first", 'say `x`$PATH, "he"\n']])
def test_what_to_try_next_can_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prompts: list[str]
) -> None:
    run = tmp_path / "my run"
    recipe = load_recipe("quickstart", {"pretrain": {"sample_prompts": prompts}})
    _show_outcome(recipe, RunDirectory(run), run / "report.html")
    shown = capsys.readouterr().out.splitlines()
    (line,) = (line for line in shown if line.startswith("  hornbook generate"))
    assert shlex.split(line)[2:] == [str(run), *(prompt.strip() for prompt in prompts[-1:])]


def test_what_has_to_be_given_is_named_as_it_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["convert", "a.csv"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --to {parquet,jsonl,csv,text}, --out PATH must be given. ")
    assert main(["generate"]) == 2
    assert capsys.readouterr().err.startswith("error: MODEL must be given. ")
