"""Settings of the prepare stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class PrepareConfig:
    """Read text, normalise it, drop exact duplicates, split off held-out text, write shards."""

    inputs: list[str] = field(default_factory=list)
    """Files or folders to read (.txt .md .jsonl .parquet .zip, also .gz and .zst), or the name of a
    built-in source: `shakespeare`. Archives are recognised by content, whatever their name. Hidden
    files and run directories inside a folder are passed over."""

    text_column: str | None = None
    """Column or key that holds the text in .jsonl and .parquet; found by itself when there is one
    candidate (text, content, document, body ...)."""

    encoding: str = "utf-8"
    """Encoding of text files. A byte-order mark wins over this."""

    normalise: bool = True
    """Unicode NFC, newlines as \\n, control and zero-width characters and byte-order marks out."""

    deduplicate: bool = True
    """Drop documents whose normalised text was seen before."""

    validation_share: float = 0.05
    """Share of documents held out for validation, chosen by a hash of the document's id, so that
    adding data moves nothing."""

    passages: Literal["auto", "always", "never"] = "auto"
    """Cut documents at blank lines into passages before splitting. `auto` does so when there are
    fewer than 100 documents, and then at least `validation_share` of the bytes is held out."""

    split_salt: str = "hornbook"
    """Changes which documents are held out."""

    shard_megabytes: int = 256
    """Text per Parquet shard, in MB."""
