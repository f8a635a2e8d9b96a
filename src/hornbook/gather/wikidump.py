"""The source `wikidump`: the articles of a MediaWiki dump (pages-articles.xml, also .bz2).

In: dump files. Out: a document for each article, in the order of the dump, and in the closing table
what was left out. A dump that is half downloaded is read to where it ends, and read on from there
when it has been completed. Each step's cursor: file, offset of the block, pages of it that are
done, whether the file has ended before it, and the templates whose losses are counted by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError
from hornbook.gather.config import WikidumpConfig
from hornbook.gather.dump_pages import BlockResult, PageResult, Task, read_block
from hornbook.gather.dump_workers import Workers
from hornbook.gather.dump_xml import open_dump
from hornbook.gather.source import Cursor, Gathered, Gathering, Size
from hornbook.gather.wikitext_nodes import require_mwparserfromhell

MOST_NAMES = 500
"""Templates that are counted by name; the English Wikipedia has several 100,000 that show no
prose, most of them boxes of one subject each."""

_DUMP = re.compile(r"\.xml(-p\d+p\d+)?(\.bz2)?$")


class WikidumpSource:
    """Dump files, in the order that they are named in; a folder stands for the dumps in it."""

    name = "wikidump"
    replayable = True

    def __init__(self, config: WikidumpConfig):
        if not config.inputs:
            raise HornbookError("no dump is named", hint="hornbook gather wikidump FILE.xml.bz2")
        if config.page_seconds <= 0:
            raise HornbookError("must be above 0", where="--page-seconds")
        self._config = config
        self._paths = [path for each in config.inputs for path in dumps_of(Path(each))]

    def fingerprint(self) -> dict[str, Any]:
        """The settings; not the files' sizes, since a dump that was cut off may be completed."""
        config = self._config
        return {
            "files": [path.name for path in self._paths],
            "namespaces": sorted(config.namespaces),
            "wiki": config.wiki,
        }

    def size(self, gathering: Gathering) -> Size:
        """Bytes of the files, as they are packed."""
        return Size(bytes=sum(path.stat().st_size for path in self._paths))

    def documents(self, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        """The articles after `cursor`.

        Raises:
            HornbookError: a dump ends early or is damaged, or mwparserfromhell is missing.
        """
        require_mwparserfromhell()  # the workers need it; a missing one would be each page's fault
        with Workers(read_block, gathering.workers, self._config.page_seconds) as workers:
            for number in range(cursor.get("file", 0), len(self._paths)):
                for step in self._dump(number, cursor, workers, gathering):
                    cursor = step.cursor
                    yield step
                if not cursor.get("ended"):
                    raise _cut_off(self._paths[number])
                cursor = {"names": cursor["names"]}

    def _dump(
        self,
        number: int,
        cursor: Cursor,
        workers: Workers[Task, BlockResult],
        gathering: Gathering,
    ) -> Iterator[Gathered]:
        """The steps of one dump."""
        names: tuple[str, ...] = tuple(cursor.get("names", ()))
        done = cursor.get("pages", 0)
        for task, result in workers.results(self._tasks(number, cursor.get("offset", 0))):
            for at, page in enumerate(result.pages[done:], done + 1):
                names = _count(page, names, self._paths[number].name, gathering)
                if page.document is not None:
                    here = {"file": number, "offset": task.block.start, "pages": at, "names": names}
                    yield Gathered(page.document, here)
            done = 0
            self._check(number, task, result)
            end = {"file": number, "offset": task.block.end, "names": names, "ended": result.ended}
            yield Gathered(None, end, task.block.file_bytes)

    def _tasks(self, number: int, offset: int) -> Iterator[Task]:
        """A task for each block of a dump."""
        site, blocks = open_dump(self._paths[number], offset)
        wiki = self._config.wiki or site.base.rpartition("/")[0]
        wiki = f"{wiki.rstrip('/')}/" if wiki else ""
        namespaces = frozenset(self._config.namespaces)
        for block in blocks:
            yield Task(block, site, wiki, namespaces)

    def _check(self, number: int, task: Task, result: BlockResult) -> None:
        path = self._paths[number]
        if result.damage:
            raise HornbookError(
                result.damage,
                where=f"{path} at byte {task.block.start:,}",
                hint="What stands before it is kept. Fetch the dump again, and run the same again",
            )
        if result.cut_off:
            raise _cut_off(path)


def _cut_off(path: Path) -> HornbookError:
    return HornbookError(
        "is cut off: it has no </mediawiki>",
        where=f"{path} at byte {path.stat().st_size:,}",
        hint="The pages before are kept. Complete the download, and run the same command again",
    )


def _count(
    page: PageResult, names: tuple[str, ...], dump: str, gathering: Gathering
) -> tuple[str, ...]:
    """Count what became of a page, for the closing table; the names that are counted by now."""
    if page.quarantined is not None:
        key, text = page.quarantined
        gathering.quarantine(f"{dump}: {key}", page.why, text)
    elif page.why:
        gathering.count(page.why)
    for kind, amount in page.lost.items():
        if kind.startswith("{{") and kind not in names:
            if len(names) < MOST_NAMES:
                names = (*names, kind)
            else:
                kind = "other templates"
        gathering.count(f"lost: {kind}", amount)
    return names


def dumps_of(path: Path) -> list[Path]:
    """The file, or the dumps in the folder: parts, too (`...xml-p1p41242.bz2`), and of one that is
    there in both forms the multistream one."""
    if path.is_dir():
        found = [each for each in sorted(path.glob("*.xml*")) if _DUMP.search(each.name)]
        if not found:
            raise HornbookError("holds no dump (*.xml, *.xml.bz2)", where=path)
        twice = {
            each.name.replace("-multistream", "") for each in found if "-multistream" in each.name
        }
        return [each for each in found if each.name not in twice]
    if not path.is_file():
        raise HornbookError("no such file", where=path)
    return [path]
