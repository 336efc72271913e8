"""F4: the disk under a running server is full: a real, small file system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from plugins.secure_chat.audit import audit_ledger
from tests.faults.server import LEDGER, Server, ledger_messages, message, resume, send

pytestmark = pytest.mark.fault


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 2 MB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root and mount(8)")
    at = tmp_path / "disk"
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(at)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def fill(disk: Path) -> Path:
    """Take all the space that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return filler
    raise AssertionError("the disk has no end")


async def readiness(server: Server) -> tuple[int, str]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as host:
        answer = await host.get("/health/ready")
    return answer.status_code, answer.text


@pytest.mark.parametrize("full", ["ledger and mailbox", "ledger", "mailbox"])
async def test_f4_a_full_disk_is_refused_clearly_and_writes_persist_when_there_is_space(
    tmp_path: Path, small_disk: Path, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data" if full == "ledger" else small_disk / "data"
    ledger = (tmp_path if full == "mailbox" else small_disk) / LEDGER
    monkeypatch.setenv("GENESIS_LEDGER_PATH", str(ledger))
    texts = [message("bob", seq, size=4096) for seq in range(1, 100)]
    with Server(data) as server:
        async with server.socket("alice") as alice, server.rest("bob") as rest:
            promised = [await send(alice, text) for text in texts[:3]]
            filler = fill(small_disk)
            # What fits into pages that are allocated already may still be taken.
            number, refused = 3, await send(alice, texts[3])
            while refused["type"] == "ACK":
                promised.append(refused)
                number += 1
                refused = await send(alice, texts[number])
            for _ in range(3):  # and it stays refused, and is not forgotten
                assert refused["type"] == "ERROR"
                assert refused["code"] == "ledger_unavailable"
                assert refused["retry_after"] > 0
                assert "recipient" in refused
                refused = await send(alice, texts[number])
            # Reads go on.
            page = (await rest.get("/threads/alice/messages?limit=200")).json()
            assert [m["position"] for m in page["messages"]] == [p["position"] for p in promised]
            if full == "mailbox":
                code, said = await readiness(server)
                assert code == 503
                assert "the mailbox could not be written: SQLITE_FULL" in said
            # Space returns: the refused message and the next ones are taken, without a restart.
            filler.unlink()
            promised += [await send(alice, text) for text in texts[number : number + 3]]
            assert {p["type"] for p in promised} == {"ACK"}, promised
            again = [await send(alice, text) for text in texts[: len(promised)]]
            assert await readiness(server) == (200, '{"status":"ready"}')
        server.kill()
    for first, second in zip(promised, again, strict=True):
        assert (second["duplicate"], second["position"]) == (True, first["position"])
        assert second["event_hash"] == first["event_hash"]
    with Server(data) as server:
        async with server.socket("bob") as bob:
            replayed, resumed = await resume(bob)
        assert [m["position"] for m in replayed] == [p["position"] for p in promised]
        assert resumed["complete"]
        assert server.terminate() == 0
    assert audit_ledger(ledger).sound
    assert [r["hash"] for r in ledger_messages(ledger)] == [p["event_hash"] for p in promised]


@pytest.mark.parametrize("end", ["kill -9", "SIGTERM"])
async def test_f4_a_message_logged_while_the_mailbox_was_full_survives_a_restart(
    tmp_path: Path, small_disk: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the ledger and has no ACK: its number is taken, and its retry gets the receipt."""
    data, ledger = small_disk / "data", tmp_path / LEDGER
    monkeypatch.setenv("GENESIS_LEDGER_PATH", str(ledger))
    texts = [message("bob", seq, size=4096) for seq in range(1, 100)]
    acknowledged = 0
    with Server(data) as server:
        async with server.socket("alice") as alice:
            filler = fill(small_disk)
            while (await send(alice, texts[acknowledged]))["type"] == "ACK":
                acknowledged += 1
            records = ledger_messages(ledger)
            assert len(records) == acknowledged + 1
            if end == "kill -9":
                server.kill()
            else:
                assert server.terminate() == 0, server.log()
    filler.unlink()
    with Server(data) as server:
        async with server.socket("alice") as alice, server.socket("bob") as bob:
            assert (await resume(bob))[1]["complete"] is False
            other = await send(alice, message("bob", acknowledged + 1))
            assert other["code"] == "sequence_conflict"
            retried = await send(alice, texts[acknowledged])
            assert (retried["duplicate"], retried["event_hash"]) == (True, records[-1]["hash"])
            replayed, resumed = await resume(bob, after=0)
            assert resumed["complete"]
            assert replayed[-1]["ciphertext"] == json.loads(texts[acknowledged])["ciphertext"]
    assert ledger_messages(ledger) == records
