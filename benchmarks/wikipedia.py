"""Token shards of every second article of a set of long English Wikipedia articles.

In: the folder `text/` of github.com/jason-feng/wikiVisual at the commit below (30,729 articles of
2014-15, CC BY-SA 3.0; this commit is no branch's head, so fetch it by its name):

    git init wikiVisual && cd wikiVisual
    git fetch --depth 1 https://github.com/jason-feng/wikiVisual 1c0fac92f29f17c1603bfffbe864e0dfdff66897
    git checkout FETCH_HEAD && cd ..
    python benchmarks/wikipedia.py wikiVisual/text wikipedia

Out: `wikipedia/prepare` (documents) and `wikipedia/tokens`: 44.2M GPT-2 tokens in `train`, and
414,739 in `validation`, every hundredth of the articles. `loss_per_minute.py` reads the second.
"""  # noqa: E501 (a command is one line)

from __future__ import annotations

import argparse
import html
import re
from collections.abc import Iterator
from pathlib import Path

from hornbook.corpus.normalise import normalise
from hornbook.documents import Document, write_documents
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokens.tokenize import tokenize

ARTICLE = re.compile(r'<doc id="(\d+)" url="([^"]*)" title="(.*?)">\n(.*?)\n</doc>', re.DOTALL)
TAKE_EVERY, HOLD_OUT_EVERY = 2, 100


def articles(folder: Path) -> Iterator[Document]:
    """All articles, in the order of the files' names."""
    for path in sorted(folder.rglob("wiki_*")):
        for _, url, title, text in ARTICLE.findall(path.read_text(encoding="utf-8")):
            yield Document(
                text=normalise(html.unescape(text)).strip(),
                source="wikipedia", url=url, title=html.unescape(title),
                licence="CC BY-SA 3.0", language="en",
            )  # fmt: skip


def split(documents: list[Document]) -> dict[str, list[Document]]:
    """Every second article, and of those every hundredth held out."""
    splits: dict[str, list[Document]] = {"train": [], "validation": []}
    for number, document in enumerate(documents[::TAKE_EVERY]):
        held_out = number % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
        splits["validation" if held_out else "train"].append(document)
    return splits


def write(text: Path, out: Path, rank_file: str | None) -> None:
    """Write documents and token shards."""
    splits = split(list(articles(text)))
    for name, documents in splits.items():
        (out / "prepare" / name).mkdir(parents=True, exist_ok=True)
        write_documents(documents, out / "prepare" / name)
    manifest = tokenize(
        TokenizeConfig(kind="gpt2", file=rank_file), out / "prepare", out / "tokens"
    )
    for name in splits:
        totals = manifest.totals(name)
        print(f"{name}: {totals.documents:,} articles, {totals.tokens:,} tokens")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="the folder text/ of that repository")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rank-file", help="r50k_base.tiktoken, instead of a download")
    arguments = parser.parse_args()
    write(arguments.text, arguments.out, arguments.rank_file)
