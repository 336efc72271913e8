"""One label for each use of a key or a hash (SPEC-crypto.md, "Labels"). Nothing else lives here.

A label is never reused and none is a prefix of another, so bytes made for one use mean nothing in
another (threat A6). In signed and hashed input a label is always preceded by its length.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = b"atlas/secure-chat/v2/"

IDENTITY: Final = PREFIX + b"identity"
DEVICE_CERTIFICATE: Final = PREFIX + b"device-certificate"
DEVICE_REVOCATION: Final = PREFIX + b"device-revocation"
SAFETY_NUMBER: Final = PREFIX + b"safety-number"

SIGNED_PREKEY: Final = PREFIX + b"signed-prekey"
LAST_RESORT_KEM_PREKEY: Final = PREFIX + b"last-resort-kem-prekey"
ONE_TIME_PREKEY: Final = PREFIX + b"one-time-prekey"
ONE_TIME_KEM_PREKEY: Final = PREFIX + b"one-time-kem-prekey"

HANDSHAKE_TRANSCRIPT: Final = PREFIX + b"handshake-transcript"
HANDSHAKE_ROOT: Final = PREFIX + b"handshake-root"
INITIATION: Final = PREFIX + b"initiation-signature"
RATCHET_ROOT: Final = PREFIX + b"ratchet-root"
RATCHET_MESSAGE: Final = PREFIX + b"ratchet-message"

CONVERSATION: Final = PREFIX + b"conversation"
MESSAGE: Final = PREFIX + b"message"
CONTENT_KEY: Final = PREFIX + b"content-key"
KEY_WRAP: Final = PREFIX + b"key-wrap"
FRAME: Final = PREFIX + b"frame-signature"

ATTACHMENT_KEY: Final = PREFIX + b"attachment-key"
ATTACHMENT_BLOCK: Final = PREFIX + b"attachment-block"
STATE: Final = PREFIX + b"state"

ALL: Final = tuple(
    value for name, value in sorted(globals().items()) if name.isupper() and name != "PREFIX"
)
