"""The roster: one wallet's identity and its devices, all verified together.

Whoever is encrypted to is in a roster, so an uncertified device never is (threat A7). One unsound
certificate refuses the whole roster: it means that someone tries something.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from plugins.secure_chat.crypto.devices import NO_ENDORSER, Certificate, Revocation
from plugins.secure_chat.crypto.errors import DeviceRevoked, NotCertified
from plugins.secure_chat.crypto.identity import Identity

MAX_CERTIFICATES: Final = 64  # of one identity, revoked ones included; bounds a roster's check


@dataclass(frozen=True, slots=True)
class Roster:
    """Made by ``verify`` alone. ``revoked`` holds ids of certificates."""

    identity: Identity
    certificates: tuple[Certificate, ...]
    revoked: frozenset[bytes]

    @property
    def wallet(self) -> str:
        return self.identity.wallet

    @property
    def active(self) -> tuple[Certificate, ...]:
        """The devices that are encrypted to."""
        return tuple(one for one in self.certificates if one.id not in self.revoked)

    def device(self, device: str, *, revoked_too: bool = False) -> Certificate:
        """The certificate of ``device``. Raises NotCertified or DeviceRevoked.

        ``revoked_too`` is for messages that the ledger holds before the revocation.
        """
        for certificate in self.certificates:
            if certificate.device == device:
                if certificate.id in self.revoked and not revoked_too:
                    raise DeviceRevoked("the device has been revoked")
                return certificate
        raise NotCertified("the wallet has no such device")


def verify(
    identity: Identity,
    certificates: Iterable[Certificate],
    revocations: Iterable[Revocation] = (),
) -> Roster:
    """Verify everything that a directory says about one wallet.

    Steps: (1) the identity vouches for itself; (2) exactly one certificate has no endorser; (3)
    each other one is endorsed by one already verified; (4) no device id twice; (5) revocations.
    The caller must still compare the identity with the one it pinned. Raises VerificationError.
    """
    identity.verify()
    waiting, ended = list(certificates), list(revocations)
    if len(waiting) > MAX_CERTIFICATES:
        raise NotCertified(f"an identity has at most {MAX_CERTIFICATES} certificates")
    if len(ended) > MAX_CERTIFICATES:
        raise NotCertified("there are more revocations than certificates")
    if sum(one.body.endorser == NO_ENDORSER for one in waiting) > 1:
        raise NotCertified("more than one device has no endorser")
    if len({one.device for one in waiting}) != len(waiting):
        raise NotCertified("two certificates name the same device")
    verified: dict[bytes, Certificate] = {}
    while ready := [one for one in waiting if one.body.endorser in (NO_ENDORSER, *verified)]:
        for one in ready:
            one.verify(identity, verified.get(one.body.endorser))
            verified[one.id] = one
        waiting = [one for one in waiting if one.id not in verified]
    if waiting:
        raise NotCertified("a certificate's endorser is not among the devices")
    revoked = set()
    for revocation in ended:
        revocation.verify(identity)
        revoked.add(revocation.body.certificate)
    return Roster(identity, tuple(verified.values()), frozenset(revoked))
