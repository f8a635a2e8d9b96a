"""The fast attention against the plain one, and documents that must not see each other."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from hornbook.model import attention as module
from hornbook.model.attention import attention, attention_reference, document_mask
from hornbook.model.kernels import kernels_work


def draw(heads: int, kv_heads: int, tokens: int, slots: int, head_dim: int = 8):
    generator = torch.Generator().manual_seed(heads * 100 + tokens)
    shapes = [(2, heads, tokens), (2, kv_heads, slots), (2, kv_heads, slots)]
    return [torch.randn(*shape, head_dim, generator=generator).requires_grad_() for shape in shapes]


def assert_same(inputs, mask) -> None:
    fast, plain = attention(*inputs, mask), attention_reference(*inputs, mask)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    toward = torch.randn(fast.shape, generator=generator)
    for ours, reference in zip(
        torch.autograd.grad(fast, inputs, toward),
        torch.autograd.grad(plain, inputs, toward),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("tokens", [1, 2, 17])
def test_causal_equals_reference(heads, kv_heads, tokens):
    assert_same(draw(heads, kv_heads, tokens, tokens), None)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
def test_masked_equals_reference(heads, kv_heads):
    mask = torch.rand(2, 1, 5, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] = True
    assert_same(draw(heads, kv_heads, 5, 9), mask)


def test_reference_says_the_formula():
    query, key, value = draw(1, 1, 3, 3)
    for row in range(2):
        for token in range(3):
            scores = torch.stack(
                [query[row, 0, token] @ key[row, 0, past] for past in range(token + 1)]
            )
            weights = (scores / 8**0.5).softmax(0)
            expected = (weights[:, None] * value[row, 0, : token + 1]).sum(0)
            got = attention_reference(query, key, value)[row, 0, token]
            torch.testing.assert_close(got, expected)


def test_whole_decoder_on_the_reference(family, tiny_decoder, monkeypatch):
    decoder = tiny_decoder(family)
    ids = torch.randint(0, 89, (2, 15), generator=torch.Generator().manual_seed(0))
    documents = torch.tensor([[0] * 4 + [1] * 8 + [-1] * 3, [0] * 15])
    fast = decoder(ids), decoder(ids, documents=documents)
    monkeypatch.setattr(module, "attention", attention_reference)
    plain = decoder(ids), decoder(ids, documents=documents)
    for ours, reference in zip(fast, plain, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_document_mask_is_blocks_below_the_diagonal(lengths, padding):
    numbers = [number for number, length in enumerate(lengths) for _ in range(length)]
    numbers += [-1] * padding
    mask = document_mask(torch.tensor([numbers], dtype=torch.int32))[0, 0]
    for query, own in enumerate(numbers):
        for key, other in enumerate(numbers):
            assert mask[query, key] == (own == other and key <= query)
    assert mask.any(dim=1).all(), "a query that sees nothing gives NaN"


def test_documents_of_a_row_equal_documents_alone(family, tiny_decoder):
    decoder = tiny_decoder(family)
    lengths = [7, 1, 12]
    ids = torch.randint(0, 89, (2, 24), generator=torch.Generator().manual_seed(2))
    numbers = [number for number, length in enumerate(lengths) for _ in range(length)] + [-1] * 4
    documents = torch.tensor([numbers, numbers], dtype=torch.int32)
    positions = torch.cat([torch.arange(length) for length in [*lengths, 4]]).expand(2, -1)
    packed = decoder(ids, positions, documents)
    assert not packed.isnan().any()
    start = 0
    for length in lengths:
        alone = decoder(ids[:, start : start + length])
        torch.testing.assert_close(packed[:, start : start + length], alone, rtol=1e-3, atol=1e-4)
        start += length


def test_padding_gives_finite_gradients(family, tiny_decoder):
    decoder = tiny_decoder(family)
    ids = torch.randint(0, 89, (2, 10), generator=torch.Generator().manual_seed(2))
    documents = torch.tensor([[0] * 3 + [-1] * 7, [-1] * 10], dtype=torch.int32)
    logits = decoder(ids, documents=documents)[..., :89]
    logits[0, :3].logsumexp(-1).sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad.isfinite().all(), name
    decoder.zero_grad()


@pytest.mark.parametrize(
    ("capability", "dtype", "takes"),
    [
        ((7, 5), torch.float16, False),  # a T4: no flash, and the efficient kernel refuses groups
        ((8, 0), torch.float16, True),
        ((9, 0), torch.float32, False),
    ],
)
def test_heads_are_repeated_where_no_fast_kernel_takes_groups(
    capability, dtype, takes, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    query = SimpleNamespace(is_cuda=True, dtype=dtype, device=torch.device("cuda"))
    assert module._takes_groups(query) == takes


def test_what_a_device_can_is_a_constant_of_a_compiled_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    torch.compiler.reset()

    @functools.partial(torch.compile, fullgraph=True, backend="eager")
    def compiled(x):
        return x.new_empty(1 if module._takes_groups(x) or kernels_work(x.device) else 2)

    with FakeTensorMode():  # tensors of a GPU that need not be there
        query = torch.empty(1, 2, device="cuda", dtype=torch.bfloat16)
        assert compiled(query).shape == (2,)
