"""The stream of rows: nothing lost, the same for any ranks, resumable anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hornbook.errors import HornbookError
from hornbook.tokens.batch import IGNORE, Batch
from hornbook.tokens.config import DataConfig, PhaseConfig, SourceConfig
from hornbook.tokens.loader import TokenSource, open_source

END = 0
MODES = ["windows", "chunks", "packed"]
LENGTHS = [40, 3, 1, 17, 90, 2, 8, 8, 25, 33, 5, 61, 12, 1, 7]
TOTAL = sum(LENGTHS)

relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def equal(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(a, b) if a is not None else b is None
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def joined(batches: list[Batch]) -> Batch:
    columns = zip(*(vars(batch).values() for batch in batches), strict=True)
    return Batch(*(None if column[0] is None else torch.cat(column) for column in columns))


@pytest.fixture
def folder(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    return make_folder(tmp_path / "tokens", LENGTHS, per_shard=4)


@pytest.fixture
def mixed(tmp_path: Path, make_folder: Callable[..., Path]) -> DataConfig:
    """Three sources, whose ids are below 1000, 1000 to 1999, and from 2000."""
    paths = [
        make_folder(tmp_path / "a", [30, 9, 70], first_id=1),
        make_folder(tmp_path / "b", [20] * 9, first_id=1000),
        make_folder(tmp_path / "c", [500], first_id=2000),
    ]
    weights = [0.5, 0.2, 0.3]
    return DataConfig(
        sources=[SourceConfig(str(p), w) for p, w in zip(paths, weights, strict=True)],
        phases=[PhaseConfig(from_step=6, weights=[0.0, 1.0, 1.0])],
    )


def open_mode(folder: Path, mode: str, length: int = 16, **fields: object) -> TokenSource:
    config = DataConfig(mode=mode, **fields)  # type: ignore[arg-type]
    return open_source(config, folder, length, rows_per_step=4)


@pytest.mark.parametrize("mode", MODES)
@given(data=st.data())
@relaxed
def test_any_partition_gives_the_same_stream(folder: Path, mode: str, data: st.DataObject) -> None:
    """Ranks and micro-batches are partitions of a range; a resume is a range that begins later."""
    source = open_mode(folder, mode, document_mask=mode == "packed")
    start = data.draw(st.integers(0, 300))
    cuts = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=8))
    parts, begin = [], start
    for count in cuts:
        parts.append(source.rows(begin, count))
        begin += count
    whole = source.rows(start, begin - start)
    assert equal(joined(parts), whole)
    assert equal(
        open_mode(folder, mode, document_mask=mode == "packed").rows(start, 3),
        joined([source.rows(row, 1) for row in range(start, start + 3)]),
    )


@given(data=st.data())
@relaxed
def test_any_partition_of_a_mixture_too(
    mixed: DataConfig, data: st.DataObject, tmp_path: Path
) -> None:
    source = open_source(mixed, tmp_path, 16, rows_per_step=5)
    start = data.draw(st.integers(0, 100))
    cuts = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    parts = [source.rows(start + sum(cuts[:i]), count) for i, count in enumerate(cuts)]
    assert equal(joined(parts), source.rows(start, sum(cuts)))


@pytest.mark.parametrize("mode", ["chunks", "packed"])
@pytest.mark.parametrize("length", [7, 16, 100, TOTAL - 1])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_each_token_is_a_target_once_an_epoch(
    folder: Path, mode: str, length: int, epoch: int
) -> None:
    source = open_mode(folder, mode, length)
    batch = source.rows(epoch * source.rows_per_epoch, source.rows_per_epoch)
    predicted = batch.targets != IGNORE
    assert int(predicted.sum()) == TOTAL
    stream = np.concatenate(
        [np.fromfile(path, "<i4") for path in sorted(folder.glob("train-*.bin"))]
    )
    # Each next-token pair of the stream, taken as a ring, is there exactly once.
    expected = Counter(zip(np.roll(stream, 1).tolist(), stream.tolist(), strict=True))
    pairs = zip(batch.inputs[predicted].tolist(), batch.targets[predicted].tolist(), strict=True)
    assert Counter(pairs) == expected
    assert (batch.inputs[~predicted] == END).all()


@pytest.mark.parametrize("mode", ["chunks", "packed"])
def test_epochs_have_other_orders_and_seeds_other_epochs(folder: Path, mode: str) -> None:
    source = open_mode(folder, mode)
    n = source.rows_per_epoch
    assert not equal(source.rows(0, n), source.rows(n, n))
    assert not equal(source.rows(0, n), open_mode(folder, mode, seed=2).rows(0, n))


def test_windows_are_contiguous_and_spread(folder: Path) -> None:
    source = open_mode(folder, "windows")
    batch = source.rows(0, 4000)
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    stream = np.concatenate(
        [np.fromfile(path, "<i4") for path in sorted(folder.glob("train-*.bin"))]
    )
    windows = np.lib.stride_tricks.sliding_window_view(stream, 17)
    seen = {tuple(row) for row in np.c_[batch.inputs.numpy(), batch.targets.numpy()[:, -1]]}
    assert seen == {tuple(window) for window in windows}


def test_packed_rows_in_detail(folder: Path) -> None:
    source = open_mode(folder, "packed", document_mask=True)
    batch = source.rows(0, source.rows_per_epoch)
    assert batch.positions is not None and batch.documents is not None
    assert batch.positions.dtype == torch.int64 and batch.documents.dtype == torch.int32
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    begins_with_a_document = 0
    for row in range(len(batch)):
        documents = batch.documents[row].numpy()
        positions = batch.positions[row].numpy()
        padding = documents == -1
        assert np.array_equal(padding, batch.targets[row].numpy() == IGNORE)
        assert np.array_equal(padding, np.sort(padding)), "padding is at the end"
        for number in range(documents.max() + 1):
            here = np.flatnonzero(documents == number)
            assert np.array_equal(positions[here], np.arange(len(here)))
            inputs, targets = batch.inputs[row][here], batch.targets[row][here]
            assert torch.equal(inputs[1:], targets[:-1])
            # Inside a document the only end of text among the inputs is the one before it.
            assert not (inputs[1:] == END).any()
        begins_with_a_document += int(batch.inputs[row, 0] == END)
    going_on = sum(length // 16 for length in LENGTHS)
    assert begins_with_a_document >= len(batch) - going_on


def test_without_the_mask_nothing_is_said_of_documents(folder: Path) -> None:
    batch = open_mode(folder, "packed").rows(0, 2)
    assert batch.positions is None and batch.documents is None


def test_mixture_counts_and_phases(mixed: DataConfig, tmp_path: Path) -> None:
    source = open_source(mixed, tmp_path, 16, rows_per_step=50)

    def tokens_of(batch: Batch) -> np.ndarray:
        ids = batch.targets[(batch.targets != IGNORE) & (batch.targets != END)].numpy()
        return np.bincount(np.digitize(ids, [1000, 2000]), minlength=3) / len(ids)

    assert np.abs(tokens_of(source.rows(0, 300)) - [0.5, 0.2, 0.3]).max() < 0.02
    assert np.abs(tokens_of(source.rows(300, 300)) - [0.0, 0.5, 0.5]).max() < 0.02
    shares = [phase["row_shares"] for phase in source.describe()["phases"]]
    assert len(shares) == 2 and shares[1][0] == 0


def test_weights_are_in_tokens_even_where_rows_are_padded(
    tmp_path: Path, make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Documents of 9 tokens waste 7 of 16 slots, the other source none."""
    padded = make_folder(tmp_path / "a", [9] * 50, first_id=1)
    full = make_folder(tmp_path / "b", [16] * 50, first_id=1000)
    config = DataConfig("packed", sources=[SourceConfig(str(padded)), SourceConfig(str(full))])
    source = open_source(config, tmp_path, 16, rows_per_step=4)
    targets = source.rows(0, 1000).targets
    counts = [int(((targets > 0) & (targets < 1000)).sum()), int((targets >= 1000).sum())]
    # Ends of text are not counted here: 1 token of 9, and of 16.
    assert counts[0] / (8 / 9) == pytest.approx(counts[1] / (15 / 16), rel=0.01)
    assert [s["padding_share"] for s in source.describe()["sources"]] == [7 / 16, 0]
    assert "43.8%, 0.0% of their places are padding" in capsys.readouterr().err


def test_tiny_data_works_by_epochs_and_says_so(
    tmp_path: Path, make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path / "tokens", [20])
    for mode in MODES:
        source = open_source(DataConfig(mode), folder, 16, rows_per_step=8)
        assert source.rows_per_epoch == 2
        assert len(source.rows(0, 8)) == 8
        assert "each step goes over it 4.0 times" in capsys.readouterr().err
        assert source.describe()["messages"]


@pytest.mark.parametrize("mode", MODES)
def test_context_longer_than_the_data(folder: Path, mode: str) -> None:
    open_mode(folder, mode, TOTAL - 1).rows(0, 3)
    with pytest.raises(HornbookError) as error:
        open_mode(folder, mode, TOTAL)
    assert f"has {TOTAL} tokens" in str(error.value)
    assert f"needs {TOTAL + 1}" in str(error.value)
    assert f"at most {TOTAL - 1}" in str(error.value)


def test_mistakes_are_named(
    folder: Path, mixed: DataConfig, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    def refused(config: DataConfig, match: str, **arguments: str) -> None:
        with pytest.raises(HornbookError, match=match):
            open_source(config, folder, 16, rows_per_step=4, **arguments)

    refused(DataConfig("chunks", document_mask=True), "document_mask: needs data.mode packed")
    other = make_folder(tmp_path / "other", [50], tokenizer="another")
    sources = [SourceConfig(str(folder)), SourceConfig(str(other))]
    refused(DataConfig(sources=sources), "another tokenizer than those of")
    refused(DataConfig(), "another tokenizer than the model's", tokenizer_sha256="x")
    refused(DataConfig(sources=[SourceConfig(str(tmp_path))]), "no manifest.json")
    mixed.phases = [PhaseConfig(3, [1.0])]
    refused(mixed, r"data\.phases\[0\]: has 1 weights for 3 sources")
    mixed.phases = [PhaseConfig(3, [1, 1, 1]), PhaseConfig(3, [1, 1, 1])]
    refused(mixed, r"data\.phases\[1\]: begins at step 3, not after step 3")
    mixed.phases = [PhaseConfig(3, [0, 0, 0])]
    refused(mixed, r"data\.phases\[0\]: weights .* cannot be shares")
    mixed.sources[0].weight = -1
    refused(mixed, r"data\.sources: weights .* cannot be shares")


def test_a_batch_is_sliced_into_micro_batches(folder: Path) -> None:
    batch = open_mode(folder, "packed", document_mask=True).rows(0, 7)
    assert equal(joined([batch[0:3], batch[3:6], batch[6:9]]), batch)
    assert len(batch[6:9]) == 1
    assert equal(batch.to("cpu"), batch)
