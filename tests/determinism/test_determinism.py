"""What decides money and order obeys the determinism rules; and the check finds each breach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.determinism.checker import MODULES, RULES, Finding, check

ROOT = Path(__file__).parents[2]

BREACHES = {
    "division": [
        "x: int = 1 / 2",
        "x: int = 1 // 2",
        "x: int = 2 ** 3",
        "def f(x: int) -> None:\n    x /= 2",
        "def f(x: int) -> None:\n    x //= 2",
        "def f(x: int) -> None:\n    x **= 2",
    ],
    "float": ["x: object = 0.5", "x: object = 1e18", "x: object = 1j", "def f(x=1.0): ..."],
    "set": [
        "x: object = {1, 2}",
        "def f(y):\n    return set(y)",
        "def f(y):\n    return frozenset(y)",
        "def f(y):\n    return {z for z in sorted(y)}",
        "def f(y):\n    return {z: 1 for z in sorted(y)}",
        "def f(y):\n    return list(map(set, y))",
    ],
    "iteration": [
        "def f(y):\n    for z in y: pass",
        "def f(y):\n    for z in y.parts: pass",
        "def f(y):\n    for z in list(y): pass",
        "def f(y):\n    for z in enumerate(y): pass",
        "def f(y):\n    for z in y[1:]: pass",
        "def f(y):\n    return [z for z in y]",
        "def f(y):\n    return any(z for z in y)",
        "async def f(y):\n    async for z in y: pass",
    ],
    "assignment": [
        "x = 1",
        "class A:\n    x = 1",
        "if True:\n    x = 1",
        "try:\n    x = 1\nexcept ValueError:\n    pass",
        "x: int = 1\nx += 1",
    ],
    "view": [
        "def f(y):\n    return y.items()",
        "def f(y):\n    return y.keys()",
        "def f(y):\n    return sorted(y.values())",
        "def f(y):\n    return y.items",
    ],
    "global": ["def f():\n    global x"],
    "bare-except": ["def f():\n    try:\n        pass\n    except:\n        pass"],
    "call": [
        f"def f(y):\n    return {name}(y)"
        for name in (
            "float",
            "round",
            "pow",
            "hash",
            "open",
            "print",
            "eval",
            "exec",
            "__import__",
        )
    ]
    + ["def f(y):\n    return map(float, y)"],
    "import": [
        statement
        for name in (
            "os",
            "sys",
            "time",
            "datetime",
            "uuid",
            "random",
            "math",
            "decimal",
            "asyncio",
            "threading",
        )
        for statement in (f"import {name}", f"from {name} import anything")
    ]
    + ["import json, os.path", "def f():\n    import time", "from os.path import join"],
}

HARMLESS = [
    "x: int = 1",
    "class A:\n    x: int = 1\n    y: int",
    "def f(y):\n    x = 1\n    x += 2\n    return x",
    "def f(y):\n    a, b = divmod(y, 3)\n    return a >> 1",
    "def f(y):\n    for z in sorted(y): pass",
    "def f(y):\n    for i in range(len(y)): pass",
    "def f():\n    for z in (1, 2): pass",
    "def f(y):\n    return [z for z in sorted(y)]",
    "def f(y):\n    try:\n        pass\n    except ValueError:\n        pass",
    "import hashlib, json",
    "from plugins.secure_chat.core.records import Record",
    "x: dict[str, int] = {}",
]


def test_every_rule_is_shown_to_find_something() -> None:
    assert set(BREACHES) == set(RULES)


@pytest.mark.parametrize(
    ("rule", "source"), [(rule, source) for rule in BREACHES for source in BREACHES[rule]]
)
def test_a_breach_is_found(rule: str, source: str) -> None:
    assert rule in {finding.rule for finding in check(source)}


@pytest.mark.parametrize("source", HARMLESS)
def test_what_is_allowed_is_not_found(source: str) -> None:
    assert check(source) == []


def test_a_finding_names_its_line() -> None:
    assert check("x: int = 1\n\ny: int = 1 / x\n") == [Finding(3, "division")]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_what_decides_money_and_order_is_free_of_simulation(module: Path) -> None:
    assert check((ROOT / module).read_text()) == []


def test_the_command_fails_when_there_is_a_finding(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import time\n")
    good = tmp_path / "good.py"
    good.write_text("x: int = 1\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.determinism.checker", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    found = run(str(bad), str(good))
    assert found.returncode == 1
    assert found.stdout.startswith(f"{bad}:1: import: ")
    assert run(str(good)).returncode == 0
    assert run().returncode == 0
