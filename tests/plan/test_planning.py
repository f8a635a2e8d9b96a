"""`hornbook plan` as a user meets it; real recipes, real steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hornbook.cli import main
from hornbook.recipe import built_in_recipes, load_recipe


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["plan", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    _, out, err = run(capsys, *words, "--json")
    assert err == ""
    value: dict[str, Any] = json.loads(out)
    return value


@pytest.mark.parametrize("recipe", built_in_recipes())
def test_every_built_in_recipe_can_be_planned(
    capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    code, out, _ = run(capsys, recipe, "--gpu", "h200", "--hours", "1")
    assert code == 0
    lines = out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    for word in ("parameters", "FLOPs a token", "gradients", "optimizer", "activations", "rate",
                 "expected loss", "cost"):  # fmt: skip
        assert any(word in line for line in lines), word


def test_every_row_says_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    value = planned(capsys, "gpt2-124m", "--gpu", "a100-40gb")
    assert value["fits"]
    assert {row["source"] for row in value["rows"]} <= {"measured", "extrapolated"}
    sources = {row["name"]: row["source"] for row in value["rows"]}
    assert sources["parameters"] == "measured"
    assert sources["rate"] == "extrapolated"
    assert sources["expected loss"] == "extrapolated"


@pytest.mark.parametrize(
    ("words", "source"),
    [
        (("gpt2-355m", "--gpu", "h200"), "measured"),
        (("llama-1b", "--gpu", "h200"), "measured"),
        (("gpt2-355m", "--gpu", "h100"), "extrapolated"),
        (("gpt2-355m", "--gpu", "h200", "--gpus", "2"), "extrapolated"),
        (("qwen3-0.6b", "--gpu", "h200"), "extrapolated"),
        (("llama-1b", "--gpu", "h200", "--optimizer.kind", "muon"), "extrapolated"),
        (("gpt2-355m", "--gpu", "h200", "--optimizer.offload", "true"), "extrapolated"),
        (("gpt2-355m", "--gpu", "h200", "--pretrain.activation_checkpointing", "full"),
         "extrapolated"),
    ],
)  # fmt: skip
def test_measured_is_what_was_calibrated(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], source: str
) -> None:
    value = planned(capsys, *words, "--tokens", "1e9")
    sources = {row["name"]: row["source"] for row in value["rows"]}
    assert {sources[name] for name in ("rate", "of it", "peak", "needs", "weights")} == {source}


def test_no_gpu_and_no_pytorch_is_needed() -> None:
    script = (
        "import sys; from hornbook.cli import main;"
        "code = main(['plan', 'gpt2-124m', '--gpu', 'h100', '--json']);"
        "sys.exit('imported torch' if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_model_size_does_for_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    value = planned(capsys, "phi2", "--gpu", "h200", "--tokens", "1e9")
    assert value["parameters"] == 2_779_683_840
    assert value["tokens"] == 1e9


def test_overrides_count(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("gpt2-124m", "--gpu", "h200", "--gpus", "4", "--price", "2", "--hours", "3")
    value = planned(capsys, *words, "--optimizer.kind", "muon", "--model.layers", "6")
    assert value["setup"]["gpus"] == 4
    assert value["setup"]["optimizer"]["kind"] == "muon"
    assert value["cost"] == pytest.approx(2 * 3 * 4)
    assert value["hours"] == pytest.approx(3)


def test_what_does_not_fit_says_what_would_and_exits_with_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "phi2", "--gpu", "rtx4090", "--tokens", "1e9")
    assert code == 2
    assert "DOES NOT FIT" in out
    assert "What would fit" in out
    assert "--optimizer.kind adamw8bit" in out


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--pretrain.activation_checkpointing", "full"),
        ("--optimizer.kind", "muon", "--pretrain.activation_checkpointing", "full"),
        ("--gpus", "4"),
        ("--gpus", "4", "--pretrain.sharding", "fsdp"),
    ],
)
def test_the_memory_rows_add_up_to_the_peak(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    parts = ("weights", "gradients", "optimizer", "activations", "logits", "workspace")
    value = planned(capsys, "gpt2-712m", "--gpu", "a100-40gb", "--tokens", "1e9", *words)
    assert sum(value["memory"][part] for part in parts) == pytest.approx(value["peak_bytes"])
    shown = {row["name"]: row["value"] for row in value["rows"]}
    total = sum(_bytes(shown[name]) for name in (*parts[:4], "logits, loss", "workspace"))
    assert total == pytest.approx(_bytes(shown["peak"]), rel=0.02)


def _bytes(shown: str) -> float:
    if shown.startswith("none"):
        return 0.0
    value, unit = shown.split()[:2]
    return float(value) * (1e9 if unit.startswith("GB") else 1e6)


def test_a_micro_batch_that_does_not_fit_is_said_to_be_smaller(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("--pretrain.micro_batch", "64", "--pretrain.activation_checkpointing", "none",
             "--pretrain.global_batch_tokens", "524288")  # fmt: skip
    value = planned(capsys, "gpt2-355m", "--gpu", "rtx4090", "--tokens", "1e9", *asked)
    (step,) = (row["value"] for row in value["rows"] if row["name"] == "step")
    assert value["setup"]["micro_batch"] < 64
    assert "as 64 do not fit" in step
    value = planned(capsys, "gpt2-124m", "--gpu", "h200", "--pretrain.micro_batch", "64")
    (step,) = (row["value"] for row in value["rows"] if row["name"] == "step")
    assert "as 64" not in step


def test_of_tokens_and_minutes_the_shorter_counts(capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--pretrain.tokens", "1000000000000", "--pretrain.minutes", "60")
    value = planned(capsys, "gpt2-124m", "--gpu", "h200", *limits)
    assert value["hours"] == pytest.approx(1)
    limits = ("--pretrain.tokens", "1000000", "--pretrain.minutes", "60")
    assert planned(capsys, "gpt2-124m", "--gpu", "h200", *limits)["tokens"] == 1e6


def test_a_smaller_model_that_is_proposed_fits_as_it_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = tmp_path / "long.yaml"
    recipe.write_text(
        "name: long\ntokenize: {kind: cl100k_base}\nmodel: {preset: gpt2-1.5b, context: 4096}\n"
    )
    words = (str(recipe), "--gpu", "rtx3090", "--tokens", "1e9")
    remedies = planned(capsys, *words)["remedies"]
    (smaller,) = (each["change"] for each in remedies if "smaller model" in each["change"])
    value = planned(capsys, *words, *smaller.partition(": ")[2].split())
    assert value["fits"]
    assert value["setup"]["sequence_length"] == 4096


def test_a_speedrun_of_few_layers_has_fewer_tricks(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, _ = run(capsys, "speedrun", "--gpu", "h200", "--model.layers", "2")
    assert code == 0
    assert "2 layers" in shown


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "which recipe?"),
        (["gtp2-124m"], "Did you mean 'gpt2-124m'?"),
        (["gpt2-124m", "--gpu", "h10"], "Did you mean 'h100'?"),
        (["gpt2-124m", "--gpu", "h100", "--hours", "-1"], "--hours: must be 0 or more"),
        (["gpt2-124m", "--gpu", "h100", "--hours", "nan"], "--hours: expected a number, got nan"),
        (["gpt2-124m", "--gpu", "h100", "--hours", "1", "--tokens", "5"], "twice"),
        (["gpt2-124m", "--gpu", "h100", "--price", "-3"], "--price: must be"),
        (["gpt2-124m", "--gpu", "h100", "--probe"], "--probe runs on this machine"),
        (["gpt2-124m", "--gpu", "h100", "--gpus", "-2"], "pretrain.gpus: must be"),
        (["gpt2-124m", "--gpu", "h100", "--text", "nowhere"], "nowhere"),
        (["gpt2-124m", "--gpu", "h100", "--model.width", "7"], "no multiple of"),
        (["gpt2-124m", "--gpu", "h100", "--pretrain.micro_batch", "-1"], "micro_batch: must be"),
        (["gpt2-124m", "--gpu", "t4", "--pretrain.weights", "bf16"], "t4 has no bf16"),
        (["gpt2-124m", "--gpu", "a100", "--pretrain.float8", "true"], "no 8-bit products"),
        (["gpt2-124m", "--gpu", "t4", "--pretrain.mlp", "fused"], "fused is for 16 bits"),
        (["llama-125m", "--gpu", "h100", "--pretrain.mlp", "fused"], "fused is for 16 bits"),
        (
            ["gpt2-124m", "--gpu", "h100", "--pretrain.float8", "true", "--pretrain.mlp", "fused"],
            "pretrain.mlp",
        ),
        (["gpt2-124m", "--gpu", "cpu", "--gpus", "2"], "a processor counts once, not 2 times"),
        (["--write", "x.yaml", "--gpu", "h100"], "give --hours"),
        (["gpt2-124m", "--write", "x.yaml", "--hours", "1"], "takes no recipe"),
        (["--write", "x.yaml", "--gpu", "h100", "--hours", "1e-12"], "less than one step"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert problem in err
    assert len(err.strip().splitlines()) == 1


def some_text(folder: Path) -> Path:
    path = folder / "text.txt"
    sentences = [f"The {n % 97}th of {n % 13} birds sang {n % 7} songs.\n\n" for n in range(6000)]
    path.write_text("".join(sentences))
    return path


def test_settings_given_with_write_are_planned_for_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "mine.yaml"
    words = ("--write", str(out), "--hours", "1", "--gpu", "h100", "--model.layers", "2")
    code, shown, _ = run(capsys, *words)
    assert code == 0
    assert "2 layers" in shown
    assert load_recipe(str(out)).model.layers == 2
    assert "--hours 1 --gpu h100:" in out.read_text().splitlines()[0]


@pytest.mark.timeout(600)
def test_the_recipe_it_writes_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, out = some_text(tmp_path), tmp_path / "mine.yaml"
    where = ("--hours", "0.02", "--gpu", "cpu", "--text", str(text))
    code, shown, _ = run(capsys, "--write", str(out), *where)
    assert code == 0
    assert "hornbook run" in shown
    recipe = load_recipe(str(out))
    assert recipe.prepare.inputs == [str(text)]
    limits = [
        "--pretrain.minutes",
        "0",
        "--pretrain.steps",
        "3",
        "--tokenize.encoder",
        "tokenizers",
    ]
    assert main(["run", str(out), *limits]) == 0
    assert (tmp_path / "runs" / "mine" / "export" / "config.json").exists()
    # And a run directory can be planned for: its tokens are counted.
    capsys.readouterr()
    value = planned(capsys, "runs/mine", "--gpu", "h100", "--tokens", "1e9")
    assert value["loss"]["epochs"] > 100


@pytest.mark.timeout(600)
def test_three_real_steps_correct_it(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--model.preset", "llama-1m", "--model.layers", "2", "--model.context", "64")
    words = ("quickstart", "--gpu", "cpu", "--tokenize.vocabulary", "512", *small)
    value = planned(capsys, *words, "--pretrain.threads", "1", "--tokens", "1e6", "--probe")
    sources = {row["name"]: row["source"] for row in value["rows"]}
    assert sources["rate"] == sources["time"] == "measured"
    assert value["hours"] == pytest.approx(1e6 / value["tokens_per_second"] / 3600)
