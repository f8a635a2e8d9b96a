"""The blocks of a feed's log: numbered texts, compressed together, under two checksums.

In: texts of documents and their other fields. Out: bytes for the end of a segment file, and back.

A segment `segment-FIRST.log` is a header and then blocks. Little-endian:

    segment   8s  b"HBFEED01"      16s  the log's id       u64  number of its first text
    block     4s  b"HBLK"          u32  bytes raw          u32  bytes stored
              u32 texts            u32  bytes of texts     u64  number of the first
              8s  blake2b of the 28 bytes before           8s  blake2b of the payload
    payload   one Zstandard frame of: u32 end of each text, u32 end of each record's other fields,
              texts, other fields, state

A text is a JSON string and a comma, the other fields of its document are a JSON object and a
comma: so an answer to a reader is a slice of the payload between two brackets. `state` is JSON:
where the producers were after this block. The checksums are keyed with the log's id, so that no
text can pass for a block. The segment's header only names the file: damage to it costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hornbook.documents import Document, mend_surrogates

SEGMENT_HEADER = struct.Struct("<8s16sQ")
SEGMENT_MAGIC = b"HBFEED01"
BLOCK_MAGIC = b"HBLK"
_FIELDS = struct.Struct("<4sIIIIQ")
_DIGEST = 8
BLOCK_HEADER = _FIELDS.size + 2 * _DIGEST

_INDEX_MAGIC = b"HBFIDX01"
_CODEC = "zstd"
_as_json = json.JSONEncoder(ensure_ascii=False).encode  # `dumps` would make one for each text
_LEVEL = 3  # on Shakespeare 36,000 texts/s of 2 kB and more on one core, with JSON and checksum


class Block(NamedTuple):
    """Where a block is, and what is in it.

    Attributes:
        first: number of its first text.
        records: how many texts.
        raw: bytes of the payload before compression.
        stored: bytes of the payload in the file.
        text_bytes: bytes of its texts as JSON.
        offset: of its header in the segment.
    """

    first: int
    records: int
    raw: int
    stored: int
    text_bytes: int
    offset: int

    @property
    def next(self) -> int:
        """Number of the text after its last one."""
        return self.first + self.records

    @property
    def end(self) -> int:
        """Offset of whatever follows it in the segment."""
        return self.offset + BLOCK_HEADER + self.stored


def meta_of(document: Document) -> dict[str, Any]:
    """The fields of a document that have something in them, but for its text."""
    fields = {name: value for name, value in vars(document).items() if value and name != "text"}
    if document.own_id() == document.id:
        del fields["id"]
    return fields


def document_from(text: str, meta: dict[str, Any]) -> Document:
    """The document that `meta_of` took apart."""
    return Document(text, **meta)


def json_text(text: str) -> bytes:
    """A text as it is in a block and in an answer: a JSON string in UTF-8, and a comma."""
    return _in_utf8(_as_json(text)) + b","


def json_meta(document: Document) -> bytes:
    """A document's other fields as they are in a block: a JSON object, and a comma."""
    return _in_utf8(_as_json(meta_of(document))) + b","


def _in_utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return mend_surrogates(text).encode()


def encode_block(
    key: bytes, first: int, texts: Sequence[bytes], metas: Sequence[bytes], state: dict[str, Any]
) -> tuple[bytes, Block]:
    """A block's bytes, and what they are, at offset 0.

    Args:
        key: the log's id, 16 bytes.
        first: number of the first text.
        texts: of each document `json_text`.
        metas: of each document `json_meta`.
        state: of the producers after these texts.
    """
    ends = np.concatenate([np.cumsum([len(part) for part in parts]) for parts in (texts, metas)])
    raw = b"".join([ends.astype("<u4").tobytes(), *texts, *metas, json.dumps(state).encode()])
    assert len(raw) < 2**32, "a block's lengths are 32-bit numbers"
    payload = pa.Codec(_CODEC, compression_level=_LEVEL).compress(raw, asbytes=True)
    text_bytes = int(ends[len(texts) - 1])
    fields = _FIELDS.pack(BLOCK_MAGIC, len(raw), len(payload), len(texts), text_bytes, first)
    header = fields + _digest(fields, key) + _digest(payload, key)
    return header + payload, Block(first, len(texts), len(raw), len(payload), text_bytes, 0)


def _digest(data: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST, key=key).digest()


def _whole_block(data: bytes, offset: int, key: bytes) -> Block | None:
    """The block at an offset, if both its checksums hold."""
    header = data[offset : offset + BLOCK_HEADER]
    if len(header) < BLOCK_HEADER:
        return None
    fields = header[: _FIELDS.size]
    if header[_FIELDS.size : -_DIGEST] != _digest(fields, key):
        return None
    _, raw, stored, records, text_bytes, first = _FIELDS.unpack(fields)
    block = Block(first, records, raw, stored, text_bytes, offset)
    payload = data[offset + BLOCK_HEADER : block.end]
    return block if header[-_DIGEST:] == _digest(payload, key) else None


def scan(path: Path, key: bytes, first: int) -> list[Block]:
    """The whole blocks of a segment that begins with number `first`; none of one that is not there.

    What is damaged shows as a gap in the numbers; what was only half written, as bytes behind the
    last block's end. Raises `OSError`.
    """
    try:
        data = path.read_bytes()  # not mapped: a writer may cut off its end meanwhile
    except FileNotFoundError:  # dropped by its writer meanwhile
        return []
    blocks: list[Block] = []
    offset = SEGMENT_HEADER.size
    while 0 <= offset < len(data):
        block = _whole_block(data, offset, key)
        if block is not None and block.first >= first:
            blocks.append(block)
            first, offset = block.next, block.end
        else:
            offset = data.find(BLOCK_MAGIC, offset + 1)
    return blocks


def read_block(path: Path, block: Block, key: bytes) -> Decoded | None:
    """The content of a block; None: it is damaged. Raises `OSError`."""
    with open(path, "rb", buffering=0) as file:
        file.seek(block.offset)
        data = file.read(BLOCK_HEADER + block.stored) or b""
    found = _whole_block(data, 0, key)
    if found is None or found._replace(offset=block.offset) != block:
        return None
    payload = memoryview(data)[BLOCK_HEADER:]
    raw = pa.Codec(_CODEC).decompress(payload, decompressed_size=block.raw, asbytes=True)
    ends = np.zeros((2, block.records + 1), np.int64)
    ends[:, 1:] = np.frombuffer(raw, "<u4", 2 * block.records).reshape(2, -1)
    return Decoded(block, raw, ends)


@dataclass(frozen=True)
class Decoded:
    """The content of a block.

    Args:
        block: which it is.
        raw: the payload.
        ends: int64 [2, records + 1], where each text ends, counted from the beginning of the first;
            and the same of the other fields.
    """

    block: Block
    raw: bytes
    ends: NDArray[np.int64]

    def texts(self, begin: int, end: int) -> bytes:
        """The texts [begin, end) of the block as JSON, each with a comma behind it."""
        return self._part(8 * self.block.records, self.ends[0, [begin, end]])

    def metas(self, begin: int, end: int) -> bytes:
        """Their other fields, likewise."""
        start = 8 * self.block.records + self.block.text_bytes
        return self._part(start, self.ends[1, [begin, end]])

    def state(self) -> dict[str, Any]:
        """Where the producers were after this block."""
        start = 8 * self.block.records + self.block.text_bytes + int(self.ends[1, -1])
        state: dict[str, Any] = json.loads(self.raw[start:])
        return state

    def fitting(self, begin: int, most_bytes: int) -> int:
        """The end of the texts from `begin` on that are at most so many bytes together."""
        most = self.ends[0, begin] + most_bytes
        return int(np.searchsorted(self.ends[0], most, side="right")) - 1

    def _part(self, start: int, ends: NDArray[np.int64]) -> bytes:
        return self.raw[start + ends[0] : start + ends[1]]


def index_bytes(blocks: Sequence[Block]) -> bytes:
    """The index `segment-FIRST.idx` of a segment that is full: saves scanning it."""
    table = np.array(blocks, "<u8").reshape(-1, len(Block._fields))
    content = _INDEX_MAGIC + table.tobytes()
    return content + _digest(content, b"")


def read_index(path: Path) -> list[Block] | None:
    """The blocks in an index; None: there is none, or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    content = data[:-_DIGEST]
    if data[-_DIGEST:] != _digest(content, b"") or content[:8] != _INDEX_MAGIC:
        return None
    table = np.frombuffer(content, "<u8", offset=8).reshape(-1, len(Block._fields))
    return [Block(*row) for row in table.tolist()]
