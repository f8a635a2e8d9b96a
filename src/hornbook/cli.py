"""The command line: `hornbook VERB ...`.

In: arguments. Out: an exit code: 0 done, 1 our mistake, 2 the user's, 130 interrupted (what was
done is kept, and running the same command again goes on). The top-level help builds no parser, and
each verb imports its room only when it runs.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError, nearest
from hornbook.verbs import VERBS, Verb


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the console script exits with it.

    Started several times by torchrun, process 0 does it, and the others help it train.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        with rare_collections():
            return _main(arguments)
    if os.environ.get("RANK", "0") != "0":
        from hornbook.worker import follow

        return follow()
    from hornbook.train.launch import send_home
    from hornbook.train.parallel import connect

    try:
        return _main(arguments)
    finally:
        send_home(connect())


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Garbage is collected after 50,000 new objects, not 700: importing PyTorch and its compiler
    makes 350,000, all to stay, and takes 3.7 s of CPU time instead of 4.4."""
    usual = gc.get_threshold()
    gc.set_threshold(50_000, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _main(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Text of any script goes to a terminal or pipe of any encoding.
            stream.reconfigure(errors="replace")
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except HornbookError as error:
        if debug:
            raise
        if not error.said:
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) left; nothing is wrong. What is still held back is
        # not to be written at the exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        print(
            f"internal error: {type(error).__name__}: {error}\n"
            "This is a mistake in hornbook; --debug shows where.",
            file=sys.stderr,
        )
        return 1


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(top_help())
        return 0
    if words[0] == "--version":
        from hornbook import __version__

        print(f"hornbook {__version__}")
        return 0
    verb, words = find_verb(words)
    from hornbook import commands
    from hornbook.arguments import parse

    parsed, overrides = parse(verb, words)
    execute: Callable[[str, Any, dict[str, Any]], int] = getattr(commands, verb.execute)
    return execute(verb.name, parsed, overrides)


def find_verb(words: list[str]) -> tuple[Verb, list[str]]:
    """The verb that the words begin with, and the words behind it; `gather SOURCE` is one."""
    name, words = words[0], words[1:]
    if name not in VERBS:
        raise HornbookError(f"unknown command {name!r}", hint=nearest(name, VERBS))
    if name == "gather" and words:
        from hornbook.gathering import WORDS, source_verb

        if words[0] in WORDS:
            return source_verb(words[0]), words[1:]
        _check_source(words[0], WORDS)
    return VERBS[name], words


def _check_source(word: str, sources: Iterable[str]) -> None:
    """Refuse the word behind `gather` where it is neither an option nor a recipe."""
    from hornbook.recipe import built_in_recipes

    if word.startswith("-") or Path(word).suffix or os.sep in word or word in built_in_recipes():
        return
    if not (Path(word).is_file() or (Path(word) / "recipe.yaml").is_file()):
        known = [*sources, *built_in_recipes()]
        raise HornbookError(f"there is no source or recipe {word!r}", hint=nearest(word, known))


def top_help() -> str:
    """The list of commands."""
    width = max(len(name) for name in VERBS)
    lines = [
        "hornbook: from raw text to a published chat model of your own.",
        "",
        "usage: hornbook COMMAND [...]        hornbook COMMAND --help        hornbook --version",
        "",
        *(f"  {verb.name:<{width}}  {verb.summary}" for verb in VERBS.values()),
        "",
        "Start with `hornbook quickstart`. Every command takes --debug (tracebacks).",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
