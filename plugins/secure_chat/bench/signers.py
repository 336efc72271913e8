"""Senders whose device is registered with a server, so that it checks every signature of theirs."""

from __future__ import annotations

import urllib.request
from base64 import b64encode
from typing import Final

import msgspec

from plugins.secure_chat.bench.owners import new_owner
from plugins.secure_chat.bench.servers import Server
from plugins.secure_chat.bench.workload import Signer

DEVICE: Final = "bench"


def registered(server: Server, count: int) -> list[Signer]:
    """``count`` fresh wallets, their identity and one device published over the server's REST."""
    found = []
    for _ in range(count):
        owner = new_owner(DEVICE)
        ((keys, certificate),) = owner.devices
        token = server.token(owner.wallet)
        _publish(server, token, "PUT", "identity", owner.identity.encode())
        _publish(server, token, "POST", "devices", certificate.encode())
        found.append(Signer(owner.wallet, DEVICE, keys.signing))
    return found


def _publish(server: Server, token: str, method: str, what: str, statement: bytes) -> None:
    field = "identity" if what == "identity" else "certificate"
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/chat/{what}",
        msgspec.json.encode({field: b64encode(statement).decode()}),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=60):  # noqa: S310
            pass
    except OSError as error:
        raise RuntimeError(f"{server.name}: {what} was not published: {error}") from None
