"""The source `wikidump`: the articles of a MediaWiki dump (pages-articles.xml, also .bz2).

In: dump files. Out: a document for each article, in the order of the dump, and in the closing table
what was left out. A dump that is half downloaded is read to where it ends, and read on from there
when it has been completed. Each step's cursor: file, offset of the block, pages of it that are
done, and the templates whose losses are counted by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError
from hornbook.gather.config import WikidumpConfig
from hornbook.gather.dump_pages import BlockResult, PageResult, Task, read_block
from hornbook.gather.dump_workers import Workers
from hornbook.gather.dump_xml import open_dump
from hornbook.gather.source import Cursor, Gathered, Gathering, Size

MOST_NAMES = 500
"""Templates that are counted by name; the English Wikipedia has several 100,000 that show no
prose, most of them boxes of one subject each."""


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
        self._paths = [path for each in config.inputs for path in _dumps(Path(each))]

    def fingerprint(self) -> dict[str, Any]:
        """The settings; not the files' sizes, since a dump that was cut off may be completed."""
        config = self._config
        return {
            "files": [path.name for path in self._paths],
            "namespaces": sorted(config.namespaces),
            "parser": config.parser,
            "wiki": config.wiki,
        }

    def size(self, gathering: Gathering) -> Size:
        """Bytes of the files, as they are packed."""
        return Size(bytes=sum(path.stat().st_size for path in self._paths))

    def documents(self, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        """The articles after `cursor`. Raises `HornbookError` at a dump's early end."""
        names: tuple[str, ...] = tuple(cursor.get("names", ()))
        first, offset = cursor.get("file", 0), cursor.get("offset", 0)
        done = cursor.get("pages", 0)
        with Workers(read_block, gathering.workers, self._config.page_seconds) as workers:
            for number in range(first, len(self._paths)):
                ended = False
                for task, result in workers.results(self._tasks(number, offset)):
                    for at, page in enumerate(result.pages[done:], done + 1):
                        names = _count(page, names, gathering)
                        if page.document is not None:
                            here = _cursor(number, task.block.start, at, names)
                            yield Gathered(page.document, here)
                    done = 0
                    self._check(number, task, result)
                    ended = result.ended
                    after = _cursor(number, task.block.end, 0, names)
                    yield Gathered(None, after, task.block.file_bytes)
                if not ended:
                    raise _cut_off(self._paths[number])
                offset = 0

    def _tasks(self, number: int, offset: int) -> Iterator[Task]:
        """A task for each block of a dump. At its end no block is left, but the last is read."""
        config = self._config
        site, blocks = open_dump(self._paths[number], offset)
        wiki = config.wiki or site.base.rpartition("/")[0]
        wiki = f"{wiki.rstrip('/')}/" if wiki else ""
        namespaces = frozenset(config.namespaces)
        for block in blocks:
            yield Task(block, site, wiki, namespaces, config.parser, config.page_seconds)

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


def _cursor(file: int, offset: int, pages: int, names: tuple[str, ...]) -> Cursor:
    return {"file": file, "offset": offset, "pages": pages, "names": names}


def _count(page: PageResult, names: tuple[str, ...], gathering: Gathering) -> tuple[str, ...]:
    """Count what became of a page, for the closing table; the names that are counted by now."""
    if page.quarantined is not None:
        key, text = page.quarantined
        gathering.quarantine(key, page.why, text)
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


def _dumps(path: Path) -> list[Path]:
    """The file, or the dumps in the folder."""
    if path.is_dir():
        found = sorted(each for each in path.glob("*.xml*") if each.is_file())
        if not found:
            raise HornbookError("holds no dump (*.xml, *.xml.bz2)", where=path)
        return found
    if not path.is_file():
        raise HornbookError("no such file", where=path)
    return [path]
