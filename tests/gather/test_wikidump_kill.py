"""`wikidump` killed in the middle, again and again, writes what an undisturbed run writes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.gather.dumps import multistream, page_xml, plain
from tests.gather.test_wikitext import sample_pages

SMALL_SHARDS = (
    "import sys; from hornbook import cli, documents;"
    "documents.ROW_GROUP_BYTES = 2**19; sys.exit(cli.main(sys.argv[1:]))"
)
"""The program with shards of 1 MB, which are else as large as a row group at least."""


def command(dump: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-c", SMALL_SHARDS, "gather", "wikidump", str(dump), "--out", str(out),
        "--shard-megabytes", "1", "--workers", "2",
    ]  # fmt: skip


def kill_at(dump: Path, out: Path, shards: int) -> bool:
    """Gather, and kill it as soon as so many shards are there; False: it ended before."""
    process = subprocess.Popen(command(dump, out), stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if len(list(out.glob("documents-*.parquet"))) >= shards:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
    assert process.returncode == 0
    return False


def children_of_gathering(dump: Path) -> list[str]:
    """Command lines of processes that still have the dump in theirs, or were started for it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes()
            if f"HORNBOOK_TEST={dump}".encode() in environment:
                found.append((folder / "cmdline").read_text())
    return found


@pytest.mark.long
@pytest.mark.shared
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("pack", [plain, multistream])
def test_killed_again_and_again(
    pack: object, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(pack)
    pages = sample_pages(shared_data) * 2
    xml = [
        page_xml(number, text, title=f"{title} {number}")
        for number, (title, text) in enumerate(pages)
    ]
    dump = tmp_path / "dump.xml"
    dump.write_bytes(pack(xml))
    monkeypatch.setenv("HORNBOOK_TEST", str(dump))
    kills = 0
    for shards in (1, 2, 2, 4, 5):
        kills += kill_at(dump, tmp_path / "killed", shards)
    assert kills >= 3
    for out in ("killed", "undisturbed"):
        subprocess.run(command(dump, tmp_path / out), check=True, stderr=subprocess.DEVNULL)
    names = sorted(path.name for path in (tmp_path / "undisturbed").glob("*.parquet"))
    assert len(names) >= 5
    assert names == sorted(path.name for path in (tmp_path / "killed").glob("*.parquet"))
    for name in [*names, "gather.json"]:
        killed, whole = tmp_path / "killed" / name, tmp_path / "undisturbed" / name
        assert killed.read_bytes() == whole.read_bytes(), name
    for _ in range(100):  # those of killed runs leave by themselves
        left = [each for each in children_of_gathering(dump) if str(os.getpid()) not in each]
        if not left:
            break
        time.sleep(0.1)
    assert not left
