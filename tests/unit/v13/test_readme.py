"""v13/README.md tells the truth: about every file, every setting, and with code that runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from v13.ATLAS.src.settings import HostSettings

ROOT = Path(__file__).parents[3]
README = (ROOT / "v13" / "README.md").read_text()
ROWS = [row.split("|")[1:-1] for row in README.splitlines() if row.startswith("| `")]


def test_every_python_file_has_a_row() -> None:
    paths = [path for row in ROWS for path in re.findall(r"`([^`]+)`", row[0])]
    files = [
        str(file.relative_to(ROOT / "v13"))
        for file in (ROOT / "v13").rglob("*.py")
        if file.name != "__init__.py" and "node_modules" not in file.parts
    ]
    assert len(files) > 15
    assert [
        f for f in files if not any(f == p or (p[-1] == "/" and f.startswith(p)) for p in paths)
    ] == []


def test_every_row_of_a_python_file_is_of_one_that_exists() -> None:
    paths = [path for row in ROWS for path in re.findall(r"`([^`]+\.py)`", row[0])]
    assert [path for path in paths if not (ROOT / "v13" / path).is_file()] == []


def test_nothing_that_is_copied_needs_a_stand_in_that_is_not() -> None:
    """Save for the ledger, the engine and its arithmetic, which a real host has at these paths."""
    kinds = {path: row[1].strip() for row in ROWS for path in re.findall(r"`([^`]+)`", row[0])}
    absent = {
        "v13." + path.removesuffix(".py").replace("/", ".")
        for path, kind in kinds.items()
        if kind == "stand-in" and path.startswith("ATLAS/") and path.endswith(".py")
    }
    assert "v13.ATLAS.src.settings" in absent
    copied = [
        file
        for path, kind in kinds.items()
        if kind in ("new", "replaces")
        for file in sorted((ROOT / "v13").glob(path + "*.py" if path.endswith("/") else path))
        if file.suffix == ".py"
    ]
    assert len(copied) > 5
    needed = {
        (file.name, node.module)
        for file in copied
        if file.name != "testing.py"  # its fixtures run the stand-in host
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in absent
    }
    assert needed == set()


def test_every_setting_has_a_row_under_its_name_in_the_environment() -> None:
    names = {
        str(field.validation_alias or f"ATLAS_{name.upper()}")
        for name, field in HostSettings.model_fields.items()
    }
    described = {row[0].strip(" `") for row in ROWS if re.fullmatch(r" `[A-Z_]+` ", row[0])}
    assert described == names


def test_the_plugin_of_the_readme_passes_its_own_test(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL)
    assert [name for name, _ in blocks] == ["hello.py", "test_hello.py", "conftest.py"]
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if tested.returncode != 0 or "1 passed" not in tested.stdout:
        pytest.fail(tested.stdout + tested.stderr)
