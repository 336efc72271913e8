"""core/merkle.py: the tree is RFC 9162's, and a proof of anything else is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.core.merkle import (
    EMPTY_ROOT,
    CompactRange,
    ProofInvalid,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    perfect_root,
    root_at,
    verify_consistency,
    verify_inclusion,
)

# The inputs and answers of the certificate-transparency reference implementation (RFC 6962).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
INCLUSION = {
    (0, 1): (),
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
CONSISTENCY = {
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}


def nodes_of(leaves: list[bytes]) -> Callable[[int, int], bytes]:
    """A reader of nodes straight from the leaves; it refuses nodes that do not exist."""

    def read(level: int, index: int) -> bytes:
        entries = leaves[index << level : (index + 1) << level]
        assert len(entries) == 1 << level, "a node outside the tree was asked for"
        return perfect_root([leaf_hash(entry) for entry in entries])

    return read


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word for word: the oracle."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def entries(count: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(count)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_reference_implementation(size: int) -> None:
    grown = CompactRange()
    for leaf in LEAVES[:size]:
        grown = grown.append(leaf_hash(leaf))
    assert grown.root() == ROOTS[size]
    assert root_at(size, nodes_of(LEAVES)) == ROOTS[size]
    assert mth(LEAVES[:size]) == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion_proofs_are_those_of_the_reference_implementation(index: int, size: int) -> None:
    proof = inclusion_proof(index, size, nodes_of(LEAVES))
    assert [part.hex() for part in proof] == list(INCLUSION[index, size])
    verify_inclusion(leaf_hash(LEAVES[index]), index, size, proof, ROOTS[size])


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_consistency_proofs_are_those_of_the_reference_implementation(old: int, new: int) -> None:
    proof = consistency_proof(old, new, nodes_of(LEAVES))
    assert [part.hex() for part in proof] == list(CONSISTENCY[old, new])
    verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)


def test_the_example_of_the_rfc_has_its_nodes() -> None:
    """RFC 9162 section 2.1.5: the tree of seven leaves, its nodes named as there."""
    leaves = entries(7)
    a, b, c, d, e, f, j = (leaf_hash(leaf) for leaf in leaves)
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k = node_hash(g, h)
    m = node_hash(i, j)
    read = nodes_of(leaves)
    assert inclusion_proof(0, 7, read) == [b, h, m]
    assert inclusion_proof(3, 7, read) == [c, g, m]
    assert inclusion_proof(4, 7, read) == [f, j, k]
    assert inclusion_proof(6, 7, read) == [i, k]
    assert consistency_proof(3, 7, read) == [c, d, g, m]
    assert consistency_proof(4, 7, read) == [m]
    assert consistency_proof(6, 7, read) == [i, j, k]


def test_every_proof_up_to_forty_leaves_verifies_and_shows_nothing_else() -> None:
    leaves = entries(40)
    read = nodes_of(leaves)
    roots = [mth(leaves[:size]) for size in range(41)]
    for size in range(1, 41):
        for index in range(size):
            proof = inclusion_proof(index, size, read)
            verify_inclusion(leaf_hash(leaves[index]), index, size, proof, roots[size])
            for wrong in ((index + 1) % size, (index + size // 2) % size):
                if wrong != index:
                    with pytest.raises(ProofInvalid):
                        verify_inclusion(leaf_hash(leaves[index]), wrong, size, proof, roots[size])
        for old in range(size + 1):
            proof = consistency_proof(old, size, read)
            verify_consistency(old, size, roots[old], roots[size], proof)
            forked = hashlib.sha256(roots[old]).digest()
            with pytest.raises(ProofInvalid):
                verify_consistency(old, size, forked, roots[size], proof)


sizes = st.integers(min_value=2, max_value=300)


@given(sizes, st.data())
def test_a_proof_with_anything_changed_is_refused(size: int, data: st.DataObject) -> None:
    leaves = entries(size)
    read = nodes_of(leaves)
    root = mth(leaves)
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size - 1))
    change = data.draw(st.sampled_from(("flip", "drop", "add", "shorten", "swap")))

    def changed(proof: list[bytes]) -> list[bytes]:
        place = data.draw(st.integers(0, len(proof) - 1))
        if change == "flip":
            bit = bytes((proof[place][0] ^ 1,))
            return [*proof[:place], bit + proof[place][1:], *proof[place + 1 :]]
        if change == "drop":
            return proof[:place] + proof[place + 1 :]
        if change == "add":
            return [*proof[:place], leaf_hash(b"more"), *proof[place:]]
        if change == "shorten":
            return [*proof[:place], proof[place][:-1], *proof[place + 1 :]]
        return proof[:-1] if len(proof) < 2 else [proof[1], proof[0], *proof[2:]]

    included = inclusion_proof(index, size, read)
    with pytest.raises(ProofInvalid):
        verify_inclusion(leaf_hash(leaves[index]), index, size, changed(included), root)
    consistent = consistency_proof(old, size, read)
    with pytest.raises(ProofInvalid):
        verify_consistency(old, size, mth(leaves[:old]), root, changed(consistent))


def test_proofs_grow_with_the_logarithm_of_the_tree() -> None:
    size = 1_000_003

    asked: list[tuple[int, int]] = []

    def read(level: int, index: int) -> bytes:
        asked.append((level, index))
        return bytes(32)

    inclusion_proof(987_654, size, read)
    consistency_proof(123_457, size, read)
    assert len(asked) <= 4 * size.bit_length()


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_a_leaf_outside_the_tree_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        inclusion_proof(index, size, nodes_of(LEAVES))
    with pytest.raises(ProofInvalid, match="outside"):
        verify_inclusion(leaf_hash(b""), index, size, [], ROOTS[1])


@pytest.mark.parametrize(("old", "new"), [(4, 3), (-1, 3)])
def test_a_tree_that_shrank_has_no_proof(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        consistency_proof(old, new, nodes_of(LEAVES))
    with pytest.raises(ProofInvalid, match="smaller"):
        verify_consistency(old, new, EMPTY_ROOT, EMPTY_ROOT, [])


def test_two_roots_for_one_size_are_a_fork() -> None:
    with pytest.raises(ProofInvalid, match="two roots"):
        verify_consistency(3, 3, ROOTS[3], ROOTS[4], [])
    with pytest.raises(ProofInvalid, match="two roots"):
        verify_consistency(0, 3, ROOTS[1], ROOTS[3], [])
    with pytest.raises(ProofInvalid, match="too long"):
        verify_consistency(3, 3, ROOTS[3], ROOTS[3], [ROOTS[1]])


def test_a_proof_of_the_wrong_length_is_called_so() -> None:
    proof = inclusion_proof(5, 8, nodes_of(LEAVES))
    leaf = leaf_hash(LEAVES[5])
    with pytest.raises(ProofInvalid, match="too long"):
        verify_inclusion(leaf, 5, 8, [*proof, ROOTS[1]], ROOTS[8])
    with pytest.raises(ProofInvalid, match="too short"):
        verify_inclusion(leaf, 5, 8, proof[:-1], ROOTS[8])
    with pytest.raises(ProofInvalid, match="32 bytes"):
        verify_inclusion(leaf, 5, 8, [proof[0][:-1], *proof[1:]], ROOTS[8])
    path = consistency_proof(6, 8, nodes_of(LEAVES))
    with pytest.raises(ProofInvalid, match="too long"):
        verify_consistency(6, 8, ROOTS[6], ROOTS[8], [*path, ROOTS[1]])
    with pytest.raises(ProofInvalid, match="too short"):
        verify_consistency(6, 8, ROOTS[6], ROOTS[8], path[:-1])
    with pytest.raises(ProofInvalid, match="too short"):
        verify_consistency(6, 8, ROOTS[6], ROOTS[8], [])
    with pytest.raises(ProofInvalid, match="32 bytes"):
        verify_consistency(6, 8, ROOTS[6], ROOTS[8], [path[0] + b"x", *path[1:]])


def test_a_leaf_is_never_a_node() -> None:
    """The prefixes keep an inner node from being passed off as an entry."""
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)
