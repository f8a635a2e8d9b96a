"""A gathering that is killed at any moment and run again writes what an undisturbed one does."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gather.scripted import (
    ScriptedSource,
    gather_whole,
    in_process,
    kill_self,
    shards_of,
    text_of,
)

import hornbook.documents
from hornbook.documents import read_documents
from hornbook.files import read_json
from hornbook.gather import collect as collect_module
from hornbook.gather.collect import collect
from hornbook.gather.config import GatherConfig
from hornbook.gather.journal import Journal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")

CONFIG = GatherConfig(shard_megabytes=1)
LENGTHS = st.lists(st.sampled_from([0, 9, 40_000, 300_000, 700_000]), min_size=1, max_size=14)
MOMENTS = ["step", "before commit", "after commit", "before rename", "after rename"]


def killed_at(moment: str, count: int, source: ScriptedSource, out: Path) -> int:
    """Gather in a process that kills itself at the `count`-th such moment."""

    def work() -> None:
        left = count

        def countdown(*arguments: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                kill_self()

        commit, replace = Journal.commit, os.replace

        def killing_commit(journal: Journal) -> None:
            if moment == "before commit":
                countdown()
            commit(journal)
            if moment == "after commit":
                countdown()

        def killing_replace(old: Path, new: Path) -> None:
            if moment == "before rename":
                countdown()
            replace(old, new)
            if moment == "after rename":
                countdown()

        if moment == "step":
            source.before_step = countdown
        Journal.commit = killing_commit  # type: ignore[method-assign]
        os.replace = killing_replace  # type: ignore[assignment]
        collect(source, CONFIG, out)

    return in_process(work)


@settings(max_examples=60, deadline=None)
@given(
    lengths=LENGTHS,
    replayable=st.booleans(),
    kills=st.lists(st.tuples(st.sampled_from(MOMENTS), st.integers(0, 8)), min_size=1, max_size=3),
    often=st.booleans(),
)
def test_killed_at_any_moment_the_shards_are_the_same(
    lengths: list[int], replayable: bool, kills: list[tuple[str, int]], often: bool
) -> None:
    seconds = 0.0 if often else 1000.0
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(hornbook.documents, "ROW_GROUP_BYTES", 200_000),
        patch.object(collect_module, "COMMIT_SECONDS", seconds),
    ):
        whole = gather_whole(ScriptedSource(lengths, replayable), CONFIG, Path(folder, "whole"))
        out = Path(folder, "killed")
        for moment, count in kills:
            code = killed_at(moment, count, ScriptedSource(lengths, replayable), out)
            assert code in (0, -9)
        collect(ScriptedSource(lengths, replayable), CONFIG, out)
        assert shards_of(out) == whole
        assert read_json(out / "gather.json") == read_json(Path(folder, "whole", "gather.json"))
        assert not (out / "work").exists()
        texts = [document.text for document in read_documents(out)] if whole else []
        assert texts == [text_of(n, length) for n, length in enumerate(lengths) if length]


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    lengths = [1000] * 20

    def stop(number: int) -> None:
        if number == 12:
            raise KeyboardInterrupt

    first = ScriptedSource(lengths, False, before_step=stop)
    with pytest.raises(KeyboardInterrupt):
        collect(first, CONFIG, tmp_path)
    second = ScriptedSource(lengths, False)
    collect(second, CONFIG, tmp_path)
    assert first.given + second.given == list(range(20))
