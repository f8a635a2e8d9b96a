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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hornbook.errors import HornbookError, nearest


@dataclass(frozen=True)
class Verb:
    """One command."""

    name: str
    summary: str
    """One line for the list of commands."""
    description: str
    """What it reads and writes, with examples; the head of its --help."""
    sections: tuple[str, ...]
    """Recipe sections whose settings it takes as --SECTION.SETTING."""
    arguments: Callable[[Any], None]
    """Adds the verb's own arguments to a parser."""
    execute: str
    """Function of `hornbook.commands` that does it: (parsed, overrides) -> exit code."""


def _option(parser: Any, name: str, metavar: str, help: str) -> None:
    parser.add_argument(name, type=str | None, default=None, metavar=metavar, help=help)


def _run_directory(parser: Any) -> None:
    _option(parser, "--run", "DIR", "run directory; default runs/NAME, after the recipe's name")


def _model(parser: Any) -> None:
    kinds = "a run, a checkpoint, or a Hugging Face directory"
    parser.add_argument("model", type=str, metavar="MODEL", help=kinds)


def _run_and_recipe(parser: Any) -> None:
    _run_directory(parser)
    recipe = "built-in recipe or YAML file; default: the run directory's own recipe"
    _option(parser, "--recipe", "NAME|FILE", recipe)
    parser.add_argument(
        "--again",
        action="store_true",
        help="do it from nothing though it is done; the earlier result is kept in RUN/retired",
    )


def _quickstart(parser: Any) -> None:
    parser.add_argument(
        "--text",
        type=str,
        default=[],
        nargs="+",
        metavar="PATH",
        help="your own .txt, .md, .jsonl, .parquet or .zip files or folders instead of Shakespeare",
    )
    _option(parser, "--run", "DIR", "run directory; default runs/quickstart")


def _run(parser: Any) -> None:
    parser.add_argument(
        "recipe",
        type=str,
        metavar="NAME|FILE|RUN",
        help="built-in recipe, YAML file, or a run directory to go on with",
    )
    _run_directory(parser)


def _prepare(parser: Any) -> None:
    parser.add_argument(
        "inputs",
        type=str,
        nargs="*",
        metavar="PATH",
        default=[],
        help="files or folders to read, or `shakespeare`; default: the recipe's prepare.inputs",
    )
    _run_and_recipe(parser)


def _generate(parser: Any) -> None:
    _model(parser)
    parser.add_argument(
        "prompts",
        type=str,
        nargs="*",
        metavar="PROMPT",
        default=[],
        help="text to go on from; default: the beginning of a document",
    )
    parser.add_argument(
        "--device",
        type=Literal["auto", "cpu", "cuda", "mps"],
        default="auto",
        help="where to generate; `auto` takes the fastest that works",
    )


def _evaluate(parser: Any) -> None:
    _model(parser)
    out = "folder for evals.jsonl; default: the run's evaluate/, else none"
    _option(parser, "--out", "DIR", out)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def _report(parser: Any) -> None:
    parser.add_argument(
        "runs",
        type=str,
        nargs="+",
        metavar="RUN",
        help="one run directory, or several to lay over each other",
    )
    page = "the page; default RUN/report.html, or comparison.html for several"
    _option(parser, "--out", "FILE", page)


def _export(parser: Any) -> None:
    _model(parser)
    _option(parser, "--out", "DIR", "folder to write; default MODEL/export")


def _inspect(parser: Any) -> None:
    parser.add_argument("run", type=str, metavar="RUN", help="a run directory with tokens")
    parser.add_argument("--rows", type=int, default=2, help="rows of the first batch to show")
    parser.add_argument("--start", type=int, default=0, help="first row to show")


def _doctor(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _recipes(parser: Any) -> None:
    parser.add_argument(
        "name",
        type=str,
        nargs="?",
        default="",
        metavar="NAME",
        help="show this recipe; default: list them all",
    )


def _plan(parser: Any) -> None:
    parser.add_argument(
        "recipe",
        type=str,
        nargs="?",
        default="",
        metavar="NAME|FILE|RUN",
        help="built-in recipe, YAML file, run directory, or model size; not needed with --write",
    )
    devices = "where to train: h100, a100-40gb, t4, rtx4090 ...; `this` machine; `cpu`"
    parser.add_argument("--gpu", type=str, default="this", metavar="NAME", help=devices)
    parser.add_argument(
        "--hours", type=float, default=0.0, help="training time, instead of the recipe's"
    )
    parser.add_argument(
        "--tokens", type=float, default=0.0, help="training tokens, instead of the recipe's"
    )
    _option(parser, "--text", "PATH", "file or folder of text: how often it will be seen")
    price = "US dollars an hour for each GPU; default: a list price"
    parser.add_argument("--price", type=float | None, default=None, help=price)
    _option(parser, "--write", "FILE", "choose the model for --hours, and write its recipe here")
    probe = "run three real steps on this machine and correct the plan by them"
    parser.add_argument("--probe", action="store_true", help=probe)
    parser.add_argument("--json", action="store_true", help="print JSON")


EVERY_SECTION = (
    "prepare", "tokenize", "model", "data", "optimizer", "pretrain", "generate", "evaluate",
)  # fmt: skip

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "quickstart",
            "a small model from raw text to report and export, on a CPU, in minutes",
            "Train a small language model on Shakespeare's plays, or on your own text, and show"
            " what came out: samples, held-out loss, report.html and a Hugging Face directory."
            " Under five minutes on 2 CPU cores. Interrupted, it goes on where it stopped.\n\n"
            "  hornbook quickstart\n"
            "  hornbook quickstart --text my-novel.txt --run runs/novel\n"
            "  hornbook quickstart --pretrain.minutes 20",
            EVERY_SECTION,
            _quickstart,
            "quickstart",
        ),
        Verb(
            "run",
            "every stage that a recipe names, in order, skipping what is done",
            "Run a recipe from its first stage to its last. Killed at any moment, run again, it"
            " goes on; a changed setting runs again only what depends on it; a raised horizon"
            " (steps, tokens, minutes) continues the training.\n\n"
            "  hornbook run quickstart\n"
            "  hornbook run my-recipe.yaml --run runs/second --pretrain.steps 2000\n"
            "  hornbook run runs/second --pretrain.steps 4000",
            EVERY_SECTION,
            _run,
            "run",
        ),
        Verb(
            "prepare",
            "read, normalise, de-duplicate and split text into document shards",
            "Read .txt, .md, .jsonl, .parquet and .zip files, make the text clean, drop exact"
            " duplicates, hold some out, and write document shards to RUN/prepare.\n\n"
            "  hornbook prepare my-texts/ --run runs/mine\n"
            "  hornbook prepare shakespeare --run runs/plays --prepare.validation_share 0.1",
            ("prepare",),
            _prepare,
            "prepare",
        ),
        Verb(
            "tokenize",
            "train or import a tokenizer, and turn documents into token shards",
            "Make the tokenizer and write token shards, a manifest and the documents' origins to"
            " RUN/tokenize.\n\n"
            "  hornbook tokenize --run runs/mine --tokenize.vocabulary 8192\n"
            "  hornbook tokenize --run runs/mine --tokenize.kind gpt2",
            ("tokenize",),
            _run_and_recipe,
            "stage_verb",
        ),
        Verb(
            "pretrain",
            "train a language model from random weights, or from --init",
            "Train the model of a recipe on the run's token shards. Writes checkpoints,"
            " metrics.jsonl and samples.jsonl to RUN/pretrain. Ctrl-C saves and leaves; the same"
            " command goes on from there, with the same losses to the last bit on a CPU. Say how"
            " long with --pretrain.steps, --pretrain.tokens or --pretrain.minutes; raise it later"
            " to go on.\n\n"
            "  hornbook pretrain --run runs/mine --model.preset llama-5m --pretrain.minutes 10\n"
            "  hornbook pretrain --run runs/mine --pretrain.steps 4000\n"
            "  hornbook pretrain --run runs/mine --init some-hugging-face-directory\n"
            "  hornbook pretrain --run runs/mine --gpus 8",
            ("model", "data", "optimizer", "pretrain"),
            _run_and_recipe,
            "stage_verb",
        ),
        Verb(
            "plan",
            "will it fit, how long will it take, what loss to expect, what does it cost",
            "Predict a run before it begins: memory, settings that fit, speed, time, loss and cost;"
            " no GPU needed. --gpus N plans for several. With --write, choose the model: depth,"
            " width, tokens, batch and learning rate for the hours you have. Exit code 2: it does"
            " not fit.\n\n"
            "  hornbook plan gpt2-124m --gpu h100\n"
            "  hornbook plan phi2-40gb --gpu rtx4090 --gpus 4 --hours 24\n"
            "  hornbook plan quickstart --probe\n"
            "  hornbook plan --write mine.yaml --hours 2 --gpu this --text my-texts/",
            ("tokenize", "model", "data", "optimizer", "pretrain"),
            _plan,
            "plan",
        ),
        Verb(
            "generate",
            "text from a model: a run, a checkpoint, or a Hugging Face directory",
            "Go on from prompts. The text streams to the screen as it is made.\n\n"
            '  hornbook generate runs/quickstart "ROMEO."\n'
            '  hornbook generate some-hugging-face-directory "Once upon" --generate.temperature 0',
            ("generate",),
            _generate,
            "generate",
        ),
        Verb(
            "evaluate",
            "held-out loss, perplexity and bits per byte",
            "Measure a model on held-out text: the run's own validation documents, or any text.\n\n"
            "  hornbook evaluate runs/quickstart\n"
            "  hornbook evaluate some-hugging-face-directory --evaluate.text book.txt",
            ("evaluate",),
            _evaluate,
            "evaluate",
        ),
        Verb(
            "report",
            "one self-contained report.html from one run, or several compared",
            "Write a page that shows a run: data, losses, samples, evaluations, how to make it"
            " again. Works while the run goes on.\n\n"
            "  hornbook report runs/quickstart\n"
            "  hornbook report runs/first runs/second --out comparison.html",
            (),
            _report,
            "report",
        ),
        Verb(
            "export",
            "a stock Hugging Face directory",
            "Write config.json, safetensors, tokenizer and a model card, which stock"
            " `transformers` loads.\n\n"
            "  hornbook export runs/quickstart --out my-model",
            (),
            _export,
            "export",
        ),
        Verb(
            "inspect",
            "what the model really sees: the first rows, token by token, in colour",
            "Show rows of real batches: tokens, document edges, positions, targets and mask,"
            " packing, bytes a token.\n\n"
            "  hornbook inspect runs/quickstart --rows 1",
            ("data",),
            _inspect,
            "inspect",
        ),
        Verb(
            "doctor",
            "what works on this machine, found by trying",
            "Try what hornbook needs or could use here: arithmetic, precision, compiler, disk,"
            " optional packages.",
            (),
            _doctor,
            "doctor",
        ),
        Verb(
            "recipes",
            "list the built-in recipes, or show one",
            "List the recipes and model sizes that come with hornbook, or print one to start"
            " from.\n\n"
            "  hornbook recipes\n"
            "  hornbook recipes quickstart > my-recipe.yaml",
            (),
            _recipes,
            "recipes",
        ),
    )
}


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
    if words[0] not in VERBS:
        raise HornbookError(f"unknown command {words[0]!r}", hint=nearest(words[0], VERBS))
    verb = VERBS[words[0]]
    from hornbook import commands
    from hornbook.arguments import parse

    parsed, overrides = parse(verb, words[1:])
    execute: Callable[[str, Any, dict[str, Any]], int] = getattr(commands, verb.execute)
    return execute(verb.name, parsed, overrides)


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
