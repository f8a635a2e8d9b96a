"""Puts the measured numbers into docs/performance.md and docs/forecast.md: none is typed by hand.

    python benchmarks/tables.py

A results file may have a `table`: a list of rows, each a mapping of column to text. In the page,
the lines between `<!-- table: NAME -->` and `<!-- end -->` are replaced by the table of
results/NAME.json and the machine and command that it comes from. A name with a `*` stands for all
files that match, one below the other in one table. Where there is no file yet, the page says so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hornbook.files import read_json, write_text

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
FORECAST_PAGE = ROOT / "docs" / "forecast.md"
RESULTS = Path(__file__).parent / "results"

MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, results: Path = RESULTS) -> str:
    """The page's text with every marked table as the results files have it."""
    return MARKED.sub(lambda match: f"{match[1]}{rendered(match[2], results)}{match[3]}", page)


def rendered(name: str, results: Path) -> str:
    """The table of results/NAME.json as Markdown."""
    files = [read_json(path) for path in sorted(results.glob(f"{name}.json"))]
    files = [result for result in files if result.get("table")]
    if not files:
        return "\nNot measured yet.\n\n"
    rows = [row for result in files for row in result["table"]]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row.get(column, "") for column in columns) + " |" for row in rows]
    lines += ["", *dict.fromkeys(_origin(result) for result in files), ""]
    return "\n".join(lines) + "\n"


def _origin(result: dict[str, Any]) -> str:
    machine = result["machine"]
    device = machine.get("gpu") or machine.get("cpu")
    return f"Measured on {device}, torch {machine['torch']}: `{result['command']}`  "


def main() -> None:
    for page in (PAGE, FORECAST_PAGE):
        write_text(page, filled(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
