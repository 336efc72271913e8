"""The web client under Node: types, lint, tests, and what its lock may hold."""

from __future__ import annotations

import json

import pytest

from tests.web_package import PACKAGE, install, require_node, run_script


@pytest.mark.parametrize("script", ["types", "lint", "test"])
def test_the_package_passes(script: str) -> None:
    npm = require_node()
    install(npm)
    run_script(npm, script)


def test_every_dependency_is_pinned_and_the_lock_names_no_registry() -> None:
    manifest = json.loads((PACKAGE / "package.json").read_text())
    versions = {**manifest["dependencies"], **manifest["devDependencies"]}
    assert all(version[0].isdigit() for version in versions.values()), versions
    lock = json.loads((PACKAGE / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
