"""The model card: README.md of an exported model.

In: the model, its tokenizer, and the run it came from where there is one. Out: Markdown that tells
someone who finds the folder what the model is, what it was trained on and how good it is, and how
to use it. What is not known is left out.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from hornbook.model.config import ModelConfig
from hornbook.model.count import parameters
from hornbook.model.huggingface import exported_rows
from hornbook.report import datasets, facts, tables
from hornbook.report.data import Run, read_run
from hornbook.report.tables import Table
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.train.load import LoadedModel

FRONT_MATTER = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- hornbook
- {family}
---

"""

USE = """\
## Use

With [transformers](https://huggingface.co/docs/transformers), in this folder:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
inputs = tokenizer("Once upon a time", return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens={tokens}, do_sample=True, temperature=0.8, top_p=0.95)
print(tokenizer.decode(ids[0]))
```

With hornbook:

```
hornbook generate . "Once upon a time"
hornbook evaluate . --evaluate.text some-text.txt
```
"""

LIMITS = """\
## Limits

This model continues text in the manner of what it was trained on. It states falsehoods fluently,
repeats what its training text got wrong, and may repeat passages of it word for word.
"""


def model_card(loaded: LoadedModel, tokenizer: Tokenizer, source: Path) -> str:
    """The text of README.md for a model loaded from `source`."""
    config = loaded.decoder.config
    run = _run_of(source, loaded)
    parts = [
        FRONT_MATTER.format(family=config.family) + f"# {loaded.name}",
        facts.summary(run) if run is not None else _plain_summary(loaded),
        USE.format(tokens=min(100, config.context // 2)).rstrip(),
        "## Architecture\n\n" + _markdown(_architecture(config, tokenizer)),
    ]
    if run is not None:
        parts += _of_the_run(run, loaded)
    parts.append(LIMITS.rstrip())
    return "\n\n".join(parts) + "\n"


def _run_of(source: Path, loaded: LoadedModel) -> Run | None:
    """The run that `source` is, or is a checkpoint of, with the architecture that is exported."""
    if loaded.kind == "huggingface":
        return None
    folder = source.resolve()
    found = (each for each in (folder, *folder.parents[:3]) if (each / "recipe.yaml").is_file())
    home = next(found, None)
    if home is None:
        return None
    return replace(read_run(home), architecture=asdict(_exported(loaded.decoder.config)))


def _plain_summary(loaded: LoadedModel) -> str:
    config = loaded.decoder.config
    article = "An" if config.family.startswith(("a", "e", "i", "o")) else "A"
    step = f" after step {loaded.step:,}" if loaded.step is not None else ""
    total = parameters(_exported(config)).total
    return f"{article} {config.family} model of {total:,} parameters{step}, exported by hornbook."


def _exported(config: ModelConfig) -> ModelConfig:
    """The architecture without the rows that only pad the vocabulary in memory."""
    return replace(config, vocabulary_rows=exported_rows(config))


def _architecture(config: ModelConfig, tokenizer: Tokenizer) -> Table:
    counted = parameters(_exported(config))
    heads = f"{config.heads} of width {config.head_dim}"
    if config.kv_heads != config.heads:
        heads += f", {config.kv_heads} key/value heads"
    return tables.facts_table(
        "Architecture",
        {
            "Family": f"{config.family} (stock)",
            "Parameters": f"{counted.total:,}, of these {counted.blocks:,} in the blocks",
            "Layers": f"{config.layers}",
            "Width": f"{config.width:,}, {config.mlp_width:,} in the feed-forward layers",
            "Attention heads": heads,
            "Context": f"{config.context:,} tokens",
            "Vocabulary": f"{tokenizer.size:,} tokens",
            "Output head": "shares the embedding" if config.tied else "its own matrix",
            "Weights": "float32",
        },
    )


def _of_the_run(run: Run, loaded: LoadedModel) -> list[str]:
    """Training data, training and evaluation, as the run's report has them."""
    data = datasets.describe(run)
    shown = [f"**{table.title}**\n\n{_markdown(table)}" for table in data.tables]
    parts = ["## Training data", *data.sentences, *shown]
    measured = tables.evaluations([run])
    numbers = {"Checkpoint": f"step {loaded.step:,}"}
    for fact in facts.key_numbers(run):
        held_out = fact.label.startswith("Held-out")
        if fact.label != "Parameters" and not (held_out and measured is not None):
            numbers[fact.label] = f"{fact.value}, {fact.note}" if fact.note else fact.value
    parts += ["## Training", _markdown(tables.facts_table("Training", numbers))]
    if measured is not None:
        parts += ["## Evaluation", _markdown(measured), EVALUATION]
    return parts


EVALUATION = (
    "Loss is in nats per token. Each held-out document is scored alone; bits per byte compare "
    "between models of any tokenizer."
)


def _markdown(table: Table) -> str:
    """A table of text cells as Markdown."""
    lines = [
        table.columns,
        ["---:" if table.numeric(column) else "---" for column in range(len(table.columns))],
        *table.rows,
    ]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
