"""The hub: what is listed, downloaded, read and left out; against a stand-in on loopback."""

from __future__ import annotations

import errno
import inspect
import io
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from tests.gather.hub_server import Hub, serve_hub

from hornbook.documents import Document, read_documents
from hornbook.errors import HornbookError
from hornbook.gather.collect import GatherReport, collect
from hornbook.gather.config import GatherConfig, HubConfig, NetworkConfig
from hornbook.gather.hub import HubSource
from hornbook.gather.hub_presets import PRESETS
from hornbook.gather.source import StopGathering

NAME = "someone/some-set"


def parquet(rows: list[dict[str, Any]], group: int = 10) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=group)
    return sink.getvalue()


def rows(name: str, count: int) -> list[dict[str, Any]]:
    return [{"text": f"{name} {n} " + "words " * 50, "url": f"u:{name}:{n}"} for n in range(count)]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hornbook.gather.client.LONGEST_BACKOFF_S", 0.0)


@pytest.fixture
def files() -> dict[str, bytes]:
    lines = [json.dumps({"text": f"line {n}", "meta": {"n": n}}) for n in range(5)]
    return {
        "README.md": b"about",
        "data/b/0.parquet": parquet(rows("b", 25)),
        "data/a/0.parquet": parquet(rows("a", 35)),
        "data/a/1.parquet": parquet(rows("c", 15)),
        "more/x y.jsonl": "\n".join(lines).encode(),
    }


def gather(url: str, out: Path, **settings: Any) -> GatherReport:
    given = {"dataset": NAME, "endpoint": url, **settings}
    network = NetworkConfig(allow_private=True, requests_per_minute=60_000)
    return collect(HubSource(HubConfig(**given)), GatherConfig(network=network), out)


def texts(out: Path) -> list[str]:
    return [" ".join(document.text.split()[:2]) for document in read_documents(out)]


ALL = [f"{name} {n}" for name, count in (("a", 35), ("c", 15), ("b", 25)) for n in range(count)]


def test_all_parquet_in_the_order_of_paths(files: dict[str, bytes], tmp_path: Path) -> None:
    with serve_hub(Hub(NAME, files)) as hub:
        report = gather(hub.url, tmp_path)
    assert texts(tmp_path) == ALL and report.documents == 75
    first = next(iter(read_documents(tmp_path)))
    assert first == Document(first.text, source=NAME, url="u:a:0", licence="odc-by")
    assert hub.revisions == ["main"] and not (tmp_path / "work").exists()
    assert not [path for path in hub.asked if "README" in path or "jsonl" in path]


def test_pattern_and_lines(files: dict[str, bytes], tmp_path: Path) -> None:
    with serve_hub(Hub(NAME, files)) as hub:
        gather(hub.url, tmp_path / "a", pattern="more/*", revision="refs/convert/x")
        del files["data/b/0.parquet"], files["data/a/0.parquet"], files["data/a/1.parquet"]
        gather(hub.url, tmp_path / "b")
        with pytest.raises(HornbookError, match=r"no file matches z\*; there are: README"):
            gather(hub.url, tmp_path / "c", pattern="z*")
    assert hub.revisions[0] == "refs/convert/x"
    documents = list(read_documents(tmp_path / "a"))
    assert texts(tmp_path / "a") == texts(tmp_path / "b") == [f"line {n}" for n in range(5)]
    assert documents[3].meta == {"n": 3} and documents[3].source == NAME


def test_a_budget(files: dict[str, bytes], tmp_path: Path) -> None:
    size = sum(len(row["text"]) for row in rows("a", 8))
    with serve_hub(Hub(NAME, files)) as hub:
        gather(hub.url, tmp_path / "a", max_tokens=f"{(size - 10) / 4.3 / 1000:.6f}K", downloads=1)
        gather(hub.url, tmp_path / "b", max_tokens=f"{size / 4.3 / 1000:.3f}K", downloads=1)
    assert texts(tmp_path / "a") == ALL[:8]
    assert texts(tmp_path / "b") in (ALL[:8], ALL[:9])  # a token count is an estimate
    assert not [path for path in hub.asked if path == "/cdn/data/b/0.parquet"]


def test_throttled_broken_and_gone_on_with(files: dict[str, bytes], tmp_path: Path) -> None:
    hub = Hub(NAME, files, failures={"/tree/": [429], "/resolve/": [503], "/cdn/": [500]})
    hub.cut_off = {"data/a/0.parquet": 700}
    with serve_hub(hub):
        gather(hub.url, tmp_path)
    assert texts(tmp_path) == ALL


def test_keys(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_hub(Hub(NAME, files, token="sesame")) as hub:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        with pytest.raises(HornbookError, match=r"refuses \(HTTP 401\).*token into HF_TOKEN"):
            gather(hub.url, tmp_path)
        monkeypatch.setenv("HF_TOKEN", "wrong")
        with pytest.raises(HornbookError, match="Does the token in HF_TOKEN have access") as met:
            gather(hub.url, tmp_path)
        assert "wrong" not in str(met.value)
        monkeypatch.setenv("HF_TOKEN", "sesame")
        gather(hub.url, tmp_path)
    assert texts(tmp_path) == ALL
    assert "sesame" not in "".join(
        path.read_text(errors="ignore") for path in tmp_path.iterdir() if path.is_file()
    )


def test_the_key_stays_with_the_hub(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files come from another host, which must not see it."""
    monkeypatch.setenv("HF_TOKEN", "sesame")
    with serve_hub(Hub(NAME, files)) as cdn, serve_hub(Hub(NAME, files, token="sesame")) as hub:
        own, hub.url = hub.url, cdn.url  # redirects and further pages lead there
        with pytest.raises(HornbookError, match="goes on at another server"):
            gather(own, tmp_path)
        files.clear()
        files["0.parquet"] = parquet(rows("a", 35))
        gather(own, tmp_path)
    assert cdn.asked == ["/cdn/0.parquet"]
    assert [token for _, token in cdn.tokens] == [""]


def test_a_disk_that_fills_while_downloading(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with serve_hub(Hub(NAME, files)) as hub:
        with monkeypatch.context() as limited:
            limited.setattr("hornbook.gather.download.os.fsync", full)
            with pytest.raises(HornbookError, match="the disk is full"):
                gather(hub.url, tmp_path)
        gather(hub.url, tmp_path)
    assert texts(tmp_path) == ALL


def test_wrong_bytes(files: dict[str, bytes], tmp_path: Path) -> None:
    """Bytes of another hash than the hub announced are refused, and fetched anew next time."""
    hub = Hub(NAME, files)
    with serve_hub(hub):
        hub.damaged.add("data/a/1.parquet")
        with pytest.raises(StopGathering, match="the bytes have sha256"):
            gather(hub.url, tmp_path)
        assert texts(tmp_path) == ALL[:35]
        hub.damaged.clear()
        gather(hub.url, tmp_path)
    assert texts(tmp_path) == ALL


def test_the_revision_is_that_of_the_first_start(files: dict[str, bytes], tmp_path: Path) -> None:
    hub = Hub(NAME, files, failures={"cdn/data/a/1": [404]})
    with serve_hub(hub):
        with pytest.raises(HornbookError, match="is not on the hub"):
            gather(hub.url, tmp_path)
        gather(hub.url, tmp_path)
    assert texts(tmp_path) == ALL and hub.revisions == ["main"]


@pytest.mark.parametrize("answer", [{"error": "x"}, ["x"], [{"path": "x"}], 3, None])
def test_a_server_that_is_no_hub(httpserver: HTTPServer, tmp_path: Path, answer: Any) -> None:
    httpserver.expect_request(f"/api/datasets/{NAME}/revision/main").respond_with_json({"sha": "1"})
    httpserver.expect_request(f"/api/datasets/{NAME}/tree/1").respond_with_json(answer)
    with pytest.raises(HornbookError, match="does not answer as the hub does"):
        gather(httpserver.url_for(""), tmp_path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with serve_hub(Hub("other/set", {})) as hub:
        with pytest.raises(HornbookError, match=f"{NAME}: is not on the hub.*Presets: cosmopedia"):
            gather(hub.url, tmp_path)
        with pytest.raises(HornbookError, match=r"no file matches .*there are: none"):
            gather(hub.url, tmp_path, dataset="other/set")
        hub.failures = {"/api/": [503] * 99}
    with pytest.raises(StopGathering, match="refused"):
        gather("http://127.0.0.1:1", tmp_path / "b")


def test_interrupted_while_it_waits(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a download was told to wait for 500 s; what was read is kept."""

    monkeypatch.setattr("hornbook.progress.Bar.say", lambda bar, line: told.append(line))
    told: list[str] = []
    hub = Hub(NAME, files, failures={"/cdn/data/b": [503] * 99}, retry_after="500")
    with serve_hub(hub):
        source = HubSource(HubConfig(dataset=NAME, endpoint=hub.url))
        seen = source._own

        def own(*given: Any) -> Document:
            if any("waiting 500 s" in line for line in told):
                raise KeyboardInterrupt
            time.sleep(0.05)
            return seen(*given)

        monkeypatch.setattr(source, "_own", own)
        network = NetworkConfig(allow_private=True, requests_per_minute=60_000)
        with pytest.raises(KeyboardInterrupt):
            collect(source, GatherConfig(network=network), tmp_path)
        hub.failures.clear()
        gather(hub.url, tmp_path)
    assert texts(tmp_path) == ALL


@pytest.mark.parametrize("dataset", ["", "a/b/c", "../x", "a b", "a/b?x"])
def test_names(dataset: str) -> None:
    with pytest.raises(HornbookError, match="names no data set"):
        HubSource(HubConfig(dataset=dataset))


def test_presets() -> None:
    config_text = inspect.getsource(HubConfig)
    source = HubSource(HubConfig(dataset="fineweb-edu"))
    assert source.fingerprint()["dataset"] == "HuggingFaceFW/fineweb-edu"
    assert source.fingerprint()["text_column"] == "text"
    chosen = HubSource(HubConfig(dataset="redpajama-cc"))._chosen(
        ["README.md", "c4_sample.jsonl", "cc_2019-30_sample.jsonl", "cc_2023-06_sample.jsonl"]
    )
    assert chosen == ["cc_2019-30_sample.jsonl", "cc_2023-06_sample.jsonl"]
    assert {"cosmopedia", "finewiki", "redpajama-c4"} <= PRESETS.keys()
    assert all(f"{name}," in config_text or f"{name}." in config_text for name in PRESETS)


@given(st.floats(0.5, 999).map(lambda x: round(x, 3)), st.sampled_from(["K", "M", "b", "T", ""]))
def test_token_budgets(number: float, unit: str) -> None:
    source = HubSource(HubConfig(dataset=NAME, max_tokens=f"{number}{unit}"))
    factor = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "": 1}[unit.upper()]
    assert abs(source._most_bytes - number * factor * 4.3) <= max(1, 1e-9 * factor * 4300)


@pytest.mark.parametrize("tokens", ["10 billion", "B", "-1M", "1e9", "1,000", "0", "0.0B"])
def test_senseless_budgets(tokens: str) -> None:
    with pytest.raises(HornbookError, match="is not a number of tokens"):
        HubSource(HubConfig(dataset=NAME, max_tokens=tokens))
