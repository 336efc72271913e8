"""The file that holds a log's signing seeds: made once, readable by its owner alone.

Losing it ends the log: a new key starts a new log under a new name. It is no part of the log's
directory, which may be served and deleted.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from plugins.secure_chat.core.nesting import parse_json
from plugins.secure_chat.errors import ConfigurationError
from plugins.secure_chat.transparency.keys import SEED_SIZE, CheckpointSigner

_KEYS: Final = frozenset(("name", "ed25519", "ml_dsa_44"))


def open_signer(
    path: Path, name: str | None, *, new_seed: Callable[[int], bytes] = os.urandom
) -> CheckpointSigner:
    """The signer of the log ``name``, its seeds read from ``path`` or, when it is missing, made.

    Without a name it is the log that the file is for, or a new one under a name that no other has.
    Raises ConfigurationError when others can read the file, when it is no such file, or when it is
    another log's; OSError when it cannot be read or made.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait
    except FileNotFoundError:
        return _create(path, name or f"secure-chat-ledger/{secrets.token_hex(8)}", new_seed)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise ConfigurationError("the log's key file is no file: put it back from a backup")
    with open(fd, "rb") as file:
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigurationError("the log's key file is readable by others: chmod 600 it")
        data = file.read()
    try:
        stored = parse_json(data)
        if set(stored) != _KEYS:
            raise ValueError("it has other fields")
        if name is not None and stored["name"] != name:
            raise ConfigurationError("the log's key file is for a log of another name")
        seeds = bytes.fromhex(stored["ed25519"]), bytes.fromhex(stored["ml_dsa_44"])
        return CheckpointSigner(str(stored["name"]), *seeds)
    except (ValueError, TypeError):
        # Without the cause: it would show the seeds.
        raise ConfigurationError("the log's key file does not hold a log's keys") from None


def _create(path: Path, name: str, new_seed: Callable[[int], bytes]) -> CheckpointSigner:
    seeds = new_seed(SEED_SIZE), new_seed(SEED_SIZE)
    try:
        signer = CheckpointSigner(name, *seeds)
    except ValueError as error:
        raise ConfigurationError(f"the log cannot have this name: {error}") from None
    stored = {"name": name, "ed25519": seeds[0].hex(), "ml_dsa_44": seeds[1].hex()}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)  # of a start that was killed; nothing was signed with it
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(json.dumps(stored).encode())
        file.flush()
        os.fsync(fd)
    beside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return signer
