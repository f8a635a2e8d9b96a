"""Well-known data sets of the Hugging Face hub: where their text is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubPreset:
    """A part of a data set.

    Args:
        dataset: OWNER/NAME on the hub.
        pattern: its files.
        text_column: column or key of the text.
        about: what it is, in a few words.
    """

    dataset: str
    pattern: str
    text_column: str = "text"
    about: str = ""


PRESETS = {
    "cosmopedia": HubPreset(
        "HuggingFaceTB/cosmopedia",
        "data/*.parquet",
        about="25B tokens of textbooks and stories that Mixtral wrote",
    ),
    "cosmopedia-v2": HubPreset(
        "HuggingFaceTB/smollm-corpus",
        "cosmopedia-v2/*.parquet",
        about="28B tokens, the successor of cosmopedia",
    ),
    "fineweb-edu": HubPreset(
        "HuggingFaceFW/fineweb-edu",
        "sample/10BT/*.parquet",
        about="10B tokens of educational web pages",
    ),
    "finewiki": HubPreset(
        "HuggingFaceFW/finewiki",
        "data/enwiki/*.parquet",
        about="the English Wikipedia of 2025",
    ),
    "redpajama-cc": HubPreset(
        "togethercomputer/RedPajama-Data-1T-Sample",
        "cc_*_sample.jsonl*",
        about="a sample of RedPajama's web pages",
    ),
    "redpajama-c4": HubPreset(
        "togethercomputer/RedPajama-Data-1T-Sample",
        "c4_sample.jsonl*",
        about="a sample of RedPajama's copy of C4",
    ),
}
