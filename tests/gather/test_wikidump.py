"""The source `wikidump`: every packing gives the same documents, whatever the workers."""

from __future__ import annotations

import bz2
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gather.dumps import many_streams, multistream, page_xml, plain

from hornbook.documents import read_documents
from hornbook.errors import HornbookError
from hornbook.gather import dump_xml
from hornbook.gather.collect import collect
from hornbook.gather.config import GatherConfig, WikidumpConfig
from hornbook.gather.dump_pages import BlockResult
from hornbook.gather.dump_workers import Slow, Workers
from hornbook.gather.dump_xml import Damaged, open_dump, pages_of
from hornbook.gather.wikidump import WikidumpSource, dumps_of

PAGES = [page_xml(number, f"'''Page''' {number} " + "word " * 300) for number in range(450)]
PAGES[7] = page_xml(7, "x", more='<redirect title="Y" />\n')
PAGES[9] = page_xml(9, "talk", namespace=1)
PAGES[11] = page_xml(11, "[[Picture:A.jpg|words]]{{box|w}}", title="Émile & Co./a")
PAGES[13] = page_xml(13, "{{small|[[never}} closed]]")


def gather(dump: Path | list[Path], out: Path, **settings: Any) -> dict[str, Any]:
    inputs = [str(path) for path in (dump if isinstance(dump, list) else [dump])]
    source = WikidumpSource(WikidumpConfig(inputs=inputs, **settings))
    collect(source, GatherConfig(workers=2), out)
    return dict(json.loads((out / "gather.json").read_text()))


@pytest.mark.parametrize(
    "pack", [plain, multistream, many_streams, lambda p: bz2.compress(plain(p))]
)
def test_every_packing_gives_the_same_documents(pack: Any, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(pack(PAGES))
    report = gather(dump, tmp_path / "out")
    documents = list(read_documents(tmp_path / "out"))
    assert [document.meta["page"] for document in documents] == [
        number for number in range(450) if number not in (7, 9, 11)
    ]
    first = asdict(documents[0])
    assert first.pop("text").startswith("Page 0 word word")
    assert len(first.pop("id")) == 32
    assert first == {
        "source": "wikidump",
        "url": "https://en.wikipedia.org/wiki/Page_0",
        "title": "Page 0",
        "licence": "CC BY-SA 4.0",
        "language": "en",
        "created": "2024-05-06T07:08:09Z",
        "meta": {"page": 0, "revision": 1000},
    }
    assert report["counts"] == {
        "redirect": 1,
        "other namespace": 1,
        "no text": 1,
        "lost: {{box}}": 1,
    }


def test_several_files_namespaces_and_an_address(tmp_path: Path) -> None:
    folder = tmp_path / "dumps"
    folder.mkdir()
    (folder / "a.xml").write_bytes(plain(PAGES[:10]))
    (folder / "b.xml.bz2").write_bytes(multistream([page_xml(99, "b", title="Émile & Co./a")]))
    gather(folder, tmp_path / "out", namespaces=[0, 1], wiki="http://wiki.example/w")
    urls = [document.url for document in read_documents(tmp_path / "out")]
    assert len(urls) == 10
    assert urls[-1] == "http://wiki.example/w/%C3%89mile_%26_Co./a"


def test_a_folder_stands_for_its_dumps_each_once(tmp_path: Path) -> None:
    for name in (
        "aawiki-1-pages-articles.xml.bz2",
        "aawiki-1-pages-articles-multistream.xml.bz2",
        "aawiki-1-pages-articles-multistream.xml.bz2.sha1",
        "bbwiki-1-pages-articles1.xml-p1p41242.bz2",
        "cc.xml",
    ):
        (tmp_path / name).touch()
    assert [path.name for path in dumps_of(tmp_path)] == [
        "aawiki-1-pages-articles-multistream.xml.bz2",
        "bbwiki-1-pages-articles1.xml-p1p41242.bz2",
        "cc.xml",
    ]


def test_only_wikimedias_wikis_are_known_to_be_free(tmp_path: Path) -> None:
    dump = tmp_path / "dump.xml"
    dump.write_bytes(plain(PAGES[:1]))
    for number, (wiki, licence) in enumerate(
        {"https://notwikipedia.org/w": "", "https://de.wikibooks.org/w": "CC BY-SA 4.0"}.items()
    ):
        gather(dump, tmp_path / str(number), wiki=wiki)
        assert next(iter(read_documents(tmp_path / str(number)))).licence == licence


class Counting:
    """A `Gathering` that only counts."""

    workers = 1

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.quarantined: dict[str, str] = {}

    def count(self, what: str, amount: int = 1) -> None:
        self.counts[what] += amount

    def quarantine(self, key: str, why: str, text: str = "") -> None:
        self.counts["quarantined"] += 1
        self.quarantined[key] = text


@pytest.mark.parametrize("pack", [plain, lambda pages: multistream(pages, 4), many_streams])
def test_going_on_from_any_step_gives_the_rest_once(
    pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from the last one, where nothing is left but that the dump has ended."""
    monkeypatch.setattr(dump_xml, "BLOCK_BYTES", 5000)
    monkeypatch.setattr(dump_xml, "_PIECE", 3000)
    broken = page_xml(20, "text").replace("</title>", "</titel>")
    for name, pages in (("a.xml", PAGES[:12]), ("b.xml", [*PAGES[13:20], broken])):
        (tmp_path / name).write_bytes(pack(pages))
    source = WikidumpSource(WikidumpConfig(inputs=[str(tmp_path)]))
    whole = Counting()
    steps, counts = [], []
    for step in source.documents({}, whole):  # type: ignore[arg-type]
        steps.append(step)
        counts.append(Counter(whole.counts))
    assert len(steps) > 20 and whole.counts["quarantined"] == 1
    for number in (5, 12, len(steps) - 2, len(steps) - 1):
        rest = Counting()
        cursor = json.loads(json.dumps(steps[number].cursor))
        again = list(source.documents(cursor, rest))  # type: ignore[arg-type]
        texts = [step.document for step in again if step.document]
        assert texts == [step.document for step in steps[number + 1 :] if step.document]
        assert rest.counts + counts[number] == whole.counts
        assert rest.quarantined.items() <= whole.quarantined.items()


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 300_000), min_size=1, max_size=12),
    stop=st.integers(0, 40),
    packed=st.sampled_from([plain, multistream, many_streams]),
)
def test_going_on_from_any_block_gives_the_rest(
    sizes: list[int], stop: int, packed: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dump = tmp_path_factory.mktemp("dump") / "dump"
    pages = [page_xml(number, "x" * size) for number, size in enumerate(sizes)]
    dump.write_bytes(packed(pages, 2 if packed is multistream else 4000) if packed is not plain
                     else plain(pages))  # fmt: skip
    blocks = list(open_dump(dump, 0)[1])
    stop %= len(blocks)
    assert [block.start for block in blocks[1:]] == [block.end for block in blocks[:-1]]
    again = list(open_dump(dump, blocks[stop].start)[1])
    assert [block.data for block in again] == [block.data for block in blocks[stop:]]


def test_damaged_pages_are_put_aside(tmp_path: Path) -> None:
    broken = page_xml(1, "text").replace("</title>", "</titel>")
    number = page_xml(2, "text").replace("<id>2</id>", "<id>two</id>")
    dump = tmp_path / "dump.xml"
    dump.write_bytes(plain([page_xml(0, "a"), broken, number, page_xml(3, "b")]))
    report = gather(dump, tmp_path / "out")
    titles = [document.title for document in read_documents(tmp_path / "out")]
    assert titles == ["Page 0", "Page 3"]
    assert report["counts"] == {"quarantined": 2}
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert "mismatched tag" in kept[0]["why"] and "two" in kept[1]["why"]
    assert "Page 1</titel>" in kept[0]["text"] and "<id>two</id>" in kept[1]["text"]


def test_entities_are_not_expanded_and_nothing_is_fetched() -> None:
    bomb = b"<page><!DOCTYPE x [<!ENTITY a 'aaaa'>]><title>&a;</title></page>"
    assert isinstance(pages_of(bomb)[0][0], Damaged)
    outside = b"<page><title>&x;</title></page>"
    assert isinstance(pages_of(outside)[0][0], Damaged)


def slow_work(task: int, left_out: frozenset[int], slow: Slow) -> list[int]:
    """Part 3 of every fifth task never ends; the others are the squares."""
    done = []
    for part in range(5):
        if part in left_out:
            continue
        with slow(part):
            while task % 5 == 0 and part == 3:
                pass
        done.append(task * part)
    return done


def test_what_hangs_is_ended_and_left_out_and_order_is_kept() -> None:
    with Workers(slow_work, 2, 0.5) as workers:
        results = list(workers.results(range(12)))
    assert [task for task, _ in results] == list(range(12))
    for task, parts in results:
        assert parts == [task * part for part in range(5) if part != 3 or task % 5]


def dying_work(task: int, left_out: frozenset[int], slow: Slow) -> BlockResult:
    raise SystemExit(3)


def test_a_process_that_dies_is_an_error_not_a_hang() -> None:
    with (
        Workers(dying_work, 2, 5) as workers,
        pytest.raises(HornbookError, match="died"),
    ):
        list(workers.results(range(3)))


def test_leaving_early_ends_the_processes() -> None:
    workers = Workers(slow_work, 2, 3600)
    with workers:
        assert next(workers.results(iter([1, 2, 5, 5, 5, 5])))[0] == 1
    assert not any(worker._process.is_alive() for worker in workers._processes)


@pytest.mark.shared
def test_the_real_sample(shared_data: Path, tmp_path: Path) -> None:
    report = gather(shared_data / "enwiki-pages-articles-sample.xml.bz2", tmp_path / "out")
    assert report["documents"] == 106
    assert report["counts"]["redirect"] == 99
    assert report["counts"]["other namespace"] == 1
    assert "quarantined" not in report["counts"]
    anarchism = next(iter(read_documents(tmp_path / "out")))
    assert anarchism.url == "https://en.wikipedia.org/wiki/Anarchism"
    assert anarchism.text.startswith("Anarchism is a political philosophy that advocates self-gov")
