"""Speed of tokenizing alone, side by side with nanoGPT's way (datasets' map and tiktoken).

In: a prepare folder (`train/`, `validation/`), GPT-2's ranks, the Python of an environment with the
peer (`peer_prepare.py`). Out: results/tokenize_speed.json.

    hornbook prepare wikiVisual/text --run wikipedia
    python benchmarks/tokenize_speed.py wikipedia r50k_base.tiktoken --peers ../bench/bin/python

Both read the same documents, ours from its shards, the peer from JSON lines, and write files of
uint16 tokens, on the same number of cores. Times are of whole processes, start included, taken in
turn `--times` times; the ratio is of the medians.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import parser_for, write_result
from prepare_speed import peer, timed, write_halves

from hornbook.documents import read_documents


def ours(run: Path, ranks: Path) -> float:
    """Seconds of our stage, from nothing."""
    shutil.rmtree(run / "tokenize", ignore_errors=True)
    kind = ["--tokenize.kind", "gpt2", "--tokenize.file", ranks]
    seconds, _ = timed([sys.executable, "-m", "hornbook", "tokenize", "--run", run, *kind])
    return seconds


def main() -> None:
    parser = parser_for(__doc__, tiny=False)
    parser.add_argument("run", type=Path, help="a run directory whose text is prepared")
    parser.add_argument("ranks", type=Path, help="r50k_base.tiktoken")
    parser.add_argument("--peers", type=Path, required=True, help="Python with datasets, tiktoken")
    parser.add_argument("--times", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = [
            document.text
            for split in ("train", "validation")
            for document in read_documents(arguments.run / "prepare" / split)
        ]
        bytes = write_halves(documents, folder / "texts")
        result: dict[str, Any] = {"bytes": bytes, "documents": len(documents), "processes": 2}
        del documents
        mine, theirs = [], []
        for time in range(arguments.times):
            mine.append(ours(arguments.run, arguments.ranks))
            out = folder / f"nanogpt-{time}"
            said = peer(arguments.peers, "nanogpt", folder / "texts", out, arguments.ranks)
            theirs.append(said["seconds"])
            shutil.rmtree(out)
        result |= {"hornbook_seconds": mine, "nanogpt_seconds": theirs, "tokens": said["tokens"]}
        result["times_nanogpt"] = statistics.median(theirs) / statistics.median(mine)
    print(json.dumps(result, indent=2))
    write_result(arguments.out, f"tokenize_speed_{bytes // 10**6}mb", result)


if __name__ == "__main__":
    main()
