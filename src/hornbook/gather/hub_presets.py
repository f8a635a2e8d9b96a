"""Well-known data sets of the Hugging Face hub: where their text is.

The names and paths are those that public projects use; the hub itself was not asked.
"""

from __future__ import annotations

from typing import NamedTuple


class HubPreset(NamedTuple):
    """A part of a data set: OWNER/NAME on the hub, and its files. The text is in `text`."""

    dataset: str
    pattern: str


_REDPAJAMA = "togethercomputer/RedPajama-Data-1T-Sample"

PRESETS = {
    # 25B tokens of textbooks and stories that Mixtral wrote, and their successor of 28B
    "cosmopedia": HubPreset("HuggingFaceTB/cosmopedia", "data/*.parquet"),
    "cosmopedia-v2": HubPreset("HuggingFaceTB/smollm-corpus", "cosmopedia-v2/*.parquet"),
    # 10B tokens of educational web pages
    "fineweb-edu": HubPreset("HuggingFaceFW/fineweb-edu", "sample/10BT/*.parquet"),
    # the English Wikipedia of 2025
    "finewiki": HubPreset("HuggingFaceFW/finewiki", "data/enwiki/*.parquet"),
    # samples of RedPajama's web pages and of its copy of C4
    "redpajama-cc": HubPreset(_REDPAJAMA, "cc_*_sample.jsonl*"),
    "redpajama-c4": HubPreset(_REDPAJAMA, "c4_sample.jsonl*"),
}
