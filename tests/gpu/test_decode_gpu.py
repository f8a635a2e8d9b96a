"""Decoding on a GPU: kernels against the plain steps, graphs against the plain loop."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from hornbook.errors import HornbookError
from hornbook.model import decode, sampling
from hornbook.model.attention import attention
from hornbook.model.cache import KeyValueCache, LayerCache
from hornbook.model.config import Family, GenerateConfig, ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.model.generate import Generation, Generator, generate
from hornbook.model.rotary import rotate
from hornbook.tokenizer.assemble import AddedToken, tokenizer_json
from hornbook.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

FAMILIES: tuple[Family, ...] = ("gpt2", "phi", "llama", "qwen3")
PROMPTS = [[5], list(range(40, 71)), [9, 9, 9], [256, 3, 1, 0, 200], list(range(100, 150))]
EXACT = GenerateConfig(max_tokens=60, temperature=0, precision="fp32")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Id = byte; end-of-text at 256."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokens = {bytes([byte]): byte for byte in range(256)}
    end = [AddedToken(256, "<|endoftext|>")]
    path.write_text(tokenizer_json(tokens, [], "gpt2", own_special=end), encoding="utf-8")
    return Tokenizer.load(path)


def small_model(family: Family, **changes) -> Decoder:
    """Random weights large enough that the likeliest token changes from step to step."""
    config = ModelConfig(
        family=family, vocabulary=257, vocabulary_rows=320, context=128, layers=3, heads=4,
        kv_heads=2 if family in ("llama", "qwen3") else 4, head_dim=16, width=64, mlp_width=128,
        tied=False, rotary_fraction=0.5 if family == "phi" else 1.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(7)
    model = Decoder(replace(config, **changes), generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "half", "slots"),
    [(4, 2, 8, 0, 20), (4, 4, 20, 4, 300), (6, 2, 54, 27, 700), (12, 12, 64, 0, 641),
     (32, 32, 80, 16, 130), (16, 8, 128, 64, 1025)],
)  # fmt: skip
def test_attend_kernel_equals_the_plain_steps(heads, kv_heads, head_dim, half, slots, dtype):
    rows = 5
    generator = torch.Generator("cuda").manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda", generator=generator)

    fused = random(rows, 1, heads + 2 * kv_heads, head_dim).to(dtype)
    query, key, value = fused.split((heads, kv_heads, kv_heads), dim=2)
    caches = [random(rows, slots, kv_heads, head_dim).to(dtype) for _ in range(2)]
    positions = torch.tensor([[0], [1], [slots // 2], [slots - 2], [slots - 1]], device="cuda")
    angles = random(rows, 1, 1, half)
    rotation = (angles.cos(), angles.sin()) if half else None

    ours = LayerCache(*(cache.clone() for cache in caches), positions, kernels=True)
    assert ours.attends(1) and not ours.attends(2)
    got = ours.attend(query, key, value, rotation)

    plain = LayerCache(*(cache.clone() for cache in caches), positions)
    if rotation is not None:
        query, key = rotate(query, rotation), rotate(key, rotation)
    keys, values = plain.update(key, value)
    mask = (torch.arange(slots, device="cuda") <= positions[:, :, None]).unsqueeze(1)
    expected = attention(
        *(part.float().transpose(1, 2) for part in (query, keys, values)), mask
    ).transpose(1, 2)
    exact = dtype == torch.float32
    torch.testing.assert_close(got.float(), expected, rtol=1e-2, atol=1e-5 if exact else 1e-2)
    # A product and a sum are rounded once here, twice there.
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if exact else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(ours.keys, keys, **tolerance)
    assert torch.equal(ours.values, values)


@pytest.mark.parametrize("vocabulary", [1000, 50257, 151936])
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.8, "top_p": 0.95},
        {"temperature": 1.3, "top_p": 0.5, "min_p": 0.01},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 50},
        {"temperature": 1e-30, "top_p": 1.0},
    ],
    ids=str,
)
def test_draw_kernel_equals_the_plain_steps(vocabulary: int, settings: dict) -> None:
    rows = 256
    generator = torch.Generator("cuda").manual_seed(1)
    logits = 3 * torch.randn(rows, vocabulary + 7, device="cuda", generator=generator) - 50
    logits = logits[:, :vocabulary]
    numbers = torch.randint(2**40, (rows,), device="cuda", generator=generator)
    config = GenerateConfig(**settings)
    plain, ours = (
        choose(logits, config, seen=None, numbers=numbers)
        for choose in (sampling.next_tokens, sampling.next_tokens_by_kernel)
    )
    # The plain steps renormalise, in floats, after each filter; where a number falls within
    # rounding of the border of two tokens, the neighbour may come.
    assert (plain != ours).sum() <= 3
    if settings["temperature"] < 1e-3:
        assert torch.equal(ours, logits.argmax(-1))


def test_likeliest_equals_argmax() -> None:
    generator = torch.Generator("cuda").manual_seed(2)
    for vocabulary in (1, 257, 50257, 151936):
        logits = torch.randn(9, vocabulary + 3, device="cuda", generator=generator)
        logits = logits[:, :vocabulary].round(decimals=1)  # equals among the largest
        logits[3] = -torch.inf
        config = GenerateConfig(temperature=0)
        numbers = torch.zeros(9, dtype=torch.int64, device="cuda")
        ids = sampling.next_tokens_by_kernel(logits, config, seen=None, numbers=numbers)
        assert torch.equal(logits.gather(1, ids[:, None])[:, 0], logits.amax(-1))
        first = (logits == logits.amax(-1, keepdim=True)).int().argmax(-1)
        assert torch.equal(ids, first)


@pytest.mark.parametrize("vocabulary", [5, 50257])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_kernels_have_a_sign_for_nan(vocabulary: int, temperature: float) -> None:
    config = GenerateConfig(temperature=temperature)
    logits = torch.randn(4, vocabulary, device="cuda")
    logits[1, 3] = logits[3, vocabulary - 1] = torch.nan
    numbers = torch.full((4,), 2**39, device="cuda")
    ids = sampling.next_tokens_by_kernel(logits, config, seen=None, numbers=numbers)
    assert (ids < 0).tolist() == [False, True, False, True]
    assert ids[1] == ids[3] == -1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"heads": 3, "kv_heads": 3, "head_dim": 36, "width": 108,
    "mlp_width": 1200}, {"mlp_width": 9000}], ids=["even", "odd", "wide"])  # fmt: skip
def test_step_of_few_rows_equals_the_plain_step(
    family: Family, dtype: torch.dtype, changes: dict
) -> None:
    from hornbook.model.matvec import step_logits

    model = small_model(family, **changes).cuda().to(dtype)
    rows, slots = 3, 24
    plain, ours = (KeyValueCache(model.config, rows, slots, "cuda", dtype=dtype) for _ in range(2))
    ours.kernels = True
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for _ in range(6):
            ids = torch.randint(0, 257, (rows,), generator=generator).cuda()
            hidden = model.hidden(ids[:, None], plain.positions(1), cache=plain)[:, 0]
            plain.advance(1)
            expected = decode._logits(model, hidden)[:, :257]
            got = step_logits(model, ids, ours, 257)
    assert torch.equal(ours.lengths, plain.lengths)
    assert got.dtype == torch.float32 and got.shape == (rows, 257)
    error = (got - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    # Each of some twenty steps rounds its sum; between the two ways that differs now and then.
    assert error < (1e-4 if dtype == torch.float32 else 0.05), error


@pytest.mark.parametrize("rows", [2, len(PROMPTS)])  # of few rows the step is made otherwise
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_the_cpu(
    family: Family, kernels: bool, rows: int, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(decode, "kernels_work", lambda device: False)
    model = small_model(family)
    expected = generate(model, PROMPTS[:rows], EXACT, tokenizer=tokenizer)
    got = generate(model.cuda(), PROMPTS[:rows], EXACT, tokenizer=tokenizer)
    assert got == expected
    assert any(len(result.ids) > decode.EAGER_STEPS + 20 for result in got), "no graph was used"


@pytest.mark.parametrize("rows", [2, len(PROMPTS)])
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 1.2, "top_p": 0.9, "repetition_penalty": 1.2},
        {"temperature": 1.0, "top_k": 40, "stop": ["e", "\x00"]},
    ],
    ids=["greedy", "top-p", "stop"],
)
def test_graph_equals_the_plain_loop(
    settings: dict, precision: str, kernels: bool, rows: int, tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if not kernels:
        monkeypatch.setattr(decode, "kernels_work", lambda device: False)
    model = small_model("llama").cuda()
    config = GenerateConfig(max_tokens=60, precision=precision, **settings)

    def run() -> tuple[list[Generation], list[tuple[int, str]]]:
        pieces: list[tuple[int, str]] = []
        results = generate(
            model, PROMPTS[:rows], config, tokenizer=tokenizer,
            on_text=lambda row, text: pieces.append((row, text)),
        )  # fmt: skip
        return results, pieces

    replayed = run()
    monkeypatch.setattr(decode, "EAGER_STEPS", 10**9)
    monkeypatch.setattr(decode, "STEPS_AHEAD", 0)
    assert run() == replayed


def test_a_step_does_not_wait_for_the_gpu() -> None:
    model = small_model("qwen3").cuda()
    config = GenerateConfig(top_p=0.9, top_k=20, min_p=0.01, repetition_penalty=1.1)
    cache = decode.KeyValueCache(model.config, 2, 64, model.embedding.weight.device)
    step = decode.DecodeStep(model, cache, config, vocabulary=257)
    with torch.inference_mode():
        step.prefill([[1, 2, 3], [4]])
        step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_bfloat16_says_nearly_what_float32_says(tokenizer: Tokenizer) -> None:
    model = small_model("llama").cuda()
    prompts = [[first, second] for first in range(0, 250, 10) for second in (1, 7)]
    config = replace(EXACT, max_tokens=1)
    exact = generate(model, prompts, config, tokenizer=tokenizer)
    rounded = generate(model, prompts, replace(config, precision="auto"), tokenizer=tokenizer)
    same = sum(a.ids == b.ids for a, b in zip(exact, rounded, strict=True))
    assert same >= 0.8 * len(prompts)


def test_others_may_copy_while_a_graph_is_captured(tokenizer: Tokenizer) -> None:
    """As the threads of training do that bring batches and write checkpoints."""
    model = small_model("gpt2").cuda()
    expected = generate(model, PROMPTS, EXACT, tokenizer=tokenizer)
    done, errors = threading.Event(), []

    def copy() -> None:
        stream = torch.cuda.Stream()
        try:
            while not done.is_set():
                with torch.cuda.stream(stream):
                    there = torch.ones(1 << 16, pin_memory=True).to("cuda", non_blocking=True)
                    there.sum().item()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        for _ in range(5):
            assert generate(model, PROMPTS, EXACT, tokenizer=tokenizer) == expected
    finally:
        done.set()
        thread.join()
    assert not errors


@pytest.mark.parametrize("rows", [1, len(PROMPTS)])
def test_nan_is_named_and_the_gpu_lives_on(rows: int, tokenizer: Tokenizer) -> None:
    model = small_model("llama").cuda()
    gain = model.final_norm.weight
    with torch.no_grad():
        gain.fill_(float("nan"))
    for temperature in (0.0, 1.0):
        config = GenerateConfig(max_tokens=30, temperature=temperature, repetition_penalty=1.1)
        with pytest.raises(HornbookError, match="NaN"):
            generate(model, PROMPTS[:rows], config, tokenizer=tokenizer)
    with torch.no_grad():
        gain.fill_(1.0)
    assert len(generate(model, [[1]], EXACT, tokenizer=tokenizer)[0].ids) > 0


@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize("rows", [2, len(PROMPTS)])
def test_a_generator_keeps_its_graph_and_follows_training(
    rows: int, precision: str, tokenizer: Tokenizer
) -> None:
    model = small_model("llama").cuda()
    generator = Generator(model, tokenizer)
    config = replace(EXACT, max_tokens=40, repetition_penalty=1.1, precision=precision)
    prompts = PROMPTS[:rows]
    steps = set()
    for turn in range(4):
        expected = generate(model, prompts, config, tokenizer=tokenizer)
        assert generator(prompts, config) == expected
        steps.add(id(generator._step))
        prompts = [[turn, *prompt] for prompt in prompts]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert len(steps) == 1
    sampled = replace(config, temperature=1.0)
    expected = generate(model, prompts, sampled, tokenizer=tokenizer)
    assert generator(prompts, sampled) == expected
    for parameter in model.parameters():  # weights that move leave no graph behind that reads them
        parameter.data = parameter.data.clone()
    assert generator(prompts, sampled) == expected


def test_memory_is_given_back(tokenizer: Tokenizer) -> None:
    model = small_model("gpt2").cuda()
    generate(model, PROMPTS, EXACT, tokenizer=tokenizer)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        generate(model, PROMPTS, EXACT, tokenizer=tokenizer)
    assert torch.cuda.memory_allocated() <= before
