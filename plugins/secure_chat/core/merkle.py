"""The Merkle tree over a ledger's lines: hashes, roots and proofs (RFC 9162 section 2.1).

A leaf is one ledger line without its newline, exactly as on disk. Leaves are counted from 0, as the
RFC does: the record at position p is leaf p - 1, and the tree of a ledger whose head is at position
n has n leaves.

Here are the tree's arithmetic and the verification of proofs. Where node hashes are kept is not
known here: who makes a proof passes in a reader of nodes. Tiles are in ``tiles.py``, checkpoints in
``note.py``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

HASH_SIZE: Final = 32
EMPTY_ROOT: Final = hashlib.sha256().digest()

ReadNode = Callable[[int, int], bytes]
"""``read(level, index)`` gives the root of the perfect subtree over the 2**level leaves that start
at leaf ``index * 2**level``. Level 0 holds the leaf hashes."""


class ProofInvalid(ValueError):
    """A proof does not show what it claims. The text names the defect, never the data."""


def leaf_hash(entry: bytes) -> bytes:
    """MTH({d}) = SHA-256(0x00 || d)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def leaf_hashes(entries: Sequence[bytes]) -> list[bytes]:
    """``leaf_hash`` of each."""
    sha256 = hashlib.sha256
    return [sha256(b"\x00" + entry).digest() for entry in entries]


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), for two hashes of 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class CompactRange(NamedTuple):
    """All that is needed to go on with a tree: the roots of its perfect subtrees, largest first.

    There are as many of them as ``size`` has one-bits, so a tree of any size continues from a few
    hundred bytes, one leaf at a time, at two hashes a leaf on average.
    """

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> CompactRange:
        """The range with one more leaf, given by its leaf hash."""
        nodes = self.nodes
        size = self.size
        while size & 1:
            leaf = node_hash(nodes[-1], leaf)
            nodes = nodes[:-1]
            size >>= 1
        return CompactRange(self.size + 1, (*nodes, leaf))

    def root(self) -> bytes:
        """The tree's root, which is EMPTY_ROOT when there are no leaves."""
        return join(self.nodes)


def join(nodes: Sequence[bytes]) -> bytes:
    """The root over neighbouring perfect subtrees, given largest first, each larger than the next.

    EMPTY_ROOT when there are none.
    """
    if not nodes:
        return EMPTY_ROOT
    root = nodes[-1]
    for node in reversed(nodes[:-1]):
        root = node_hash(node, root)
    return root


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """The root over ``hashes``, whose number is a power of two."""
    sha256 = hashlib.sha256
    level = list(hashes)
    while len(level) > 1:
        # node_hash, written out: this is most of the work of keeping a tree
        level = [
            sha256(b"\x01" + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=True)
        ]
    return level[0]


def root_at(size: int, read: ReadNode) -> bytes:
    """The root of the tree's first ``size`` leaves."""
    return _range_root(0, size, read)


def inclusion_proof(index: int, size: int, read: ReadNode) -> list[bytes]:
    """PATH(index, D[0:size]) of RFC 9162 section 2.1.3.1: from the leaf's sibling up.

    Raises ValueError unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError("the index is outside the tree")
    start, end = 0, size
    siblings: list[tuple[int, int]] = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            siblings.append((middle, end))
            end = middle
        else:
            siblings.append((start, middle))
            start = middle
    return [_range_root(low, high, read) for low, high in reversed(siblings)]


def consistency_proof(old_size: int, new_size: int, read: ReadNode) -> list[bytes]:
    """PROOF(old_size, D[0:new_size]) of RFC 9162 section 2.1.4.1.

    Empty when the sizes are equal, and when ``old_size`` is 0, as every tree extends the empty one.
    Raises ValueError unless 0 <= old_size <= new_size.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError("the old size is outside the tree")
    if old_size in (0, new_size):
        return []
    start, end = 0, new_size
    parts: list[tuple[int, int]] = []
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            parts.append((middle, end))
            end = middle
        else:
            parts.append((start, middle))
            start = middle
    if start != 0:
        parts.append((start, end))  # the old root itself is known to the verifier
    return [_range_root(low, high, read) for low, high in reversed(parts)]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that ``leaf`` (a leaf hash) is at ``index`` in the tree of ``size`` with ``root``.

    RFC 9162 section 2.1.3.2. Raises ProofInvalid. The caller must still trust ``root``: it comes
    from a checkpoint whose signature was verified.
    """
    if not 0 <= index < size:
        raise ProofInvalid("the index is outside the tree")
    fn, sn = index, size - 1
    computed = leaf
    for sibling in proof:
        _check_hash(sibling)
        if sn == 0:
            raise ProofInvalid("the proof is too long")
        if fn & 1 or fn == sn:
            computed = node_hash(sibling, computed)
            while not fn & 1 and fn != 0:
                fn >>= 1
                sn >>= 1
        else:
            computed = node_hash(computed, sibling)
        fn >>= 1
        sn >>= 1
    if sn != 0:
        raise ProofInvalid("the proof is too short")
    if not hmac.compare_digest(computed, root):
        raise ProofInvalid("the proof leads to another root")


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of ``new_size`` begins with the tree of ``old_size``.

    RFC 9162 section 2.1.4.2. Raises ProofInvalid. The caller must still trust both roots.
    """
    if not 0 <= old_size <= new_size:
        raise ProofInvalid("the new tree is smaller than the old one")
    if old_size == 0 or old_size == new_size:
        if proof:
            raise ProofInvalid("the proof is too long")
        if not hmac.compare_digest(old_root, new_root if old_size else EMPTY_ROOT):
            raise ProofInvalid("two roots for one size")
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise ProofInvalid("the proof is too short")
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    _check_hash(path[0])
    old_computed = new_computed = path[0]
    for sibling in path[1:]:
        _check_hash(sibling)
        if sn == 0:
            raise ProofInvalid("the proof is too long")
        if fn & 1 or fn == sn:
            old_computed = node_hash(sibling, old_computed)
            new_computed = node_hash(sibling, new_computed)
            while not fn & 1 and fn != 0:
                fn >>= 1
                sn >>= 1
        else:
            new_computed = node_hash(new_computed, sibling)
        fn >>= 1
        sn >>= 1
    if sn != 0:
        raise ProofInvalid("the proof is too short")
    if not hmac.compare_digest(old_computed, old_root):
        raise ProofInvalid("the proof leads to another old root")
    if not hmac.compare_digest(new_computed, new_root):
        raise ProofInvalid("the proof leads to another new root")


def _split(count: int) -> int:
    """The largest power of two below ``count`` (which is at least 2)."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_root(start: int, end: int, read: ReadNode) -> bytes:
    """The root over leaves [start, end), where start is a multiple of a power of two >= end - start
    (so it is for every range that a proof names)."""
    nodes: list[bytes] = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(read(level, start >> level))
        start += 1 << level
    return join(nodes)


def _check_hash(value: bytes) -> None:
    if len(value) != HASH_SIZE:
        raise ProofInvalid("a hash in the proof is not 32 bytes")
