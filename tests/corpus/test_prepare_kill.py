"""Prepare, killed at any moment and run again, writes what an undisturbed one writes; so do other
numbers of workers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hornbook.corpus import batch, spool
from hornbook.corpus.config import GopherConfig, NearConfig, PrepareConfig
from hornbook.corpus.exact import digests
from hornbook.corpus.ledger import ledger_rows, write_ledger
from hornbook.corpus.prepare import prepare

KILLER = """
import os, sys
from pathlib import Path
from tests.corpus.test_prepare_kill import counted_prepare, killed_prepare
# Nothing of pyarrow has run yet, so this process can be forked.
text, folder, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def run(prepare, *arguments):
    child = os.fork()
    if not child:
        prepare(text, *arguments)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert run(counted_prepare, folder / "undisturbed") == 0
count = int((folder / "undisturbed.count").read_text())
shares = [float(share) for share in sys.argv[4:]]
points = [1 + round(share * (count - 1)) for share in shares] or range(1, count + 1)
for point in points:
    out = folder / f"out{point}"
    assert run(killed_prepare, out, when, point) == -9, (when, point, count)
    assert run(counted_prepare, out) == 0
"""


def write_text(path: Path) -> Path:
    """600 documents: some equal, some near, some too short, one like one of the ledger."""
    draw = random.Random(0)
    texts = ["first of all " * 20]
    for number in range(1, 600):
        words = [f"w{draw.randrange(2_000)}" for _ in range(draw.randrange(20, 120))]
        if number % 10 == 7:
            words = texts[-1].split()[:-2]
        texts.append(texts[-1] if number % 20 == 0 else " ".join(words))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def config(text: Path, ledger: Path | None = None, workers: int = 1) -> PrepareConfig:
    return PrepareConfig(
        inputs=[str(text)],
        gopher=GopherConfig(on=True, min_words=30, min_stop_words=None, min_alphabetic_words=None),
        near=NearConfig(on=True),
        validation_share=0.1,
        test_share=0.1,
        ledger=str(ledger) if ledger else None,
        workers=workers,
    )


def small_pieces() -> None:
    """Several segments and many batches of little text."""
    batch.MOST_DOCUMENTS = 40
    spool.SEGMENT_DOCUMENTS = 100


def counted_prepare(text: Path, out: Path) -> None:
    """Prepare in this process, and note how many files got their name."""
    killed_prepare(text, out, "never", 0)


def killed_prepare(text: Path, out: Path, when: str, number: int) -> None:
    """Prepare in this process, killed `before` or `after` the n-th file gets its name."""
    small_pieces()
    ledger = out.with_name(out.name + ".ledger")
    if not out.exists():
        rows = ledger_rows(["0" * 32], ["test"], digests(["first of all " * 20]), None)
        write_ledger(ledger, Path("none"), [rows], "")
    replace, count = os.replace, 0

    def replaced(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replaced  # type: ignore[assignment]
    prepare(config(text, ledger), out)
    out.with_name(out.name + ".count").write_text(str(count))


def contents(folder: Path) -> dict[str, bytes]:
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    ledger = folder.with_name(folder.name + ".ledger")
    return found | ({"ledger": ledger.read_bytes()} if ledger.exists() else {})


def killed_at(tmp_path: Path, when: str, shares: list[str]) -> None:
    text = write_text(tmp_path / "text.jsonl")
    arguments = [str(text), str(tmp_path), when, *shares]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *arguments], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    undisturbed = contents(tmp_path / "undisturbed")
    assert sorted(name for name in undisturbed if "work" in name) == []
    assert {"prepare.json", "ledger"} < set(undisturbed)
    report = json.loads(undisturbed["prepare.json"])
    assert set(report["dropped"]) == {
        "gopher.min_words", "duplicate", "near.duplicate", "held_out",
    }  # fmt: skip
    assert all(count["documents"] > 20 for count in report["splits"].values())
    folders = [path for path in tmp_path.glob("out*") if path.is_dir()]
    assert len(folders) >= len(shares)
    for folder in folders:
        assert contents(folder) == undisturbed, folder.name


@pytest.mark.parametrize(("when", "shares"), [("before", "0.2 0.7 1"), ("after", "0 0.5 0.9 0.96")])
def test_killed_in_each_phase(tmp_path: Path, when: str, shares: str) -> None:
    killed_at(tmp_path, when, shares.split())


@pytest.mark.long
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_file(tmp_path: Path, when: str) -> None:
    killed_at(tmp_path, when, [])


def test_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MOST_DOCUMENTS", 40)
    monkeypatch.setattr(spool, "SEGMENT_DOCUMENTS", 100)
    text = write_text(tmp_path / "text.jsonl")
    for workers in (1, 2, 3):
        prepare(config(text, workers=workers), tmp_path / str(workers))
    one = contents(tmp_path / "1")
    assert contents(tmp_path / "2") == one and contents(tmp_path / "3") == one


def test_a_killed_run_takes_its_workers_along(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.jsonl")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.corpus.test_prepare_kill import config, small_pieces, prepare\n"
        "if __name__ == '__main__':\n"
        "    small_pieces()\n"
        "    prepare(config(Path(sys.argv[1]), workers=2), Path(sys.argv[2]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(text), str(tmp_path / "out")],
        stderr=subprocess.PIPE, process_group=0,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/work/part-00000/segment-*.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("workers are left")
    small_pieces_config = config(text)
    prepare(small_pieces_config, tmp_path / "out")
    prepare(small_pieces_config, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_other_settings_or_another_text_begin_anew(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.jsonl")
    (tmp_path / "out/work/part-00000").mkdir(parents=True)
    (tmp_path / "out/work/settings").write_text("of another run")
    (tmp_path / "out/work/part-00000/part.json").write_text("{}")
    report = prepare(config(text), tmp_path / "out")
    assert report.read.documents == 600 and not (tmp_path / "out/work").exists()
