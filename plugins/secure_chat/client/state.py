"""Where a device's state lies: the sealed records in a folder, their witness in another, their key.

The records are ``crypto.store``'s; what they mean is ``device.py``'s and the messenger's. Here is
only how they are found and unlocked.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from plugins.secure_chat.crypto.errors import StorageError
from plugins.secure_chat.crypto.file_storage import FileStorage, FileWitness, sync_folder
from plugins.secure_chat.crypto.store import SessionStore

Unlock = bytes | str
"""What opens the state: 32 bytes from the platform's key store, or a passphrase."""

_ID_SIZE: Final = 16
# scrypt at 128 MiB, about 0.4 s: what OWASP asks of a passphrase that guards a file.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 17, 8, 1


class StateFolder:
    """The open state of one device, locked against a second process.

    ``witness`` is a folder that must not be restored from the backup that restores ``folder``: it
    tells an old state from the newest one. Unless given it is below ``$XDG_STATE_HOME`` (or
    ``~/.local/state``), under a name drawn with the state.
    """

    def __init__(self, folder: Path, unlock: Unlock, witness: Path | None = None) -> None:
        """Open or create. Raises StateUnreadable on a wrong key, StorageError otherwise."""
        with ExitStack() as stack:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                storage = stack.enter_context(FileStorage(folder / "state"))
                name = _identifier(folder / "id")
                place = witness if witness is not None else _witnesses() / name.hex()
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                watching = stack.enter_context(FileWitness(place / "generation"))
            except OSError as error:
                raise StorageError(f"the state cannot be opened: {error.strerror}") from None
            self.store: Final = SessionStore(storage, watching, _key(unlock, name), os.urandom)
            self._open: Final = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        self._open.close()


def _identifier(path: Path) -> bytes:
    """16 random bytes, drawn with the state: salt of the passphrase, and the witness's name."""
    if not path.exists():
        # Written whole before it has its name, so a crash leaves none or all of it.
        fresh = path.with_name("id.new")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(file, os.urandom(_ID_SIZE))
            os.fsync(file)
        finally:
            os.close(file)
        fresh.rename(path)
        sync_folder(path.parent)  # without its salt a passphrase opens nothing
    data = path.read_bytes()
    if len(data) != _ID_SIZE:
        raise StorageError("the state's id file is damaged")
    return data


def _witnesses() -> Path:
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "atlas-secure-chat"


def _key(unlock: Unlock, salt: bytes) -> bytes:
    if isinstance(unlock, bytes):
        return unlock
    return hashlib.scrypt(
        unlock.encode(),
        salt=salt,
        n=_SCRYPT_N,
        r=_SCRYPT_R,
        p=_SCRYPT_P,
        maxmem=(_SCRYPT_N + 4) * _SCRYPT_R * 128 + (1 << 20),
        dklen=32,
    )
