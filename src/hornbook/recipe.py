"""Recipes: one YAML file that describes a run, as typed dataclasses.

In: a built-in name or a YAML file, and overrides (`pretrain.steps: 200`). Out: a `Recipe`, checked;
unknown keys and wrong types are refused with the nearest right name.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hornbook.corpus.config import PrepareConfig
from hornbook.errors import HornbookError, nearest
from hornbook.evaluate.config import EvaluateConfig, ForecastConfig
from hornbook.feed.config import FeedConfig
from hornbook.files import write_text
from hornbook.gather.config import GatherConfig
from hornbook.model.config import GenerateConfig, ModelSettings
from hornbook.optim.config import OptimizerConfig
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokens.config import DataConfig
from hornbook.train.config import PretrainConfig

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


@dataclass
class Recipe:
    """Everything that a run is made of, one section for each part of the road."""

    name: str = "my-model"
    """Name of the run; its directory is runs/NAME unless --run says otherwise."""

    description: str = ""
    """What this recipe is for, in a sentence."""

    gather: GatherConfig = field(default_factory=GatherConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    tokenize: TokenizeConfig = field(default_factory=TokenizeConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    feed: FeedConfig = field(default_factory=FeedConfig)
    forecast: ForecastConfig = field(default_factory=ForecastConfig)


SECTIONS: dict[str, type[Any]] = {
    "gather": GatherConfig,
    "prepare": PrepareConfig,
    "tokenize": TokenizeConfig,
    "model": ModelSettings,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "pretrain": PretrainConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluateConfig,
    "feed": FeedConfig,
    "forecast": ForecastConfig,
}


def built_in_recipes() -> dict[str, Path]:
    """Names and files of the recipes that come with hornbook, in alphabetical order."""
    folder = Path(str(importlib.resources.files("hornbook") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name_or_path: str) -> Path:
    """The file of a built-in recipe, or of the user's own."""
    built_in = built_in_recipes()
    if name_or_path in built_in:
        return built_in[name_or_path]
    path = Path(name_or_path)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_file():
        return path
    raise HornbookError(
        "no such recipe, neither a file nor a built-in one",
        where=name_or_path,
        hint=nearest(name_or_path, built_in),
    )


class _Loader(yaml.SafeLoader):
    """YAML in which `on`, `off`, `yes` and `no` are words, as in YAML 1.2: settings have them as
    names (`near: {on: true}`) and values (`compile: on`)."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, words) for tag, words in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true$|false$"), list("tf"))


def load_yaml(text: str) -> Any:
    """Plain values out of YAML. Raises `yaml.YAMLError`."""
    return yaml.load(text, _Loader)


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, empty sections left out; keys are checked, values not yet."""
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise HornbookError(f"is not readable as YAML: {problem}", where=path) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise HornbookError("a recipe is a mapping of sections", where=path)
    check_keys(values, Recipe, str(path))
    return {key: value for key, value in values.items() if value is not None}


def check_keys(values: Mapping[str, Any], kind: type[Any], where: str) -> None:
    """Refuse keys that the dataclass `kind` (and those nested in it) does not have."""
    known = {f.name for f in dataclasses.fields(kind)}
    kinds = typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in known:
            raise HornbookError(f"unknown key {key!r}", where=where, hint=nearest(str(key), known))
        place = f"{where}: {key}"
        nested = [kinds[key], *typing.get_args(kinds[key])]
        inner = next((n for n in nested if dataclasses.is_dataclass(n)), None)
        if inner is None or value is None:
            continue
        assert isinstance(inner, type)
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, Mapping):
                raise HornbookError(f"expected settings, got {item!r}", where=place)
            check_keys(item, inner, place)


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `overrides` on top, section by section; lists and values are replaced."""
    merged = dict(base)
    for key, value in overrides.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(before, value)
        else:
            merged[key] = value
    return merged


def recipe_parser(**options: Any) -> ArgumentParser:
    """A jsonargparse parser whose help texts are the dataclasses' docstrings."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(exit_on_error=False, **options)


@functools.cache
def _values_parser() -> ArgumentParser:
    """Checks the values of a whole recipe; making it takes longer (0.2 s) than using it."""
    parser = recipe_parser()
    parser.add_argument("--name", type=str, default=Recipe.name)
    parser.add_argument("--description", type=str, default="")
    for name, kind in SECTIONS.items():
        parser.add_argument(f"--{name}", type=kind, default=kind())
    return parser


def build_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """A `Recipe` from a mapping whose keys were checked; wrong types are refused.

    Args:
        values: sections and settings; what is missing takes its default.
        where: the file or command that the values come from, for error messages.
    """
    parser = _values_parser()
    try:
        parsed = parser.instantiate(parser.parse_object(dict(values)))
    except Exception as error:
        if type(error).__module__ in ("argparse", "jsonargparse") or isinstance(
            error, (TypeError, ValueError, KeyError)
        ):
            raise HornbookError(type_problem(str(error)), where=where) from error
        raise
    return Recipe(**{f.name: parsed[f.name] for f in dataclasses.fields(Recipe)})


def type_problem(message: str) -> str:
    """jsonargparse's account of a wrong value, in one line: key, what was expected, what came."""
    text = " ".join(message.split()).replace("Parser key ", "").replace('"', "").rstrip(".")
    union = re.search(
        r"^(.*?):? Does not validate .* Subtypes: \[(.*?)\] .*Given value: (.*)$", text
    )
    if union:
        key, kinds, given = union.groups()
        text = f"{key}: expected {kinds.replace(', NoneType', ' or null')}, got {given}"
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("typing.Literal", "one of ")
    return text.replace("Expected a ", "expected ").replace(". Got value: ", ", got ")


def load_recipe(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a built-in or own recipe and put `overrides` (nested mapping) on top."""
    path = find_recipe(name_or_path)
    values = read_recipe(path)
    is_run = path.name == "recipe.yaml"
    values.setdefault("name", path.resolve().parent.name if is_run else path.stem)
    if overrides:
        check_keys(overrides, Recipe, "command line")
        values = merge(values, overrides)
    return build_recipe(values, str(path))


def recipe_as_dict(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain values, every field in it."""
    return dataclasses.asdict(recipe)


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML, atomically."""
    text = yaml.safe_dump(recipe_as_dict(recipe), sort_keys=False, allow_unicode=True)
    write_text(path, text)


def fingerprint_settings(section: Any) -> dict[str, Any]:
    """The settings of a section that decide its result: all but the horizon ones."""
    return {
        f.name: dataclasses.asdict(section)[f.name]
        for f in dataclasses.fields(section)
        if not f.metadata.get("horizon")
    }
