"""Tokenizers made from one's own text, and copies of other people's."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from hornbook.documents import Document, write_documents
from hornbook.errors import HornbookError
from hornbook.tokenizer.build import build_tokenizer, fitting_vocabulary
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.sample import choose_sample
from hornbook.tokenizer.special import END_OF_TEXT, NAMED
from hornbook.tokenizer.tokenizer import Tokenizer

from .conftest import nasty_texts

SYLLABLES = ["ka", "to", "mi", "re", "nu", "sha", "lo", "pe", "ing", "ed", "é", "字"]


def _texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(400)]
    return [f"{number} " + " ".join(rng.choices(words, k=80)) for number in range(count)]


def _write(texts: list[str], folder: Path, *, shards: int = 1) -> Path:
    """Write texts as document shards, dealt out one by one."""
    for number in range(shards):
        dealt = [Document(text=text) for text in texts[number::shards]]
        (written,) = write_documents(dealt, folder / "new")
        written.rename(folder / f"documents-{number:05d}.parquet")
    return folder


@pytest.fixture(scope="module")
def syllables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(_texts(200), tmp_path_factory.mktemp("syllables"))


@pytest.fixture(scope="module")
def made(
    syllables: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[TokenizeConfig], Tokenizer]:
    cache: dict[str, Tokenizer] = {}

    def build(config: TokenizeConfig) -> Tokenizer:
        key = repr(config)
        if key not in cache:
            cache[key] = build_tokenizer(config, syllables, tmp_path_factory.mktemp("made"))
        return cache[key]

    return build


CONFIGS = [
    TokenizeConfig(kind="bpe", vocabulary=600, split_pattern="gpt2"),
    TokenizeConfig(kind="bpe", vocabulary=600, split_pattern="llama3"),
    TokenizeConfig(kind="bpe", vocabulary=500, special_tokens=False),
    TokenizeConfig(kind="characters"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@settings(max_examples=60, deadline=None)
@given(text=nasty_texts)
def test_any_text_comes_back(
    config: TokenizeConfig, text: str, made: Callable[[TokenizeConfig], Tokenizer]
) -> None:
    tokenizer = made(config)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special_ids.values())


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_special_tokens_end_the_vocabulary(
    config: TokenizeConfig, made: Callable[[TokenizeConfig], Tokenizer]
) -> None:
    tokenizer = made(config)
    names = [END_OF_TEXT, *NAMED] if config.special_tokens else [END_OF_TEXT]
    first = tokenizer.size - len(names)
    assert tokenizer.special_ids == {name: first + at for at, name in enumerate(names)}
    assert tokenizer.end_of_text == first
    assert {tokenizer.token_bytes(id) for id in range(256)} == {bytes([b]) for b in range(256)}
    if config.kind == "bpe":
        assert tokenizer.size == config.vocabulary


def test_bpe_shortens_text_and_keeps_digits_apart(
    made: Callable[[TokenizeConfig], Tokenizer],
) -> None:
    text = _texts(1, seed=0)[0]
    for config in CONFIGS[:2]:
        assert len(made(config).encode(text)) < len(text.encode()) / 2
    llama3 = made(CONFIGS[1])
    assert all(len(llama3.token_bytes(id)) <= 3 for id in llama3.encode("1234567890"))


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_order_and_number_of_shards_change_nothing(kind: str, tmp_path: Path) -> None:
    texts = _texts(150)
    config = TokenizeConfig(kind=kind, vocabulary=500)  # type: ignore[arg-type]
    one = build_tokenizer(config, _write(texts, tmp_path / "a"), tmp_path / "one")
    again = build_tokenizer(config, tmp_path / "a", tmp_path / "again")
    random.Random(1).shuffle(texts)
    other = build_tokenizer(config, _write(texts, tmp_path / "b", shards=4), tmp_path / "other")
    assert one.sha256 == again.sha256 == other.sha256


def test_sample_is_bounded_and_does_not_depend_on_the_order(tmp_path: Path) -> None:
    texts = _texts(100)
    total = sum(len(text.encode()) for text in texts)
    _write(texts, tmp_path / "a")
    _write(texts[::-1], tmp_path / "b", shards=3)
    for limit in (1, 700, total // 3, total - 1, total, 2 * total):
        one, other = (choose_sample(tmp_path / name, limit) for name in "ab")
        sampled = list(one.texts())
        assert sorted(sampled) == sorted(other.texts())
        size = sum(len(text.encode()) for text in sampled)
        assert min(limit, total) - 3 <= size <= limit
        assert one.bytes == min(limit, total)
        whole = [text for text in sampled if text in texts]
        assert len(whole) >= len(sampled) - 1
    small = set(choose_sample(tmp_path / "a", total // 3).texts())
    large = set(choose_sample(tmp_path / "a", total // 2).texts())
    assert len(small - large) <= 1  # a larger sample has the smaller one in it, but for its end


def test_vocabulary_larger_than_the_text_allows(tmp_path: Path) -> None:
    folder = _write(["aaa bbb aaa bbb aaa bbb ccc"], tmp_path / "documents")
    with pytest.raises(HornbookError, match="allows a vocabulary of only") as caught:
        build_tokenizer(TokenizeConfig(vocabulary=5000), folder, tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert caught.value.where == "tokenize.vocabulary"
    reachable = int(str(caught.value).split("only ")[1].split()[0])
    config = TokenizeConfig(vocabulary=reachable)
    assert build_tokenizer(config, folder, tmp_path / "out").size == reachable
    for kind in ("bpe", "characters"):
        config = TokenizeConfig(kind=kind, vocabulary=273)  # type: ignore[arg-type]
        with pytest.raises(HornbookError, match="leaves no room beside 256 bytes and 17 special"):
            build_tokenizer(config, folder, tmp_path / "out")


def test_characters_are_single_tokens(tmp_path: Path) -> None:
    seen = "abc äöü ж 字 한 € ∑ 👍 🏽 \u200d ❤ \ufe0f e\u0301\n"
    tokenizer = build_tokenizer(
        TokenizeConfig(kind="characters"), _write([seen], tmp_path / "d"), tmp_path / "out"
    )
    for character in set(seen):
        assert len(tokenizer.encode(character)) == 1, character
    assert len(tokenizer.encode(seen)) == len(seen)
    mixed = seen.replace(" ", "") * 3 + "👍🏽❤️e\u0301字字ab"
    assert len(tokenizer.encode(mixed)) == len(mixed)
    for unseen in ("ß", "本", "🎉", "\U0010ffff"):
        ids = tokenizer.encode(unseen)
        assert 1 < len(ids) <= len(unseen.encode())
        assert tokenizer.decode(ids) == unseen


def test_rare_characters_make_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["ä" * 9 + "ö" * 5 + "字" * 3 + "é"]
    config = TokenizeConfig(kind="characters", vocabulary=256 + 17 + 2)
    tokenizer = build_tokenizer(config, _write(texts, tmp_path / "d"), tmp_path / "out")
    assert [len(tokenizer.encode(c)) for c in "äö字é"] == [1, 1, 3, 2]
    assert "2 rare characters" in capsys.readouterr().err


def test_a_file_is_copied_byte_for_byte(
    made: Callable[[TokenizeConfig], Tokenizer],
    syllables: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = made(CONFIGS[0]).path
    config = TokenizeConfig(kind="file", file=str(original))
    copy = build_tokenizer(config, syllables, tmp_path / "out")
    assert copy.path.read_bytes() == original.read_bytes()
    assert "changes some texts" not in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tokenizer.json"]

    folder = tmp_path / "lossy"
    folder.mkdir()
    lossy = original.read_text("utf-8").replace(
        '"normalizer": null', '"normalizer": {"type":"NFD"}'
    )
    (folder / "tokenizer.json").write_text(lossy, "utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    build_tokenizer(TokenizeConfig(kind="file", file=str(folder)), syllables, tmp_path / "lossy2")
    assert "changes some texts" in capsys.readouterr().err
    assert (tmp_path / "lossy2" / "tokenizer_config.json").is_file()


def test_file_settings_that_make_no_sense(syllables: Path, tmp_path: Path) -> None:
    with pytest.raises(HornbookError, match=r"tokenize\.file: `kind: file` needs"):
        build_tokenizer(TokenizeConfig(kind="file"), syllables, tmp_path)
    with pytest.raises(HornbookError, match=r"tokenize\.file: is set, but"):
        build_tokenizer(TokenizeConfig(kind="bpe", file="x"), syllables, tmp_path)
    with pytest.raises(HornbookError, match="no document shards"):
        build_tokenizer(TokenizeConfig(kind="bpe"), tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("text_bytes", "vocabulary"), [(0, 512), (50_000, 512), (4_802_882, 4096), (10**9, 32768)]
)
def test_a_vocabulary_after_the_size_of_the_text(text_bytes: int, vocabulary: int) -> None:
    assert fitting_vocabulary(text_bytes) == vocabulary


def test_little_text_gets_as_many_tokens_as_it_allows(tmp_path: Path) -> None:
    write_documents([Document("the cat sat on the mat " * 20)], tmp_path / "documents")
    config = TokenizeConfig(vocabulary=0)
    tokenizer = build_tokenizer(config, tmp_path / "documents", tmp_path / "out")
    assert 256 + 17 < tokenizer.size < 512
    assert tokenizer.decode(tokenizer.encode("the cat, naïvely")) == "the cat, naïvely"
