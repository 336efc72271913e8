"""Tests through the host: they use the fixtures that plugin authors are given."""

from __future__ import annotations

import threading
from typing import Protocol

import pytest

from plugins.secure_chat.receipts import Receipts
from plugins.secure_chat.transport import evidence
from tests.plugin.chat_server import WAIT, Peer
from v13.ATLAS.src.plugins.testing import make_wallet, start_host

__all__ = ["make_wallet", "start_host"]


@pytest.fixture(autouse=True)
def what_follows_the_ledger_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a slow machine takes."""
    monkeypatch.setattr(evidence, "FOLLOW_SECONDS", 3600.0)


class GiveReceipt(Protocol):
    def __call__(self, peer: Peer, position: int, kind: str = "read") -> list[str]: ...


@pytest.fixture
def give_receipt(monkeypatch: pytest.MonkeyPatch) -> GiveReceipt:
    """Gives a receipt and waits until it is taken, or refused: what the peer was sent by then,
    errors by their codes."""
    done = threading.Event()
    original = Receipts.give

    async def noted(receipts: Receipts, wallet: str, kind: str, position: int) -> None:
        try:
            await original(receipts, wallet, kind, position)
        finally:
            done.set()

    monkeypatch.setattr(Receipts, "give", noted)

    def give(peer: Peer, position: int, kind: str = "read") -> list[str]:
        done.clear()
        peer.send({"type": "RECEIPT", "kind": kind, "position": position})
        assert done.wait(WAIT)
        peer.send({"type": "PING"})
        return [frame.get("code", frame["type"]) for frame in peer.until("PONG")[:-1]]

    return give
