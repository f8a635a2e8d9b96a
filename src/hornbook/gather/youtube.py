"""The source `youtube`: what is said in the videos of channels.

In: channel ids, and an API key from the environment. Out: the transcript of each upload. Channels
are listed by the YouTube Data API (1 unit of its 10,000 a day for a channel and for each 50
videos); transcripts are asked for one by one, at a pace, until YouTube blocks the address: then
the gathering stops, and goes on when it is run again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.documents import Document
from hornbook.errors import HornbookError, check_limits
from hornbook.files import read_list
from hornbook.gather.captions import join_captions
from hornbook.gather.channels import CHANNELS
from hornbook.gather.client import FetchError, PoliteClient, Politeness
from hornbook.gather.config import YoutubeConfig
from hornbook.gather.pace import Clock, SystemClock
from hornbook.gather.source import Cursor, Gathered, Gathering, Item, Size, StopGathering
from hornbook.gather.transcripts import (
    NoTranscript,
    TranscriptFailed,
    Transcripts,
    open_session,
)

if TYPE_CHECKING:
    from requests import Session

KEY_VARIABLE = "YOUTUBE_API_KEY"
"""Environment variable of the API key; it is in no message, file or address."""

MOST_FAILURES = 3
"""Transcripts in a row that fail for no known reason: YouTube changed, or does not answer."""

_NO_UPLOADS = {"playlistItemsNotAccessible"}
_TOO_OFTEN = {"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"}
_CHANNEL = re.compile(r"UC[A-Za-z0-9_-]{22}|@[\w.-]{3,30}")


class YoutubeSource:
    """Transcripts of the uploads of channels.

    Args:
        config: the settings.
        session: what requests for transcripts go through; None: straight to YouTube.
        clock: what waiting is measured with.
    """

    name = "youtube"
    replayable = False

    def __init__(
        self,
        config: YoutubeConfig,
        session: Session | None = None,
        clock: Clock | None = None,
    ):
        for name in ("videos", "seconds_between"):
            check_limits(config, "youtube", [(name, getattr(config, name) >= 0, "0 or more")])
        self._config = config
        self._channels = _channels(config)
        self._session = session or open_session()
        self._clock: Clock = clock or SystemClock()
        self._api_url = config.api_url.rstrip("/")
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not self._key or not self._key.isascii():
            raise HornbookError(
                "listing channels needs an API key of the YouTube Data API",
                where=KEY_VARIABLE,
                hint="Make one at https://console.cloud.google.com, then: "
                f"export {KEY_VARIABLE}=KEY",
            )

    def fingerprint(self) -> dict[str, Any]:
        """The settings that decide the documents."""
        config = self._config
        return {
            "channels": self._channels,
            "languages": config.languages,
            "videos": config.videos,
            "generated": config.generated,
        }

    def size(self, gathering: Gathering) -> Size:
        """At most so many videos, where that was said."""
        return Size(documents=self._config.videos or None)

    def documents(self, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        """The transcripts of the newest 50 videos of each channel, of the next 50 of each ...

        Videos are listed when those before them are done, so that no quota is used for more than
        is wanted.
        """
        items, wanted = gathering.items, self._config.videos
        items.add(self._channels, "channel")
        client = gathering.client(
            Politeness(requests_per_minute=120, concurrency=1), secrets=(self._key,)
        )
        transcripts = self._transcripts()
        taken, failures = cursor.get("videos", 0), 0
        while not wanted or taken < wanted:
            waiting = items.next(1) or items.next(1, "channel") or items.next(1, "list")
            if not waiting:
                break
            item, document = waiting[0], None
            if item.state != "todo":
                self._list(item, client, gathering)
                if failures:
                    continue
            else:
                try:
                    document = self._video(item, transcripts)
                    state = "done"
                except NoTranscript as error:
                    state = str(error)
                    gathering.count(f"videos: {state}")
                except TranscriptFailed as error:
                    failures += 1
                    if failures == MOST_FAILURES:
                        what = f"{failures} transcripts in a row could not be had ({error})"
                        raise _stopped(what) from error
                    items.set(item.key, "failed", str(error))
                    gathering.count("videos: failed")
                    continue  # kept as failed only once a later one works; else it is tried again
                items.set(item.key, state)
                failures = 0
                taken += document is not None
            yield Gathered(document, {"videos": taken})
        if failures:
            yield Gathered(None, {"videos": taken})
        if not taken:
            states = [f"{state} {n:,}" for state, n in items.count().items() if state != "done"]
            raise HornbookError(
                f"no transcript was found; videos: {', '.join(states) or 'none'}",
                where="youtube",
                hint="Try other --channels or --languages",
            )

    def _transcripts(self) -> Transcripts:
        return Transcripts(
            self._config.languages,
            generated=self._config.generated,
            seconds_between=self._config.seconds_between,
            session=self._session,
            clock=self._clock,
        )

    def _list(self, item: Item, client: PoliteClient, gathering: Gathering) -> None:
        """Put what a channel or a page of its uploads leads to into the queue."""
        try:
            if item.state == "channel":
                self._find_uploads(item, client, gathering)
            else:
                self._list_page(item, client, gathering)
        except (KeyError, TypeError, AttributeError) as error:
            raise HornbookError(
                "the answer is not what the YouTube Data API says", where=self._api_url
            ) from error

    def _find_uploads(self, item: Item, client: PoliteClient, gathering: Gathering) -> None:
        by = "forHandle" if item.key.startswith("@") else "id"
        answer = self._ask(client, "channels", part="contentDetails,snippet", **{by: item.key})
        found = next(iter(answer.get("items", [])), None)
        gathering.items.set(item.key, "done" if found else "no such channel")
        if found is None:
            gathering.count("channels that do not exist")
            gathering.note(f"youtube: there is no channel {item.key}")
        elif playlist := found["contentDetails"]["relatedPlaylists"]["uploads"]:
            gathering.items.add([f"{playlist}\n"], "list", found["snippet"]["title"])

    def _list_page(self, item: Item, client: PoliteClient, gathering: Gathering) -> None:
        """A page of 50 videos."""
        playlist, page = item.key.split("\n")
        answer = self._ask(
            client,
            "playlistItems",
            part="snippet,contentDetails",
            playlistId=playlist,
            maxResults="50",
            **({"pageToken": page} if page else {}),
        )
        for each in answer.get("items", []):
            details = each["contentDetails"]
            value = {
                "channel": item.value,
                "title": each["snippet"]["title"],
                "created": details.get("videoPublishedAt", ""),
            }
            gathering.items.add([details["videoId"]], "todo", json.dumps(value))
        if following := answer.get("nextPageToken"):
            gathering.items.add([f"{playlist}\n{following}"], "list", item.value)
        gathering.items.set(item.key, "done")

    def _ask(self, client: PoliteClient, what: str, **parameters: str) -> Any:
        url = f"{self._api_url}/{what}"
        try:
            return client.json(url, params=parameters, headers={"X-Goog-Api-Key": self._key})
        except FetchError as error:
            reasons = _reasons(error.body)
            if what == "playlistItems" and (error.status == 404 or reasons & _NO_UPLOADS):
                return {}
            raise _refusal(error, reasons) from None

    def _video(self, item: Item, transcripts: Transcripts) -> Document:
        found = transcripts.fetch(item.key)
        text = join_captions(found.snippets)
        if not text:
            raise NoTranscript("transcript without words")
        listed = json.loads(item.value)
        return Document(
            text,
            source=self.name,
            url=f"https://www.youtube.com/watch?v={item.key}",
            title=listed["title"],
            language=found.language,
            created=listed["created"],
            meta={"channel": listed["channel"], "is_generated": found.is_generated},
        )


def _channels(config: YoutubeConfig) -> list[str]:
    named = list(config.channels)
    if config.channels_file is not None:
        lines = read_list(Path(config.channels_file).expanduser())
        named += [line.partition("#")[0].strip() for line in lines]
    for channel in named:
        if not _CHANNEL.fullmatch(channel):
            raise HornbookError(
                f"{channel!r} is no channel id",
                where="--channels",
                hint="An id begins with UC and has 24 characters; or give the handle: @name",
            )
    return list(dict.fromkeys(named)) or list(CHANNELS)


def _refusal(error: FetchError, reasons: set[str]) -> HornbookError:
    """What an error of the API means: the quota, the key, or no answer."""
    if reasons & {"quotaExceeded", "dailyLimitExceeded"}:
        return StopGathering(
            "today's quota of the YouTube Data API is used up",
            where="youtube",
            hint="It resets at midnight Pacific time; run the same command again after that",
        )
    if error.status in (400, 401, 403) and not reasons & _TOO_OFTEN:
        why = ", ".join(sorted(reasons)) or "no reason given"
        return HornbookError(
            f"the YouTube Data API refuses the key ({why})",
            where=KEY_VARIABLE,
            hint="Is it the right key, and is the YouTube Data API v3 enabled for it?",
        )
    return _stopped(str(error))


def _stopped(what: str) -> StopGathering:
    hint = "Run the same command again later: it goes on from here"
    return StopGathering(what, where="youtube", hint=hint)


def _reasons(body: bytes) -> set[str]:
    """The words by which the API names an error: `quotaExceeded`, `API_KEY_INVALID` ..."""
    try:
        error = json.loads(body)["error"]
        return {
            each["reason"]
            for each in [*error.get("errors", []), *error.get("details", [])]
            if isinstance(each.get("reason"), str)
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()
