"""The forecast of a run, for the page: its words, and the numbers of its picture.

In: RUN/forecast/forecast.json and forecast.txt, as `hornbook forecast` wrote them. Out: plain
values for the template and the page's script; nothing where there is no forecast.
"""

from __future__ import annotations

import json
from typing import Any

from hornbook.report.data import Run, mapping, number, sequence
from hornbook.report.words import count, plain

COLUMNS = (
    "tokens", "loss", "fit_tokens", "fit", "ahead_tokens", "low", "middle", "high",
)  # fmt: skip
"""Of the picture, each a list of numbers."""


def forecasts(runs: list[Run]) -> list[dict[str, Any]]:
    """The forecasts that runs have: `name`, `id`, `text`, `outdated` (in words, or ""),
    `description` and `picture`."""
    found = []
    for index, run in enumerate(runs):
        folder = run.path / "forecast"
        try:
            values = mapping(json.loads((folder / "forecast.json").read_text(encoding="utf-8")))
            text = (folder / "forecast.txt").read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            run.notes.append("The forecast could not be read; its part is left out.")
            continue
        found.append(
            {
                "name": run.name,
                "id": f"forecast-{index}",
                "text": text,
                "outdated": _outdated(run, number(values.get("tokens"))),
                "description": _describe(values),
                "picture": _picture(values),
            }
        )
    return found


def _outdated(run: Run, tokens: float) -> str:
    """That the run has gone on since the forecast was made, if it has."""
    now = run.curves.last("tokens")
    if not now > tokens:
        return ""
    return (
        f"Made after {count(tokens)} tokens; the run has {count(now)} now."
        f" `hornbook forecast {run.path}` makes it anew."
    )


def _picture(values: dict[str, Any]) -> dict[str, Any]:
    """Columns, the target and the tokens at which it is reached (low, middle, high or null)."""
    drawn = mapping(values.get("picture"))
    picture: dict[str, Any] = {
        name: [number(value) for value in sequence(drawn.get(name))] for name in COLUMNS
    }
    total = [value if value is None else number(value) for value in sequence(values.get("total"))]
    reached = values.get("outcome") == "expected"
    return {**picture, "target": values.get("target"), "total": total if reached else []}


def _describe(values: dict[str, Any]) -> str:
    """The picture in words, for those who do not see it."""
    words = "Loss against tokens, with the fitted curve and its 80 % band; now "
    words += _shown(values, "loss")
    if values.get("target") is None:
        return words + "."
    words += f", target {_shown(values, 'target')}"
    total = sequence(values.get("total"))
    if values.get("outcome") == "expected" and len(total) == 3:
        return f"{words}, reached after about {count(number(total[1]))} tokens."
    return f"{words}, {values.get('outcome')}."


def _shown(values: dict[str, Any], name: str) -> str:
    return plain(number(values.get(name)))
