"""The source youtube, against YouTube's shapes on this machine and the library's own errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from tests.gather.hostile_server import FakeClock
from tests.gather.own_youtube import CHANNEL, KEY, OTHER, UPLOADS, OwnYoutube, session_to
from werkzeug import Response

from hornbook.documents import Document, read_documents
from hornbook.errors import HornbookError
from hornbook.gather.collect import collect
from hornbook.gather.config import GatherConfig, NetworkConfig, YoutubeConfig
from hornbook.gather.source import StopGathering
from hornbook.gather.transcripts import NoTranscript, TranscriptFailed, _translated
from hornbook.gather.youtube import YoutubeSource

youtube_transcript_api = pytest.importorskip("youtube_transcript_api")

ROOT = Path(__file__).resolve().parents[2]
VIDEOS = [f"video-{number:05d}" for number in range(7)]


@pytest.fixture
def youtube(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> OwnYoutube:
    monkeypatch.setenv("YOUTUBE_API_KEY", KEY)
    # Two videos a page, and a page of each channel in turn: so VIDEOS is the order.
    return OwnYoutube({UPLOADS[CHANNEL]: VIDEOS[:2] + VIDEOS[4:], UPLOADS[OTHER]: VIDEOS[2:4]})


def gather(
    youtube: OwnYoutube, server: HTTPServer, out: Path, **settings: Any
) -> tuple[list[Document], FakeClock]:
    clock = FakeClock()
    given = {"channels": [CHANNEL, OTHER], **settings}
    config = YoutubeConfig(api_url=youtube.serve(server), **given)
    source = YoutubeSource(config, session_to(server.url_for("")), clock)
    network = NetworkConfig(allow_private=True, requests_per_minute=60_000)
    collect(source, GatherConfig(network=network), out)
    return list(read_documents(out)), clock


def counts(out: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((out / "gather.json").read_text())["counts"]
    return found


def videos(documents: list[Document]) -> list[str]:
    return [document.url.partition("=")[2] for document in documents]


def test_all_uploads_of_all_channels(
    youtube: OwnYoutube, httpserver: HTTPServer, tmp_path: Path
) -> None:
    documents, clock = gather(youtube, httpserver, tmp_path)
    assert videos(documents) == VIDEOS
    first = documents[0]
    assert first.text == "this is video-00000 in en & it's said"
    assert first.url == "https://www.youtube.com/watch?v=video-00000"
    assert (first.title, first.language) == ("About video-00000", "en")
    assert first.created == "2020-01-02T03:04:05Z"
    assert first.meta == {"channel": "Channel a", "is_generated": True}
    assert len(youtube.units) == 2 + 3 + 1, "one unit a channel and a page of videos"
    waits = [seconds for seconds in clock.slept if seconds]
    assert len(waits) == len(VIDEOS) - 1 and all(3 <= wait <= 4.5 for wait in waits)


def test_a_budget_a_handle_and_a_channel_that_is_not_there(
    youtube: OwnYoutube, httpserver: HTTPServer, tmp_path: Path
) -> None:
    channels = ["@handle", "UC" + "x" * 22]
    documents, _ = gather(youtube, httpserver, tmp_path, channels=channels, videos=2)
    assert videos(documents) == VIDEOS[:2] and youtube.asked == VIDEOS[:2]
    assert len(youtube.units) == 3, "no quota is used for pages that are not wanted"
    assert counts(tmp_path)["channels that do not exist"] == 1


def test_languages_and_generated_ones(
    youtube: OwnYoutube, httpserver: HTTPServer, tmp_path: Path
) -> None:
    youtube.languages = {
        VIDEOS[0]: {"en": True, "de": False},
        VIDEOS[1]: {"en": True},
        VIDEOS[4]: {"fr": False},
        VIDEOS[5]: {"en": False},
    }
    documents, _ = gather(
        youtube, httpserver, tmp_path / "a", channels=[CHANNEL], languages=["de", "en"]
    )
    assert [(d.language, d.meta["is_generated"]) for d in documents] == [
        ("de", False), ("en", True), ("en", False), ("en", True)
    ]  # fmt: skip
    assert counts(tmp_path / "a")["videos: no transcript in these languages"] == 1
    documents, _ = gather(youtube, httpserver, tmp_path / "b", channels=[CHANNEL], generated=False)
    assert videos(documents) == [VIDEOS[5]]


def test_videos_without_a_transcript_are_counted_and_not_asked_again(
    youtube: OwnYoutube, httpserver: HTTPServer, tmp_path: Path
) -> None:
    youtube.languages = {VIDEOS[0]: {}}
    age = "This video may be inappropriate for some users."
    youtube.status = {
        VIDEOS[1]: {"status": "LOGIN_REQUIRED", "reason": age},
        VIDEOS[2]: {"status": "ERROR", "reason": "This video is unavailable"},
        VIDEOS[3]: {"status": "UNPLAYABLE", "reason": "Members only"},
    }
    documents, _ = gather(youtube, httpserver, tmp_path)
    assert videos(documents) == VIDEOS[4:] and youtube.asked == VIDEOS
    assert counts(tmp_path) == {
        "videos: transcripts disabled": 1,
        "videos: age restricted": 1,
        "videos: unavailable": 1,
        "videos: unplayable": 1,
    }


def test_no_transcript_at_all(youtube: OwnYoutube, httpserver: HTTPServer, tmp_path: Path) -> None:
    youtube.languages = {video: {} for video in VIDEOS}
    for _ in range(2):
        with pytest.raises(HornbookError, match="no transcript was found; videos: transcripts dis"):
            gather(youtube, httpserver, tmp_path / "disabled")
    youtube.uploads = {}
    with pytest.raises(HornbookError, match="no transcript was found; videos: none"):
        gather(youtube, httpserver, tmp_path / "empty")


@pytest.mark.parametrize("block", ["429", "captcha", "bot", "consent", "po-token"])
def test_a_block_stops_at_once_and_the_next_run_goes_on(
    youtube: OwnYoutube, httpserver: HTTPServer, tmp_path: Path, block: str
) -> None:
    bot = {"status": "LOGIN_REQUIRED", "reason": "Sign in to confirm you’re not a bot"}
    undisturbed, _ = gather(youtube, httpserver, tmp_path / "undisturbed")
    youtube.asked.clear()
    page = {
        "429": Response("slow down", 429),
        "captcha": Response('<div class="g-recaptcha"></div>'),
        "consent": Response('<form action="https://consent.youtube.com/s">'),
    }
    if block in page:
        youtube.pages = {VIDEOS[2]: page[block]}
    elif block == "bot":
        youtube.status = {VIDEOS[2]: bot}
    else:
        youtube.suffix = "&exp=xpe"
    out = tmp_path / "out"
    with pytest.raises(StopGathering) as caught:
        gather(youtube, httpserver, out)
    message = str(caught.value)
    assert "run the same command again" in message.lower() and "\n" not in message
    assert "proxies" not in message, "the library's advice to get around a block is not ours"
    stopped_at = 0 if block == "po-token" else 2
    assert set(youtube.asked) == set(VIDEOS[: stopped_at + 1])
    youtube.pages, youtube.status, youtube.suffix = {}, {}, ""
    youtube.asked.clear()
    documents, _ = gather(youtube, httpserver, out)
    assert documents == undisturbed and youtube.asked == VIDEOS[stopped_at:]
    for shard in (tmp_path / "undisturbed").glob("documents-*.parquet"):
        assert shard.read_bytes() == (out / shard.name).read_bytes()


def test_single_failures_are_counted_and_several_stop(
    youtube: OwnYoutube, httpserver: HTTPServer, tmp_path: Path
) -> None:
    youtube.pages = {VIDEOS[1]: Response("nothing that is known"), VIDEOS[3]: Response("", 500)}
    documents, _ = gather(youtube, httpserver, tmp_path / "single")
    assert len(documents) == 5 and counts(tmp_path / "single") == {"videos: failed": 2}
    youtube.pages = {video: Response("", 500) for video in VIDEOS[1:5]}
    with pytest.raises(StopGathering, match="3 transcripts in a row could not be had"):
        gather(youtube, httpserver, tmp_path / "several")
    youtube.pages = {}
    assert videos(gather(youtube, httpserver, tmp_path / "several")[0]) == VIDEOS, "nothing lost"


def test_failures_around_a_page_of_videos_are_not_forgotten(
    youtube: OwnYoutube, httpserver: HTTPServer, tmp_path: Path
) -> None:
    """The page is asked for between the second failure and the third: all three are tried again."""
    youtube.pages = {video: Response("", 500) for video in VIDEOS[:3]}
    with pytest.raises(StopGathering, match="3 transcripts in a row could not be had"):
        gather(youtube, httpserver, tmp_path)
    youtube.pages = {}
    assert videos(gather(youtube, httpserver, tmp_path)[0]) == VIDEOS


@pytest.mark.parametrize("uploads", ["", "UU" + "p" * 22])
def test_a_channel_without_uploads_or_with_private_ones(
    youtube: OwnYoutube,
    httpserver: HTTPServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uploads: str,
) -> None:
    monkeypatch.setitem(UPLOADS, OTHER, uploads)
    youtube.private = uploads
    assert videos(gather(youtube, httpserver, tmp_path)[0]) == VIDEOS[:2] + VIDEOS[4:]


def test_answers_of_another_shape(
    httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOUTUBE_API_KEY", KEY)
    httpserver.expect_request("/v3/channels").respond_with_json({"items": [{"id": "x"}]})
    config = YoutubeConfig(channels=[CHANNEL], api_url=httpserver.url_for("/v3"))
    network = NetworkConfig(allow_private=True)
    with pytest.raises(HornbookError, match="is not what the YouTube Data API says"):
        collect(YoutubeSource(config), GatherConfig(network=network), tmp_path)


def test_the_librarys_own_errors_are_known() -> None:
    library = youtube_transcript_api
    for kind in ("IpBlocked", "RequestBlocked", "PoTokenRequired", "FailedToCreateConsentCookie"):
        assert isinstance(_translated(getattr(library, kind)("id")), StopGathering)
    for kind in ("TranscriptsDisabled", "AgeRestricted", "VideoUnavailable", "InvalidVideoId"):
        assert isinstance(_translated(getattr(library, kind)("id")), NoTranscript)
    assert isinstance(_translated(library.VideoUnplayable("id", "why", [])), NoTranscript)
    assert isinstance(_translated(library.NoTranscriptFound("id", ["en"], None)), NoTranscript)
    assert isinstance(_translated(library.YouTubeDataUnparsable("id")), TranscriptFailed)


@pytest.mark.parametrize(
    ("refusal", "kind", "message"),
    [
        ((403, "quotaExceeded", "x"), StopGathering, "resets at midnight Pacific time"),
        ((400, "badRequest", "API_KEY_INVALID"), HornbookError, "API_KEY_INVALID, badRequest"),
        ((403, "accessNotConfigured", "x"), HornbookError, "refuses the key"),
        ((403, "rateLimitExceeded", "x"), StopGathering, "HTTP 403"),
        ((418, "teapot", "x"), StopGathering, "HTTP 418"),
    ],
)
def test_refusals_of_the_data_api_never_show_the_key(
    youtube: OwnYoutube,
    httpserver: HTTPServer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    refusal: tuple[int, str, str],
    kind: type[HornbookError],
    message: str,
) -> None:
    youtube.refusal = refusal
    with pytest.raises(kind) as caught:
        gather(youtube, httpserver, tmp_path)
    assert message in str(caught.value) and KEY not in str(caught.value)
    if kind is HornbookError:
        assert not isinstance(caught.value, StopGathering)
        assert "YOUTUBE_API_KEY" in str(caught.value)
    assert no_trace_of_the_key(tmp_path, "".join(capfd.readouterr()))
    youtube.refusal = None
    assert videos(gather(youtube, httpserver, tmp_path)[0]) == VIDEOS
    assert no_trace_of_the_key(tmp_path, "".join(capfd.readouterr()))


def no_trace_of_the_key(folder: Path, printed: str) -> bool:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return KEY not in printed and not any(KEY.encode() in path.read_bytes() for path in files)


def test_the_key_is_not_in_a_command_that_fails(httpserver: HTTPServer, tmp_path: Path) -> None:
    youtube = OwnYoutube({}, refusal=(403, "forbidden", "x"))
    words = ["gather", "youtube", CHANNEL, "--out", str(tmp_path / "out"), "--allow-private"]
    words += ["--api-url", youtube.serve(httpserver)]
    environment = {**os.environ, "YOUTUBE_API_KEY": KEY}
    run = [sys.executable, "-m", "hornbook", *words]
    ended = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2 and "refuses the key (forbidden, x)" in ended.stderr
    assert no_trace_of_the_key(tmp_path, ended.stdout + ended.stderr)


CHILD = """
import sys
from pathlib import Path
from hornbook.gather.collect import collect
from hornbook.gather.config import GatherConfig, NetworkConfig, YoutubeConfig
from hornbook.gather.youtube import YoutubeSource
from tests.gather.own_youtube import CHANNEL, OTHER, session_to
base, out = sys.argv[1:]
config = YoutubeConfig(channels=[CHANNEL, OTHER], api_url=base + "/v3", seconds_between=0)
network = NetworkConfig(allow_private=True, requests_per_minute=60_000)
collect(YoutubeSource(config, session_to(base)), GatherConfig(network=network), Path(out))
"""


def test_killed_in_the_middle_it_goes_on(
    youtube: OwnYoutube, httpserver: HTTPServer, tmp_path: Path
) -> None:
    undisturbed, _ = gather(youtube, httpserver, tmp_path / "undisturbed")
    children: list[subprocess.Popen[bytes]] = []
    kill_at = [VIDEOS[1], VIDEOS[6]]

    def kill(video: str) -> None:
        if video in kill_at:
            kill_at.remove(video)
            os.kill(children[-1].pid, signal.SIGKILL)

    youtube.on_captions = kill
    run = [sys.executable, "-c", CHILD, httpserver.url_for("").rstrip("/"), str(tmp_path / "out")]
    codes: list[int] = []
    while not codes or codes[-1] == -signal.SIGKILL:
        children.append(subprocess.Popen(run, cwd=ROOT))
        codes.append(children[-1].wait(60))
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert list(read_documents(tmp_path / "out")) == undisturbed
    for shard in (tmp_path / "undisturbed").glob("documents-*.parquet"):
        assert shard.read_bytes() == (tmp_path / "out" / shard.name).read_bytes()


@pytest.mark.parametrize("settings", [{"videos": -1}, {"seconds_between": -1.0}])
def test_settings_without_a_meaning(settings: dict[str, Any]) -> None:
    with pytest.raises(HornbookError, match=r"youtube\.\w+: must be 0 or more"):
        YoutubeSource(YoutubeConfig(**settings))


def test_no_key_and_wrong_channels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("YOUTUBE_API_KEY", raising=False)
    with pytest.raises(HornbookError, match="YOUTUBE_API_KEY: listing channels needs an API key"):
        YoutubeSource(YoutubeConfig())
    monkeypatch.setenv("YOUTUBE_API_KEY", "“quoted”")
    with pytest.raises(HornbookError, match="needs an API key") as caught:
        YoutubeSource(YoutubeConfig())
    assert "quoted" not in str(caught.value)
    monkeypatch.setenv("YOUTUBE_API_KEY", KEY)
    with pytest.raises(HornbookError, match="'Veritasium' is no channel id"):
        YoutubeSource(YoutubeConfig(channels=["Veritasium"]))
    (tmp_path / "list.txt").write_text(f"# mine\n{CHANNEL}  # a\n\n@handle\n{CHANNEL}\n")
    config = YoutubeConfig(channels_file=str(tmp_path / "list.txt"))
    assert YoutubeSource(config).fingerprint()["channels"] == [CHANNEL, "@handle"]
    assert len(YoutubeSource(YoutubeConfig()).fingerprint()["channels"]) > 5
