"""Mixing sources by weight: shares, order, going on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gather.scripted import ScriptedSource, shards_of

from hornbook.documents import read_documents
from hornbook.errors import HornbookError
from hornbook.gather.collect import collect
from hornbook.gather.config import GatherConfig
from hornbook.gather.mix import MixSource, Part
from hornbook.gather.source import Gathered, StopGathering


class FakeGathering:
    """Counts and notes; items that forget."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.items = self

    def part(self, name: str) -> Any:
        return self

    def count(self, what: str, amount: int = 1) -> None: ...
    def note(self, message: str) -> None:
        self.notes.append(message)

    def add(self, keys: list[str]) -> int:
        return len(keys)

    def set(self, key: str, state: str) -> None: ...


SOURCES = st.lists(
    st.tuples(
        st.floats(0.1, 10, allow_nan=False),
        st.lists(st.sampled_from([0, 8, 100, 1000, 5000]), max_size=30),
    ),
    min_size=2,
    max_size=4,
)


def mix_of(sources: list[tuple[float, list[int]]], replayable: bool = True) -> MixSource:
    return MixSource(
        [
            Part(f"s{number}", weight, ScriptedSource(lengths, replayable, f"s{number}"))
            for number, (weight, lengths) in enumerate(sources)
        ]
    )


def steps_of(mix: MixSource, cursor: dict[str, Any]) -> list[Gathered]:
    return list(mix.documents(cursor, FakeGathering()))  # type: ignore[arg-type]


@given(SOURCES)
def test_shares_are_within_one_document(sources: list[tuple[float, list[int]]]) -> None:
    weights = {f"s{number}": weight for number, (weight, _) in enumerate(sources)}
    given_bytes = dict.fromkeys(weights, 0)
    for step in steps_of(mix_of(sources), {}):
        if any(state.get("ended") for state in step.cursor.values()):
            break
        if step.document is None:
            continue
        given_bytes[step.document.source] += len(step.document.text)
        for one, other in itertools.permutations(weights, 2):
            ahead = given_bytes[one] / weights[one] - given_bytes[other] / weights[other]
            assert ahead <= 5000 / weights[one] + 1e-6


@given(SOURCES, st.data())
def test_going_on_at_any_step_gives_the_same_order(
    sources: list[tuple[float, list[int]]], data: st.DataObject
) -> None:
    steps = steps_of(mix_of(sources), {})
    expected = sum(length > 0 for _, lengths in sources for length in lengths)
    assert sum(step.document is not None for step in steps) == expected
    place = data.draw(st.integers(0, len(steps) - 1))
    assert steps_of(mix_of(sources), steps[place].cursor) == steps[place + 1 :]


@pytest.mark.parametrize("replayable", [True, False])
def test_a_mix_that_was_stopped_goes_on(tmp_path: Path, replayable: bool) -> None:
    def mix(before: Any = lambda number: None) -> MixSource:
        second = ScriptedSource([300] * 10, replayable, "b", before_step=before)
        return MixSource(
            [Part("a", 2, ScriptedSource([100] * 40, replayable, "a")), Part("b", 1, second)]
        )

    def stop(number: int) -> None:
        if number == 4:
            raise StopGathering("blocked")

    with pytest.raises(StopGathering):
        collect(mix(stop), GatherConfig(), tmp_path / "stopped")
    report = collect(mix(), GatherConfig(), tmp_path / "stopped")
    assert report.counts["bytes of a"] == 4000 and report.counts["bytes of b"] == 3000
    collect(mix(), GatherConfig(), tmp_path / "whole")
    assert shards_of(tmp_path / "stopped") == shards_of(tmp_path / "whole")
    assert sum(1 for _ in read_documents(tmp_path / "whole")) == 50


def test_an_early_end_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    collect(mix_of([(1, [100]), (1, [100] * 20)]), GatherConfig(), tmp_path)
    assert "s0 has no more text" in capsys.readouterr().err


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(HornbookError, match="weight must be above 0"):
        mix_of([(0, [1]), (1, [1])])
    source = ScriptedSource([1], True)
    for name in ("../x", "/etc", "a/b", ".."):  # a folder of this name is made and removed
        with pytest.raises(HornbookError, match="a name has letters"):
            MixSource([Part(name, 1, source), Part("a", 1, source)])
    with pytest.raises(HornbookError, match="two sources have this name"):
        MixSource([Part("a", 1, source), Part("a", 1, source)])
