"""Exported directories in stock transformers: logits, ids, generation; what may be replaced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hornbook.errors import HornbookError
from hornbook.evaluate.config import EvaluateConfig
from hornbook.evaluate.heldout import evaluate_documents
from hornbook.model.config import Family, GenerateConfig, ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.model.generate import generate_text
from hornbook.model.huggingface import export_weights
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.publish.export import export
from hornbook.publish.weights import write_weights
from hornbook.tokenizer.assemble import AddedToken, SplitPattern, named_tokens, tokenizer_json
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.train.checkpoint import CheckpointStore
from hornbook.train.load import load_model

FAMILIES: tuple[Family, ...] = ("gpt2", "phi", "llama", "qwen3")

NASTY = [
    "",
    " ",
    "the the  the\tthe\n\n\n  the",
    "don't WON'T I'LL 12345 3.14",
    "naïve café — “quotes” … 中文 日本語 한국어 ру́сский",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200b\ufeff\u00a0\u2028",
    "\x00\x01\x7f\r\n\r x\r",
    "hello , world . do n't ? ! 's",
    "    def f(x):\n\treturn x  # ok\n",
]


def make_tokenizer(folder: Path, split: SplitPattern = "llama3") -> Tokenizer:
    """Bytes, "th", "the", end-of-text and the named special tokens."""
    merges = [(b"t", b"h"), (b"th", b"e"), (b" ", b" ")]
    tokens = {bytes([byte]): byte for byte in range(256)}
    for left, right in merges:
        tokens[left + right] = len(tokens)
    end = len(tokens)
    text = tokenizer_json(
        tokens, merges, split,
        own_special=[AddedToken(end, "<|endoftext|>"), *named_tokens(end + 1)],
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return Tokenizer.load(folder)


def make_model(family: Family, vocabulary: int, *, exported_rows: int | None = None) -> Decoder:
    config = ModelConfig(
        family=family, vocabulary=vocabulary, vocabulary_rows=320, context=48, layers=2, heads=4,
        kv_heads=2 if family in ("llama", "qwen3") else 4, head_dim=8, width=32, mlp_width=64,
        tied=family in ("gpt2", "qwen3"), rotary_fraction=0.5 if family == "phi" else 1.0,
        exported_rows=exported_rows,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    model = Decoder(config, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "lm_head.bias":
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def make_run(folder: Path, model: Decoder, step: int = 7) -> Path:
    """A run directory with a checkpoint, a recipe and the files that the card reads."""
    make_tokenizer(folder / "tokenize" / "tokenizer")
    tokenizer_file = folder / "tokenize" / "tokenizer" / "tokenizer.json"
    store = CheckpointStore(
        folder / "pretrain" / "checkpoints", attachments={"tokenizer.json": tokenizer_file}
    )
    optimizer = build_optimizer(model, OptimizerConfig(), torch.device("cpu"))
    store.save(step, model, optimizer, {}, wait=True)
    (folder / "recipe.yaml").write_text("name: little\n")
    totals = {
        "tokens": 1000, "documents": 10, "bytes": 4000,
        "sources": {"plays": 900, "a|b": 100}, "licences": {"public domain": 900, "": 100},
    }  # fmt: skip
    manifest = {"vocabulary": 276, "totals": {"train": totals}}
    (folder / "tokenize" / "manifest.json").write_text(json.dumps(manifest))
    (folder / "evaluate").mkdir()
    record = {"model": "little", "step": step, "split": "validation", "loss": 2.5,
              "perplexity": 12.18, "bits_per_byte": 1.75, "tokens": 100, "bytes": 400}  # fmt: skip
    (folder / "evaluate" / "evals.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def load_stock(folder: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    model, notes = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    assert not notes["missing_keys"] and not notes["unexpected_keys"]
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_transformers_agrees(family: Family, tmp_path: Path) -> None:
    model = make_model(family, 276)
    run = make_run(tmp_path / "little", model)
    out = export(run, tmp_path / "out")
    stock, stock_tokenizer = load_stock(out)
    tokenizer = Tokenizer.load(out)

    assert type(stock).__name__ == {"gpt2": "GPT2LMHeadModel"}.get(
        family, f"{family.capitalize()}ForCausalLM"
    )
    assert stock.config.vocab_size == 276 == len(stock_tokenizer)
    end = tokenizer.end_of_text
    assert stock.config.eos_token_id == stock.config.bos_token_id == end
    assert stock.generation_config.eos_token_id == end == stock_tokenizer.eos_token_id
    assert stock_tokenizer.bos_token == "<|endoftext|>" and stock_tokenizer.pad_token == "<|pad|>"
    assert stock.config.pad_token_id == stock_tokenizer.pad_token_id
    assert stock_tokenizer.model_max_length == 48

    for text in NASTY:
        assert stock_tokenizer(text)["input_ids"] == tokenizer.encode(text), repr(text)
        assert stock_tokenizer.decode(tokenizer.encode(text)) == text

    ids = torch.randint(0, 276, (3, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model(ids)[..., :276], stock(ids).logits
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_equals_stock_generate(family: Family, tmp_path: Path) -> None:
    out = export(make_run(tmp_path / "little", make_model(family, 276)), tmp_path / "out")
    stock, stock_tokenizer = load_stock(out)
    prompts = ["the", "don't worry about the cat", " x"]
    loaded = load_model(out)
    config = GenerateConfig(max_tokens=30, temperature=0, repetition_penalty=1.1)
    ours = generate_text(loaded.decoder, Tokenizer.load(out), prompts, config)
    for prompt, mine in zip(prompts, ours, strict=True):
        inputs = stock_tokenizer(prompt, return_tensors="pt")
        room = min(30, 48 - len(mine.prompt))
        ids = stock.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            max_new_tokens=room, do_sample=False, repetition_penalty=1.1,
        )[0, len(mine.prompt) :].tolist()  # fmt: skip
        if ids[-1] == stock_tokenizer.eos_token_id:
            assert mine.stop == "end_of_text"
            ids.pop()
        assert mine.ids == ids


def test_rows_that_stock_has_itself_are_kept(tmp_path: Path) -> None:
    # Phi-2's own model has 51,200 rows for 50,295 ids.
    model = make_model("phi", 276, exported_rows=300)
    out = export(make_run(tmp_path / "little", model), tmp_path / "out")
    stock, _ = load_stock(out)
    assert stock.config.vocab_size == 300
    assert stock.lm_head.weight.shape == (300, 32)
    with torch.no_grad():
        logits = stock(torch.arange(40)[None]).logits
    # Stock has no mask: what only pads must be hopeless on its own.
    assert logits.softmax(-1)[..., 276:].max() < 1e-20


def test_export_of_an_export(tmp_path: Path) -> None:
    model = make_model("llama", 276)
    first = export(make_run(tmp_path / "little", model), tmp_path / "first")
    (first / "chat_template.jinja").write_text("{{ messages }}")
    second = export(first, tmp_path / "second")
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (second / name).read_text() == (first / name).read_text()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(load_model(second).decoder(ids), load_model(first).decoder(ids))
    assert "# first" in (second / "README.md").read_text()


def test_a_checkpoint_is_a_source_and_the_exported_model_measures_the_same(tmp_path: Path) -> None:
    model = make_model("qwen3", 276)
    run = make_run(tmp_path / "little", model)
    out = export(run / "pretrain" / "checkpoints" / "step-00000007", tmp_path / "out")
    text = ["The quality of mercy is not strained. " * 5]
    tokenizer = Tokenizer.load(out)
    ours = evaluate_documents(model, tokenizer, text, EvaluateConfig())
    exported = evaluate_documents(load_model(out).decoder, tokenizer, text, EvaluateConfig())
    assert exported.loss == pytest.approx(ours.loss, rel=1e-6)
    assert "# little" in (out / "README.md").read_text()


def test_card_says_what_is_known(tmp_path: Path) -> None:
    out = export(make_run(tmp_path / "little", make_model("gpt2", 276)), tmp_path / "out")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    for words in (
        "# little", "AutoModelForCausalLM", "hornbook generate", "| Context | 48 tokens |",
        "plays", "a\\|b", "public domain", "not stated", "1.75", "step 7",
    ):  # fmt: skip
        assert words in card, words


def test_the_code_of_the_card_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export(make_run(tmp_path / "little", make_model("gpt2", 276)), tmp_path / "out")
    code = (out / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(out)
    exec(code, {})
    assert capsys.readouterr().out.startswith("Once upon a time")


def test_an_earlier_export_is_replaced_and_the_stage_record_stays(tmp_path: Path) -> None:
    run = make_run(tmp_path / "little", make_model("gpt2", 276))
    out = run / "export"
    out.mkdir()
    (out / "stage.json").write_text("{}")  # as the stage runner leaves it before an export
    export(run, out)
    (out / "stale.txt").write_text("from an earlier export")
    export(run, out)
    assert not (out / "stale.txt").exists()
    assert (out / "stage.json").read_text() == "{}"
    assert not list(run.glob("*.tmp"))


def test_another_folder_is_not_overwritten(tmp_path: Path) -> None:
    run = make_run(tmp_path / "little", make_model("gpt2", 276))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(HornbookError, match="not an earlier export"):
        export(run, mine)
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    with pytest.raises(HornbookError, match="not an earlier export"):
        export(run, mine / "thesis.txt")
    shutil.rmtree(mine)
    mine.mkdir()
    assert export(run, mine) == mine  # an empty folder is fine


def test_a_failed_export_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "little", make_model("gpt2", 276))
    out = export(run, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hornbook.publish.weights.save_file", full)
    with pytest.raises(HornbookError, match="disk is full"):
        export(run, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["little", "out"]


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "little", make_model("gpt2", 100))
    with pytest.raises(HornbookError, match="276 ids, the model only 100"):
        export(run, tmp_path / "out")


def test_large_weights_are_cut_into_shards_that_stock_loads(tmp_path: Path) -> None:
    model = make_model("llama", 276)
    out = export(make_run(tmp_path / "little", model), tmp_path / "out")
    weights = export_weights(model)
    (out / "model.safetensors").unlink()
    paths = write_weights(weights, out, shard_bytes=30_000)
    assert len(paths) > 2
    assert paths[0].name == f"model-00001-of-{len(paths):05d}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(weights)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in weights.values())
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert (load_stock(out)[0](ids).logits - model(ids)[..., :276]).abs().max() < 1e-4
