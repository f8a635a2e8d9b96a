"""The `gather` verb: one source with its settings, or a recipe's mix, into a folder of shards.

In: parsed words or the `gather` section of a recipe. Out: document shards and a closing table.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.errors import HornbookError, nearest
from hornbook.gather.config import (
    CONFIGS,
    GatherConfig,
    NetworkConfig,
    SourceConfig,
)
from hornbook.recipe import check_keys, recipe_parser, type_problem
from hornbook.verbs import VERBS, Verb

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from hornbook.gather.collect import GatherReport
    from hornbook.gather.source import Source

WORDS = {
    "files": "inputs",
    "wikipedia": "topics",
    "wikidump": "inputs",
    "britannica": "queries",
    "youtube": "channels",
    "hub": "dataset",
    "url": "urls",
}
"""The setting that the plain words behind a source's name are."""


OF_A_MIX = {"sources", "network"}
"""Settings of a recipe's `gather` section that are no options of a single source's verb."""


OF_THIS_MACHINE = {"files", "wikidump"}
"""Sources that ask no server, whose verbs have no settings of the network."""


def source_verb(source: str) -> Verb:
    """The verb `gather SOURCE`: its settings are options of their own."""
    kind = CONFIGS[source]

    def arguments(parser: Any) -> None:
        name = WORDS[source]
        parser.add_argument(
            "words",
            type=str,
            nargs="*",
            metavar=name.upper(),
            default=[],
            help=f"plain words, which mean --{name} (below)",
        )
        parser.add_argument(
            "--out", type=str, required=True, metavar="DIR", help="folder for the document shards"
        )

    return Verb(
        f"gather {source}",
        VERBS["gather"].summary,
        inspect.cleandoc(kind.__doc__ or "")
        + "\n\nKilled at any moment, the same command goes on, and writes every document exactly"
        " once.",
        (),
        arguments,
        "gather",
        {kind: set(), GatherConfig: OF_A_MIX}
        | ({} if source in OF_THIS_MACHINE else {NetworkConfig: set()}),
    )


def config_of(source: str, arguments: Namespace) -> GatherConfig:
    """The parsed words of `gather SOURCE` as a mix of one."""

    def fields(kind: type[Any], without: Collection[str] = ()) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(kind) if field.name not in without]
        return {name: arguments[name] for name in names}

    settings = fields(CONFIGS[source])
    name, words = WORDS[source], arguments.words
    if words and isinstance(settings[name], str):
        if len(words) > 1:
            raise HornbookError(f"unexpected argument {words[1]!r}", hint=f"One {name} at a time")
        settings[name] = words[0]
    elif words:
        settings[name] = [*words, *settings[name]]
    return GatherConfig(
        sources=[SourceConfig(source, settings=settings)],
        network=NetworkConfig(**({} if source in OF_THIS_MACHINE else fields(NetworkConfig))),
        **fields(GatherConfig, OF_A_MIX),
    )


def gather(config: GatherConfig, out: Path) -> GatherReport:
    """Gather the sources into `out`; several are mixed."""
    from hornbook.gather.collect import collect
    from hornbook.gather.mix import MixSource, Part
    from hornbook.gather.sources import open_source

    if not config.sources:
        raise HornbookError(
            "no source is named",
            where="gather.sources",
            hint=f"Sources: {', '.join(CONFIGS)}; `hornbook gather --help` shows examples",
        )
    sources: list[Source] = [open_source(each.source, settings_of(each)) for each in config.sources]
    parts = [
        Part(each.name or each.source, each.weight, source)
        for each, source in zip(config.sources, sources, strict=True)
    ]
    return collect(sources[0] if len(parts) == 1 else MixSource(parts), config, out)


def settings_of(entry: SourceConfig) -> Any:
    """The settings of a source in a recipe, checked, as its dataclass."""
    where = f"gather.sources: {entry.name or entry.source}"
    if entry.source not in CONFIGS:
        raise HornbookError(
            f"there is no source {entry.source!r}", where=where, hint=nearest(entry.source, CONFIGS)
        )
    kind = CONFIGS[entry.source]
    check_keys(entry.settings, kind, where)
    parser = recipe_parser()
    parser.add_class_arguments(kind, None)
    try:
        return kind(**parser.parse_object(entry.settings).as_dict())
    except Exception as error:
        if type(error).__module__ in ("argparse", "jsonargparse"):
            raise HornbookError(type_problem(str(error)), where=where) from error
        raise
