"""A teacher behind OpenAI's HTTP API, as vLLM, llama.cpp, Ollama and many others serve it.

In: prompts. Out: texts. As many requests at a time as the server bears; what fails is tried again,
and where everything fails, nothing is asked for a while (`breaker.py`). The key is taken from the
environment variable OPENAI_API_KEY, and shown nowhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from hornbook.errors import HornbookError
from hornbook.feed.breaker import Breaker, Limit
from hornbook.feed.config import TeacherConfig
from hornbook.feed.prompts import Prompt
from hornbook.feed.teacher import Answers, Failure
from hornbook.gather.answers import retry_after

CHAT, COMPLETIONS = "chat/completions", "completions"

TRIES = 3
MOST_REQUESTS = 64
"""At a time, at most; a vLLM server takes 256, and others wait in its queue."""

ANSWER_SECONDS = 120.0
"""For the whole answer: 512 tokens at 5 a second."""

LONGEST_ANSWER = 8 * 2**20
"""Bytes; 4,096 tokens of text are about 20 kB."""

_NOT_HERE = (400, 404, 405, 422, 501)
"""What servers answer where they do not have, or the model cannot do, chat."""
_OVERLOADED = (408, 425, 429)


@dataclass(eq=False)
class _Trouble(Exception):
    """A request that failed for a reason that is not its prompt's.

    Args:
        why: for people.
        at_once: every other request would fail in the same way.
        overload: fewer at a time may do better.
        wait: seconds for which the server wants to be left alone.
    """

    why: str
    at_once: bool = False
    overload: bool = False
    wait: float | None = None


class OpenAITeacher:
    """See `Teacher`. Whether the server has chat or only completions is found out by trying.

    Args:
        config: `url`, `model`, and how texts are sampled.
        seconds: for one answer.
        pause: longest pause in seconds before a second try; it doubles for the third.
    """

    group = 1

    def __init__(
        self, config: TeacherConfig, *, seconds: float = ANSWER_SECONDS, pause: float = 1.0
    ):
        self._config, self._seconds, self._pause = config, seconds, pause
        self._base, self._endpoint = _address(config.url)
        self.breaker = Breaker()
        self._limit = Limit(config.batch, MOST_REQUESTS)
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(seconds, connect=10.0),
            limits=httpx2.Limits(max_connections=MOST_REQUESTS),
        )

    @property
    def at_once(self) -> int:
        """Requests under way, at most."""
        return int(self._limit)

    async def vocabulary(self) -> Sequence[str]:
        """Not known: the API does not tell."""
        return []

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def generate(self, prompts: Sequence[Prompt]) -> Answers:
        """An answer to the prompt. See `Teacher`."""
        [prompt] = prompts
        return [await self._answer(prompt)]

    async def _answer(self, prompt: Prompt) -> str | Failure:
        last = ""
        for attempt in range(TRIES):
            if attempt:  # full jitter: all of a storm's requests would come back together
                await asyncio.sleep(random.uniform(0, self._pause * 2 ** (attempt - 1)))
            self.breaker.check()
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._seconds):
                    answer = await self._ask(prompt)
            except (_Trouble, TimeoutError, httpx2.HTTPError) as error:
                last = self._failed(error, began)
                continue
            if isinstance(answer, Failure):
                self.breaker.failed(answer.why)  # one is its prompt's fault, ten in a row are not
                return answer
            self.breaker.succeeded()
            self._limit.succeeded()
            return answer
        self.breaker.check()  # an outage is not the prompt's fault: it is asked again later
        return Failure(last)

    def _failed(self, error: Exception, began: float) -> str:
        """Tell the breaker and the limit; returns what went wrong."""
        trouble = error
        if not isinstance(trouble, _Trouble):
            trouble = _Trouble(f"teacher does not answer ({type(error).__name__})", overload=True)
        if trouble.overload:
            self._limit.overloaded(began)
        if trouble.wait is not None:
            self.breaker.hold(trouble.wait, trouble.why)
        else:
            self.breaker.failed(trouble.why, at_once=trouble.at_once)
        return trouble.why

    async def _ask(self, prompt: Prompt) -> str | Failure:
        endpoint = self._endpoint or CHAT
        status, headers, body = await self._post(endpoint, prompt)
        if status in _NOT_HERE and not self._endpoint:
            endpoint = COMPLETIONS
            status, headers, body = await self._post(endpoint, prompt)
        if status != 200:
            _check_status(status, headers, body)
            return Failure(f"{status}: {_message(body)}")
        text = _text(body)
        self._endpoint = endpoint
        return text

    def _request(self, endpoint: str, prompt: Prompt) -> dict[str, Any]:
        config = self._config
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": prompt.request}]}
            if endpoint == CHAT
            else {"prompt": prompt.beginning}
        )
        if config.model:
            asked["model"] = config.model
        return {**asked, "max_tokens": config.max_tokens, "temperature": config.temperature}

    async def _post(self, endpoint: str, prompt: Prompt) -> tuple[int, httpx2.Headers, bytes]:
        asked = self._request(endpoint, prompt)
        async with self._client.stream("POST", f"{self._base}/{endpoint}", json=asked) as answer:
            body = bytearray()
            async for block in answer.aiter_bytes():
                body += block
                if len(body) > LONGEST_ANSWER:
                    raise _Trouble("teacher answered more than 8 MB")
            return answer.status_code, answer.headers, bytes(body)


def _check_status(status: int, headers: httpx2.Headers, body: bytes) -> None:
    """Raise `_Trouble` unless the status means that this prompt alone is refused."""
    if status in _OVERLOADED or status >= 500:
        raise _Trouble(
            f"teacher answered {status} ({_message(body)})",
            overload=True,
            wait=retry_after(headers) if status in (429, 503) else None,
        )
    if status in (401, 403):
        raise _Trouble(f"teacher refuses the key ({status}): set OPENAI_API_KEY", at_once=True)
    if status in (404, 405) or status < 400:
        raise _Trouble(
            f"teacher answered {status}: is this the API's address? {_message(body)}", at_once=True
        )


def _text(body: bytes) -> str | Failure:
    """The text of an answer to chat or completions."""
    if body.lstrip()[:1] == b"<":
        raise _Trouble("teacher answered HTML: is this the API's address?", at_once=True)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise _Trouble("teacher answered what is not whole JSON") from None
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (KeyError, IndexError, TypeError):
        raise _Trouble("teacher's answer has no choices: is this the API's address?") from None
    return text if isinstance(text, str) else Failure(f"the answer's text is {text!r:.40}")


def _message(body: bytes) -> str:
    """The reason in an error's body, on one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", body[:2000].decode("utf-8", "replace")).split())[:200]


def _address(url: str) -> tuple[str, str | None]:
    """The address up to `/v1`, and the endpoint where the address names one."""
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL:
        parts = httpx2.URL("")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise HornbookError(
            f"is no address of an API: {url!r}",
            where="feed.teachers.url",
            hint="Write it like http://127.0.0.1:8000/v1",
        )
    base = url.rstrip("/")
    for endpoint in (CHAT, COMPLETIONS):
        if base.endswith(f"/{endpoint}"):
            return base.removesuffix(f"/{endpoint}"), endpoint
    return (base if parts.path.strip("/") else f"{base}/v1"), None
