"""What the Python client raises, besides the protocol's own errors (``crypto.errors``).

    ClientError
    ├── LoginRefused          the server does not log this wallet in; trying again does not help
    ├── ServerUnreachable     no connection, or no answer, in time  (retry_after)
    ├── ClientClosed          the client was closed, or ended by the error it was raised from
    ├── SendRefused           the server refused a message for good  (code)
    │   └── StreamContinued   its number was taken before an old backup: send it again
    ├── DirectoryRefused      the key directory refused a request for good  (code, status)
    ├── NoIdentity            the wallet has published no device: nothing can be encrypted to it
    ├── IdentityTaken         the wallet has published another identity than this device's
    │   └── DeviceLeftBehind  that one came after it: have this device endorsed again
    ├── WrongSafetyNumber     what a person accepted is not the identity that is shown now
    └── ProtocolViolation     the server answered what this protocol does not have

Of ``crypto.errors`` a user of the client meets IdentityChanged (sending has stopped: compare the
safety number), DeviceRevoked, ContentTooLarge, and of the state on disk StateRolledBack,
StateUnreadable and StorageError. Texts carry no contents, keys or tokens.
"""

from __future__ import annotations

from plugins.secure_chat.errors import ClientError, Code


class LoginRefused(ClientError):
    """The server refuses the login, or a token it has just issued."""


class ServerUnreachable(ClientError):
    """No connection, or no answer, in time. What is in the outbox stays there."""

    def __init__(self, text: str, *, retry_after: float | None = None) -> None:
        """``retry_after``: seconds, when the server says so."""
        super().__init__(text)
        self.retry_after = retry_after


class ClientClosed(ClientError):
    """The client is closed. What was not acknowledged stays in the outbox of its device."""


class SendRefused(ClientError):
    """The server refused this message; it is out of the outbox and not in the ledger."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code.value}: {detail}")
        self.code = code


class StreamContinued(SendRefused):
    """The server knows this device's stream better than its state, which began again.

    The stream now continues above it, so sending the content again works.
    """


class DirectoryRefused(ClientError):
    """The key directory does not do this; ``code`` is None when the server did not give one."""

    def __init__(self, code: Code | None, status: int) -> None:
        super().__init__(f"directory: {code.value if code is not None else status}")
        self.code = code
        self.status = status


class NoIdentity(ClientError):
    """This wallet has no identity in the directory."""


class IdentityTaken(ClientError):
    """The wallet has an identity that this device is not of.

    Enrol the device with the one that made it; or, when that one is lost, open a new device with
    ``reset``.
    """


class DeviceLeftBehind(IdentityTaken):
    """The wallet has gone on to a new identity, on another of its devices.

    Hand ``Device.request`` to the one that made it; what that answers goes to ``Device.renew``.
    """


class WrongSafetyNumber(ClientError):
    """The safety number given is not that of the identity which waits to be accepted."""


class ProtocolViolation(ClientError):
    """The server's answer is not one of this protocol."""
