"""Shards are what Megatron and nanoGPT read; what is damaged is named."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import HornbookError
from hornbook.tokens.loader import open_folder
from hornbook.tokens.manifest import Manifest
from hornbook.tokens.shards import ShardWriter, TokenShards, read_lengths, token_dtype

DOCUMENTS = [[5, 6, 7, 0], [0], [8, 65_000, 0], [9] * 50 + [0]]


def write(folder: Path, name: str, documents: list[list[int]], dtype: str = "uint16") -> None:
    with ShardWriter(folder, name, dtype) as writer:
        for document in documents:
            writer.append(np.array(document))


@pytest.mark.parametrize(("dtype", "code", "size"), [("uint16", 8, 2), ("int32", 4, 4)])
def test_index_as_an_independent_parser_reads_it(
    tmp_path: Path, dtype: str, code: int, size: int
) -> None:
    write(tmp_path, "x", DOCUMENTS, dtype)
    raw = (tmp_path / "x.idx").read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    assert np.frombuffer(raw[9:17], "<u8")[0] == 1
    assert raw[17] == code
    sequences, documents = np.frombuffer(raw[18:34], "<u8")
    assert (sequences, documents) == (len(DOCUMENTS), len(DOCUMENTS) + 1)
    lengths = np.frombuffer(raw, "<i4", sequences, 34)
    offsets = np.frombuffer(raw, "<i8", sequences, 34 + 4 * sequences)
    firsts = np.frombuffer(raw, "<i8", documents, 34 + 12 * sequences)
    assert len(raw) == 34 + 12 * sequences + 8 * documents
    assert firsts.tolist() == [0, 1, 2, 3, 4]
    data = (tmp_path / "x.bin").read_bytes()
    for length, offset, document in zip(lengths, offsets, DOCUMENTS, strict=True):
        assert np.frombuffer(data, f"<{dtype[0]}{size}", length, offset).tolist() == document


def test_bin_is_what_nanogpt_reads(tmp_path: Path) -> None:
    write(tmp_path, "train", DOCUMENTS)
    data = np.memmap(tmp_path / "train.bin", dtype=np.uint16, mode="r")
    assert data.tolist() == [id for document in DOCUMENTS for id in document]


def test_no_documents_make_an_empty_index(tmp_path: Path) -> None:
    write(tmp_path, "x", [])
    assert read_lengths(tmp_path / "x.idx").tolist() == []


def test_ids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), ShardWriter(tmp_path, "x", "uint16") as writer:
        writer.append(np.array([65_536]))
    assert list(tmp_path.iterdir()) == []


def test_dtype_by_vocabulary() -> None:
    assert token_dtype(65_536) == "uint16"
    assert token_dtype(65_537) == "int32"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(HornbookError, match="disk is full"),
        ShardWriter(tmp_path, "x", "uint16") as writer,
    ):
        writer.append(np.array([1, 0]))
        monkeypatch.setattr("hornbook.files.os.fsync", full)
    assert list(tmp_path.iterdir()) == []


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    start=st.integers(-50, 50),
    count=st.integers(1, 60),
)
@settings(max_examples=60, deadline=None)
def test_reading_goes_around_the_ring(
    sizes: list[int], start: int, count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ring")
    flat = list(range(1, sum(sizes) + 1))
    position = 0
    for number, size in enumerate(sizes):
        write(folder, f"x-{number}", [flat[position : position + size]])
        position += size
    stream = TokenShards(folder, [f"x-{number}" for number in range(len(sizes))], "uint16")
    expected = [flat[(start + i) % len(flat)] for i in range(count)]
    assert stream.read(start, count).tolist() == expected
    assert stream.lengths().tolist() == sizes


@pytest.fixture
def folder(tmp_path: Path, make_folder) -> Path:  # type: ignore[no-untyped-def]
    return make_folder(tmp_path / "tokens", [10, 20, 30], per_shard=2)


def test_manifest_comes_back(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert [shard.name for shard in manifest.shards] == ["train-00000", "train-00001"]
    totals = manifest.totals("train")
    assert (totals.tokens, totals.documents, totals.sources) == (60, 3, {"a": 60})
    assert manifest.dtype == "int32"
    before = (folder / "manifest.json").read_bytes()
    manifest.write(folder)
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_damage_is_named(folder: Path, suffix: str) -> None:
    path = folder / f"train-00001.{suffix}"
    good = path.read_bytes()

    path.write_bytes(good[:-1])
    with pytest.raises(HornbookError, match=rf"train-00001\.{suffix}: is truncated"):
        open_folder(folder, "train", verify=False)
    path.write_bytes(good + b"x")
    with pytest.raises(HornbookError, match=rf"train-00001\.{suffix}: was altered"):
        open_folder(folder, "train", verify=False)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    open_folder(folder, "train", verify=False)
    with pytest.raises(HornbookError, match=rf"train-00001\.{suffix}: was altered.*sha256"):
        open_folder(folder, "train", verify=True)
    path.unlink()
    with pytest.raises(HornbookError, match=rf"train-00001\.{suffix}: .*missing"):
        open_folder(folder, "train", verify=False)


def test_what_is_no_manifest_is_named(folder: Path) -> None:
    path = folder / "manifest.json"
    text = path.read_text()
    for damaged, match in [
        (text.replace('"version": 1', '"version": 99'), "format version 99"),
        (text.replace('"dtype": "int32"', '"dtype": "float8"'), "not a token manifest"),
        ("{}", "not a token manifest"),
        ("[]", "not a token manifest"),
        ("{", "not readable as JSON"),
    ]:
        path.write_text(damaged)
        with pytest.raises(HornbookError, match=match):
            Manifest.read(folder)
    path.unlink()
    with pytest.raises(HornbookError, match=r"no manifest\.json.*hornbook tokenize"):
        Manifest.read(folder)
    with pytest.raises(HornbookError, match="not a whole MMIDIDX"):
        read_lengths(folder / "train-00000.bin")


def test_a_split_without_tokens(folder: Path) -> None:
    with pytest.raises(HornbookError, match="has no validation tokens"):
        open_folder(folder, "validation", verify=True)
