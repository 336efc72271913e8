"""transparency/log.py: the tree beside the ledger is right, survives damage, and never lies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import plugins.secure_chat.transparency.log as log_module
from plugins.secure_chat.core.merkle import (
    CompactRange,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from plugins.secure_chat.core.note import open_checkpoint, parse_note, parse_proof
from plugins.secure_chat.core.tiles import EntryTooLarge, NotATile, decode_bundle, tiles_at
from plugins.secure_chat.errors import HistoryRewritten, LedgerUnusable
from plugins.secure_chat.transparency.keys import CheckpointSigner
from plugins.secure_chat.transparency.log import NotInTheLog, TransparencyLog, TreeDamaged

SIGNER = CheckpointSigner("example.com/ledger", b"\x01" * 32, b"\x02" * 32)


def line(position: int) -> bytes:
    return b'{"record": %d, "filler": "%s"}' % (position, b"x" * (position % 50))


class Case:
    """A ledger file of made-up lines, and its log."""

    def __init__(self, directory: Path) -> None:
        self.ledger = directory / "ledger.jsonl"
        self.directory = directory / "log"
        self.lines: list[bytes] = []
        self.ledger.touch()

    def append(self, count: int) -> int:
        new = [line(len(self.lines) + number) for number in range(1, count + 1)]
        with self.ledger.open("ab") as file:
            file.write(b"".join(each + b"\n" for each in new))
        self.lines += new
        return len(self.lines)

    def log(self, signer: CheckpointSigner = SIGNER) -> TransparencyLog:
        return TransparencyLog(self.ledger, self.directory, signer, clock=lambda: 1_700_000_000.5)

    def opened(self) -> TransparencyLog:
        log = self.log()
        log.open(len(self.lines))
        return log

    def root(self, size: int) -> bytes:
        grown = CompactRange()
        for each in self.lines[:size]:
            grown = grown.append(leaf_hash(each))
        return grown.root()

    def assert_whole(self, log: TransparencyLog) -> None:
        """Everything that the log can be asked for is there and right."""
        published = log.published
        assert published is not None
        size = published.checkpoint.size
        assert published.checkpoint.root == self.root(size)
        assert log.check() == []
        for tile in tiles_at(size):
            assert len(log.tile(tile.path)) == 32 * tile.width
        for position in {1, 2, size // 2 + 1, size}:
            assert log.entry(position) == self.lines[position - 1]
            self.assert_included(log, position)

    def assert_included(self, log: TransparencyLog, position: int) -> None:
        proof = parse_proof(log.inclusion(position).encode())
        checkpoint = open_checkpoint(proof.checkpoint, SIGNER.verifiers(), "example.com/ledger")
        assert checkpoint.root == self.root(checkpoint.size)
        leaf = leaf_hash(self.lines[position - 1])
        assert proof.index == position - 1
        verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_a_checkpoint_is_of_the_ledgers_lines_and_signed_with_both_keys(case: Case) -> None:
    case.append(70)
    published = case.opened().publish()
    checkpoint = open_checkpoint(published.note, SIGNER.verifiers(), "example.com/ledger")
    assert (checkpoint.size, checkpoint.root) == (70, case.root(70))
    assert (case.directory / "checkpoint").read_bytes() == published.note


def test_an_empty_ledger_has_a_checkpoint(case: Case) -> None:
    published = case.opened().publish()
    assert published.checkpoint.size == 0
    case.append(3)
    log = case.opened()
    assert log.publish().checkpoint.size == 3
    assert log.consistency(0) == []


def test_every_record_of_every_checkpoint_has_its_proof(case: Case) -> None:
    log = case.log()
    log.open(0)
    sizes = []
    for step in (1, 2, 60, 190, 3, 1, 255, 1, 300):
        log.advance(case.append(step))
        sizes.append(log.publish().checkpoint.size)
        for position in range(1, len(case.lines) + 1, 37):
            case.assert_included(log, position)
    for old in sizes:
        for new in sizes:
            if old <= new:
                proof = log.consistency(old, new)
                verify_consistency(old, new, case.root(old), case.root(new), proof)
    case.assert_whole(log)


def test_a_log_that_is_opened_again_goes_on_where_it_stood(case: Case) -> None:
    case.append(600)
    case.opened().publish()
    blank = b"?" * (len(b"\n".join(case.lines[:599])))
    with case.ledger.open("r+b") as file:  # had it to be read again, the root would be another
        file.write(blank)
    position = case.append(30)
    log = case.log()
    log.open(position)
    assert log.publish().checkpoint.root == case.root(630)


def test_being_behind_is_caught_up_with(case: Case) -> None:
    case.append(300)
    case.opened().publish()
    case.append(700)
    log = case.opened()
    assert log.size == 1_000
    log.publish()
    case.assert_whole(log)


def everything_but_the_checkpoint(directory: Path) -> None:
    shutil.rmtree(directory / "tile")
    (directory / "state").unlink()
    (directory / "bundles").unlink()


def the_tiles(directory: Path) -> None:
    shutil.rmtree(directory / "tile")


def one_full_tile(directory: Path) -> None:
    (directory / "tile/0/001").unlink()


def a_full_tile_cut(directory: Path) -> None:
    (directory / "tile/0/001").write_bytes(b"")


def the_edge_changed(directory: Path) -> None:
    path = next((directory / "tile/0/002.p").iterdir())
    path.write_bytes(bytes(path.stat().st_size))


def the_level_above_changed(directory: Path) -> None:
    (directory / "tile/1/000.p/2").write_bytes(bytes(64))


def the_state_gone(directory: Path) -> None:
    (directory / "state").unlink()


def the_state_torn(directory: Path) -> None:
    (directory / "state").write_bytes(b'{"size": 60')


def the_state_ahead(directory: Path) -> None:
    text = (directory / "state").read_text()
    (directory / "state").write_text(text.replace('"size": 600', '"size": 601'))


def the_offset_wrong(directory: Path) -> None:
    text = (directory / "state").read_text()
    (directory / "state").write_text(text.replace('"offset": ', '"offset": 1'))


def the_bundles_gone(directory: Path) -> None:
    (directory / "bundles").unlink()


def the_bundles_torn(directory: Path) -> None:
    (directory / "bundles").write_bytes(b"\0" * 13)


def the_bundles_short(directory: Path) -> None:
    (directory / "bundles").write_bytes((directory / "bundles").read_bytes()[:8])


def everything(directory: Path) -> None:
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    "damage",
    [
        everything,
        everything_but_the_checkpoint,
        the_tiles,
        one_full_tile,
        a_full_tile_cut,
        the_edge_changed,
        the_level_above_changed,
        the_state_gone,
        the_state_torn,
        the_state_ahead,
        the_offset_wrong,
        the_bundles_gone,
        the_bundles_torn,
        the_bundles_short,
    ],
    ids=lambda each: each.__name__,
)
def test_what_is_missing_or_wrong_is_built_anew(
    case: Case, damage: Callable[[Path], object]
) -> None:
    case.append(600)
    case.opened().publish()
    damage(case.directory)
    case.append(5)
    log = case.opened()
    assert log.publish().checkpoint.size == 605
    case.assert_whole(log)


def test_a_changed_hash_inside_a_tile_never_becomes_a_proof(case: Case) -> None:
    case.append(600)
    log = case.opened()
    log.publish()
    path = case.directory / "tile/0/000"
    data = bytearray(path.read_bytes())
    data[32 * 7] ^= 1
    path.write_bytes(bytes(data))
    for position in (8, 9, 200):
        with pytest.raises(TreeDamaged):
            log.inclusion(position)
    assert log.check() == ["tile/0/000"]
    log.distrust()
    log.open(600)
    case.assert_whole(log)


def test_nothing_is_signed_that_the_tiles_do_not_join_to_the_last_checkpoint(case: Case) -> None:
    case.append(300)
    log = case.opened()
    promised = log.publish()
    log.advance(case.append(300))
    path = case.directory / "tile/0/001"
    data = bytearray(path.read_bytes())
    data[32 * 200] ^= 1  # a leaf that was not in the last checkpoint's tree
    path.write_bytes(bytes(data))
    with pytest.raises(TreeDamaged):
        log.publish()
    assert (case.directory / "checkpoint").read_bytes() == promised.note
    assert log.published == promised
    log.distrust()
    log.open(600)
    assert log.publish().checkpoint.size == 600
    case.assert_whole(log)


class TestHistory:
    """A ledger that is not what a checkpoint was signed for is never signed for again."""

    def refused(self, case: Case, position: int) -> None:
        before = (case.directory / "checkpoint").read_bytes()
        log = case.log()
        with pytest.raises(HistoryRewritten):
            log.open(position)
        with pytest.raises(RuntimeError, match="not opened"):
            log.publish()
        assert log.published is None
        assert (case.directory / "checkpoint").read_bytes() == before

    @pytest.mark.parametrize("resumes", [True, False])
    def test_a_ledger_rolled_back_is_refused(self, case: Case, resumes: bool) -> None:
        case.append(600)
        case.opened().publish()
        case.ledger.write_bytes(b"".join(each + b"\n" for each in case.lines[:500]))
        if not resumes:
            everything_but_the_checkpoint(case.directory)
        self.refused(case, 500)

    @pytest.mark.parametrize("resumes", [True, False])
    def test_a_ledger_rolled_back_and_grown_again_is_refused(
        self, case: Case, resumes: bool
    ) -> None:
        case.append(600)
        case.opened().publish()
        other = [*case.lines[:500], *(b"other %d" % number for number in range(300))]
        case.ledger.write_bytes(b"".join(each + b"\n" for each in other))
        if not resumes:
            everything_but_the_checkpoint(case.directory)
        self.refused(case, 800)

    @pytest.mark.parametrize("changed", [1, 256, 300, 600])
    def test_a_changed_record_is_refused_when_the_tree_is_built_anew(
        self, case: Case, changed: int
    ) -> None:
        case.append(600)
        case.opened().publish()
        everything_but_the_checkpoint(case.directory)
        lines = [*case.lines]
        lines[changed - 1] = lines[changed - 1].replace(b"record", b"Record")
        case.ledger.write_bytes(b"".join(each + b"\n" for each in lines))
        self.refused(case, 600)

    def test_a_changed_record_is_found_by_a_check_of_a_resumed_tree(self, case: Case) -> None:
        case.append(600)
        case.opened().publish()
        data = case.ledger.read_bytes()
        case.ledger.write_bytes(data.replace(line(5), line(5).replace(b"record", b"Record")))
        log = case.opened()
        assert log.check() == ["tile/0/000", "tile/1/000.p/2"]

    def test_a_checkpoint_of_other_keys_is_not_continued(self, case: Case) -> None:
        case.append(10)
        case.opened().publish()
        stranger = CheckpointSigner("example.com/ledger", b"\x03" * 32, b"\x04" * 32)
        with pytest.raises(LedgerUnusable, match="new directory"):
            case.log(stranger).open(10)

    def test_a_checkpoint_cut_short_is_not_taken_for_none(self, case: Case) -> None:
        case.append(10)
        case.opened().publish()
        path = case.directory / "checkpoint"
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(LedgerUnusable):
            case.opened()


def test_a_tree_that_went_wrong_in_memory_is_not_signed(case: Case) -> None:
    case.append(600)
    log = case.opened()
    promised = log.publish()
    log._edge._levels[1][3] ^= 1
    log.advance(case.append(1))
    with pytest.raises(TreeDamaged):
        log.publish()
    assert log.published is promised
    assert (case.directory / "checkpoint").read_bytes() == promised.note
    log.distrust()
    log.open(601)
    log.publish()
    case.assert_whole(log)


def test_a_write_that_fails_anywhere_leaves_a_log_that_recovers(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write fails once; what was promised before is kept, and the next start is whole."""
    case.append(300)
    case.opened().publish()
    position = case.append(400)
    start = case.directory.with_name("start")
    case.directory.rename(start)
    original = log_module._replace
    for failing in range(100):
        shutil.copytree(start, case.directory)
        writes = 0

        def replace(path: Path, data: bytes, *, durable: bool = False, at: int = failing) -> None:
            nonlocal writes
            writes += 1
            if writes > at:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_name(path.name + ".new").write_bytes(data[:5])
                raise OSError(28, "No space left on device")
            original(path, data, durable=durable)

        with monkeypatch.context() as patch:
            patch.setattr(log_module, "_replace", replace)
            broken = case.log()
            try:
                broken.open(position)
                broken.publish()
            except (OSError, TreeDamaged):
                pass
            promised = broken.published
        recovered = case.opened()
        assert recovered.published is not None, "the first promise was kept"
        if promised is not None:
            assert recovered.published.note == promised.note
        recovered.publish()
        case.assert_whole(recovered)
        if writes <= failing:
            assert failing > 5, "there were writes that could fail"
            return
        shutil.rmtree(case.directory)
    raise AssertionError("the writes never ended")


def test_an_unfinished_line_is_not_read(case: Case) -> None:
    case.append(5)
    with case.ledger.open("ab") as file:
        file.write(b'{"record": 6')
    log = case.log()
    log.open(5)
    assert log.publish().checkpoint.root == case.root(5)
    with pytest.raises(LedgerUnusable, match="ends after 5 of 6"):
        log.advance(6)


def test_a_position_is_the_last_that_is_read(case: Case) -> None:
    """What is in the file and not yet durable is not signed for."""
    case.append(10)
    log = case.log()
    log.open(7)
    assert log.publish().checkpoint.root == case.root(7)


def test_nothing_new_gives_the_same_note(case: Case) -> None:
    case.append(3)
    log = case.opened()
    note = log.publish().note
    assert log.publish().note == note
    again = case.opened()
    assert again.publish().note == note


def test_only_what_is_published_is_proven(case: Case) -> None:
    case.append(10)
    log = case.opened()
    with pytest.raises(NotInTheLog):
        log.inclusion(1)
    log.publish()
    log.advance(case.append(5))
    for position in (0, -1, 11, 15):
        with pytest.raises(NotInTheLog):
            log.inclusion(position)
        with pytest.raises(NotInTheLog):
            log.entry(position)
    for old, new in ((5, 12), (12, None), (7, 5), (-1, 5)):
        with pytest.raises(NotInTheLog):
            log.consistency(old, new)
    with pytest.raises(NotInTheLog):
        log.tile("tile/0/000.p/11")
    with pytest.raises(NotInTheLog):
        log.bundle("tile/entries/000.p/11")


@pytest.mark.parametrize("path", ["tile/0/../state", "state", "tile/entries/000.p/9", "checkpoint"])
def test_only_tiles_are_read_as_tiles(case: Case, path: str) -> None:
    case.append(10)
    log = case.opened()
    log.publish()
    with pytest.raises(NotATile):
        log.tile(path)


def test_a_partial_tile_of_an_older_checkpoint_stays_readable(case: Case) -> None:
    log = case.log()
    log.open(case.append(100))
    log.publish()
    old = log.tile("tile/0/000.p/100")
    for more in (50, 106, 20):
        log.advance(case.append(more))
        log.publish()
        assert log.tile("tile/0/000.p/100") == old
    assert not (case.directory / "tile/0/000.p").exists()


def test_entry_bundles_are_the_ledgers_lines(case: Case) -> None:
    case.append(600)
    log = case.opened()
    log.publish()
    assert decode_bundle(log.bundle("tile/entries/000")) == case.lines[:256]
    assert decode_bundle(log.bundle("tile/entries/001")) == case.lines[256:512]
    assert decode_bundle(log.bundle("tile/entries/002.p/88")) == case.lines[512:]
    with pytest.raises(NotATile):
        log.bundle("tile/0/000")


def test_a_record_too_long_for_a_bundle_is_in_the_tree_all_the_same(case: Case) -> None:
    long = b"y" * 70_000
    with case.ledger.open("ab") as file:
        file.write(long + b"\n")
    case.lines.append(long)
    log = case.opened()
    log.publish()
    case.assert_included(log, 1)
    assert log.entry(1) == long
    with pytest.raises(EntryTooLarge):
        log.bundle("tile/entries/000.p/1")


def test_the_time_of_a_cosignature_is_the_clocks_whole_second(case: Case) -> None:
    note = case.opened().publish().note.decode()
    assert note.count("\n— example.com/ledger ") == 2
    cosignature = parse_note(note.encode()).signatures[1].signature
    assert int.from_bytes(cosignature[:8], "big") == 1_700_000_000
