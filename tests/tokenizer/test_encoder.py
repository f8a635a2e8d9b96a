"""Encoders give the ids of `Tokenizer.encode`, and none is used unchecked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import HornbookError
from hornbook.tokenizer import encoder as encoder_module
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.encoder import (
    GigatokenEncoder,
    TokenizersEncoder,
    check_encoder,
    choose_encoder,
    nasty_texts,
)
from hornbook.tokenizer.tokenizer import Tokenizer

from .conftest import NASTY, BuildKnown
from .conftest import nasty_texts as nasty_strategy

TEXTS = [*NASTY, "Some ordinary words, and more of them. " * 300]


def _same(found: Sequence[np.ndarray], tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    assert [ids.tolist() for ids in found] == [tokenizer.encode(text) for text in texts]
    assert all(ids.dtype == np.int32 for ids in found)


@pytest.mark.parametrize("kind", ["phi2", "cl100k_base"])
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(nasty_strategy, max_size=4))
def test_gigatoken_equals_tokenizers(kind: str, texts: list[str], known: BuildKnown) -> None:
    pytest.importorskip("gigatoken")
    tokenizer = known(kind)
    _same(_gigatoken(tokenizer).encode_batch(texts), tokenizer, texts)


_gigatoken_of: dict[str, GigatokenEncoder] = {}


def _gigatoken(tokenizer: Tokenizer) -> GigatokenEncoder:
    if tokenizer.sha256 not in _gigatoken_of:
        _gigatoken_of[tokenizer.sha256] = GigatokenEncoder(tokenizer)
    return _gigatoken_of[tokenizer.sha256]


def test_one_process(known: BuildKnown) -> None:
    tokenizer = known("gpt2")
    with TokenizersEncoder(tokenizer) as encoder:
        _same(encoder.encode_batch(TEXTS), tokenizer, TEXTS)
        assert encoder.encode_batch([]) == []


def test_several_processes(known: BuildKnown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "_PART_CHARACTERS", 2000)
    tokenizer = known("phi2")
    with TokenizersEncoder(tokenizer, workers=2) as encoder:
        for _ in range(2):
            _same(encoder.encode_batch(TEXTS), tokenizer, TEXTS)
        assert encoder._pool is not None
    assert encoder._pool is None


def test_a_worker_that_dies_is_told(
    known: BuildKnown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(encoder_module, "_PART_CHARACTERS", 2000)
    copy = tmp_path / "tokenizer.json"
    copy.write_bytes(known("gpt2").path.read_bytes())
    tokenizer = Tokenizer.load(copy)
    copy.unlink()  # what a worker cannot load, it dies of
    with (
        TokenizersEncoder(tokenizer, workers=2) as encoder,
        pytest.raises(HornbookError, match=r"tokenize\.workers: a process that encodes text died"),
    ):
        encoder.encode_batch(TEXTS)


_PARENT = """
import sys, time
from pathlib import Path
from hornbook.tokenizer import encoder
from hornbook.tokenizer.tokenizer import Tokenizer

if __name__ == "__main__":
    encoder._PART_CHARACTERS = 10
    texts = ["some words to encode"] * 4
    with encoder.TokenizersEncoder(Tokenizer.load(Path(sys.argv[1])), workers=2) as several:
        several.encode_batch(texts)
        print(*several._pool._processes, flush=True)
        time.sleep(60)
"""


def test_workers_do_not_outlive_a_killed_parent(known: BuildKnown, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    command = [sys.executable, str(script), str(known("gpt2").path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(number) for number in parent.stdout.readline().split()]
        parent.kill()
    assert workers
    deadline = time.monotonic() + 60
    while any(map(_alive, workers)):
        assert time.monotonic() < deadline, "the workers are still there"
        time.sleep(0.1)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    # A process that ended stays listed until whoever adopted it asks how.
    return not (status.exists() and ") Z" in status.read_text())


def test_auto_takes_gigatoken_where_it_is_right(
    known: BuildKnown, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gigatoken")
    tokenizer = known("gpt2")
    with choose_encoder(tokenizer, TokenizeConfig(), TEXTS) as encoder:
        assert (encoder.name, encoder.checked_documents) == ("gigatoken", len(TEXTS))
        _same(encoder.encode_batch(TEXTS), tokenizer, TEXTS)
    assert f"same ids as tokenizers on {len(TEXTS)} documents" in capsys.readouterr().err
    with choose_encoder(tokenizer, TokenizeConfig(encoder="tokenizers"), TEXTS) as encoder:
        assert (encoder.name, encoder.checked_documents) == ("tokenizers", 0)


class Lying(GigatokenEncoder):
    """Gives one wrong id in one of the documents."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = super().encode_batch(texts)
        for ids, text in zip(found, texts, strict=True):
            if "ordinary words" in text:
                ids[len(ids) // 2] += 1
        return found


def test_an_encoder_with_wrong_ids_is_refused(
    known: BuildKnown, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gigatoken")
    tokenizer = known("gpt2")
    monkeypatch.setattr(encoder_module, "GigatokenEncoder", Lying)
    with choose_encoder(tokenizer, TokenizeConfig(workers=1), TEXTS) as encoder:
        assert encoder.name == "tokenizers"
        _same(encoder.encode_batch(TEXTS), tokenizer, TEXTS)
    assert "encoding with tokenizers: gigatoken gives other ids" in capsys.readouterr().err
    with pytest.raises(HornbookError, match="gigatoken gives other ids than tokenizers for"):
        choose_encoder(tokenizer, TokenizeConfig(encoder="gigatoken"), TEXTS)


def test_special_tokens_made_out_of_text_are_noticed(known: BuildKnown) -> None:
    pytest.importorskip("gigatoken")
    tokenizer = known("gpt2")
    encoder = GigatokenEncoder(tokenizer)
    import gigatoken

    encoder._backend = gigatoken.Tokenizer.from_json(tokenizer.content)
    with pytest.raises(HornbookError, match="gives other ids"):
        check_encoder(encoder, tokenizer, ["harmless"])


def test_a_missing_library_is_said(
    known: BuildKnown, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with choose_encoder(known("gpt2"), TokenizeConfig(), TEXTS) as encoder:
        assert encoder.name == "tokenizers"
    assert "encoding with tokenizers: gigatoken is not installed" in capsys.readouterr().err
    with pytest.raises(HornbookError, match=r'not installed\. `pip install "hornbook\[fast\]"`'):
        choose_encoder(known("gpt2"), TokenizeConfig(encoder="gigatoken"), TEXTS)


def test_a_pattern_that_gigatoken_does_not_know(
    known: BuildKnown, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gigatoken")
    content = json.loads(known("gpt2").content)
    split = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,2}|\P{N}+"}, "invert": False}
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            split | {"behavior": "Isolated"},
            content["pre_tokenizer"] | {"use_regex": False},
        ],
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), "utf-8")
    tokenizer = Tokenizer.load(path)
    with choose_encoder(tokenizer, TokenizeConfig(workers=1), TEXTS) as encoder:
        assert encoder.name == "tokenizers"
        _same(encoder.encode_batch(TEXTS), tokenizer, TEXTS)
    assert "gigatoken cannot use this tokenizer" in capsys.readouterr().err


def test_the_nasty_texts_spell_every_special_token(known: BuildKnown) -> None:
    tokenizer = known("cl100k_base")
    text = "".join(nasty_texts(tokenizer))
    assert all(name in text for name in tokenizer.special_ids)
