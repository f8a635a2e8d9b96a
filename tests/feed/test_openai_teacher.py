"""A teacher behind OpenAI's API, from a good one to one that answers HTML or nothing at all."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from tests.feed.serving import Served
from tests.feed.teacher_server import Answer, Asked, TeacherServer, teacher_server, text
from tests.feed.test_mixer import run_until

from hornbook.errors import HornbookError
from hornbook.feed.config import FeedConfig, TeacherConfig
from hornbook.feed.log import LogWriter
from hornbook.feed.mixer import IN_VAIN, Mixer, open_producers
from hornbook.feed.openai_teacher import MOST_REQUESTS, TRIES, OpenAITeacher
from hornbook.feed.produce import Made, Unavailable
from hornbook.feed.prompts import Prompt
from hornbook.feed.reject import LONGEST, Rejects
from hornbook.feed.teacher import Failure, TeacherProducer

PROMPT = Prompt(0, "Write about bees.", "Bees are", {})


def ask(
    server: TeacherServer, times: int = 1, *, path: str = "", seconds: float = 5.0, **config: Any
) -> list[Any]:
    """What so many calls in a row gave: texts, failures, or what they raised."""

    async def run() -> list[Any]:
        settings = TeacherConfig(kind="openai", url=server.url + path, **config)
        teacher = OpenAITeacher(settings, seconds=seconds, pause=0.01)
        given: list[Any] = []
        for _ in range(times):
            try:
                given += await teacher.generate([PROMPT])
            except Unavailable as error:
                given.append(error)
        await teacher.close()
        return given

    return asyncio.run(run())


def test_chat_is_tried_first_and_kept() -> None:
    with teacher_server(lambda *_: text("Bees fly.")) as server:
        assert ask(server, 2, model="m", max_tokens=9, temperature=0.5) == ["Bees fly."] * 2
    path, asked, headers = server.asked[1]
    assert path == "/v1/chat/completions"
    assert asked == {
        "messages": [{"role": "user", "content": "Write about bees."}],
        "model": "m", "max_tokens": 9, "temperature": 0.5,
    }  # fmt: skip
    assert "Authorization" not in headers


@pytest.mark.parametrize("status", [400, 404, 501])
def test_a_base_model_continues_beginnings(status: int) -> None:
    def script(number: int, path: str, asked: Asked) -> Answer:
        return Answer(status, b'{"error": "no chat"}') if "chat" in path else text(" insects.")

    with teacher_server(script) as server:
        assert ask(server, 3) == [" insects."] * 3
    assert [path for path, _, _ in server.asked].count("/v1/chat/completions") == 1
    assert server.asked[-1][1]["prompt"] == "Bees are"


def test_an_address_may_name_the_endpoint() -> None:
    with teacher_server(lambda *_: text("ok")) as server:
        assert ask(server, path="/api/v3/completions") == ["ok"]
        assert ask(server, path="/api/v3/") == ["ok"]
    assert [path for path, _, _ in server.asked] == [
        "/api/v3/completions", "/api/v3/chat/completions",
    ]  # fmt: skip


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x/v1", "http://", "http://[::1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(HornbookError, match="no address of an API"):
        OpenAITeacher(TeacherConfig(kind="openai", url=url))


def test_the_key_is_sent_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with teacher_server(lambda *_: Answer(401, b"sk-secret is wrong")) as server:
        [error] = ask(server)
    assert server.asked[0][2]["Authorization"] == "Bearer sk-secret"
    assert "OPENAI_API_KEY" in error.why and "sk-secret" not in error.why


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(200, b"<!doctype html><h1>Hi</h1>"), "answered HTML: is this the API's address?"),
        (Answer(302, b"", {"Location": "/login"}), "answered 302: is this the API's address?"),
        (Answer(403, b"no"), "refuses the key"),
        (Answer(404, b"<h1>Not found</h1>"), "answered 404: is this the API's address?"),
    ],
)
def test_what_would_fail_for_all_stops_the_asking_at_once(answer: Answer, why: str) -> None:
    with teacher_server(lambda *_: answer) as server:
        given = ask(server, 3)
    assert all(isinstance(each, Unavailable) and why in each.why for each in given)
    assert len(server.asked) <= 2  # chat and completions, once


@pytest.mark.parametrize(
    "bad",
    [
        Answer(500, b"<h1>oops</h1>"),
        Answer(429, b'{"error": "slow down"}'),
        Answer(200, b'{"choices": [{"mess', {"Content-Type": "application/json"}),
        Answer(200, b'{"choices": []}'),
        Answer(200, b'{"choices": [{"text": "cut off"}]}', cut=True),
        Answer(200, b"", delay=1.0),
        Answer(200, b"[" * 100_000),
    ],
)
def test_a_single_failure_is_tried_again(bad: Answer) -> None:
    script = [bad, text("fine")]
    with teacher_server(lambda number, *_: script[min(number, 1)]) as server:
        assert ask(server, seconds=0.5) == ["fine"]


def test_a_prompt_that_always_fails_is_given_up_while_others_work() -> None:
    def script(number: int, path: str, asked: Asked) -> Answer:
        return Answer(500) if number < TRIES else text("fine")

    with teacher_server(script) as server:
        first, second = ask(server, 2)
    assert isinstance(first, Failure) and "500" in first.why
    assert second == "fine"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(422, b'{"error": {"message": "the prompt is too long"}}'), "422"),
        (Answer(200, b'{"choices": [{"message": {"content": null}}]}'), "None"),
        (Answer(200, b'{"choices": [{"text": NaN}]}'), "nan"),
    ],
)
def test_a_prompt_that_is_refused_is_not_tried_again(answer: Answer, why: str) -> None:
    with teacher_server(lambda *_: answer) as server:
        given = ask(server, 2)
    assert all(isinstance(each, Failure) and why in each.why for each in given)
    assert len(server.asked) <= 4


def test_where_every_prompt_is_refused_the_asking_stops() -> None:
    with teacher_server(lambda *_: Answer(400, b'{"error": "max_tokens is too large"}')) as server:
        given = ask(server, 30, path="/v1/completions")
    assert [type(each) for each in given] == [Failure] * 10 + [Unavailable] * 20
    assert "max_tokens is too large" in given[-1].why
    assert len(server.asked) == 10


def test_an_outage_opens_the_breaker_and_loses_no_prompt() -> None:
    with teacher_server(lambda *_: Answer(500)) as server:
        given = ask(server, 10)
    assert [type(each) for each in given[:3]] == [Failure] * 3
    assert all(isinstance(each, Unavailable) for each in given[3:])
    assert len(server.asked) == 10


def test_nobody_there() -> None:
    with teacher_server(lambda *_: text("x")) as server:
        pass
    given = ask(server, 5)
    assert isinstance(given[-1], Unavailable) and "does not answer (ConnectError)" in given[-1].why


def test_retry_after_is_kept_to() -> None:
    answer = Answer(429, b"{}", {"Retry-After": "30"})
    with teacher_server(lambda *_: answer) as server:
        given = ask(server, 4)
    assert len(server.asked) == 1
    assert all(isinstance(each, Unavailable) and 25 < each.seconds <= 30 for each in given)


def test_an_endless_answer_is_cut_off() -> None:
    answer = Answer(200, b'{"choices": "' + b"x" * (9 * 2**20))
    with teacher_server(lambda *_: answer) as server:
        [given] = ask(server)
    assert isinstance(given, Failure) and "more than 8 MB" in given.why


def produce(
    server: TeacherServer, until: Callable[[list[Made]], bool], batch: int
) -> tuple[list[Made], OpenAITeacher]:
    """Produce until something is so."""

    async def run() -> OpenAITeacher:
        config = TeacherConfig(kind="openai", url=server.url, batch=batch)
        teacher = OpenAITeacher(config, pause=0.01)
        producer = TeacherProducer("teacher", teacher, config, 1, Rejects())
        state: Any = None
        deadline = time.monotonic() + 30
        while not until(made):
            assert time.monotonic() < deadline
            try:
                made.append(await producer.make(state))
                state = made[-1].state
            except Unavailable as error:
                await asyncio.sleep(min(error.seconds, 0.05))
        await producer.close()
        return teacher

    made: list[Made] = []
    return made, asyncio.run(run())


def unlike(number: int) -> str:
    return " ".join(f"w{number * 1000 + i * i}" for i in range(30))


def test_requests_grow_while_all_is_well() -> None:
    with teacher_server(lambda number, *_: text(unlike(number), delay=0.01)) as server:
        made, teacher = produce(server, lambda made: len(made) > 150, batch=2)
    assert 6 < teacher.at_once <= MOST_REQUESTS
    assert 6 < server.most_at_once <= teacher.at_once
    assert sum(len(each.documents) for each in made) > 150


def test_a_storm_of_429_makes_them_few_and_loses_nothing() -> None:
    def script(number: int, path: str, asked: Asked) -> Answer:
        busy = server.most_at_once > 0 and server._at_once > 2
        return Answer(429, b"{}") if busy else text(unlike(number), delay=0.005)

    with teacher_server(script) as server:
        made, teacher = produce(
            server, lambda made: sum(len(each.documents) for each in made) >= 60, batch=16
        )
    assert teacher.at_once <= 8
    failed = sum(each.rejected["failed"] for each in made)
    numbers = [document.meta["number"] for each in made for document in each.documents]
    assert len(numbers) == len(set(numbers)) and failed <= 20


def test_one_of_which_every_text_is_too_long_is_said_wherever_one_looks(
    log: LogWriter, served: Callable[..., Served], capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, str] = {}

    def script(number: int, path: str, asked: Asked) -> Answer:
        if not found:
            return text("x" * (LONGEST + 1))
        return text(unlike(number))

    def is_better() -> bool:
        """Look around when it is said, from where on its texts are good."""
        if not found and mixer.status().problem:
            found.update({path: feed.get(path).text for path in ("/readyz", "/metrics")})
        return log.head > 0

    with teacher_server(script) as server:
        teacher = TeacherConfig(kind="openai", url=server.url, model="m")
        config = FeedConfig(teachers=[teacher])
        mixer = Mixer(log, open_producers(config, log), config, lambda: 0)
        feed = served(log, production=lambda: asdict(mixer.status()))
        run_until(mixer, is_better)
    assert len(server.asked) > IN_VAIN
    said = r"teacher:m: its last \d+ texts were rejected, most as too_long"
    assert re.search(said, found["/readyz"])
    assert "\nhornbook_feed_problem 1\n" in found["/metrics"]
    assert mixer.status().problem is None and not mixer.status().unavailable
    assert "\nhornbook_feed_problem 0\n" in feed.get("/metrics").text
    shown = capsys.readouterr().err
    assert len(re.findall(said, shown)) == 1
    assert shown.count("feed: texts of teacher:m are kept again") == 1


def test_closing_drops_what_is_under_way() -> None:
    with teacher_server(
        lambda number, *_: text(unlike(number), delay=0.0 if number == 0 else 2)
    ) as (server):
        began = time.monotonic()
        produce(server, lambda made: len(made) == 1, batch=4)
        assert time.monotonic() - began < 1.5
