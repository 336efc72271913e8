"""Data on a file system that cannot be written, as a backup's is: what only reads, reads it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plugins.secure_chat.cli import app
from tests import exports

pytestmark = pytest.mark.fault


def migrate(
    data: Path, command: str, *arguments: Path, status: int = 0, url: str = ""
) -> dict[str, Any]:
    given = [*map(str, arguments), "--data-dir", str(data), "--json"]
    runner = CliRunner(env={"SECURE_CHAT_DATABASE_URL": url})
    done = runner.invoke(app, ["migrate", command, *given])
    assert done.exit_code == status, done.output
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return exports.write_lines(tmp_path / "export.jsonl", exports.transactions(5, threads=2))


@pytest.fixture
def data(tmp_path: Path, export: Path) -> Path:
    """What a migration left, verified; its name is none of a URL."""
    data = tmp_path / "a ?mode=rw#data"
    data.mkdir()
    migrate(data, "run", export)
    assert migrate(data, "verify", export)["verified"]
    return data


@pytest.fixture
def read_only(data: Path) -> Iterator[Path]:
    """The same files, where nobody can write: a mount of the directory."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a directory that cannot be written needs root and mount(8)")
    at = data.with_name("read ?only")
    at.mkdir()
    bound = subprocess.run(
        ["mount", "--bind", str(data), str(at)], capture_output=True, text=True, check=False
    )
    if bound.returncode != 0:
        pytest.skip(f"no directory can be mounted here: {bound.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(at)], check=True)
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def test_plan_and_status_read_what_cannot_be_written(
    data: Path, read_only: Path, export: Path
) -> None:
    before = sorted(file.name for file in data.iterdir())
    for command, given in (("status", ()), ("plan", (export,))):
        said = migrate(read_only, command, *given)
        assert said["verified"]
        assert said == migrate(data, command, *given)
    assert sorted(file.name for file in data.iterdir()) == before
    for command, given in (("run", (export,)), ("verify", (export,)), ("rollback", ())):
        assert migrate(read_only, command, *given, status=2)["verdict"] == "unusable"


def test_a_database_that_is_named_by_its_url_is_read_too(
    data: Path, read_only: Path, export: Path
) -> None:
    link = export.with_name("linked")
    link.symlink_to(read_only)  # a URL cannot name a path with a question mark
    url = f"sqlite:///{link / 'mailbox.sqlite'}"
    for command, given in (("status", ()), ("plan", (export,))):
        said = migrate(read_only, command, *given, url=url)
        assert said["verified"]
        assert said == migrate(data, command, *given)
    for command in ("run", "verify"):
        assert migrate(read_only, command, export, status=2, url=url)["verdict"] == "unusable"


def test_what_only_reads_makes_no_database_of_a_url(data: Path, export: Path) -> None:
    elsewhere = export.parent / "new" / "mailbox.sqlite"
    for command, given in (("status", ()), ("plan", (export,))):
        assert migrate(data, command, *given, url=f"sqlite:///{elsewhere}")["stage"] is None
    assert not elsewhere.parent.exists()


def test_what_a_server_has_not_yet_put_into_its_database_is_read_too(
    data: Path, read_only: Path
) -> None:
    stage = migrate(data, "status")["stage"]
    with closing(sqlite3.connect(data / "mailbox.sqlite")) as server:
        server.execute("INSERT INTO stage_moves VALUES (99, 'shadow')")
        server.commit()  # it is in the file beside, and stays there while the server runs
        assert (data / "mailbox.sqlite-wal").stat().st_size
        assert stage is None
        assert migrate(read_only, "status")["stage"] == "shadow"
