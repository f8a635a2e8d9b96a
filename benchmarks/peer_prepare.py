"""What others need for what `hornbook prepare` and `tokenize` do; run by `prepare_speed.py`.

In: the name of a peer, a folder of JSON lines, a folder for its output, and a tokenizer. Out: JSON
on the last line of stdout. Runs in an environment of its own: `pip install "datatrove[io]==0.10.1"
spacy tokenizers datasets tiktoken`.

`datatrove`: its filters as FineWeb has them, in the order of hornbook's steps, and its
DocumentTokenizer, by its LocalPipelineExecutor. `nanogpt`: data/openwebtext/prepare.py of
github.com/karpathy/nanoGPT (MIT), which is `datasets.map` with tiktoken and a memory map.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def datatrove(inputs: Path, out: Path, tokenizer: Path, workers: int) -> dict[str, int]:
    """One file of `inputs` is one task."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(inputs), glob_pattern="*.jsonl"),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            FineWebQualityFilter(),
            GopherRepetitionFilter(),
            PIIFormatter(),
            DocumentTokenizer(
                str(out / "tokens"),
                tokenizer_name_or_path=str(tokenizer),
                eos_token="<|endoftext|>",
                shuffle_documents=False,
            ),
        ],
        tasks=len(list(inputs.glob("*.jsonl"))),
        workers=workers,
        logging_dir=str(out / "log"),
        skip_completed=False,
    ).run()
    steps = json.loads((out / "log" / "stats.json").read_text())
    kept = [step["stats"]["doc_len"]["n"] for step in steps if "doc_len" in step["stats"]]
    tokens = sum(path.stat().st_size for path in (out / "tokens").glob("*.ds")) // 2
    return {"documents": kept[-1], "tokens": tokens}


def nanogpt(inputs: Path, out: Path, ranks: Path, workers: int) -> dict[str, int]:
    """Tokenizing alone, of documents that are prepared already."""
    import numpy as np
    import tiktoken
    from datasets import load_dataset
    from tiktoken.load import load_tiktoken_bpe

    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        mergeable_ranks=load_tiktoken_bpe(str(ranks)),
        special_tokens={"<|endoftext|>": 50256},
    )

    def process(example: dict[str, str]) -> dict[str, object]:
        ids = encoding.encode_ordinary(example["text"])
        ids.append(encoding.eot_token)
        return {"ids": ids, "len": len(ids)}

    files = [str(path) for path in sorted(inputs.glob("*.jsonl"))]
    dataset = load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    tokenized = dataset.map(process, remove_columns=dataset.column_names, num_proc=workers)
    total = int(np.sum(tokenized["len"], dtype=np.uint64))
    array = np.memmap(out / "train.bin", dtype=np.uint16, mode="w+", shape=(total,))
    index, batches = 0, min(1024, len(tokenized))
    for number in range(batches):
        batch = tokenized.shard(num_shards=batches, index=number, contiguous=True)
        ids = np.concatenate(batch.with_format("numpy")["ids"])
        array[index : index + len(ids)] = ids
        index += len(ids)
    array.flush()
    return {"documents": len(dataset), "tokens": total}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peer", choices=["datatrove", "nanogpt"])
    parser.add_argument("inputs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    run = {"datatrove": datatrove, "nanogpt": nanogpt}[arguments.peer]
    print(json.dumps(run(arguments.inputs, arguments.out, arguments.tokenizer, arguments.workers)))
