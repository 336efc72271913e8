"""core/tiles.py: names and contents of tiles are tlog-tiles', and trees survive being cut up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.secure_chat.core.merkle import (
    CompactRange,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from plugins.secure_chat.core.tiles import (
    Bundle,
    Edge,
    EntryTooLarge,
    NotATile,
    Tile,
    decode_bundle,
    encode_bundle,
    node_reader,
    parse_path,
    tiles_at,
    width_at,
)


class Store:
    """A tree grown through Edge, with the tiles that it gave out."""

    def __init__(self, size: int) -> None:
        self.edge = Edge()
        self.tiles: dict[Tile, bytes] = {}
        self.roots = [CompactRange().root()]
        grown = CompactRange()
        for number in range(size):
            leaf = leaf_hash(b"%d" % number)
            grown = grown.append(leaf)
            self.tiles.update(self.edge.extend([leaf]))
            if number % 97 == 0 or number == size - 1:
                assert self.edge.root() == grown.root()
            self.roots.append(grown.root())

    def reader_at_head(self) -> dict[Tile, bytes]:
        return {**self.tiles, **dict(self.edge.partial())}


LARGE = Store(66_000)  # three tile levels


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 67, 112), "tile/0/067.p/112"),
        (Tile(3, 1_234_067), "tile/3/x001/x234/067"),
        (Tile(63, 1_000, 1), "tile/63/x001/000.p/1"),
        (Bundle(1_234_067, 255), "tile/entries/x001/x234/067.p/255"),
        (Bundle(0), "tile/entries/000"),
    ],
)
def test_paths_are_written_as_the_specification_does(tile: Tile | Bundle, path: str) -> None:
    assert tile.path == path
    assert parse_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0",
        "tile/0/0000",
        "tile/0/" + "x999/" * 6 + "999",
        "tile/0/" + "x999/" * 2000 + "999",
        "tile/0/x000/001",
        "tile/0/x01/001",
        "tile/0/001/002",
        "tile/00/001",
        "tile/64/001",
        "tile/-1/001",
        "tile/0/001.p/0",
        "tile/0/001.p/01",
        "tile/0/001.p/256",
        "tile/0/001.p/999",
        "tile/0/001/",
        "/tile/0/001",
        "tile/0/../../001",
        "tile/entries/0",
        "tile/data/000",
        "tile/0/٠٠٠",
        "tile/0/000\n",
        "",
    ],
)
def test_any_other_spelling_is_no_tile(path: str) -> None:
    with pytest.raises(NotATile):
        parse_path(path)


@given(st.integers(0, 63), st.integers(0, 10**12), st.integers(1, 256))
def test_every_tile_has_one_path(level: int, index: int, width: int) -> None:
    assert parse_path(Tile(level, index, width).path) == Tile(level, index, width)
    assert parse_path(Bundle(index, width).path) == Bundle(index, width)


def test_the_tiles_of_70_000_leaves_are_those_of_the_specification() -> None:
    tiles = list(tiles_at(70_000))
    assert tiles == [
        *(Tile(0, index) for index in range(273)),
        Tile(0, 273, 112),
        Tile(1, 0),
        Tile(1, 1, 17),
        Tile(2, 0, 1),
    ]


def test_a_tree_of_256_has_a_full_tile_and_one_of_width_1_above_it() -> None:
    assert list(tiles_at(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_at(0)) == []


def test_the_edge_gives_out_exactly_the_tiles_of_the_tree() -> None:
    assert set(LARGE.reader_at_head()) == set(tiles_at(66_000))
    for tile, data in LARGE.reader_at_head().items():
        assert len(data) == 32 * tile.width == 32 * width_at(tile.level, tile.number, 66_000)


@settings(max_examples=60)
@given(st.integers(1, 66_000), st.data())
def test_proofs_are_made_from_tiles_alone_at_every_size(size: int, data: st.DataObject) -> None:
    full = LARGE.reader_at_head()

    def read_tile(tile: Tile) -> bytes:
        """As an archive does: the narrow tile of an older size is the beginning of a wider one."""
        for candidate in (Tile(tile.level, tile.number), *(t for t in full if t[:2] == tile[:2])):
            if candidate in full:
                return full[candidate][: 32 * tile.width]
        raise AssertionError("a tile that the tree never had")

    read = node_reader(size, read_tile)
    root = LARGE.roots[size]
    assert root_at(size, read) == root
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, read)
    verify_inclusion(leaf_hash(b"%d" % index), index, size, proof, root)
    old = data.draw(st.integers(0, size))
    verify_consistency(old, size, LARGE.roots[old], root, consistency_proof(old, size, read))


@given(st.integers(0, 66_000).map(lambda size: size - size % 64))
@settings(max_examples=20)
def test_an_edge_goes_on_from_its_partial_tiles(size: int) -> None:
    first = Edge()
    grown = Store(min(size, 2_000))
    first = grown.edge
    levels = [b""] * 3
    for tile, content in first.partial():
        levels[tile.level] = content
    resumed = Edge(first.size, levels)
    leaf = leaf_hash(b"next")
    assert resumed.extend([leaf]) == first.extend([leaf])
    assert resumed.root() == first.root()


@given(st.lists(st.integers(0, 700), max_size=5))
def test_an_edge_takes_its_leaves_in_any_batches(batches: list[int]) -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(sum(batches))]
    edge = Edge()
    tiles: dict[Tile, bytes] = {}
    start = 0
    for batch in batches:
        tiles.update(edge.extend(leaves[start : start + batch]))
        start += batch
    one_by_one = Store(len(leaves))
    assert tiles == one_by_one.tiles
    assert edge.partial() == one_by_one.edge.partial()
    assert edge.root() == one_by_one.edge.root()


def test_an_edge_refuses_partial_tiles_of_another_size() -> None:
    with pytest.raises(NotATile):
        Edge(3, [bytes(32 * 2)])
    with pytest.raises(NotATile):
        Edge(256, [])
    with pytest.raises(NotATile):
        Edge(0, [bytes(32)])


def test_a_node_outside_the_tree_and_a_short_tile_are_refused() -> None:
    read = node_reader(5, lambda tile: bytes(32 * tile.width - 1))
    with pytest.raises(ValueError, match="outside"):
        read(3, 0)
    with pytest.raises(NotATile, match="length"):
        read(0, 0)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles_hold_their_entries(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries)) == entries


def test_a_bundle_is_length_prefixed_with_16_bits_big_endian() -> None:
    assert encode_bundle([b"", b"ab", b"c" * 258]) == b"\0\0\0\2ab\1\2" + b"c" * 258
    encode_bundle([bytes(65_535)])
    with pytest.raises(EntryTooLarge):
        encode_bundle([bytes(65_536)])


@pytest.mark.parametrize("data", [b"\0", b"\0\2a", b"\0\0\0\1"])
def test_a_bundle_cut_short_is_refused(data: bytes) -> None:
    with pytest.raises(NotATile, match="short"):
        decode_bundle(data)
