"""Recipes: what is refused, with which hint; overrides; the round trip through YAML."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hornbook.errors import HornbookError
from hornbook.recipe import (
    SECTIONS,
    Recipe,
    built_in_recipes,
    fingerprint_settings,
    load_recipe,
    write_recipe,
)


def recipe_file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pretrian: {}", "unknown key 'pretrian'. Did you mean 'pretrain'?"),
        ("pretrain: {stepz: 5}", "unknown key 'stepz'. Did you mean 'steps'?"),
        ("data: {sources: [{path: a, weigth: 2}]}", "unknown key 'weigth'. Did you mean 'weight'?"),
        ("pretrain: {steps: many}", "pretrain.steps: expected int, got many"),
        ("data: {mode: pack}", "data.mode: expected one of ['windows', 'chunks', 'packed']"),
        ("model: {width: wide}", "model.width: expected int"),
        ("prepare: {inputs: text}", "prepare.inputs: expected list, got text"),
        ("pretrain: 5", "expected settings, got 5"),
        ("- a list", "a recipe is a mapping of sections"),
        ("pretrain: [", "is not readable as YAML"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(HornbookError) as caught:
        load_recipe(recipe_file(tmp_path, text))
    assert problem in str(caught.value)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(HornbookError, match="Did you mean 'quickstart'"):
        load_recipe("quickstrat")


def test_overrides_win_and_lists_are_replaced(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, "prepare: {inputs: [a, b]}\npretrain: {steps: 5, tokens: 7}")
    recipe = load_recipe(path, {"prepare": {"inputs": ["c"]}, "pretrain": {"steps": 9}})
    assert recipe.name == "mine"
    assert recipe.prepare.inputs == ["c"]
    assert (recipe.pretrain.steps, recipe.pretrain.tokens) == (9, 7)


def test_a_section_with_nothing_in_it_is_one_left_out(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, "pretrain:\n  # steps: 5\ntokenize: {vocabulary: 512}")
    recipe = load_recipe(path, {"pretrain": {"tokens": 7}})
    assert (recipe.pretrain.tokens, recipe.tokenize.vocabulary) == (7, 512)
    assert load_recipe(path).pretrain == Recipe().pretrain


@pytest.mark.parametrize("name", sorted(built_in_recipes()))
def test_built_in_recipes_load_and_come_back_from_yaml(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(str(tmp_path)) == recipe


def test_horizon_settings_are_not_in_the_fingerprint() -> None:
    settings = fingerprint_settings(Recipe().pretrain)
    assert "global_batch_tokens" in settings
    assert not {"steps", "tokens", "minutes", "evaluate_every", "log_every"} & set(settings)


@pytest.mark.parametrize("kind", SECTIONS.values(), ids=SECTIONS)
def test_every_setting_is_documented(kind: type) -> None:
    from docstring_parser import parse_from_object

    documented = {p.arg_name for p in parse_from_object(kind).params if p.description}
    assert {field.name for field in dataclasses.fields(kind)} <= documented


def test_on_and_off_are_words(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("prepare:\n  near: {on: true}\n  normalise: false\npretrain: {compile: off}\n")
    recipe = load_recipe(str(path))
    assert recipe.prepare.near.on is True and recipe.prepare.normalise is False
    assert recipe.pretrain.compile == "off"
    write_recipe(recipe, path)
    assert load_recipe(str(path)) == recipe
