"""Laws against numbers worked out by hand, and their use as differences."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hornbook.evaluate.laws import LAWS, Place, loss_after, loss_of, size_for, tokens_for
from hornbook.plan.loss import hoffmann

PLACE = Place(
    parameters=124e6, blocks=85e6, tokens=2e9, loss=3.6, token_bytes=4.5, vocabulary=50257
)


def test_the_constants_are_the_published_ones() -> None:
    chinchilla, kumar, muennighoff = LAWS
    assert chinchilla.loss(70e9, 1.4e12) == pytest.approx(hoffmann(70e9, 1.4e12))
    # 1.87 + 521 / N^0.353 + 1488 / D^0.353 (arXiv:2305.16264, equation 20)
    assert muennighoff.loss(1e9, 1e10) == pytest.approx(
        1.87 + 521 / 1e9**0.353 + 1488 / 1e10**0.353, abs=0.01
    )
    # 2.7648 + 4299 / 31623^(0.4965 x 2) + 18060 / 10^(9.5 x 0.4965)
    assert kumar.loss(1e8, 10**9.5) == pytest.approx(2.7648 + 0.4586 + 0.3464, abs=0.002)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.source)
def test_only_differences_count(law: object) -> None:
    from hornbook.evaluate.laws import Law

    assert isinstance(law, Law)
    assert tokens_for(law, PLACE, PLACE.loss) == pytest.approx(PLACE.tokens)
    target = loss_of(law, PLACE, PLACE.blocks if law.blocks else PLACE.parameters, 6e9 * 4.5
                     / law.token_bytes)  # fmt: skip
    assert tokens_for(law, PLACE, target) == pytest.approx(6e9)
    # A floor that lies elsewhere, with the text, changes nothing.
    assert tokens_for(replace(law, floor=9.0), PLACE, target) == pytest.approx(6e9)
    assert loss_after(law, PLACE, 6e9) == pytest.approx(target)
    assert math.isinf(tokens_for(law, PLACE, 1.0))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.source)
def test_the_size_for_a_target_below_the_floor(law: object) -> None:
    from hornbook.evaluate.laws import Law

    assert isinstance(law, Law)
    near, far = (size_for(law, PLACE, 3.3, target) for target in (3.25, 3.2))
    assert PLACE.blocks < near < far < 1e12
    assert math.isinf(size_for(law, PLACE, 3.3, 0.5))


def test_a_run_before_the_laws_begin_is_not_what_they_are_calibrated_on() -> None:
    early = replace(PLACE, tokens=1e7, loss=6.0)
    law = LAWS[0]
    expected = 4.5 / law.token_bytes * law.loss(2.78e9, 1.4e12)
    assert loss_of(law, early, 2.78e9, 1.4e12) == pytest.approx(expected)
    at_5e9 = 4.5 / law.token_bytes * law.loss(early.parameters, 5e9 * 4.5 / law.token_bytes)
    assert tokens_for(law, early, at_5e9) == pytest.approx(5e9)
