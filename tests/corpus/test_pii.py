"""Personal data is replaced: what is found, that doing it twice changes nothing, and the time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.corpus.batch import Batch
from hornbook.corpus.pii import EMAILS, IPS, PiiStep
from hornbook.documents import Document

STEP = PiiStep(emails=True, ips=True)


def replaced(text: str, step: PiiStep = STEP) -> str:
    return step(Batch([Document(text)])).documents[0].text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe@mail.example.de.", f"Write to {EMAILS[0]}."),
        ("<a@b.co>, 'o-neil+x@c.org'", f"<{EMAILS[0]}>, '{EMAILS[1]}'"),
        ("mailto:a_b@c-d.net?", f"mailto:{EMAILS[0]}?"),
        ("éric@exemple.fr", f"é{EMAILS[0]}"),
        ("not@address, @handle a@b. x@.com", "not@address, @handle a@b. x@.com"),
        ("from 8.8.8.8.", f"from {IPS[0]}."),
        ("(1.1.1.1) 8.8.4.4:80", f"({IPS[0]}) {IPS[1]}:80"),
        (
            "10.0.0.1 192.168.0.1 127.0.0.1 169.254.1.1",
            "10.0.0.1 192.168.0.1 127.0.0.1 169.254.1.1",
        ),
        ("256.1.1.1 1.2.3 1.2.3.4.5 08.8.8.8", "256.1.1.1 1.2.3 1.2.3.4.5 08.8.8.8"),
        ("ab@[8.8.8.8]", f"ab@[{IPS[0]}]"),
    ],
)
def test_what_is_replaced(text: str, expected: str) -> None:
    assert replaced(text) == expected


def test_each_kind_can_be_left_out_and_is_counted() -> None:
    text = "a@b.com c@d.com 8.8.8.8 10.0.0.1"
    assert replaced(text, PiiStep(True, False)) == f"{EMAILS[0]} {EMAILS[1]} 8.8.8.8 10.0.0.1"
    assert replaced(text, PiiStep(False, True)) == f"a@b.com c@d.com {IPS[0]} 10.0.0.1"
    outcome = STEP(Batch([Document(text)]))
    assert outcome.counts == {"pii.emails": 2, "pii.ips": 1}
    assert outcome.dropped == [None]


PIECES = st.sampled_from(
    [*"@@@.-_'/ é[]0\n", "a", "bob", "x.y", ".com", "8.8.8.8", "10.0.0.1", "25", *EMAILS, *IPS]
)


@settings(max_examples=1000, deadline=None)
@given(st.lists(PIECES, max_size=30))
def test_twice_is_once(pieces: list[str]) -> None:
    once = replaced("".join(pieces))
    assert replaced(once) == once


@pytest.mark.parametrize(
    "text",
    ["a", "a-", "a@", "a.", "a@a.", "1.", "1.1.1.1.", "'", "'a", "@", "1.1.1.1@"],
)
def test_long_runs_take_no_quadratic_time(text: str) -> None:
    # Quadratic would be above 10^10 steps: pytest's own limit of time ends that.
    replaced(text * 10**5)
    replaced("x@" + text * 10**5 + "@" + text * 10**5)
