"""The web client in Chromium: the same tests as under Node, and those that need a browser."""

from __future__ import annotations

from tests.web_package import install, require_chromium, require_node, run_script


def test_the_package_passes_in_chromium() -> None:
    npm, chromium = require_node(), require_chromium()
    install(npm)
    run_script(npm, "test:browser", CHROMIUM=chromium)


def test_browsers_chat_through_a_real_server() -> None:
    """Persons in Chromium, a server process, a Python client: tests/e2e of the package."""
    npm, chromium = require_node(), require_chromium()
    install(npm)
    run_script(npm, "test:e2e", CHROMIUM=chromium)
