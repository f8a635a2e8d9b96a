"""The tokenize stage: documents to token shards.

In: a prepare folder (`train/`, `validation/`). Out: `tokenizer/`, the token shards of both splits,
beside each a `NAME.docs.parquet` that says where its documents came from, and `manifest.json`.

Shards are finished one by one and recorded in `unfinished.json`; a run that was killed goes on
after the last one whose files are whole. The result is the same as without the kill.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hornbook.documents import Document, open_shard, read_documents, shard_paths
from hornbook.errors import HornbookError
from hornbook.files import disk_errors, read_json, sha256_of, write_json
from hornbook.progress import Bar, bar, say
from hornbook.tokenizer.build import build_tokenizer
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.encoder import CHECKED_DOCUMENTS, Encoder, choose_encoder
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.document_table import DocumentTable
from hornbook.tokens.manifest import FORMAT_VERSION, NAME, Manifest, ShardInfo
from hornbook.tokens.shards import ShardWriter, remove_temporary, token_dtype

SPLITS = ("train", "validation")
UNFINISHED = "unfinished.json"

BATCH_BYTES = 8 * 2**20
"""Text handed to the encoder at a time: enough to keep several processes busy."""

_PLACES = 8
"""Where in the documents those are taken on which encoders are compared: a row group is read whole,
25 ms each."""


def tokenize(config: TokenizeConfig, documents: Path, out: Path) -> Manifest:
    """Build the tokenizer from the training documents and encode both splits.

    Args:
        config: the recipe's `tokenize` section.
        documents: a folder with `train/` and `validation/`, as `prepare` writes it.
        out: where tokenizer/, shards and manifest.json go. Older shards in it are removed.

    Returns:
        The manifest, which is also the last file written.

    Raises:
        HornbookError: documents are missing or damaged, the tokenizer cannot be built, or the disk
            is full or read-only.
    """
    if config.shard_tokens < 1:
        raise HornbookError(
            f"must be at least 1, not {config.shard_tokens}", where="tokenize.shard_tokens"
        )
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / NAME).unlink(missing_ok=True)  # until it is there again, nothing in `out` counts
        remove_temporary(out)
    tokenizer = build_tokenizer(config, documents / "train", out / "tokenizer")
    with choose_encoder(tokenizer, config, _sample(documents / "train")) as encoder:
        manifest = Manifest(
            tokenizer_sha256=tokenizer.sha256,
            vocabulary=tokenizer.size,
            dtype=token_dtype(tokenizer.size),
            end_of_text=tokenizer.end_of_text,
            encoder=encoder.name,
            encoder_checked_documents=encoder.checked_documents,
        )
        work = _Work(config, documents, out, tokenizer, encoder, manifest)
        work.take_up()
        for split in SPLITS:
            work.write_split(split)
    work.finish()
    return manifest


@dataclass
class _Work:
    """One run of the stage: what it reads, where it writes, and what is done so far."""

    config: TokenizeConfig
    documents: Path
    out: Path
    tokenizer: Tokenizer
    encoder: Encoder
    manifest: Manifest
    key: str = ""

    def take_up(self) -> None:
        """Keep the shards of a killed run that are whole, if it did exactly the same work."""
        self.key = self._key()
        path = self.out / UNFINISHED
        record = read_json(path) if path.is_file() else {}
        if record.get("key") != self.key:
            return
        for entry in record["shards"]:
            shard = ShardInfo(**entry)
            try:
                self.manifest.check(self.out, [shard], verify=True)
            except HornbookError as error:
                say(f"{error.where} {error.what}: going on from here")
                break
            self.manifest.shards.append(shard)
        if self.manifest.shards:
            say(f"going on after {len(self.manifest.shards)} finished token shards")

    def write_split(self, split: str) -> None:
        """Encode the documents of a split that no finished shard holds."""
        folder = self.documents / split
        done = sum(shard.documents for shard in self.manifest.split(split))
        total = 0
        for path in shard_paths(folder):
            with open_shard(path) as shard:
                total += shard.metadata.num_rows
        with bar(f"tokenizing {split}", total) as progress:
            progress.restart(done, total)
            encoded = self._encoded(islice(read_documents(folder), done, None), progress)
            first = next(encoded, None)
            while first is not None:
                first = self._write_shard(split, first, encoded)

    def finish(self) -> None:
        """Remove what is not of this run, and write the manifest."""
        names = {shard.name for shard in self.manifest.shards}
        for split in SPLITS:
            for path in self.out.glob(f"{split}-*"):
                if path.name.split(".")[0] not in names:
                    path.unlink()
        self.manifest.write(self.out)
        (self.out / UNFINISHED).unlink(missing_ok=True)

    def _encoded(self, documents: Iterator[Document], progress: Bar) -> Iterator[_Encoded]:
        tokens = 0
        for batch in _batches(documents):
            ids = self.encoder.encode_batch([document.text for document, _ in batch])
            tokens += sum(map(len, ids))
            for (document, size), document_ids in zip(batch, ids, strict=True):
                whole = np.append(document_ids, self.tokenizer.end_of_text)
                yield _Encoded(document, whole, size)
            progress.advance(len(batch), f"{tokens:,} tokens")

    def _write_shard(
        self, split: str, first: _Encoded, rest: Iterator[_Encoded]
    ) -> _Encoded | None:
        """Write one shard, beginning with `first`; returns the document after it, if any."""
        name = f"{split}-{len(self.manifest.split(split)):05d}"
        document: _Encoded | None = first
        with (
            ShardWriter(self.out, name, self.manifest.dtype) as writer,
            DocumentTable(self.out / f"{name}.docs.parquet") as table,
        ):
            while document is not None and writer.tokens < self.config.shard_tokens:
                writer.append(document.ids)
                table.append(document.document, tokens=document.ids.size, text_bytes=document.bytes)
                document = next(rest, None)
        assert writer.written is not None
        written = writer.written
        self.manifest.shards.append(
            ShardInfo(
                name=name,
                split=split,
                tokens=written.tokens,
                documents=written.documents,
                bytes=table.bytes,
                bin_sha256=written.bin_sha256,
                idx_sha256=written.idx_sha256,
                sources=dict(table.sources),
                licences=dict(table.licences),
            )
        )
        shards = [asdict(shard) for shard in self.manifest.shards]
        write_json(self.out / UNFINISHED, {"key": self.key, "shards": shards})
        return document

    def _key(self) -> str:
        """Hash of all that decides the shards' content."""
        paths = [path for split in SPLITS for path in shard_paths(self.documents / split)]
        facts = [FORMAT_VERSION, self.tokenizer.sha256, self.config.shard_tokens]
        files = [[path.parent.name, path.name, sha256_of(path)] for path in paths]
        return hashlib.sha256(json.dumps([facts, files]).encode()).hexdigest()


@dataclass(frozen=True)
class _Encoded:
    document: Document
    ids: NDArray[np.integer[Any]]
    bytes: int


def _batches(documents: Iterator[Document]) -> Iterator[list[tuple[Document, int]]]:
    """Documents with the bytes of their text, about `BATCH_BYTES` at a time."""
    batch: list[tuple[Document, int]] = []
    size = 0
    for document in documents:
        text_bytes = len(document.text.encode("utf-8"))
        batch.append((document, text_bytes))
        size += text_bytes
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _sample(folder: Path) -> list[str]:
    """Texts from all over the documents, on which the encoders are compared."""
    groups: list[tuple[Path, int]] = []
    for path in shard_paths(folder):
        with open_shard(path) as shard:
            groups += [(path, group) for group in range(shard.num_row_groups)]
    step = -(-len(groups) // _PLACES)
    chosen = groups[::step] if groups else []
    texts: list[str] = []
    for path, group in chosen:
        with open_shard(path) as shard:
            each = -(-CHECKED_DOCUMENTS // len(chosen))
            rows = next(shard.iter_batches(each, row_groups=[group], columns=["text"]))
            texts += rows.column("text").to_pylist()
    return texts
