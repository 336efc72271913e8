"""What this server is compared with: a bare relay, and the host's own prototype path, written anew.

Neither is safe to use: no authentication, nothing durable. Run as a process of its own:
``python -m plugins.secure_chat.bench.baseline relay|prototype DIRECTORY``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from plugins.secure_chat.transport.tokens import bearer

READY: Final = '{"type":"READY"}'
Handle = Callable[[WebSocket, str, str, dict[str, WebSocket]], Awaitable[None]]


async def relay(
    websocket: WebSocket, wallet: str, text: str, connected: dict[str, WebSocket]
) -> None:
    """Deliver the frame as it came and answer with an ACK. Nothing is checked or stored."""
    frame = orjson.loads(text)
    peer = connected.get(frame["recipient"])
    if peer is not None:
        await peer.send_text(text)
    await websocket.send_text(f'{{"type":"ACK","seq":{frame["seq"]}}}')


class PrototypeLedger:
    """A v1 ledger as the host writes it: a record a write, and no sync."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._prev_hash = "0" * 64

    def append_event(self, event_type: str, wallet: str, metadata: dict[str, Any]) -> None:
        record: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "wallet": wallet,
            "epoch": 1,
            "event_type": event_type,
            "value": 0,
            "metadata": metadata,
            "hash": "",
            "prev_hash": self._prev_hash,
            "timestamp": datetime.now(UTC).isoformat(),
            "signature": "client_sig_placeholder",
        }
        hashed = {key: value for key, value in record.items() if key != "hash"}
        text = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
        record["hash"] = self._prev_hash = hashlib.sha3_512(text.encode()).hexdigest()
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def prototype(ledger: PrototypeLedger) -> Handle:
    """Deliver first, then append to ``ledger``, then answer: the host's order."""

    async def handle(
        websocket: WebSocket, wallet: str, text: str, connected: dict[str, WebSocket]
    ) -> None:
        frame = json.loads(text)
        message_id = str(uuid.uuid4())
        peer = connected.get(frame["recipient"])
        if peer is not None:
            out = {
                "type": "CHAT_MESSAGE",
                "id": message_id,
                "sender": wallet,
                "recipient": frame["recipient"],
                "ciphertext": frame["ciphertext"],
                "timestamp": datetime.now(UTC).isoformat(),
            }
            await peer.send_json(out)
        ledger.append_event(
            "MESSAGE", wallet, {"recipient": frame["recipient"], "msg_id": message_id}
        )
        await websocket.send_json({"type": "ACK", "id": message_id})

    return handle


def create_app(handle: Handle) -> FastAPI:
    """A FastAPI app with ``handle`` behind the path of the chat's socket."""
    app = FastAPI()
    connected: dict[str, WebSocket] = {}

    @app.websocket("/v1/chat/ws")
    async def socket(websocket: WebSocket) -> None:
        wallet = bearer(websocket.headers.get("authorization")) or ""
        await websocket.accept()
        connected[wallet] = websocket
        await websocket.send_text(READY)
        try:
            while True:
                await handle(websocket, wallet, await websocket.receive_text(), connected)
        except WebSocketDisconnect:
            connected.pop(wallet, None)

    return app


class _Announcing(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        sys.stdout.write(f"listening on http://127.0.0.1:{port}\n")
        sys.stdout.flush()


def main() -> None:
    kind, directory = sys.argv[1], Path(sys.argv[2])
    handle = prototype(PrototypeLedger(directory / "prototype.jsonl"))
    config = uvicorn.Config(
        create_app(relay if kind == "relay" else handle),
        port=0,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
    )
    _Announcing(config).run()


if __name__ == "__main__":
    main()
