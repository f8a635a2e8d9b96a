"""The house rule: a room imports only from rooms before it, and config.py from nothing of ours."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hornbook

HOUSE = Path(hornbook.__file__).parent
ROOMS = [
    "gather", "corpus", "tokenizer", "tokens", "model", "optim", "plan", "train", "chat",
    "multimodal", "evaluate", "feed", "report", "serve", "publish",
]  # fmt: skip
FOUNDATIONS = {"errors", "files", "documents", "processes", "progress"}
SEES_EVERY_ROOM = {
    "__main__", "arguments", "cli", "commands", "evaluating", "feeding", "forecasting",
    "gathering", "planning", "recipe", "run", "stages", "verbs", "worker",
}  # fmt: skip
FILES = sorted(HOUSE.rglob("*.py"))


def imported_parts(path: Path) -> set[str]:
    """The first part after `hornbook.` of all of ours that a file imports, anywhere in it."""
    parts: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "hornbook":
                names = [f"hornbook.{alias.name}" for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("hornbook.")}
    return parts - {"__version__"}


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_go_only_up_the_list(path: Path) -> None:
    inside = path.relative_to(HOUSE).parts
    imports = imported_parts(path)
    if path.name == "config.py":
        assert not imports
    elif len(inside) == 1:
        if path.stem in FOUNDATIONS:
            assert imports <= FOUNDATIONS
        else:
            assert path.stem in SEES_EVERY_ROOM | {"__init__"}
    else:
        allowed = set(ROOMS[: ROOMS.index(inside[0]) + 1]) | FOUNDATIONS
        assert imports <= allowed, f"{path} imports {imports - allowed}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
