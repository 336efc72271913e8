"""Recovery agrees with eth-account on every signature a wallet makes, and takes no other."""

from __future__ import annotations

import contextlib

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given, settings
from hypothesis import strategies as st

from v13.ATLAS.src.api.eip191 import BadWalletSignature, recover
from v13.ATLAS.src.plugins.testing import Wallet

ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
keys = st.integers(min_value=1, max_value=ORDER - 1).map(lambda key: key.to_bytes(32))
texts = st.text(st.characters(codec="utf-8"), max_size=300)


@given(keys, texts)
@settings(max_examples=50)
def test_recovery_gives_the_address_that_eth_account_signed_with(key: bytes, text: str) -> None:
    signed = Account.sign_message(encode_defunct(text=text), key)
    assert recover(text, bytes(signed.signature)) == Account.from_key(key).address.lower()


@given(keys, texts)
@settings(max_examples=50)
def test_eth_account_recovers_what_the_test_wallet_signs(key: bytes, text: str) -> None:
    wallet = Wallet(key)
    signature = wallet.sign(text)
    assert Account.recover_message(encode_defunct(text=text), signature=signature).lower() == (
        wallet.address
    )


@given(keys, texts)
@settings(max_examples=25)
def test_v_of_both_conventions_recovers_the_same_address(key: bytes, text: str) -> None:
    wallet = Wallet(key)
    signature = bytes.fromhex(wallet.sign(text)[2:])
    low = signature[:64] + bytes([signature[64] - 27])
    assert recover(text, signature) == recover(text, low) == wallet.address


@given(keys, texts)
@settings(max_examples=25)
def test_the_malleated_twin_of_a_signature_is_refused(key: bytes, text: str) -> None:
    """eth-account takes the twin: same address, other bytes. We do not."""
    signature = bytes.fromhex(Wallet(key).sign(text)[2:])
    high = ORDER - int.from_bytes(signature[32:64])
    twin = signature[:32] + high.to_bytes(32) + bytes([27 + (28 - signature[64])])
    assert Account.recover_message(encode_defunct(text=text), signature=twin).lower() == (
        Wallet(key).address
    )
    with pytest.raises(BadWalletSignature, match="low"):
        recover(text, twin)


@pytest.mark.parametrize("v", [2, 3, 26, 29, 30, 35, 36, 37, 255])
def test_a_v_that_no_wallet_writes_is_refused(v: int) -> None:
    signature = bytes.fromhex(Wallet().sign("text")[2:])
    with pytest.raises(BadWalletSignature, match="v is not"):
        recover("text", signature[:64] + bytes([v]))


@pytest.mark.parametrize("length", [0, 1, 64, 66, 130])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(BadWalletSignature, match="65 bytes"):
        recover("text", bytes(length))


@pytest.mark.parametrize("r", [0, ORDER, ORDER + 1, 2**256 - 1])
def test_an_r_out_of_range_is_refused(r: int) -> None:
    with pytest.raises(BadWalletSignature, match="r is out of range"):
        recover("text", r.to_bytes(32) + (1).to_bytes(32) + b"\x1b")


def test_an_s_of_zero_is_refused() -> None:
    with pytest.raises(BadWalletSignature, match="s is"):
        recover("text", (1).to_bytes(32) + bytes(32) + b"\x1b")


def test_an_r_that_is_no_point_is_refused() -> None:
    """x = 5 is on no point of secp256k1: 5^3 + 7 has no square root."""
    with pytest.raises(BadWalletSignature, match="no point"):
        recover("text", (5).to_bytes(32) + (1).to_bytes(32) + b"\x1b")


@given(st.binary(min_size=64, max_size=64), st.sampled_from([0, 1, 27, 28]))
@settings(max_examples=200)
def test_arbitrary_bytes_give_an_address_or_a_refusal_and_nothing_else(
    point: bytes, v: int
) -> None:
    with contextlib.suppress(BadWalletSignature):
        assert len(recover("text", point + bytes([v]))) == 42
