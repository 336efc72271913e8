"""The built web client as the server hands it out: its files, its headers, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from plugins.secure_chat.web_client import CONTENT_SECURITY_POLICY, NOT_BUILT, WebClient

ROOT = Path(__file__).resolve().parents[2]


def serving(folder: Path) -> TestClient:
    app = FastAPI()
    for router in WebClient(folder).atlas_routes(SimpleNamespace()):
        app.include_router(router)
    return TestClient(app)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>chat</title>")
    (folder / "assets" / "index-1a2b.js").write_text("export {};")
    (tmp_path / "secret").write_text("not for anyone")
    return folder


# What the page needs and nothing beyond: a rule that goes, or lets more through, is seen here.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def test_every_answer_carries_the_policy(built: Path, tmp_path: Path) -> None:
    paths = ("/", "/assets/index-1a2b.js", "/assets/none.js", "/icon.svg")
    answers = [serving(built).get(path) for path in paths]
    answers.append(serving(tmp_path / "not built").get("/"))
    for answer in answers:
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


def test_the_documented_policy_is_the_one_that_is_served() -> None:
    documented = " ".join((ROOT / "docs" / "embedding.md").read_text().split())
    assert CONTENT_SECURITY_POLICY in documented


def test_the_page_is_asked_for_again_and_its_assets_are_kept(built: Path) -> None:
    client = serving(built)
    page, script = client.get("/"), client.get("/assets/index-1a2b.js")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["cache-control"] == "no-cache"
    assert script.headers["content-type"].startswith("text/javascript")
    assert "immutable" in script.headers["cache-control"]


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../secret",
        "/assets/%2e%2e%2f%2e%2e%2fsecret",
        "/assets/..%2f..%2fsecret",
        "/assets/%00",
        "/secret",
    ],
)
def test_nothing_outside_of_the_build_is_handed_out(built: Path, path: str) -> None:
    answer = serving(built).get(path)
    assert answer.status_code == 404
    assert "not for anyone" not in answer.text


def test_a_link_that_leads_out_of_the_build_is_not_followed(built: Path) -> None:
    (built / "assets" / "out.js").symlink_to(built.parent / "secret")
    assert serving(built).get("/assets/out.js").status_code == 404


def test_without_a_build_it_says_what_to_do(tmp_path: Path) -> None:
    answer = serving(tmp_path / "dist").get("/")
    assert answer.status_code == 503
    assert answer.text == NOT_BUILT
