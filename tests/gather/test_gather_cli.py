"""`hornbook gather` as a user meets it, and the gather stage of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hornbook.cli import main
from hornbook.documents import read_documents
from hornbook.errors import HornbookError
from hornbook.files import read_json
from hornbook.gather.config import CONFIGS, SourceConfig
from hornbook.gather.source import StopGathering
from hornbook.gathering import OF_THIS_MACHINE, WORDS, settings_of, source_verb
from hornbook.recipe import load_recipe
from hornbook.run import RunDirectory
from hornbook.stages import run_stages


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(120):
        (folder / f"{number:03d}.txt").write_text(f"Text number {number}.\n" * 20)
    return folder


def run_main(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = main(words)
    except SystemExit as left:  # argparse leaves this way after --help
        code = int(left.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_every_source_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_main(capsys, "gather", "--help")
    assert code == 0 and all(f"\n  {name} " in out for name in CONFIGS)
    assert WORDS.keys() == CONFIGS.keys()
    for name in CONFIGS:
        code, out, _ = run_main(capsys, "gather", name, "--help")
        assert code == 0 and "--out DIR" in out
        assert ("--contact" in out) == (name not in OF_THIS_MACHINE)
        assert source_verb(name).description.split("\n")[0] in " ".join(out.split())


def test_help_imports_no_source() -> None:
    script = (
        "import sys; from hornbook.cli import main\n"
        "try: main(['gather', 'wikidump', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'httpx2', 'sqlite3', 'torch', 'resiliparse', 'hornbook.gather.wikidump'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_a_source_into_a_folder(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    words = ["gather", "files", str(texts), "--out", out, "--shard-megabytes", "1"]
    code, _, err = run_main(capsys, *words)
    assert code == 0 and "documents" in err and "120" in err and f"written to {out}" in err
    assert sum(1 for _ in read_documents(tmp_path / "out")) == 120
    assert "done already" in run_main(capsys, *words)[2]
    code, _, err = run_main(capsys, "gather", "files", str(texts / "000.txt"), "--out", out)
    assert code == 2 and "begun with other settings: inputs was" in err


def test_prepare_into_a_folder(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gathered, out = str(tmp_path / "gathered"), tmp_path / "out"
    assert run_main(capsys, "gather", "files", str(texts), "--out", gathered)[0] == 0
    code, _, err = run_main(capsys, "prepare", gathered, "--out", str(out))
    assert code == 0 and f"written to {out}" in err
    assert read_json(out / "prepare.json")["kept"]["documents"] == 120
    (meta,) = {document.meta["file"][3:] for document in read_documents(out / "train")}
    assert meta == ".txt", "where it came from stays what the first reading said"
    code, _, err = run_main(capsys, "prepare", gathered, "--out", str(out), "--run", "r")
    assert code == 2 and "both given" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["file", "x"], "there is no source or recipe 'file'. Did you mean 'files'?"),
        (["nothing.yaml"], "no such recipe"),
        ([], "hornbook gather files my-texts/ --out gathered"),
        (["wikipedia", "topic"], "--out DIR must be given"),
        (["hub", "a/b", "c/d", "--out", "x"], "unexpected argument 'c/d'. One dataset at a time"),
        (["files", "--out", "x"], "nothing was named to read"),
        (["files", "nowhere", "--out", "x"], "no such file or folder"),
        (["files", ".", "--out", "x", "--wrkers", "2"], "Did you mean --workers?"),
        (["quickstart", "--out", "x"], "no source is named"),
        (["nothing", "--out", "x"], "there is no source or recipe 'nothing'"),
    ],
)
def test_mistakes(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run_main(capsys, "gather", *words)
    assert code == 2 and message in err and "Traceback" not in err
    assert not list(tmp_path.iterdir()), "a start that is refused leaves nothing"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pagse": 3}, "unknown key 'pagse'. Did you mean 'pages'?"),
        ({"pages": "many"}, "pages: expected int, got many"),
    ],
)
def test_settings_in_a_recipe_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(HornbookError, match=r"gather\.sources: w") as error:
        settings_of(SourceConfig("wikipedia", name="w", settings=settings))
    assert message in str(error.value)


@pytest.fixture
def recipe_file(texts: Path, tmp_path: Path) -> Path:
    more = tmp_path / "more.jsonl"
    more.write_text("".join(f'{{"text": "line {number}"}}\n' for number in range(50)))
    values = {
        "gather": {
            "sources": [
                {"source": "files", "weight": 3, "settings": {"inputs": [str(texts)]}},
                {"source": "files", "name": "more", "settings": {"inputs": [str(more)]}},
            ]
        }
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_mix_of_a_recipe(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_main(capsys, "gather", str(recipe_file), "--out", str(tmp_path / "out"))
    assert code == 0 and "more has no more text; the others go on without it" in err
    assert sum(1 for _ in read_documents(tmp_path / "out")) == 170
    out = str(tmp_path / "few")
    words = ["gather", str(recipe_file), "--gather.megabytes", "0.01", "--out", out]
    assert run_main(capsys, *words)[0] == 0
    assert read_json(tmp_path / "few" / "gather.json")["bytes"] < 11_000


def test_the_stage_of_a_run(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    recipe = load_recipe(str(recipe_file))
    recipe.gather.megabytes = 0.01
    run.adopt(recipe)
    assert run_stages(recipe, run, ["gather", "prepare"])
    first = read_json(run.folder("prepare") / "prepare.json")["kept"]["documents"]
    assert first < 100
    capsys.readouterr()
    assert run_stages(run.recipe(), run, ["gather", "prepare"])
    assert capsys.readouterr().err.count("done already") == 2
    recipe.gather.megabytes = 0
    assert run_stages(recipe, run, ["gather", "prepare"])
    assert read_json(run.folder("prepare") / "prepare.json")["kept"]["documents"] == 170
    assert len(read_json(run.folder("gather") / "gather.json")["shards"]) == 2, "it went on"
    recipe.gather.workers = 1
    assert run_stages(recipe, run, ["gather"])
    assert "done already" in capsys.readouterr().err


def test_a_stage_that_has_to_wait_is_stopped(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocked(*arguments: object) -> None:
        raise StopGathering("blocked until tomorrow")

    monkeypatch.setattr("hornbook.gather.collect.collect", blocked)
    run = RunDirectory(tmp_path / "run")
    recipe = load_recipe(str(recipe_file))
    with pytest.raises(StopGathering):
        run_stages(recipe, run, ["gather"])
    record = run.record("gather")
    assert record is not None and record.outcome == "stopped"


def test_a_setting_without_meaning_does_not_stay_in_a_new_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"text": f"Text number {n} of the set."}) + "\n" for n in range(200)]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    run = tmp_path / "run"
    words = ["prepare", str(tmp_path / "a.jsonl"), "--run", str(run)]
    code, _, error = run_main(capsys, *words, "--prepare.near.threshold", "7")
    assert code == 2 and "near.threshold" in error
    assert not (run / "recipe.yaml").exists()
    assert run_main(capsys, *words)[0] == 0
