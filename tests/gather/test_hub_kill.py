"""Kill -9 while files are downloaded and read; run again, all equals an undisturbed gathering."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
from tests.gather.hub_server import Hub, serve_hub
from tests.gather.kill_source import gather_command, gather_in_child, shards
from tests.gather.test_hub import NAME, parquet


def rows(name: str, count: int) -> list[dict[str, str]]:
    words = random.Random(name)
    return [
        {"text": f"{name} {n} " + " ".join(str(words.random()) for _ in range(500))}
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def hub_files() -> dict[str, bytes]:
    lines = "\n".join(json.dumps(row) for row in rows("c", 120))
    return {
        "data/a.parquet": parquet(rows("a", 200), 40),
        "data/b.parquet": parquet(rows("b", 150), 40),
        "data/c.jsonl": lines.encode(),
        "README.md": b"",
    }


def settings(hub: Hub) -> dict[str, str]:
    return {"dataset": NAME, "endpoint": hub.url, "pattern": "data/*"}


def test_killed_while_reading(hub_files: dict[str, bytes], tmp_path: Path) -> None:
    with serve_hub(Hub(NAME, hub_files)) as hub:
        assert gather_in_child("hub", settings(hub), tmp_path / "whole") == 0
        for kill_at in (random.Random(3).randrange(1, 200), 250, 150):
            assert (
                gather_in_child("hub", settings(hub), tmp_path / "killed", kill_at)
                == -signal.SIGKILL
            )
        hub.sha = "6" * 40  # the branch moves on; what the first start found counts
        hub.old_shas.add("5" * 40)
        assert gather_in_child("hub", settings(hub), tmp_path / "killed") == 0
    whole, killed = shards(tmp_path / "whole"), shards(tmp_path / "killed")
    assert len(whole) >= 4 and whole == killed
    assert not (tmp_path / "killed/work").exists()


def test_killed_while_downloading(hub_files: dict[str, bytes], tmp_path: Path) -> None:
    """Half of a file is here when the process dies; only the other half is asked for again."""
    with serve_hub(Hub(NAME, hub_files)) as hub:
        assert gather_in_child("hub", settings(hub), tmp_path / "whole") == 0
        child = subprocess.Popen(gather_command("hub", settings(hub), tmp_path / "killed"))
        part = tmp_path / "killed/work/00000/a.parquet.part"
        half = len(hub_files["data/a.parquet"]) // 2

        def kill(path: str) -> None:
            if path.endswith("a.parquet") and child.poll() is None:
                while not part.exists() or part.stat().st_size < half // 2:
                    pass
                os.kill(child.pid, signal.SIGKILL)
                child.wait()

        hub.on_half = kill
        child.wait()
        hub.on_half = lambda path: None
        assert part.stat().st_size >= half // 2
        hub.ranges.clear()
        assert gather_in_child("hub", settings(hub), tmp_path / "killed") == 0
        assert "bytes=" in hub.ranges["data/a.parquet"]
    assert shards(tmp_path / "whole") == shards(tmp_path / "killed")
