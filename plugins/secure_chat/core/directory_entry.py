"""A directory entry: what one wallet's IDENTITY events say, folded in the ledger's order.

An identity statement puts an end to the devices of the one before; a certificate registers a
device; a revocation ends it for good. Whose signature counts at a position follows from this alone.
What the statements hold, and whether they verify, was decided before they were logged; of all
wallets together the fold is ``registered.py``'s, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind


@dataclass(frozen=True, slots=True)
class Published:
    """A statement's id (hex) and where the ledger has it."""

    id: str
    position: int
    event_hash: str


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One wallet in the directory. A value: ``after`` makes the next one."""

    identity: Published | None = None
    history: tuple[Published, ...] = ()
    """Identity statements before the one in force, oldest first."""
    certificates: Mapping[str, Published] = field(default_factory=dict)
    """By device: those of the identity in force, revoked ones too."""
    revocations: Mapping[str, Published] = field(default_factory=dict)
    """By device: those of the identity in force."""
    registered: bool = False
    """Whether the wallet ever had a device: then nothing is taken from it unsigned any more."""
    position: int = 0
    """Of the last event that is folded in; 0 when there is none."""

    def after(self, event: IdentityEvent, position: int, event_hash: str) -> DirectoryEntry:
        """The entry after the next event, which stands at ``position``.

        A device without an identity, a revocation of no device, prekeys, and an event that says
        again what is so, change nothing.
        """
        published = Published(event.id, position, event_hash)
        device = event.device
        if event.kind is StatementKind.IDENTITY:
            if self.identity is None:
                history = self.history
            elif self.identity.id == event.id:
                return self
            else:
                history = (*self.history, self.identity)
            return DirectoryEntry(
                identity=published,
                history=history,
                registered=self.registered,
                position=position,
            )
        if event.kind is StatementKind.DEVICE and self.identity is not None:
            before = self.certificate(device)
            if before is not None and before.id == event.id:
                return self
            return replace(
                self,
                certificates={**self.certificates, device: published},
                revocations={d: r for d, r in self.revocations.items() if d != device},
                registered=True,
                position=position,
            )
        if event.kind is StatementKind.REVOCATION and self.certificate(device) is not None:
            revocations = {**self.revocations, device: published}
            return replace(self, revocations=revocations, position=position)
        return self

    def certificate(self, device: str) -> Published | None:
        """The certificate under which ``device`` is in force, or None."""
        return None if device in self.revocations else self.certificates.get(device)
