"""A host at a stage of the legacy route, a client of the contract, and moves between stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from plugins.secure_chat.core.stage import Stage, move
from plugins.secure_chat.ledger.journal import Journal
from tests.plugin.chat_server import ChatServer, chat_server, token

LIMITS = {"rate_per_second": 1e6, "burst": 1_000_000}


@dataclass
class LegacyClient:
    """Calls the contract as its callers do."""

    http: httpx.Client
    prefix: str = "/secure-chat"

    def ask(
        self,
        wallet: str | None,
        method: str,
        path: str,
        body: Any = None,
        **parameters: Any,
    ) -> httpx.Response:
        headers = {} if wallet is None else {"Authorization": f"Bearer {token(wallet)}"}
        return self.http.request(
            method,
            self.prefix + path,
            headers=headers,
            json=body,
            params={n: value for n, value in parameters.items() if value is not None} or None,
        )

    def create(self, wallet: str, *participants: str, **fields: Any) -> dict[str, Any]:
        body = {"participants": list(participants), **fields}
        return _made(self.ask(wallet, "POST", "/threads", body))

    def post(self, wallet: str, thread: str, digit: str = "a", **fields: Any) -> dict[str, Any]:
        body = {"thread_id": thread, "content_hash": digit * 64, "content_size": 42, **fields}
        return _made(self.ask(wallet, "POST", "/messages", body))

    def messages(self, wallet: str, thread: str, **parameters: Any) -> dict[str, Any]:
        return _found(self.ask(wallet, "GET", f"/threads/{thread}/messages", **parameters))

    def threads(self, wallet: str, **parameters: Any) -> dict[str, Any]:
        return _found(self.ask(wallet, "GET", "/threads", **parameters))

    def thread(self, wallet: str, thread: str) -> dict[str, Any]:
        return _found(self.ask(wallet, "GET", f"/threads/{thread}"))

    def everything(self, *wallets: str) -> dict[str, Any]:
        """All that the contract shows these wallets."""
        shown: dict[str, Any] = {}
        for wallet in wallets:
            threads = self.threads(wallet)
            shown[wallet] = [
                threads,
                [
                    [self.thread(wallet, one["thread_id"]), self.messages(wallet, one["thread_id"])]
                    for one in threads["threads"]
                ],
            ]
        return shown


@contextmanager
def at_stage(
    data_dir: Path, stage: Stage | None = None, **settings: Any
) -> Iterator[tuple[ChatServer, LegacyClient]]:
    """A server at ``stage``, unless its ledger says another one."""
    with chat_server(data_dir, stage=stage, **{**LIMITS, **settings}) as server:
        yield server, LegacyClient(server.http)


def move_stage(data_dir: Path, before: Stage, *way: Stage) -> None:
    """Log moves while no server runs, as the command does."""
    journal = Journal.open(data_dir / "genesis_ledger.jsonl")
    for after in way:
        journal.append(move(before, after).draft())
        before = after
    journal.close()


def _made(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def _found(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def detail_of(answer: httpx.Response) -> Mapping[str, Any]:
    """The body of a refusal: one JSON object with a text for people."""
    body = answer.json()
    assert isinstance(body["detail"], str)
    return dict(body)
