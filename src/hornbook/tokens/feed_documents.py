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
from hornbook.tokens.feed_client import FeedClient, FeedInfo, TextsLost

SAMPLE_TEXTS, SAMPLE_BYTES = 1000, 2_000_000
"""Of the log, at most, which stand for the rest of it. 1,000 plays would be 48 MB to learn a
tokenizer from, and as much that the feed has to make before the first step."""

SHARD_BYTES = 256 * 2**20


def prepare_from_feed(client: FeedClient, out: Path) -> PrepareReport:
    """Write the folder; waits for the feed where need be.

    Raises:
        HornbookError: the feed has no archive, or gave nothing for the set time.
    """
    (out / "prepare.json").unlink(missing_ok=True)
    report = PrepareReport(steps=["feed"])
    info = client.info()
    sources = ((VALIDATION, client.validation(info.log)), (TRAIN, _sample(client, info)))
    for split, texts in sources:
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


def _sample(client: FeedClient, info: FeedInfo) -> Iterator[str]:
    size = 0
    for text in itertools.islice(_texts(client, info), SAMPLE_TEXTS):
        yield text
        size += byte_length(text)
        if size >= SAMPLE_BYTES:
            return


def _texts(client: FeedClient, info: FeedInfo) -> Iterator[str]:
    """The texts of the log from the first that was kept, for ever; what is lost is passed over."""
    cursor = info.first
    while True:
        try:
            delivery = client.read(info.log, cursor, threading.Event())
        except TextsLost as lost:
            cursor = lost.first
            continue
        assert delivery is not None
        yield from delivery.texts
        cursor = delivery.next
