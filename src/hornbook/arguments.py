"""Command-line words into typed arguments and recipe overrides, through jsonargparse.

In: a verb and its words. Out: the verb's own arguments, and the settings that were given as a
nested mapping (`{"pretrain": {"steps": 200}}`), to be put on top of a recipe.
"""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hornbook.errors import HornbookError
from hornbook.recipe import (
    SECTIONS,
    built_in_recipes,
    find_recipe,
    read_recipe,
    recipe_parser,
    type_problem,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from hornbook.verbs import Verb

SHORTHANDS = {
    "--init": "--pretrain.init",
    "--gpus": "--pretrain.gpus",
    "--keep": "--feed.keep",
    "--tunnel": "--feed.tunnel",
    "--target-loss": "--forecast.target_loss",
    "--reference": "--forecast.reference",
}
"""Short spellings of settings that people reach for first."""

DEFAULTS = "What the recipe or the run directory says wins over the defaults shown here."
"""The last line of the help of a verb that takes settings."""


def parse(verb: Verb, words: Sequence[str]) -> tuple[Namespace, dict[str, Any]]:
    """Parse a verb's words. Exits 0 after printing --help.

    Returns:
        The verb's own arguments (with their defaults), and the recipe settings that were given.

    Raises:
        HornbookError: an unknown option (with the nearest right name) or a wrong value.
    """
    parser = build_parser(verb)
    try:
        given = parser.parse_args(_spelled(words, verb), defaults=False)
    except argparse.ArgumentError as error:
        raise _explained(error, parser, verb) from error
    overrides = {
        name: given.pop(name).as_dict() for name in verb.sections if given.get(name) is not None
    }
    own = parser.get_defaults()
    for key, value in given.items():
        own[key] = value
    return own, overrides


def build_parser(verb: Verb) -> ArgumentParser:
    """The parser of one verb: its own arguments, then its recipe sections."""
    parser = recipe_parser(
        prog=f"hornbook {verb.name}",
        description=verb.description,
        formatter_class=_formatter(),
        usage=argparse.SUPPRESS,
        epilog=DEFAULTS if verb.sections else None,
    )
    verb.arguments(parser)
    for kind, without in verb.settings.items():
        parser.add_class_arguments(kind, None, skip=without)
    for section in verb.sections:
        parser.add_class_arguments(SECTIONS[section], section)
    for short, option in SHORTHANDS.items():
        for action in parser._actions:
            if option in action.option_strings and action.help:
                action.help += f" Short: {short}."
    if verb.name in built_in_recipes():
        values = read_recipe(find_recipe(verb.name))
        parser.set_defaults(
            {
                f"{section}.{name}": value
                for section in verb.sections
                for name, value in values.get(section, {}).items()
            }
        )
    return parser


def _formatter() -> type[argparse.HelpFormatter]:
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        """Fills a screen of 96 columns; indented examples in a description stay as they are."""

        def __init__(self, prog: str, **options: Any) -> None:
            options |= {"max_help_position": 34, "width": 96}
            super().__init__(prog, **options)  # type: ignore[no-untyped-call]

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            paragraphs = text.split("\n\n")
            return "\n\n".join(p if p[:1] == " " else textwrap.fill(p, width) for p in paragraphs)

    return Formatter


def _spelled(words: Sequence[str], verb: Verb) -> list[str]:
    """The words as jsonargparse wants them.

    `--pretrain.stop-at-loss=x` and shorthands become the fields' names; a list takes one plain
    value after the other (`--prepare.inputs a --prepare.inputs b`) as well as `'[a, b]'`; a switch
    stands alone (`--allow-private`) or with `true` or `false`.
    """
    kinds = [("", kind) for kind in verb.settings]
    kinds += [(f"{section}.", SECTIONS[section]) for section in verb.sections]
    fields = {
        f"--{prefix}{name}": hint
        for prefix, kind in kinds
        for name, hint in typing.get_type_hints(kind).items()
    }
    lists = {option for option, hint in fields.items() if hint == list[str]}
    switches = {option for option, hint in fields.items() if hint is bool}
    spelled: list[str] = []
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not option.startswith("--"):
            spelled.append(word)
            continue
        option = SHORTHANDS.get(option, option)
        underscored = "--" + option[2:].replace("-", "_")
        if "." in option or underscored in fields:
            option = underscored
        following = value if equals else words[number + 1] if number + 1 < len(words) else "["
        if option in lists and not following.startswith("["):
            option += "+"
        if option in switches and following.lower() not in ("true", "false", "yes", "no"):
            equals, value = "=", value or "true"
        spelled.append(option + equals + value)
    return spelled


def _explained(error: argparse.ArgumentError, parser: ArgumentParser, verb: Verb) -> HornbookError:
    message = str(error)
    unknown = re.search(r"unrecognized arguments: (\S+)", message)
    if unknown is None:
        missing = re.search(r"arguments are required: (.+)", message)
        problem = _missing(missing[1].split(", "), parser) if missing else type_problem(message)
        own = re.match(r"(\w+): ", problem)  # of the verb's own, not a setting
        if own:
            problem = _as_written(own[1], parser) + problem[len(own[1]) :]
        problem = problem.replace("expected float", "expected a number")
        return HornbookError(problem, hint=f"`hornbook {verb.name} --help` lists the settings")
    word = unknown.group(1)
    options = [
        option
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and not option.endswith(("+", ".help"))
    ]
    if word.startswith("-"):
        return HornbookError(f"unknown option {word.partition('=')[0]}", hint=_near(word, options))
    return HornbookError(
        f"unexpected argument {word!r}", hint=f"`hornbook {verb.name} --help` shows what it takes"
    )


def _as_written(name: str, parser: ArgumentParser) -> str:
    """What one writes for an argument of the verb: `--run`, `MODEL`."""
    for action in parser._actions:
        if action.dest == name and not action.option_strings:
            return str(action.metavar or name.upper())
    return f"--{name}"


def _missing(names: list[str], parser: ArgumentParser) -> str:
    """What has to be given too, as one writes it: `--out DIR`, `MODEL`."""
    known = {action.dest: action for action in parser._actions}
    shown = [
        " ".join([*known[name].option_strings[:1], str(known[name].metavar or name.upper())])
        for name in names
    ]
    return f"{', '.join(shown)} must be given"


def _near(word: str, options: list[str]) -> str:
    """The option whose name, or whose last part (`steps` of `--pretrain.steps`), is nearest."""
    tail = word.partition("=")[0].lstrip("-").rpartition(".")[2].replace("-", "_")
    tails = {option.lstrip("-").rpartition(".")[2]: option for option in reversed(options)}
    close = difflib.get_close_matches(tail, tails, n=1, cutoff=0.6)
    return f"Did you mean {tails[close[0]]}?" if close else "See --help for the options"
