"""Loading, decoding and streaming of any tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from hornbook.errors import HornbookError
from hornbook.tokenizer import pieces
from hornbook.tokenizer.alphabet import byte_characters
from hornbook.tokenizer.tokenizer import StreamDecoder, Tokenizer

from .conftest import NASTY, BuildKnown, nasty_texts

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("kind", ["gpt2", "phi2"])
@settings(max_examples=100, deadline=None)
@given(text=nasty_texts, data=st.data())
def test_streamed_text_is_the_decoded_text(
    kind: str, text: str, data: st.DataObject, known: BuildKnown
) -> None:
    tokenizer = known(kind)
    ids = tokenizer.encode(text)
    decoder = StreamDecoder(tokenizer)
    shown, at = [], 0
    while at < len(ids):
        step = data.draw(st.integers(1, 3))
        shown.append(decoder.feed(ids[at : at + step]))
        at += step
    shown.append(decoder.finish())
    assert "".join(shown) == text
    assert REPLACEMENT not in "".join(shown).replace(REPLACEMENT, "", text.count(REPLACEMENT))
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_stream_waits_for_whole_characters(known: BuildKnown) -> None:
    tokenizer = known("gpt2")
    ids = tokenizer.encode("👍")
    assert len(ids) > 1
    decoder = StreamDecoder(tokenizer)
    assert [decoder.feed([id]) for id in ids] == [""] * (len(ids) - 1) + ["👍"]
    assert decoder.feed(ids[:1]) == ""
    assert decoder.finish() == REPLACEMENT


def test_stream_hides_special_tokens_or_shows_them(known: BuildKnown) -> None:
    tokenizer = known("gpt2")
    ids = [*tokenizer.encode("a"), tokenizer.end_of_text]
    assert StreamDecoder(tokenizer).feed(ids) == "a"
    assert StreamDecoder(tokenizer, skip_special=False).feed(ids) == "a<|endoftext|>"


def test_bytes_that_are_no_utf8_become_replacement_characters(known: BuildKnown) -> None:
    tokenizer = known("gpt2")
    byte_id = next(id for id in range(256) if tokenizer.token_bytes(id) == b"\x80")
    assert tokenizer.decode([byte_id, *tokenizer.encode("a")]) == f"{REPLACEMENT}a"


def test_lone_surrogates_are_refused(known: BuildKnown) -> None:
    with pytest.raises(HornbookError, match="UTF-8 cannot write"):
        known("gpt2").encode("a\ud800b")


@pytest.mark.parametrize("kind", ["phi2", "cl100k_base"])
@settings(max_examples=100, deadline=None)
@given(
    text=st.lists(
        nasty_texts | st.sampled_from(["a b", "x\ny", "字、字", "a, b", "ж ж", "'s a", " \n a"]),
        max_size=12,
    ).map("".join),
    size=st.integers(1, 20),
)
def test_pieces_have_the_ids_of_the_whole(
    kind: str, text: str, size: int, known: BuildKnown
) -> None:
    tokenizer = known(kind)
    cut = list(pieces.cut(text, size))
    assert "".join(cut) == text
    # Texts this short are encoded whole.
    assert [id for piece in cut for id in tokenizer.encode(piece)] == tokenizer.encode(text)


def test_long_text_is_cut(known: BuildKnown) -> None:
    text = "To be, or not to be.\n" * 20_000
    cut = list(pieces.cut(text))
    assert max(map(len, cut)) < pieces.PIECE_CHARACTERS + 100
    tokenizer = known("gpt2")
    assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert list(pieces.cut("x" * 200_000)) == ["x" * 200_000]


def test_only_known_patterns_are_cut(known: BuildKnown) -> None:
    content = json.loads(known("gpt2").content)
    assert pieces.can_be_cut(content)
    assert not pieces.can_be_cut(content | {"normalizer": {"type": "NFC"}})
    reaching = {"content": "New York", "special": False}
    assert not pieces.can_be_cut(content | {"added_tokens": [reaching]})
    prefixed = content["pre_tokenizer"] | {"add_prefix_space": True}
    assert not pieces.can_be_cut(content | {"pre_tokenizer": prefixed})


def _sentencepiece(path: Path, *, end: str = "</s>") -> None:
    """A tokenizer built as Llama-2's is: ▁ for spaces, bytes for unknown characters."""
    specials = ["<unk>", "<s>", end]
    bytes_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = ["▁", *"abcdeh lo"]
    vocabulary = {piece: id for id, piece in enumerate([*specials, *bytes_pieces, *letters, "▁a"])}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in specials])
    tokenizer.save(str(path))


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30).filter(lambda text: "▁" not in text))
def test_llama2_like_tokenizers(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "llama2.json"
    if not path.exists():
        _sentencepiece(path)
    tokenizer = Tokenizer.load(path)
    assert tokenizer.end_of_text == 2
    assert tokenizer.token_bytes(3 + 0x0A) == b"\n"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    decoder = StreamDecoder(tokenizer)
    streamed = "".join(decoder.feed([id]) for id in ids) + decoder.finish()
    assert streamed == f" {text}" if text else streamed == ""
    assert 2 not in tokenizer.encode(f"a</s>{text}")


def _change(tokenizer: Tokenizer, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads(tokenizer.path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_end_of_text_that_is_not_marked_special_stays_text_all_the_same(
    known: BuildKnown, tmp_path: Path
) -> None:
    def forget(content: dict[str, Any]) -> None:
        for token in content["added_tokens"]:
            token["special"] = False

    tokenizer = Tokenizer.load(_change(known("gpt2"), tmp_path / "tokenizer.json", forget))
    assert tokenizer.special_ids == {"<|endoftext|>": 50256}
    assert 50256 not in tokenizer.encode("a<|endoftext|>")
    assert tokenizer.decode([50256], skip_special=True) == ""


def test_end_of_text_from_the_file_beside(known: BuildKnown, tmp_path: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["added_tokens"] = [
            token | {"content": "<|fin|>"}
            for token in content["added_tokens"]
            if token["id"] == 50256
        ]
        content["model"]["vocab"]["<|fin|>"] = content["model"]["vocab"].pop("<|endoftext|>")

    path = _change(known("gpt2"), tmp_path / "tokenizer.json", rename)
    with pytest.raises(HornbookError, match=r"tokenizer\.json: names no end-of-text token"):
        Tokenizer.load(tmp_path)
    for declared in ("<|fin|>", {"content": "<|fin|>"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": declared}))
        assert Tokenizer.load(path).end_of_text == 50256


def test_wrong_files_are_named(known: BuildKnown, tmp_path: Path) -> None:
    with pytest.raises(HornbookError, match=r"there is no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    path = tmp_path / "tokenizer.json"
    for content, message in [
        (b"\xff\xfe", "not readable as JSON"),
        (b"{ not json", "not readable as JSON"),
        (b'{"vocab": {}}', "is not a tokenizer.json of the Hugging Face kind"),
        (b'{"model": {}, "added_tokens": [{"id": 1}]}', "without id, content or special"),
        (b'{"model": {}, "added_tokens": []}', "names no end-of-text token"),
    ]:
        path.write_bytes(content)
        with pytest.raises(HornbookError, match=message):
            Tokenizer.load(path)

    def damage(content: dict[str, Any]) -> None:
        content["model"]["merges"].append(["nowhere", "tobefound"])

    with pytest.raises(HornbookError, match="that `tokenizers` can load"):
        Tokenizer.load(_change(known("gpt2"), path, damage))

    def misnumber(content: dict[str, Any]) -> None:
        content["added_tokens"].append(content["added_tokens"][0] | {"id": 60000, "content": "<x>"})

    with pytest.raises(HornbookError, match="says that '<x>' has id 60000"):
        Tokenizer.load(_change(known("gpt2"), path, misnumber))


def test_tokenizers_that_lose_text_are_refused(tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "</s>": 2}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["</s>"])
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(HornbookError, match="text would not come back"):
        Tokenizer.load(tmp_path)


def test_a_special_token_that_text_can_reach_is_refused(tmp_path: Path) -> None:
    alphabet = byte_characters()
    merged = ["</", "</s", "</s>"]
    vocabulary = {piece: id for id, piece in enumerate([*alphabet, *merged])}
    merges = [("<", "/"), ("</", "s"), ("</s", ">")]
    reachable = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    reachable.decoder = decoders.ByteLevel()
    reachable.add_special_tokens(["</s>"])
    reachable.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(HornbookError, match="turns the plain text '</s>' into the special token"):
        Tokenizer.load(tmp_path)


def test_nasty_texts_come_back_together(known: BuildKnown) -> None:
    tokenizer = known("phi2")
    ids = [[*tokenizer.encode(text), tokenizer.end_of_text] for text in NASTY]
    whole = [id for document in ids for id in document]
    assert tokenizer.decode(whole, skip_special=True) == "".join(NASTY)
    assert tokenizer.decode(whole) == "".join(f"{text}<|endoftext|>" for text in NASTY)
