"""The device's state: what it holds outlives the process at any point, serves one process only, and
an old copy of it is not taken for the newest."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plugins.secure_chat.client.device import ROTATION_SECONDS, Arrived, Device, Enrolment, Received
from plugins.secure_chat.client.state import StateFolder
from plugins.secure_chat.crypto import roster
from plugins.secure_chat.crypto.errors import (
    BadWalletSignature,
    CryptoError,
    DecodeError,
    IdentityChanged,
    NotCertified,
    Refused,
    Replayed,
    StateRolledBack,
    StateUnreadable,
    StorageError,
)
from plugins.secure_chat.crypto.file_storage import Slots
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.messenger import Message
from plugins.secure_chat.crypto.prekeys import Bundle
from plugins.secure_chat.crypto.roster import Roster
from plugins.secure_chat.crypto.wallet import WalletKey

ROOT = Path(__file__).resolve().parents[3]
KEY = bytes(range(32))
ALICE, BOB = WalletKey(bytes(31) + b"\x05"), WalletKey(bytes(31) + b"\x06")


def open_device(folder: Path, wallet: WalletKey = ALICE, unlock: bytes | str = KEY) -> Device:
    return Device.open(folder, wallet, unlock, witness=folder.with_name(folder.name + " witness"))


def own_roster(device: Device) -> Roster:
    assert device.identity is not None
    return roster.verify(device.identity, [device.certificate])


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Device, Device]]:
    """Two devices that know each other; the first has a session with the second."""
    a, b = open_device(tmp_path / "a", ALICE), open_device(tmp_path / "b", BOB)
    for one, other in ((a, b), (b, a)):
        one.messenger.learn(own_roster(other))
    connect(a, b)
    yield a, b
    a.close()
    b.close()


def connect(sender: Device, receiver: Device) -> None:
    published = receiver.new_prekeys(1, now=1e9)
    receiver.prekeys_published()
    bundle = Bundle(
        published.certificate, published.signed, published.one_time_kem[0], published.one_time[0]
    )
    sender.messenger.establish(own_roster(receiver), bundle, 1_000)


def message(to: Device, content: bytes) -> Message:
    return Message(to.wallet, [own_roster(to)], content, 1.0)


def arrived(sender: Device, frame: bytes, position: int) -> Arrived:
    parsed = Frame.from_wire({**msgspec.json.decode(frame), "sender": sender.wallet})
    return Arrived(parsed, position, "then", own_roster(sender))


def test_what_was_sealed_and_what_was_opened_outlive_kill_9(tmp_path: Path) -> None:
    """The outbox is on the disk when ``seal`` returns, the inbox when ``take`` does."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.unit.client.test_device import *\n"
        "a, b = (open_device(Path(sys.argv[1]) / n, w) for n, w in (('a', ALICE), ('b', BOB)))\n"
        "a.messenger.learn(own_roster(b)); b.messenger.learn(own_roster(a)); connect(a, b)\n"
        "sealed = a.seal([message(b, b'%d' % n) for n in (1, 2, 3)])\n"
        "b.take([arrived(a, one.frame, at) for at, one in enumerate(sealed, start=5)])\n"
        "b.handled(5)\n"
        "print(*(one.frame.decode() for one in sealed), sep='\\n', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, timeout=60
    )
    assert run.returncode == -signal.SIGKILL
    frames = run.stdout.splitlines()
    with open_device(tmp_path / "a", ALICE) as a, open_device(tmp_path / "b", BOB) as b:
        assert [kept.frame for kept in a.outbox()] == frames
        assert [(one.position, one.content) for one in b.inbox()] == [(6, b"2"), (7, b"3")]
        assert b.cursor.position == 7
        # What was taken is not taken again, and what comes next is.
        (again,) = b.take([arrived(a, frames[0], 5)])
        assert isinstance(again, Replayed)
        (next_one,) = a.seal([message(b, b"4")])
        assert next_one.seq == 4
        (opened,) = b.take([arrived(a, next_one.frame, 8)])
        assert isinstance(opened, Received)
        assert (opened.content, opened.continuity.value) == (b"4", "continuous")


class Crash(Exception):
    pass


def crash_at(device: Device, point: str) -> None:
    """The process dies before its next write of the state, or between that and the witness's."""
    store = device._state.store
    write = store._storage.write

    def written(blob: bytes) -> None:
        if point == "after the state":
            write(blob)
        raise Crash

    store._storage.write = written  # type: ignore[method-assign]


@pytest.mark.parametrize("point", ["before the state", "after the state"])
def test_a_crash_while_sealing_or_taking_loses_nothing_and_shows_nothing_twice(
    tmp_path: Path, pair: tuple[Device, Device], point: str
) -> None:
    a, b = pair
    (first,) = a.seal([message(b, b"first")])
    crash_at(a, point)
    with pytest.raises(Crash):
        a.seal([message(b, b"second")])
    a.close()
    a = open_device(tmp_path / "a", ALICE)
    kept = a.outbox()
    assert [one.seq for one in kept] == ([1, 2] if point == "after the state" else [1])
    assert kept[0] == first
    crash_at(b, point)
    with pytest.raises(Crash):
        b.take([arrived(a, one.frame, at) for at, one in enumerate(kept, start=1)])
    b.close()
    b = open_device(tmp_path / "b", BOB)
    # RESUME asks from the cursor on: between the inbox and what comes again, each message is once.
    again = [arrived(a, one.frame, at) for at, one in enumerate(kept, start=1)]
    b.take([one for one in again if one.position > b.cursor.position])
    assert [one.content for one in b.inbox()] == [b"first", b"second"][: len(kept)]
    a.close()
    b.close()


def test_a_settled_message_leaves_the_outbox_and_no_number_is_used_twice(
    tmp_path: Path, pair: tuple[Device, Device]
) -> None:
    a, b = pair
    a.seal([message(b, b"1"), message(b, b"2")])
    a.settle(b.wallet, 1)
    a.close()
    a = open_device(tmp_path / "a", ALICE)
    assert [kept.seq for kept in a.outbox()] == [2]
    a.settle(b.wallet, 2)
    assert a.seal([message(b, b"3")])[0].seq == 3
    a.close()
    a = open_device(tmp_path / "a", ALICE)
    assert [kept.seq for kept in a.outbox()] == [3]
    a.close()


def test_settled_messages_do_not_pile_up_on_the_disk(pair: tuple[Device, Device]) -> None:
    a, b = pair
    a.seal([message(b, b"%d" % n) for n in range(100)])
    for seq in range(1, 101):
        a.settle(b.wallet, seq)
    assert len(a._store.names(b"client/outbox/")) < 64


def test_frames_of_a_changed_identity_are_held_and_asked_for_after_acceptance(
    tmp_path: Path, pair: tuple[Device, Device]
) -> None:
    a, b = pair
    sealed = a.seal([message(b, b"before"), message(b, b"while unknown")])
    b.take([arrived(a, sealed[0].frame, 4)])
    b.accept(own_roster(replacement := open_device(tmp_path / "other", ALICE)))
    results = b.take([arrived(a, sealed[1].frame, 6)], passed=[6])
    assert [type(one) for one in results] == [IdentityChanged]
    assert b.cursor.position == 6
    b.close()
    b = open_device(tmp_path / "b", BOB)
    b.accept(own_roster(a))
    assert b.cursor.position == 5
    assert b.cursor.highest == 6
    b.take([arrived(a, sealed[1].frame, 6)])
    assert [one.content for one in b.inbox()] == [b"before", b"while unknown"]
    b.close()
    replacement.close()


@pytest.mark.parametrize("point", ["before the state", "after the state"])
def test_a_crash_while_a_changed_identity_is_accepted_loses_nothing_that_was_held(
    tmp_path: Path, pair: tuple[Device, Device], point: str
) -> None:
    """Who is accepted is asked for what was held, or waits to be accepted still."""
    a, b = pair
    sealed = a.seal([message(b, b"before"), message(b, b"while unknown")])
    b.take([arrived(a, sealed[0].frame, 4)])
    b.accept(own_roster(replacement := open_device(tmp_path / "other", ALICE)))
    b.take([arrived(a, sealed[1].frame, 6)], passed=[6])
    crash_at(b, point)
    with pytest.raises(Crash):
        b.accept(own_roster(a))
    b.close()
    b = open_device(tmp_path / "b", BOB)
    accepted = b.messenger.pinned(a.wallet) == own_roster(a).identity.id
    assert accepted == (point == "after the state")
    assert b.cursor.position == (5 if accepted else 6)
    b.close()
    replacement.close()


def test_a_false_position_does_not_make_the_device_miss_what_comes_before_it(
    pair: tuple[Device, Device],
) -> None:
    a, b = pair
    sealed = a.seal([message(b, b"1"), message(b, b"2")])
    b.take([arrived(a, sealed[0].frame, 4)])
    b.take([arrived(a, sealed[0].frame, 900)])  # shown again: refused
    assert b.cursor.position == 4
    b.take([arrived(a, sealed[1].frame, 900)])  # authentic, but its place is a lie
    b.ledger_ends_at(900)
    assert b.cursor.position == 900
    b.ledger_ends_at(5)
    assert b.cursor.position == 0


def test_an_empty_content_opens_a_session_and_is_no_message(pair: tuple[Device, Device]) -> None:
    a, b = pair
    (sealed,) = a.seal([message(b, b"")])
    (opened,) = b.take([arrived(a, sealed.frame, 1)])
    assert isinstance(opened, Received)
    assert b.inbox() == []


def test_a_rotation_is_due_weekly_and_one_whose_upload_failed_is_not_made_again(
    pair: tuple[Device, Device],
) -> None:
    _, b = pair
    now = 1e9
    assert 0 < b.rotation_due(now) <= ROTATION_SECONDS
    pending = [b.prekeys_pending]
    first = b.new_prekeys(1, now + ROTATION_SECONDS)
    pending.append(b.prekeys_pending)
    second = b.new_prekeys(1, now + ROTATION_SECONDS + 1)
    assert second.signed.id == first.signed.id
    assert second.last_resort.id == first.last_resort.id
    b.prekeys_published()
    pending.append(b.prekeys_pending)
    assert pending == [False, True, False]
    third = b.new_prekeys(1, now + 2 * ROTATION_SECONDS)
    assert third.signed.id > first.signed.id


@pytest.mark.parametrize("point", ["before the state", "after the state"])
def test_a_crash_while_making_prekeys_anew_leaves_a_device_that_can_make_them(
    tmp_path: Path, pair: tuple[Device, Device], point: str
) -> None:
    """Beginning again destroys the keys in force: what follows must not count on them."""
    a, _ = pair
    highest = a.new_prekeys(1, 1e9).one_time_kem[-1].id
    a.distrust()
    a.begin_again()
    crash_at(a, point)
    with pytest.raises(Crash):
        a.new_prekeys(1, 1e9 + 1)
    a.close()
    a = open_device(tmp_path / "a", ALICE)
    assert a.prekeys_pending
    made = a.new_prekeys(1, 1e9 + 2)
    made.verify(a.certificate)
    assert min(made.signed.id, made.last_resort.id) > highest
    a.close()


def test_what_is_settled_leaves_the_disk_though_nothing_that_came_was_kept(
    tmp_path: Path, pair: tuple[Device, Device]
) -> None:
    a, b = pair
    (sealed,) = a.seal([message(b, b"1")])
    a.settle(b.wallet, 1)
    (refused,) = a.take([arrived(a, sealed.frame, 1)])
    assert isinstance(refused, CryptoError)
    a.close()
    a = open_device(tmp_path / "a", ALICE)
    assert a.outbox() == []
    a.close()


# -- whose it is ------------------------------------------------------------------------------


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with open_device(tmp_path / "a"), pytest.raises(StorageError, match="another process"):
        open_device(tmp_path / "a")
    open_device(tmp_path / "a").close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"wallet": BOB}, NotCertified),
        ({"unlock": bytes(32)}, StateUnreadable),
        ({"unlock": "a passphrase"}, StateUnreadable),
        ({"unlock": b"short"}, StorageError),
    ],
)
def test_another_wallet_or_key_opens_nothing_and_changes_nothing(
    tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with open_device(tmp_path / "a") as device:
        mine = device.certificate.id
    with pytest.raises(error):
        open_device(tmp_path / "a", **options)
    with open_device(tmp_path / "a") as device:
        assert device.certificate.id == mine


def test_a_passphrase_opens_what_it_closed_and_no_other_does(tmp_path: Path) -> None:
    open_device(tmp_path / "a", unlock="correct horse").close()
    open_device(tmp_path / "a", unlock="correct horse").close()
    with pytest.raises(StateUnreadable):
        open_device(tmp_path / "a", unlock="correct horsf")


def test_a_passphrase_is_stretched_with_the_states_own_salt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    scrypt = hashlib.scrypt

    def watched(password: bytes, **cost: Any) -> bytes:
        asked.append(cost)
        return scrypt(password, **cost)

    monkeypatch.setattr(hashlib, "scrypt", watched)
    for name in "ab":
        open_device(tmp_path / name, unlock="correct horse").close()
    salts = [(tmp_path / name / "id").read_bytes() for name in "ab"]
    assert [one["salt"] for one in asked] == salts
    assert salts[0] != salts[1]
    assert all(one["n"] * one["r"] * 128 >= 128 << 20 for one in asked), "bytes of memory"


def test_a_state_with_a_damaged_salt_says_so(tmp_path: Path) -> None:
    open_device(tmp_path / "a").close()
    path = tmp_path / "a" / "id"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match="damaged"):
        open_device(tmp_path / "a")


def test_a_states_names_and_its_salt_are_on_the_disk_before_anything_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may take what is not synced: without ``id``, a passphrase opens nothing."""
    folder = tmp_path / "a"
    names: list[str] = []
    contents: list[bytes] = []
    sync = os.fsync

    def fsync(file: int) -> None:
        sync(file)
        if os.path.samestat(os.fstat(file), folder.stat()):
            names[:] = os.listdir(folder)
        elif stat.S_ISREG(os.fstat(file).st_mode):
            contents.append((folder / "id.new").read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        StateFolder(folder, KEY, tmp_path / "witness").close()
    assert sorted(names) == ["id", "state.0", "state.1", "state.lock"]
    assert contents == [(folder / "id").read_bytes()]


def test_the_files_are_their_owners_alone_and_hold_no_secret(
    tmp_path: Path, pair: tuple[Device, Device]
) -> None:
    a, b = pair
    (sealed,) = a.seal([message(b, b"a canary in the outbox")])
    b.take([arrived(a, sealed.frame, 1)])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 10
    held = a._identity()
    assert held is not None
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, path
        data = path.read_bytes()
        assert not any(one in data for one in (b"a canary in the outbox", held[0].seed, KEY))


def test_a_folder_that_cannot_be_used_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be opened"):
        open_device(tmp_path / "file" / "below")
    open_device(tmp_path / "a").close()
    (tmp_path / "a" / "id").write_bytes(b"x")
    with pytest.raises(StorageError, match="damaged"):
        open_device(tmp_path / "a")


def test_an_identity_begun_before_a_crash_is_the_one_that_is_gone_on_with(tmp_path: Path) -> None:
    """Statement and certificate are two signatures of a person: the first is asked for once."""

    class Leaves:
        wallet = ALICE.wallet
        asked: tuple[str, ...] = ()

        def sign(self, text: str) -> bytes:
            self.asked += (text.splitlines()[1],)
            if len(self.asked) == 2:
                raise Crash
            return ALICE.sign(text)

    person = Leaves()
    folder, witness = tmp_path / "a", tmp_path / "witness"
    with pytest.raises(Crash):
        Device.open(folder, person, KEY, witness=witness)
    Device.open(folder, person, KEY, witness=witness).close()
    assert [text.rsplit("/", 1)[1] for text in person.asked] == [
        "identity",
        "device-certificate",
        "device-certificate",
    ]


# -- an old copy ------------------------------------------------------------------------------


def copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def test_a_restored_backup_cannot_send_and_can_begin_again(
    tmp_path: Path, pair: tuple[Device, Device]
) -> None:
    """A10: the witness is not in the backup."""
    a, b = pair
    copy(tmp_path / "a", tmp_path / "backup")
    a.seal([message(b, b"after the backup")])
    a.close()
    copy(tmp_path / "backup", tmp_path / "a")
    a = open_device(tmp_path / "a", ALICE)
    assert a.rolled_back
    with pytest.raises(StateRolledBack):
        a.seal([message(b, b"under a key that was used")])
    a.begin_again()
    assert a.outbox() == []
    assert a.messenger.missing_sessions([own_roster(b)])
    assert a.prekeys_pending
    with pytest.raises(Refused):
        a.begin_again()
    a.close()


def test_a_state_restored_with_its_witness_is_distrusted_for_good_once_the_server_tells(
    tmp_path: Path, pair: tuple[Device, Device]
) -> None:
    a, b = pair
    for name in ("a", "a witness"):
        copy(tmp_path / name, tmp_path / f"backup of {name}")
    a.seal([message(b, b"after the backup")])
    a.close()
    for name in ("a", "a witness"):
        copy(tmp_path / f"backup of {name}", tmp_path / name)
    a = open_device(tmp_path / "a", ALICE)
    assert not a.rolled_back, "nothing here can tell it from the newest"
    a.distrust()
    a.close()
    a = open_device(tmp_path / "a", ALICE)
    assert a.rolled_back
    with pytest.raises(StateRolledBack):
        a.seal([message(b, b"no")])
    a.begin_again()
    a.close()


def test_no_two_writes_of_a_state_and_its_restored_twin_share_a_key_and_nonce(
    tmp_path: Path, pair: tuple[Device, Device]
) -> None:
    """A10: even a twin that nothing can tell apart repeats no nonce and no ciphertext."""
    a, b = pair
    for name in ("a", "a witness"):
        copy(tmp_path / name, tmp_path / f"twin{name[1:]}")
    twin = open_device(tmp_path / "twin", ALICE)
    frames = [device.seal([message(b, b"the same")])[0].frame for device in (a, twin)]
    parsed = [arrived(a, frame, 1).frame for frame in frames]
    assert parsed[0].nonce != parsed[1].nonce
    assert parsed[0].ciphertext != parsed[1].ciphertext
    nonces = set()
    for name in ("a", "twin"):  # of the states themselves: version, nonce, and what is sealed
        slots = Slots(tmp_path / name / "state")
        nonces.add((slots.read() or b"")[1:13])
        slots.close()
    assert len(nonces) == 2
    twin.close()


# -- a further device -------------------------------------------------------------------------


def enrolment(folder: Path, wallet: WalletKey = ALICE) -> Enrolment:
    return Enrolment(folder, wallet.wallet, KEY, witness=folder.with_name(folder.name + " witness"))


def test_a_further_device_is_one_of_the_wallets_and_survives_a_restart_half_way(
    tmp_path: Path,
) -> None:
    with open_device(tmp_path / "first") as first:
        before = enrolment(tmp_path / "second")
        request = before.request
        before.close()
        pending = enrolment(tmp_path / "second")
        assert pending.request == request
        second = pending.finish(first.endorse(request), ALICE)
        assert first.identity is not None
        both = roster.verify(first.identity, [first.certificate, second.certificate])
        assert [one.device for one in both.active] == [first.id, second.id]
        assert second.identity is None
        with pytest.raises(Refused, match="identity's key"):
            second.endorse(request)
        second.close()
        with open_device(tmp_path / "second") as again:
            assert again.certificate.id == second.certificate.id
        with pytest.raises(Refused, match="already"):
            enrolment(tmp_path / "second")


def test_every_device_has_an_id_of_its_own(tmp_path: Path) -> None:
    """C30: a device that was lost has streams under its old id, which would refuse a new one."""
    devices = [open_device(tmp_path / name) for name in ("first", "reset")]
    pending = [enrolment(tmp_path / name) for name in ("second", "third")]
    devices += [one.finish(devices[0].endorse(one.request), ALICE) for one in pending]
    assert len({device.id for device in devices}) == 4
    for device in devices:
        device.close()


def test_an_unfinished_enrolment_makes_no_identity(tmp_path: Path) -> None:
    enrolment(tmp_path / "a").close()
    with pytest.raises(Refused, match="not finished"):
        open_device(tmp_path / "a")


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


def _cut(data: bytes) -> bytes:
    return data[:-1]


def _longer(data: bytes) -> bytes:
    return data + b"\0"


@pytest.mark.parametrize(
    ("spoil", "error"), [(_flipped, CryptoError), (_cut, DecodeError), (_longer, DecodeError)]
)
def test_a_spoilt_request_or_endorsement_enrols_nothing(
    tmp_path: Path, spoil: Callable[[bytes], bytes], error: type[Exception]
) -> None:
    with open_device(tmp_path / "first") as first:
        pending = enrolment(tmp_path / "second")
        honest = first.endorse(pending.request)
        with pytest.raises(error):
            pending.finish(spoil(honest), ALICE)
        with pytest.raises(error):
            pending.finish(first.endorse(spoil(pending.request)), ALICE)
        pending.finish(honest, ALICE).close()


def test_a_device_of_another_wallet_is_neither_endorsed_nor_finished(tmp_path: Path) -> None:
    with open_device(tmp_path / "a", ALICE) as alice, open_device(tmp_path / "b", BOB) as bob:
        pending = enrolment(tmp_path / "second", ALICE)
        with pytest.raises(NotCertified):
            bob.endorse(pending.request)
        honest = alice.endorse(pending.request)
        with pytest.raises(NotCertified):
            pending.finish(honest, BOB)

        class Liar:
            wallet = ALICE.wallet

            def sign(self, text: str) -> bytes:
                return BOB.sign(text)

        with pytest.raises(BadWalletSignature):
            pending.finish(honest, Liar())
        pending.close()


def test_values_do_not_show_what_they_hold(pair: tuple[Device, Device]) -> None:
    a, b = pair
    (sealed,) = a.seal([message(b, b"a canary")])
    (opened,) = b.take([arrived(a, sealed.frame, 1)])
    assert isinstance(opened, Received)
    shown = repr((opened, a, replace(opened, content=b"a canary")))
    assert "canary" not in shown
    assert secrets.compare_digest(repr(a), f"<Device {a.id} of {a.wallet}>")


def test_a_state_folder_is_below_the_users_state_home_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state home"))
    for name in "ab":
        StateFolder(tmp_path / name, KEY).close()
    witnesses = list((tmp_path / "state home" / "atlas-secure-chat").iterdir())
    assert len(witnesses) == 2, "no two states share one"
    for witness in witnesses:
        assert sorted(os.listdir(witness)) == ["generation.0", "generation.1"]
    assert sorted(os.listdir(tmp_path / "a")) == ["id", "state.0", "state.1", "state.lock"]
