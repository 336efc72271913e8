"""What keeps a server from starting is told in one line, with exit code 2 and no traceback."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.secure_chat import __version__
from plugins.secure_chat.mailbox.store import Mailbox
from tests.faults.server import MAILBOX, refused_start

pytestmark = pytest.mark.fault

TEXT = "a text, and long enough to be read as the head of a database. " * 4


@pytest.fixture
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


def the_line(start: tuple[int, str]) -> str:
    """The one line that says why; a start that said more than that, or less, fails here."""
    code, said = start
    assert code == 2, said
    assert "Traceback" not in said
    lines = said.splitlines()
    assert [line.startswith("secure-chat: ") for line in lines].count(True) == 1, said
    assert lines[-1].startswith("secure-chat: "), said
    return lines[-1].removeprefix("secure-chat: ")


def test_a_data_directory_that_cannot_be_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert the_line(refused_start(file)) == f"{file}: File exists"
    assert the_line(refused_start(file / "below")) == f"{file / 'below'}: Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert the_line(refused_start(tmp_path / "data")).endswith("Permission denied")


def test_a_mailbox_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / MAILBOX).write_text(TEXT)
    assert "file is not a database" in the_line(refused_start(tmp_path))
    assert (tmp_path / MAILBOX).read_text() == TEXT


def test_a_mailbox_that_lacks_a_table(tmp_path: Path) -> None:
    Mailbox.at(tmp_path / MAILBOX).close()
    with contextlib.closing(sqlite3.connect(tmp_path / MAILBOX)) as database:
        database.execute("DROP TABLE messages")
    said = the_line(refused_start(tmp_path))
    assert said == "the mailbox could not be read: SQLITE_ERROR"


def test_a_ledger_path_that_is_a_directory(tmp_path: Path) -> None:
    said = the_line(refused_start(tmp_path / "data", "--ledger", str(tmp_path)))
    assert said == "the ledger cannot be opened for writing: Is a directory"


def test_a_port_that_is_taken_before_anything_is_opened(tmp_path: Path, taken_port: str) -> None:
    said = the_line(refused_start(tmp_path / "data", "--port", taken_port))
    assert said == f"cannot listen on 127.0.0.1:{taken_port}: Address already in use"
    assert not (tmp_path / "data").exists()


def test_settings_that_are_not_what_they_must_be(tmp_path: Path) -> None:
    said = the_line(refused_start(tmp_path, burst="s3cret", retention_days="-1"))
    assert "SECURE_CHAT_BURST: " in said
    assert "SECURE_CHAT_RETENTION_DAYS: " in said
    assert "s3cret" not in said
    assert "SECURE_CHAT_ORIGINS: " in the_line(refused_start(tmp_path, origins="s3cret"))


def test_the_module_is_the_command(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("secure-chat")
    for options in (["--version"], ["--help"], ["serve", "--help"], []):
        by_module, by_script = (
            subprocess.run([*command, *options], capture_output=True, text=True, check=False)
            for command in ([sys.executable, "-m", "plugins.secure_chat"], [str(script)])
        )
        assert (by_module.returncode, by_module.stdout, by_module.stderr) == (
            by_script.returncode,
            by_script.stdout,
            by_script.stderr,
        )
        if options == ["--version"]:
            assert by_module.stdout == f"{__version__}\n"
