"""The source `hub`: a data set of the Hugging Face hub, its Parquet or JSON lines files.

In: the name of a data set, a revision, a pattern. Out: its documents, files in the order of their
paths. What the revision means is asked once and kept in the journal, so that a gathering which
goes on next week reads the same files. Files are downloaded a few ahead, and removed when they are
read (a gathering that was killed fetches again those behind its last whole shard).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from hornbook.documents import Document, byte_length, document_id
from hornbook.errors import HornbookError, check_limits
from hornbook.gather.client import FetchError, Page, PoliteClient, Politeness
from hornbook.gather.config import HubConfig
from hornbook.gather.download import DownloadError
from hornbook.gather.hub_presets import PRESETS
from hornbook.gather.remote_files import (
    RemoteFile,
    fetch_files,
    is_worth_another_run,
    read_file,
)
from hornbook.gather.source import Cursor, Gathered, Gathering, Size, StopGathering

KEY_VARIABLE = "HF_TOKEN"
"""Environment variable of the access token, as the hub's own tools have it."""

BYTES_PER_TOKEN = 4.3
"""Of English text with GPT-2's tokens, about; `--megabytes` is exact."""

REQUESTS_PER_MINUTE = 300
"""The hub allows 3,000 anonymous requests in 5 minutes; this is half of it."""

_PINNED = "revision"
_TOKENS = re.compile(r"(\d+(?:\.\d+)?)\s*([KMBT]?)", re.IGNORECASE)
_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*rel="?next"?')
_ROWS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")


class HubSource:
    """A data set of the hub."""

    name = "hub"
    replayable = True

    def __init__(self, config: HubConfig):
        if known := PRESETS.get(config.dataset):
            config = dataclasses.replace(
                config,
                dataset=known.dataset,
                pattern=config.pattern or known.pattern,
                text_column=config.text_column or "text",
            )
        if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", config.dataset):
            raise HornbookError(
                f"names no data set: {config.dataset!r}",
                where="--dataset",
                hint=f"OWNER/NAME, or one of {', '.join(PRESETS)}",
            )
        check_limits(config, "hub", [("downloads", config.downloads >= 1, "1 or more")])
        self._config = config
        self._endpoint = config.endpoint.rstrip("/")
        self._most_bytes = _budget(config.max_tokens)
        self._token = os.environ.get(KEY_VARIABLE, "").strip()
        self._headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._opened: PoliteClient | None = None
        self._listed: tuple[list[RemoteFile], str] | None = None

    def fingerprint(self) -> dict[str, Any]:
        """What is asked for; how it is downloaded does not matter."""
        kept = dataclasses.asdict(self._config)
        del kept["downloads"]
        return kept

    def size(self, gathering: Gathering) -> Size:
        """Bytes of the files, or of the text where there is a budget."""
        files, _ = self._pinned(gathering)
        known = [file.bytes for file in files if file.bytes is not None]
        return Size(bytes=self._most_bytes or (sum(known) if len(known) == len(files) else None))

    def documents(self, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        """The documents of each file, until the budget is used up.

        Raises:
            StopGathering: the hub does not work now.
            HornbookError: no such data set or file, or no permission.
        """
        files, licence = self._pinned(gathering)
        place = dict(cursor) or {"file": 0, "documents": 0, "bytes": 0}
        yield Gathered(None, dict(place))  # so that the revision is kept
        for number in range(place["file"]):
            shutil.rmtree(gathering.work / f"{number:05d}", ignore_errors=True)
        fetching = fetch_files(
            files,
            range(place["file"], len(files)),
            self._client(gathering),
            gathering.work,
            ahead=self._config.downloads,
            headers=self._headers,
            note=gathering.note,
        )
        with contextlib.closing(fetching):
            for number, found in fetching:
                if isinstance(found, StopGathering):
                    raise found
                if isinstance(found, DownloadError):
                    raise self._problem(found, files[number].path)
                yield from self._read(found, place, licence, gathering)
                if self._is_enough(place):
                    return
                place |= {"file": number + 1, "documents": 0}
                yield Gathered(None, dict(place))
                shutil.rmtree(gathering.work / f"{number:05d}")

    def _is_enough(self, place: Cursor) -> bool:
        return bool(self._most_bytes) and place["bytes"] >= self._most_bytes

    def _read(
        self, path: Path, place: Cursor, licence: str, gathering: Gathering
    ) -> Iterator[Gathered]:
        """The documents of a file; `place` is moved along."""
        documents = read_file(path, self._config.text_column, place["documents"], gathering)
        for document, number, read in documents:
            size = byte_length(document.text)
            place |= {"documents": number, "bytes": place["bytes"] + size}
            own = self._own(document, path.name, licence)
            yield Gathered(own, dict(place), size if self._most_bytes else read)
            if self._is_enough(place):
                return

    def _own(self, document: Document, file_name: str, licence: str) -> Document:
        """The document with the data set as its source, where it has no better one."""
        source, id = document.source, document.id
        if source == file_name:
            source = self._config.dataset
            if document.url and id == document_id(f"{file_name}\n{document.url}"):
                id = ""  # made anew, of the new source
        licence = document.licence or licence
        return dataclasses.replace(document, source=source, id=id, licence=licence)

    def _pinned(self, gathering: Gathering) -> tuple[list[RemoteFile], str]:
        """The files of the commit that the revision meant at first, and their licence."""
        if self._listed is None:
            client = self._client(gathering)
            known = gathering.items.get(_PINNED)
            if known is None:
                value = json.dumps(self._about(client))
                gathering.items.add([_PINNED], value=value)
            else:
                value = known.value
            pinned = json.loads(value)
            self._listed = self._files(client, pinned["sha"]), pinned["licence"]
        return self._listed

    def _client(self, gathering: Gathering) -> PoliteClient:
        if self._opened is None:
            manners = Politeness(
                requests_per_minute=REQUESTS_PER_MINUTE, concurrency=max(2, self._config.downloads)
            )
            self._opened = gathering.client(manners, secrets=(self._token,))
        return self._opened

    def _about(self, client: PoliteClient) -> dict[str, str]:
        """The commit that the revision means, and the licence of the data set's card."""
        _, answer = self._ask(client, f"/revision/{quote(self._config.revision, safe='')}")
        if not isinstance(answer, dict) or not isinstance(answer.get("sha"), str):
            raise self._no_hub()
        card = answer.get("cardData")
        licence = card.get("license") if isinstance(card, dict) else None
        if isinstance(licence, list):
            licence = ", ".join(str(each) for each in licence)
        return {"sha": answer["sha"], "licence": licence if isinstance(licence, str) else ""}

    def _files(self, client: PoliteClient, sha: str) -> list[RemoteFile]:
        """The files that match, in the order of their paths."""
        entries: dict[str, dict[str, Any]] = {}
        url = f"/tree/{sha}?recursive=true"
        while url:
            page, listed = self._ask(client, url)
            try:
                entries |= {entry["path"]: entry for entry in listed if entry["type"] == "file"}
            except (TypeError, KeyError):
                raise self._no_hub() from None
            found = _NEXT.search(page.headers.get("Link", ""))
            url = found[1] if found and listed else ""
            if url and urlsplit(url)[:2] != urlsplit(self._endpoint)[:2]:
                raise HornbookError("its list of files goes on at another server", where=url)
        return [self._file(entries[path], sha) for path in self._chosen(sorted(entries))]

    def _file(self, entry: dict[str, Any], sha: str) -> RemoteFile:
        where = f"{self._config.dataset}/resolve/{sha}/{quote(entry['path'])}"
        return RemoteFile(
            f"{self._endpoint}/datasets/{where}",
            entry["path"],
            entry.get("size"),
            (entry.get("lfs") or {}).get("oid"),
        )

    def _chosen(self, paths: list[str]) -> list[str]:
        if self._config.pattern:
            chosen = fnmatch.filter(paths, self._config.pattern)
        else:
            chosen = [path for path in paths if path.endswith(".parquet")]
            chosen = chosen or [path for path in paths if path.endswith(_ROWS)]
        if not chosen:
            raise HornbookError(
                f"no file matches {self._config.pattern or '*.parquet or *.jsonl'}; there are: "
                + (", ".join(paths[:8]) + (" ..." if len(paths) > 8 else "") or "none"),
                where=self._config.dataset,
                hint="Name some with --pattern",
            )
        return chosen

    def _ask(self, client: PoliteClient, path: str) -> tuple[Page, Any]:
        """An answer of the hub's API: the page, and its JSON."""
        url = path
        if path.startswith("/"):
            url = f"{self._endpoint}/api/datasets/{self._config.dataset}{path}"
        try:
            page = client.get(url, headers=self._headers, accept="application/json")
            return page, client.parsed(page)
        except FetchError as error:
            raise self._problem(error, self._config.dataset) from error

    def _no_hub(self) -> HornbookError:
        return HornbookError("does not answer as the hub does", where=self._endpoint)

    def _problem(self, error: DownloadError, where: str) -> HornbookError:
        status = error.status if isinstance(error, FetchError) else None
        if status in (401, 403):
            hint = f"Does the token in {KEY_VARIABLE} have access to it?"
            if not self._token:
                hint = "Accept its terms on its page, and put an access token into " + KEY_VARIABLE
            what = f"the hub refuses (HTTP {status}): there is no such data set, or it is private"
            return HornbookError(f"{what} or gated", where=where, hint=hint)
        if status == 404:
            hint = f"Is the name right, and --revision? Presets: {', '.join(PRESETS)}"
            return HornbookError("is not on the hub", where=where, hint=hint)
        if is_worth_another_run(error):
            hint = "Run the same command again later: it goes on"
            return StopGathering(str(error), where=where, hint=hint)
        return HornbookError(str(error), where=where)


def _budget(tokens: str) -> int:
    """Bytes of text to take; 0: all."""
    if not tokens:
        return 0
    found = _TOKENS.fullmatch(tokens.strip())
    bytes = float(found[1]) * _FACTORS[found[2].upper()] * BYTES_PER_TOKEN if found else 0
    if bytes < 1:
        raise HornbookError(
            f"is not a number of tokens: {tokens!r}",
            where="--max-tokens",
            hint="As in 500M, 10B or 1.5B",
        )
    return int(bytes)
