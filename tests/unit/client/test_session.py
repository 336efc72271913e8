"""Contact cards and static sessions refuse whatever is not exactly what was made for them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.client import contact, session
from plugins.secure_chat.client.contact import ContactCard, ContactKey
from plugins.secure_chat.client.errors import BadContactCard, NotAuthentic
from plugins.secure_chat.client.session import StaticSession, place
from plugins.secure_chat.crypto import labels
from plugins.secure_chat.crypto.wallet import WalletKey

ALICE, BOB, MALLORY = (WalletKey(bytes(31) + bytes((n,))) for n in (1, 2, 3))
ALICES, BOBS, MALLORYS = (ContactKey.from_bytes(bytes((n,)) * 32) for n in (1, 2, 3))
TO_BOB = StaticSession(ALICES, ALICE.wallet, BOBS.card(BOB))
TO_ALICE = StaticSession(BOBS, BOB.wallet, ALICES.card(ALICE))
HERE = place(ALICE.wallet, "0", BOB.wallet, 7)


@given(st.binary(max_size=300))
def test_what_one_seals_the_other_opens(plaintext: bytes) -> None:
    ciphertext, nonce = TO_BOB.seal(plaintext, HERE)
    assert TO_ALICE.open(ciphertext, nonce, HERE) == plaintext


@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    ciphertext, nonce = TO_BOB.seal(b"pay one", HERE)
    whole = bytearray(ciphertext + nonce + HERE)
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    first, second = len(ciphertext), len(ciphertext) + len(nonce)
    with pytest.raises(NotAuthentic):
        TO_ALICE.open(bytes(whole[:first]), bytes(whole[first:second]), bytes(whole[second:]))


@pytest.mark.parametrize(
    "elsewhere",
    [
        place(BOB.wallet, "0", BOB.wallet, 7),
        place(ALICE.wallet, "1", BOB.wallet, 7),
        place(ALICE.wallet, "0", ALICE.wallet, 7),
        place(ALICE.wallet, "0", BOB.wallet, 8),
    ],
)
def test_a_ciphertext_moved_elsewhere_is_refused(elsewhere: bytes) -> None:
    ciphertext, nonce = TO_BOB.seal(b"stay", HERE)
    with pytest.raises(NotAuthentic):
        TO_ALICE.open(ciphertext, nonce, elsewhere)


def test_a_ciphertext_reflected_to_its_sender_is_refused() -> None:
    ciphertext, nonce = TO_BOB.seal(b"back", HERE)
    with pytest.raises(NotAuthentic):
        TO_BOB.open(ciphertext, nonce, HERE)


def test_the_same_text_never_seals_to_the_same_key_and_nonce() -> None:
    sealed = [TO_BOB.seal(b"again", HERE) for _ in range(2000)]
    assert len({nonce for _, nonce in sealed}) == len(sealed)
    assert len({ciphertext[: session.SALT_SIZE] for ciphertext, _ in sealed}) == len(sealed)


def test_lengths_show_only_in_blocks() -> None:
    assert len({len(TO_BOB.seal(bytes(size), HERE)[0]) for size in range(session.BLOCK)}) == 1


@pytest.mark.parametrize("size", range(50))
def test_a_truncated_ciphertext_is_refused(size: int) -> None:
    ciphertext, nonce = TO_BOB.seal(b"whole", HERE)
    with pytest.raises(NotAuthentic):
        TO_ALICE.open(ciphertext[:size], nonce, HERE)


def test_a_card_survives_its_journey() -> None:
    card = BOBS.card(BOB)
    assert ContactCard.decode(card.encode()) == card


@pytest.mark.parametrize(
    "forged",
    [
        dataclasses.replace(BOBS.card(BOB), public=MALLORYS.public),
        dataclasses.replace(BOBS.card(BOB), wallet=MALLORY.wallet),
        dataclasses.replace(BOBS.card(BOB), signature=MALLORYS.card(MALLORY).signature),
        dataclasses.replace(BOBS.card(BOB), signature=BOB.sign("Sign this message")),
        dataclasses.replace(BOBS.card(BOB), signature=b""),
        dataclasses.replace(BOBS.card(BOB), public=BOBS.public[:31]),
        dataclasses.replace(BOBS.card(BOB), wallet="0X" + BOB.wallet[2:]),
    ],
)
def test_a_card_that_its_wallet_did_not_sign_is_refused(forged: ContactCard) -> None:
    with pytest.raises(BadContactCard):
        StaticSession(ALICES, ALICE.wallet, forged)
    with pytest.raises(BadContactCard):
        ContactCard.decode(forged.encode())


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"wallet":1}', b"[" * 100_000])
def test_what_is_no_card_is_refused_as_such(text: bytes) -> None:
    with pytest.raises(BadContactCard):
        ContactCard.decode(text)


def test_ones_own_card_and_a_key_of_small_order_are_refused() -> None:
    with pytest.raises(BadContactCard, match="our own"):
        StaticSession(ALICES, ALICE.wallet, ALICES.card(ALICE))
    weak = bytes(32)
    signature = BOB.sign(contact._text(BOB.wallet, weak))
    with pytest.raises(BadContactCard, match="small order"):
        StaticSession(ALICES, ALICE.wallet, ContactCard(BOB.wallet, weak, signature))


def test_no_label_of_the_client_is_used_elsewhere_or_begins_another() -> None:
    ours = (
        contact.CARD_LABEL,
        session.SESSION_LABEL,
        session.MESSAGE_KEY_LABEL,
        session.PLACE_LABEL,
    )
    every = (*ours, *labels.ALL)
    assert len(set(every)) == len(every)
    assert not any(a != b and a.startswith(b) for a in every for b in every)
