"""Fixtures of the feed's tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.feed.serving import Served, serving

from hornbook.feed.log import LogWriter


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogWriter]:
    """An empty log, open for writing."""
    writer = LogWriter.create_or_open(tmp_path / "feed")
    yield writer
    writer.close()


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    """`served(log, token=..., port=..., max_n=...)`: a real server of it until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda log, **options: stack.enter_context(serving(log, **options))
