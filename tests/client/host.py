"""A real server for a client in another language: JSON lines in, JSON lines out.

    python -m tests.client.host

It serves as ``secure-chat serve`` does, on a free port of the loopback, until its input ends. The
first line says where. A request names an ``op`` and its inputs: a token, or what the Python client
does on a device of its own. Bytes are base64.
"""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from plugins.secure_chat.client import ChatClient, Device, Enrolment, WalletKey, wallet_login
from tests.plugin.chat_server import chat_server, token

KEY = bytes(range(32))  # seals the states, which end with the process


class Host:
    """Answers requests: one method for each ``op``. ``secret`` is a wallet's private key."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self._enrolments: dict[str, Enrolment] = {}

    def token(self, wallet: str) -> dict[str, str]:
        return {"token": token(wallet)}

    def endorse(self, secret: str, request: str) -> dict[str, str]:
        """Make the wallet's identity on a device here, publish it, and endorse another device."""
        wallet = WalletKey(b64decode(secret))
        with Device.open(self._folder(wallet, "first"), wallet, KEY) as device:
            asyncio.run(self._publish(device, wallet))
            return {"answer": b64encode(device.endorse(b64decode(request))).decode()}

    def enrol(self, secret: str) -> dict[str, str]:
        """Begin a further device here."""
        wallet = WalletKey(b64decode(secret))
        folder = self._folder(wallet, "further")
        enrolment = self._enrolments[wallet.wallet] = Enrolment(folder, wallet.wallet, KEY)
        return {"request": b64encode(enrolment.request).decode()}

    def finish(self, secret: str, answer: str, recipient: str, text: str) -> dict[str, Any]:
        """End it, publish it, and send ``text`` to ``recipient`` from it."""
        wallet = WalletKey(b64decode(secret))
        with self._enrolments.pop(wallet.wallet).finish(b64decode(answer), wallet) as device:
            position = asyncio.run(self._publish(device, wallet, recipient, text))
            return {"device": device.id, "position": position}

    async def _publish(
        self, device: Device, wallet: WalletKey, recipient: str = "", text: str = ""
    ) -> int:
        async with ChatClient(self.url, device, wallet_login(self.url, wallet)) as chat:
            return (await chat.send(recipient, text.encode())).position if recipient else 0

    def _folder(self, wallet: WalletKey, name: str) -> Path:
        return self.folder / wallet.wallet / name

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        operations = {
            one.__name__: one for one in (self.token, self.endorse, self.enrol, self.finish)
        }
        return operations[request.pop("op")](**request)


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    with TemporaryDirectory() as folder, chat_server(Path(folder) / "server") as server:
        host = Host(f"http://127.0.0.1:{server.port}", Path(folder) / "clients")
        say({"url": host.url})
        for line in sys.stdin:
            say(host.answer(json.loads(line)))


if __name__ == "__main__":
    main()
