"""The ledger's Merkle tree, kept beside it as tlog-tiles files, and its signed checkpoints.

The directory holds

    tile/…         tiles (core/tiles.py), derived from the ledger
    state          how far the tree goes, derived: size, byte offset in the ledger, root
    bundles        byte offset of every 256th record in the ledger, derived
    checkpoint     the last signed checkpoint: a promise, never derived and never taken back

What is derived is written without a sync, measured when the log is opened, and built anew from the
ledger when anything is missing or does not add up. The ledger is read up to the position that the
caller says is durable; nothing of it is written, and who writes it never waits for this.

``open``, ``advance``, ``publish`` and ``distrust`` belong to one thread at a time; everything else
may be called from any thread meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugins.secure_chat.core.merkle import (
    HASH_SIZE,
    ReadNode,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    leaf_hashes,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from plugins.secure_chat.core.note import (
    Checkpoint,
    InclusionProof,
    NoteMalformed,
    NoteRefused,
    open_checkpoint,
)
from plugins.secure_chat.core.tiles import (
    HEIGHT,
    WIDTH,
    Bundle,
    Edge,
    NotATile,
    Tile,
    encode_bundle,
    node_reader,
    parse_path,
    tiles_at,
    width_at,
)
from plugins.secure_chat.errors import Damaged, HistoryRewritten, LedgerUnusable
from plugins.secure_chat.ledger.lines import blocks, last_line, lines
from plugins.secure_chat.transparency.keys import CheckpointSigner

log: Final = logging.getLogger(__name__)


class NotInTheLog(LookupError):
    """No published checkpoint covers what was asked for."""


class TreeDamaged(Damaged):
    """Tiles are missing or wrong. After ``distrust`` the next ``open`` builds them anew."""


@dataclass(frozen=True, slots=True)
class Published:
    """A signed checkpoint: what it says, and the note's bytes as they are given out."""

    checkpoint: Checkpoint
    note: bytes


class TransparencyLog:
    """One ledger's tree and checkpoints. The log's origin is its signer's key name."""

    def __init__(
        self,
        ledger: Path,
        directory: Path,
        signer: CheckpointSigner,
        *,
        clock: Callable[[], float] = time.time,
        breathe: Callable[[float], None] = lambda _: None,
    ) -> None:
        """``breathe`` is called between slices of work with the seconds of a core that the last one
        took."""
        self._ledger = ledger
        self._directory = directory
        self._signer = signer
        self._origin = signer.ed25519_key.name
        self._clock = clock
        self._breathe = breathe
        self._edge = Edge()
        self._offset = 0
        self._bundles = array("Q")
        self._bundles_stored = 0
        self._published: Published | None = None
        self._opened = False

    @property
    def size(self) -> int:
        """How many records the tree has; the published checkpoint may have fewer."""
        return self._edge.size

    @property
    def published(self) -> Published | None:
        """The last checkpoint that was given out."""
        return self._published

    def open(self, position: int) -> None:
        """Take up where the directory stands and go on to ``position``, the ledger's durable head.

        (1) The last checkpoint is read and its signatures checked. (2) The tree is resumed, or
        built anew when the directory or the ledger does not bear it out. (3) The tree is advanced.
        (4) It must bear out the checkpoint; if a resumed one does not, a tree built anew must.

        Raises HistoryRewritten when the ledger is not what the checkpoint was signed for, and then
        nothing is ever published; LedgerUnusable for a checkpoint that is not this signer's, and
        for a ledger that ends before ``position``; OSError.
        """
        self._opened = False
        self._published = None
        self._directory.mkdir(parents=True, exist_ok=True)
        promised = self._read_checkpoint()
        resumed = self._resume(position)
        if not resumed:
            self._reset()
        self.advance(position)
        if promised is not None:
            try:
                self._bear_out(promised.checkpoint)
            except (HistoryRewritten, TreeDamaged):
                if not resumed:
                    raise
                log.warning("transparency.rebuild position=%d", position)
                self._reset()
                self.advance(position)
                self._bear_out(promised.checkpoint)
        self._published = promised
        self._opened = True

    def distrust(self) -> None:
        """Have the next ``open`` build everything anew: a damaged tile was met."""
        (self._directory / "state").unlink(missing_ok=True)

    def advance(self, position: int) -> None:
        """Take the ledger's records up to ``position`` into the tree. Publishes nothing.

        After an OSError or LedgerUnusable the log must be opened again.
        """
        edge = self._edge
        if position <= edge.size:
            return
        for block in blocks(self._ledger, self._offset):
            new = block[: position - edge.size]
            start, end = 0, -edge.size % WIDTH
            while start < len(new):
                began = time.thread_time()
                if end == start:
                    self._bundles.append(self._offset)
                    end += WIDTH
                taken = new[start:end]
                for tile, data in edge.extend(leaf_hashes(taken)):
                    self._write_full(tile, data)
                self._offset += sum(map(len, taken)) + len(taken)
                start = end
                self._breathe(time.thread_time() - began)
            if edge.size == position:
                return
        raise LedgerUnusable(f"the ledger ends after {edge.size} of {position} records")

    def publish(self) -> Published:
        """Sign a checkpoint of the tree as it is and give it out; the last one when it says so.

        The new one is never inconsistent with the last: that is proven from the tiles first. It is
        durable when this returns. Raises TreeDamaged, or OSError, and then nothing was published.
        """
        if not self._opened:
            raise RuntimeError("a log that was not opened may not sign")
        last = self._published
        size = self._edge.size
        if last is not None and last.checkpoint.size == size:
            return last
        root = self._edge.root()
        for tile, data in self._edge.partial():
            _replace(self._directory / tile.path, data)
        self._write_state(root)
        if last is not None:
            read = self._reader(size)
            old = last.checkpoint
            with _damage():
                proof = consistency_proof(old.size, size, read)
                verify_consistency(old.size, size, old.root, root, proof)
        checkpoint = Checkpoint(self._origin, size, root)
        note = self._signer.sign(checkpoint, int(self._clock())).encode()
        _replace(self._directory / "checkpoint", note, durable=True)
        # crash point: promised, and nobody has seen it
        self._published = Published(checkpoint, note)
        return self._published

    def inclusion(self, position: int) -> InclusionProof:
        """The proof that the record at ``position`` is in the last published checkpoint's tree.

        It was verified before it is returned. Raises NotInTheLog or TreeDamaged.
        """
        published = self._covering(position)
        size = published.checkpoint.size
        if position < 1:
            raise NotInTheLog("positions are counted from 1")
        read = self._reader(size)
        with _damage():
            proof = inclusion_proof(position - 1, size, read)
            verify_inclusion(
                read(0, position - 1), position - 1, size, proof, published.checkpoint.root
            )
        return InclusionProof(position - 1, tuple(proof), published.note)

    def consistency(self, old_size: int, new_size: int | None = None) -> list[bytes]:
        """The proof that the tree of ``new_size``, by default the last published one, begins with
        that of ``old_size``.

        Raises NotInTheLog, also when the sizes are not in order, or TreeDamaged.
        """
        published = self._covering(max(old_size, new_size or 0))
        if new_size is None:
            new_size = published.checkpoint.size
        if not 0 <= old_size <= new_size:
            raise NotInTheLog("the old size is not within the new one")
        read = self._reader(new_size)
        with _damage():
            proof = consistency_proof(old_size, new_size, read)
            verify_consistency(
                old_size, new_size, root_at(old_size, read), root_at(new_size, read), proof
            )
        return proof

    def tile(self, path: str) -> bytes:
        """The bytes of a tile of the published tree, by its path. Raises NotATile, NotInTheLog or
        TreeDamaged. Entry bundles are ``bundle``'s."""
        tile = parse_path(path)
        if isinstance(tile, Bundle):
            raise NotATile("an entry bundle is no tile of hashes")
        size = self._covering(0).checkpoint.size
        if tile.width > width_at(tile.level, tile.number, size):
            raise NotInTheLog("the published tree has no such tile")
        with _damage():
            return self._read_tile(tile)

    def bundle(self, path: str) -> bytes:
        """The bytes of an entry bundle, made from the ledger. It shows who wrote to whom: who may
        have it is the caller's to decide.

        Raises NotATile, NotInTheLog, EntryTooLarge, TreeDamaged.
        """
        bundle = parse_path(path)
        if isinstance(bundle, Tile):
            raise NotATile("a tile of hashes is no entry bundle")
        if bundle.width > width_at(0, bundle.number, self._covering(0).checkpoint.size):
            raise NotInTheLog("the published tree has no such bundle")
        return encode_bundle(self._entries(bundle.number, bundle.width))

    def entry(self, position: int) -> bytes:
        """The ledger line at ``position``, as it was hashed. Raises NotInTheLog or TreeDamaged."""
        self._covering(position)
        if position < 1:
            raise NotInTheLog("positions are counted from 1")
        number, place = divmod(position - 1, WIDTH)
        return self._entries(number, place + 1)[place]

    def check(self) -> list[str]:
        """Compare every tile on disk with the ledger; the paths of those missing or wrong.

        Reads the whole ledger, up to the tree's size.
        """
        edge = Edge()
        wrong: list[str] = []
        entries = lines(self._ledger, 0)

        def compare(tile: Tile, data: bytes) -> None:
            try:
                right = self._read_tile(tile) == data
            except (OSError, NotATile):
                right = False
            if not right:
                wrong.append(tile.path)

        published = self._published
        size = self._edge.size if published is None else published.checkpoint.size
        while edge.size < size:
            line = next(entries, None)
            if line is None:
                raise LedgerUnusable(f"the ledger ends after {edge.size} of {size} records")
            for tile, data in edge.extend([leaf_hash(line)]):
                compare(tile, data)
        if published is not None:
            for tile, data in edge.partial():
                compare(tile, data)
        return wrong

    def _covering(self, position: int) -> Published:
        published = self._published
        if published is None or position > published.checkpoint.size:
            raise NotInTheLog("no published checkpoint covers it yet")
        return published

    def _read_checkpoint(self) -> Published | None:
        try:
            note = (self._directory / "checkpoint").read_bytes()
        except FileNotFoundError:
            return None
        try:
            checkpoint = open_checkpoint(note, self._signer.verifiers(), self._origin)
        except (NoteMalformed, NoteRefused) as error:
            raise LedgerUnusable(
                f"the last checkpoint is not one of this log's keys ({error}); with new keys, start"
                " a new directory under a new name"
            ) from None
        return Published(checkpoint, note)

    def _bear_out(self, checkpoint: Checkpoint) -> None:
        size = self._edge.size
        if size < checkpoint.size:
            raise HistoryRewritten(checkpoint.size, f"the ledger has only {size}")
        for tile, data in self._edge.partial():
            _replace(self._directory / tile.path, data)
        with _damage():
            root = root_at(checkpoint.size, self._reader(size))
        if root != checkpoint.root:
            raise HistoryRewritten(checkpoint.size, "its records are not those that were signed")

    def _resume(self, position: int) -> bool:
        """Take up the tree that the directory has. False when anything about it is not as it must
        be: then nothing of it may be used."""
        try:
            state = json.loads((self._directory / "state").read_bytes())
            size, offset, root = state["size"], state["offset"], bytes.fromhex(state["root"])
            if not 0 <= size <= position:
                return False
            for tile in tiles_at(size):
                if (self._directory / tile.path).stat().st_size != tile.width * HASH_SIZE:
                    return False
            levels = [
                (self._directory / tile.path).read_bytes() if tile.width else b""
                for tile in _edge_tiles(size)
            ]
            edge = Edge(size, levels)
            bundles = array("Q")
            bundles.frombytes((self._directory / "bundles").read_bytes())
            if edge.root() != root or len(bundles) < -(-size // WIDTH):
                return False
            del bundles[-(-size // WIDTH) :]
            if size and leaf_hash(last_line(self._ledger, offset)) != self._leaf(size):
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self._edge, self._offset, self._bundles = edge, offset, bundles
        self._bundles_stored = len(bundles)
        return True

    def _reset(self) -> None:
        for name in ("state", "bundles"):
            (self._directory / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._directory / "tile")
        self._edge, self._offset, self._bundles = Edge(), 0, array("Q")
        self._bundles_stored = 0

    def _write_state(self, root: bytes) -> None:
        size = self._edge.size
        stored = self._bundles_stored
        with (self._directory / "bundles").open("r+b" if stored else "wb") as file:
            file.seek(stored * self._bundles.itemsize)
            file.write(self._bundles[stored:].tobytes())
            file.truncate()
        self._bundles_stored = len(self._bundles)
        state = {"size": size, "offset": self._offset, "root": root.hex()}
        _replace(self._directory / "state", json.dumps(state).encode())

    def _write_full(self, tile: Tile, data: bytes) -> None:
        path = self._directory / tile.path
        _replace(path, data)
        shutil.rmtree(path.with_name(path.name + ".p"), ignore_errors=True)

    def _leaf(self, size: int) -> bytes:
        """The last leaf hash of the stored tree of ``size`` leaves."""
        return node_reader(size, self._read_tile)(0, size - 1)

    def _reader(self, size: int) -> ReadNode:
        return node_reader(size, self._read_tile)

    def _read_tile(self, tile: Tile) -> bytes:
        """A tile's bytes; a partial one may have become part of a wider or the full one."""
        with contextlib.suppress(FileNotFoundError):
            return (self._directory / tile.path).read_bytes()
        wanted = tile.width * HASH_SIZE
        full = self._directory / Tile(tile.level, tile.number).path
        with contextlib.suppress(FileNotFoundError):
            return full.read_bytes()[:wanted]
        partial = full.with_name(full.name + ".p")
        wider = [int(name) for name in os.listdir(partial) if name.isdecimal()]
        for width in sorted(width for width in wider if width > tile.width):
            return (partial / str(width)).read_bytes()[:wanted]
        raise FileNotFoundError(tile.path)

    def _entries(self, number: int, count: int) -> list[bytes]:
        """The first ``count`` records of bundle ``number``."""
        entries: list[bytes] = []
        for line in lines(self._ledger, self._bundles[number]):
            entries.append(line)
            if len(entries) == count:
                return entries
        raise TreeDamaged("the ledger is shorter than its tree")


def _edge_tiles(size: int) -> Iterator[Tile]:
    """The partial tile of each level, with width 0 where there is none."""
    level = 0
    while hashes := size >> (HEIGHT * level):
        number, width = divmod(hashes, WIDTH)
        yield Tile(level, number, width)
        level += 1


def _replace(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Put ``data`` at ``path``, whole or not at all; when ``durable``, it is on the disk then."""
    beside = path.with_name(path.name + ".new")
    try:
        file = beside.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = beside.open("wb")
    with file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    beside.replace(path)
    if durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Whatever goes wrong while the log reads its own tiles is damage to them."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise TreeDamaged(
            "the tiles do not add up; open the log again to build them anew"
        ) from error
