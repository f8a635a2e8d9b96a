"""Settings of the live data feed: `hornbook feed serve`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class TeacherConfig:
    """A model that writes texts."""

    kind: Literal["openai", "transformers", "hornbook"]
    """`openai`: any server that speaks OpenAI's API (vLLM, llama.cpp ...); `transformers`: a
    Hugging Face directory or GGUF file, on this machine; `hornbook`: a run or checkpoint of
    ours."""

    model: str = ""
    """The model's name at the server; or the directory, file or run that has it."""

    url: str = ""
    """`openai`: address of the API, such as http://127.0.0.1:8000/v1."""

    weight: float = 1.0
    """Share of the bytes of text, relative to the archive and the other teachers."""

    prompts: Literal["vocabulary", "templates", "file"] = "templates"
    """`vocabulary`: random tokens; `templates`: textbook, story, how-to, question and answer, each
    with a seed subject, drawn without replacement; `file`: lines of `prompts_file`."""

    prompts_file: str | None = None
    """File with one prompt a line; for `templates`: with one seed subject a line."""

    max_tokens: int = 512
    """Tokens of a text, at most."""

    temperature: float = 1.0
    """Randomness of the texts."""

    batch: int = 8
    """Texts written at a time; of `openai` the requests at the beginning, adapted later."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where a local teacher computes."""


@dataclass
class FeedConfig:
    """Texts, numbered and kept on disk, for trainers that read them over HTTP."""

    folder: str = "feed"
    """Folder of the feed: its log and the places of its readers."""

    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs a token."""

    port: int = 8765
    """Port to listen on; 0: any free one."""

    token_file: str | None = None
    """File with the bearer token that readers must show; else the environment variable
    HORNBOOK_FEED_TOKEN."""

    keep: str = "all"
    """Size of the log beyond which segments that every reader is done with are dropped, such as
    20GB; `all`: nothing is dropped."""

    tunnel: Literal["", "ngrok", "cloudflared"] = ""
    """Also serve at a public address through this program; needs a token."""

    seed: int = 1337
    """Seed of the archive's order and of the prompts."""

    archive: str | None = None
    """Zip, Parquet or jsonl file, or a folder of the latter two, from which texts are drawn."""

    archive_weight: float = 1.0
    """Share of the bytes of text that the archive gives, relative to the teachers."""

    archive_text_column: str | None = None
    """Column or key of the archive's text; found by itself when there is one candidate."""

    validation_texts: int = 1000
    """Texts of the archive that are held out for ever as validation set; at most a tenth of it."""

    fill_in: bool = True
    """The archive takes over while the teachers are slow or gone, and readers come close to the end
    of what there is."""

    teachers: list[TeacherConfig] = field(default_factory=list)
    """Models that write texts."""

    languages: list[str] = field(default_factory=list)
    """Texts in other languages are rejected (en, de, ...); empty: any language."""

    ahead_texts: int = 50_000
    """Production pauses when the log is this many texts ahead of its fastest reader."""

    ahead_bytes: str = "1GB"
    """The same in bytes of text."""

    max_n: int = 1024
    """Texts of one answer, at most."""

    max_response_bytes: int = 4_000_000
    """Bytes of one answer before compression, at most (but at least one text)."""

    max_connections: int = 256
    """Connections at a time; more are answered 503."""
