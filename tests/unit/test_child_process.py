"""child_process: what a process of the server's own is started with."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plugins.secure_chat.child_process import command, environment
from plugins.secure_chat.directory.verifiers import Verifiers
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.mailbox.writer import MailboxWriter
from tests.unit.mailbox.test_store import AB
from tests.unit.mailbox.test_writer import batch, taken_unexpectedly

SECRET = "of-the-server-alone"


@pytest.fixture
async def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[int]]:
    """One of each kind, of a server that has a secret in its environment."""
    monkeypatch.setenv("JWT_SECRET", SECRET)
    monkeypatch.setenv("SECURE_CHAT_DATABASE_URL", f"postgresql://chat:{SECRET}@host/chat")
    monkeypatch.setenv("LANG", "C.UTF-8")
    mailbox = Mailbox.at(tmp_path / "mailbox.sqlite")
    writer = MailboxWriter(mailbox, taken=taken_unexpectedly)
    verifiers = Verifiers(1)
    try:
        await writer.store(batch(1, AB, count=2), committed=0)
        await asyncio.gather(writer.start(), verifiers.start())
        assert writer.process is not None
        yield [writer.process, *verifiers.processes]
    finally:
        await writer.close()
        await verifiers.close()
        mailbox.close()


async def test_it_is_given_no_secret(processes: list[int]) -> None:
    assert len(processes) == 2
    for given in map(_environment, processes):
        assert b"LANG=C.UTF-8\0" in given
        assert SECRET.encode() not in given


def test_it_finds_modules_where_the_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/one", "/two"])
    assert environment()["PYTHONPATH"] == "/one:/two"


def test_without_an_interpreter_there_is_no_command_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An embedded interpreter has no executable: an OSError is what is expected of a start."""
    monkeypatch.setattr(sys, "executable", None)
    assert command("a.module", "an argument") == ("", "-m", "a.module", "an argument")


def _environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
