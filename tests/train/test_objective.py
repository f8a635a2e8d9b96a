"""The next-token loss: a sum, whatever is masked."""

from __future__ import annotations

import torch
from tiny_run import MODEL, CountingRows

from hornbook.model.decoder import Decoder
from hornbook.tokens.batch import IGNORE
from hornbook.train.objective import NextToken


def test_is_the_sum_over_targets_that_are_not_masked() -> None:
    model, batch, objective = Decoder(MODEL).eval(), CountingRows().rows(0, 6), NextToken()
    loss, metrics = objective(model, batch)
    logits = model(batch.inputs)[..., : MODEL.vocabulary].log_softmax(-1)
    kept = batch.targets != IGNORE
    expected = -logits[kept].gather(-1, batch.targets[kept][:, None]).sum()
    torch.testing.assert_close(loss, expected)
    assert objective.weight(batch) == kept.sum() == 6 * 16 - 2 * 8
    assert metrics == {}


def test_a_batch_without_targets_is_zero_not_nan() -> None:
    model, batch, objective = Decoder(MODEL), CountingRows().rows(0, 2), NextToken()
    batch.targets.fill_(IGNORE)
    loss, _ = objective(model, batch)
    loss.backward()
    assert objective.weight(batch) == 0
    assert loss.item() == 0
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
