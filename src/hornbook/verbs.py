"""The verbs: for each its line in the list of commands, its help, and the words it takes.

In: nothing. Out: `VERBS`, which costs nothing to import: parsers are built when a verb runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


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
    settings: Mapping[type[Any], set[str]] = field(default_factory=dict)
    """Dataclasses whose fields it takes as --FIELD, each with the fields that it does not."""


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
    _again(parser)


def _again(parser: Any) -> None:
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
        help="your own files or folders (texts, tables, pages, books, archives, what `gather` "
        "wrote) instead of Shakespeare",
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
    _option(parser, "--out", "DIR", "folder to write to, instead of a run directory")


def _gather(parser: Any) -> None:
    parser.add_argument(
        "recipe",
        type=str | None,
        nargs="?",
        default=None,
        metavar="SOURCE|NAME|FILE",
        help="one of the sources; or the recipe, built in or a YAML file, whose `gather.sources` "
        "are to be mixed; default: the run directory's own recipe",
    )
    _option(parser, "--out", "DIR", "folder for the document shards")
    _option(parser, "--run", "DIR", "run directory instead: the shards go to RUN/gather")
    _again(parser)


def _text_column(parser: Any) -> None:
    parser.add_argument(
        "--text_column",
        "--text-column",
        type=str | None,
        default=None,
        metavar="NAME",
        help="column or key that holds the text; default: found by itself",
    )


def _convert(parser: Any) -> None:
    parser.add_argument(
        "inputs", type=str, nargs="+", metavar="PATH", help="files and folders to read"
    )
    kinds = Literal["parquet", "jsonl", "csv", "text"]
    parser.add_argument("--to", type=kinds, required=True, help="format to write")
    out = "file to write; a folder for text, one file a document"
    parser.add_argument("--out", type=str, required=True, metavar="PATH", help=out)
    _option(parser, "--columns", "NAMES", "columns to write, as in text,title; default: all")
    _option(parser, "--separator", "TEXT", "text: one file, with this line between documents")
    _text_column(parser)


def _merge(parser: Any) -> None:
    parser.add_argument(
        "inputs", type=str, nargs="+", metavar="PATH", help="files of one format, and folders"
    )
    out = "folder for the merged files"
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help=out)
    parser.add_argument("--megabytes", type=float, default=256, help="size of a merged file")
    dedup = "leave out documents whose text was there before"
    parser.add_argument("--dedup", action="store_true", help=dedup)
    _text_column(parser)


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


def _feed(parser: Any) -> None:
    action = "serve a feed; read texts of one; check the log of one"
    kinds = Literal["serve", "read", "check"]
    parser.add_argument("action", type=kinds, metavar="serve|read|check", help=action)
    target = "serve: recipe with a `feed` section; read: folder or address; check: folder"
    parser.add_argument("target", type=str, nargs="?", default="", metavar="TARGET", help=target)
    parser.add_argument("--cursor", type=int, default=0, help="read: number of the first text")
    parser.add_argument("--n", type=int, default=1, help="read: how many texts")


def _forecast(parser: Any) -> None:
    parser.add_argument("run", type=str, metavar="RUN", help="a run directory that has trained")
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
    "gather", "prepare", "tokenize", "model", "data", "optimizer", "pretrain", "generate",
    "evaluate",
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
            "gather",
            "text from files, wikis, dumps, sites, transcripts, hubs, into document shards",
            "Gather the documents of a source, or a recipe's mix of sources, into DIR. Killed at"
            " any moment, the same command goes on, and writes every document exactly once."
            " `hornbook gather SOURCE --help` lists the settings of a source.\n\n"
            "  hornbook gather files my-texts/ --out gathered\n"
            '  hornbook gather wikipedia "history of science" --contact me@example.org --out wiki\n'
            "  hornbook gather wikidump enwiki-pages-articles-multistream.xml.bz2 --out wiki\n"
            "  hornbook gather hub fineweb-edu --max-tokens 1B --out web\n"
            "  hornbook gather cosmopedia-small --out mix\n\n"
            "Sources:\n\n"
            "  files       your own text files, tables, pages, books, and archives of them\n"
            "  wikipedia   articles of Wikipedia or any MediaWiki, by its API\n"
            "  wikidump    articles out of a dump of a whole wiki\n"
            "  britannica  articles of a web site, by its search pages (with permission)\n"
            "  youtube     transcripts of channels\n"
            "  hub         data sets of the Hugging Face hub\n"
            "  url         plain files by address",
            ("gather",),
            _gather,
            "gather",
        ),
        Verb(
            "convert",
            "documents of any format to Parquet, JSON lines, CSV or text",
            "Read files of any kind that `prepare` reads, and write their documents in another"
            " format.\n\n"
            "  hornbook convert gathered/ --to jsonl --out gathered.jsonl\n"
            "  hornbook convert my-texts.zip --to csv --columns title,text --out my-texts.csv\n"
            "  hornbook convert gathered/ --to text --out texts/",
            (),
            _convert,
            "convert",
        ),
        Verb(
            "merge",
            "many files of one format into few of a target size",
            "Merge JSON lines, CSV, text or Parquet files into files of about --megabytes, with"
            " --dedup each text once.\n\n"
            "  hornbook merge downloads/*.jsonl --out merged --megabytes 512 --dedup",
            (),
            _merge,
            "merge_files",
        ),
        Verb(
            "prepare",
            "read, normalise, de-duplicate and split text into document shards",
            "Read gathered folders, or texts, tables, pages, books and archives of them, make the"
            " text clean, drop exact duplicates, hold some out, and write document shards to"
            " RUN/prepare.\n\n"
            "  hornbook prepare my-texts/ --run runs/mine\n"
            "  hornbook prepare web wiki --run runs/web --prepare.preset web\n"
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
            "feed",
            "texts, made or drawn as they are needed, served over HTTP to trainers",
            "Keep a log of numbered texts that a teacher model writes or an archive gives, and"
            " serve them. Killed at any moment, nothing delivered is lost or renumbered.\n\n"
            "  hornbook feed serve --feed.folder my-feed --feed.archive texts.zip --keep 20GB\n"
            "  hornbook feed read http://127.0.0.1:8765 --n 3\n"
            "  hornbook feed check my-feed\n"
            "  hornbook pretrain --recipe feed-cpu --run runs/mine --data.feed http://127.0.0.1:8765",
            ("feed",),
            _feed,
            "feed",
        ),
        Verb(
            "forecast",
            "how much longer to train for a loss, or for another model's quality",
            "Fit a run's losses, say when they reach a target, with an interval, in tokens, hours"
            " and dollars, or that they never will. Written to RUN/forecast and report.html.\n\n"
            "  hornbook forecast runs/mine --target-loss 3.2\n"
            "  hornbook forecast runs/mine --reference some-hugging-face-directory",
            ("forecast",),
            _forecast,
            "forecast",
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
