"""What the sequencer asks of others about a message: is it its device's, may it go there, to whom.

Here are the questions, and the answers of a chat without devices and threads. Who answers otherwise
is put in by ``runtime.py``. Nothing here orders or stores anything.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from plugins.secure_chat.core.envelope import Envelope
from plugins.secure_chat.errors import Refusal


class SignatureCheck(Protocol):
    """Whether messages are signed by the devices that they name."""

    async def __call__(self, envelopes: Sequence[Envelope]) -> Sequence[Refusal | None]:
        """For each of ``envelopes``, in their order, why it is refused, or None.

        Called for a group at a time, before its sequence numbers are looked at. Other events that
        were logged before are applied, and meanwhile messages alone are logged. It decides on fresh
        messages: a refused one that the ledger has gets its original receipt.
        """


class Audience(Protocol):
    """Who may write to a recipient, and who gets what is written to it. On the event loop."""

    async def load(self, recipients: Collection[str]) -> None:
        """Have what is asked below about ``recipients`` in memory, as of the ledger's end."""

    def admit(self, envelope: Envelope) -> None:
        """Raise Refusal unless the sender may write to the recipient now, in the ledger's order.

        Called for fresh messages only: who was removed still gets the receipt of what was logged.
        """

    def wallets(self, recipient: str) -> Sequence[str]:
        """The wallets behind ``recipient`` now; the sender may be one of them."""


class Wallets:
    """An audience of wallets alone: everybody may write to everybody."""

    async def load(self, recipients: Collection[str]) -> None:
        """There is nothing to know of wallets."""

    def admit(self, envelope: Envelope) -> None:
        """Anybody may."""

    def wallets(self, recipient: str) -> Sequence[str]:
        return (recipient,)
