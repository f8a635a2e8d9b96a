"""What the model really sees: rows of the real batches, token by token.

In: the tokenizer and the batch source of a run. Out: things for rich to print: a table, a legend,
and each row cut at its document edges, with slots, positions, targets and mask. Colours help but
are not needed: where there are none, bars stand between the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from hornbook.errors import HornbookError
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.batch import IGNORE, Batch, BatchSource

TOKEN_STYLES = ("black on #cfe4ff", "black on #ffe3b8")
"""Backgrounds of neighbouring tokens, by turns."""
SPECIAL_STYLE = "bold white on #7a3fa0"


@dataclass(frozen=True)
class Piece:
    """A stretch of one document in a row.

    Attributes:
        start, end: slots of the row, `start <= slot < end`.
        from_beginning: it begins with the end of text before the document, so at its beginning.
    """

    start: int
    end: int
    from_beginning: bool


@dataclass(frozen=True)
class Row:
    """One row of a batch as plain lists of T numbers, with where its pieces and padding are.

    Slots from `padding_start` on are padding.
    """

    number: int
    inputs: list[int]
    targets: list[int]
    positions: list[int]
    pieces: list[Piece]
    padding_start: int


def inspect_run(
    tokenizer: Tokenizer, source: BatchSource, rows: int, *, start: int = 0
) -> Iterator[RenderableType]:
    """Show rows [start, start + rows) of a run, as the trainer will get them.

    Raises `HornbookError` for less than one row, and where the tokens are another tokenizer's.
    """
    if rows < 1 or start < 0:
        raise HornbookError("there is no row to show", hint="Set --rows to 1 or more, --start to 0")
    batch = source.rows(start, rows)
    largest = int(batch.inputs.max())
    if largest >= tokenizer.size:
        raise HornbookError(
            f"the tokens are another tokenizer's: id {largest} is past its {tokenizer.size}",
            where=tokenizer.path,
            hint="Run `hornbook tokenize --again`",
        )
    shown = [read_row(batch, index, start + index, tokenizer.end_of_text) for index in range(rows)]
    yield _source_table(source)
    yield _rows_table(shown, tokenizer)
    yield _Legend(tokenizer)
    for row in shown:
        yield Rule(f"row {row.number}", align="left")
        yield RowView(row, tokenizer)


def read_row(batch: Batch, index: int, number: int, end_of_text: int) -> Row:
    """Row `index` of a batch, which is row `number` of the run, cut into pieces."""
    inputs: list[int] = batch.inputs[index].tolist()
    targets: list[int] = batch.targets[index].tolist()
    length = len(inputs)
    positions = list(range(length)) if batch.positions is None else batch.positions[index].tolist()
    padding = _padding_start(inputs, targets, end_of_text)
    if batch.documents is not None:
        documents: list[int] = batch.documents[index].tolist()
        padding = documents.index(-1) if -1 in documents else length
        starts = [
            0,
            *(slot for slot in range(1, padding) if documents[slot] != documents[slot - 1]),
        ]
    else:
        starts = [
            slot
            for slot in range(padding)
            if slot == 0
            or inputs[slot] == end_of_text
            or targets[slot - 1] not in (inputs[slot], IGNORE)
        ]
    pieces = [
        Piece(begin, end, inputs[begin] == end_of_text)
        for begin, end in pairwise([*starts, padding])
        if begin < end
    ]
    return Row(number, inputs, targets, positions, pieces, padding)


def _padding_start(inputs: list[int], targets: list[int], end_of_text: int) -> int:
    """The slot from which on a row without document numbers is padding."""
    slot = len(inputs)
    while slot and targets[slot - 1] == IGNORE and inputs[slot - 1] == end_of_text:
        slot -= 1
    return slot


def token_text(tokenizer: Tokenizer, id: int) -> str:
    """A token as something visible: line ends ↵, tabs ⇥, other bytes that are no text \\xNN."""
    raw = tokenizer.token_bytes(id).decode("utf-8", errors="backslashreplace")
    shown = raw.replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)


def bytes_per_token(rows: list[Row], tokenizer: Tokenizer) -> float:
    """Bytes of text in a token to be predicted; ends of text count as tokens without bytes."""
    special = set(tokenizer.special_ids.values())
    targets = [id for row in rows for id in row.targets if id != IGNORE]
    text_bytes = sum(len(tokenizer.token_bytes(id)) for id in targets if id not in special)
    return text_bytes / max(1, len(targets))


def _source_table(source: BatchSource) -> Table:
    facts = source.describe()
    table = Table(title="The data", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("mode", f"{facts['mode']} ({facts['split']} split)")
    table.add_row("row", f"{facts['sequence_length']:,} tokens")
    table.add_row("rows an epoch", f"{facts['rows_per_epoch']:,}")
    mask = "stays inside a document" if facts["document_mask"] else "crosses document edges"
    table.add_row("attention", mask)
    for entry in facts["sources"]:
        table.add_row(
            "source",
            f"{entry['path']}: {entry['tokens']:,} tokens, {entry['documents']:,} documents, "
            f"{entry['bytes'] / max(1, entry['tokens']):.2f} bytes a token, "
            f"{entry['padding_share']:.1%} padding",
        )
    for message in facts["messages"]:
        table.add_row("note", message)
    return table


def _rows_table(rows: list[Row], tokenizer: Tokenizer) -> Table:
    table = Table(title="These rows", title_justify="left")
    for heading in ("row", "tokens", "targets", "padding", "documents", "bytes a token"):
        table.add_column(heading, justify="right")
    for row in rows:
        length = len(row.inputs)
        table.add_row(
            str(row.number),
            f"{row.padding_start:,}",
            f"{sum(target != IGNORE for target in row.targets):,}",
            f"{length - row.padding_start:,} ({1 - row.padding_start / length:.1%})",
            f"{len(row.pieces):,}",
            f"{bytes_per_token([row], tokenizer):.2f}",
        )
    return table


class _Legend:
    """What the signs mean, shown in the signs themselves."""

    def __init__(self, tokenizer: Tokenizer):
        self._end = token_text(tokenizer, tokenizer.end_of_text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        colour = _has_colour(console)
        tokens = Text.assemble(*(_token(text, slot, colour) for slot, text in enumerate("abc")))
        silent = _token("a", 0, colour, silent=True)
        yield Text.assemble(("Legend", "italic"))
        yield Text.assemble(
            "  ", tokens, "  three tokens;  ↵ line end, ⇥ tab, \\xNN part of a letter"
        )
        yield Text.assemble("  ", _token(self._end, 0, colour, special=True), "  a special token")
        yield Text.assemble("  ", silent, "  nothing is to be predicted after this token: no loss")
        yield Text.assemble(
            "  ", _arrow("b", colour), "  the target, where the next token is not it"
        )
        yield Text("  in the margin: slot of the row, position that the model is told")


class RowView:
    """A row in full, wrapped to the width of the console."""

    def __init__(self, row: Row, tokenizer: Tokenizer):
        self._row, self._tokenizer = row, tokenizer
        self._special = set(tokenizer.special_ids.values())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        colour = _has_colour(console)
        for number, piece in enumerate(self._row.pieces):
            yield Text(self._edge(number, piece), "bold")
            yield from self._lines(piece, options.max_width, colour)
        padding = len(self._row.inputs) - self._row.padding_start
        if padding:
            slot = self._row.padding_start
            yield Text(f"── padding: {padding:,} slots from slot {slot:,}, no loss", "dim")

    def _edge(self, number: int, piece: Piece) -> str:
        begins = "from its beginning" if piece.from_beginning else "from somewhere inside"
        whole = self._row.targets[piece.end - 1] == self._tokenizer.end_of_text
        ends = "to its end" if whole else "cut before its end"
        tokens = piece.end - piece.start
        plural = "" if tokens == 1 else "s"
        return f"── document {number}: {tokens:,} token{plural}, {begins} {ends}"

    def _lines(self, piece: Piece, width: int, colour: bool) -> Iterator[Text]:
        """The tokens of a piece in lines that fit, broken after line ends too."""
        line, is_empty = self._margin(piece.start), True
        for slot in range(piece.start, piece.end):
            shown = self._shown(slot, slot + 1 == piece.end, colour)
            if not is_empty and line.cell_len + shown.cell_len > width:
                yield line
                line = self._margin(slot)
            line, is_empty = line.append_text(shown), False
            ends_line = b"\n" in self._tokenizer.token_bytes(self._row.inputs[slot])
            if ends_line and slot + 1 < piece.end:
                yield line
                line, is_empty = self._margin(slot + 1), True
        yield line

    def _margin(self, slot: int) -> Text:
        return Text.assemble((f"{slot:>6} {self._row.positions[slot]:>6}  ", "dim"))

    def _shown(self, slot: int, is_last: bool, colour: bool) -> Text:
        """One token, and its target where the next token does not show it."""
        id, target = self._row.inputs[slot], self._row.targets[slot]
        shown = _token(
            token_text(self._tokenizer, id),
            slot,
            colour,
            special=id in self._special,
            silent=target == IGNORE,
        )
        if target != IGNORE and (is_last or self._row.inputs[slot + 1] != target):
            shown.append_text(_arrow(token_text(self._tokenizer, target), colour))
        return shown


def _has_colour(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def _token(
    text: str, slot: int, colour: bool, *, special: bool = False, silent: bool = False
) -> Text:
    """A token in its colours, or between separators; `silent`: it carries no loss."""
    if not colour:
        return Text(f"({text})│" if silent else f"{text}│")
    if silent:
        return Text(text, "dim")
    return Text(text, SPECIAL_STYLE if special else TOKEN_STYLES[slot % 2])


def _arrow(target: str, colour: bool) -> Text:
    return Text(f"→{target} ", "italic" if colour else "")
