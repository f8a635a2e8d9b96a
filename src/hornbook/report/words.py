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
            return f"{value / size:.3g} {name}" if abs(value) < 1e15 else f"{value:.3g}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes: 5_300_000 -> "5.3 MB" (decimal units)."""
    if not math.isfinite(value):
        return NOTHING
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:,.0f} bytes"


def duration(seconds: float) -> str:
    """220 -> "3 min 40 s"; two units at most."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
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
    """A number with four significant digits, no needless zeros: 3.2104 -> "3.21"."""
    if not math.isfinite(value):
        return NOTHING
    if value and abs(value) < 1e-3:
        return f"{value:.3g}"
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def share(value: float) -> str:
    """0.0512 -> "5.1 %"."""
    return f"{value * 100:.3g} %" if math.isfinite(value) else NOTHING
