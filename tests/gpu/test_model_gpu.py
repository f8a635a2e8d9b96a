"""On a GPU: every way of computing against the plain one in float32, forward and gradients."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hornbook.model import attention as attention_module
from hornbook.model import cross_entropy as cross_entropy_module
from hornbook.model import float8, gelu_matmul
from hornbook.model.attention import attention, document_blocks, document_mask, kernel_choice
from hornbook.model.config import ModelConfig
from hornbook.model.cross_entropy import softmax_gradient
from hornbook.model.decoder import Decoder
from hornbook.model.engine import Engine
from hornbook.tokens.batch import IGNORE, Batch
from hornbook.train.objective import NextToken, bind

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

ROWS, TOKENS = 2, 256
CONFIGS = {
    "gpt2": ModelConfig("gpt2", 1000, 1024, TOKENS, 2, 6, 6, 54, 324, 1296, tied=True),
    "phi": ModelConfig(
        "phi", 1000, 1024, TOKENS, 2, 4, 4, 80, 320, 1280, tied=False, rotary_fraction=0.4
    ),
    "llama": ModelConfig("llama", 1000, 1024, TOKENS, 2, 4, 2, 64, 256, 704, tied=True),
    "qwen3": ModelConfig("qwen3", 1000, 1024, TOKENS, 2, 4, 2, 60, 240, 704, tied=False),
}
ENGINES = [
    *(Engine(attention=kernel) for kernel in ("cudnn", "flash", "efficient", "math")),
    Engine(residual="bf16"),
    Engine(cross_entropy="chunked"),
    Engine(cross_entropy="fused"),
    Engine(checkpointing="selective"),
    Engine(checkpointing="full"),
    Engine(checkpointing="selective", attention="cudnn"),
    Engine(mlp="fused"),
    Engine(compile="regional", attention="cudnn", residual="bf16", cross_entropy="fused"),
    Engine(compile="on", attention="cudnn", residual="bf16", cross_entropy="fused"),
    Engine(compile="regional", attention="cudnn", checkpointing="selective", mlp="fused"),
    Engine(compile="on", attention="cudnn", checkpointing="full", cross_entropy="chunked"),
    Engine(compile="on", attention="cudnn", checkpointing="budget", budget=0.4, mlp="fused"),
]


def families(engine: Engine, *, packed: bool) -> list[str]:
    """Which are tried: all without compiling; one with it, which takes seconds each time."""
    if engine.mlp == "fused":
        return [] if packed else ["phi"]
    if engine.compile != "off":
        return ["gpt2"] if not packed else ["qwen3"] if engine.compile == "regional" else []
    if packed:
        return ["gpt2", "llama"] if engine == Engine(attention="cudnn") else []
    return sorted(CONFIGS)


CASES = [
    pytest.param(engine, family, packed, id=f"{family}-{packed}-{number}")
    for number, engine in enumerate(ENGINES)
    for packed in (False, True)
    for family in families(engine, packed=packed)
]


def batch(*, packed: bool) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 1000, (ROWS, TOKENS), generator=generator)
    targets = inputs.roll(-1, 1).masked_fill(torch.rand(ROWS, TOKENS) < 0.1, IGNORE)
    documents = None
    if packed:
        numbers = [0] * 50 + [1] * 1 + [2] * 130 + [3] * 60 + [-1] * 15
        documents = torch.tensor([numbers, [0] * TOKENS], dtype=torch.int32)
    return Batch(inputs, targets, None, documents).to("cuda")


def decoder(family: str) -> Decoder:
    model = Decoder(CONFIGS[family], torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model.cuda().train()


def compute(
    model: Decoder, engine: Engine, data: Batch, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    model.engine = engine
    model.zero_grad()
    with torch.autocast("cuda", dtype or torch.bfloat16, enabled=dtype is not None):
        loss, _ = bind(NextToken(), model)(data)
    scale = 4096.0 if dtype == torch.float16 else 1.0  # as GradScaler would
    (loss * (scale / data.targets.numel())).backward()
    gradients = {name: p.grad / scale for name, p in model.named_parameters()}
    return {"loss": loss.detach(), **gradients}


def distances(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    return {
        name: float((ours[name].float() - value).norm() / value.norm().clamp(min=1e-12))
        for name, value in exact.items()
    }


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    patch = pytest.MonkeyPatch()
    patch.setattr(cross_entropy_module, "CHUNK_LOGITS", 1024 * 100)
    yield
    patch.undo()


@pytest.mark.parametrize(("engine", "family", "packed"), CASES)
def test_bfloat16_is_as_near_to_float32_as_the_plain_way(engine, family, packed):
    model, data = decoder(family), batch(packed=packed)
    exact = compute(model, Engine(attention="math"), data, None)
    plain = distances(compute(model, Engine(attention="math"), data, torch.bfloat16), exact)
    ours = distances(compute(model, engine, data, torch.bfloat16), exact)
    # Each of the blocks rounds a narrow residual stream twice more.
    slack, floor = (4, 0.02) if engine.residual == "bf16" else (2, 0.004)
    for name, far in ours.items():
        assert far < slack * plain[name] + floor, (name, far, plain[name])


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_float32_agrees(family):
    model, data = decoder(family), batch(packed=True)
    exact = compute(model, Engine(attention="math"), data, None)
    for engine in (Engine(), Engine(attention="cudnn", cross_entropy="fused")):
        for name, far in distances(compute(model, engine, data, None), exact).items():
            assert far < 2e-3, (engine, name, far)


def test_fp16_gradients_do_not_overflow_before_they_are_scaled():
    model, data = decoder("gpt2"), batch(packed=False)
    exact = compute(model, Engine(attention="math"), data, None)
    for engine in (Engine(cross_entropy="fused"), Engine(cross_entropy="chunked")):
        for name, far in distances(compute(model, engine, data, torch.float16), exact).items():
            assert far < 0.05, (engine, name, far)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("vocabulary", "columns"), [(50257, 50304), (50257, 50257), (61, 64)])
def test_triton_kernel(vocabulary, columns, dtype):
    from hornbook.model import fused_cross_entropy

    torch.manual_seed(0)
    logits = (torch.randn(300, columns, device="cuda") * 6).to(dtype)
    targets = torch.randint(0, vocabulary, (300,), device="cuda")
    targets[5:9] = IGNORE
    ours, plain = logits.clone(), logits.clone()
    losses = fused_cross_entropy.softmax_gradient(ours, targets, vocabulary)
    torch.testing.assert_close(
        losses, softmax_gradient(plain, targets, vocabulary), rtol=1e-5, atol=1e-5
    )
    rtol = 1e-4 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(ours, plain, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "width", "mlp_width"), [(2048, 768, 3072), (1000, 1296, 5184), (130, 320, 1288)]
)
def test_gelu_inside_the_products(rows, width, mlp_width, dtype):
    if torch.cuda.get_device_capability() < gelu_matmul.CAPABILITY:
        pytest.skip("this GPU is too old")
    torch.manual_seed(0)
    shapes = [(rows, width), (mlp_width, width), (mlp_width,), (width, mlp_width), (width,)]
    parts = [torch.randn(shape, device="cuda") for shape in shapes]
    exact = [
        (part / part.shape[-1] ** 0.5 if number in (1, 3) else part).requires_grad_()
        for number, part in enumerate(parts)
    ]
    narrow = [part.detach().to(dtype).requires_grad_() for part in exact]
    assert gelu_matmul.has_kernel(narrow[0].device, width, mlp_width)
    upstream = torch.randn(rows, width, device="cuda")

    def plain(x, up, up_bias, down, down_bias):
        inner = functional.gelu(functional.linear(x, up, up_bias), approximate="tanh")
        return functional.linear(inner, down, down_bias)

    def results(network, inputs):
        out = network(*inputs)
        return [out, *torch.autograd.grad(out, inputs, upstream.to(out.dtype))]

    wanted = results(plain, exact)
    usual, ours = results(plain, narrow), results(gelu_matmul.gelu_network, narrow)
    for right, theirs, got in zip(wanted, usual, ours, strict=True):
        allowed = 1.5 * (theirs.float() - right).norm() + 1e-3 * right.norm()
        assert (got.float() - right).norm() < allowed


def used(call) -> set[str]:
    """Which attention operators a call runs."""
    with torch.profiler.profile() as profile:
        call()
    return {
        event.key.removeprefix("aten::_scaled_dot_product_").removesuffix("_attention")
        for event in profile.key_averages()
        if event.key.startswith("aten::_scaled_dot_product_")
    }


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2)])
def test_the_kernel_asked_for_is_used(heads, kv_heads):
    query = torch.randn(2, heads, 128, 64, device="cuda", dtype=torch.bfloat16)
    key = torch.randn(2, kv_heads, 128, 64, device="cuda", dtype=torch.bfloat16)
    for kernel in ("cudnn", "flash"):
        with kernel_choice(kernel):
            assert kernel in used(lambda: attention(query, key, key)), kernel


def test_a_call_that_the_kernel_refuses_takes_another_fused_one():
    query = torch.randn(2, 4, 128, 54, device="cuda", dtype=torch.bfloat16)
    with kernel_choice("cudnn"):
        assert used(lambda: attention(query, query, query)) & {"flash", "efficient"}
        # (Of float32 heads, the one fused kernel takes sizes that are multiples of 4.)
        query = query[..., :52].float().contiguous()
        assert used(lambda: attention(query, query, query)) == {"efficient"}


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 4, 54), (6, 2, 64), (4, 4, 80)])
def test_documents_without_the_mask_in_memory(heads, kv_heads, head_dim):
    torch.manual_seed(0)
    documents = torch.zeros(3, 1024, dtype=torch.int32, device="cuda")
    documents[0, 100:] = 1
    documents[0, 900:] = -1
    documents[1, 700:] = 1
    shapes = [(3, n, 1024, head_dim) for n in (heads, kv_heads, kv_heads)]
    inputs = [
        torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for shape in shapes
    ]
    upstream = torch.randn(shapes[0], device="cuda", dtype=torch.bfloat16)
    results = []
    for mask in (document_mask(documents), document_blocks(documents)):
        torch.cuda.synchronize()
        mixed = attention(*inputs, mask)
        results.append([mixed, *torch.autograd.grad(mixed, inputs, upstream)])
    for dense, sparse in zip(*results, strict=True):
        assert (dense - sparse).float().norm() < 0.01 * dense.float().norm()


def test_documents_take_little_memory():
    tokens = 8192
    documents = torch.zeros(1, tokens, dtype=torch.int32, device="cuda")
    documents[0, 5000:] = 1
    query = torch.randn(1, 2, tokens, 64, device="cuda", dtype=torch.bfloat16)
    document_blocks(documents)  # compiled
    attention(query, query, query, document_blocks(documents))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attention(query, query, query, document_blocks(documents))
    assert torch.cuda.max_memory_allocated() - before < tokens**2 / 4


@pytest.mark.parametrize("multiple", [8, 64])
def test_padded_heads_use_cudnn(multiple, monkeypatch):
    monkeypatch.setattr(attention_module, "HEAD_DIM_MULTIPLE", multiple)
    model, data = decoder("gpt2"), batch(packed=False)
    model.engine = Engine(attention="cudnn")
    with torch.autocast("cuda", torch.bfloat16):
        assert used(lambda: model.hidden(data.inputs)) == {"cudnn"}


@pytest.mark.parametrize("compiled", ["off", "regional"])
@pytest.mark.parametrize("kernel", ["cudnn", "flash", "efficient", "math"])
def test_checkpointing_repeats_dropout(kernel, compiled):
    """Compiled, other operations are fused, which rounds otherwise: 0.006 at most. Other masks are
    0.5 and more away."""
    model, data = decoder("gpt2"), batch(packed=False)
    for block in model.blocks:
        block.dropout.p = 0.2
        block.attention.dropout = 0.2
    results = []
    for mode in ("none", "selective", "full"):
        torch.compiler.reset()
        torch.manual_seed(1)
        engine = Engine(checkpointing=mode, attention=kernel, compile=compiled)
        results.append(compute(model, engine, data, torch.bfloat16))
    for other in results[1:]:
        for name, far in distances(other, {n: v.float() for n, v in results[0].items()}).items():
            assert far < (1e-3 if compiled == "off" else 0.02), name


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
def test_float8_is_near():
    if torch.cuda.get_device_capability() < float8.CAPABILITY:
        pytest.skip("this GPU has no float8")
    model, data = decoder("llama"), batch(packed=False)
    exact = compute(model, Engine(attention="math"), data, None)
    float8.convert(model)
    ours = compute(model, Engine(attention="cudnn", compile="on"), data, torch.bfloat16)
    assert abs(float(ours["loss"] - exact["loss"])) < 0.01 * float(exact["loss"])
    for name, far in distances(ours, exact).items():
        assert far < 0.3, (name, far)


def test_a_smaller_context_compiles_again_and_stays_whole():
    model = decoder("llama")
    model.engine = replace(Engine(), compile="on")
    forward = bind(NextToken(), model)
    for rows in (2, 1):
        loss, _ = forward(batch(packed=False)[:rows])
        assert loss.isfinite()
