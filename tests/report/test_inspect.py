"""`inspect` shows the batches as they are: nothing left out, nothing made up, colours or not."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from hornbook.documents import Document, write_documents
from hornbook.errors import HornbookError
from hornbook.report.inspect import (
    Piece,
    bytes_per_token,
    inspect_run,
    read_row,
    token_text,
)
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.batch import IGNORE, Batch
from hornbook.tokens.config import DataConfig
from hornbook.tokens.loader import open_source
from hornbook.tokens.tokenize import tokenize

TEXTS = [
    "To be, or not to be,\nthat is the question:\n" * 3,
    "日本\t<|endoftext|> naïve end\n",
    "Short.",
    "A longer document that says many a thing. " * 8,
]
END = 9


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    write_documents([Document(text) for text in TEXTS], folder / "prepare" / "train")
    write_documents([Document("held out " * 30)], folder / "prepare" / "validation")
    tokenize(
        TokenizeConfig(kind="bpe", vocabulary=300, encoder="tokenizers", workers=1),
        folder / "prepare",
        folder / "tokenize",
    )
    return folder / "tokenize"


def show(tokens: Path, mode: str, *, colour: bool, rows: int = 3, mask: bool = False) -> str:
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    config = DataConfig(mode=mode, document_mask=mask)  # type: ignore[arg-type]
    source = open_source(config, tokens, 120, rows_per_step=1)
    screen = io.StringIO()
    console = Console(
        file=screen, width=100, force_terminal=colour, color_system="truecolor" if colour else None
    )
    for part in inspect_run(tokenizer, source, rows):
        console.print(part)
    return screen.getvalue()


def test_every_token_of_a_row_is_shown_without_colours(tokens: Path) -> None:
    page = show(tokens, "packed", colour=False, mask=True, rows=5)
    assert "\x1b" not in page
    body = page.split("row 0 ──")[1]
    lines = [line[15:] for line in body.splitlines() if line[:1] == " "]
    shown = "".join(lines).replace("│", "")
    for text in ("To be, or not to be,↵that is the question:↵", "⇥<|endoftext|> na", "Short."):
        assert text in shown
    assert "packed (train split)" in page and "stays inside a document" in page
    assert "── padding: " in page
    assert "→<|endoftext|>" in page  # what the last token of a document predicts


def test_colours_alternate_and_need_no_bars(tokens: Path) -> None:
    page = show(tokens, "chunks", colour=True)
    assert "\x1b[" in page and "│To│" not in page
    first, second = "48;2;207;228;255m", "48;2;255;227;184m"
    assert page.count(first) > 50 and abs(page.count(first) - page.count(second)) < 20


def test_positions_start_anew_in_each_document_under_the_mask() -> None:
    batch = Batch(
        inputs=torch.tensor([[END, 1, 2, END, 4, 5, END, END]]),
        targets=torch.tensor([[1, 2, END, 4, 5, 6, IGNORE, IGNORE]]),
        positions=torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0]]),
        documents=torch.tensor([[0, 0, 0, 1, 1, 1, -1, -1]]),
    )
    row = read_row(batch, 0, 7, END)
    assert row.number == 7 and row.positions == [0, 1, 2, 0, 1, 2, 0, 0]
    assert row.pieces == [Piece(0, 3, True), Piece(3, 6, True)]
    assert row.padding_start == 6


def test_edges_are_found_without_document_numbers() -> None:
    """A document that goes on, a new one, a cut to another place, then padding."""
    batch = Batch(
        inputs=torch.tensor([[3, 4, END, 5, 6, 20, 21, END, END]]),
        targets=torch.tensor([[4, END, 5, 6, 7, 21, 22, IGNORE, IGNORE]]),
    )
    row = read_row(batch, 0, 0, END)
    assert row.pieces == [Piece(0, 2, False), Piece(2, 5, True), Piece(5, 7, False)]
    assert row.padding_start == 7


def test_masked_targets_do_not_cut_a_document() -> None:
    batch = Batch(
        inputs=torch.tensor([[END, 1, 2, 3]]), targets=torch.tensor([[IGNORE, IGNORE, 3, END]])
    )
    row = read_row(batch, 0, 0, END)
    assert row.pieces == [Piece(0, 4, True)] and row.padding_start == 4


def test_masked_tokens_stand_in_brackets(tokens: Path) -> None:
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    ids = [tokenizer.end_of_text, *tokenizer.encode("abc")]

    class OneRow:
        sequence_length, rows_per_epoch = len(ids), 1

        def rows(self, start: int, count: int) -> Batch:
            targets = [IGNORE, *ids[2:], tokenizer.end_of_text]
            return Batch(torch.tensor([ids]), torch.tensor([targets]))

        def describe(self) -> dict[str, object]:
            names = "sequence_length rows_per_epoch"
            return {
                "mode": "chunks", "split": "train", "document_mask": False, "sources": [],
                "messages": ["the data is small"], **dict.fromkeys(names.split(), 4),
            }  # fmt: skip

    screen = io.StringIO()
    console = Console(file=screen, width=90, color_system=None)
    for part in inspect_run(tokenizer, OneRow(), 1):
        console.print(part)
    assert "(<|endoftext|>)│a│b│c│→<|endoftext|>" in screen.getvalue()
    assert "the data is small" in screen.getvalue()


def test_bytes_per_token_counts_text_and_no_names(tokens: Path) -> None:
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    ids = tokenizer.encode("日本 To be")
    batch = Batch(
        torch.tensor([[tokenizer.end_of_text, *ids]]), torch.tensor([[*ids, tokenizer.end_of_text]])
    )
    row = read_row(batch, 0, 0, tokenizer.end_of_text)
    assert bytes_per_token([row], tokenizer) == pytest.approx(12 / (len(ids) + 1))


def test_tokens_are_visible_whatever_they_hold(tokens: Path) -> None:
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    for id in range(tokenizer.size):
        shown = token_text(tokenizer, id)
        assert shown and shown.isprintable()
    assert token_text(tokenizer, tokenizer.encode("\n")[0]) == "↵"
    assert token_text(tokenizer, tokenizer.encode("é")[0]) == "\\xc3"


def test_nothing_to_show_and_foreign_tokens_are_errors(tokens: Path) -> None:
    with pytest.raises(HornbookError, match="no row to show"):
        show(tokens, "chunks", colour=False, rows=0)
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    source = open_source(DataConfig(), tokens, 120, rows_per_step=1)
    tokenizer.size = 20
    with pytest.raises(HornbookError, match="another tokenizer's"):
        next(inspect_run(tokenizer, source, 1))


@pytest.mark.parametrize("width", [30, 60, 200])
def test_any_width_keeps_every_token(tokens: Path, width: int) -> None:
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    source = open_source(DataConfig(mode="chunks"), tokens, 120, rows_per_step=1)
    screen = io.StringIO()
    console = Console(file=screen, width=width, color_system=None)
    *_, view = inspect_run(tokenizer, source, 1)
    console.print(view)
    row = read_row(source.rows(0, 1), 0, 0, tokenizer.end_of_text)
    assert screen.getvalue().count("│") == row.padding_start
    assert max(map(len, screen.getvalue().splitlines())) <= width
