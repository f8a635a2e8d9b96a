"""Speed of prepare and tokenize, side by side with datatrove's filters and nanoGPT's tokenizing.

In: a file of JSON lines (perhaps .zst) with a `text` each, GPT-2's ranks, the Python of an
environment with the peers (`peer_prepare.py`). Out: results/prepare_speed.json.

    python benchmarks/prepare_speed.py wikipedia-en-sample.jsonl.zst r50k_base.tiktoken \\
        --peers ../bench/bin/python

Both sides do the same named steps with the same number of processes: read JSON lines, Gopher's
quality rules, C4 (without the rule on line ends), FineWeb, Gopher's repetition, personal data,
GPT-2's tokens, files of tokens. Ours also normalises, drops exact duplicates, and writes document
shards between the two. Times are of whole processes, start included. Language identification is
left out: datatrove's needs a model to be downloaded. `--steps` also times each step and each
pass alone, in this process.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from common import parser_for, write_result

from hornbook.corpus.batch import Batch, Step, batches
from hornbook.corpus.config import (
    C4Config,
    FinewebConfig,
    GopherConfig,
    LanguageConfig,
    NearConfig,
    PrepareConfig,
    RepetitionConfig,
)
from hornbook.corpus.decide import decide
from hornbook.corpus.exact import ExactPass
from hornbook.corpus.language import LanguageStep
from hornbook.corpus.near import Signed, near_duplicates
from hornbook.corpus.pii import PiiStep
from hornbook.corpus.prepare import cleaner
from hornbook.corpus.quality import GopherStep
from hornbook.corpus.quality_lines import C4Step, FinewebStep
from hornbook.corpus.repetition import RepetitionStep
from hornbook.corpus.signatures import band_hashes
from hornbook.corpus.spool import Part, SpoolWriter, read_spool
from hornbook.corpus.steps import NormaliseStep
from hornbook.corpus.words import plain_hashes
from hornbook.corpus.write import ShardWriter
from hornbook.documents import Document, read_documents
from hornbook.gather.readers import read_inputs

NAMED_STEPS = ["gopher", "c4", "fineweb", "repetition"]


def texts(path: Path, most_bytes: float) -> Iterator[str]:
    """The texts of a file, up to so many bytes."""
    with pa.input_stream(str(path), compression="detect") as stream:
        size = 0
        for line in io.TextIOWrapper(stream, "utf-8"):
            text = json.loads(line)["text"]
            yield text
            size += len(text.encode())
            if size > most_bytes:
                return


def write_halves(documents: list[str], folder: Path) -> int:
    """Write JSON lines, a file a worker of the peers; bytes of text."""
    folder.mkdir()
    for worker in range(2):
        with (folder / f"{worker}.jsonl").open("w", encoding="utf-8") as file:
            for number, text in enumerate(documents[worker::2]):
                row = {"id": f"{worker}-{number}", "text": text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return sum(len(text.encode()) for text in documents)


def timed(command: list[str | Path]) -> tuple[float, str]:
    """Seconds of a process and what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    begin = time.perf_counter()
    words = list(map(str, command))
    done = subprocess.run(words, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{words}: {done.stderr[-2000:]}")
    return time.perf_counter() - begin, done.stdout


def ours(inputs: Path, folder: Path, ranks: Path) -> dict[str, Any]:
    """Seconds of our two stages."""
    hornbook = [sys.executable, "-m", "hornbook"]
    switches = [word for name in NAMED_STEPS for word in (f"--prepare.{name}.on", "true")]
    switches += ["--prepare.pii.emails", "true", "--prepare.pii.ips", "true"]
    run = ["--run", folder / "run"]
    prepare, _ = timed([*hornbook, "prepare", inputs, *run, "--prepare.workers", "2", *switches])
    tokenize, _ = timed(
        [*hornbook, "tokenize", *run, "--tokenize.kind", "gpt2", "--tokenize.file", ranks]
    )
    report = json.loads((folder / "run" / "prepare" / "prepare.json").read_text())
    return {
        "prepare_seconds": prepare,
        "tokenize_seconds": tokenize,
        "documents": report["kept"]["documents"],
        "dropped": {name: count["documents"] for name, count in report["dropped"].items()},
    }


def peer(python: Path, name: str, inputs: Path, folder: Path, tokenizer: Path) -> dict[str, Any]:
    """Seconds of a peer, and what it kept."""
    folder.mkdir()
    script = Path(__file__).with_name("peer_prepare.py")
    seconds, said = timed([python, script, name, inputs, folder, tokenizer])
    return {"seconds": seconds, **json.loads(said.splitlines()[-1])}


def each_step(documents: list[str], bytes: int) -> dict[str, float]:
    """MB a second of each step alone, in this process."""
    steps: list[Step] = [
        NormaliseStep(characters=True, encoding=False),
        LanguageStep(LanguageConfig()),
        GopherStep(GopherConfig()),
        C4Step(C4Config()),
        FinewebStep(FinewebConfig()),
        RepetitionStep(RepetitionConfig()),
        PiiStep(emails=True, ips=True),
    ]
    made = list(batches(map(Document, documents)))
    speeds = {}
    for step in steps:
        step(Batch([Document("It loads what it needs.")]))
        begin = time.process_time()
        for batch in made:
            step(batch)
        speeds[step.name] = bytes / 1e6 / (time.process_time() - begin)
    begin = time.process_time()
    for text in documents:
        plain_hashes(text)
    return {**speeds, "hashes of words": bytes / 1e6 / (time.process_time() - begin)}


def each_pass(source: Path, documents: list[str], bytes: int) -> dict[str, float]:
    """MB a second of each pass of prepare in one process, and microseconds a document of those
    that do not read the text: what docs/scaling.md multiplies."""
    speeds = {}

    def took(name: str, begin: float) -> None:
        speeds[name] = bytes / 1e6 / (time.process_time() - begin)

    begin = time.process_time()
    for _ in read_inputs([source]):
        pass
    took("reading", begin)
    made = list(batches(map(Document, documents)))
    settings = {
        "cleaning, plain": PrepareConfig(),
        "cleaning, near duplicates besides": PrepareConfig(near=NearConfig(on=True)),
        "cleaning, preset web": PrepareConfig(preset="web"),
    }
    with tempfile.TemporaryDirectory() as name:
        work = Path(name, "work")
        for pass_name, config in settings.items():
            clean = cleaner(config)
            clean([Document("It loads what it needs.")])
            begin = time.process_time()
            cleaned = [clean(batch.documents) for batch in made]
            took(pass_name, begin)
            if pass_name == "cleaning, plain":
                begin = time.process_time()
                with SpoolWriter(Part(work, 0)) as writer:
                    for rows in cleaned:
                        writer.add(rows)
                took("spooling", begin)
                spool = read_spool(work)
                plan = decide(PrepareConfig(passages="never"), work, spool)
        begin = time.process_time()
        for shard in plan.shards:
            ShardWriter(spool, work, Path(name))(shard)
        took("writing", begin)
        return speeds | each_document(Path(name))


@dataclass
class Arrays:
    """Signatures and bands as a segment of the spool has them."""

    signatures: npt.NDArray[np.uint32]
    bands: npt.NDArray[np.uint64]

    @property
    def documents(self) -> int:
        return len(self.signatures)

    def array(self, name: Literal["signatures", "bands"]) -> npt.NDArray[Any]:
        return self.signatures if name == "signatures" else self.bands


def each_document(folder: Path, count: int = 500_000) -> dict[str, float]:
    """Microseconds a document of finding duplicates, a tenth of them near to another one."""
    draw = np.random.default_rng(0)
    memory = 10**7  # so little that they are sorted on disk, as 50 million are
    begin = time.process_time()
    exact = ExactPass(folder / "exact", memory)
    exact.add(draw.integers(0, 2**64 - 1, (count, 2), np.uint64))
    for _ in exact.duplicates():
        pass
    took = {"exact duplicates, us a document": (time.process_time() - begin) / count * 1e6}
    signed = draw.integers(0, 2**32 - 1, (count, 112), np.uint32)
    copies = np.arange(0, count // 2, 5)
    signed[count // 2 + copies] = signed[copies]
    signed[count // 2 + copies, ::10] += np.uint32(1)
    near, everybody = NearConfig(), np.ones(count, np.bool_)
    documents = Signed([Arrays(signed, band_hashes(signed, near.bands, near.rows))])
    begin = time.process_time()
    near_duplicates(documents, near.bands, near.threshold, folder, memory, everybody, lambda: None)
    took["near duplicates, us a document"] = (time.process_time() - begin) / count * 1e6
    return took


def main() -> None:
    parser = parser_for(__doc__, tiny=False)
    parser.add_argument("text", type=Path, help="JSON lines with a text each")
    parser.add_argument("ranks", type=Path, help="r50k_base.tiktoken")
    parser.add_argument("--peers", type=Path, help="Python with datatrove, datasets, tiktoken")
    parser.add_argument("--megabytes", type=float, default=1e6, help="of the text; all of it")
    parser.add_argument("--steps", action="store_true", help="time each step alone, too")
    arguments = parser.parse_args()
    documents = list(texts(arguments.text, arguments.megabytes * 1e6))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bytes = write_halves(documents, folder / "texts")
        result: dict[str, Any] = {"bytes": bytes, "documents": len(documents), "processes": 2}
        result["hornbook"] = ours(folder / "texts", folder, arguments.ranks)
        if arguments.peers:
            tokenizer = folder / "run" / "tokenize" / "tokenizer" / "tokenizer.json"
            result["datatrove"] = peer(
                arguments.peers, "datatrove", folder / "texts", folder / "datatrove", tokenizer
            )
            prepared = [
                document.text
                for split in ("train", "validation")
                for document in read_documents(folder / "run" / "prepare" / split)
            ]
            write_halves(prepared, folder / "prepared")
            result["nanogpt"] = peer(
                arguments.peers, "nanogpt", folder / "prepared", folder / "nanogpt", arguments.ranks
            )
            mine = result["hornbook"]
            whole = mine["prepare_seconds"] + mine["tokenize_seconds"]
            result["times_datatrove"] = result["datatrove"]["seconds"] / whole
            result["times_nanogpt"] = result["nanogpt"]["seconds"] / mine["tokenize_seconds"]
        if arguments.steps:
            result["megabytes_per_second"] = each_step(documents, bytes)
            result["passes"] = each_pass(folder / "texts", documents, bytes)
    print(json.dumps(result, indent=2))
    write_result(arguments.out, "prepare_speed", result)


if __name__ == "__main__":
    main()
