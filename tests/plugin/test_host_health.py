"""Health, the host's own pages, and how it refuses what it does not know."""

from __future__ import annotations

from pathlib import Path

import httpx

from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.plugins.testing import SECRET, StartHost
from v13.ATLAS.src.settings import HostSettings


def test_a_host_without_plugins_is_live_and_ready(start_host: StartHost) -> None:
    host = start_host()
    live, ready = host.http.get("/health/live"), host.http.get("/health/ready")
    assert (live.status_code, live.json()) == (200, {"status": "live"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


async def test_before_its_start_a_host_is_live_and_not_ready(tmp_path: Path) -> None:
    settings = HostSettings.model_validate({"jwt_secret": SECRET, "data_dir": tmp_path})
    transport = httpx.ASGITransport(create_app(settings, []))
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
        assert (await http.get("/health/live")).status_code == 200
        ready = await http.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json() == {
        "status": "not ready",
        "reasons": ["the host is starting or stopping"],
    }


def test_a_host_whose_ledger_is_closed_says_so(start_host: StartHost) -> None:
    host = start_host()
    host.app.state.host.hook.atlas_ledger().close()
    answer = host.http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["the ledger is closed"]
    assert host.http.get("/health/live").status_code == 200


def test_unknown_paths_and_methods_are_problems(start_host: StartHost) -> None:
    host = start_host()
    for answer, status in (
        (host.http.get("/nowhere"), 404),
        (host.http.get("/v1/auth/challenge"), 405),
    ):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status


def test_the_host_describes_its_routes_and_loads_no_page_from_elsewhere(
    start_host: StartHost,
) -> None:
    host = start_host()
    assert set(host.http.get("/openapi.json").json()["paths"]) == {
        "/health/live",
        "/health/ready",
        "/v1/auth/challenge",
        "/v1/auth/connect-wallet",
    }
    assert host.http.get("/docs").status_code == host.http.get("/redoc").status_code == 404
