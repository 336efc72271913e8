"""Labels keep uses apart (A6)."""

from __future__ import annotations

import hashlib
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.crypto import labels
from plugins.secure_chat.crypto.errors import BadClassicalSignature, BadPostQuantumSignature
from plugins.secure_chat.crypto.frame import signing_input
from plugins.secure_chat.crypto.primitives import (
    ed25519_public,
    ed25519_sign,
    ed25519_verify,
    labelled,
    mldsa_public,
    mldsa_sign,
    mldsa_verify,
)


def test_labels_are_unique_versioned_and_prefix_free() -> None:
    assert len(set(labels.ALL)) == len(labels.ALL) == 21
    assert all(one.startswith(b"atlas/secure-chat/v2/") for one in labels.ALL)
    assert not any(one.startswith(other) for one, other in permutations(labels.ALL, 2))


def test_a_signature_for_one_use_is_refused_for_every_other() -> None:
    seed, body = bytes(32), b"body"
    classical = ed25519_sign(seed, labelled(labels.FRAME, body))
    post_quantum = mldsa_sign(seed, labels.FRAME, labelled(labels.FRAME, body))
    for other in set(labels.ALL) - {labels.FRAME}:
        with pytest.raises(BadClassicalSignature):
            ed25519_verify(ed25519_public(seed), classical, labelled(other, body))
        with pytest.raises(BadPostQuantumSignature):
            mldsa_verify(mldsa_public(seed), post_quantum, other, labelled(other, body))


names = st.from_regex(r"[A-Za-z0-9_.:-]{1,8}", fullmatch=True)
frames = st.tuples(
    names,
    names,
    names,
    st.binary(min_size=12, max_size=12),
    st.integers(1, 2**53 - 1),
    st.floats(allow_nan=False, allow_infinity=False).filter(bool),
    st.binary(min_size=32, max_size=32),
    st.lists(names, max_size=3).map(tuple),
)


@given(frames, frames)
def test_distinct_frames_give_distinct_signing_inputs(one: tuple, other: tuple) -> None:  # type: ignore[type-arg]
    """A2: no two tuples share one encoding."""
    same = (
        hashlib.sha256(signing_input(*one)).digest()
        == hashlib.sha256(signing_input(*other)).digest()
    )
    assert same == (one == other)
