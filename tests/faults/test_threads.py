"""The server is killed while threads change by both contracts: what was answered stands."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.core.stage import Stage
from tests.faults.server import LEDGER, PATIENCE, Server, authorization
from tests.regression.legacy_server import move_stage

pytestmark = pytest.mark.fault

KILLS = 4
CALLERS = 4


class Caller:
    """A wallet that changes a thread as fast as it is answered, and keeps the answers."""

    def __init__(self, number: int) -> None:
        self.wallet = f"caller-{number}"
        self.thread = ""
        self.posted: list[dict[str, Any]] = []
        self.members: list[str] = []
        self._tried = 0

    async def work(self, url: str, done: asyncio.Queue[int]) -> None:
        """Until the server is gone. A request without an answer may have been logged or not."""
        headers = authorization(self.wallet)
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=PATIENCE, trust_env=False
        ) as http:
            try:
                while True:
                    await self._step(http)
                    done.put_nowait(1)
            except httpx.TransportError:
                return

    async def _step(self, http: httpx.AsyncClient) -> None:
        if not self.thread:
            body = {"participants": ["friend"], "metadata": {"of": self.wallet}}
            self.thread = (await _ask(http, "POST", "/secure-chat/threads", body))["thread_id"]
            self.members = ["friend", self.wallet]
        message = {"thread_id": self.thread, "content_hash": "ab" * 32, "content_size": 1}
        self.posted.append(await _ask(http, "POST", "/secure-chat/messages", message))
        self._tried += 1
        added = f"member-{self._tried}"
        path = f"/v1/chat/threads/{self.thread}/members"
        answer = await _ask(http, "POST", path, {"members": [added]})
        self.members = answer["members"]
        if len(self.members) > 20:
            self.members = (await _ask(http, "DELETE", f"{path}/{self.members[2]}"))["members"]

    def check(self, url: str) -> None:
        """All that was answered is there, in the order of the answers."""
        if not self.posted:
            return
        with httpx.Client(
            base_url=f"{url}/secure-chat",
            headers=authorization(self.wallet),
            timeout=PATIENCE,
            trust_env=False,
        ) as http:
            found = http.get(f"/threads/{self.thread}/messages", params={"limit": 1000}).json()
            shown = [m for m in found["messages"] if m in self.posted]
            assert shown == self.posted[-1000:]
            assert found["total"] >= len(self.posted)
            thread = http.get(f"/threads/{self.thread}").json()
            assert set(self.members) - set(thread["participants"]) <= {self.members[2]}
            assert thread["metadata"] == {"of": self.wallet}


async def _ask(http: httpx.AsyncClient, method: str, path: str, body: Any = None) -> dict[str, Any]:
    answer = await http.request(method, path, json=body)
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


async def test_threads_survive_kill_9_and_the_way_back_has_them_all(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    chance = random.Random(20260101)
    callers = [Caller(number) for number in range(CALLERS)]
    for _ in range(KILLS):
        server = Server(data_dir, stage="dual")
        for caller in callers:
            caller.check(server.url)
        done: asyncio.Queue[int] = asyncio.Queue()
        tasks = [asyncio.create_task(caller.work(server.url, done)) for caller in callers]
        async with asyncio.timeout(PATIENCE):
            for _ in range(chance.randrange(8, 40)):
                await done.get()
        server.kill()
        await asyncio.gather(*tasks)
        assert audit_ledger(data_dir / LEDGER).sound
    move_stage(data_dir, Stage.DUAL, Stage.SHADOW)
    with Server(data_dir) as server:
        for caller in callers:
            caller.check(server.url)
