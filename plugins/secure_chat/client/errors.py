"""What the Python client raises.

    ClientError
    ├── LoginRefused          the server does not log this wallet in; trying again does not help
    ├── ServerUnreachable     no connection within the time the caller gave
    ├── ClientClosed          the client was closed, or ended by the error it was raised from
    ├── SendRefused           the server refused a message for good  (code)
    │   └── SequenceTaken     its number is used up: this state is behind; send again
    ├── UnknownContact        no session with this wallet
    ├── BadContactCard        a contact card that its wallet did not sign, or no card at all
    ├── NotAuthentic          a ciphertext that its sender did not make for this place
    ├── ProtocolViolation     the server answered what this protocol does not have
    └── StateUnusable         the state file is locked, foreign or damaged

Texts carry no contents, keys or tokens.
"""

from __future__ import annotations

from plugins.secure_chat.errors import ClientError, Code


class LoginRefused(ClientError):
    """The server refuses the login, or a token it has just issued."""


class ServerUnreachable(ClientError):
    """No connection, or no answer, in time. What is in the outbox stays there."""


class ClientClosed(ClientError):
    """The client is closed. What was not acknowledged stays in the outbox of its state."""


class SendRefused(ClientError):
    """The server refused this message; it is out of the outbox and not in the ledger."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code.value}: {detail}")
        self.code = code


class SequenceTaken(SendRefused):
    """Another message of this wallet and device holds the number: an old state file, or two.

    The state now continues above it, so sending the text again works.
    """


class UnknownContact(ClientError):
    """There is no session with this wallet: exchange contact cards first."""


class BadContactCard(ClientError):
    """Not a contact card, or not signed by the wallet it names."""


class NotAuthentic(ClientError):
    """Altered, moved, or made with another key. Nothing of it was used."""


class ProtocolViolation(ClientError):
    """The server's answer is not one of this protocol."""


class StateUnusable(ClientError):
    """The state file is in use by another process, another wallet's, or damaged."""
