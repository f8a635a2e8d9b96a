"""What a run that is trained from a feed needs before its first step: held-out text, and a sample.

In: a feed. Out: a prepare folder (`validation/`, `train/`, prepare.json) as text of one's own gives
it, so that the tokenizer, the validation loss, bits per byte and the forecast work as ever. In
`validation` are the texts that the feed's archive holds out for ever; in `train` the first texts of
the log, which a tokenizer is trained on.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

from hornbook.corpus.prepare_report import Count, PrepareReport
from hornbook.corpus.split import TRAIN, VALIDATION
from hornbook.documents import Document, byte_length, document_writer, remove_shards
from hornbook.progress import say
from hornbook.tokens.feed_client import FeedClient

SAMPLE_TEXTS = 1000
"""Texts of the log that stand for the rest of it."""

SHARD_BYTES = 256 * 2**20


def prepare_from_feed(client: FeedClient, out: Path) -> PrepareReport:
    """Write the folder; waits for the feed where need be.

    Raises:
        HornbookError: the feed has no archive, or gave nothing for the set time.
    """
    (out / "prepare.json").unlink(missing_ok=True)
    report = PrepareReport(steps=["feed"])
    for split, texts in ((VALIDATION, client.validation()), (TRAIN, _first_texts(client))):
        report.splits[split] = Count()
        (out / split).mkdir(parents=True, exist_ok=True)
        remove_shards(out / split)
        with document_writer(out / split, SHARD_BYTES) as writer:
            for text in texts:
                document = Document(text, source="feed")
                report.read.add(byte_length(text))
                report.splits[split].add(byte_length(text))
                report.keep(document)
                writer.add(document)
    report.finish()
    report.write(out / "prepare.json")
    held_out = report.splits[VALIDATION]
    say(f"prepare: {held_out.documents:,} texts held out, {held_out.bytes / 1e6:.1f} MB")
    return report


def _first_texts(client: FeedClient) -> Iterator[str]:
    return itertools.islice(_texts(client), SAMPLE_TEXTS)


def _texts(client: FeedClient) -> Iterator[str]:
    """The texts of the log from the first that is kept, for ever."""
    info = client.info()
    cursor, never = info.first, threading.Event()
    while True:
        delivery = client.read(info.log, cursor, never)
        assert delivery is not None
        yield from delivery.texts
        cursor = delivery.next
