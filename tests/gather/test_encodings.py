"""Encodings: detected where nothing says them; what does not fit is counted."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import HornbookError
from hornbook.gather import encodings
from hornbook.gather.encodings import decode, detect
from hornbook.gather.readers import Reading, read_with_cursor

SAMPLES = {
    "cp1252": "Der Käse ist gut, sagte Jürgen – “wirklich”. Über die Brücke gehen wir später.",
    "cp1250": "Zażółć gęślą jaźń, to jest zwykłe zdanie po polsku, które ma kilka słów.",
    "cp1251": "Привет, мир. Это обычный русский текст, в котором есть несколько слов.",
    "koi8_r": "Привет, мир. Это обычный русский текст, в котором есть несколько слов.",
    "cp1253": "Αυτό είναι ένα ελληνικό κείμενο για δοκιμή, με μερικές λέξεις.",
    "cp1256": "هذه جملة باللغة العربية للاختبار",
    "cp932": "これは日本語の文章です。文字コードを判定します。",
    "euc_jp": "これは日本語の文章です。文字コードを判定します。",
    "gb18030": "这是一个中文句子,用来测试编码的识别。",
    "big5": "這是一個中文句子,用來測試編碼的識別。我們今天去學校,明天在家裡看書。",
    "euc_kr": "이것은 한국어 문장입니다. 인코딩을 확인합니다.",
    "utf-8": "Käse, мир, 日本語",
}


def decoded(data: bytes, encoding: str = "auto", *, count: bool = True) -> tuple[str, list[int]]:
    told: list[int] = []

    def undecodable(where: str, number: int, first: int) -> None:
        told.extend([number, first])

    stream = io.BufferedReader(io.BytesIO(data), encodings.BLOCK)  # type: ignore[type-var]
    blocks = decode(stream, encoding, "a.txt", undecodable=undecodable if count else None)
    return "".join(blocks), told


@pytest.mark.parametrize("encoding", SAMPLES)
@pytest.mark.parametrize("times", [1, 50])
def test_detected(encoding: str, times: int) -> None:
    text = f"{SAMPLES[encoding]}\n" * times
    assert decoded(text.encode(encoding)) == (text, [])


@pytest.mark.parametrize("times", [1, 50])
def test_western_and_central_european_are_told_apart(times: int) -> None:
    french = "un été à la plage, où l’on mange très bien; le garçon était déjà là.\n" * times
    english = "A café in São Paulo, said Señor Muñoz: “plain words otherwise”.\n" * times
    czech = "Příliš žluťoučký kůň úpěl ďábelské ódy, řekl děda a šel do města.\n" * times
    for encoding, text in [("cp1252", french), ("cp1252", english), ("cp1250", czech)]:
        assert decoded(text.encode(encoding)) == (text, [])


def test_detected_where_the_first_other_byte_is() -> None:
    text = "Plain words.\n" * 200_000 + SAMPLES["cp1252"] + "\nPlain words." * 200_000
    assert decoded(text.encode("cp1252")) == (text, [])
    assert decoded(b"only ASCII") == ("only ASCII", []) and decoded(b"") == ("", [])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_decides(encoding: str) -> None:
    assert decoded("Grüße".encode(encoding)) == ("Grüße", [])


def test_mixed_encodings_stay_utf8_and_are_counted() -> None:
    good, bad = "Käse und Brötchen.\n".encode(), "ein Stück Käse\n".encode("cp1252")
    data = good * 10 + bad + good * 10
    text, told = decoded(data)
    assert text.count("Käse und Brötchen.") == 20 and "ein St\ufffdck K\ufffdse" in text
    assert told == [2, data.index(b"\xfc")]


def test_what_was_replaced_before_is_not_counted() -> None:
    assert decoded("a \ufffd b ü".encode()) == ("a \ufffd b ü", [])


def test_the_first_broken_byte_is_found_across_blocks() -> None:
    before = "é".encode() * (encodings.BLOCK // 2) + b"abc"
    for cut in (b"\xff", b"\xe2\x82"):
        text, told = decoded(before + cut + b" and " + cut + b"!")
        assert told == [2 * len(cut), len(before)] and text.count("\ufffd") == 2 * len(cut)


def test_a_named_encoding_is_kept() -> None:
    assert decoded("Käse".encode("latin-1"), "latin-1") == ("Käse", [])
    assert decoded("Käse".encode("latin-1"), "ascii") == ("K\ufffdse", [1, 1])
    assert decoded("мир".encode("utf-16-le") + b"\0\xd8", "utf-16-le")[1] == [1, 6]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["auto", "utf-8", "cp932", "utf-16-le", "ascii"]))
def test_any_bytes_become_text(data: bytes, encoding: str) -> None:
    text, told = decoded(data, encoding)
    text.encode()
    assert bool(told) <= ("\ufffd" in text)
    if encoding == "auto" and not data.isascii():
        detect(data)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=200))
def test_utf8_is_never_taken_for_something_else(text: str) -> None:
    assert decoded(text.encode()) == (text, [])


def test_random_cuts_of_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ("日本語 and words, " * 300).encode() + b"\xff\xfe tail \xe2"
    whole = decoded(data)
    for seed in range(20):
        monkeypatch.setattr(encodings, "BLOCK", random.Random(seed).randrange(64, 2000))
        assert decoded(data) == whole


def test_files_are_counted_named_and_refused(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_bytes("Käse und Käse ".encode() * 5 + b"\xff" * number)
    counted: list[tuple[str, int]] = []
    warnings: list[str] = []
    reading = Reading(warn=warnings.append, count=lambda what, n: counted.append((what, n)))
    assert len(list(read_with_cursor([tmp_path], reading))) == 5
    assert counted == [("undecodable bytes", number) for number in range(1, 5)]
    assert "1.txt: bytes that do not fit its encoding: 1, the first at offset 80" in warnings[0]
    assert len(warnings) == 4 and "1 more like this: undecodable bytes" in warnings[3]
    with pytest.raises(HornbookError, match=r"1\.txt: is not UTF-8 text: byte 0xff at offset 80"):
        list(read_with_cursor([tmp_path], Reading(refuse_undecodable=True)))
