"""``secure-chat migrate run`` in a process that kills itself at its nth step on the disk.

A step is a write to the ledger, a sync of it, or a commit of the database; it dies before the step,
after it, or, in a write, half way. Arguments: n, then the command's own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from plugins.secure_chat import cli
from plugins.secure_chat.ledger.file import AppendFile

last = int(sys.argv[1])
taken = 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def due() -> bool:
    global taken
    taken += 1
    return taken == last


def dying(step: Callable[..., None]) -> Callable[..., None]:
    def stepped(*arguments: Any) -> None:
        if due():
            die()
        step(*arguments)
        if due():
            die()

    return stepped


append = AppendFile.append


def half(file: AppendFile, data: bytes) -> None:
    if due():
        append(file, data[: len(data) // 2])
        die()
    append(file, data)


AppendFile.append = dying(half)  # type: ignore[method-assign] # what the test is about
AppendFile.sync = dying(AppendFile.sync)  # type: ignore[method-assign] # the same


def before_commit(_: Any) -> None:
    if due():
        die()


event.listen(Engine, "commit", before_commit)
sys.argv = ["secure-chat", *sys.argv[2:]]
cli.main()
