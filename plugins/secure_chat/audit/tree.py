"""The Merkle tree of a ledger file, held against checkpoints that were signed for it.

A checkpoint's root shows that some record among its first ones is not what was signed; with the
tiles of the signed tree (a copy of ``DATA_DIR/transparency``) it shows which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from plugins.secure_chat.audit.spans import LedgerFile
from plugins.secure_chat.core.chain import Defect, Finding
from plugins.secure_chat.core.merkle import (
    inclusion_proof,
    leaf_hashes,
    root_at,
    verify_inclusion,
)
from plugins.secure_chat.core.note import Checkpoint
from plugins.secure_chat.core.tiles import WIDTH, Edge, Tile, node_reader, split_hashes, width_at
from plugins.secure_chat.errors import LedgerUnusable

_CHUNK: Final = 4 << 20


@dataclass(slots=True)
class Grown:
    """A tree over a file's first lines, and where in the file they end."""

    edge: Edge
    offset: int = 0

    @classmethod
    def empty(cls) -> Grown:
        return cls(Edge())

    def grow(self, file: LedgerFile, size: int, until: int) -> Iterator[list[bytes]]:
        """Take lines of the file's first ``size`` bytes up to line ``until``; yields the leaf
        hashes that were just taken."""
        for span in file.spans(size, _CHUNK, until, start=self.offset, position=self.edge.size):
            leaves = leaf_hashes(file.lines(span))
            self.edge.extend(leaves)
            self.offset = span.end
            yield leaves


def against_checkpoints(
    file: LedgerFile,
    size: int,
    checkpoints: Sequence[Checkpoint],
    *,
    tiles: Path | None = None,
    grown: Grown | None = None,
) -> Finding | None:
    """The first line of the file that opened checkpoints do not bear out, or None.

    ``tiles`` is a folder with the tiles of the largest checkpoint's tree: then the line is named;
    without them it is the last line of the first checkpoint that does not hold. ``grown``: a tree
    of the same file to begin from, where no checkpoint is smaller. Raises LedgerUnusable for tiles
    that are not that checkpoint's.
    """
    ordered = sorted(checkpoints, key=lambda checkpoint: checkpoint.size)
    saved = SavedTiles(tiles, ordered[-1]) if tiles is not None and ordered else None
    if grown is None or (ordered and ordered[0].size < grown.edge.size):
        grown = Grown.empty()
    sound = grown.edge.size
    for checkpoint in ordered:
        for leaves in grown.grow(file, size, checkpoint.size):
            if saved is not None:
                first = saved.first_difference(grown.edge.size - len(leaves), leaves)
                if first is not None:
                    return Finding(first, Defect.CHECKPOINT, "it is not the record that was signed")
        if grown.edge.size < checkpoint.size:
            return Finding(
                grown.edge.size + 1,
                Defect.CHECKPOINT,
                f"it is missing: a signed checkpoint is of {checkpoint.size} records",
            )
        if grown.edge.root() != checkpoint.root:
            since = f" of those after line {sound}" if sound else ""
            return Finding(
                checkpoint.size,
                Defect.CHECKPOINT,
                f"a record up to here{since} is not the one that was signed",
            )
        sound = checkpoint.size
    return None


class ProvenRecord(Protocol):
    """A proof of which record is at a position."""

    @property
    def position(self) -> int: ...

    def holds(self, line: bytes) -> bool:
        """Whether ``line`` is that record."""


def against_proofs(file: LedgerFile, size: int, proofs: Sequence[ProvenRecord]) -> Finding | None:
    """The first line of the file's first ``size`` bytes that is not what was proven, or None."""
    wanted: dict[int, list[ProvenRecord]] = {}
    for proof in proofs:
        wanted.setdefault(proof.position, []).append(proof)
    if not wanted:
        return None
    last = 0
    for span in file.spans(size, _CHUNK, max(wanted)):
        last = span.position + span.lines
        positions = [p for p in sorted(wanted) if span.position < p <= last]
        if positions:
            lines = file.lines(span)
            for position in positions:
                line = lines[position - span.position - 1]
                if not all(proof.holds(line) for proof in wanted[position]):
                    return Finding(position, Defect.PROOF, "it is not the record that was proven")
    if last < max(wanted):
        return Finding(last + 1, Defect.PROOF, f"it is missing: position {max(wanted)} was proven")
    return None


class SavedTiles:
    """The leaves of a signed tree, from a copy of its tiles."""

    def __init__(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Raises LedgerUnusable unless the tiles are those of ``checkpoint``."""
        self._folder = folder
        self._size, self._root = checkpoint.size, checkpoint.root
        try:
            right = root_at(checkpoint.size, node_reader(checkpoint.size, self._read))
        except (OSError, ValueError):
            right = b""
        if right != checkpoint.root:
            raise LedgerUnusable("the tiles are not those of the checkpoint")

    def first_difference(self, before: int, leaves: Sequence[bytes]) -> int | None:
        """The position of the first of ``leaves``, which follow ``before`` others, that differs."""
        for place, leaf in enumerate(leaves, start=before):
            number, offset = divmod(place, WIDTH)
            if offset == 0 or place == before:
                tile = Tile(0, number, width_at(0, number, self._size))
                hashes = split_hashes(self._read(tile), tile.width)
            if hashes[offset] != leaf:
                self._vouch_for(place, hashes[offset])
                return place + 1
        return None

    def _vouch_for(self, place: int, leaf: bytes) -> None:
        """That this leaf was signed. Raises LedgerUnusable: then the tile was changed, or cut."""
        read = node_reader(self._size, self._read)
        try:
            proof = inclusion_proof(place, self._size, read)
            verify_inclusion(leaf, place, self._size, proof, self._root)
        except (OSError, ValueError):
            raise LedgerUnusable("a tile is not that of the checkpoint's tree") from None

    def _read(self, tile: Tile) -> bytes:
        """As the log keeps them: a partial tile may have become part of a wider or the full one."""
        full = self._folder / Tile(tile.level, tile.number).path
        partial = full.with_name(full.name + ".p")
        candidates = [self._folder / tile.path, full]
        if partial.is_dir():
            names = [name.name for name in partial.iterdir() if name.name.isdecimal()]
            wider = sorted(int(name) for name in names if int(name) > tile.width)
            candidates += [partial / str(width) for width in wider]
        for path in candidates:
            if path.is_file():
                return path.read_bytes()[: tile.width * 32]
        raise FileNotFoundError(tile.path)
