"""ledger/file: what reaches the disk, and in which order. The calls are real, and written down."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from plugins.secure_chat.core.records import EventDraft
from plugins.secure_chat.errors import LedgerUnavailable
from plugins.secure_chat.ledger.file import AppendFile
from plugins.secure_chat.ledger.journal import Journal

NOTE = EventDraft("NOTE", "alice", {})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(system call, name of the file) of each call that changes a file or syncs it."""
    made: list[tuple[str, str]] = []

    def noted(call: str) -> Callable[..., Any]:
        real = getattr(os, call)

        def spy(fd: int, *rest: Any) -> Any:
            made.append((call, Path(os.readlink(f"/proc/self/fd/{fd}")).name))
            return real(fd, *rest)

        return spy

    for call in ("write", "ftruncate", "fsync", "fdatasync"):
        monkeypatch.setattr(os, call, noted(call))
    return made


def test_what_is_appended_is_synced_after_it_is_written(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    with closing(Journal.open(tmp_path / "ledger.jsonl")) as journal:
        calls.clear()
        journal.append(NOTE)
        assert calls == [("write", "ledger.jsonl"), ("fdatasync", "ledger.jsonl")]


def test_the_name_of_a_new_ledger_is_synced_before_anything_is_in_it(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    with closing(Journal.open(tmp_path / "ledger.jsonl")):
        assert calls == [("fsync", tmp_path.name)]
    calls.clear()
    with closing(Journal.open(tmp_path / "ledger.jsonl")):
        assert calls == []


def test_a_torn_tail_is_safe_beside_the_ledger_before_it_is_cut_off(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"id":')
    with closing(Journal.open(path)):
        (kept,) = (beside.name for beside in tmp_path.glob("*.torn-*"))
        assert [call for call in calls if call[0] != "ftruncate" or call[1] != kept] == [
            ("fsync", tmp_path.name),
            ("fdatasync", kept),
            ("write", kept),
            ("fdatasync", kept),
            ("ftruncate", "ledger.jsonl"),
            ("fdatasync", "ledger.jsonl"),
        ]


def test_a_tail_that_was_kept_already_is_kept_once(tmp_path: Path) -> None:
    """A crash between keeping and cutting, and one in the middle of keeping."""
    path, torn = tmp_path / "ledger.jsonl", b'{"id":'
    path.write_bytes(torn)
    Journal.open(path).close()
    (kept,) = tmp_path.glob("*.torn-*")
    for before in (torn, torn[:3]):
        path.write_bytes(torn)
        kept.write_bytes(before)
        Journal.open(path).close()
        assert [beside.read_bytes() for beside in tmp_path.glob("*.torn-*")] == [torn]
        assert path.read_bytes() == b""


def test_a_completed_line_is_synced(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    path = tmp_path / "ledger.jsonl"
    with closing(Journal.open(path)) as journal:
        journal.append(NOTE)
    path.write_bytes(path.read_bytes()[:-1])
    calls.clear()
    with closing(Journal.open(path)):
        assert calls == [("write", "ledger.jsonl"), ("fdatasync", "ledger.jsonl")]


def test_what_a_full_disk_left_is_cut_off_for_good(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    class Full(AppendFile):
        def append(self, data: bytes) -> None:
            super().append(data[:9])
            raise OSError(errno.ENOSPC, "No space left on device")

    with closing(Journal.open(tmp_path / "ledger.jsonl", open_file=Full)) as journal:
        calls.clear()
        with pytest.raises(LedgerUnavailable):
            journal.append(NOTE)
        assert calls[1:] == [("ftruncate", "ledger.jsonl"), ("fdatasync", "ledger.jsonl")]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    with closing(AppendFile(tmp_path / "ledger.jsonl")) as file:
        file.append(bytes(range(100)))
        assert file.read_at(0, 200) == bytes(range(100))
