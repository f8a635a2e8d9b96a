"""Project Gutenberg's wrapping comes off, and a collection comes apart."""

from __future__ import annotations

import pytest

from hornbook.gather.gutenberg import split_works, strip_boilerplate


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_boilerplate_comes_off(newline: str, book: str, body: str) -> None:
    assert strip_boilerplate(book.replace("\n", newline)) == body


def test_older_markers(book: str, body: str) -> None:
    old = book.replace("OF THE PROJECT", "OF THIS PROJECT")
    assert strip_boilerplate(old) == body


def test_half_a_book_is_refused(book: str) -> None:
    with pytest.raises(ValueError, match="no Project Gutenberg start and end markers"):
        strip_boilerplate(book[: len(book) // 2])
    with pytest.raises(ValueError, match="markers"):
        strip_boilerplate("<html>Too many requests</html>")


def test_works(body: str) -> None:
    works = dict(split_works(body))
    assert list(works) == ["THE SONNETS", "ALL’S WELL THAT ENDS WELL", "AS YOU LIKE IT"]
    assert works["THE SONNETS"].startswith("THE SONNETS\n\n                    1\n")
    assert works["THE SONNETS"].endswith("THE END\n")
    assert works["AS YOU LIKE IT"].endswith("was bequeathed me.\n")
    behind_contents = body[body.index("THE SONNETS\n\n") :]
    assert "".join("".join(works.values()).split()) == "".join(behind_contents.split())


def test_no_table_of_contents() -> None:
    assert split_works("Just a text.\n") == [("", "Just a text.\n")]
