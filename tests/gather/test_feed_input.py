"""The log of a feed as text to prepare, gather and convert: whole, damaged, among other files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hornbook.cli import main
from hornbook.corpus.config import PrepareConfig
from hornbook.corpus.prepare import _fingerprint, prepare
from hornbook.documents import Document, read_documents
from hornbook.errors import HornbookError
from hornbook.feed.log import LogWriter
from hornbook.gather.config import FilesConfig
from hornbook.gather.files import FilesSource
from hornbook.gather.readers import Reading, read_inputs, read_with_cursor
from hornbook.recipe import Recipe
from hornbook.stages import _input_files


@pytest.fixture
def feed(tmp_path: Path) -> LogWriter:
    log = LogWriter.create_or_open(tmp_path / "inputs" / "my-feed", segment_bytes=1)
    for number in range(12):
        meta = {"producer": "archive"}
        document = Document(f"Text number {number}. {'word ' * 50}", meta=meta, licence="CC0")
        log.append([document], {}).result(30)
    log.close()
    return log


def test_a_feed_is_read_as_its_documents(feed: LogWriter) -> None:
    counted: list[int] = []
    documents = list(read_inputs([feed.folder], on_bytes=counted.append))
    assert [each.text.split(".")[0] for each in documents] == [
        f"Text number {i}" for i in range(12)
    ]
    assert all(each.meta == {"producer": "archive"} for each in documents)
    assert {(each.source, each.licence) for each in documents} == {("my-feed", "CC0")}
    assert 0.9 * feed.stored_bytes < sum(counted) <= feed.stored_bytes + 32 * 12


def test_among_other_files_and_from_a_cursor(feed: LogWriter) -> None:
    folder = feed.folder.parent
    (folder / "a.txt").write_text("Before.")
    (folder / "z.txt").write_text("Behind.")
    found = list(read_with_cursor([folder], Reading()))
    assert [found[0][0].text, found[-1][0].text] == ["Before.", "Behind."] and len(found) == 14
    for number, (_, cursor) in enumerate(found):
        rest = [document.text for document, _ in read_with_cursor([folder], Reading(), cursor)]
        assert rest == [document.text for document, _ in found[number + 1 :]]


def test_prepare_passes_over_damage(
    feed: LogWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (feed.folder / "log" / "segment-000000000003.log").unlink()
    prepare(PrepareConfig(inputs=[str(feed.folder)], validation_share=0.2), tmp_path / "out")
    said = capsys.readouterr().err.replace("\n", "")
    assert "texts 3 to 3 are damaged or missing here; the others can be read" in said
    shards = [tmp_path / "out" / split for split in ("train", "validation")]
    text = "\n".join(document.text for shard in shards for document in read_documents(shard))
    numbers = sorted(int(number) for number in re.findall(r"Text number (\d+)\.", text))
    assert numbers == [0, 1, 2, *range(4, 12)]


def test_more_texts_are_another_input(feed: LogWriter) -> None:
    recipe = Recipe()
    recipe.prepare.inputs = [str(feed.folder)]
    before = _input_files(recipe)
    assert before == _input_files(recipe)
    log = LogWriter.create_or_open(feed.folder)
    log.append([Document("one more")], {}).result(30)
    log.close()
    assert _input_files(recipe) != before


def test_another_log_is_another_input_whatever_its_size_and_time(feed: LogWriter) -> None:
    def known() -> list[object]:
        recipe = Recipe()
        recipe.prepare.inputs = [str(feed.folder)]
        gathered = FilesSource(FilesConfig(inputs=recipe.prepare.inputs)).fingerprint()
        return [_input_files(recipe), _fingerprint(recipe.prepare, [feed.folder], 1), gathered]

    before, again = known(), known()
    assert before == again
    identity = feed.folder / "feed.json"  # what a log of the same texts would differ in
    identity.write_text(identity.read_text().replace(feed.id, "0" * 32))
    assert not any(a == b for a, b in zip(before, known(), strict=True))


def test_convert_takes_a_feed(feed: LogWriter, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["convert", str(feed.folder), "--to", "jsonl", "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 12


def test_a_feed_with_no_text_yet(tmp_path: Path) -> None:
    LogWriter.create_or_open(tmp_path / "feed").close()
    with pytest.raises(HornbookError, match="there is no text"):
        list(read_inputs([tmp_path / "feed"]))
