"""Numbers of a running feed: counted here, and written as Prometheus wants them.

In: what the server counts, and the snapshot that `/stats` shows. Out: Prometheus' text format 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Labels = tuple[tuple[str, str], ...]
Samples = Iterable[tuple[Labels, float]]


@dataclass
class Metrics:
    """What was counted since the start."""

    texts: int = 0
    """Texts that answers had; one that was asked for twice counts twice."""
    text_bytes: int = 0
    """Bytes of JSON in them."""
    sent_bytes: int = 0
    """The same compressed."""
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Requests by route and status."""


def prometheus(snapshot: Mapping[str, Any], metrics: Metrics) -> str:
    """The numbers as text."""
    production = snapshot["production"]
    produced, rejected = production.get("produced", {}), production.get("rejected", {})
    head = snapshot["head"]
    lines: list[str] = []

    def add(name: str, kind: str, help: str, samples: Samples) -> None:
        name = f"hornbook_feed_{name}"
        lines.extend((f"# HELP {name} {help}", f"# TYPE {name} {kind}"))
        lines.extend(f"{name}{_labels(labels)} {value:.17g}" for labels, value in samples)

    def one(value: float) -> Samples:
        return [((), value)]

    def by(label: str, values: Mapping[str, float]) -> Samples:
        return [(((label, name),), value) for name, value in sorted(values.items())]

    add("first", "gauge", "Number of the oldest text that is kept", one(snapshot["first"]))
    add("head", "gauge", "Number that the next text will have", one(head))
    add("ahead_texts", "gauge", "Texts that no reader has read yet", one(snapshot["ahead"]))
    add("damaged_texts", "gauge", "Texts lost in damaged files", one(snapshot["damaged_texts"]))
    lag = {name: head - cursor for name, cursor in snapshot["readers"].items()}
    add("lag_texts", "gauge", "Texts between a reader and the head", by("reader", lag))
    add("connections", "gauge", "Open connections", one(snapshot["connections"]))
    add("in_flight_bytes", "gauge", "Bytes of answers not sent yet", one(snapshot["in_flight"]))
    add("paused", "gauge", "Whether production is paused", one(bool(production.get("paused"))))
    add("served_texts_total", "counter", "Texts in answers", one(metrics.texts))
    add("served_text_bytes_total", "counter", "Bytes of JSON in answers", one(metrics.text_bytes))
    add("sent_bytes_total", "counter", "The same compressed", one(metrics.sent_bytes))
    add("produced_texts_total", "counter", "Texts made", by("producer", produced))
    add("rejected_texts_total", "counter", "Texts rejected", by("reason", rejected))
    add(
        "requests_total", "counter", "Requests",
        [((("route", route), ("status", str(status))), count)
         for (route, status), count in sorted(metrics.requests.items())],
    )  # fmt: skip
    return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    quoted = (f'{name}="{_escaped(value)}"' for name, value in labels)
    return "{" + ",".join(quoted) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
