"""``core/`` is pure: nothing of the shells in it, and nothing that does I/O or tells time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "plugins" / "secure_chat" / "core"
ALLOWED_OF_OURS = ("plugins.secure_chat.core", "plugins.secure_chat.errors")
# fmt: off
IMPURE = frozenset((
    "asyncio", "concurrent", "fastapi", "fcntl", "glob", "http", "httpx", "io", "logging",
    "multiprocessing", "os", "pathlib", "pluggy", "prometheus_client", "queue", "random",
    "secrets", "select", "shutil", "signal", "socket", "sqlalchemy", "sqlite3", "starlette",
    "subprocess", "sys", "tempfile", "threading", "time", "uuid", "uvicorn", "v13", "websockets",
))
# fmt: on
IMPURE_CALLS = frozenset(("open", "print", "input", "now", "utcnow", "today", "token_bytes"))


def imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def calls(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr


def impurities(source: str) -> list[str]:
    """What in ``source`` has no place in the core."""
    found = []
    for name in imports(source):
        if name.startswith("plugins."):
            misplaced = not name.startswith(ALLOWED_OF_OURS)
        else:
            misplaced = name.startswith(".") or name.split(".")[0] in IMPURE
        if misplaced:
            found.append(f"imports {name}")
    return found + [f"calls {name}" for name in calls(source) if name in IMPURE_CALLS]


@pytest.mark.parametrize("module", sorted(CORE.glob("*.py")), ids=lambda path: path.stem)
def test_a_module_of_the_core_is_pure(module: Path) -> None:
    assert impurities(module.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import os.path",
        "from asyncio import sleep",
        "from . import frames",
        "import plugins.secure_chat.hub",
        "from plugins.secure_chat.transport.tokens import Principal",
        "def f(path):\n    return open(path)",
        "def f(clock):\n    return datetime.now()",
    ],
)
def test_the_check_finds_each_impurity(source: str) -> None:
    assert len(impurities(source)) == 1
