"""Prepare's memory does not grow with the text."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "prepare_memory.py"


@pytest.mark.long
@pytest.mark.shared
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_memory_is_flat_and_below_2_gb(shared_data: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("prepare_memory", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules["prepare_memory"] = script
    spec.loader.exec_module(script)
    peaks = []
    for megabytes in (60, 240):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        sample = str(shared_data / "wikipedia-en-sample.jsonl.zst")
        corpus = script.write_corpus(sample, megabytes, folder / "corpus.jsonl")
        peak, _ = script.watched(corpus, folder / "out")
        assert (folder / "out" / "prepare.json").exists()
        peaks.append(peak)
    assert max(peaks) < 2e9
    # Four times the text; what is read and mapped but could be dropped is counted, too.
    assert peaks[1] < 1.5 * peaks[0]
