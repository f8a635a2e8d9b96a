"""Rules on lines: C4's, which cut lines out of a text, and FineWeb's, which count them.

In: documents. Out: documents, shortened by C4, and for each the first rule it breaks.

C4: Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2, and its
published code, which also cuts lines with words of over 1,000 characters and on policies. Its
list of bad words is not applied (FineWeb does without it, too). FineWeb: Penedo et al. 2024,
section 3.6. Handed the same sentences, datatrove 0.10 decides the same
(tests/corpus/test_datatrove.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hornbook.corpus.batch import Batch, Outcome, with_text
from hornbook.corpus.config import C4Config, FinewebConfig
from hornbook.corpus.quality import first_broken, limits_of
from hornbook.corpus.words import SENTENCE_TERMINALS

POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_END_OF_LINE = (".", "?", "!", '"', "'")
# A full stop ends a sentence where a blank follows, and not the next word's small letter. C4
# counts with NLTK's punkt; a rule of one line suffices to tell three sentences from five.
_END_OF_SENTENCE = re.compile(r"""[.?!。！？]["'”’)\]]*(?=\s+[^\sa-z]|\s*$)|[。！？](?=\S)""")


def count_sentences(line: str) -> int:
    """Sentences in a line of text; a line without an end of one counts as one."""
    ends = [match.end() for match in _END_OF_SENTENCE.finditer(line)]
    rest = line[ends[-1] :] if ends else line
    return len(ends) + bool(rest.strip())


@dataclass(frozen=True)
class C4Step:
    """Cuts lines by C4's rules, and drops documents that are bad or too short then."""

    config: C4Config
    name = "c4"
    rules = ("c4.lorem_ipsum", "c4.curly_bracket", "c4.min_sentences")

    def __call__(self, batch: Batch) -> Outcome:
        documents, dropped = [], []
        counts: Counter[str] = Counter()
        for document in batch.documents:
            lines: list[str] = []
            rule = self._cut(document.text, lines, counts)
            text = document.text if rule else "\n".join(lines).strip()
            documents.append(with_text(document, text))
            dropped.append(rule)
        return Outcome(documents, dropped, dict(counts))

    def _cut(self, text: str, kept: list[str], counts: Counter[str]) -> str | None:
        """Put the lines that stay into `kept`; answer the rule that drops the whole text."""
        wanted = self.config.min_sentences or 0
        sentences = 0
        for line in text.splitlines():
            line = line.strip()
            shortened = line
            if self.config.remove_citations and "[" in line:
                shortened = _CITATION.sub("", line)
            reason = self._line_rule(line, shortened)
            if reason in ("lorem_ipsum", "curly_bracket"):
                return f"c4.{reason}"
            if reason:
                counts[f"c4.lines.{reason}"] += 1
                continue
            if sentences < wanted:
                sentences += count_sentences(shortened)
            kept.append(shortened)
        return "c4.min_sentences" if sentences < wanted else None

    def _line_rule(self, line: str, shortened: str) -> str | None:
        """The rule that cuts a line, or drops its text; the order is that of C4's own code."""
        config = self.config
        longest, fewest = config.max_word_length, config.min_words_line
        if longest is not None and len(line) > longest and max(map(len, line.split())) > longest:
            return "max_word_length"
        if config.terminal_punctuation and (
            not shortened.endswith(_END_OF_LINE) or shortened.endswith("...")
        ):
            return "terminal_punctuation"
        if fewest is not None and len(line.split(None, fewest)) < fewest:
            return "min_words_line"
        lowered = shortened.lower()
        if config.lorem_ipsum and "lorem ipsum" in lowered:
            return "lorem_ipsum"
        if config.javascript and "javascript" in lowered:
            return "javascript"
        if config.curly_bracket and "{" in shortened:
            return "curly_bracket"
        if config.policy and any(phrase in lowered for phrase in POLICY):
            return "policy"
        return None


@dataclass(frozen=True)
class FinewebStep:
    """Drops documents that break one of FineWeb's own rules."""

    config: FinewebConfig
    name = "fineweb"
    rules = tuple(f"fineweb.{name}" for name in limits_of(FinewebConfig))

    def __call__(self, batch: Batch) -> Outcome:
        broken = [first_broken(self.config, self._measures(d.text)) for d in batch.documents]
        return Outcome(batch.documents, [name and f"fineweb.{name}" for name in broken])

    def _measures(self, text: str) -> Iterator[tuple[str, float]]:
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        count = max(1, len(lines))
        yield "min_punctuated_lines", sum(line[-1] in SENTENCE_TERMINALS for line in lines) / count
        short = self.config.short_line_length
        yield "max_short_lines", sum(len(line) <= short for line in lines) / count
        newlines = text.count("\n")
        _, repeated = duplicates(lines)
        yield "max_duplicate_line_characters", repeated / max(1, len(text) - newlines)
        if (limit := self.config.max_newlines_per_word) is not None:
            # No more words are split off than suffice to keep the text.
            words = len(text.split(None, int(newlines / limit) + 1 if limit else -1))
            yield "max_newlines_per_word", newlines / max(1, words)


def duplicates(parts: list[str]) -> tuple[int, int]:
    """How many of the parts were there before, and their characters."""
    if len(set(parts)) == len(parts):
        return 0, 0
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        seen.add(part)
    return count, characters
