"""Generation: the cache against full recomputation, stops, streaming, bounds, seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hornbook.errors import HornbookError
from hornbook.model.config import Family, GenerateConfig, ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.model.generate import Generation, generate, generate_text
from hornbook.tokenizer.assemble import AddedToken, tokenizer_json
from hornbook.tokenizer.tokenizer import Tokenizer

GREEDY = GenerateConfig(max_tokens=20, temperature=0)
FAMILIES: tuple[Family, ...] = ("gpt2", "phi", "llama", "qwen3")
END = 258


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Single bytes (id = byte), "th", "the", and end-of-text at 258."""
    merges = [(b"t", b"h"), (b"th", b"e")]
    tokens = {bytes([byte]): byte for byte in range(256)} | {b"th": 256, b"the": 257}
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    end = [AddedToken(END, "<|endoftext|>")]
    path.write_text(tokenizer_json(tokens, merges, "gpt2", own_special=end), encoding="utf-8")
    return Tokenizer.load(path)


def small_model(family: Family = "llama", context: int = 64) -> Decoder:
    """Random weights large enough that the likeliest token changes from step to step."""
    config = ModelConfig(
        family=family, vocabulary=259, vocabulary_rows=320, context=context, layers=2, heads=4,
        kv_heads=2 if family in ("llama", "qwen3") else 4, head_dim=8, width=32, mlp_width=64,
        tied=False, rotary_fraction=0.5 if family == "phi" else 1.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(7)
    model = Decoder(config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


class Scripted(Decoder):
    """Says a given text after any prompt of one token, whatever its weights."""

    def __init__(self, ids: list[int], context: int = 64):
        super().__init__(small_model(context=context).config)
        self.script = ids

    def hidden(self, ids, positions=None, documents=None, cache=None):  # type: ignore[no-untyped-def]
        return positions[..., None].float()

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(hidden), self.config.vocabulary_rows)
        for row, position in enumerate(hidden[:, 0].long().tolist()):
            logits[row, self.script[position % len(self.script)]] = 50.0
        return logits


def greedy_by_recomputation(model: Decoder, prompt: list[int], count: int) -> list[int]:
    """The plain way: the whole sequence through the model for each token, one row, no cache."""
    model.eval()
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < min(len(prompt) + count, model.config.context):
            id = int(model(torch.tensor([ids]))[0, -1, : model.config.vocabulary].argmax())
            if id == END:
                break
            ids.append(id)
    return ids[len(prompt) :]


PROMPTS = [[5], list(range(40, 71)), [9, 9, 9], [257, 3, 1, 0, 200], list(range(100, 150))]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_full_recomputation(family: Family, tokenizer: Tokenizer) -> None:
    model = small_model(family)
    results = generate(model, PROMPTS, GREEDY, tokenizer=tokenizer)
    for prompt, result in zip(PROMPTS, results, strict=True):
        assert result.prompt == prompt
        assert result.ids == greedy_by_recomputation(model, prompt, 20)
        if result.stop != "end_of_text":
            expected = "context" if len(prompt) + 20 > 64 else "length"
            assert result.stop == expected
            assert len(result.ids) == min(20, 64 - len(prompt))
    assert len({tuple(result.ids[:5]) for result in results}) > 2, "the model says always the same"


def test_a_row_does_not_depend_on_the_others(tokenizer: Tokenizer) -> None:
    model = small_model()
    config = GenerateConfig(
        max_tokens=25, temperature=1.0, top_p=0.95, min_p=0.001, repetition_penalty=1.2, seed=3
    )
    together = generate(model, PROMPTS, config, tokenizer=tokenizer)
    fewer = generate(model, PROMPTS[:2], config, tokenizer=tokenizer)
    assert fewer == together[:2]
    other = [PROMPTS[0], [1], [2], [3], PROMPTS[4]]
    assert generate(model, other, config, tokenizer=tokenizer)[4] == together[4]


def test_seeds_and_rows_differ(tokenizer: Tokenizer) -> None:
    model = small_model()
    hot = GenerateConfig(max_tokens=20, temperature=2.0, top_p=1.0)
    first, second = generate(model, [[1], [1]], hot, tokenizer=tokenizer)
    assert first.ids != second.ids
    again = generate(model, [[1], [1]], hot, tokenizer=tokenizer)
    assert again == [first, second]
    hot.seed += 1
    assert generate(model, [[1]], hot, tokenizer=tokenizer)[0].ids != first.ids


def test_padding_columns_and_ids_of_no_token_are_never_sampled(tokenizer: Tokenizer) -> None:
    config = small_model().config
    # As in an imported stock model: all its rows count as vocabulary, the tokenizer has fewer.
    rows = ModelConfig(**(vars(config) | {"vocabulary": config.vocabulary_rows}))
    model = Decoder(rows)
    hot = GenerateConfig(max_tokens=60, temperature=50.0, top_p=1.0)
    for result in generate(model, [[1]] * 8, hot, tokenizer=tokenizer):
        assert max(result.ids) < tokenizer.size


def test_dropout_is_off_and_training_mode_comes_back(tokenizer: Tokenizer) -> None:
    model = small_model("gpt2")
    noisy = Decoder(ModelConfig(**(vars(model.config) | {"residual_dropout": 0.5})))
    noisy.load_state_dict(model.state_dict())
    noisy.train()
    assert generate(noisy, PROMPTS, GREEDY, tokenizer=tokenizer) == generate(
        model, PROMPTS, GREEDY, tokenizer=tokenizer
    )
    assert noisy.training


def run_script(
    tokenizer: Tokenizer, text: bytes, *, end: bool = True, **settings: object
) -> tuple[Generation, list[str]]:
    """What becomes of a model that says `text`, byte by byte, and then end-of-text."""
    model = Scripted([*text, *([END] if end else [])])
    pieces: list[str] = []
    config = GenerateConfig(**({"temperature": 0, "max_tokens": 200} | settings))  # type: ignore[arg-type]
    [result] = generate(
        model, [[0]], config, tokenizer=tokenizer, on_text=lambda row, text: pieces.append(text)
    )
    return result, pieces


def test_stop_string_over_several_tokens(tokenizer: Tokenizer) -> None:
    result, pieces = run_script(tokenizer, b"Well\n\nUse\nUser: no", stop=["\nUser:", "###"])
    assert result.stop == "stop"
    assert result.text == "Well\n\nUse" == "".join(pieces)
    assert bytes(result.ids) == b"Well\n\nUse\nUser:"
    assert "\nUse" not in "".join(pieces[:5])


def test_what_only_began_a_stop_string_is_text(tokenizer: Tokenizer) -> None:
    result, pieces = run_script(tokenizer, b"a##", stop=["###"])
    assert (result.text, result.stop) == ("a##", "end_of_text")
    assert pieces == ["a", "##"]
    result, pieces = run_script(tokenizer, b"a##b", stop=["###"], max_tokens=3)
    assert (result.text, result.stop) == ("a##", "length")


def test_streamed_pieces_are_whole_characters(tokenizer: Tokenizer) -> None:
    result, pieces = run_script(tokenizer, "aé€😀z".encode())
    assert pieces == ["a", "é", "€", "😀", "z"]
    assert result.text == "aé€😀z"
    assert result.stop == "end_of_text"


def test_a_character_cut_by_the_end_is_marked_only_there(tokenizer: Tokenizer) -> None:
    result, pieces = run_script(tokenizer, "é€".encode(), max_tokens=4)
    assert pieces == ["é", "\ufffd"]
    assert result.text == "é\ufffd"


def test_finished_rows_do_not_stop_others(tokenizer: Tokenizer) -> None:
    model = Scripted([*b"0123456789", END])
    config = GenerateConfig(temperature=0)
    results = generate(model, [[1] * 9, [1], [1] * 5], config, tokenizer=tokenizer)
    assert [result.text for result in results] == ["89", "0123456789", "456789"]


def test_context_limit(tokenizer: Tokenizer) -> None:
    model = small_model(context=16)
    prompts = [[1] * 16, [2] * 15, [3] * 4]
    results = generate(model, prompts, GREEDY, tokenizer=tokenizer)
    assert [len(result.ids) for result in results] == [0, 1, 12]
    assert {result.stop for result in results} == {"context"}


def test_a_prompt_longer_than_the_context_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(HornbookError, match=r"prompt 2: has 17 tokens.*context holds 16"):
        generate(small_model(context=16), [[1], [1] * 17], GREEDY, tokenizer=tokenizer)


def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(HornbookError, match=r"prompt 1: has ids outside .* 259"):
        generate(small_model(), [[259]], GREEDY, tokenizer=tokenizer)


def test_an_empty_prompt_starts_from_end_of_text(tokenizer: Tokenizer) -> None:
    model = small_model()
    [empty, spelt] = generate(model, [[], [END]], GREEDY, tokenizer=tokenizer)
    assert empty == spelt
    assert empty.prompt == [END]


def test_nothing_to_write(tokenizer: Tokenizer) -> None:
    model = small_model()
    nothing = GenerateConfig(max_tokens=0)
    [result] = generate(model, [[1]], nothing, tokenizer=tokenizer)
    assert (result.ids, result.text, result.stop) == ([], "", "length")
    assert generate(model, [], nothing, tokenizer=tokenizer) == []


def test_nan_is_named(tokenizer: Tokenizer) -> None:
    model = small_model()
    with torch.no_grad():
        model.final_norm.weight.fill_(float("nan"))
    with pytest.raises(HornbookError, match="NaN"):
        generate(model, [[1]], GREEDY, tokenizer=tokenizer)


def test_text_in_text_out(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = small_model()
    [result] = generate_text(model, tokenizer, ["the <|endoftext|>"], GREEDY)
    assert result.prompt == [257, *b" <|endoftext|>"]
    assert result.text == tokenizer.decode(result.ids)
