"""The state at rest: crash anywhere, restore anything, and no key is used twice (A10)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plugins.secure_chat.crypto import labels, primitives
from plugins.secure_chat.crypto.codec import VERSION, b8, b32, u8, u32, u64
from plugins.secure_chat.crypto.errors import StateRolledBack, StateUnreadable, StorageError
from plugins.secure_chat.crypto.file_storage import FileStorage, FileWitness, Slots
from plugins.secure_chat.crypto.messenger import Messenger
from plugins.secure_chat.crypto.primitives import labelled
from plugins.secure_chat.crypto.store import MAX_RECORD, SessionStore
from tests.unit.crypto.people import KEY, Storage, Witness, connect, pair


class PowerCut(Exception):
    """The process is gone."""


class Failing(Storage):
    """Fails before or after the blob is durable."""

    fail = ""

    def write(self, blob: bytes) -> None:
        if self.fail == "before":
            raise PowerCut
        super().write(blob)
        if self.fail == "after":
            raise PowerCut


class FailingWitness(Witness):
    fail = False

    def advance(self, generation: int) -> None:
        if self.fail:
            raise PowerCut
        super().advance(generation)


def opened(storage: Storage, witness: Witness) -> SessionStore:
    return SessionStore(storage, witness, KEY, os.urandom)


def test_what_was_committed_is_there_after_a_restart() -> None:
    storage, witness = Storage(), Witness()
    store = opened(storage, witness)
    store.commit({b"a": b"1", b"b": b"2"})
    store.commit({b"a": None, b"c": b""})
    again = opened(storage, witness)
    assert (again.get(b"a"), again.get(b"b"), again.get(b"c")) == (None, b"2", b"")
    assert (again.generation, again.rolled_back) == (2, False)


def test_the_blob_shows_nothing_and_no_byte_of_it_may_change() -> None:
    storage, witness = Storage(), Witness()
    opened(storage, witness).commit({b"name": b"a secret that shows"})
    blob = storage.blob
    assert blob is not None
    assert b"secret" not in blob
    assert b"name" not in blob
    for at in range(len(blob)):
        storage.blob = blob[:at] + bytes((blob[at] ^ 1,)) + blob[at + 1 :]
        with pytest.raises(StateUnreadable):
            opened(storage, witness)
    for size in range(0, len(blob), 7):
        storage.blob = blob[:size]
        with pytest.raises(StateUnreadable):
            opened(storage, witness)
    storage.blob = blob
    with pytest.raises(StateUnreadable):
        SessionStore(storage, witness, bytes(32), os.urandom)


@pytest.mark.parametrize("label", [labels.STATE, labels.MESSAGE, None])
def test_what_the_same_key_sealed_for_another_use_is_no_state(label: bytes | None) -> None:
    storage, witness, nonce = Storage(), Witness(), bytes(12)
    records = u64(1) + u32(1) + b8(b"a") + b32(b"1")
    header = labelled(label, u8(VERSION)) if label is not None else b""
    storage.blob = u8(VERSION) + nonce + primitives.seal(KEY, nonce, records, header)
    if label == labels.STATE:
        assert opened(storage, witness).get(b"a") == b"1"
    else:
        with pytest.raises(StateUnreadable):
            opened(storage, witness)


def test_no_two_blobs_share_a_nonce() -> None:
    storage, witness = Storage(), Witness()
    store = opened(storage, witness)
    nonces = set()
    for _ in range(500):
        store.commit({b"a": b"1"})
        assert storage.blob is not None
        nonces.add(storage.blob[1:13])
    assert len(nonces) == 500


@pytest.mark.parametrize("point", ["before", "after", "witness"])
def test_a_crash_at_any_point_of_a_commit_reuses_no_key_and_loses_nothing_that_left(
    point: str,
) -> None:
    """Before the write: the old state, and nothing has left. After it: the new one, usable."""
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    device = alice.devices["a"]
    storage, witness = Failing(), FailingWitness()
    storage.blob, witness.generation = device.storage.blob, device.witness.generation
    device.storage, device.witness = storage, witness
    device.restart()
    first = alice["a"].seal(bob.id, [bob.roster], b"one", 1.0)
    storage.fail, witness.fail = point, point == "witness"
    with pytest.raises(PowerCut):
        alice["a"].seal(bob.id, [bob.roster], b"never left", 1.0)
    with pytest.raises(StorageError):
        alice["a"].seal(bob.id, [bob.roster], b"the store must be opened again", 1.0)
    storage.fail, witness.fail = "", False
    device.restart()
    second = alice["a"].seal(bob.id, [bob.roster], b"two", 1.0)
    assert second.seq == (2 if point == "before" else 3)
    assert bob["b"].open(first, alice.roster).content == b"one"
    assert bob["b"].open(second, alice.roster).content == b"two"


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_crash_while_opening_shows_nothing_or_takes_the_message_once(point: str) -> None:
    alice, bob, directory = pair()
    connect(alice["a"], [bob], directory)
    device = bob.devices["b"]
    storage = Failing()
    storage.blob = device.storage.blob
    device.storage = storage
    device.restart()
    frame = alice["a"].seal(bob.id, [bob.roster], b"x", 1.0)
    storage.fail = point
    with pytest.raises(PowerCut):
        bob["b"].open(frame, alice.roster)
    storage.fail = ""
    device.restart()
    if point == "before":
        assert bob["b"].open(frame, alice.roster).content == b"x"
    else:
        with pytest.raises(Exception, match="taken"):
            bob["b"].open(frame, alice.roster)


def test_an_old_backup_may_not_commit_and_says_so() -> None:
    storage, witness = Storage(), Witness()
    store = opened(storage, witness)
    store.commit({b"a": b"1"})
    backup = storage.blob
    store.commit({b"a": b"2"})
    storage.blob = backup
    restored = opened(storage, witness)
    assert restored.rolled_back
    assert restored.get(b"a") == b"1"
    with pytest.raises(StateRolledBack):
        restored.commit({b"a": b"3"})
    assert storage.blob == backup
    restored.begin_again({b"a": None})
    restored.commit({b"b": b"4"})
    again = opened(storage, witness)
    assert (again.rolled_back, again.get(b"a"), again.get(b"b")) == (False, None, b"4")


def test_the_state_that_was_begun_again_without_is_an_old_one_when_it_comes_back() -> None:
    storage, witness = Storage(), Witness()
    store = opened(storage, witness)
    store.commit({b"a": b"1"})
    backup = storage.blob
    store.commit({b"a": b"2"})
    newest, storage.blob = storage.blob, backup
    opened(storage, witness).begin_again({b"a": None})
    storage.blob = newest
    assert opened(storage, witness).rolled_back


@pytest.mark.parametrize("name", [b"n", b"a"])
def test_a_record_that_could_not_be_read_again_is_refused_and_changes_nothing(name: bytes) -> None:
    storage, witness = Storage(), Witness()
    store = opened(storage, witness)
    largest = bytes(MAX_RECORD)
    store.commit({b"a": largest})
    with pytest.raises(StorageError):
        store.commit({b"b": b"with it", name: largest + b"\0"})
    store.commit({b"c": b"3"})
    again = opened(storage, witness)
    assert (again.get(b"a"), again.get(b"b"), again.get(b"c")) == (largest, None, b"3")


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(StorageError):
        SessionStore(Storage(), Witness(), bytes(size), os.urandom)


def test_what_could_not_be_kept_is_not_seen() -> None:
    storage = Failing()
    store = opened(storage, Witness())
    store.commit({b"a": b"1"})
    storage.fail = "before"
    with pytest.raises(PowerCut):
        store.commit({b"a": b"2", b"b": b"3"})
    assert (store.get(b"a"), store.names(b"")) == (b"1", (b"a",))


def test_a_second_holder_of_the_same_state_is_stopped_at_its_first_commit() -> None:
    """Two tabs: whoever comes second finds that the witness has moved."""
    storage, witness = Storage(), Witness()
    one, two = opened(storage, witness), opened(storage, witness)
    one.commit({b"a": b"1"})
    with pytest.raises(StateRolledBack):
        two.commit({b"a": b"2"})
    one.commit({b"a": b"3"})


@pytest.mark.parametrize("commits", [2, 3])
def test_a_lost_witness_is_noticed(commits: int) -> None:
    storage, witness = Storage(), Witness()
    store = opened(storage, witness)
    for _ in range(commits):
        store.commit({b"a": b"1"})
    lost = Witness()
    # Nor does opening it once make a new witness believe it.
    assert [opened(storage, lost).rolled_back for _ in range(3)] == [True, True, True]


def test_files_hold_a_device_for_one_process_and_its_owner_alone(tmp_path: Path) -> None:
    state, away = tmp_path / "device" / "state", tmp_path / "elsewhere" / "witness"
    with FileStorage(state) as storage, FileWitness(away) as witness:
        store = SessionStore(storage, witness, KEY, os.urandom)
        for value in (b"1", b"2", b"3"):
            store.commit({b"a": value})
        with pytest.raises(StorageError, match="another process"):
            FileStorage(state)
    for path in (*state.parent.iterdir(), *away.parent.iterdir()):
        assert path.stat().st_mode & 0o077 == 0
    with FileStorage(state) as storage, FileWitness(away) as witness:
        again = SessionStore(storage, witness, KEY, bytes)
        assert (again.get(b"a"), again.generation, again.rolled_back) == (b"3", 3, False)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.iterdir()}


def at_the_sync(slots: Slots, blob: bytes, folder: Path) -> dict[Path, bytes]:
    """Write ``blob``; the files as they are when it is on the disk and nothing else is done yet."""
    synced: dict[Path, bytes] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda _: synced.update(contents(folder)))
        slots.write(blob)
    return synced


def test_a_write_cut_at_any_byte_leaves_the_blob_before_it(tmp_path: Path) -> None:
    """Cut before the sync, the blob before is the newest; cut after it, the new one is."""
    slots = Slots(tmp_path / "state")
    for blob in (b"first", b"the second one", b"3rd"):
        slots.write(blob)
    before = contents(tmp_path)
    synced = at_the_sync(slots, b"the fourth, longer than any", tmp_path)
    after = contents(tmp_path)
    slots.close()
    for start, end, newest in (
        (before, synced, b"3rd"),
        (synced, after, b"the fourth, longer than any"),
    ):
        (path,) = [path for path in start if end[path] != start[path]]
        for other in start:
            other.write_bytes(start[other])
        for cut in range(len(end[path])):
            path.write_bytes(end[path][:cut] + start[path][cut:])
            with_cut = Slots(tmp_path / "state")
            assert with_cut.read() == newest
            with_cut.close()
        path.write_bytes(end[path])
    slots = Slots(tmp_path / "state")
    assert slots.read() == b"the fourth, longer than any"
    slots.write(b"5")
    assert slots.read() == b"5"
    slots.close()


def test_nothing_of_a_blob_stays_in_the_files_once_another_is_written(tmp_path: Path) -> None:
    """Whatever their sizes, and though a crash had left one there."""
    slots = Slots(tmp_path / "state")
    for number, times in enumerate((40, 1, 300, 7, 500, 2, 2)):
        slots.write(b"blob %d;" % number * times)
        held = b"".join(contents(tmp_path).values())
        assert [at for at in range(10) if b"blob %d;" % at in held] == [number]
    crashed = at_the_sync(slots, b"blob 7;" * 90, tmp_path)
    slots.close()
    for path, data in crashed.items():
        path.write_bytes(data)
    assert b"blob 6;" in b"".join(crashed.values())
    slots = Slots(tmp_path / "state")
    slots.write(b"blob 8;")
    held = b"".join(contents(tmp_path).values())
    assert [at for at in range(10) if b"blob %d;" % at in held] == [8]
    slots.close()


def test_a_slot_of_which_any_byte_is_altered_is_not_read(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "state")
    slots.write(b"the only one")
    (path,) = [path for path, data in contents(tmp_path).items() if data]
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        assert slots.read() is None
    path.write_bytes(whole)
    assert slots.read() == b"the only one"
    slots.close()


def test_a_disk_that_takes_and_gives_a_few_bytes_at_a_time_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:7], at))
    slots = Slots(tmp_path / "state")
    for blob in (b"a blob that is not short; " * 4, b"another one of them", b"and a third"):
        slots.write(blob)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", lambda file, n, at: pread(file, min(n, 44), at))
            assert slots.read() == blob
    slots.close()


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_failed_write_is_an_error_and_the_blob_before_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    slots = Slots(tmp_path / "state")
    slots.write(b"old")
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="Input/output"):
            slots.write(b"new")
    assert calls, "every commit is synced"
    assert slots.read() in ((b"old", b"new") if call == "fdatasync" else (b"old",))
    slots.close()


def test_an_empty_store_holds_no_device() -> None:
    with pytest.raises(StateUnreadable):
        Messenger(opened(Storage(), Witness()), os.urandom)
