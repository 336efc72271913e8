"""A real PostgreSQL for tests: a cluster of its own on a socket of its own, ended with the run.

``initdb`` refuses root; then the cluster belongs to ``nobody``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import create_engine, text

MISSING: Final = (
    "PostgreSQL is not on this machine (no initdb and pg_ctl on PATH or in /usr/lib/postgresql); "
    "Debian has it in the package postgresql"
)


def binaries() -> Path | None:
    """The directory of initdb and pg_ctl, the newest version's; None when there is none."""
    found = shutil.which("initdb")
    if found is not None and shutil.which("pg_ctl") is not None:
        return Path(found).parent
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    return versions[-1].parent if versions else None


class Cluster(NamedTuple):
    """A running server: the URL of its database ``postgres``, and how it is stopped and started."""

    url: str
    stop: Callable[[], None]
    start: Callable[[], None]


@contextmanager
def cluster() -> Iterator[Cluster]:
    found = binaries()
    assert found is not None, MISSING
    user = "nobody" if os.geteuid() == 0 else None
    # Not under pytest's directories, which another user may not enter; short, for a socket's path.
    home = Path(tempfile.mkdtemp(prefix="atlas-pg-"))
    if user is not None:
        shutil.chown(home, user)

    def run(command: str, *arguments: str) -> None:
        subprocess.run(
            (str(found / command), *arguments),
            user=user,
            cwd=home,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(home)},
            check=True,
            stdout=subprocess.DEVNULL,
        )

    data = home / "data"
    try:
        run("initdb", "-D", str(data), "-U", "atlas", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-k {home} -c listen_addresses='' -c fsync=off -c autovacuum=off"

        def start() -> None:
            run("pg_ctl", "-D", str(data), "-w", "-l", str(home / "log"), "-o", options, "start")

        def stop() -> None:
            run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")

        start()
        try:
            yield Cluster(f"postgresql+psycopg://atlas@/postgres?host={home}", stop, start)
        finally:
            if (data / "postmaster.pid").exists():
                stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def locks(url: str) -> int:
    """How many advisory locks are held on a server."""
    engine = create_engine(url)
    with engine.connect() as connection:
        held = connection.scalar(
            text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        )
    engine.dispose()
    return int(held or 0)
