"""Which devices a wallet has registered, as a fold over the ledger's IDENTITY events in order.

Pure and free of simulation: it obeys the host's determinism rules, for it decides whose signature
counts. What each event holds is ``identity_event.py``'s; whether a statement's signatures are right
cannot be told from the ledger alone: the server verified them before it logged the event, and an
auditor who has the statements verifies them again (``audit/devices.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plugins.secure_chat.core.identity_event import IdentityEvent, StatementKind


@dataclass(slots=True)
class Registered:
    """Identities in force, and each one's devices with the ids of their certificates."""

    identities: dict[str, str] = field(default_factory=dict)
    """Wallet to identity statement."""
    devices: dict[str, dict[str, str]] = field(default_factory=dict)
    """Wallet to device to certificate."""

    def take(self, wallet: str, event: IdentityEvent) -> None:
        """Take the next event.

        A new identity ends all devices of the one before; a revocation ends one. A device without
        an identity, and a revocation of none, change nothing: no server of ours logs them. Nor does
        an identity that is logged once more.
        """
        if event.kind is StatementKind.IDENTITY:
            if self.identities.get(wallet) != event.id:
                self.identities[wallet] = event.id
                self.devices[wallet] = {}
        elif event.kind is StatementKind.DEVICE:
            if wallet in self.identities:
                self.devices[wallet][event.device] = event.id
        elif event.kind is StatementKind.REVOCATION and wallet in self.identities:
            self.devices[wallet].pop(event.device, None)

    def certificate(self, wallet: str, device: str) -> str | None:
        """The id of the certificate under which ``device`` is registered, or None."""
        return self.devices.get(wallet, {}).get(device)

    def rows(self) -> list[list[object]]:
        """All of it as JSON values, sorted."""
        return [
            [
                wallet,
                self.identities[wallet],
                [[name, self.devices[wallet][name]] for name in sorted(self.devices[wallet])],
            ]
            for wallet in sorted(self.identities)
        ]

    @classmethod
    def from_rows(cls, rows: list[list[object]]) -> Registered:
        """What ``rows`` gave. Raises ValueError or TypeError for anything else."""
        registered = cls()
        for wallet, identity, devices in sorted(rows):
            if not (isinstance(wallet, str) and isinstance(identity, str)):
                raise TypeError("a wallet and an identity are strings")
            if not isinstance(devices, list):
                raise TypeError("devices are a list")
            registered.identities[wallet] = identity
            registered.devices[wallet] = dict(sorted(devices))
        return registered
