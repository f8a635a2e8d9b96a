"""The tokenize stage on real documents: exact, the same every time, and after a kill too."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hornbook.documents import Document, write_documents
from hornbook.errors import HornbookError
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.encoder import TokenizersEncoder
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.batch import IGNORE
from hornbook.tokens.config import DataConfig
from hornbook.tokens.loader import open_source
from hornbook.tokens.manifest import Manifest
from hornbook.tokens.shards import read_lengths
from hornbook.tokens.tokenize import tokenize
from hornbook.tokens.validation import validation_rows

CONFIG = TokenizeConfig(kind="characters", encoder="tokenizers", workers=1, shard_tokens=700)
TEXTS = [f"Scene {n}. The king said <|endoftext|> und ging — 日本 {n * 'ha '}" for n in range(40)]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    texts = ["", *TEXTS]
    train = [
        Document(text, id=f"d{n}", source="ab"[n % 2], licence="CC0", url=f"u{n}")
        for n, text in enumerate(texts)
    ]
    write_documents(train, tmp_path / "prepare" / "train", shard_bytes=1500)
    held_out = [Document(text, source="a") for text in TEXTS[::9]]
    write_documents(held_out, tmp_path / "prepare" / "validation")
    return tmp_path / "prepare"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_every_document_comes_back(documents: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    manifest = tokenize(CONFIG, documents, out)
    tokenizer = Tokenizer.load(out / "tokenizer")
    assert manifest.tokenizer_sha256 == tokenizer.sha256
    assert manifest == Manifest.read(out)
    found, rows = [], []
    for shard in manifest.split("train"):
        ids = np.fromfile(out / f"{shard.name}.bin", "<u2")
        lengths = read_lengths(out / f"{shard.name}.idx")
        assert (shard.tokens, shard.documents) == (len(ids), len(lengths))
        for document in np.split(ids, np.cumsum(lengths)[:-1]):
            assert document[-1] == tokenizer.end_of_text
            assert tokenizer.end_of_text not in document[:-1]
            found.append(tokenizer.decode(document[:-1].tolist()))
        rows += pq.read_table(out / f"{shard.name}.docs.parquet").to_pylist()
        assert shard.tokens - lengths[-1] < CONFIG.shard_tokens
    assert found == ["", *TEXTS]
    assert len(manifest.split("train")) > 3
    assert [row["id"] for row in rows] == [f"d{n}" for n in range(41)]
    assert [row["bytes"] for row in rows] == [len(text.encode()) for text in found]
    totals = manifest.totals("train")
    assert sum(row["tokens"] for row in rows) == totals.tokens == sum(totals.sources.values())
    assert totals.licences == {"CC0": totals.tokens}
    assert totals.bytes == sum(len(text.encode()) for text in TEXTS)
    assert json.loads((out / "manifest.json").read_text())["totals"]["validation"]["documents"] == 5


def test_the_same_bytes_every_time_and_old_shards_go(documents: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    tokenize(CONFIG, documents, first)
    tokenize(TokenizeConfig("characters", encoder="tokenizers", shard_tokens=90), documents, again)
    assert len(contents(again)) > len(contents(first))
    (again / "train-00001.bin.tmp").write_bytes(b"half")
    tokenize(CONFIG, documents, again)
    assert contents(first) == contents(again)


# Runs the stage in a process that kills itself, as kill -9 would, after so many documents.
KILLED = """
import os, signal, sys
from pathlib import Path
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokens.shards import ShardWriter
from hornbook.tokens.tokenize import tokenize

append, left = ShardWriter.append, int(sys.argv[3])

def append_or_die(self, ids):
    global left
    left -= 1
    if left < 0:
        self._bin.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, ids)

ShardWriter.append = append_or_die
config = TokenizeConfig(
    kind="characters", encoder="tokenizers", workers=1, shard_tokens=int(sys.argv[4])
)
tokenize(config, Path(sys.argv[1]), Path(sys.argv[2]))
"""


def run_and_kill(documents: Path, out: Path, after: int, shard_tokens: int = 700) -> None:
    command = [sys.executable, "-c", KILLED, str(documents), str(out), str(after)]
    ended = subprocess.run([*command, str(shard_tokens)], capture_output=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    with pytest.raises(HornbookError, match=r"no manifest\.json"):
        Manifest.read(out)


@pytest.mark.parametrize("harm", ["none", "altered shard", "other settings"])
def test_killed_and_run_again(
    documents: Path, tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    tokenize(CONFIG, documents, undisturbed)
    seed = random.randrange(10**6)
    print("seed", seed)
    # 41 + 5 documents in all; the first shard ends before the 20th.
    run_and_kill(
        documents, out, random.Random(seed).randrange(20, 46), 500 if "other" in harm else 700
    )
    kept = sorted(out.glob("train-*.docs.parquet"))
    assert kept and list(out.glob("*.tmp"))
    if harm == "altered shard":
        last = kept[0].with_name(f"{kept[0].name.split('.')[0]}.bin")
        last.write_bytes(b"?" + last.read_bytes()[1:])

    encoded: list[str] = []
    encode_batch = TokenizersEncoder.encode_batch

    def counting(self: TokenizersEncoder, texts: list[str]) -> list[np.ndarray]:
        encoded.extend(texts)
        return encode_batch(self, texts)

    monkeypatch.setattr(TokenizersEncoder, "encode_batch", counting)
    tokenize(CONFIG, documents, out)
    assert contents(out) == contents(undisturbed)
    # What finished shards hold is encoded again only where it has to be.
    assert (len(encoded) < 46) == (harm == "none")


def test_killed_at_the_first_document(documents: Path, tmp_path: Path) -> None:
    run_and_kill(documents, tmp_path / "out", 0)
    tokenize(CONFIG, documents, tmp_path / "out")
    tokenize(CONFIG, documents, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_damaged_documents_are_named(documents: Path, tmp_path: Path) -> None:
    shard = documents / "validation" / "documents-00000.parquet"
    whole = shard.read_bytes()
    for damaged in (whole[:-20], whole[:4] + bytes(200) + whole[204:]):  # the second one's pages
        shard.write_bytes(damaged)
        with pytest.raises(HornbookError, match=r"documents-00000\.parquet"):
            tokenize(CONFIG, documents, tmp_path / "tokens")
    with pytest.raises(HornbookError, match="no document shards"):
        tokenize(CONFIG, tmp_path, tmp_path / "tokens")
    with pytest.raises(HornbookError, match=r"tokenize\.shard_tokens"):
        tokenize(TokenizeConfig(shard_tokens=0), documents, tmp_path / "tokens")


def test_training_rows_read_as_text(documents: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    tokenize(CONFIG, documents, out)
    tokenizer = Tokenizer.load(out / "tokenizer")
    source = open_source(DataConfig("packed"), out, 200, rows_per_step=2)
    targets = source.rows(0, source.rows_per_epoch).targets
    texts = [tokenizer.decode(row[row != IGNORE].tolist()) for row in targets]
    assert any(TEXTS[5] in text for text in texts)


@pytest.mark.parametrize("length", [7, 64, 5000])
@pytest.mark.parametrize("max_tokens", [0, 1, 128])
def test_validation_rows(documents: Path, tmp_path: Path, length: int, max_tokens: int) -> None:
    out = tmp_path / "tokens"
    manifest = tokenize(CONFIG, documents, out)
    held_out = validation_rows(out, length, max_tokens=max_tokens)
    totals = manifest.totals("validation")
    batch = held_out.rows(0, held_out.rows_per_epoch)
    assert len(batch) == held_out.rows_per_epoch == len(held_out.rows(0, 10**6))
    targets = batch.targets[batch.targets != IGNORE]
    assert held_out.targets == len(targets)
    text = targets[targets != held_out.end_of_text].tolist()
    assert held_out.text_targets == len(text)
    tokenizer = Tokenizer.load(out / "tokenizer")
    assert held_out.bytes == sum(len(tokenizer.token_bytes(id)) for id in text)
    if max_tokens == 0:
        assert held_out.targets == totals.tokens
        assert held_out.text_targets == totals.tokens - totals.documents
        assert held_out.bytes == totals.bytes
        stream = np.fromfile(out / "validation-00000.bin", "<u2").tolist()
        assert targets.tolist() == stream
        assert batch.inputs[0, 0] == held_out.end_of_text
    else:
        assert held_out.targets <= max(max_tokens, length)


def test_validation_rows_are_spread_over_the_split(documents: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    tokenize(CONFIG, documents, out)
    few = validation_rows(out, 16, max_tokens=64)
    rows = few.rows(0, 4).targets
    whole = validation_rows(out, 16)
    everything = whole.rows(0, whole.rows_per_epoch).targets
    found = [next(n for n, row in enumerate(everything) if row.equal(wanted)) for wanted in rows]
    assert found == [n * len(everything) // 4 for n in range(4)]


def test_a_changed_tokenizer_is_noticed(documents: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    tokenize(CONFIG, documents, out)
    path = out / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(HornbookError, match="is not the tokenizer that made the tokens"):
        validation_rows(out, 16)
