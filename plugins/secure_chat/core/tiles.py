"""Tiles: how a Merkle tree is cut into files that never change (C2SP tlog-tiles).

A tile holds up to 256 neighbouring hashes of one tile level; the hashes of level L + 1 are the
roots of the full tiles of level L, so tile level L lies 8 tree levels above tile level L - 1. An
entry bundle holds the up to 256 entries under one tile of level 0. Here are names, contents and
arithmetic; reading and writing of files is ``transparency/``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from plugins.secure_chat.core.merkle import HASH_SIZE, ReadNode, join, perfect_root

WIDTH: Final = 256
HEIGHT: Final = 8
MAX_LEVEL: Final = 63
MAX_ENTRY: Final = 0xFFFF
"""An entry bundle writes an entry's length in 16 bits."""

# Six groups number the tiles of every tree that can be: 2^63 leaves, 256 in each.
_PATH: Final = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<number>(?:x[0-9]{3}/){0,5}[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?",
    re.ASCII,
)


class NotATile(ValueError):
    """A path or a file is not a tile's. The text names the defect."""


class EntryTooLarge(ValueError):
    """An entry is longer than a bundle can say; it is served from the ledger alone."""


class Tile(NamedTuple):
    """The ``number``-th tile of ``level``; partial when ``width`` is below 256."""

    level: int
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """``tile/<L>/<N>[.p/<W>]``, as in tlog-tiles, "Merkle Tree"."""
        return f"tile/{self.level}/{_numbered(self.number, self.width)}"


class Bundle(NamedTuple):
    """The ``number``-th entry bundle; partial when ``width`` is below 256."""

    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """``tile/entries/<N>[.p/<W>]``, as in tlog-tiles, "Log entries"."""
        return f"tile/entries/{_numbered(self.number, self.width)}"


def parse_path(path: str) -> Tile | Bundle:
    """The tile or bundle a path names. Raises NotATile unless it is the one spelling of it."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise NotATile("not the path of a tile")
    groups = match["number"].replace("x", "").split("/")
    if len(groups) > 1 and groups[0] == "000":
        raise NotATile("the tile's number has leading zeroes")
    width = int(match["width"] or WIDTH)
    if match["width"] is not None and width >= WIDTH:
        raise NotATile("a partial tile is narrower than 256")
    number = int("".join(groups))
    if match["level"] == "entries":
        return Bundle(number, width)
    level = int(match["level"])
    if level > MAX_LEVEL:
        raise NotATile("tile levels end at 63")
    return Tile(level, number, width)


def width_at(level: int, number: int, size: int) -> int:
    """How many hashes tile ``number`` of ``level`` has in a tree of ``size`` leaves (0: none)."""
    return max(0, min(WIDTH, (size >> (HEIGHT * level)) - number * WIDTH))


def tiles_at(size: int) -> Iterator[Tile]:
    """Every tile of a tree of ``size`` leaves, level by level, partial ones last in their level."""
    level = 0
    while hashes := size >> (HEIGHT * level):
        full, width = divmod(hashes, WIDTH)
        for number in range(full):
            yield Tile(level, number)
        if width:
            yield Tile(level, full, width)
        level += 1


def split_hashes(data: bytes, width: int) -> list[bytes]:
    """The hashes in a tile's bytes. Raises NotATile when they are not ``width`` hashes."""
    if len(data) != width * HASH_SIZE:
        raise NotATile("the tile has not the length of its width")
    return [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]


def node_reader(size: int, read_tile: Callable[[Tile], bytes]) -> ReadNode:
    """A reader of tree nodes over the tiles of a tree of ``size`` leaves.

    ``read_tile`` gives a tile's bytes; the tile asked for has the width that ``size`` gives it. The
    reader raises NotATile when the bytes have another length, ValueError outside the tree.
    """

    def read(level: int, index: int) -> bytes:
        tile_level, height = divmod(level, HEIGHT)
        first = index << height
        number, offset = divmod(first, WIDTH)
        width = width_at(tile_level, number, size)
        if offset + (1 << height) > width:
            raise ValueError("the node is outside the tree")
        data = read_tile(Tile(tile_level, number, width))
        hashes = split_hashes(data, width)
        return perfect_root(hashes[offset : offset + (1 << height)])

    return read


class Edge:
    """The right edge of a growing tree: the tile of each level that is not yet full.

    It is all that must be in memory to write the tree's tiles, at most 8 KiB a level.
    """

    def __init__(self, size: int = 0, partial: Sequence[bytes] = ()) -> None:
        """``partial``: the contents of the partial tile of each level, from 0 up, empty where there
        is none. Raises NotATile when they are not those of a tree of ``size`` leaves.
        """
        self.size = size
        self._levels = [bytearray(data) for data in partial]
        levels = max(len(self._levels), -(-size.bit_length() // HEIGHT))
        for level in range(levels):
            width = (size >> (HEIGHT * level)) % WIDTH
            if level >= len(self._levels):
                self._levels.append(bytearray())
            if len(self._levels[level]) != width * HASH_SIZE:
                raise NotATile("the partial tiles are not those of this size")

    @property
    def levels(self) -> tuple[bytes, ...]:
        """What ``partial`` of another edge must be to go on from here."""
        return tuple(bytes(level) for level in self._levels)

    def extend(self, leaves: Sequence[bytes]) -> list[tuple[Tile, bytes]]:
        """Add leaf hashes in order; return the tiles that they made full, with their bytes."""
        full: list[tuple[Tile, bytes]] = []
        start = 0
        while start < len(leaves):
            end = start + WIDTH - self.size % WIDTH
            taken = leaves[start:end]
            self.size += len(taken)
            self._add(0, b"".join(taken), full)
            start = end
        return full

    def _add(self, level: int, hashes: bytes, full: list[tuple[Tile, bytes]]) -> None:
        """Put ``hashes`` into the edge of ``level``, which has room for them."""
        if level == len(self._levels):
            self._levels.append(bytearray())
        edge = self._levels[level]
        edge += hashes
        if len(edge) == WIDTH * HASH_SIZE:
            data = bytes(edge)
            edge.clear()
            full.append((Tile(level, (self.size >> (HEIGHT * (level + 1))) - 1), data))
            self._add(level + 1, perfect_root(split_hashes(data, WIDTH)), full)

    def partial(self) -> list[tuple[Tile, bytes]]:
        """The partial tiles of the tree as it is, with their bytes."""
        return [
            (
                Tile(level, self.size >> (HEIGHT * (level + 1)), len(hashes) // HASH_SIZE),
                bytes(hashes),
            )
            for level, hashes in enumerate(self._levels)
            if hashes
        ]

    def root(self) -> bytes:
        """The root of the tree as it is."""
        nodes: list[bytes] = []
        for hashes in reversed(self._levels):
            rest = split_hashes(bytes(hashes), len(hashes) // HASH_SIZE)
            while rest:
                count = 1 << (len(rest).bit_length() - 1)
                nodes.append(perfect_root(rest[:count]))
                rest = rest[count:]
        return join(nodes)


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """The bytes of an entry bundle: each entry behind its length, 16 bits big-endian.

    Raises EntryTooLarge.
    """
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY:
            raise EntryTooLarge("an entry of this bundle is longer than 65,535 bytes")
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle. Raises NotATile when it is cut short."""
    entries: list[bytes] = []
    offset = 0
    while offset < len(data):
        start = offset + 2
        offset = start + int.from_bytes(data[offset:start], "big")
        if offset > len(data) or start > len(data):
            raise NotATile("the bundle is cut short")
        entries.append(data[start:offset])
    return entries


def _numbered(number: int, width: int) -> str:
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.append(f"x{number % 1000:03d}")
    suffix = f".p/{width}" if width < WIDTH else ""
    return "/".join(reversed(groups)) + suffix
