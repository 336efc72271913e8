"""Signed notes and checkpoints: their text, to the byte (C2SP signed-note, tlog-checkpoint,
tlog-cosignature, tlog-proof).

Here are formats alone: a note's text and signature lines, key IDs and verifier keys, a checkpoint's
three lines, what an ML-DSA cosignature signs, and a proof file. Keys and the primitives that sign
and verify are in ``transparency/keys.py``; ``open_note`` takes them as verifiers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from plugins.secure_chat.core.merkle import HASH_SIZE

ED25519: Final = 0x01
"""signed-note: an Ed25519 signature over the note's text."""
COSIGNATURE_ML_DSA_44: Final = 0x06
"""tlog-cosignature: a timestamped ML-DSA-44 signature over a cosigned_message."""

MAX_NOTE: Final = 1 << 20
MAX_SIGNATURES: Final = 64
"""signed-note asks for at least 16; a checkpoint of ours carries two."""
MAX_TIMESTAMP: Final = (1 << 63) - 1
MAX_SIZE: Final = (1 << 63) - 1
"""Of a tree: other logs count in signed 64 bits, and a cosignature has eight bytes for it."""

_DASH: Final = "\u2014 "
_PROOF_HEADER: Final = "c2sp.org/tlog-proof@v1"
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,19}", re.ASCII)
_COSIGNED_LABEL: Final = b"subtree/v1\n\x00"


class NoteMalformed(ValueError):
    """The text is not a note, checkpoint, key or proof file. The message names the first defect."""


class NoteRefused(ValueError):
    """A note that no trusted key signed, or on which a trusted key's signature does not verify."""


class Signature(NamedTuple):
    """A signature line: who signed, with which key, and the bytes that follow the key ID."""

    name: str
    key_id: bytes
    signature: bytes

    @property
    def line(self) -> str:
        return f"{_DASH}{self.name} {_encode(self.key_id + self.signature)}\n"


class Note(NamedTuple):
    """``text`` ends in a newline; what ``signatures`` are worth is known after ``open_note``."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        return (self.text + "\n" + "".join([line.line for line in self.signatures])).encode()


class VerifierKey(NamedTuple):
    """A public key with a name: ``<name>+<key ID in hex>+<base64(type || public key)>``."""

    name: str
    kind: int
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        return key_id(self.name, self.kind, self.public_key)

    def __str__(self) -> str:
        encoded = _encode(bytes((self.kind,)) + self.public_key)
        return f"{self.name}+{self.key_id.hex()}+{encoded}"


class Verifier(Protocol):
    """Checks the signature lines of one key."""

    @property
    def key(self) -> VerifierKey: ...

    def verify(self, text: str, signature: bytes) -> bool:
        """Whether ``signature`` (without the key ID) is this key's over ``text``."""
        ...


def key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """SHA-256(name || 0x0A || type || public key)[:4]."""
    return hashlib.sha256(name.encode() + b"\n" + bytes((kind,)) + public_key).digest()[:4]


def parse_key(text: str) -> VerifierKey:
    """Parse a verifier key. Raises NoteMalformed, also when the key ID is not that of the key."""
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise NoteMalformed("a verifier key has three parts")
    name, stored_id, encoded = parts
    _check_name(name)
    blob = _decode(encoded)
    if len(blob) < 2:
        raise NoteMalformed("the verifier key holds no key")
    key = VerifierKey(name, blob[0], blob[1:])
    if stored_id != key.key_id.hex():
        raise NoteMalformed("the key ID is not that of the key")
    return key


def parse_note(data: bytes) -> Note:
    """Parse a note of any signers. Raises NoteMalformed. Nothing is verified here."""
    if len(data) > MAX_NOTE:
        raise NoteMalformed("the note is too long")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise NoteMalformed("the note is not UTF-8") from None
    if any(character < " " and character != "\n" for character in text):
        raise NoteMalformed("the note has control characters")
    body, gap, tail = text.rpartition("\n\n")
    if not gap or not tail.endswith("\n"):
        raise NoteMalformed("the note has no signature lines")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteMalformed("the note has too many signatures")
    return Note(body + "\n", tuple(_parse_signature(line) for line in lines))


def open_note(data: bytes, verifiers: Sequence[Verifier]) -> Note:
    """Parse a note and keep the signatures that verify, of the keys in ``verifiers``.

    (1) The note is parsed. (2) Lines of unknown keys are passed over. (3) A known key's first line
    must verify, or the whole note is refused; further lines of the same key are passed over. (4) At
    least one known key must have signed. Raises NoteMalformed or NoteRefused. The caller must still
    decide which keys' signatures suffice, and what the text means.
    """
    note = parse_note(data)
    known = {(verifier.key.name, verifier.key.key_id): verifier for verifier in verifiers}
    verified: dict[tuple[str, bytes], Signature] = {}
    for signature in note.signatures:
        who = (signature.name, signature.key_id)
        if who not in known or who in verified:
            continue
        if not known[who].verify(note.text, signature.signature):
            raise NoteRefused("a known key's signature does not verify")
        verified[who] = signature
    if not verified:
        raise NoteRefused("no known key has signed the note")
    return Note(note.text, tuple(verified.values()))


class Checkpoint(NamedTuple):
    """A tree head: whose log, how many leaves (the ledger head's position), and their root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note text: three lines, no extension lines."""
        return f"{self.origin}\n{self.size}\n{_encode(self.root)}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse a checkpoint's note text; extension lines are passed over. Raises NoteMalformed."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() != "" or "" in lines:
        raise NoteMalformed("a checkpoint has at least three lines, none of them empty")
    size = _number(lines[1], "the tree size")
    root = _decode(lines[2])
    if len(root) != HASH_SIZE:
        raise NoteMalformed("the root hash is not 32 bytes")
    return Checkpoint(lines[0], size, root)


def open_checkpoint(data: bytes, verifiers: Sequence[Verifier], origin: str) -> Checkpoint:
    """The checkpoint in a note that every one of ``verifiers`` has signed, of the log ``origin``.

    Raises NoteMalformed or NoteRefused. The caller must still hold it against the checkpoints seen
    before (``merkle.verify_consistency``).
    """
    note = open_note(data, verifiers)
    if len(note.signatures) != len(verifiers):
        raise NoteRefused("a key that must sign has not signed")
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != origin:
        raise NoteRefused("the checkpoint is another log's")
    return checkpoint


def cosigned_message(cosigner: str, timestamp: int, checkpoint: Checkpoint) -> bytes:
    """What an ML-DSA cosignature signs: a cosigned_message over the whole tree (its start is 0).

    Raises ValueError when a name is not 1 to 255 bytes, or the timestamp is out of range.
    """
    if not 0 <= timestamp <= MAX_TIMESTAMP:
        raise ValueError("the timestamp is out of range")
    return b"".join(
        (
            _COSIGNED_LABEL,
            _opaque(cosigner),
            timestamp.to_bytes(8, "big"),
            _opaque(checkpoint.origin),
            (0).to_bytes(8, "big"),
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """A leaf's place in a checkpointed tree, checkable offline (C2SP tlog-proof).

    ``index`` counts from 0; ``checkpoint`` is the signed note as the log gave it out. ``extra`` is
    whatever goes with it, in our files the leaf's entry: the ledger line that is proven.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes = b""

    def with_extra(self, extra: bytes) -> InclusionProof:
        return replace(self, extra=extra)

    def encode(self) -> bytes:
        extra = (f"extra {_encode(self.extra)}",) if self.extra else ()
        hashes = (_encode(value) for value in self.hashes)
        lines = (_PROOF_HEADER, *extra, f"index {self.index}", *hashes, "", "")
        return "\n".join(lines).encode("ascii") + self.checkpoint


def parse_proof(data: bytes) -> InclusionProof:
    """Parse a proof file. Raises NoteMalformed. Nothing is verified."""
    head, gap, checkpoint = data.partition(b"\n\n")
    if not gap or len(data) > 2 * MAX_NOTE:
        raise NoteMalformed("the proof has no checkpoint")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise NoteMalformed("the proof is not ASCII") from None
    if lines.pop(0) != _PROOF_HEADER:
        raise NoteMalformed("not a tlog-proof of version 1")
    extra = b""
    if lines and lines[0].startswith("extra "):
        extra = _decode(lines.pop(0).removeprefix("extra "))
    if not lines or not lines[0].startswith("index "):
        raise NoteMalformed("the proof has no index")
    index = _number(lines.pop(0).removeprefix("index "), "the index")
    hashes = tuple(_decode(line) for line in lines)
    if any(len(value) != HASH_SIZE for value in hashes) or len(hashes) > 64:
        raise NoteMalformed("the proof's hashes are not at most 64 of 32 bytes")
    return InclusionProof(index, hashes, checkpoint, extra)


def _parse_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise NoteMalformed("a signature line is not one")
    _check_name(name)
    blob = _decode(encoded)
    if len(blob) < 5:
        raise NoteMalformed("a signature line holds no signature")
    return Signature(name, blob[:4], blob[4:])


def _check_name(name: str) -> None:
    if not name or "+" in name or any(character.isspace() for character in name):
        raise NoteMalformed("a key name is empty, or has a space or a plus in it")


def _opaque(name: str) -> bytes:
    data = name.encode()
    if not 1 <= len(data) <= 255:
        raise ValueError("a name is not 1 to 255 bytes")
    return bytes((len(data),)) + data


def _number(text: str, what: str) -> int:
    if _DECIMAL.fullmatch(text) is None:
        raise NoteMalformed(f"{what} is not a decimal number")
    number = int(text)
    if number > MAX_SIZE:
        raise NoteMalformed(f"{what} is larger than any tree")
    return number


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: str) -> bytes:
    """Strict base64: padded, canonical. Raises NoteMalformed."""
    try:
        data = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, ValueError):
        raise NoteMalformed("not base64") from None
    if _encode(data) != text:
        raise NoteMalformed("not canonical base64")
    return data
