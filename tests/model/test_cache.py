"""The cache against computing everything anew."""

from __future__ import annotations

import pytest
import torch

from hornbook.model.cache import KeyValueCache


def close(ours, reference) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4)


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 89, shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("steps", [[1] * 12, [12], [5, 1, 1, 5], [1, 11]], ids=str)
@torch.no_grad()
def test_pieces_equal_the_whole(family, steps, tiny_decoder):
    decoder = tiny_decoder(family)
    ids = random_ids(2, 12)
    cache = KeyValueCache(decoder.config, rows=2, length=20)
    pieces = []
    for piece in ids.split(steps, dim=1):
        pieces.append(decoder.hidden(piece, cache.positions(piece.shape[1]), cache=cache))
        cache.advance(piece.shape[1])
    close(torch.cat(pieces, 1), decoder.hidden(ids))
    assert cache.lengths.tolist() == [12, 12]


@torch.no_grad()
def test_prompts_of_unequal_length_padded_on_the_right(family, tiny_decoder):
    decoder = tiny_decoder(family)
    texts = [random_ids(1, 14)[0], random_ids(1, 9)[0], random_ids(1, 11)[0]]
    prompts = [9, 4, 1]
    padded = torch.zeros(3, 9, dtype=torch.int64)
    for row, (text, length) in enumerate(zip(texts, prompts, strict=True)):
        padded[row, :length] = text[:length]
    cache = KeyValueCache(decoder.config, rows=3, length=14)
    hidden = decoder.hidden(padded, cache.positions(9), cache=cache)
    cache.advance(torch.tensor(prompts))
    whole = [decoder.hidden(text[None])[0] for text in texts]
    for row, length in enumerate(prompts):
        close(hidden[row, :length], whole[row][:length])
    for step in range(5):
        following = torch.stack(
            [text[length + step] for text, length in zip(texts, prompts, strict=True)]
        )
        hidden = decoder.hidden(following[:, None], cache.positions(1), cache=cache)
        cache.advance(1)
        for row, length in enumerate(prompts):
            close(hidden[row, 0], whole[row][length + step])


@torch.no_grad()
def test_a_row_leaves_and_another_comes(tiny_decoder):
    decoder = tiny_decoder("llama")
    first, second, third = random_ids(3, 12)
    cache = KeyValueCache(decoder.config, rows=2, length=16)
    both = torch.stack([first, second])
    decoder.hidden(both[:, :8], cache.positions(8), cache=cache)
    cache.advance(8)

    cache.reset(0)
    part = cache.select(0, 1)
    decoder.hidden(third[None, :3], part.positions(3), cache=part)
    part.advance(3)
    assert cache.lengths.tolist() == [3, 8], "the part and the whole are one memory"

    following = torch.stack([third[3], second[8]])
    hidden = decoder.hidden(following[:, None], cache.positions(1), cache=cache)
    close(hidden[0, 0], decoder.hidden(third[None, :4])[0, -1])
    close(hidden[1, 0], decoder.hidden(second[None, :9])[0, -1])


@torch.no_grad()
def test_a_full_row_does_not_disturb_the_others(tiny_decoder):
    decoder = tiny_decoder("qwen3")
    ids = random_ids(2, 10)
    cache = KeyValueCache(decoder.config, rows=2, length=10)
    decoder.hidden(ids[:, :9], cache.positions(9), cache=cache)
    cache.advance(torch.tensor([10, 9]))
    hidden = decoder.hidden(ids[:, 9:], cache.positions(1), cache=cache)
    assert cache.positions(3).max() == 9
    close(hidden[1, 0], decoder.hidden(ids[1:])[0, -1])
