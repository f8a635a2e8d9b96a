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
    production, head = snapshot["production"], snapshot["head"]
    lag = {name: head - cursor for name, cursor in snapshot["readers"].items()}
    produced, rejected = production.get("produced", {}), production.get("rejected", {})
    problem = bool(production.get("problem"))
    requests = [
        ((("route", route), ("status", str(status))), count)
        for (route, status), count in sorted(metrics.requests.items())
    ]

    def one(value: float) -> Samples:
        return [((), value)]

    def by(label: str, values: Mapping[str, float]) -> Samples:
        return [(((label, name),), value) for name, value in sorted(values.items())]

    families: list[tuple[str, str, Samples]] = [
        ("first", "Number of the oldest text that is kept", one(snapshot["first"])),
        ("head", "Number that the next text will have", one(head)),
        ("ahead_texts", "Texts that no reader has read yet", one(snapshot["ahead"])),
        ("damaged_texts", "Texts lost in damaged files", one(snapshot["damaged_texts"])),
        ("lag_texts", "Texts between a reader and the head", by("reader", lag)),
        ("connections", "Open connections", one(snapshot["connections"])),
        ("in_flight_bytes", "Bytes of answers not sent yet", one(snapshot["in_flight"])),
        ("paused", "Whether production is paused", one(bool(production.get("paused")))),
        ("problem", "Whether a teacher or disk space is missing", one(problem)),
        ("served_texts_total", "Texts in answers", one(metrics.texts)),
        ("served_text_bytes_total", "Bytes of JSON in answers", one(metrics.text_bytes)),
        ("sent_bytes_total", "The same compressed", one(metrics.sent_bytes)),
        ("produced_texts_total", "Texts made", by("producer", produced)),
        ("rejected_texts_total", "Texts rejected", by("reason", rejected)),
        ("requests_total", "Requests", requests),
    ]
    lines = []
    for short, help, samples in families:
        name, kind = f"hornbook_feed_{short}", "counter" if short.endswith("_total") else "gauge"
        lines += [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{_labels(labels)} {value:.17g}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    quoted = (f'{name}="{_escaped(value)}"' for name, value in labels)
    return "{" + ",".join(quoted) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
