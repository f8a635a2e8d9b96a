"""What the report says of the text: filters, changes, splits, languages, lengths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hornbook.report.data import read_run
from hornbook.report.datasets import describe


def test_filters_changes_languages_and_lengths(new_run: Callable[..., Path]) -> None:
    folder = new_run(steps=10)
    path = folder / "prepare" / "prepare.json"
    report = json.loads(path.read_text())
    plain = {table.title for table in describe(read_run(folder)).tables}
    assert not plain & {"Changes", "By language", "By length"}, "nothing was counted"
    some = {"documents": 3, "bytes": 4_500}
    report["dropped"] |= {
        "near.duplicate": {**some, "samples": []},
        "gopher.min_words": {**some, "samples": [{"text": "Buy now!"}]},
    }
    report |= {"counts": {"pii.emails": 12, "pii.ips": 0}, "languages": {"en": some, "": some}}
    report |= {"lengths": {"1024": some, "2048": some}}
    report["splits"]["test"] = some
    path.write_text(json.dumps(report))
    described = describe(read_run(folder))
    tables = {table.title: table.rows for table in described.tables}
    assert ["Dropped: gopher.min_words", "3", "4.50 kB"] in tables["Preparation"]
    near = ["Dropped: almost a copy of an earlier document", "3", "4.50 kB"]
    assert near in tables["Preparation"]
    assert tables["Changes"] == [["pii.emails", "12"]]
    assert [row[0] for row in tables["Split"]] == ["Training", "Held out", "Final test"]
    assert [row[0] for row in tables["By language"]] == ["en", "not stated"]
    assert [row[0] for row in tables["By length"]] == [
        "1,024 to 2,047 bytes",
        "2,048 to 4,095 bytes",
    ]
    assert ["Buy now!"] in [dropped.samples for dropped in described.dropped]
