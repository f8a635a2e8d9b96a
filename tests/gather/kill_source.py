"""Gathers a source in a process of its own, which can be made to kill itself at a step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_CHILD = """
import json, os, signal, sys
from pathlib import Path
from hornbook import documents
from hornbook.gather import collect
from hornbook.gather.config import CONFIGS, GatherConfig, NetworkConfig
from hornbook.gather.sources import open_source

name, settings, out, kill_at = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])
documents.ROW_GROUP_BYTES = 200_000  # so that small shards have several row groups
collect.COMMIT_SECONDS = 0.0  # so that each step that can be kept is
source = open_source(name, CONFIGS[name](**settings))
steps = source.documents

def killed(cursor, gathering):
    for number, step in enumerate(steps(cursor, gathering)):
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield step

source.documents = killed
network = NetworkConfig(allow_private=True, contact="a@b.org", requests_per_minute=60_000)
collect.collect(source, GatherConfig(shard_megabytes=1, network=network), Path(out))
"""


def gather_command(name: str, settings: dict[str, Any], out: Path, kill_at: int = -1) -> list[str]:
    """The command line of the child; it kills itself (SIGKILL) before step `kill_at` of its run."""
    return [sys.executable, "-c", _CHILD, name, json.dumps(settings), str(out), str(kill_at)]


def gather_in_child(name: str, settings: dict[str, Any], out: Path, kill_at: int = -1) -> int:
    """Run it; returns the exit status."""
    command = gather_command(name, settings, out, kill_at)
    return subprocess.run(command, capture_output=True, check=False).returncode


def shards(out: Path) -> dict[str, bytes]:
    """The shards of a folder."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("documents-*.parquet"))}
