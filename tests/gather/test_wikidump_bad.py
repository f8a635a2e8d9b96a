"""Dumps that are cut off, damaged, or none at all; wikitext that hangs a parser."""

from __future__ import annotations

import bz2
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.gather.dumps import many_streams, multistream, page_xml, plain

from hornbook.documents import read_documents
from hornbook.errors import HornbookError
from hornbook.gather import dump_xml
from hornbook.gather.collect import collect
from hornbook.gather.config import GatherConfig, WikidumpConfig
from hornbook.gather.wikidump import WikidumpSource

TEXTS = (hashlib.shake_128(bytes([number])).hexdigest(800) for number in range(120))
PAGES = [page_xml(number, f"Page {number} {text}") for number, text in enumerate(TEXTS)]


def gather(dump: Path, out: Path, **settings: Any) -> None:
    source = WikidumpSource(WikidumpConfig(inputs=[str(dump)], **settings))
    collect(source, GatherConfig(workers=2), out)


@pytest.mark.parametrize("share", [0.6, 0.999])
@pytest.mark.parametrize(
    "pack",
    [
        plain,
        lambda pages: multistream(pages, 10),
        lambda pages: many_streams(pages, 10_000),
        lambda pages: bz2.compress(plain(pages), 1),
    ],
)
def test_a_half_downloaded_dump_is_kept_and_completed(
    pack: Any, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump_xml, "BLOCK_BYTES", 10_000)
    whole = pack(PAGES)
    dump = tmp_path / "dump"
    dump.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(HornbookError, match=r"cut off.*same command again"):
        gather(dump, tmp_path / "out")
    kept = [document.title for document in read_documents(tmp_path / "out")]
    assert kept == [f"Page {number}" for number in range(len(kept))]
    # All but the pages of the stream that is cut off, or of its last block of 100 kB.
    assert len(kept) >= 120 * share - 70
    dump.write_bytes(whole)
    gather(dump, tmp_path / "out")
    gather(dump, tmp_path / "undisturbed")
    shard = "documents-00000.parquet"
    assert (tmp_path / "out" / shard).read_bytes() == (
        tmp_path / "undisturbed" / shard
    ).read_bytes()


def test_a_multistream_dump_cut_off_in_its_first_pages_goes_on_as_one(tmp_path: Path) -> None:
    """The header alone does not say yet what it is, so nothing may be kept of where it is."""
    whole = multistream(PAGES, 40)
    pages = whole.find(b"BZh", 1)
    dump = tmp_path / "dump.xml.bz2"
    for size in (pages - 1, pages, pages + 5, pages + 100):
        dump.write_bytes(whole[:size])
        with pytest.raises(HornbookError, match=r"cut off.*same command again"):
            gather(dump, tmp_path / "out")
    dump.write_bytes(whole)
    gather(dump, tmp_path / "out")
    assert len(list(read_documents(tmp_path / "out"))) == 120


def test_without_mwparserfromhell_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mwparserfromhell", None)
    dump = tmp_path / "dump.xml"
    dump.write_bytes(plain(PAGES[:2]))
    with pytest.raises(HornbookError, match=r"needs mwparserfromhell.*hornbook\[gather\]"):
        gather(dump, tmp_path / "out")


def test_a_cut_between_two_streams_is_seen(tmp_path: Path) -> None:
    dump = tmp_path / "dump.xml.bz2"
    whole = multistream(PAGES, 40)
    dump.write_bytes(whole[: whole.rfind(b"BZh")])
    with pytest.raises(HornbookError, match="cut off"):
        gather(dump, tmp_path / "out")
    assert len(list(read_documents(tmp_path / "out"))) == 120


@pytest.mark.parametrize("pack", [multistream, lambda pages: bz2.compress(plain(pages))])
def test_damaged_bytes_are_named(pack: Any, tmp_path: Path) -> None:
    dump = tmp_path / "dump.xml.bz2"
    whole = bytearray(pack(PAGES))
    middle = len(whole) // 2
    whole[middle : middle + 20] = bytes(20)
    dump.write_bytes(whole)
    with pytest.raises(HornbookError, match="is damaged"):
        gather(dump, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a dump"),
        (b"<html></html>", "not a dump"),
        (b"7z\xbc\xaf\x27\x1c", "not a dump.*unpacked first"),
        (b"BZh9garbage", "damaged at its beginning"),
        (bz2.compress(b"just text"), "not a dump"),
        (b"<mediawiki><siteinfo><a></siteinfo><page>", "damaged header"),
        (b"<mediawiki><siteinfo><namespace key='x'/></siteinfo>", "damaged header"),
        (b"<mediawiki>", "cut off"),
    ],
)
def test_what_is_no_dump(content: bytes, message: str, tmp_path: Path) -> None:
    dump = tmp_path / "dump.xml"
    dump.write_bytes(content)
    with pytest.raises(HornbookError, match=message):
        gather(dump, tmp_path / "out")


def test_settings_that_cannot_work(tmp_path: Path) -> None:
    for config, message in (
        (WikidumpConfig(), "no dump is named"),
        (WikidumpConfig(inputs=[str(tmp_path / "absent")]), "no such file"),
        (WikidumpConfig(inputs=[str(tmp_path)]), "holds no dump"),
        (WikidumpConfig(inputs=[str(tmp_path)], page_seconds=0), "above 0"),
    ):
        with pytest.raises(HornbookError, match=message):
            WikidumpSource(config)


def test_an_empty_wiki_gives_nothing_and_no_error(tmp_path: Path) -> None:
    for pack in (plain, multistream):
        dump = tmp_path / "dump.xml"
        dump.write_bytes(pack([]))
        gather(dump, tmp_path / pack.__name__)


def test_a_page_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_xml, "MOST_PAGE_BYTES", 4 * 2**20)
    dump = tmp_path / "dump.xml"
    dump.write_bytes(plain(PAGES).partition(b"</page>")[0] + b"x" * 8 * 2**20)
    with pytest.raises(HornbookError, match="no page ends within 4 MB"):
        gather(dump, tmp_path / "out")


def test_wikitext_that_hangs_the_parser_goes_into_quarantine(tmp_path: Path) -> None:
    """mwparserfromhell needs minutes for this page: it tries each opening to the end."""
    hanging = "[[a" + "{{b|" * 3000 + "<i " * 6000 + "x" * 1_500_000
    dump = tmp_path / "dump.xml"
    dump.write_bytes(plain([PAGES[0], page_xml(1, hanging), PAGES[2]]))
    gather(dump, tmp_path / "out", page_seconds=0.2)
    assert [page.title for page in read_documents(tmp_path / "out")] == ["Page 0", "Page 2"]
    report = json.loads((tmp_path / "out" / "gather.json").read_text())
    assert report["counts"] == {"quarantined": 1}
    kept = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert kept["key"] == "dump.xml: 1 Page 1"
    assert kept["why"] == "took too long, or its process died"
    assert kept["text"] == hanging
