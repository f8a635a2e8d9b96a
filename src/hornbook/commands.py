"""What each verb does, once its words are parsed.

In: the verb's own arguments and the recipe settings given with it. Out: an exit code; results on
stdout, messages on stderr. Rooms are imported when their verb runs.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.errors import HornbookError
from hornbook.evaluating import evaluate_model, load_for_generation
from hornbook.files import lock_folder
from hornbook.progress import say
from hornbook.recipe import (
    Recipe,
    build_recipe,
    built_in_recipes,
    check_keys,
    find_recipe,
    load_recipe,
    merge,
    read_recipe,
    recipe_as_dict,
)
from hornbook.run import RunDirectory
from hornbook.stages import (
    STAGES,
    check_settings,
    feed_gives_text,
    run_stages,
    stages_of,
    tokens_folder,
)

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from hornbook.train.config import PretrainConfig

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, when what was done is saved."""


def quickstart(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """`run quickstart`, on the user's own text where `--text` names some.

    A run directory that was begun goes on with its own recipe, so that the text and the settings
    of its first start need not be said again.
    """
    if arguments.text:
        # The recipe's prompts are Shakespeare's; other text begins as its documents do.
        own = {
            "description": "A small Llama-shaped model on text of your own, on a CPU in minutes.",
            "prepare": {"inputs": arguments.text},
            "pretrain": {"sample_prompts": []},
        }
        overrides = merge(own, overrides)
    run_directory = RunDirectory(Path(arguments.run or "runs/quickstart"))
    begun = run_directory.recipe_file.exists()
    recipe = load_recipe(str(run_directory.recipe_file) if begun else "quickstart", overrides)
    return _run_whole_road(recipe, run_directory)


def run(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Every stage of a recipe; a run directory in the recipe's place goes on with that run."""
    recipe = load_recipe(arguments.recipe, overrides)
    is_run = find_recipe(arguments.recipe) == Path(arguments.recipe) / "recipe.yaml"
    folder = arguments.run or (arguments.recipe if is_run else f"runs/{recipe.name}")
    return _run_whole_road(recipe, RunDirectory(Path(folder)))


def _run_whole_road(recipe: Recipe, run_directory: RunDirectory) -> int:
    names = stages_of(recipe)
    run_directory.check_owner(recipe)
    check_settings(recipe, run_directory, names)
    with run_directory.lock():
        run_directory.adopt(recipe)
        finished = run_stages(recipe, run_directory, names)
        page = _write_report([run_directory.path], None)
    if not finished:
        say(f"stopped; `hornbook run {run_directory.path}` goes on from here")
        return INTERRUPTED
    _show_outcome(recipe, run_directory, page)
    return 0


def _show_outcome(recipe: Recipe, run_directory: RunDirectory, page: Path) -> None:
    """Where things are, how good the model is, a sample of it, and what to try next."""
    path = run_directory.path
    sample = _last_sample(path)
    named = shlex.quote(str(path))
    lines = [
        "",
        _measured(run_directory),
        "",
        *(
            ["A sample:", "", *("  | " + line for line in sample.splitlines()), ""]
            if sample
            else []
        ),
        f"report        {page}",
        f"checkpoints   {path / 'pretrain' / 'checkpoints'}",
        *(
            [f"export        {path / 'export'}   (loads with transformers' from_pretrained)"]
            if (path / "export").exists()
            else []
        ),
        "",
        "Try next:",
        f"  hornbook generate {named}{_prompt(recipe.pretrain)}",
        f"  hornbook inspect {named}",
        f"  hornbook run {named} {_longer(recipe.pretrain)}    # train on",
        "  hornbook quickstart --text my-text.txt --run runs/mine",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _measured(run_directory: RunDirectory) -> str:
    """How good the model is, in a line."""
    record = run_directory.record("evaluate")
    if record is None or not record.summary:
        return "not evaluated: the recipe names no held-out text (evaluate.text)"
    numbers = record.summary
    return (
        f"held-out bits per byte  {numbers['bits_per_byte']:.3f}   (loss {numbers['loss']:.3f}"
        f" nats a token, perplexity {numbers['perplexity']:.1f})"
    )


def _longer(config: PretrainConfig) -> str:
    """Options that raise every limit of a run to three times what it is."""
    limits = {"minutes": config.minutes, "steps": config.steps, "tokens": config.tokens}
    return " ".join(
        f"--pretrain.{name} {round(3 * limit, 2)}" for name, limit in limits.items() if limit
    )


def _last_sample(path: Path) -> str:
    file = path / "pretrain" / "samples.jsonl"
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
    if not lines:
        return ""
    sample = json.loads(lines[-1])
    return str(sample["prompt"] + sample["text"])


def _prompt(config: PretrainConfig) -> str:
    """The last of the recipe's prompts, quoted; none where samples begin as a document does."""
    prompt = config.sample_prompts[-1].strip() if config.sample_prompts else ""
    return f" {shlex.quote(prompt)}" if prompt else ""


def prepare(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """The prepare stage alone."""
    if arguments.inputs:
        overrides = merge(overrides, {"prepare": {"inputs": arguments.inputs}})
    if arguments.out:
        return _prepare_folder(arguments, overrides)
    return stage_verb(verb, arguments, overrides)


def gather(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """One source, or a recipe's mix of sources, into a folder of document shards."""
    from hornbook import gathering

    if verb != "gather":
        config = gathering.config_of(verb.removeprefix("gather "), arguments)
    elif arguments.out is None:
        if arguments.recipe is None and arguments.run is None:
            raise HornbookError(
                "what is to be gathered?",
                hint="Name a source, as in `hornbook gather files my-texts/ --out gathered`, or a "
                "recipe; `hornbook gather --help` lists the sources",
            )
        return stage_verb(verb, arguments, overrides)
    elif arguments.recipe is None or arguments.run:
        raise HornbookError(
            "--out takes a source or a recipe, and no --run",
            hint="`hornbook gather NAME --out DIR`, or `hornbook gather NAME --run RUN`",
        )
    else:
        config = load_recipe(arguments.recipe, overrides).gather
    out = Path(arguments.out)
    gathering.gather(config, out)
    say(f"gather: written to {out}")
    return 0


def convert(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Documents of any format to another one."""
    from hornbook.corpus.convert import convert as convert_documents

    count = convert_documents(
        arguments.inputs,
        arguments.to,
        Path(arguments.out),
        columns=[name.strip() for name in (arguments.columns or "").split(",") if name.strip()],
        separator=arguments.separator,
        text_column=arguments.text_column,
    )
    say(f"convert: {count.documents:,} documents written to {arguments.out}")
    return 0


def merge_files(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Many files of one format into few."""
    from hornbook.corpus.merge import merge as merge_all

    merged = merge_all(
        arguments.inputs,
        Path(arguments.out),
        megabytes=arguments.megabytes,
        dedup=arguments.dedup,
        text_column=arguments.text_column,
    )
    say(
        f"merge: {merged.records - merged.duplicates:,} records in {merged.files:,} files written "
        f"to {arguments.out}; {merged.duplicates:,} duplicates left out"
    )
    return 0


def _prepare_folder(arguments: Namespace, overrides: dict[str, Any]) -> int:
    """The prepare stage into a folder of its own, with no run directory."""
    from hornbook.corpus.prepare import prepare as prepare_text

    if arguments.run:
        raise HornbookError("--run and --out are both given", hint="Give one of them")
    recipe = (
        load_recipe(arguments.recipe, overrides)
        if arguments.recipe
        else build_recipe(overrides, "command line")
    )
    out = Path(arguments.out)
    with lock_folder(out):
        prepare_text(recipe.prepare, out)
    say(f"prepare: written to {out}")
    return 0


def stage_verb(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """One stage of a run directory; before training on a feed also what takes its text from there,
    unless it is done."""
    recipe, run_directory = _recipe_and_run(verb, arguments, overrides)
    run_directory.check_owner(recipe)
    names = [verb]
    if verb == "pretrain" and feed_gives_text(recipe):
        records = {name: run_directory.record(name) for name in ("prepare", "tokenize")}
        names = [n for n, its in records.items() if its is None or its.outcome != "done"] + names
    check_settings(recipe, run_directory, names)
    with run_directory.lock():
        run_directory.adopt(recipe)
        finished = run_stages(recipe, run_directory, names, again=arguments.again)
    if not finished:
        say(f"stopped; `hornbook {verb} --run {run_directory.path}` goes on from here")
        return INTERRUPTED
    say(f"{verb}: written to {run_directory.folder(verb)}")
    return 0


def _recipe_and_run(
    verb: str, arguments: Namespace, overrides: dict[str, Any]
) -> tuple[Recipe, RunDirectory]:
    """The recipe and the run directory that --recipe and --run mean together.

    --run alone: the directory's own recipe, or defaults named after a new directory. --recipe
    alone: runs/NAME. Neither: an error that says so. Where the directory has a recipe, --recipe
    changes only what this stage reads: the others keep the settings that they were done with.
    """
    if arguments.recipe is None and arguments.run is None:
        raise HornbookError(
            "which run?", hint="Give --run DIR, or a recipe (`hornbook recipes` lists them)"
        )
    if arguments.recipe is None:
        run_directory = RunDirectory(Path(arguments.run))
        if run_directory.recipe_file.exists():
            return load_recipe(str(run_directory.recipe_file), overrides), run_directory
        check_keys(overrides, Recipe, "command line")
        values = {"name": run_directory.path.resolve().name, **overrides}
        return build_recipe(values, "command line"), run_directory
    recipe = load_recipe(arguments.recipe, overrides)
    run_directory = RunDirectory(Path(arguments.run or f"runs/{recipe.name}"))
    if run_directory.recipe_file.exists():
        own = {name: getattr(recipe, name) for name in ("name", *STAGES[verb].sections)}
        recipe = dataclasses.replace(run_directory.recipe(), **own)
    return recipe, run_directory


def _recipe_of(source: Path, overrides: dict[str, Any]) -> Recipe:
    """The recipe of a run directory, or the defaults for any other model directory."""
    values = read_recipe(source / "recipe.yaml") if (source / "recipe.yaml").is_file() else {}
    check_keys(overrides, Recipe, "command line")
    return build_recipe(merge(values, overrides), str(source))


def plan(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Predict a run, or design one for a number of hours; exit code 2 where it does not fit."""
    from hornbook.planning import plan as predict_or_design

    return predict_or_design(arguments, overrides)


def generate(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Stream continuations of the prompts to stdout."""
    from hornbook.model.generate import Generator

    source = Path(arguments.model)
    recipe = _recipe_of(source, overrides)
    decoder, tokenizer = load_for_generation(source, arguments.device)
    generator = Generator(decoder, tokenizer)
    for prompt in arguments.prompts or [""]:
        sys.stdout.write(prompt)

        def show(row: int, text: str) -> None:
            sys.stdout.write(text)
            sys.stdout.flush()

        generator([tokenizer.encode(prompt)], recipe.generate, on_text=show)
        sys.stdout.write("\n")
    return 0


def evaluate(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Held-out loss of any model directory; a run's is kept in its evals.jsonl."""
    source = Path(arguments.model)
    recipe = _recipe_of(source, overrides)
    validation = source / "prepare" / "validation"
    if recipe.evaluate.text is None and not validation.is_dir():
        raise HornbookError(
            "there is no held-out text here to evaluate on",
            where=source,
            hint="Name some with --evaluate.text PATH",
        )
    is_run = (source / "recipe.yaml").is_file()
    out = Path(arguments.out) if arguments.out else source / "evaluate" if is_run else None
    record = evaluate_model(source, recipe, [validation], out)
    if arguments.json:
        sys.stdout.write(json.dumps(record) + "\n")
        return 0
    for key, value in record.items():
        if value is None:
            continue
        shown = f"{value:,.4f}" if isinstance(value, float) else value
        sys.stdout.write(f"{key:<16}{shown}\n")
    return 0


def report(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """report.html of one run, or a comparison of several."""
    runs = [Path(run) for run in arguments.runs]
    page = _write_report(runs, Path(arguments.out) if arguments.out else None)
    sys.stdout.write(f"{page}\n")
    return 0


def _write_report(runs: list[Path], out: Path | None) -> Path:
    from hornbook.report.build import build_report

    default = runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html")
    return build_report(runs, out or default)


def feed(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Serve a feed, read from one, or check one."""
    from hornbook import feeding

    return feeding.main(arguments, overrides)


def forecast(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """How much longer a run has to train for a loss."""
    from hornbook import forecasting

    return forecasting.main(arguments, overrides)


def export(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """A stock Hugging Face directory of any model directory."""
    from hornbook.publish.export import export as export_model

    source = Path(arguments.model)
    out = export_model(source, Path(arguments.out) if arguments.out else source / "export")
    sys.stdout.write(f"{out}\n")
    return 0


def inspect(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Rows of the real batches, token by token."""
    from rich.console import Console

    from hornbook.model.presets import resolve
    from hornbook.report.inspect import inspect_run
    from hornbook.tokenizer.tokenizer import Tokenizer
    from hornbook.tokens.loader import open_source
    from hornbook.train.horizon import rows_per_step

    run_directory = RunDirectory(Path(arguments.run))
    if not run_directory.recipe_file.is_file():
        raise HornbookError(
            "is no run directory (no recipe.yaml in it)",
            where=run_directory.path,
            hint="`hornbook inspect` takes folders such as runs/quickstart",
        )
    recipe = load_recipe(str(run_directory.recipe_file), overrides)
    tokens = tokens_folder(recipe, run_directory)
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    length = recipe.data.sequence_length or resolve(recipe.model, tokenizer.size).context
    step_rows = rows_per_step(recipe.pretrain, length)
    source = open_source(recipe.data, tokens, length, "train", rows_per_step=step_rows)
    if recipe.data.feed:
        say(
            "these rows are of the sample that the tokenizer was made from; what the run trains on"
            f" comes from its feed: `hornbook feed read {recipe.data.feed}`"
        )
    console = Console()
    for part in inspect_run(tokenizer, source, arguments.rows, start=arguments.start):
        console.print(part)
    return 0


def doctor(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """What works here; exit code 2 when something that is needed does not."""
    from rich.console import Console

    from hornbook.report.doctor import doctor as examine
    from hornbook.report.doctor import doctor_table

    checks = examine()
    if arguments.json:
        sys.stdout.write(json.dumps([dataclasses.asdict(check) for check in checks]) + "\n")
    else:
        Console().print(doctor_table(checks))
    return 2 if any(check.status == "fail" for check in checks) else 0


def recipes(verb: str, arguments: Namespace, overrides: dict[str, Any]) -> int:
    """List the built-in recipes and model sizes, or print one recipe."""
    if arguments.name:
        sys.stdout.write(find_recipe(arguments.name).read_text(encoding="utf-8"))
        return 0
    from hornbook.model.count import parameters
    from hornbook.model.presets import PRESETS

    sys.stdout.write("Recipes (hornbook run NAME; hornbook recipes NAME shows one):\n")
    for name, path in built_in_recipes().items():
        values = recipe_as_dict(load_recipe(str(path)))
        sys.stdout.write(f"  {name:<26}{values['description']}\n")
    sys.stdout.write("\nModel sizes (--model.preset NAME); the embedding grows with your tokens:\n")
    for name, config in PRESETS.items():
        count = parameters(config)
        sys.stdout.write(
            f"  {name:<14}{config.family:<7}{count.blocks / 1e6:>8,.1f}M in blocks +"
            f"{count.embedding / 1e6:>6,.1f}M embedding at {config.vocabulary:,} tokens,"
            f" {config.layers} layers, width {config.width}, context {config.context}\n"
        )
    return 0
