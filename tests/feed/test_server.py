"""The routes over loopback: replay, waiting, consumers, encodings, damage, stopping."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.feed.serving import Served, serving

from hornbook.documents import Document
from hornbook.feed.log import LogWriter
from hornbook.files import disk_full
from hornbook.tokens.feed_client import FeedClient

Serve = Callable[..., Served]


class TenHeldOut:
    """A validation set of ten texts, of which 4 and 9 are broken."""

    held_out = 10

    def validation(self, cursor: int, most_texts: int, most_bytes: int) -> tuple[int, list[str]]:
        texts: list[str] = []
        while cursor < self.held_out and len(texts) < most_texts:
            texts += [f"held out {cursor}"] if cursor not in (4, 9) else []
            cursor += 1
        return cursor, texts


def numbers(answer: httpx2.Response) -> tuple[int, int, int, int]:
    """First, count, next and head of an answer."""
    names = ("First", "Count", "Next", "Head")
    first, count, following, head = (int(answer.headers[f"X-Feed-{name}"]) for name in names)
    return first, count, following, head


def until_one_waits(feed: Served) -> None:
    """Until a request has come, and had time to begin waiting."""
    while feed.feed.connections() == 0:
        time.sleep(0.01)
    time.sleep(0.1)


def test_an_answer_has_texts_and_says_which(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    feed.add("one", 'two "quoted"\n', "drei \U0001f600 \ud800", "four")
    answer = feed.get("/generate", cursor=1, n=2)
    assert answer.json() == ['two "quoted"\n', "drei \U0001f600 \ufffd"]
    assert numbers(answer) == (1, 2, 3, 4)
    assert answer.headers["X-Feed-Protocol"] == "1"
    assert answer.headers["X-Feed-Log"] == log.id
    assert feed.get("/generate").json() == ["one"]  # neither a number nor a name: any text
    assert feed.get("/generate", n=7).json()[-1] == "four"  # and each one once


def test_an_object_has_everything(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    document = Document("text", source="books", licence="CC0", meta={"producer": "archive"})
    log.append([document, document], {}).result(30)
    found = feed.get("/generate", cursor=0, n=9, format="object").json()
    texts = found.pop("texts")
    assert found == {"protocol": 1, "log": log.id, "first": 0, "next": 2, "head": 2}
    assert [text["number"] for text in texts] == [0, 1]
    assert texts[1]["text"] == "text"
    assert (texts[1]["source"], texts[1]["licence"]) == ("books", "CC0")


def test_any_cursor_and_number_give_the_same_texts(log: LogWriter, served: Serve) -> None:
    texts = [f"text {number} " + "x" * (number * 37 % 300) for number in range(60)]
    feed = served(log, max_n=64, max_response_bytes=1000)
    for at in range(0, 60, 7):
        feed.add(*texts[at : at + 7])
    client = feed.client()

    @settings(max_examples=15, deadline=None)
    @given(begin=st.integers(0, 59), data=st.data())
    def check(begin: int, data: st.DataObject) -> None:
        cursor, found = begin, []
        while cursor < 60:
            n = data.draw(st.integers(1, 64))
            answer = client.get("/generate", params={"cursor": cursor, "n": n})
            assert 1 <= len(answer.json()) <= n
            assert len(answer.content) <= 1002 or len(answer.json()) == 1
            first, count, following, head = numbers(answer)
            assert (first, count, head) == (cursor, len(answer.json()), 60)
            cursor = following
            found += answer.json()
        assert found == texts[begin:]

    with client:
        check()


def test_every_encoding_gives_the_same(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    feed.add(*(f"text {number} " * 40 for number in range(50)))

    def raw(accept: str) -> tuple[str | None, bytes]:
        headers = {"Accept-Encoding": accept}
        url = f"{feed.url}/generate?cursor=0&n=50"
        with httpx2.stream("GET", url, headers=headers) as answer:
            return answer.headers.get("Content-Encoding"), b"".join(answer.iter_raw())

    encoding, plain = raw("identity")
    assert encoding is None and json.loads(plain)[49] == "text 49 " * 40
    encoding, body = raw("gzip, deflate")
    assert encoding == "gzip" and gzip.decompress(body) == plain
    for accept in ("gzip, zstd", "gzip;q=0.9,zstd;q=1.0"):
        encoding, body = raw(accept)
        assert encoding == "zstd" and len(body) < len(plain)
        assert pa.CompressedInputStream(pa.BufferReader(body), "zstd").read() == plain
    assert raw("zstd;q=0, br")[0] is None


def test_who_waits_is_woken_by_a_commit(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(feed.get("/generate", cursor=0, n=9)))
    waiting.start()
    until_one_waits(feed)
    feed.add("here")
    waiting.join(10)  # the long poll itself would be 20 s
    assert found[0].json() == ["here"]


def test_nothing_yet_is_never_an_empty_answer(log: LogWriter, served: Serve) -> None:
    feed = served(log, production=lambda: {"problem": "the teacher is gone"})
    for params in ({"cursor": 0}, {"consumer": "a"}, {}):
        answer = feed.get("/generate", wait=0.1, **params)
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
        assert answer.json() == {"error": "no text yet", "hint": "the teacher is gone"}
    ready = feed.get("/readyz")
    assert ready.status_code == 503 and ready.json()["error"] == "the teacher is gone"
    feed.add("now")
    assert feed.get("/readyz").status_code == 200


def test_a_full_disk_stops_production_and_is_said(
    log: LogWriter, served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = served(log, production=lambda: {"problem": log.problem})
    feed.add("one")
    assert feed.get("/readyz").json() == {"status": "ready", "problem": None}
    log.problem = "the disk is full"
    ready = feed.get("/readyz")  # a load balancer goes on sending readers here
    assert ready.status_code == 200
    assert ready.json() == {"status": "reading only", "problem": "the disk is full"}
    assert "hornbook_feed_problem 1" in feed.get("/metrics").text
    assert feed.get("/generate", cursor=0).json() == ["one"]

    def full(*_: Any) -> None:
        raise disk_full(log.folder)

    monkeypatch.setattr(feed.cursors, "lease", full)
    monkeypatch.setattr(feed.cursors, "set", full)
    with feed.client() as client:
        for answer in (
            client.get("/generate", params={"consumer": "a"}),
            client.put("/cursors/a", json={"next": 1}),
        ):
            assert answer.status_code == 503 and answer.headers["Retry-After"]
            assert "disk is full" in answer.json()["error"]


def test_a_head_that_cannot_be_written_down_is_tried_again(
    log: LogWriter, served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = served(log)
    feed.add("one", "two")

    def full(*_: Any) -> None:
        raise disk_full(log.folder)

    with monkeypatch.context() as patched:
        patched.setattr(feed.cursors, "note_head", full)
        feed.feed.note_head()
    assert feed.cursors.delivered() == 0
    feed.feed.note_head()
    assert feed.cursors.delivered() == 2


def test_mistakes_have_a_status_and_a_reason(log: LogWriter, served: Serve) -> None:
    feed = served(log, max_n=64)
    feed.add("one", "two")
    json_type = {"Content-Type": "application/json"}
    with feed.client() as client:
        for status, path, problem in (
            (400, "/generate?cursor=3", "no number 3"),
            (400, "/generate?cursor=-1", "cursor"),
            (400, "/generate?cursor=one", "cursor"),
            (400, "/generate?cursor=" + "9" * 5000, "cursor"),
            (400, "/generate?cursor=0&n=0", "n:"),
            (400, "/generate?cursor=0&n=65", "at most 64"),
            (400, "/generate?cursor=0&format=xml", "format"),
            (400, "/generate?cursor=0&consumer=a", "exclude"),
            (400, "/generate?consumer=a/b", "consumer"),
            (400, "/generate?curser=1", "no parameter 'curser'"),
            (400, "/validation?wait=1", "no parameter 'wait'"),
            (400, "/generate?cursor=0&wait=21", "wait"),
            (404, "/validation", "no validation"),
            (404, "/nowhere", "Not Found"),
            (405, "/acknowledge", "Method"),
        ):
            answer = client.get(path)
            assert answer.status_code == status, path
            assert problem in answer.json()["error"], answer.text
            assert answer.headers["X-Feed-Protocol"] == "1"
        form = client.post("/acknowledge", content='{"consumer": "me"}')  # as curl -d sends it
        assert form.json()["error"].startswith("the body (JSON, with Content-Type: ")
        assert feed.feed.cursors.groups() == {}  # nothing was handed out
        cut = client.post("/acknowledge", content='{"consumer', headers=json_type)
        assert cut.status_code == 400
        assert cut.json()["error"].startswith("the body is no JSON: Unterminated string")
        other = client.get("/generate?cursor=0", headers={"X-Feed-Protocol": "2"})
        assert other.status_code == 400 and other.json()["supported"] == [1]
        same = {"X-Feed-Protocol": "1", "X-Feed-Log": log.id}
        assert client.get("/generate?cursor=0", headers=same).status_code == 200
        log_of_another = client.get("/generate?cursor=0", headers={"X-Feed-Log": "0" * 32})
        assert log_of_another.status_code == 409 and log_of_another.json()["log"] == log.id


def test_consumers_share_and_acknowledge(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    feed.add(*"abcdefgh")
    mine = feed.get("/generate", consumer="run", n=3)
    other = feed.get("/generate", consumer="run", n=3, lease_seconds=5)
    assert (mine.json(), other.json()) == ([*"abc"], [*"def"])
    assert mine.headers["X-Feed-Lease-Seconds"] == "300"
    assert other.headers["X-Feed-Lease-Seconds"] == "5"
    assert feed.get("/generate", consumer="another", n=2).json() == [*"ab"]
    with feed.client() as client:
        lease = {"consumer": "run", "lease": mine.headers["X-Feed-Lease"]}
        assert client.post("/acknowledge", json=lease).status_code == 204
        for route in ("/acknowledge", "/release"):
            assert client.post(route, json=lease).status_code == 409
        lease = {"consumer": "run", "lease": other.headers["X-Feed-Lease"]}
        assert client.post("/release", json=lease).status_code == 204
        assert client.post("/release", json={"consumer": "run"}).status_code == 400
    again = feed.get("/generate", consumer="run", n=8, format="object").json()
    assert [text["text"] for text in again["texts"]] == [*"def"] and again["lease"]


def test_a_lease_is_of_what_was_sent(log: LogWriter, served: Serve) -> None:
    feed = served(log, max_response_bytes=100)
    feed.add(*("x" * 30 for _ in range(6)))
    sizes = []
    for _ in range(2):
        answer = feed.get("/generate", consumer="run", n=6)
        sizes.append((*numbers(answer)[:3], len(answer.json())))
    assert sizes == [(0, 3, 3, 3), (3, 3, 6, 3)]


def test_cursors_are_kept_and_forgotten(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    feed.add(*"abc")
    with feed.client() as client:
        assert client.put("/cursors/run-1", json={"next": 2}).status_code == 204
        assert client.put("/cursors/run-1", json={"next": 1}).status_code == 204
        assert client.get("/cursors").json() == {"run-1": 2}  # never back
        assert client.put("/cursors/run-1", json={"next": 4}).status_code == 400
        assert client.put("/cursors/a b", json={"next": 1}).status_code == 400
        assert client.delete("/cursors/run-1").status_code == 204
        assert client.get("/cursors").json() == {}


def test_readers_and_consumers_of_a_log_that_grows(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    texts = [f"text {number}" for number in range(3000)]
    follower: list[str] = []
    shared: list[str] = []

    def follow() -> None:
        with feed.client() as client:
            while len(follower) < len(texts):
                params = {"cursor": len(follower), "n": 100}
                follower.extend(client.get("/generate", params=params).json())

    def share() -> None:
        with feed.client() as client:
            while True:
                params = {"consumer": "all", "n": 50, "wait": 0.7}
                answer = client.get("/generate", params=params)
                if answer.status_code == 503:
                    return  # nothing for a while: it is over
                lease = {"consumer": "all", "lease": answer.headers["X-Feed-Lease"]}
                assert client.post("/acknowledge", json=lease).status_code == 204
                shared.extend(answer.json())

    threads = [threading.Thread(target=each) for each in (follow, share, share)]
    for thread in threads:
        thread.start()
    for at in range(0, len(texts), 20):
        log.append([Document(text) for text in texts[at : at + 20]], {})
    for thread in threads:
        thread.join(60)
    assert follower == texts
    assert sorted(shared) == sorted(texts)
    assert feed.get("/stats").json()["readers"] == {"all": 3000}


def test_who_gives_no_name_is_no_reader_that_is_behind(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    feed.add(*"abc")
    assert feed.get("/generate").json() == ["a"]
    assert feed.get("/generate", consumer="me").json() == ["a"]
    assert feed.get("/stats").json()["readers"] == {"me": 0}
    assert "anonymous" not in feed.get("/metrics").text
    assert feed.get("/stats").json()["ahead"] == 2  # it counts as read all the same


def segmented(folder: Path, texts: int) -> LogWriter:
    """A log whose every segment has one block of ten texts."""
    log = LogWriter.create_or_open(folder, segment_bytes=1)
    for first in range(0, texts, 10):
        log.append([Document(f"text {first + k}") for k in range(10)], {}).result(30)
    return log


def test_what_is_dropped_or_damaged_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "feed"
    segmented(folder, 60).close()
    middle = folder / "log" / f"segment-{30:012d}.log"
    middle.write_bytes(middle.read_bytes()[:-1] + b"\0")
    log = LogWriter.create_or_open(folder, segment_bytes=1)
    log.drop_before(12)
    with serving(log) as feed:
        answer = feed.get("/generate", cursor=3)
        assert answer.status_code == 410 and answer.json()["first"] == 10
        answer = feed.get("/generate", cursor=25, n=20)
        assert numbers(answer)[:3] == (25, 5, 30)  # up to the damage
        answer = feed.get("/generate", cursor=30, n=20)
        assert answer.status_code == 410 and answer.json()["first"] == 40
        assert feed.get("/generate", cursor=40, n=20).json()[0] == "text 40"
        with feed.client() as client:
            assert client.put("/cursors/run", json={"next": 3}).json()["first"] == 10
        found = []
        for _ in range(40):
            found += feed.get("/generate", consumer="all", n=7).json()
            if found[-1] == "text 59":
                break
        assert found == [f"text {k}" for k in (*range(10, 30), *range(40, 60))]
        stats = feed.get("/stats").json()
        assert stats["damaged_texts"] == 10 and stats["damaged"][0]["first"] == 30
    log.close()


def test_many_lost_texts_are_passed_over_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "feed"
    log = LogWriter.create_or_open(folder, segment_bytes=1)
    for first, count in ((0, 1), (1, 3000), (3001, 1)):
        log.append([Document(f"text {first}")] * count, {}).result(30)
    log.close()
    middle = folder / "log" / f"segment-{1:012d}.log"
    middle.write_bytes(middle.read_bytes()[:-1] + b"\0")
    log = LogWriter.create_or_open(folder)
    with serving(log) as feed:
        leases: list[int] = []
        lease = feed.cursors.lease
        feed.cursors.lease = lambda *asked: (leases.append(asked[3]), lease(*asked))[1]  # type: ignore[method-assign]
        assert [feed.get("/generate").json() for _ in range(2)] == [["text 0"], ["text 3001"]]
        assert leases == [1, 1, 2999, 1]
    log.close()


def test_the_validation_set_has_an_end(log: LogWriter, served: Serve) -> None:
    feed = served(log, held_out=TenHeldOut())
    found, cursor, head = [], 0, 1
    while cursor < head:
        answer = feed.get("/validation", cursor=cursor, n=3)
        _, _, cursor, head = numbers(answer)
        found += answer.json()
    assert found == [f"held out {k}" for k in range(10) if k not in (4, 9)]
    assert head == 10
    assert list(FeedClient(feed.url, batch=3).validation(log.id)) == found
    answer = feed.get("/validation", cursor=10)
    assert answer.status_code == 400 and answer.json()["head"] == 10


def test_stopping_answers_who_waits_and_the_log_goes_on(log: LogWriter) -> None:
    found: list[httpx2.Response] = []
    with serving(log) as feed:
        feed.add("one")
        waiting = threading.Thread(target=lambda: found.append(feed.get("/generate", cursor=1)))
        waiting.start()
        until_one_waits(feed)
        feed.stop()
        waiting.join(10)
    assert found[0].status_code == 503 and found[0].headers["Retry-After"]
    assert found[0].json()["error"] == "the feed is stopping"
    with serving(log, port=feed.port) as feed:
        feed.add("two")
        assert feed.get("/generate", cursor=1).json() == ["two"]


def test_stopping_cuts_off_who_does_not_read(
    log: LogWriter,
    served: Serve,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("hornbook.feed.serve.DRAIN_SECONDS", 0.2)
    feed = served(log)
    feed.add("x" * 20_000_000)
    with socket.create_connection(("127.0.0.1", feed.port)) as client:
        client.sendall(b"GET /generate?cursor=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(1)
        feed.stop()
    assert not caplog.records  # nor is where in the code it was


def test_a_mistake_of_ours_is_no_web_page(
    log: LogWriter, served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = served(log)
    monkeypatch.setattr(feed.cursors, "all", lambda: 1 / 0)
    answer = feed.get("/cursors")
    assert answer.status_code == 500 and "mistake" in answer.json()["error"]


def test_openapi_names_every_route_and_header(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    described = feed.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/generate", "/validation", "/acknowledge", "/release", "/cursors", "/cursors/{name}",
        "/healthz", "/readyz", "/stats", "/metrics",
    }  # fmt: skip
    text = json.dumps(described)
    for name in ("Protocol", "Log", "First", "Count", "Next", "Head", "Lease", "Lease-Seconds"):
        assert f"X-Feed-{name}" in text
    generate = described["paths"]["/generate"]["get"]
    names = {parameter["name"] for parameter in generate["parameters"]}
    assert names == {"cursor", "n", "format", "wait", "consumer", "lease_seconds"}
    assert {"200", "400", "401", "409", "410", "503"} <= set(generate["responses"])
    assert described["security"] == [{"bearer": []}]
