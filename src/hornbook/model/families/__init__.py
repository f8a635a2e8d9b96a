"""The stock architectures that the decoder can be, one short file each."""

from __future__ import annotations

from hornbook.model.families import gpt2, llama, phi, qwen3
from hornbook.model.families.family import Architecture, Family, Slice, Weight

FAMILIES: dict[str, Family] = {
    family.name: family for family in (gpt2.FAMILY, phi.FAMILY, llama.FAMILY, qwen3.FAMILY)
}
"""The known families by their `model_type`."""

__all__ = ["FAMILIES", "Architecture", "Family", "Slice", "Weight"]
