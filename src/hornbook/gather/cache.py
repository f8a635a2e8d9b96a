"""Where downloads are kept, so that nothing is fetched twice.

In: the environment. Out: a folder of the user's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def user_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """`HORNBOOK_CACHE`, else `hornbook` in `XDG_CACHE_HOME`, else `~/.cache/hornbook`."""
    if own := environment.get("HORNBOOK_CACHE"):
        return Path(own).expanduser()
    shared = environment.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "hornbook"
