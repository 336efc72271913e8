"""Runs the npm scripts of the web client's package, where Node and Chromium are there to run them.

Only what the two test folders ``client`` and ``browser`` need lives here. A machine that lacks a
tool skips with a sentence that says which; a failing script fails with its whole output.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = Path(__file__).resolve().parents[1] / "v13" / "ATLAS"
OLDEST_NODE: Final = (20, 19)
_CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")


def require_node() -> str:
    """The path of npm. Skips where there is no Node that is new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node is not on this machine: the web client is not checked here")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, version.strip().removeprefix("v").split(".")[:2])) < OLDEST_NODE:
        pytest.skip(f"Node {version.strip()} is too old: the web client needs 20.19 or newer")
    return npm


def require_chromium() -> str:
    """The path of Chromium. Skips where there is none."""
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if chromium is None:
        pytest.skip("Chromium is not on this machine: the browser's side is not tested here")
    return chromium


def install(npm: str) -> None:
    """Install the locked packages unless they are there already."""
    lock, installed = PACKAGE / "package-lock.json", PACKAGE / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        _run([npm, "ci"])


def run_script(npm: str, script: str, **environment: str) -> None:
    """Run one of package.json's scripts. Fails with its output when it fails."""
    _run([npm, "run", "--silent", script], PYTHON=sys.executable, NO_COLOR="1", **environment)


def _run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=PACKAGE,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)} failed:\n{done.stdout}", pytrace=False)
