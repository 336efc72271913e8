"""One device of one wallet: its identity, its messenger, and what a crash must not lose of both.

Everything is one sealed state (``crypto.store``), so a message's ratchet step and the message
itself are on the disk together or not at all: what was sealed is in the outbox until the server has
decided on it, what was opened is in the inbox until it was handled. Nothing here speaks to a
server; ``registration.py`` publishes, ``chat.py`` sends and receives.
"""

from __future__ import annotations

import logging
import os
import secrets
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Protocol, Self

import msgspec

from plugins.secure_chat.client.cursor import Cursor
from plugins.secure_chat.client.state import StateFolder, Unlock
from plugins.secure_chat.core.envelope import ChatMessage
from plugins.secure_chat.crypto import devices, identity, labels, primitives, roster
from plugins.secure_chat.crypto.codec import Reader, identifier, u64
from plugins.secure_chat.crypto.devices import (
    Certificate,
    DeviceKeys,
    Revocation,
    revocation_body,
)
from plugins.secure_chat.crypto.endorsement import Answer, Request
from plugins.secure_chat.crypto.errors import (
    CryptoError,
    DecryptError,
    IdentityChanged,
    NotCertified,
    Refused,
    StorageError,
)
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.identity import (
    NO_PREVIOUS,
    Identity,
    IdentityBody,
    PostQuantumKey,
    Succession,
)
from plugins.secure_chat.crypto.messenger import OWN, Changes, Message, Messenger, Opened
from plugins.secure_chat.crypto.prekeys import MAX_ONE_TIME, Publication
from plugins.secure_chat.crypto.roster import Roster
from plugins.secure_chat.crypto.streams import Continuity

log: Final = logging.getLogger(__name__)

ROTATION_SECONDS: Final = 7 * 86_400  # of the signed and last-resort prekeys

_IDENTITY: Final = OWN + b"identity"
_CERTIFICATE: Final = OWN + b"certificate"
_KEYS: Final = OWN + b"keys"
_RESET: Final = OWN + b"reset"
_REPLACED: Final = OWN + b"replaced"
_CURSOR: Final = OWN + b"cursor"
_PREKEYS: Final = OWN + b"prekeys"
_OUTBOX: Final = OWN + b"outbox/"
_INBOX: Final = OWN + b"inbox/"
_HELD: Final = OWN + b"held/"
_ROTATED: Final = OWN + b"rotated/"
_MAX_SETTLED: Final = 64  # a commit writes the whole state: what is done with must not pile up


class Signer(Protocol):
    """A wallet that can sign a text by EIP-191: ``WalletKey``, or a bridge to a person's wallet."""

    @property
    def wallet(self) -> str: ...

    def sign(self, text: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Received:
    """An authentic message. ``position`` is its place in the ledger, ``ts`` the sender's clock.

    ``sender`` is one's own wallet when another of its devices sent it. ``recipient`` is one's own
    wallet, the peer's, or a thread. A ``continuity`` of GAP must be shown: something of this sender
    is missing here.
    """

    sender: str
    device: str
    recipient: str
    seq: int
    position: int
    timestamp: str
    ts: float
    content: bytes = field(repr=False)
    cids: tuple[str, ...]
    continuity: Continuity


@dataclass(frozen=True, slots=True)
class Arrived:
    """A delivered frame, where the ledger has it, and its sender's roster."""

    frame: Frame
    position: int
    timestamp: str
    roster: Roster


@dataclass(frozen=True, slots=True)
class Unacknowledged:
    """A frame that goes out, in the same bytes, until the server has decided on it."""

    recipient: str
    seq: int
    hash: str
    frame: bytes


class Device:
    """The open device. Close it after the client that uses it."""

    def __init__(self, state: StateFolder) -> None:
        """The device whose state this is; see ``open`` and ``Enrolment`` for how one is made."""
        self._state: Final = state
        self._store: Final = state.store
        self.messenger: Final = Messenger(state.store, os.urandom)
        self.certificate = Certificate.decode(self._store.get(_CERTIFICATE) or b"")
        data = self._store.get(_CURSOR)
        self.cursor = Cursor.decode(data) if data is not None else Cursor()
        self._settled: Final[dict[bytes, bytes | None]] = {}

    @classmethod
    def open(
        cls,
        folder: Path,
        signer: Signer,
        unlock: Unlock,
        *,
        witness: Path | None = None,
        reset: bool = False,
    ) -> Self:
        """Open the device in ``folder``; in an empty one, make a new identity and its first device.

        ``reset`` allows a new identity to take the place of one that the wallet has published: all
        its devices are then without, and everyone it writes with is asked to compare the safety
        number anew. Raises StateUnreadable, StorageError, NotCertified (another wallet's device).
        """
        state = StateFolder(folder, unlock, witness)
        try:
            if state.store.get(_CERTIFICATE) is None:
                _begin(state, signer, reset=reset)
            device = cls(state)
            if device.wallet != signer.wallet:
                raise NotCertified("the state is of another wallet's device")
        except BaseException:
            state.close()
            raise
        return device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the state."""
        try:
            if self._settled and not self._store.rolled_back:
                self._commit({})
        except (StorageError, OSError) as error:
            # It costs one more sending of the same bytes, and the server knows them.
            log.warning("device.outbox_not_cleared error=%s", type(error).__name__)
        finally:
            self._state.close()

    def __repr__(self) -> str:
        return f"<Device {self.id} of {self.wallet}>"

    @property
    def wallet(self) -> str:
        return self.messenger.wallet

    @property
    def id(self) -> str:
        """The frame's ``device``."""
        return self.messenger.device

    # -- the identity, on the device that began it ------------------------------------------------

    @property
    def identity(self) -> Identity | None:
        """The statement, where its post-quantum key is: on the device that made it."""
        held = self._identity()
        return held[1] if held is not None else None

    @property
    def resets(self) -> bool:
        """Whether its identity may take the place of another one when it is published."""
        return self._store.get(_RESET) is not None

    @property
    def replaced(self) -> Identity | None:
        """The statement before this identity's, until the directory has the new certificate."""
        data = self._store.get(_REPLACED)
        return Identity.decode(data) if data is not None else None

    def rotate(self, signer: Signer) -> None:
        """Give the wallet a new identity key, which the old one vouches for; this device stays.

        The wallet signs twice, and then all changes in one commit: before it the old identity is in
        use, after it the new one, and the next start publishes that (``ChatClient.rotate`` does it
        at once). The wallet's other devices are left behind until this one endorses them again
        (``request``, ``endorse``, ``renew``); everyone the wallet writes with is shown that the
        safety number is another. Raises Refused on a device without the identity's key, before
        the last rotation is published, and while messages are not acknowledged: they are sealed
        under the old certificate.
        """
        key, statement = self._own_identity()
        if self.replaced is not None:
            raise Refused("the rotation before this one is not published yet")
        if any(name not in self._settled for name in self._store.names(_OUTBOX)):
            raise Refused("messages wait for the server: rotate when it has them")
        fresh = PostQuantumKey(os.urandom(32))
        generation = statement.body.generation + 1
        body = IdentityBody(self.wallet, generation, statement.id, fresh.public)
        successor = identity.vouch(body, signer.sign(body.text), fresh, key)
        described = self.messenger.describe(successor)
        certificate = Certificate(
            described,
            signer.sign(described.text),
            fresh.sign(labels.DEVICE_CERTIFICATE, described.encoded),
            *self.messenger.prove(described),
        )
        self._recertify(
            roster.verify(successor, [certificate]),
            certificate,
            {_IDENTITY: fresh.seed + successor.encode(), _REPLACED: statement.encode()},
        )

    @property
    def request(self) -> bytes:
        """For the device that has made the wallet's new identity: it is to ``endorse`` this one."""
        mine = self.certificate.body
        keys = (mine.signing, mine.agreement, mine.post_quantum)
        return Request(self.wallet, self.id, *keys).encode()

    def renew(self, endorsement: bytes, signer: Signer) -> None:
        """Go on as a device of the identity that the wallet has now, with the same keys.

        ``endorsement`` answers ``request``. Raises DecodeError or VerificationError, and Refused
        for the identity that this device is of; then nothing has changed.
        """
        word = _answer(endorsement, signer, self.wallet)
        if word.statement.id == self.certificate.body.identity:
            raise Refused("the device is of this identity already")
        body = self.messenger.describe(word.statement, word.endorser.id)
        proof = self.messenger.prove(body)
        certificate, known = word.certified(body, signer.sign(body.text), proof)
        # The key of an identity that is no longer the wallet's has nothing to say.
        own: Changes = {_IDENTITY: None, _RESET: None, _REPLACED: None}
        self._recertify(known, certificate, own)

    def _recertify(self, known: Roster, certificate: Certificate, own: Changes) -> None:
        new: Changes = {_CERTIFICATE: certificate.encode(), _PREKEYS: None}
        self.messenger.recertify(known, {**self._settled, **own, **new})
        # crash point: of the new identity, and not published; the next start goes on there
        self._settled.clear()
        self.certificate = certificate

    def published(self, position: int) -> None:
        """The certificate is in the ledger at ``position``; nothing before that is for it."""
        done = (name for name in (_RESET, _REPLACED) if self._store.get(name) is not None)
        changes: dict[bytes, bytes | None] = dict.fromkeys(done)
        if self.cursor == Cursor():
            self.cursor = Cursor().taken([position])
            changes[_CURSOR] = self.cursor.encode()
        if changes:
            self._store.commit(changes)

    def endorse(self, request: bytes) -> bytes:
        """This identity's word for the further device that made ``request`` (``Enrolment``).

        The caller must know that the request comes from the person's own device: whoever gets a
        device endorsed, and has the wallet sign, reads what the wallet gets from then on. Raises
        DecodeError, NotCertified, or Refused where the identity's key is not.
        """
        key, statement = self._own_identity()
        body = Request.decode(request).body(statement, self.certificate)
        signature = key.sign(labels.DEVICE_CERTIFICATE, body.encoded)
        endorsement = self.messenger.endorse(body)
        return Answer(statement, self.certificate, signature, endorsement).encode()

    def revocation(self, certificate: Certificate, signer: Signer) -> Revocation:
        """The statement that ``certificate`` of this identity no longer counts. Raises Refused."""
        key, _ = self._own_identity()
        signature = signer.sign(revocation_body(certificate).text)
        return devices.revoke(certificate, signature, key)

    def _own_identity(self) -> tuple[PostQuantumKey, Identity]:
        held = self._identity()
        if held is None:
            raise Refused("the identity's key is on the device that made it, not on this one")
        return held

    def _identity(self) -> tuple[PostQuantumKey, Identity] | None:
        data = self._store.get(_IDENTITY)
        return _read_identity(data) if data is not None else None

    # -- prekeys --------------------------------------------------------------------------------

    def rotation_due(self, now: float) -> float:
        """Seconds until the signed prekeys are to be replaced; 0 when it is time."""
        data = self._store.get(_PREKEYS)
        rotated = int.from_bytes(data[:8], "big") if data is not None else 0
        return max(0.0, rotated + ROTATION_SECONDS - now)

    @property
    def prekeys_pending(self) -> bool:
        """Whether prekeys were made that the server may not have."""
        data = self._store.get(_PREKEYS)
        return data is None or data[8:] != b"\x01"

    def new_prekeys(self, one_time: int, now: float) -> Publication:
        """Prekeys to publish; say ``prekeys_published`` when the server has them.

        A rotation whose upload failed is published again, and not made again: the keys before it,
        which others may still be given, would be destroyed.
        """
        rotate = self.rotation_due(now) == 0
        data = self._store.get(_PREKEYS)
        rotated = u64(int(now)) if rotate or data is None else data[:8]
        # One commit: after ``begin_again`` no keys are in force, and only a rotation makes them.
        own = {_PREKEYS: rotated + b"\x00"}
        return self.messenger.publish_prekeys(min(one_time, MAX_ONE_TIME), rotate=rotate, own=own)

    def prekeys_published(self) -> None:
        data = self._store.get(_PREKEYS) or u64(0)
        self._store.commit({_PREKEYS: data[:8] + b"\x01"})

    # -- sending --------------------------------------------------------------------------------

    def outbox(self) -> list[Unacknowledged]:
        """What the server has not decided on, in the order in which it must go out."""
        found = []
        for name in sorted(self._store.names(_OUTBOX)):
            frame = self._store.get(name) or b""
            parsed = msgspec.json.decode(frame, type=ChatMessage)
            found.append(Unacknowledged(parsed.recipient, parsed.seq, parsed.hash, frame))
        return found

    def seal(self, messages: Sequence[Message]) -> list[Unacknowledged]:
        """Seal in order, all or none. On return they are in the outbox, on the disk.

        Raises NoSession, IdentityChanged, ContentTooLarge, StateRolledBack.
        """
        found: list[Unacknowledged] = []

        def keep(frames: Sequence[Frame]) -> Changes:
            found.extend(
                Unacknowledged(
                    one.recipient,
                    one.seq,
                    b64encode(one.hash).decode(),
                    msgspec.json.encode(one.to_wire()),
                )
                for one in frames
            )
            fresh = {_outbox_name(one.recipient, one.seq): one.frame for one in found}
            return {**self._settled, **fresh}

        self.messenger.seal_many(messages, keep)
        self._settled.clear()
        return found

    def settle(self, recipient: str, seq: int) -> None:
        """The server has it in the ledger, or has refused it for good.

        It leaves the disk with a later commit. A crash before that sends it once more, in the same
        bytes, and the server says the same again.
        """
        self._settled[_outbox_name(recipient, seq)] = None
        if len(self._settled) >= _MAX_SETTLED:
            self._commit({})

    def _commit(self, changes: Changes) -> None:
        self._store.commit({**self._settled, **changes})
        self._settled.clear()

    # -- receiving ------------------------------------------------------------------------------

    def inbox(self) -> list[Received]:
        """What was opened and not handled, in ledger order."""
        names = sorted(self._store.names(_INBOX))
        return [
            msgspec.msgpack.decode(self._store.get(name) or b"", type=Received) for name in names
        ]

    def take(
        self,
        arrived: Sequence[Arrived],
        passed: Collection[int] = (),
        *,
        held: Mapping[str, int] = MappingProxyType({}),
        waiting: int | None = None,
        complete: bool = True,
        again: bool = False,
    ) -> list[Received | CryptoError]:
        """Open ``arrived`` in order and put it into the inbox, with one commit.

        ``passed``: positions up to which all has come. ``held``: wallets whose frames, from a
        position on, can open only once a person has accepted their identity (``accept``).
        ``waiting`` and ``complete`` are as in ``Cursor.taken``. ``again``: what does not decrypt is
        taken once more, by another call; until then the cursor stays before it. Each result is what
        is now in the inbox, or why it is not. Raises StateRolledBack and StorageError.
        """
        results: list[Received | CryptoError] = []
        before = self.cursor
        cleared = False

        def keep(opened: Sequence[Opened | CryptoError]) -> Changes:
            nonlocal cleared
            changes: dict[bytes, bytes | None] = {}
            since = dict(held)
            rest = [waiting] if waiting is not None else []
            for one, result in zip(arrived, opened, strict=True):
                if isinstance(result, CryptoError):
                    results.append(result)
                    if isinstance(result, IdentityChanged):
                        since.setdefault(one.frame.sender, one.position)
                    if again and isinstance(result, DecryptError):
                        rest.append(one.position)
                    continue
                results.append(_received(one, result))
                if result.content:
                    kept = msgspec.msgpack.encode(results[-1])
                    changes[_INBOX + u64(one.position)] = kept
            for wallet, position in since.items():
                if self._store.get(_held_name(wallet)) is None:
                    changes[_held_name(wallet)] = u64(position)
            # Only what was authentic moves the cursor: anyone can put a position on the rest.
            authentic = (isinstance(one, Received) for one in results)
            positions = [*passed, *(one.position for one in compress(arrived, authentic))]
            end = min(rest, default=None)
            self.cursor = before.taken(positions, waiting=end, complete=complete)
            if self.cursor != before:
                changes[_CURSOR] = self.cursor.encode()
            cleared = bool(changes)
            return {**self._settled, **changes} if changes else {}

        try:
            self.messenger.open_many(((one.frame, one.roster) for one in arrived), keep)
        except BaseException:
            self.cursor = before
            raise
        if cleared:
            self._settled.clear()
        return results

    def ledger_ends_at(self, position: int) -> None:
        """The server's ledger ends there. A cursor beyond it was moved by a lie, or the ledger was
        cut: everything is asked for again, and what was taken is not taken twice."""
        if self.cursor.position > position:
            cursor = self.cursor.back_to(0)
            self._commit({_CURSOR: cursor.encode()})
            self.cursor = cursor

    def handled(self, position: int) -> None:
        """This message was handed over and need not be given again."""
        self._commit({_INBOX + u64(position): None})

    def learn(self, roster: Roster, history: Sequence[Identity]) -> Succession:
        """``Messenger.learn``; that an identity was rotated is kept until ``accept``."""
        rotated = {_ROTATED + roster.wallet.encode(): b"\x01"}
        return self.messenger.learn(roster, history, rotated)

    def is_rotated(self, wallet: str) -> bool:
        """Whether nobody has said yet that the number of this wallet's new identity was seen."""
        return self._store.get(_ROTATED + wallet.encode()) is not None

    def accept(self, roster: Roster) -> None:
        """A person has compared the safety number of ``roster``'s identity: pin it, and have
        RESUME ask again for what was held of its wallet, with one commit."""
        changes: dict[bytes, bytes | None] = {_ROTATED + roster.wallet.encode(): None}
        cursor = self.cursor
        data = self._store.get(_held_name(roster.wallet))
        if data is not None:
            cursor = self.cursor.back_to(int.from_bytes(data, "big") - 1)
            changes |= {_held_name(roster.wallet): None, _CURSOR: cursor.encode()}
        self.messenger.accept(roster, {**self._settled, **changes})
        self._settled.clear()
        self.cursor = cursor

    # -- after an old backup ----------------------------------------------------------------------

    @property
    def rolled_back(self) -> bool:
        """Whether the state is not the newest one of this device: then it may not send."""
        return self._store.rolled_back

    def distrust(self) -> None:
        """The server has what this state does not know of: it is an old one, witness and all."""
        self._store.distrust()

    def begin_again(self) -> None:
        """Make a rolled-back state usable: every session, every prekey and the outbox go.

        What was sent and received since the backup is not known here; messages sealed for this
        device meanwhile do not open. Raises Refused when the state is the newest one.
        """
        if not self.rolled_back:
            raise Refused("the state is the newest one of this device")
        self.messenger.begin_again({**dict.fromkeys(self._store.names(_OUTBOX)), _PREKEYS: None})
        self._settled.clear()


class Enrolment:
    """A further device of a wallet, before an older one has endorsed it.

    Hand ``request`` to the device that made the identity, over a channel that no one else writes
    to; what it answers (``Device.endorse``) goes to ``finish``.
    """

    def __init__(
        self, folder: Path, wallet: str, unlock: Unlock, *, witness: Path | None = None
    ) -> None:
        """Draw the device's keys, or find them again after a restart. ``folder`` as for a Device.

        Raises Refused when there is a device in the folder.
        """
        self._state: Final = StateFolder(folder, unlock, witness)
        store = self._state.store
        try:
            if store.get(_CERTIFICATE) is not None:
                raise Refused("the folder holds a device already")
            data = store.get(_KEYS)
            if data is None:
                keys = DeviceKeys.generate(os.urandom)
                data = keys.signing + keys.agreement + keys.post_quantum
                data += identifier(secrets.token_hex(4))
                store.commit({_KEYS: data})
        except BaseException:
            self._state.close()
            raise
        reader = Reader(data)
        self._keys: Final = DeviceKeys(reader.take(32), reader.take(32), reader.take(32))
        self._device: Final = reader.identifier()
        self._wallet: Final = wallet

    def close(self) -> None:
        """Go on later: the keys stay in the folder."""
        self._state.close()

    @property
    def request(self) -> bytes:
        """The wallet, the device's id and its public keys. Not secret."""
        return self._request.encode()

    @property
    def _request(self) -> Request:
        return Request(self._wallet, self._device, *self._keys.public)

    def finish(self, endorsement: bytes, signer: Signer) -> Device:
        """The device, with the certificate that the endorsement and the wallet make whole.

        Raises DecodeError or VerificationError, and then nothing has changed.
        """
        word = _answer(endorsement, signer, self._wallet)
        body = self._request.body(word.statement, word.endorser)
        proof = self._keys.sign(labels.DEVICE_CERTIFICATE, body.encoded)
        certificate, known = word.certified(body, signer.sign(body.text), proof)
        _settle_in(self._state, self._keys, known, certificate)
        return Device(self._state)


def _answer(data: bytes, signer: Signer, wallet: str) -> Answer:
    """Raises DecodeError, or NotCertified when it is not for ``wallet``, or ``signer`` not."""
    answer = Answer.decode(data)
    if not answer.statement.wallet == signer.wallet == wallet:
        raise NotCertified("the answer is for another wallet's device")
    return answer


def _begin(state: StateFolder, signer: Signer, *, reset: bool) -> None:
    """A new identity and its first device. After a crash half way, the same identity again."""
    store = state.store
    if store.get(_KEYS) is not None:
        raise Refused("the folder holds an enrolment that is not finished")
    data = store.get(_IDENTITY)
    if data is None:
        key = PostQuantumKey(os.urandom(32))
        body = IdentityBody(signer.wallet, 0, NO_PREVIOUS, key.public)
        statement = identity.vouch(body, signer.sign(body.text), key)
        data = key.seed + statement.encode()
        store.commit({_IDENTITY: data, _RESET: b"\x01" if reset else None})
    key, statement = _read_identity(data)
    keys = DeviceKeys.generate(os.urandom)
    # A fresh id for each device: one that the wallet lost had streams of its own.
    described = devices.describe(statement, secrets.token_hex(4), keys)
    certificate = devices.certify(described, signer.sign(described.text), key, keys)
    _settle_in(state, keys, roster.verify(statement, [certificate]), certificate)


def _settle_in(
    state: StateFolder, keys: DeviceKeys, known: Roster, certificate: Certificate
) -> None:
    own: Changes = {_CERTIFICATE: certificate.encode(), _KEYS: None}
    Messenger.create(state.store, keys, known, certificate.device, os.urandom, own=own)


def _read_identity(data: bytes) -> tuple[PostQuantumKey, Identity]:
    return PostQuantumKey(data[: primitives.KEY]), Identity.decode(data[primitives.KEY :])


def _received(arrived: Arrived, opened: Opened) -> Received:
    return Received(
        opened.sender,
        opened.device,
        opened.recipient,
        opened.seq,
        arrived.position,
        arrived.timestamp,
        opened.ts,
        opened.content,
        opened.cids,
        opened.continuity,
    )


def _held_name(wallet: str) -> bytes:
    return _HELD + wallet.encode()


def _outbox_name(recipient: str, seq: int) -> bytes:
    return _OUTBOX + identifier(recipient) + u64(seq)
