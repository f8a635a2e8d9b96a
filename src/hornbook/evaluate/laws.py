"""Published laws of the loss in parameters and tokens, calibrated on a run.

In: where a run is. Out: the tokens after which each law sees it at a target; the model size for
which a target is within reach. A law's irreducible loss belongs to its own text and tokenizer, so
only differences of a law are used: what it says changes from here on. Nats a token are turned into
those of the law's tokenizer and back as in `plan/loss.py`.

L = E + A / N^alpha + B / D^beta:

- Besiroglu et al. 2024 (arXiv:2404.10102), the refit of Chinchilla (arXiv:2203.15556): MassiveText.
- Kumar et al. 2024 (arXiv:2411.04330), appendix K, table 2, at full precision: the Common Crawl of
  Dolma, 30M to 220M parameters without embeddings, 1.5B to 26B tokens. Newer, and fitted on small
  models; its authors warn that constants depend on the setup, which is why laws are compared here.
- Muennighoff et al. 2023 (arXiv:2305.16264), appendix A, for text not seen before: C4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hornbook.plan import loss
from hornbook.plan.loss import bytes_per_token

BPE_50K = bytes_per_token(50257)
"""Bytes a token of the GPT-2 and GPT-NeoX vocabularies on web text: reckoned, not published."""

TOKENS_PER_PARAMETER = 20
"""At which a larger model is said to reach a target (arXiv:2203.15556, table 3)."""


@dataclass(frozen=True)
class Law:
    """One fit. `blocks`: its N leaves embeddings out."""

    name: str
    source: str
    floor: float
    a: float
    alpha: float
    b: float
    beta: float
    token_bytes: float
    blocks: bool = False

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats a token of the law's own tokenizer."""
        return float(self.floor + self.a / parameters**self.alpha + self.b / tokens**self.beta)


LAWS = (
    Law(
        "Chinchilla, refitted by Besiroglu et al. 2024", "arXiv:2404.10102",
        loss.E, loss.A, loss.ALPHA, loss.B, loss.BETA, loss.HOFFMANN_BYTES,
    ),
    Law(
        "Kumar et al. 2024", "arXiv:2411.04330",
        2.7648, 4.299e3, 0.4965, 1.806e4, 0.4965, BPE_50K, blocks=True,
    ),
    Law(
        "Muennighoff et al. 2023", "arXiv:2305.16264",
        math.exp(0.6254804), math.exp(6.255414), 0.3526596, math.exp(7.3049974), 0.3526596, BPE_50K,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a run is."""

    parameters: float
    blocks: float
    """Parameters without embeddings and head."""
    tokens: float
    loss: float
    """Nats a token."""
    token_bytes: float
    """Bytes of text that one of its tokens holds."""
    vocabulary: int
    """Tokens that there are."""
    muon: bool = False
    """Whether Muon trains it."""


def tokens_for(law: Law, place: Place, target: float) -> float:
    """Tokens in all after which the law has the run at `target`; infinite: never. By the law's own
    level, where the run is not within what laws were fitted on."""
    longer = place.token_bytes / law.token_bytes
    if within(place):
        term = law.b / (place.tokens * longer) ** law.beta - (place.loss - target) / longer
    else:
        own = place.blocks if law.blocks else place.parameters
        term = target / longer - law.floor - law.a / own**law.alpha
    if term <= 0:
        return math.inf
    return float((law.b / term) ** (1 / law.beta) / longer)


def loss_after(law: Law, place: Place, tokens: float) -> float:
    """Nats a token of the run after `tokens` in all, as the law goes on from where the run is."""
    longer = place.token_bytes / law.token_bytes
    before, after = (law.b / (n * longer) ** law.beta for n in (place.tokens, tokens))
    return float(place.loss + longer * (after - before))


def within(place: Place) -> bool:
    """Whether a run is large and far enough for the laws to say anything of it."""
    return place.parameters >= loss.SMALLEST_MODEL and place.tokens >= loss.FEWEST_TOKENS


def loss_of(law: Law, place: Place, parameters: float, tokens: float) -> float:
    """Nats a token of the run's tokenizer, of a model of other size after other tokens of its own,
    whose bytes are taken to be those of the law's. The law's own level, where the run is not within
    what laws were fitted on."""
    longer = place.token_bytes / law.token_bytes
    if not within(place):
        return longer * law.loss(parameters, tokens)
    own = place.blocks if law.blocks else place.parameters
    change = law.loss(parameters, tokens) - law.loss(own, place.tokens * longer)
    return place.loss + longer * change


def size_for(law: Law, place: Place, floor: float, target: float) -> float:
    """Parameters (as the law counts) of the smallest model that is at `target` after 20 tokens a
    parameter, where the run's own floor is `floor`; infinite: none is. The law's own level, where
    the run is not within what laws were fitted on: from a model of 1M parameters they would promise
    the loss of Phi-2 to one of 7M."""
    longer = place.token_bytes / law.token_bytes
    own = place.blocks if law.blocks else place.parameters
    least = floor - longer * law.a / own**law.alpha if within(place) else longer * law.floor
    for size in (own * 1.05**n for n in range(400)):  # to 3e8 times the run's
        short = law.a / size**law.alpha + law.b / (TOKENS_PER_PARAMETER * size) ** law.beta
        if least + longer * short <= target:
            return float(size)
    return math.inf
