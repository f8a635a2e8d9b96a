"""The host some steps behind: the same texts; and copies of a model in another precision."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hornbook.errors import HornbookError
from hornbook.model import generate as module
from hornbook.model.config import GenerateConfig, ModelConfig
from hornbook.model.decode import decoded, narrowed
from hornbook.model.decoder import Decoder
from hornbook.model.generate import Generator, generate
from hornbook.model.kernels import _tried, kernels_work
from hornbook.tokenizer.assemble import AddedToken, tokenizer_json
from hornbook.tokenizer.tokenizer import Tokenizer

END = 256
PROMPTS = [[5], list(range(40, 71)), [9, 9, 9], [1] * 39, [1] * 40]


@pytest.fixture(scope="module")
def bytes_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Id = byte; end-of-text at 256."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokens = {bytes([byte]): byte for byte in range(256)}
    end = [AddedToken(END, "<|endoftext|>")]
    path.write_text(tokenizer_json(tokens, [], "gpt2", own_special=end), encoding="utf-8")
    return Tokenizer.load(path)


def model_of_bytes(tiny_decoder, family: str = "llama", seed: int = 0) -> Decoder:
    return tiny_decoder(family, seed, vocabulary=257, vocabulary_rows=320)


@pytest.mark.parametrize("ahead", [1, 4, 100])
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 1.5, "top_p": 1.0, "repetition_penalty": 1.3},
        {"temperature": 1.0, "top_k": 30, "stop": ["e", "\x00"]},
    ],
    ids=["greedy", "penalty", "stop"],
)
def test_running_ahead_changes_nothing(
    ahead: int, settings: dict, tiny_decoder, bytes_tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of_bytes(tiny_decoder)
    with torch.no_grad():
        model.embedding.weight[END] *= 1.5  # so that some rows end early
    config = GenerateConfig(max_tokens=25, **settings)

    def run() -> tuple[list, list]:
        pieces: list[tuple[int, str]] = []
        results = generate(
            model, PROMPTS, config, tokenizer=bytes_tokenizer,
            on_text=lambda row, text: pieces.append((row, text)),
        )  # fmt: skip
        return results, pieces

    plain = run()
    monkeypatch.setattr(module, "decoded", functools.partial(decoded, ahead=ahead))
    assert run() == plain
    assert len({len(result.ids) for result in plain[0]}) > 2, "rows are to end at different steps"


def test_ids_come_when_they_are_asked_for(tiny_decoder) -> None:
    model = model_of_bytes(tiny_decoder)
    for ahead, expected in ((0, [0, 1, 2, 3]), (2, [2, 3, 3, 3]), (9, [3, 3, 3, 3])):
        step = module.DecodeStep(
            model, module.KeyValueCache(model.config, 1, 8), GenerateConfig(), vocabulary=257
        )  # fmt: skip
        with torch.no_grad():
            step.prefill([[1, 2]])
            done = [int(step.drawn[0]) - 1 for _ in decoded(step, 4, ahead)]
        assert done == expected


class TurnsToNaN(Decoder):
    """Says NaN from some position on."""

    def __init__(self, like: Decoder, position: int):
        super().__init__(like.config)
        self.load_state_dict(like.state_dict())
        self.position = position

    def hidden(self, ids, positions=None, documents=None, cache=None):  # type: ignore[no-untyped-def]
        hidden = super().hidden(ids, positions, documents, cache)
        return hidden.masked_fill((positions >= self.position)[..., None], float("nan"))


def test_nan_after_the_end_of_a_row_is_no_error(tiny_decoder, bytes_tokenizer) -> None:
    model = TurnsToNaN(model_of_bytes(tiny_decoder), position=10)
    greedy = GenerateConfig(max_tokens=8, temperature=0)
    [short] = generate(model, [[7]], greedy, tokenizer=bytes_tokenizer)
    assert len(short.ids) == 8
    with pytest.raises(HornbookError, match="NaN"):
        generate(model, [[7] * 4], greedy, tokenizer=bytes_tokenizer)


def test_a_narrow_copy(family, tiny_decoder, bytes_tokenizer) -> None:
    model = model_of_bytes(tiny_decoder, family)
    assert narrowed(model, torch.float32) is model
    narrow = narrowed(model, torch.bfloat16)
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}
    if narrow.rotary is not None:
        assert narrow.rotary.cosines.dtype == torch.float32
    assert model.embedding.weight.dtype == torch.float32, "the model itself is left alone"
    ids = torch.randint(0, 256, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact, rounded = model(ids).softmax(-1), narrow(ids).softmax(-1)
    assert (exact - rounded).abs().sum(-1).mean() < 0.2

    config = GenerateConfig(max_tokens=20, temperature=0, precision="bf16")
    ours = generate(model, PROMPTS, config, tokenizer=bytes_tokenizer)
    assert ours == generate(narrow, PROMPTS, config, tokenizer=bytes_tokenizer)


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_a_generator_says_what_a_single_call_says(precision, tiny_decoder, bytes_tokenizer) -> None:
    """Also after the model was trained, after an error, and with other prompts and settings."""
    model = model_of_bytes(tiny_decoder)
    generator = Generator(model, bytes_tokenizer)
    config = GenerateConfig(max_tokens=20, temperature=0, precision=precision)

    def check(prompts: list[list[int]], config: GenerateConfig) -> None:
        expected = generate(model, prompts, config, tokenizer=bytes_tokenizer)
        assert generator(prompts, config) == expected

    check(PROMPTS, config)
    kept = generator._step
    check([list(reversed(prompt)) for prompt in PROMPTS], config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    check(PROMPTS, config)
    gain = model.final_norm.weight.detach().clone()
    with torch.no_grad():
        model.final_norm.weight.fill_(float("nan"))
    with pytest.raises(HornbookError, match="NaN"):
        generator(PROMPTS, config)
    with torch.no_grad():
        model.final_norm.weight.copy_(gain)
    check(PROMPTS, config)
    assert generator._step is kept
    check(PROMPTS[:2], config)
    check(PROMPTS, replace(config, temperature=1.0, repetition_penalty=1.2))
    check(PROMPTS, replace(config, temperature=1.0, seed=3, stop=["e"]))


def test_precision_is_that_of_the_weights_also_within_autocast(
    tiny_decoder, bytes_tokenizer
) -> None:
    model = model_of_bytes(tiny_decoder)
    config = GenerateConfig(max_tokens=20, temperature=0)
    plain = generate(model, PROMPTS, config, tokenizer=bytes_tokenizer)
    with torch.autocast("cpu", torch.bfloat16):
        assert generate(model, PROMPTS, config, tokenizer=bytes_tokenizer) == plain


def test_learned_positions_end_with_the_context(bytes_tokenizer) -> None:
    """Steps that run ahead of a row that is full stay within the tables."""
    config = ModelConfig("gpt2", 257, 320, 12, 1, 2, 2, 8, 16, 32, tied=True)
    model = Decoder(config, torch.Generator().manual_seed(0))
    settings = GenerateConfig(max_tokens=50, temperature=0)
    full, other = generate(model, [[1] * 11, [2]], settings, tokenizer=bytes_tokenizer)
    assert (len(full.ids), len(other.ids)) == (1, 11)


def test_without_a_working_triton_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """On a CPU it is missing, or refuses the tensors."""
    assert not kernels_work(torch.device("cpu"))
    assert capsys.readouterr().err == "", "nobody expects them there"
    assert not _tried.__wrapped__(torch.device("cpu"))
    assert "without Triton kernels, more slowly:" in capsys.readouterr().err


def test_bfloat16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    weight = SimpleNamespace(is_cuda=True, dtype=torch.float32)
    assert module._dtype(weight, "auto") == torch.float32
    with pytest.raises(HornbookError, match=r"generate\.precision: this GPU has no bf16"):
        module._dtype(weight, "bf16")


def test_a_copy_of_weights_that_are_spread_out(
    tiny_decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of_bytes(tiny_decoder)
    expected = narrowed(model, torch.bfloat16).state_dict()
    whole = {  # as DTensors are: only `full_tensor` gives the numbers
        name: SimpleNamespace(full_tensor=lambda tensor=tensor: tensor.clone())
        for name, tensor in model.state_dict().items()
    }
    monkeypatch.setattr(model, "state_dict", lambda: whole)
    first = narrowed(model, torch.bfloat16)
    with torch.no_grad():
        first.embedding.weight.zero_()
    assert narrowed(model, torch.bfloat16, first) is first
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert narrowed(model, torch.float32) is not model
