"""Prepare on many machines: its passes as steps of datatrove pipelines.

In: the settings of prepare, a folder that all machines share, an executor of datatrove (Local,
Slurm or Ray). Out: the shards that `prepare` writes on one machine, byte for byte.

    clean    many tasks: the files, divided into neighbouring groups; each writes a part of the
             spool
    decide   one task: duplicates and the split, from arrays of 65 bytes a document, and 572 more
             with near duplicates
    write    many tasks: the shards of the plan
    finish   one task: ledger and report

A file is read by one task, so there is use in as many tasks as there are files. A step is a
callable of (data, rank, world_size), as datatrove takes them beside its own; it takes no documents
and gives none on. Every task can be run again: it does what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hornbook.corpus.config import PrepareConfig
from hornbook.corpus.decide import Plan, decide
from hornbook.corpus.prepare import WORK, begin, finish, read_part
from hornbook.corpus.spool import Part, read_spool
from hornbook.corpus.write import ShardWriter
from hornbook.errors import HornbookError
from hornbook.gather.inputs import find_inputs

Executor = Literal["local", "slurm", "ray"]


@dataclass(frozen=True)
class Task:
    """What a step needs to know."""

    config: PrepareConfig
    inputs: list[str]
    out: Path

    @property
    def work(self) -> Path:
        """The folder for what is not finished."""
        return self.out / WORK


def clean_step(task: Task, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
    """Clean the files of this rank into a part of the spool."""
    part = Part(task.work, rank)
    if files := files_of(task.inputs, rank, world_size):
        read_part(task.config, task.inputs, part, files)
    else:
        part.finish([])


def decide_step(task: Task, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
    """Decide what becomes of all documents."""
    decide(task.config, task.work, read_spool(task.work))


def write_step(task: Task, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
    """Write the shards of this rank: every `world_size`-th."""
    writer = ShardWriter(read_spool(task.work), task.work, task.out)
    for shard in Plan.read(task.work).shards[rank::world_size]:
        writer(shard)


def finish_step(task: Task, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
    """Write the ledger and the report, from what the other steps have counted."""
    finish(task.config, task.out, read_spool(task.work), Plan.read(task.work))


def prepare_at_scale(
    config: PrepareConfig,
    out: Path,
    executor: Executor = "local",
    tasks: int = 1,
    workers: int = -1,
    settings: dict[str, Any] | None = None,
) -> None:
    """Prepare `config.inputs` into `out` with an executor of datatrove.

    Local and Ray have done it when this returns; Slurm has four jobs queued, each depending on
    the one before. Run again after a failure, it goes on.

    Args:
        config: as for `prepare`; `workers` does not count, a task is one process.
        out: on storage that all machines share, as the inputs must be.
        executor: which; Ray takes the cluster that `ray.init` connected to.
        tasks: into which cleaning and writing are divided.
        workers: tasks that run at the same time; -1: all.
        settings: more for the executor, such as `partition` and `time` of Slurm.

    Raises:
        HornbookError: datatrove is missing, or the settings are wrong.
    """
    kind, out = _executor(executor), out.resolve()
    # Absolute paths: tasks may run in another folder.
    inputs = [str(Path(name).resolve()) for name in begin(config, out, parts=tasks)]
    config = replace(
        config,
        workers=1,
        ledger=config.ledger and str(Path(config.ledger).resolve()),
        decontaminate=[
            str(Path(name).resolve()) if Path(name).exists() else name
            for name in config.decontaminate
        ],
    )
    last: Any = None
    for step, count in (
        (clean_step, tasks),
        (decide_step, 1),
        (write_step, tasks),
        (finish_step, 1),
    ):
        name = step.__name__.removesuffix("_step")
        last = kind(
            pipeline=[partial(step, Task(config, inputs, out))],
            tasks=count,
            workers=min(workers, count),
            logging_dir=str(out / "logs" / name),
            # What is done is known from the work folder; datatrove's own marks would outlive it.
            skip_completed=False,
            depends=last,
            **({"job_name": f"hornbook-{name}"} if executor == "slurm" else {}),
            **(settings or {}),
        )
    last.run()


def files_of(inputs: list[str], rank: int, world_size: int) -> range:
    """The files of a task, over all inputs: neighbouring ones of about an equal share of bytes."""
    sizes = [file.bytes for each in find_inputs(inputs) for file in each.files]
    total, before, mine = max(sum(sizes), 1), 0, []
    for number, size in enumerate(sizes):
        if min(before * world_size // total, world_size - 1) == rank:
            mine.append(number)
        before += size
    return range(mine[0], mine[-1] + 1) if mine else range(0)


def _executor(name: Executor) -> Any:
    try:
        if name == "slurm":
            from datatrove.executor import SlurmPipelineExecutor as Found
        elif name == "ray":
            import ray  # noqa: F401  # datatrove imports it only when it is too late for a hint
            from datatrove.executor import RayPipelineExecutor as Found
        else:
            from datatrove.executor import LocalPipelineExecutor as Found
    except ImportError as error:
        extra = "ray" if name == "ray" else "scale"
        raise HornbookError(
            f"{error.name} is not installed", where=name, hint=f'`pip install "hornbook[{extra}]"`'
        ) from None
    return Found
