"""The architectures that the decoder can be, one short file each; all but `speedrun` are stock."""

from __future__ import annotations

from hornbook.model.families import gpt2, llama, phi, qwen3, speedrun
from hornbook.model.families.family import Architecture, Family, Slice, Weight

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY for module in (gpt2, phi, llama, qwen3, speedrun)
}
"""The known families by their `model_type`."""

STOCK = [name for name, family in FAMILIES.items() if family.stock_class]
"""Names of those that can be imported and exported."""

__all__ = ["FAMILIES", "STOCK", "Architecture", "Family", "Slice", "Weight"]
