"""YouTube as far as it is needed, served on this machine: the Data API, watch pages, captions.

In the shapes that youtube-transcript-api reads; texts, ids and the key are made up.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import requests
from pytest_httpserver import HTTPServer
from requests.adapters import HTTPAdapter
from werkzeug import Request, Response

KEY = "AIzaSy-made-up-key-000000000000000000000"
CHANNEL = "UC" + "a" * 22
OTHER = "UC" + "b" * 22
UPLOADS = {CHANNEL: "UU" + "a" * 22, OTHER: "UU" + "b" * 22}


@dataclass
class OwnYoutube:
    """What the server says; tests change it while it runs.

    Args:
        uploads: videos of each playlist, the newest first; two a page.
        status: `playabilityStatus` of a video, where it cannot be played.
        languages: captions of a video, as language to whether they are generated.
        pages: watch pages that are something else.
        refusal: status, reason and further reason with which the Data API refuses.
        asked: videos whose watch page was asked for, in order.
        units: requests to the Data API.
        suffix: added to the addresses of captions.
        private: a playlist that is not shown.
        on_captions: called before a video's captions are sent.
    """

    uploads: dict[str, list[str]]
    status: dict[str, dict[str, Any]] = field(default_factory=dict)
    languages: dict[str, dict[str, bool]] = field(default_factory=dict)
    pages: dict[str, Response] = field(default_factory=dict)
    refusal: tuple[int, str, str] | None = None
    asked: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    suffix: str = ""
    private: str = ""
    on_captions: Callable[[str], None] = lambda video: None

    def serve(self, server: HTTPServer) -> str:
        """Serve it; returns the address of the Data API."""
        server.expect_request("/v3/channels").respond_with_handler(self._channels)
        server.expect_request("/v3/playlistItems").respond_with_handler(self._playlist)
        server.expect_request("/watch").respond_with_handler(self._watch)
        server.expect_request("/youtubei/v1/player").respond_with_handler(self._player)
        server.expect_request("/api/timedtext").respond_with_handler(self._captions)
        return server.url_for("/v3")

    def _api(self, request: Request, answer: dict[str, Any]) -> Response:
        self.units.append(request.path)
        if request.headers.get("X-Goog-Api-Key") != KEY or KEY in request.url:
            return _error(400, "badRequest", "API_KEY_INVALID")
        return _error(*self.refusal) if self.refusal else _json(answer)

    def _channels(self, request: Request) -> Response:
        given = parse_qs(request.query_string.decode())
        channel = CHANNEL if "forHandle" in given else given["id"][0]
        details = {"relatedPlaylists": {"uploads": UPLOADS.get(channel, "")}}
        found = [{"contentDetails": details, "snippet": {"title": f"Channel {channel[-1]}"}}]
        return self._api(request, {"items": found if channel in UPLOADS else []})

    def _playlist(self, request: Request) -> Response:
        given = parse_qs(request.query_string.decode())
        if given["playlistId"][0] == self.private:
            return _error(403, "playlistItemsNotAccessible", "x")
        videos = self.uploads.get(given["playlistId"][0], [])
        begin = int(given.get("pageToken", ["0"])[0])
        answer: dict[str, Any] = {
            "items": [
                {
                    "snippet": {"title": f"About {video}"},
                    "contentDetails": {
                        "videoId": video,
                        "videoPublishedAt": "2020-01-02T03:04:05Z",
                    },
                }
                for video in videos[begin : begin + 2]
            ]
        }
        if begin + 2 < len(videos):
            answer["nextPageToken"] = str(begin + 2)
        return self._api(request, answer)

    def _watch(self, request: Request) -> Response:
        video = parse_qs(request.query_string.decode())["v"][0]
        self.asked.append(video)
        return self.pages.get(video) or Response('{"INNERTUBE_API_KEY": "public-key"}')

    def _player(self, request: Request) -> Response:
        video = json.loads(request.get_data())["videoId"]
        if video in self.status:
            return _json({"playabilityStatus": self.status[video]})
        tracks = [
            {
                "baseUrl": f"https://www.youtube.com/api/timedtext?v={video}&lang={code}{self.suffix}",
                "name": {"runs": [{"text": code}]},
                "languageCode": code,
                **({"kind": "asr"} if generated else {}),
            }
            for code, generated in self.languages.get(video, {"en": True}).items()
        ]
        captions = {"playerCaptionsTracklistRenderer": {"captionTracks": tracks} if tracks else {}}
        return _json({"playabilityStatus": {"status": "OK"}, "captions": captions})

    def _captions(self, request: Request) -> Response:
        given = parse_qs(request.query_string.decode())
        self.on_captions(given["v"][0])
        spoken = ["[Music]", f"this is {given['v'][0]}", f"in {given['lang'][0]} & it's said"]
        lines = "".join(
            f'<text start="{n * 2}.5" dur="2">{html.escape(html.escape(line))}</text>'
            for n, line in enumerate(spoken)
        )
        return Response(f'<?xml version="1.0"?><transcript>{lines}</transcript>')


class _ToServer(HTTPAdapter):
    def __init__(self, base: str):
        super().__init__()
        self._base = base

    def send(self, request: Any, *arguments: Any, **settings: Any) -> Any:
        assert request.url.startswith("https://www.youtube.com/")
        request.url = request.url.replace("https://www.youtube.com", self._base, 1)
        return super().send(request, *arguments, **settings)


def session_to(base: str) -> requests.Session:
    """A session in which www.youtube.com is the server at `base`, and nothing else is reached."""
    session = requests.Session()
    session.mount("https://", _ToServer(base.rstrip("/")))
    return session


def _json(value: Any) -> Response:
    return Response(json.dumps(value), mimetype="application/json")


def _error(status: int, reason: str, detail: str) -> Response:
    error = {
        "code": status,
        "message": f"in words, with the key {KEY}",
        "errors": [{"reason": reason}],
        "details": [{"reason": detail}],
    }
    return Response(json.dumps({"error": error}), status, mimetype="application/json")
