"""A teacher on this machine: a `transformers` model, or a checkpoint of ours.

In: prompts. Out: texts. The model computes in a process of its own (`teacher_process.py`), so that
neither its work nor its end stops the serving of texts; one that ended is started again. The two
talk in lines of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NoReturn

from hornbook.errors import HornbookError
from hornbook.feed.breaker import Breaker
from hornbook.feed.config import TeacherConfig
from hornbook.feed.prompts import Prompt
from hornbook.feed.teacher import Answers

LONGEST_LINE = 64 * 2**20
"""Bytes; the pieces of a large vocabulary are 2 MB."""

END_SECONDS = 2.0


class LocalTeacher:
    """See `Teacher`. The process starts with the first call.

    Args:
        config: `kind`, `model`, `device`, `batch`, and how texts are sampled.
        seed: of the sampling.
    """

    at_once = 2
    """One group is written while the next one waits."""

    def __init__(self, config: TeacherConfig, seed: int):
        self._config, self._seed = config, seed
        self.group = config.batch
        self.breaker = Breaker()
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._vocabulary: list[str] = []
        self._has_worked = False

    async def vocabulary(self) -> Sequence[str]:
        """The pieces of its tokenizer. Raises `Unavailable`, `HornbookError`: see `generate`."""
        async with self._turn:
            await self._running()
        return self._vocabulary

    async def generate(self, prompts: Sequence[Prompt]) -> Answers:
        """An answer to each prompt. See `Teacher`.

        Raises:
            HornbookError: the model cannot be used here at all.
        """
        asked = [{"request": each.request, "beginning": each.beginning} for each in prompts]
        async with self._turn:
            process = await self._running()
            answer = await self._exchange(
                process, {"prompts": asked, "seed": [self._seed, prompts[0].number]}
            )
        self.breaker.succeeded()
        texts: Answers = answer["texts"]
        return texts

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _running(self) -> Process:
        """The process, with its model loaded."""
        if self._process is not None:
            return self._process
        self.breaker.check()
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hornbook.feed.teacher_process",
            stdin=PIPE, stdout=PIPE, limit=LONGEST_LINE,
        )  # fmt: skip
        answer = await self._exchange(process, asdict(self._config))
        self._vocabulary = answer["vocabulary"]
        self._has_worked = True
        return process

    async def _exchange(self, process: Process, asked: dict[str, Any]) -> dict[str, Any]:
        """Send a line, and take the one that answers it."""
        assert process.stdin is not None and process.stdout is not None
        line = b""
        with contextlib.suppress(ConnectionError):
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        if not line.endswith(b"\n"):
            self._process = None
            self._fail(f"the process of the model ended (exit code {await process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            await self.close()
            error = HornbookError(answer["error"], where=answer["where"], hint=answer["hint"])
            if not self._has_worked:
                raise error
            self._fail(str(error))
        return answer

    def _fail(self, why: str) -> NoReturn:
        """The next process may start after a while."""
        self.breaker.failed(why, at_once=True)
        self.breaker.check()
        raise AssertionError("the breaker is open")
