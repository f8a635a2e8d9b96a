"""The pages hold: links resolve, code shown is the source's, commands and recipes parse."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from hornbook.arguments import parse
from hornbook.cli import find_verb
from hornbook.recipe import Recipe, build_recipe, check_keys, load_yaml

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXCERPT = re.compile(r"From \[`[^`]*`\]\(\.\./\.\./(src/[^)]+)\):\n\n```python\n(.*?)```", re.S)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def stripped(code: str) -> str:
    return "\n".join(line.strip() for line in code.strip().splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" not in link:
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
    for path, code in EXCERPT.findall(text):
        source = (ROOT / path).read_text(encoding="utf-8")
        assert stripped(code) in stripped(source), f"{path} has changed:\n{code}"
    for block in re.findall(r"```\w*\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("hornbook "):
                words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
                parse(*find_verb(words))
    for recipe in re.findall(r"```yaml\n(.*?)```", text, re.S):
        values = load_yaml(recipe)
        check_keys(values, Recipe, str(page))
        build_recipe(values, str(page))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_commands_of_a_notebook(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code")
    commands = re.findall(r"^!hornbook ([^|\n]*)", code.replace("\\\n", " "), re.M)
    assert commands
    for command in commands:
        parse(*find_verb(shlex.split(re.sub(r"\{\w+\}", "x", command))))
