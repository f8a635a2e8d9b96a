"""The scaling laws: their published constants, and the runs they are held against."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.plan.loss import KNOWN, OFF, expected_loss, hoffmann, kaplan, worth


def test_the_refit_gives_chinchilla_its_loss() -> None:
    # Besiroglu et al. 2024: at 70B parameters and 1.4T tokens.
    assert hoffmann(70e9, 1.4e12) == pytest.approx(1.97, abs=0.02)


def test_the_other_law_gives_its_own_example() -> None:
    # Kaplan et al. 2020, figure 9: 22M tokens keep a large model from falling below about 4.
    assert kaplan(1e9, 22e6) == pytest.approx(4.0, abs=0.15)


def test_the_stated_uncertainty_covers_the_known_runs() -> None:
    errors = [
        math.log(
            expected_loss(
                run.parameters, run.blocks, run.tokens, run.unique, run.bytes_per_token
            ).nats
            / run.nats
        )
        for run in KNOWN
    ]
    assert math.sqrt(sum(error**2 for error in errors) / len(errors)) <= OFF
    assert max(abs(error) for error in errors) <= 2 * OFF


def test_four_epochs_are_nearly_new_text_and_forty_are_not() -> None:
    assert worth(4e9, 1e9) > 0.9 * 4e9  # arXiv:2305.16264: "negligible" up to 4
    assert worth(40e9, 1e9) < 0.45 * 40e9
    assert worth(1e9, 1e9) == 1e9


@pytest.mark.parametrize("text", [4e6, 4e8, 4e10])
def test_a_byte_costs_the_same_whatever_the_tokenizer(text: float) -> None:
    """Of the same text: fewer bytes a token are more tokens, each easier."""
    small, large = (
        expected_loss(124e6, 85e6, text / size, text / size, size) for size in (3.4, 4.5)
    )
    assert small.bits_per_byte == pytest.approx(large.bits_per_byte, rel=1e-6)
    assert small.nats < large.nats


def test_below_its_range_a_law_says_so_and_is_surer_of_less() -> None:
    inside = expected_loss(1e6, 0.8e6, 40e6, 40e6, 4.2)
    few, small = expected_loss(1e6, 0.8e6, 1e6, 1e6, 4.2), expected_loss(4e5, 2e5, 4e7, 4e7, 4.2)
    assert not inside.outside
    for loss in (few, small):
        assert "393k parameters" in loss.outside
        assert loss.high / loss.nats > inside.high / inside.nats


@given(st.floats(1e6, 1e10), st.floats(1e6, 1e12), st.floats(1e6, 1e12), st.floats(1.01, 100.0))
def test_more_of_anything_is_never_worse(
    parameters: float, tokens: float, unique: float, factor: float
) -> None:
    assert hoffmann(parameters * factor, tokens) < hoffmann(parameters, tokens)
    assert kaplan(parameters, unique * factor) < kaplan(parameters, unique)
    assert worth(max(tokens, unique) * factor, unique) >= worth(max(tokens, unique), unique)
    loss = expected_loss(parameters, parameters / 2, tokens, unique, 4.0)
    assert loss.low <= loss.nats <= loss.high
    assert loss.epochs >= 1


@given(st.floats(1e5, 1e10), st.floats(1.0, 1e12), st.floats(1.0, 15.0))
def test_no_model_is_expected_to_be_worse_than_guessing(
    parameters: float, tokens: float, guessing: float
) -> None:
    loss = expected_loss(parameters, parameters / 2, tokens, tokens, 4.0).at_most(guessing)
    assert loss.low <= loss.nats <= loss.high <= guessing
