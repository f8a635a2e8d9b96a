"""The sampled texts of the report, arranged so that they can be compared.

In: the lines of samples.jsonl. Out: groups of texts with the same prompt: over the steps of one
run, or the last of each of several runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hornbook.report.data import Run, number

MOST_GROUPS = 8
"""Prompts shown."""

MOST_SAMPLES = 8
"""Texts shown for a prompt, evenly spaced, the first and the last among them."""

MOST_CHARACTERS = 1200
"""Characters shown of a text."""


@dataclass
class Sample:
    """One text that the model wrote."""

    label: str
    prompt: str
    """Shown before the text in a paler colour."""
    text: str


@dataclass
class SampleGroup:
    """Texts that continue the same prompt."""

    prompt: str
    samples: list[Sample]
    left_out: str = ""


def sample_groups(runs: list[Run]) -> list[SampleGroup]:
    """Samples by prompt: over the steps for one run, the last of each run for several."""
    if len(runs) == 1:
        lines = [(_step_label(line), line) for line in runs[0].samples]
    else:
        lines = [
            (f"{run.name}, {_step_label(line).lower()}", line)
            for run in runs
            for line in {_prompt(line): line for line in run.samples}.values()
        ]
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for label, line in lines:
        groups.setdefault(_prompt(line), []).append((label, line))
    return [_group(prompt, found) for prompt, found in list(groups.items())[:MOST_GROUPS]]


def _group(prompt: str, lines: list[tuple[str, dict[str, Any]]]) -> SampleGroup:
    total = len(lines)
    if total > MOST_SAMPLES:
        lines = [lines[round(i * (total - 1) / (MOST_SAMPLES - 1))] for i in range(MOST_SAMPLES)]
        left_out = f"{MOST_SAMPLES} of {total} are shown, evenly spaced."
    else:
        left_out = ""
    return SampleGroup(
        shorten(prompt, 200), [_sample(label, prompt, line) for label, line in lines], left_out
    )


def _sample(label: str, prompt: str, line: dict[str, Any]) -> Sample:
    text = str(line.get("text", ""))
    return Sample(label, shorten(prompt, 200), shorten(text, MOST_CHARACTERS))


def shorten(text: str, most: int) -> str:
    """At most `most` characters; what was cut off is said by an ellipsis."""
    return text if len(text) <= most else text[:most].rstrip() + " …"


def _prompt(line: dict[str, Any]) -> str:
    return str(line.get("prompt") or "")


def _step_label(line: dict[str, Any]) -> str:
    step = number(line.get("step"))
    return f"Step {step:,.0f}" if step == step else "Unknown step"
