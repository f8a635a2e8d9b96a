"""The stages of the road, and what runs them in order.

In: a recipe and a run directory. Out: each stage's folder with its `stage.json`. Each stage is one
function here that hands plain paths and settings to its room; rooms are imported when they run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.errors import HornbookError
from hornbook.evaluating import evaluate_model
from hornbook.files import sha256_of
from hornbook.gather.source import StopGathering
from hornbook.progress import say
from hornbook.recipe import Recipe, fingerprint_settings
from hornbook.run import RunDirectory, StageRecord, digest, now, versions

if TYPE_CHECKING:
    from hornbook.train.config import PretrainConfig
    from hornbook.train.state import Outcome


SOME_VOCABULARY = 300
"""Stands for the tokenizer's size while there is no tokenizer: fits any architecture."""


@dataclass
class Result:
    """What a stage hands back: a digest of what it wrote, and what is worth knowing of it."""

    output: str
    summary: dict[str, Any] = field(default_factory=dict)
    outcome: str = "done"


@dataclass(frozen=True)
class Stage:
    """One stage: what it needs and the function that does it."""

    name: str
    after: tuple[str, ...]
    """Stages whose outputs it reads."""
    sections: tuple[str, ...]
    """Recipe sections that decide its result."""
    execute: Callable[[Recipe, RunDirectory], Result]
    """Does it; the first line of its docstring is shown meanwhile."""
    inputs: Callable[[Recipe], dict[str, str]] = lambda recipe: {}
    """Digests of what it reads from outside the run directory."""
    retires: bool = True
    """Whether an earlier result, of other settings or inputs, is moved away first. A stage that
    takes seconds writes over it instead, or adds to it."""
    goes_on: bool = True
    """Whether a finished result is gone on with when a `horizon` setting has changed; else such
    settings (how many workers) change nothing once it is finished."""


def gather_stage(recipe: Recipe, run: RunDirectory) -> Result:
    """Gather the text of the recipe's sources."""
    from hornbook.gathering import gather

    report = gather(recipe.gather, run.folder("gather"))
    return Result(digest([shard.sha256 for shard in report.shards]), dataclasses.asdict(report))


def prepare_stage(recipe: Recipe, run: RunDirectory) -> Result:
    """Read, normalise, de-duplicate and split the text."""
    from hornbook.corpus.prepare import prepare

    folder = run.folder("prepare")
    if feed_gives_text(recipe):
        return _prepare_from_feed(recipe, folder)
    gathered = [str(run.folder("gather"))] if recipe.gather.sources else []
    config = dataclasses.replace(recipe.prepare, inputs=[*gathered, *recipe.prepare.inputs])
    report = prepare(config, folder)
    shards = sorted(folder.glob("*/documents-*.parquet"))
    return Result(digest([sha256_of(path) for path in shards]), dataclasses.asdict(report))


def feed_gives_text(recipe: Recipe) -> bool:
    """Whether the text of a run is all a feed's."""
    return bool(recipe.data.feed) and not (recipe.prepare.inputs or recipe.gather.sources)


def _prepare_from_feed(recipe: Recipe, folder: Path) -> Result:
    from hornbook.tokens.feed_client import FeedClient
    from hornbook.tokens.feed_documents import prepare_from_feed

    data = recipe.data
    client = FeedClient(data.feed or "", give_up_seconds=60 * data.feed_give_up_minutes)
    report = prepare_from_feed(client, folder)
    client.close()
    shards = sorted(folder.glob("*/documents-*.parquet"))
    return Result(digest([sha256_of(path) for path in shards]), dataclasses.asdict(report))


def tokenize_stage(recipe: Recipe, run: RunDirectory) -> Result:
    """Make the tokenizer and the token shards."""
    from hornbook.tokens.tokenize import tokenize

    folder = run.folder("tokenize")
    tokenize(recipe.tokenize, run.folder("prepare"), folder)
    return Result(sha256_of(folder / "manifest.json"))


def pretrain_stage(recipe: Recipe, run: RunDirectory) -> Result:
    """Train the model, from the newest good checkpoint where there is one."""
    from hornbook.train import launch
    from hornbook.train.parallel import in_company
    from hornbook.train.state import Outcome

    if in_company():
        with launch.leading(run.path):
            outcome = train(recipe, run)
    elif recipe.pretrain.gpus > 1:
        outcome = Outcome(**launch.launch(run.path, recipe.pretrain.gpus))
    else:
        outcome = train(recipe, run)
    hashes = run.folder("pretrain") / "checkpoints" / outcome.checkpoint / "manifest.json"
    return Result(
        output=sha256_of(hashes),
        summary=dataclasses.asdict(outcome),
        outcome="stopped" if outcome.interrupted else "done",
    )


def train(recipe: Recipe, run: RunDirectory) -> Outcome:
    """Train in this process, which may be one of several; `stage.json` is written already."""
    from hornbook.train.pretrain import pretrain

    record = run.record("pretrain")
    config = recipe.pretrain
    if config.mirror and record:
        # A mirror is shared by runs; what another run or other settings left there is not ours.
        own = f"{config.mirror.rstrip('/')}/{run.path.resolve().name}-{record.fingerprint[:8]}"
        config = dataclasses.replace(config, mirror=own)
    return pretrain(
        recipe.model,
        recipe.data,
        recipe.optimizer,
        config,
        recipe.generate,
        tokens_folder(recipe, run),
        run.folder("pretrain"),
    )


def evaluate_stage(recipe: Recipe, run: RunDirectory) -> Result:
    """Measure the newest checkpoint on the held-out documents."""
    record = evaluate_model(
        run.path, recipe, [run.folder("prepare") / "validation"], run.folder("evaluate")
    )
    return Result(digest(record), record)


def export_stage(recipe: Recipe, run: RunDirectory) -> Result:
    """Write the newest checkpoint as a stock Hugging Face directory."""
    from hornbook.publish.export import export

    export(run.path, run.folder("export"))
    return Result(sha256_of(run.folder("export") / "config.json"))


def _gathered_files(recipe: Recipe) -> dict[str, str]:
    """The local files that sources read."""
    return _file_states(
        [path for source in recipe.gather.sources for path in source.settings.get("inputs", [])]
    )


def _input_files(recipe: Recipe) -> dict[str, str]:
    from hornbook.corpus.decontaminate import HELLASWAG
    from hornbook.corpus.prepare import SHAKESPEARE

    if feed_gives_text(recipe):  # not asked: a run goes on, or is done, while its feed is away
        return {"feed": "the texts that it holds out"}
    names = [*recipe.prepare.inputs, *recipe.prepare.decontaminate]
    return _file_states([name for name in names if name not in (SHAKESPEARE, HELLASWAG)])


def _tokenizer_file(recipe: Recipe) -> dict[str, str]:
    if recipe.tokenize.kind != "file" or not recipe.tokenize.file:
        return {}
    path = Path(recipe.tokenize.file).expanduser()
    return _file_states([path / "tokenizer.json" if path.is_dir() else path])


def _evaluation_text(recipe: Recipe) -> dict[str, str]:
    return _file_states([recipe.evaluate.text] if recipe.evaluate.text else [])


def _file_states(named: Sequence[str | Path]) -> dict[str, str]:
    from hornbook.gather.inputs import find_inputs

    found = find_inputs(named) if named else ()
    return {str(file.path): file.state for each in found for file in each.files}


def _token_sources(recipe: Recipe) -> dict[str, str]:
    manifests = [Path(source.path) / "manifest.json" for source in recipe.data.sources]
    return {str(path): sha256_of(path) for path in manifests if path.is_file()}


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("gather", (), ("gather",), gather_stage, _gathered_files),
        Stage("prepare", ("gather",), ("prepare",), prepare_stage, _input_files, goes_on=False),
        Stage("tokenize", ("prepare",), ("tokenize",), tokenize_stage, _tokenizer_file),
        Stage(
            "pretrain",
            ("tokenize",),
            ("model", "data", "optimizer", "pretrain"),
            pretrain_stage,
            _token_sources,
        ),
        Stage(
            "evaluate",
            ("prepare", "pretrain"),
            ("evaluate",),
            evaluate_stage,
            _evaluation_text,
            retires=False,
        ),
        Stage("export", ("pretrain",), (), export_stage, retires=False),
    )
}


def tokens_folder(recipe: Recipe, run: RunDirectory) -> Path:
    """The run's own token shards, or the first source of the mixture where it has none."""
    own = run.folder("tokenize")
    if not (own / "manifest.json").exists() and recipe.data.sources:
        return Path(recipe.data.sources[0].path)
    return own


def stages_of(recipe: Recipe) -> list[str]:
    """The stages that a recipe asks for.

    One that trains on token folders made elsewhere and brings no text has nothing to prepare, and
    nothing to evaluate on unless it names some. A model that is not stock cannot be exported.
    """
    from hornbook.model.families import STOCK
    from hornbook.model.presets import PRESETS

    without: set[str] = set() if recipe.gather.sources else {"gather"}
    preset = PRESETS.get(recipe.model.preset)
    if preset is not None and preset.family not in STOCK:
        without.add("export")
    has_text = recipe.prepare.inputs or recipe.gather.sources
    if recipe.data.sources and not has_text:
        without |= {"prepare", "tokenize"} | (set() if recipe.evaluate.text else {"evaluate"})
    return [name for name in STAGES if name not in without]


def check_settings(recipe: Recipe, run: RunDirectory, names: Sequence[str]) -> None:
    """Refuse what cannot work before anything is written, replaced or trained for hours."""
    from hornbook.gather.inputs import find_inputs

    has_text = recipe.prepare.inputs or recipe.gather.sources or recipe.data.feed
    if "prepare" in names and not has_text:
        find_inputs(recipe.prepare.inputs)  # says how to name some
    if "prepare" in names:
        from hornbook.corpus.prepare import check_settings as check_prepare

        check_prepare(recipe.prepare)
    if recipe.data.feed is not None:
        from hornbook.train.feed import check_feed

        check_feed(recipe.data, recipe.pretrain.gpus)
    if "pretrain" not in names:
        return
    from hornbook.tokenizer.tokenizer import Tokenizer
    from hornbook.train.pretrain import check_settings as check_pretrain

    tokenizer = tokens_folder(recipe, run) / "tokenizer" / "tokenizer.json"
    size = Tokenizer.load(tokenizer).size if tokenizer.exists() else SOME_VOCABULARY
    check_pretrain(recipe.model, recipe.optimizer, recipe.pretrain, recipe.generate, size)
    record = run.record("pretrain")
    wanted = json.loads(json.dumps(dataclasses.asdict(recipe.pretrain)))
    if not (record and record.outcome == "done" and record.settings.get("pretrain") == wanted):
        _check_processor(recipe.pretrain)


def _check_processor(config: PretrainConfig) -> None:
    """Refuse what was asked for by name and only a GPU has, where training is on a CPU."""
    from hornbook.train.machine import pick_device

    if config.device == "cuda" or (config.device == "auto" and config.gpus > 1):
        return
    if pick_device(config.device).type != "cpu":
        return
    uncompiled = config.compile in ("auto", "off")
    automatic = "Set it to auto"
    refused = {
        "float8": (config.float8, "a CPU has no products in 8 bits", "Set it to false"),
        "attention": (
            config.attention in ("cudnn", "efficient"),
            f"{config.attention} is a kernel for GPUs",
            automatic,
        ),
        "cross_entropy": (config.cross_entropy == "fused", "fused needs a CUDA GPU", automatic),
        "activation_checkpointing": (
            config.activation_checkpointing == "budget" and uncompiled,
            "a budget is kept by the compiler, and nothing is compiled",
            "Set pretrain.compile to on, or take selective",
        ),
    }
    for name, (wrong, what, hint) in refused.items():
        if wrong:
            raise HornbookError(what, where=f"pretrain.{name}", hint=hint)


def run_stages(
    recipe: Recipe, run: RunDirectory, names: Sequence[str], *, again: bool = False
) -> bool:
    """Run the named stages in order; False when one was asked to stop.

    Args:
        recipe: the settings.
        run: the directory.
        names: of the stages.
        again: run them also where they are done, from nothing.
    """
    for name in names:
        record = run_stage(recipe, run, STAGES[name], again=again)
        if record.outcome == "stopped":
            return False
    return True


def run_stage(
    recipe: Recipe, run: RunDirectory, stage: Stage, *, again: bool = False
) -> StageRecord:
    """Run one stage unless its settings and inputs are those of a finished one.

    A stage with the same fingerprint that is not finished, or whose horizon was raised, goes on in
    its folder; one with another fingerprint moves the old folder to `retired/` and starts anew.
    What refuses to begin leaves recipe and earlier result as they were.
    """
    settings = {name: dataclasses.asdict(getattr(recipe, name)) for name in stage.sections}
    settings = json.loads(json.dumps(settings))
    earlier = run.record(stage.name)
    inputs = _outputs_before(recipe, run, stage)
    try:
        inputs |= stage.inputs(recipe)
    except HornbookError as gone:
        # A run directory may be taken to another machine without the texts it was made from.
        if again or not earlier or (earlier.outcome, earlier.settings) != ("done", settings):
            raise
        say(f"{stage.name}: done already (its input is not here any more: {gone.where})")
        return earlier
    decisive = [fingerprint_settings(getattr(recipe, name)) for name in stage.sections]
    fingerprint = digest([stage.name, decisive, inputs])
    same = earlier is not None and earlier.fingerprint == fingerprint and not again
    retired: Path | None = None
    if earlier and same:
        unchanged = earlier.settings == settings or not stage.goes_on
        if earlier.outcome == "done" and unchanged:
            say(f"{stage.name}: done already")
            return earlier
    elif earlier and again:
        retired = run.retire(stage.name, "to be done again")
    elif earlier and stage.retires:
        retired = run.retire(stage.name)
    before = run.contents(stage.name)
    say(f"{stage.name}: {(stage.execute.__doc__ or '').splitlines()[0]}")
    record = StageRecord(
        stage.name,
        fingerprint,
        settings,
        inputs,
        versions(),
        started=earlier.started if earlier and same else now(),
    )
    run.write_record(record)
    try:
        result = stage.execute(recipe, run)
    except BaseException as error:
        asked = isinstance(error, (KeyboardInterrupt, StopGathering))
        record.outcome = "stopped" if asked else "failed"
        record.ended = now()
        record.summary = {"error": "".join(traceback.format_exception_only(error)).strip()}
        with _if_possible(record.stage):
            if isinstance(error, HornbookError) and run.contents(stage.name) == before:
                run.put_back(stage.name, stage.sections, retired)
                record = earlier or record
            run.write_record(record)
        raise
    record.outcome, record.output, record.summary = result.outcome, result.output, result.summary
    record.ended = now()
    run.write_record(record)
    return record


@contextlib.contextmanager
def _if_possible(stage: str) -> Iterator[None]:
    """To note a failure: a disk that is full or gone must not hide the failure itself."""
    try:
        yield
    except (HornbookError, OSError) as error:
        say(f"{stage}: could not write down that it failed ({error})")


def _outputs_before(recipe: Recipe, run: RunDirectory, stage: Stage) -> dict[str, str]:
    outputs: dict[str, str] = {}
    for name in stage.after:
        if name == "gather" and not recipe.gather.sources:
            continue
        before = run.record(name)
        if before is None or not before.output:
            if name == "tokenize" and recipe.data.sources:
                continue
            if name == "prepare" and recipe.evaluate.text:
                continue
            raise HornbookError(
                f"{stage.name} needs {name}, which is not done in this run directory",
                where=run.path,
                hint=f"Run `hornbook {name} --run {run.path}` first",
            )
        for source in STAGES[name].after:
            its = run.record(source)
            if its and before.inputs.get(source, its.output) != its.output:
                raise HornbookError(
                    f"{source} has changed since {name} was done",
                    where=run.path,
                    hint=f"Run `hornbook {name} --run {run.path}` first",
                )
        outputs[name] = before.output
    return outputs
