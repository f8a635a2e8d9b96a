"""A tokenizer.json: text to ids and back.

In: a tokenizer.json (ours, or any from the Hugging Face world). Out: `Tokenizer`, whose `encode`
never turns text into a special token and whose `decode` gives back the very text, and
`StreamDecoder`, which turns ids into text as they are generated.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from hornbook.errors import HornbookError
from hornbook.files import read_json
from hornbook.tokenizer import alphabet, pieces
from hornbook.tokenizer.special import find_end_of_text

FILE_NAME = "tokenizer.json"

DECLARATIONS = "tokenizer_config.json"
"""The file beside tokenizer.json in which transformers keeps the names of special tokens."""

_UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()


class Tokenizer:
    """A tokenizer.json with exact, specials-free encoding of text.

    Attributes:
        path: the tokenizer.json it was loaded from.
        content: that file's text as the libraries load it (the end of text marked as special).
        size: ids are `0 <= id < size` (there may be gaps that no token uses, as in cl100k_base).
        end_of_text: the id appended to each document.
        special_ids: id of each special token, by name; `encode` never gives one of these.
        sha256: of tokenizer.json's bytes.
        byte_level: whether tokens are spelt byte by byte (else SentencePiece's way).
    """

    def __init__(self, path: Path):
        """Load `path`, a tokenizer.json. Raises `HornbookError` where it cannot be used."""
        self.path = path
        data = _read(path)
        self.sha256 = hashlib.sha256(data).hexdigest()
        parsed = _parse(data, path)
        added = parsed["added_tokens"]
        end = find_end_of_text({token["content"] for token in added}, _declared_end(path.parent))
        if end is None:
            raise HornbookError(
                "names no end-of-text token, which must follow each document",
                where=path,
                hint="Add one such as <|endoftext|> to its added_tokens with special: true",
            )
        for token in added:
            # The end of text is special even in a file that forgot to say so.
            token["special"] = token["special"] or token["content"] == end
        self.content = json.dumps(parsed, ensure_ascii=False)
        self._backend = _backend(self.content, path)
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values()) + 1
        for token in added:
            found = vocabulary[token["content"]]
            if found != token["id"]:
                raise HornbookError(
                    f"says that {token['content']!r} has id {token['id']}, but `tokenizers` "
                    f"gives it {found}",
                    where=path,
                    hint="Put this token into the model's vocab under its id",
                )
        self.special_ids = {token["content"]: token["id"] for token in added if token["special"]}
        self.end_of_text = self.special_ids[end]
        decoders = _component_types(parsed.get("decoder"))
        self.byte_level = "ByteLevel" in decoders
        if not self.byte_level and not {"ByteFallback", "Metaspace"} & decoders:
            raise HornbookError(
                "its tokens are neither byte-level nor SentencePiece's: text would not come back",
                where=path,
                hint="Take a byte-level BPE tokenizer (GPT-2, Llama-3, Qwen ...)",
            )
        self._can_be_cut = pieces.can_be_cut(parsed)
        self._refuse_reachable_specials(parsed["model"].get("unk_token"))

    @staticmethod
    def load(path: Path) -> Tokenizer:
        """Load a tokenizer.json, or the one in a folder."""
        return Tokenizer(path / FILE_NAME if path.is_dir() else path)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; special tokens spelt out in it stay ordinary text, none is added.

        Raises:
            HornbookError: `text` has lone surrogates, so it is no text (bytes that were not UTF-8).
        """
        return [id for piece in self._pieces(text) for id in self._encode_piece(piece)]

    def encode_array(self, text: str) -> np.ndarray:
        """The same ids as int32 `[tokens]`, for texts of any length in little memory."""
        return np.concatenate(
            [np.array(self._encode_piece(piece), np.int32) for piece in self._pieces(text)]
        )

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of `ids`. Bytes that are not UTF-8 and ids of no token become U+FFFD.

        Args:
            ids: token ids.
            skip_special: leave special tokens out, instead of spelling out their names.
        """
        if self.byte_level:
            hidden = self._special_set if skip_special else frozenset[int]()
            parts = (self.token_bytes(id) for id in ids if id not in hidden)
            return b"".join(parts).decode("utf-8", errors="replace")
        return self._backend.decode(list(ids), skip_special_tokens=skip_special)

    def token_bytes(self, id: int) -> bytes:
        """The raw bytes of one token (U+FFFD's where no token has this id).

        A special token gives its name. In SentencePiece vocabularies a word's mark gives a space.
        """
        return self._token_bytes.get(id, _UNKNOWN)

    @functools.cached_property
    def _special_set(self) -> frozenset[int]:
        return frozenset(self.special_ids.values())

    @functools.cached_property
    def _token_bytes(self) -> dict[int, bytes]:
        added = self._backend.get_added_tokens_decoder()
        table = {
            id: self._spelt_bytes(piece)
            for piece, id in self._backend.get_vocab(with_added_tokens=False).items()
        }
        return table | {id: token.content.encode("utf-8") for id, token in added.items()}

    def _pieces(self, text: str) -> Iterable[str]:
        return pieces.cut(text) if self._can_be_cut else [text]

    def _encode_piece(self, text: str) -> list[int]:
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except TypeError:
            raise HornbookError(
                f"the text {text[:40]!r} ... has characters that UTF-8 cannot write",
                hint="Read it with its right encoding, or with errors='replace'",
            ) from None

    def _spelt_bytes(self, piece: str) -> bytes:
        if self.byte_level:
            return alphabet.byte_level_bytes(piece)
        return alphabet.sentencepiece_bytes(piece)

    def _refuse_reachable_specials(self, unknown: str | None) -> None:
        """Refuse a tokenizer whose model, not its added tokens, makes a special id out of text."""
        for name, id in self.special_ids.items():
            if name != unknown and id in self.encode(name):
                raise HornbookError(
                    f"turns the plain text {name!r} into the special token of that name",
                    where=self.path,
                    hint="Take a byte-level BPE tokenizer instead",
                )


class StreamDecoder:
    """Turns ids into text as they come, giving a character out only when its bytes are complete.

    Where `decode` would drop the leading space of a SentencePiece text it is kept here, because
    what is streamed goes on after a prompt.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True):
        self._tokenizer = tokenizer
        self._hidden = frozenset(tokenizer.special_ids.values() if skip_special else ())
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The text that became complete with these ids; may be empty."""
        parts = (self._tokenizer.token_bytes(id) for id in ids if id not in self._hidden)
        return self._decoder.decode(b"".join(parts))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that never became complete."""
        return self._decoder.decode(b"", final=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise HornbookError(
            "there is no tokenizer.json",
            where=path,
            hint="Give a tokenizer.json, or a folder that has one",
        ) from None


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object; `added_tokens` is always there in what comes back."""
    try:
        parsed = json.loads(data)
    except ValueError as error:
        raise HornbookError(f"is not readable as JSON ({error})", where=path) from error
    if not isinstance(parsed, dict) or "model" not in parsed:
        raise HornbookError(
            'is not a tokenizer.json of the Hugging Face kind (it has no "model")',
            where=path,
            hint="AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER) writes one",
        )
    added = parsed.get("added_tokens") or []
    if not all({"id", "content", "special"} <= set(token) for token in added):
        raise HornbookError("has added_tokens without id, content or special", where=path)
    return parsed | {"added_tokens": added}


def _backend(content: str, path: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception for any malformed file
        raise HornbookError(
            f"is not a tokenizer.json that `tokenizers` can load ({error})", where=path
        ) from error
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return backend


def _declared_end(folder: Path) -> str | None:
    """`eos_token` of the tokenizer_config.json beside a tokenizer.json, where there is one."""
    path = folder / DECLARATIONS
    if not path.is_file():
        return None
    declared = read_json(path).get("eos_token")
    if isinstance(declared, dict):
        declared = declared.get("content")
    return declared if isinstance(declared, str) else None


def _component_types(component: Any) -> set[str]:
    """The `type`s in a tokenizer.json component, a `Sequence`'s parts included."""
    if not isinstance(component, dict):
        return set()
    parts = component.get("decoders", [])
    return {component["type"]}.union(*(_component_types(part) for part in parts))
