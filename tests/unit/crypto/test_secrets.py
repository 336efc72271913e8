"""Secrets show in no repr and no error (C3)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import plugins.secure_chat.crypto as package
from plugins.secure_chat.crypto import attachments, primitives
from plugins.secure_chat.crypto.errors import CryptoError
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.messenger import Message
from plugins.secure_chat.crypto.pqxdh import Agreement
from plugins.secure_chat.crypto.prekeys import Kind, PrekeySecret
from plugins.secure_chat.crypto.ratchet import Ratchet
from plugins.secure_chat.crypto.wallet import WalletKey
from tests.unit.crypto.people import connect, pair


def shows(value: object, secret: bytes) -> bool:
    text = repr(value) + str(value)
    return any(one in text for one in (secret.hex(), repr(secret)[2:-1], str(list(secret))))


def test_no_value_shows_the_secrets_it_holds() -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    messenger = alice["a"]
    keys = alice.devices["a"].keys
    sessions = messenger._sessions(messenger._store, bob.certificates[0].id)
    ratchet = sessions.ranked[0].ratchet
    prekey = PrekeySecret.generate(Kind.ONE_TIME, 1, os.urandom)
    attachment, _ = attachments.seal(b"x", os.urandom)
    content = b"a canary that must not be seen"
    message = Message(bob.id, [bob.roster], content, 1.0)
    frame = messenger.seal(bob.id, [bob.roster], content, 1.0)
    opened = bob["b"].open(frame, alice.roster)
    assert opened.content == content
    wallet_secret = os.urandom(32)
    values: list[tuple[object, bytes]] = [
        (WalletKey(wallet_secret), wallet_secret),
        *((keys, secret) for secret in (keys.signing, keys.agreement, keys.post_quantum)),
        *((value, ratchet.root) for value in (ratchet, sessions, sessions.ranked[0])),
        (alice.post_quantum, alice.post_quantum.seed),
        (prekey, prekey.secret),
        (attachment, attachment.key),
        *((value, content) for value in (message, opened, frame)),
        *((value, keys.signing) for value in (messenger, messenger._store)),
    ]
    for value, secret in values:
        assert not shows(value, secret), type(value)


def test_no_ratchet_and_no_agreement_shows_a_key() -> None:
    """Of a side that has sent, has received, and keeps the key of a message that is missing."""
    root, signed = os.urandom(32), os.urandom(32)
    one = Ratchet.initiator(root, primitives.x25519_public(signed))
    other = Ratchet.responder(root, signed)
    _, _, one = one.encrypt(b"lost", b"", os.urandom)
    header, sealed, one = one.encrypt(b"taken", b"", os.urandom)
    _, other = other.decrypt(header, sealed, b"")
    _, _, other = other.encrypt(b"an answer", b"", os.urandom)
    secrets = [other.root, other.private, other.sending, other.receiving]
    secrets += [key for _, _, key in other.skipped]
    assert len(secrets) == 5
    for secret in secrets:
        assert secret
        assert not shows(other, secret)
    assert not shows(Agreement(bytes(32), root), root)


def test_errors_say_what_is_wrong_and_quote_nothing() -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    frame = alice["a"].seal(bob.id, [bob.roster], b"canary", 1.0)
    for at in range(0, len(frame.ciphertext), 97):
        data = frame.ciphertext
        broken = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        with pytest.raises(CryptoError) as caught:
            bob["b"].open(
                Frame(frame.sender, "a", frame.recipient, broken, frame.nonce, 1, 1.0), alice.roster
            )
        assert not re.search(r"canary|0x[0-9a-f]|[0-9a-f]{16}", str(caught.value))


def test_secrets_and_digests_are_compared_in_constant_time() -> None:
    """Every == between digests that an attacker can try is hmac.compare_digest: by name."""
    folder = Path(package.__file__).parent
    sources = {path.name: path.read_text() for path in folder.glob("*.py")}
    suspicious = re.compile(r"(commitment|claimed_hash|signature|digest|tag)\w* [!=]= ")
    assert not [name for name, text in sources.items() if suspicious.search(text)]
    for name in ("envelope.py", "frame.py", "attachments.py", "wallet.py"):
        assert "compare_digest" in sources[name]


def test_only_one_module_touches_the_disk_and_only_one_the_crypto_library() -> None:
    folder = Path(package.__file__).parent
    for path in folder.glob("*.py"):
        text = path.read_text()
        if path.name != "file_storage.py":
            assert not re.search(r"^(import|from) (os|pathlib|time|random|secrets)\b", text, re.M)
        if path.name != "primitives.py":
            assert not re.search(r"^(import|from) cryptography\b", text, re.M)
