"""What is in deploy/ and docs/scaling.md is well formed, and says what the code says."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hornbook.arguments import parse
from hornbook.cli import find_verb
from hornbook.recipe import load_recipe

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_slurm_script_is_shell_and_asks_for_a_run() -> None:
    script = str(DEPLOY / "slurm.sh")
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode == 2 and "usage" in done.stderr


def test_the_skypilot_task_is_a_task() -> None:
    task = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text(encoding="utf-8"))
    assert set(task) == {"name", "resources", "envs", "file_mounts", "workdir", "setup", "run"}
    for name in set(re.findall(r"\$\{?([A-Z_]+)", task["run"] + str(task["file_mounts"]))):
        assert name in task["envs"] or name.startswith("SKYPILOT_")


def test_the_dockerfile_copies_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("FROM python:")
    for line in lines:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source


def test_the_composition_is_a_feed_and_a_trainer() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    unset = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)
    services = yaml.safe_load(re.sub(r"\$\{[A-Z_]+:\?[^}]*\}", "given", unset))["services"]
    assert (DEPLOY / services["feed"]["build"]["context"] / "deploy" / "Dockerfile").is_file()
    for service in services.values():
        verb, words = find_verb([str(word) for word in service["command"]])
        _, overrides = parse(verb, words)
        recipe = load_recipe("feed-cpu", overrides)
        assert recipe.feed.teachers or verb.name == "feed"
        assert service["environment"] == {"HORNBOOK_FEED_TOKEN": "given"}
        assert all(each.split(":")[0] in ("feed", "runs", "given") for each in service["volumes"])
    assert services["trainer"]["image"] == services["feed"]["image"]
    assert services["trainer"]["depends_on"] == {"feed": {"condition": "service_healthy"}}
    assert "http://feed:8765" in services["trainer"]["command"]


def test_the_tables_of_the_page_are_those_of_the_script() -> None:
    path = ROOT / "benchmarks" / "scaling_tables.py"
    spec = importlib.util.spec_from_file_location("scaling_tables", path)
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    sys.modules["scaling_tables"] = tables  # dataclasses look their module up
    spec.loader.exec_module(tables)
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.filled(page) == page
    assert all(f"<!-- table: {name} -->" in page for name in tables.TABLES)
