"""Numbers as people read them: counts, sizes, durations, and values with a few digits."""

from __future__ import annotations

import math

NOTHING = "–"
"""Shown where a value is unknown."""


def count(value: float) -> str:
    """1234 -> "1,234"; 1_234_567 -> "1.23 million"."""
    if not math.isfinite(value):
        return NOTHING
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= size:
            return f"{_three(value / size)} {name}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes: 5_300_000 -> "5.30 MB" (decimal units)."""
    if not math.isfinite(value):
        return NOTHING
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= unit:
            return f"{_three(value / unit)} {name}"
    return f"{value:,.0f} bytes"


def duration(seconds: float) -> str:
    """220 -> "3 min 40 s"; two units at most."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in (
        (86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"),
    ):  # fmt: skip
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
    raise AssertionError("unreachable: seconds is at least a minute")


def plain(value: float) -> str:
    """A measured number with four significant digits: 3.2 -> "3.200"; 0.000612 -> "0.000612"."""
    if not math.isfinite(value):
        return NOTHING
    if abs(value) < 0.1:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}".rstrip(".")


def share(value: float) -> str:
    """0.0512 -> "5.1 %"."""
    return f"{value * 100:.1f} %" if math.isfinite(value) else NOTHING


def _three(value: float) -> str:
    """Three significant digits, no exponent: 5.3 -> "5.30"; 1234 -> "1,234"."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")
