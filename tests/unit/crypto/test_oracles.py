"""The primitives and the classical ratchet against other people's code."""

from __future__ import annotations

import hmac
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cryptography_vectors
import doubleratchet
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from doubleratchet.recommended import diffie_hellman_ratchet_curve25519 as curve25519
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.secure_chat.crypto import labels, primitives, ratchet, wallet
from plugins.secure_chat.crypto.errors import BadPostQuantumSignature, BadWalletSignature
from plugins.secure_chat.crypto.ratchet import Header, Ratchet

ASYMMETRIC = Path(cryptography_vectors.__file__).parent / "asymmetric"


def answers(path: str) -> Iterator[dict[str, str]]:
    """The records of a NIST response file."""
    record: dict[str, str] = {}
    for line in (ASYMMETRIC / path).read_text().splitlines():
        if "=" in line:
            name, value = (part.strip() for part in line.split("=", 1))
            if name == "count" and record:
                yield record
                record = {}
            record[name] = value
    yield record


def test_ml_kem_768_gives_the_known_answers() -> None:
    seen = 0
    for record in answers("MLKEM/kat_MLKEM_768.rsp"):
        seed = bytes.fromhex(record["d"] + record["z"])
        assert primitives.mlkem_public(seed).hex() == record["pk"].lower()
        secret = primitives.decapsulate(seed, bytes.fromhex(record["ct"]))
        assert secret.hex() == record["ss"].lower()
        seen += 1
    assert seen >= 100


def test_ml_dsa_65_accepts_the_known_signatures_and_no_other() -> None:
    seen = 0
    for record in answers("MLDSA/kat_MLDSA_65_det_pure.rsp"):
        public = bytes.fromhex(record["pk"])
        message, context = bytes.fromhex(record["msg"]), bytes.fromhex(record.get("ctx", ""))
        signature = bytes.fromhex(record["sm"])[: primitives.MLDSA_SIGNATURE]
        primitives.mldsa_verify(public, signature, context, message)
        with pytest.raises(BadPostQuantumSignature):
            primitives.mldsa_verify(public, signature, context, message + b"\0")
        seen += 1
    assert seen >= 50


@given(st.binary(max_size=64), st.binary(max_size=64), st.integers(1, 200))
def test_hkdf_is_the_librarys(salt: bytes, secret: bytes, size: int) -> None:
    theirs = HKDF(hashes.SHA256(), size, salt, labels.RATCHET_ROOT).derive(secret)
    assert primitives.hkdf(salt, secret, labels.RATCHET_ROOT, size) == theirs


@settings(max_examples=25)
@given(st.binary(min_size=32, max_size=32).filter(lambda key: key[0] < 255 and any(key)), st.text())
def test_wallet_signatures_are_those_of_eth_account(secret: bytes, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    mine, theirs = wallet.WalletKey(secret), Account.from_key(secret)
    signed = theirs.sign_message(encode_defunct(text=text))
    assert mine.wallet == theirs.address.lower()
    assert mine.sign(text) == bytes(signed.signature)
    assert wallet.recover(text, bytes(signed.signature)) == mine.wallet


def test_a_malleated_signature_that_eth_account_takes_is_refused() -> None:
    """A17: both libraries recover the address from a high s."""
    key = wallet.WalletKey(os.urandom(32))
    signature = key.sign("hello")
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high = order - int.from_bytes(signature[32:64], "big")
    malleated = signature[:32] + high.to_bytes(32, "big") + bytes((55 - signature[64],))
    theirs = Account.recover_message(encode_defunct(text="hello"), signature=malleated)
    assert theirs.lower() == key.wallet
    with pytest.raises(BadWalletSignature):
        wallet.recover("hello", malleated)


class RootKdf(doubleratchet.KDF):
    @staticmethod
    async def derive(key: bytes, data: bytes, length: int) -> bytes:
        return HKDF(hashes.SHA256(), length, key, labels.RATCHET_ROOT).derive(data)


class ChainKdf(doubleratchet.KDF):
    @staticmethod
    async def derive(key: bytes, data: bytes, length: int) -> bytes:
        assert length == 64
        return b"".join(hmac.digest(key, bytes((one,)), "sha256") for one in reversed(data))


class Sealing(doubleratchet.AEAD):
    @staticmethod
    async def encrypt(plaintext: bytes, key: bytes, associated_data: bytes) -> bytes:
        return ratchet.seal(key, plaintext, associated_data)

    @staticmethod
    async def decrypt(ciphertext: bytes, key: bytes, associated_data: bytes) -> bytes:
        return ratchet.unseal(key, ciphertext, associated_data)


class Theirs(doubleratchet.DoubleRatchet):
    @staticmethod
    def _build_associated_data(associated_data: bytes, header: doubleratchet.Header) -> bytes:
        return associated_data + ours_of(header).encode()


def ours_of(header: doubleratchet.Header) -> Header:
    return Header(
        header.ratchet_pub, header.previous_sending_chain_length, header.sending_chain_length
    )


def theirs_of(header: Header, sealed: bytes) -> doubleratchet.EncryptedMessage:
    theirs = doubleratchet.Header(header.ratchet, header.previous, header.number)
    return doubleratchet.EncryptedMessage(theirs, sealed)


PARAMETERS: dict[str, Any] = {
    "diffie_hellman_ratchet_class": curve25519.DiffieHellmanRatchet,
    "root_chain_kdf": RootKdf,
    "message_chain_kdf": ChainKdf,
    "message_chain_constant": b"\x01\x02",
    "dos_protection_threshold": 100,
    "max_num_skipped_message_keys": 500,
    "aead": Sealing,
}


@pytest.mark.parametrize("we_start", [True, False])
@pytest.mark.parametrize("seed", range(6))
async def test_our_ratchet_and_doubleratchet_understand_each_other(
    seed: int, we_start: bool
) -> None:
    """One side ours, the other theirs: random turns, losses and reordering."""
    choose = random.Random(seed)
    root, signed = os.urandom(32), os.urandom(32)
    public = primitives.x25519_public(signed)
    if we_start:
        header, sealed, ours = Ratchet.initiator(root, public).encrypt(b"0", b"AD", os.urandom)
        theirs, plaintext = await Theirs.decrypt_initial_message(
            **PARAMETERS,
            shared_secret=root,
            own_ratchet_priv=signed,
            message=theirs_of(header, sealed),
            associated_data=b"AD",
        )
    else:
        theirs, first = await Theirs.encrypt_initial_message(
            **PARAMETERS,
            shared_secret=root,
            recipient_ratchet_pub=public,
            message=b"0",
            associated_data=b"AD",
        )
        plaintext, ours = Ratchet.responder(root, signed).decrypt(
            ours_of(first.header), first.ciphertext, b"AD"
        )
    assert plaintext == b"0"
    to_us: list[tuple[bytes, doubleratchet.EncryptedMessage]] = []
    to_them: list[tuple[bytes, doubleratchet.EncryptedMessage]] = []
    read = 0
    for step in range(120):
        text = b"%d" % step
        action = choose.randrange(5)
        if action == 0:
            header, sealed, ours = ours.encrypt(text, b"AD", os.urandom)
            to_them.append((text, theirs_of(header, sealed)))
        elif action == 1:
            to_us.append((text, await theirs.encrypt_message(text, b"AD")))
        elif action == 2 and to_us:
            expected, message = to_us.pop(choose.randrange(len(to_us)))
            plaintext, ours = ours.decrypt(ours_of(message.header), message.ciphertext, b"AD")
            assert plaintext == expected
            read += 1
        elif action == 3 and to_them:
            expected, message = to_them.pop(choose.randrange(len(to_them)))
            assert await theirs.decrypt_message(message, b"AD") == expected
            read += 1
        elif action == 4 and to_us and choose.random() < 0.2:
            to_us.pop(0)
    assert read > 20
