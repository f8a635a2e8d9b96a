"""What was held out stays held out, and nothing near it is trained on, whatever is added."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.corpus.test_near import edited, some_words

from hornbook.corpus.config import NearConfig, PrepareConfig
from hornbook.corpus.ledger import SCHEMA
from hornbook.corpus.prepare import prepare
from hornbook.corpus.signatures import band_hashes
from hornbook.documents import Document, read_documents
from hornbook.errors import HornbookError

SPLITS = ("train", "validation", "test")


class Growing:
    """A corpus to which documents are added, and what is prepared of it."""

    def __init__(self, folder: Path, **settings: object):
        self.folder, self.rows, self.runs = folder, list[dict[str, str]](), 0
        self.config = PrepareConfig(
            inputs=[str(folder / "in.jsonl")], validation_share=0.1, test_share=0.1,
            ledger=str(folder / "ledger.parquet"), workers=1, **settings,  # type: ignore[arg-type]
        )  # fmt: skip

    def prepare(self) -> dict[str, list[Document]]:
        lines = [json.dumps(row) + "\n" for row in self.rows]
        (self.folder / "in.jsonl").write_text("".join(lines))
        self.runs += 1
        out = self.folder / str(self.runs)
        self.report = prepare(self.config, out)
        return {split: list(read_documents(out / split)) for split in SPLITS}


def texts(documents: list[Document]) -> set[str]:
    return {document.text for document in documents}


@pytest.mark.parametrize("near", [True, False])
def test_held_out_stays_held_out_and_what_equals_it_is_dropped(tmp_path: Path, near: bool) -> None:
    draw = random.Random(0)
    corpus = Growing(tmp_path, near=NearConfig(on=near))
    originals = [some_words(draw, 80) for _ in range(200)]
    corpus.rows = [{"text": " ".join(w), "url": f"old/{n}"} for n, w in enumerate(originals)]
    before = corpus.prepare()
    held_out = texts(before["validation"]) | texts(before["test"])
    assert len(before["validation"]) > 8 and len(before["test"]) > 8
    # The same texts under other addresses, and then nearly the same, stand before the old ones.
    near_ones = [" ".join(edited(words, 0.02, draw)) for words in originals]
    corpus.rows = [
        *({"text": row["text"], "url": f"copy/{n}"} for n, row in enumerate(corpus.rows)),
        *({"text": text, "url": f"near/{n}"} for n, text in enumerate(near_ones)),
        *corpus.rows,
    ]
    corpus.config.validation_share = 0.15  # others are held out besides
    after = corpus.prepare()
    for split in ("validation", "test"):
        ids = {document.id for document in before[split]}
        assert ids <= {document.id for document in after[split]}
    train = texts(after["train"])
    assert not train & held_out
    assert corpus.report.dropped["duplicate"].documents == 200, "the copies: the old ones stay"
    if near:
        close = {near_ones[n] for n, words in enumerate(originals) if " ".join(words) in held_out}
        assert not train & close and corpus.report.dropped["held_out"].documents == len(close)
    again = corpus.prepare()
    assert again == after, "a ledger that knows all of them changes nothing"
    held_out = texts(after["validation"]) | texts(after["test"])
    corpus.rows = [{**row, "url": "copy of " + row["url"]} for row in corpus.rows[400:]]
    without = corpus.prepare()  # only copies
    assert not texts(without["train"]) & held_out
    copied = len(held_out & {row["text"] for row in corpus.rows})
    assert corpus.report.dropped["held_out"].documents == copied > 30


def test_ids_are_remembered_after_their_documents_are_gone(tmp_path: Path) -> None:
    draw = random.Random(1)
    corpus = Growing(tmp_path)
    rows = [{"text": " ".join(some_words(draw, 50)), "url": str(n)} for n in range(300)]
    corpus.rows = rows[:150]
    before = corpus.prepare()
    corpus.rows = rows[150:]
    corpus.prepare()
    table = pq.read_table(tmp_path / "ledger.parquet")
    assert table.schema.equals(SCHEMA)
    known = dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))
    assert len(known) == len(table) > len(before["validation"]) + len(before["test"])
    corpus.config.split_salt = "another"
    corpus.rows = [{**row, "text": row["text"] + " edited"} for row in rows]
    after = corpus.prepare()
    for split in ("validation", "test"):
        expected = {id for id, remembered in known.items() if remembered == split}
        assert expected <= {document.id for document in after[split]}
    corpus.rows = [{"text": row["text"], "url": "copy"} for row in corpus.rows]
    copies = corpus.prepare()  # all under one address, which is none of the ledger's
    assert not texts(copies["train"]) & (texts(after["validation"]) | texts(after["test"]))


def test_signatures_of_another_kind_cannot_be_compared(tmp_path: Path) -> None:
    draw = random.Random(2)
    corpus = Growing(tmp_path, near=NearConfig(on=True))
    corpus.rows = [{"text": " ".join(some_words(draw, 50))} for _ in range(100)]
    corpus.prepare()
    corpus.config.near.seed = 1
    with pytest.raises(HornbookError, match=r"rensa-2-w5-p112-s42, and this run's are .*-s1"):
        corpus.prepare()
    corpus.config.near.on = False
    corpus.prepare()
    corpus.config.near = NearConfig(on=True)
    corpus.prepare()  # what was written without signatures in between does no harm


def test_what_the_ledger_knows_is_never_held_in_memory_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(4)
    corpus = Growing(tmp_path, near=NearConfig(on=True))
    originals = [some_words(draw, 80) for _ in range(200)]
    corpus.rows = [{"text": " ".join(w), "url": f"old/{n}"} for n, w in enumerate(originals)]
    held_out = corpus.prepare()["test"]
    rows: list[int] = []

    def watched(signed: Any, bands: int, of_band: int) -> Any:
        rows.append(len(signed))
        return band_hashes(signed, bands, of_band)

    monkeypatch.setattr("hornbook.corpus.near.band_hashes", watched)
    monkeypatch.setattr("hornbook.corpus.decide._LEDGER_ROWS", 7)
    near_ones = [" ".join(edited(d.text.split(), 0.02, draw)) for d in held_out]
    corpus.rows += [{"text": text, "url": f"near/{n}"} for n, text in enumerate(near_ones)]
    after = corpus.prepare()
    assert len(set(near_ones) & texts(after["train"])) <= 0.05 * len(near_ones)
    assert max(rows) == 7 and sum(rows) >= 16 * len(held_out), "each band of all of its rows"


def test_paths_begin_at_home_where_they_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "quiz.txt").write_text(" ".join(f"quiz{n}" for n in range(13)))
    corpus = Growing(tmp_path)
    corpus.config.ledger, corpus.config.decontaminate = "~/known.parquet", ["~/quiz.txt"]
    corpus.rows = [{"text": f"number {n} " * 9} for n in range(120)]
    corpus.prepare()
    assert (tmp_path / "known.parquet").exists()


def test_a_file_that_is_no_ledger_and_settings_that_exclude_each_other(tmp_path: Path) -> None:
    corpus = Growing(tmp_path)
    corpus.rows = [{"text": f"number {n} " * 9} for n in range(120)]
    for content in (b"PAR1 not", b""):
        (tmp_path / "ledger.parquet").write_bytes(content)
        with pytest.raises(HornbookError, match=r"/ledger\.parquet: is not a readable ledger"):
            corpus.prepare()
    corpus.config.passages = "always"
    with pytest.raises(HornbookError, match="of whole documents, not of passages"):
        corpus.prepare()
    corpus.config.test_share = 0.95
    with pytest.raises(HornbookError, match=r"prepare\.test_share: must be"):
        corpus.prepare()


def test_a_ledger_that_is_refused_costs_no_earlier_result(tmp_path: Path) -> None:
    corpus = Growing(tmp_path)
    corpus.rows = [{"text": f"number {n} " * 9} for n in range(120)]
    corpus.prepare()
    before = sorted((tmp_path / "1").rglob("*"))
    (tmp_path / "ledger.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(HornbookError, match="is not a readable ledger"):
        prepare(corpus.config, tmp_path / "1")
    assert sorted((tmp_path / "1").rglob("*")) == before


def test_few_documents_with_a_ledger_stay_whole(tmp_path: Path) -> None:
    draw = random.Random(3)
    corpus = Growing(tmp_path)
    corpus.rows = [{"text": " ".join(some_words(draw, 50))} for _ in range(30)]
    found = corpus.prepare()
    assert not corpus.report.passages
    assert sum(map(len, found.values())) == 30 and all(found.values())
