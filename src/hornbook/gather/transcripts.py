"""Transcripts of YouTube videos by youtube-transcript-api, with its errors as three kinds.

In: a video's id. Out: its transcript; or why there is none; or that asking has to stop.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

from hornbook.errors import HornbookError
from hornbook.gather.captions import Snippet
from hornbook.gather.pace import Clock
from hornbook.gather.source import StopGathering

if TYPE_CHECKING:
    from requests import Session

TIMEOUT_SECONDS = 60.0

_NO_TRANSCRIPT = {
    "TranscriptsDisabled": "transcripts disabled",
    "NoTranscriptFound": "no transcript in these languages",
    "AgeRestricted": "age restricted",
    "VideoUnavailable": "unavailable",
    "VideoUnplayable": "unplayable",
    "InvalidVideoId": "no such video",
}
_STOP = {
    "RequestBlocked": "YouTube blocks requests from this address",
    "IpBlocked": "YouTube blocks requests from this address",
    "PoTokenRequired": "YouTube asks for a proof-of-origin token",
    "FailedToCreateConsentCookie": "YouTube asks for consent",
}


@dataclass(frozen=True)
class Transcript:
    """What is said in a video."""

    snippets: list[Snippet]
    language: str
    is_generated: bool


class NoTranscript(Exception):
    """The video has none that could be had, now or later; says why in a few words."""


class TranscriptFailed(Exception):
    """This did not work; it may later."""


class Transcripts:
    """Gets transcripts, one at a time.

    Args:
        languages: codes, the most wanted first.
        generated: whether generated ones are taken where people wrote none.
        seconds_between: wait between two, and up to half as long again by chance, as YouTube
            blocks addresses that ask often and evenly.
        session: what the library's requests go through.
        clock: what waiting is measured with.
    """

    def __init__(
        self,
        languages: Sequence[str],
        *,
        generated: bool,
        seconds_between: float,
        session: Session,
        clock: Clock,
    ):
        import youtube_transcript_api

        self._library: Any = youtube_transcript_api
        self._api = youtube_transcript_api.YouTubeTranscriptApi(http_client=session)
        self._languages, self._generated = list(languages), generated
        self._seconds_between, self._clock = seconds_between, clock
        self._next = clock.now()

    def fetch(self, video: str) -> Transcript:
        """The transcript of a video, after the wait since the one before.

        Raises:
            NoTranscript: there is none.
            TranscriptFailed: no answer, or one that cannot be read.
            StopGathering: YouTube does not want to be asked any more.
        """
        import requests

        self._clock.sleep(max(0.0, self._next - self._clock.now()))
        try:
            found = self._api.list(video)
            if self._generated:
                chosen = found.find_transcript(self._languages)
            else:
                chosen = found.find_manually_created_transcript(self._languages)
            fetched = chosen.fetch()
        except self._library.CouldNotRetrieveTranscript as error:
            raise _translated(error) from error
        except requests.RequestException as error:
            raise TranscriptFailed(type(error).__name__) from error
        except (ParseError, ValueError, LookupError, TypeError, AttributeError) as error:
            # Keys that are missing, no XML ...: an answer that the library does not know.
            raise TranscriptFailed(type(error).__name__) from error
        finally:
            wait = self._seconds_between * random.uniform(1, 1.5)
            self._next = self._clock.now() + wait
        snippets = [Snippet(each.text, each.start, each.duration) for each in fetched]
        return Transcript(snippets, fetched.language_code, fetched.is_generated)


def _translated(error: Exception) -> Exception:
    """The library's exception as one of ours; its long advice (proxies ...) is left out."""
    name = type(error).__name__
    if name in _NO_TRANSCRIPT:
        return NoTranscript(_NO_TRANSCRIPT[name])
    if name in _STOP:
        return StopGathering(
            _STOP[name],
            where="youtube",
            hint="Run the same command again in some hours: it goes on from here; a larger "
            "--seconds-between lasts longer",
        )
    return TranscriptFailed(name)


def open_session() -> Session:
    """A session for the library; it sets no time limit of its own."""
    try:
        import requests
        import youtube_transcript_api  # noqa: F401 - told here rather than at the first video
        from requests.adapters import HTTPAdapter
    except ImportError:
        raise HornbookError(
            "transcripts need youtube-transcript-api", hint="pip install 'hornbook[youtube]'"
        ) from None

    class Limited(HTTPAdapter):
        def send(self, *arguments: Any, **settings: Any) -> Any:
            return super().send(*arguments, **{**settings, "timeout": TIMEOUT_SECONDS})

    session = requests.Session()
    session.mount("https://", Limited())
    return session
