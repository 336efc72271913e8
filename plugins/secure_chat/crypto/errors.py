"""Every error of the protocol library.

    CryptoError                       (a SecureChatError)
    ├── DecodeError                   decode                 not the canonical bytes of anything
    │   └── UnsupportedSuite          unsupported_suite      another version or suite
    ├── VerificationError             verification           who it claims to be is not shown
    │   ├── BadWalletSignature        bad_wallet_signature
    │   ├── BadClassicalSignature     bad_classical_signature
    │   ├── BadPostQuantumSignature   bad_post_quantum_signature
    │   ├── PostQuantumMissing        post_quantum_missing   a key or signature was left out
    │   ├── NotCertified              not_certified          a device without a sound certificate
    │   ├── DeviceRevoked             device_revoked
    │   └── IdentityChanged           identity_changed       not the identity that was pinned
    ├── DecryptError                  decrypt                authentication failed
    │   ├── CommitmentMismatch        commitment_mismatch    the key opens another message too
    │   ├── HashMismatch              frame_hash_mismatch    the frame's hash is not its own
    │   ├── NotAddressed              not_addressed          nothing in it for this device
    │   ├── UnknownSession            unknown_session        establish again; the peer must re-send
    │   ├── UnknownPrekey             unknown_prekey         used up, rotated out, or never ours
    │   └── TooManySkipped            too_many_skipped       establish again
    ├── Replayed                      replayed               this message was taken before
    │   └── Reflected                 reflected              our own message, back to us
    ├── StorageError                  storage
    │   ├── StateUnreadable           state_unreadable       wrong key, torn or altered
    │   └── StateRolledBack           state_rolled_back      an old backup: it may not send
    └── Refused                       refused                the caller asks for what is unsafe
        ├── NoSession                 no_session             establish first (certificates)
        └── ContentTooLarge           content_too_large

The second column is ``code``: what vectors and other languages call the error. What a peer left out
or delivered late is no error but a value (``streams.Continuity``). Texts never hold data.
"""

from __future__ import annotations

from plugins.secure_chat.errors import SecureChatError


class CryptoError(SecureChatError):
    """Base of the protocol's errors."""

    code = "crypto"


class DecodeError(CryptoError):
    code = "decode"


class UnsupportedSuite(DecodeError):
    code = "unsupported_suite"


class VerificationError(CryptoError):
    code = "verification"


class BadWalletSignature(VerificationError):
    code = "bad_wallet_signature"


class BadClassicalSignature(VerificationError):
    code = "bad_classical_signature"


class BadPostQuantumSignature(VerificationError):
    code = "bad_post_quantum_signature"


class PostQuantumMissing(VerificationError):
    code = "post_quantum_missing"


class NotCertified(VerificationError):
    code = "not_certified"


class DeviceRevoked(VerificationError):
    code = "device_revoked"


class IdentityChanged(VerificationError):
    code = "identity_changed"


class DecryptError(CryptoError):
    code = "decrypt"


class CommitmentMismatch(DecryptError):
    code = "commitment_mismatch"


class HashMismatch(DecryptError):
    code = "frame_hash_mismatch"


class NotAddressed(DecryptError):
    code = "not_addressed"


class UnknownSession(DecryptError):
    code = "unknown_session"


class UnknownPrekey(DecryptError):
    code = "unknown_prekey"


class TooManySkipped(DecryptError):
    code = "too_many_skipped"


class Replayed(CryptoError):
    code = "replayed"


class Reflected(Replayed):
    code = "reflected"


class StorageError(CryptoError):
    code = "storage"


class StateUnreadable(StorageError):
    code = "state_unreadable"


class StateRolledBack(StorageError):
    code = "state_rolled_back"


class Refused(CryptoError):
    code = "refused"


class NoSession(Refused):
    """``certificates``: ids of the devices whose prekey bundle must be claimed first."""

    code = "no_session"

    def __init__(self, certificates: tuple[bytes, ...]) -> None:
        super().__init__(f"{len(certificates)} devices have no session with this one")
        self.certificates = certificates


class ContentTooLarge(Refused):
    code = "content_too_large"
