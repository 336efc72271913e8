"""The messenger: one device of one wallet, all it remembers, and what it does with messages.

Whatever changes is committed to the store before a ciphertext or a content is returned, so a crash
at any point uses no key twice. Talking to the server, and showing things to people, is the
client's. What the caller must still do is said at each method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from plugins.secure_chat.core.envelope import MAX_CIPHERTEXT, MAX_SEQ
from plugins.secure_chat.crypto import envelope, labels, pqxdh, primitives
from plugins.secure_chat.crypto.codec import Reader, identifier, is_wallet, u16, u32, wallet_bytes
from plugins.secure_chat.crypto.devices import (
    NO_ENDORSER,
    Certificate,
    CertificateBody,
    DeviceKeys,
)
from plugins.secure_chat.crypto.envelope import ADDRESS, Envelope
from plugins.secure_chat.crypto.errors import (
    ContentTooLarge,
    CryptoError,
    DecryptError,
    DeviceRevoked,
    IdentityChanged,
    NoSession,
    NotAddressed,
    NotCertified,
    PostQuantumMissing,
    Reflected,
    Refused,
    StateUnreadable,
    UnknownSession,
)
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.identity import Identity, Succession, succession
from plugins.secure_chat.crypto.prekeys import (
    MAX_ONE_TIME,
    Bundle,
    Kind,
    PrekeySecret,
    Publication,
)
from plugins.secure_chat.crypto.primitives import Encapsulate, Randomness, labelled
from plugins.secure_chat.crypto.roster import MAX_CERTIFICATES, Roster
from plugins.secure_chat.crypto.session import Session, Sessions, Wrapped
from plugins.secure_chat.crypto.store import SessionStore
from plugins.secure_chat.crypto.streams import Continuity, Incoming, Outgoing

Changes = Mapping[bytes, bytes | None]
"""Records of the caller's own to last together with a change here; None deletes. Their names begin
with ``OWN``."""
OWN: Final = b"client/"

# Secrets of one-time prekeys kept, of each kind: five full publications. The oldest go first.
MAX_ONE_TIME_KEPT: Final = 5 * MAX_ONE_TIME


@dataclass(frozen=True, slots=True)
class Message:
    """One message to be sealed: see ``Messenger.seal``.

    ``without``: ids of certificates to leave out, of devices that have no prekeys to claim."""

    recipient: str
    rosters: Sequence[Roster]
    content: bytes = field(repr=False)
    ts: float
    cids: tuple[str, ...] = ()
    without: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Opened:
    """A message that passed every check. ``continuity`` must be shown when it is GAP."""

    content: bytes = field(repr=False)
    sender: str
    device: str
    recipient: str
    seq: int
    ts: float
    cids: tuple[str, ...]
    continuity: Continuity
    opened_session: bool


class _Work:
    """Changes on top of the store, seen by whoever reads through it, until they are committed."""

    def __init__(self, below: SessionStore | _Work) -> None:
        self._below = below
        self.changes: dict[bytes, bytes | None] = {}

    def get(self, name: bytes) -> bytes | None:
        if name in self.changes:
            return self.changes[name]
        return self._below.get(name)

    def put(self, name: bytes, value: bytes | None) -> None:
        self.changes[name] = value


@dataclass(frozen=True, slots=True)
class _Pin:
    """The identity that a wallet is known by, and its certificates known to be revoked."""

    identity: bytes
    revoked: frozenset[bytes]

    def encode(self) -> bytes:
        return self.identity + u16(len(self.revoked)) + b"".join(sorted(self.revoked))

    @classmethod
    def decode(cls, data: bytes) -> _Pin:
        reader = Reader(data)
        identity, count = reader.take(32), reader.u16()
        pin = cls(identity, frozenset(reader.take(32) for _ in range(count)))
        reader.end()
        return pin


@dataclass(frozen=True, slots=True)
class _Counters:
    """Ids of the prekeys in force, of those before them, and the next one to give out."""

    signed: int = 0
    last_resort: int = 0
    old_signed: int = 0
    old_last_resort: int = 0
    next: int = 1

    def encode(self) -> bytes:
        fields = (self.signed, self.last_resort, self.old_signed, self.old_last_resort, self.next)
        return b"".join(u32(number) for number in fields)

    @classmethod
    def decode(cls, data: bytes) -> _Counters:
        reader = Reader(data)
        counters = cls(*(reader.u32() for _ in range(5)))
        reader.end()
        return counters


_SELF: Final = b"self"
_FORMER: Final = b"former"  # the own certificate before this one
_SESSIONS: Final = b"session/"
_FORMER_SESSIONS: Final = b"former/"  # of the own certificate before this one: nothing is sealed
_ID: Final = 32  # of a certificate
_COUNTERS: Final = b"prekeys"
_FURTHEST: Final = 1 << 52  # no device sends so many messages to one recipient
_NUMBERS_PASSED: Final = 1 << 20  # more prekeys than a device makes between two backups


class Messenger:
    """Opens the device whose state is in ``store`` (see ``create`` for a new one)."""

    def __init__(
        self,
        store: SessionStore,
        randomness: Randomness,
        encapsulate: Encapsulate = primitives.encapsulate,
    ) -> None:
        data = store.get(_SELF)
        if data is None:
            raise StateUnreadable("the state holds no device")
        reader = Reader(data)
        self._keys = DeviceKeys(reader.take(32), reader.take(32), reader.take(32))
        self.certificate = CertificateBody.read(reader)
        reader.end()
        self._store = store
        self._randomness = randomness
        self._encapsulate = encapsulate

    @classmethod
    def create(
        cls,
        store: SessionStore,
        keys: DeviceKeys,
        roster: Roster,
        device: str,
        randomness: Randomness,
        encapsulate: Encapsulate = primitives.encapsulate,
        own: Changes = MappingProxyType({}),
    ) -> Messenger:
        """A new device: ``keys`` must be those of ``device`` in its own wallet's ``roster``.

        ``own``: records of the caller's to be kept with it.
        """
        body = _own_certificate(roster, device, keys)
        if store.get(_SELF) is not None:
            raise Refused("the store holds a device already")
        store.commit({**own, **_own_records(roster, body, keys)})
        return cls(store, randomness, encapsulate)

    def describe(self, statement: Identity, endorser: bytes = NO_ENDORSER) -> CertificateBody:
        """This device under another ``statement`` of its wallet; the wallet signs its ``text``."""
        return CertificateBody(
            statement.wallet, statement.id, self.device, *self._keys.public, endorser
        )

    def prove(self, body: CertificateBody) -> tuple[bytes, bytes]:
        """That this device has the keys of ``body``, one of its own (Ed25519, ML-DSA-65)."""
        if (body.signing, body.agreement, body.post_quantum) != self._keys.public:
            raise NotCertified("the certificate is of other keys")
        return self._keys.sign(labels.DEVICE_CERTIFICATE, body.encoded)

    def recertify(self, roster: Roster, own: Changes = MappingProxyType({})) -> None:
        """Go on under a new certificate of the same device and keys: the own identity has rotated.

        Nothing is sealed any more in the sessions of the certificate before, and those of the one
        before that are gone; they open what others sealed before they knew (C34). ``own``: records
        of the caller's that change with it. The caller must then publish prekeys with ``rotate``.
        """
        if roster.wallet != self.wallet:
            raise NotCertified("the roster is of another wallet")
        body = _own_certificate(roster, self.device, self._keys)
        if body == self.certificate:
            raise Refused("the device goes by this certificate already")
        changes: dict[bytes, bytes | None] = dict.fromkeys(self._store.names(_FORMER_SESSIONS))
        for name in self._store.names(_SESSIONS):
            changes[name] = None
            changes[_FORMER_SESSIONS + name.removeprefix(_SESSIONS)] = self._store.get(name)
        changes[_FORMER] = self.certificate.encoded
        self._store.commit({**own, **changes, **_own_records(roster, body, self._keys)})
        self.certificate = body

    def __repr__(self) -> str:
        return f"<Messenger of device {self.device}>"

    @property
    def wallet(self) -> str:
        return self.certificate.wallet

    @property
    def device(self) -> str:
        return self.certificate.device

    # Who: identities are pinned at first sight, and a reset one must be accepted by a person.

    def learn(
        self,
        roster: Roster,
        history: Sequence[Identity] = (),
        rotated: Changes = MappingProxyType({}),
    ) -> Succession:
        """Compare a verified roster with what is pinned, and pin it unless it is a RESET.

        ``history``: the statements between the pinned identity and this one, both included, when
        there were rotations meanwhile. On RESET nothing is sent to the wallet until ``accept``: the
        caller must show the new safety number. It must show that of a ROTATED one too, once:
        ``rotated`` are records of the caller's to be kept with such a pin.
        """
        pin = self._pin(self._store, roster.wallet)
        if pin is None:
            how = Succession.FIRST
        elif pin.identity == roster.identity.id:
            how = Succession.SAME
        else:
            how = _follow(pin.identity, [*history, roster.identity])
        if how is not Succession.RESET:
            revoked = roster.revoked
            if pin is not None and how is Succession.SAME:
                revoked |= pin.revoked
            new = _Pin(roster.identity.id, revoked)
            if new != pin:
                own = rotated if how is Succession.ROTATED else {}
                self._store.commit({**own, _pin_name(roster.wallet): new.encode()})
        return how

    def accept(self, roster: Roster, own: Changes = MappingProxyType({})) -> None:
        """Pin ``roster`` because a person has compared its safety number.

        ``own``: records of the caller's that change with it.
        """
        known, revoked = self._pin(self._store, roster.wallet), roster.revoked
        if known is not None and known.identity == roster.identity.id:
            revoked |= known.revoked
        pin = _Pin(roster.identity.id, revoked)
        self._store.commit({**own, _pin_name(roster.wallet): pin.encode()})

    def active(self, roster: Roster) -> tuple[Certificate, ...]:
        """The devices that would be encrypted to. Raises IdentityChanged when not pinned so."""
        pin = self._pin(self._store, roster.wallet)
        if pin is None or pin.identity != roster.identity.id:
            raise IdentityChanged("the wallet is not known by this identity")
        return tuple(one for one in roster.active if one.id not in pin.revoked)

    def pinned(self, wallet: str) -> bytes | None:
        """The id of the identity that ``wallet`` is known by here."""
        pin = self._pin(self._store, wallet)
        return pin.identity if pin is not None else None

    def endorse(self, body: CertificateBody) -> tuple[bytes, bytes]:
        """This device's word for a further device of its identity (Ed25519, ML-DSA-65).

        The caller must know that ``body`` holds the keys of the person's own device.
        """
        mine = self.certificate
        if (body.wallet, body.identity, body.endorser) != (mine.wallet, mine.identity, mine.id):
            raise Refused("a device endorses devices of its own identity, by its own certificate")
        return self._keys.sign(labels.DEVICE_CERTIFICATE, body.encoded)

    def _pin(self, state: SessionStore | _Work, wallet: str) -> _Pin | None:
        data = state.get(_pin_name(wallet))
        return _Pin.decode(data) if data is not None else None

    # Prekeys: what others need to open a session with this device while it is away.

    def publish_prekeys(
        self,
        one_time: int = MAX_ONE_TIME,
        *,
        rotate: bool = False,
        own: Changes = MappingProxyType({}),
    ) -> Publication:
        """New one-time prekeys (so many of each kind) and the signed ones, new when ``rotate``.

        The secrets are kept before this returns, and ``own``, records of the caller's, with them.
        The signed and last-resort prekeys before the current ones stay valid until the next
        rotation; the caller should rotate weekly.
        """
        if not 0 <= one_time <= MAX_ONE_TIME:
            raise Refused(f"at most {MAX_ONE_TIME} one-time prekeys of a kind")
        work = _Work(self._store)
        data = work.get(_COUNTERS)
        counters = _Counters.decode(data) if data is not None else _Counters()
        number = counters.next
        made: list[PrekeySecret] = []
        kinds = [Kind.ONE_TIME, Kind.ONE_TIME_KEM] * one_time
        if rotate or data is None:
            kinds = [Kind.SIGNED, Kind.LAST_RESORT_KEM, *kinds]
            work.put(_prekey_name(Kind.SIGNED, counters.old_signed), None)
            work.put(_prekey_name(Kind.LAST_RESORT_KEM, counters.old_last_resort), None)
            counters = _Counters(number, number + 1, counters.signed, counters.last_resort)
        for kind in kinds:
            made.append(PrekeySecret.generate(kind, number, self._randomness))
            work.put(_prekey_name(kind, number), made[-1].secret)
            number += 1
        counters = replace(counters, next=number)
        work.put(_COUNTERS, counters.encode())
        for kind in (Kind.ONE_TIME, Kind.ONE_TIME_KEM):
            kept = sorted(self._store.names(_prekey_prefix(kind)))
            for name in kept[: max(0, len(kept) + one_time - MAX_ONE_TIME_KEPT)]:
                work.put(name, None)
        self._store.commit({**own, **work.changes})
        certificate = self.certificate.id
        published = [one.publish(self._keys, certificate) for one in made]
        return Publication(
            certificate,
            self._secret(self._store, Kind.SIGNED, counters.signed).publish(
                self._keys, certificate
            ),
            self._secret(self._store, Kind.LAST_RESORT_KEM, counters.last_resort).publish(
                self._keys, certificate
            ),
            tuple(one for one in published if one.kind is Kind.ONE_TIME),
            tuple(one for one in published if one.kind is Kind.ONE_TIME_KEM),
        )

    def _secret(self, state: SessionStore | _Work, kind: Kind, number: int) -> PrekeySecret:
        found = _find_secret(state, kind, number)
        if found is None:
            raise StateUnreadable("a prekey in force is not in the state")
        return found

    # Sessions.

    def missing_sessions(self, rosters: Iterable[Roster]) -> tuple[Certificate, ...]:
        """The devices of ``rosters`` whose bundle must be claimed before ``seal``."""
        devices = self._addressees(rosters)
        return tuple(one for one in devices if not self._sessions(self._store, one.id).ranked)

    def establish(self, roster: Roster, bundle: Bundle, now: int) -> None:
        """Open a session with the device that ``bundle`` belongs to; ``now``: milliseconds.

        Called again it resets: the new session is sent on, the old ones still receive. Raises
        VerificationError; IdentityChanged when the roster is not the pinned one.
        """
        peer = next((one for one in self.active(roster) if one.id == bundle.certificate), None)
        if peer is None:
            raise NotCertified("the bundle belongs to no active device of the roster")
        sessions = self._sessions(self._store, peer.id)
        agreement, handshake = pqxdh.initiate(
            self._keys,
            self.certificate,
            peer,
            bundle,
            sessions.next_opened(now),
            self._randomness,
            self._encapsulate,
        )
        session = Session.initiated(agreement, handshake, bundle.signed.key)
        work = _Work(self._store)
        work.put(_sessions_name(peer.id), sessions.with_(session).encode())
        _note_certificate(work, peer)
        self._store.commit(work.changes)

    def _sessions(self, state: SessionStore | _Work, certificate: bytes) -> Sessions:
        return _read_sessions(state, _sessions_name(certificate))

    def _addressees(self, rosters: Iterable[Roster]) -> tuple[Certificate, ...]:
        mine = self.certificate.id
        found = {one.id: one for roster in rosters for one in self.active(roster)}
        return tuple(one for one in found.values() if one.id != mine)

    # Messages.

    def seal(
        self,
        recipient: str,
        rosters: Sequence[Roster],
        content: bytes,
        ts: float,
        cids: tuple[str, ...] = (),
    ) -> Frame:
        """One signed frame for every active device of ``rosters`` but this one.

        ``rosters``: those of the recipient (a wallet) or of a thread's members, and one's own. The
        caller must send the frame until it is acknowledged, the same one every time. Raises
        NoSession, IdentityChanged, ContentTooLarge, StateRolledBack.
        """
        return self.seal_many([Message(recipient, rosters, content, ts, cids)])[0]

    def seal_many(
        self,
        messages: Iterable[Message],
        keep: Callable[[Sequence[Frame]], Changes] = lambda _: {},
    ) -> list[Frame]:
        """Seal all or none, in order, with one commit; ``keep`` says what else goes into it."""
        work = _Work(self._store)
        frames = [self._seal(work, message) for message in messages]
        self._store.commit({**work.changes, **keep(frames)})
        return frames

    def _seal(self, work: _Work, message: Message) -> Frame:
        recipient, wallets = message.recipient, {one.wallet for one in message.rosters}
        if is_wallet(recipient) and not {recipient} <= wallets <= {recipient, self.wallet}:
            raise Refused("a message to a wallet is for its devices and one's own")
        addressees = [
            one for one in self._addressees(message.rosters) if one.id not in message.without
        ]
        if not 1 <= len(addressees) <= envelope.MAX_WRAPS:
            raise Refused(f"a message is for 1 to {envelope.MAX_WRAPS} other devices")
        ranked = {one.id: self._sessions(work, one.id) for one in addressees}
        without = tuple(sorted(one for one, sessions in ranked.items() if not sessions.ranked))
        if without:
            raise NoSession(without)
        stream_name = _outgoing_name(recipient)
        data = work.get(stream_name)
        stream = Outgoing.decode(data) if data is not None else Outgoing()
        seq = stream.seq + 1
        if seq > MAX_SEQ:
            raise Refused("the stream's numbers are used up")
        bound = envelope.associated_data(self.wallet, self.device, recipient, seq, stream.hash)
        digest = primitives.sha256(bound)
        content_key, nonce = self._randomness(32), self._randomness(primitives.NONCE)
        key, commitment = envelope.content_keys(content_key, digest)
        wraps: dict[bytes, Wrapped] = {}
        for certificate, sessions in ranked.items():
            wrapped, session = sessions.ranked[0].wrap(
                content_key, digest, commitment, self._randomness
            )
            wraps[certificate[:ADDRESS]] = wrapped
            work.put(_sessions_name(certificate), sessions.with_(session).encode())
        if len(wraps) != len(addressees):
            raise Refused("two devices have one address")
        initiation = b""
        if any(one.handshake is not None for one in wraps.values()):
            body = envelope.initiation_body(digest, commitment, envelope.encode_wraps(wraps))
            initiation = primitives.mldsa_sign(
                self._keys.post_quantum, labels.INITIATION, labelled(labels.INITIATION, body)
            )
        payload = envelope.seal_payload(key, nonce, bound, message.content)
        ciphertext = Envelope(stream.hash, commitment, initiation, wraps, payload).encode()
        if len(ciphertext) > MAX_CIPHERTEXT:
            raise ContentTooLarge("the ciphertext would be over 1 MiB")
        frame = Frame(
            self.wallet, self.device, recipient, ciphertext, nonce, seq, message.ts, message.cids
        ).signed(self._keys.signing)
        work.put(stream_name, Outgoing(seq, frame.hash).encode())
        return frame

    def open(self, frame: Frame, roster: Roster, *, revoked_too: bool = False) -> Opened:
        """The content of a delivered frame; ``roster`` is its sender's.

        The caller must still check that the sender is a member of the thread, show a GAP, and pass
        ``revoked_too`` only for a message that the ledger holds before the device's revocation.
        Raises CryptoError; then nothing has changed.
        """
        work = _Work(self._store)
        opened = self._open(work, frame, roster, revoked_too)
        self._store.commit(work.changes)
        return opened

    def open_many(
        self,
        frames: Iterable[tuple[Frame, Roster]],
        keep: Callable[[Sequence[Opened | CryptoError]], Changes] = lambda _: {},
    ) -> list[Opened | CryptoError]:
        """Open in order with one commit; a frame that fails gives its error and changes nothing.

        ``keep`` says what else goes into the commit: a content must be kept with it, or a crash
        before it is shown loses it, for its key is used once.
        """
        work = _Work(self._store)
        results: list[Opened | CryptoError] = []
        for frame, roster in frames:
            attempt = _Work(work)
            try:
                results.append(self._open(attempt, frame, roster, revoked_too=False))
            except CryptoError as error:
                results.append(error)
            else:
                work.changes.update(attempt.changes)
        if changes := {**work.changes, **keep(results)}:
            self._store.commit(changes)
        return results

    def _open(self, work: _Work, frame: Frame, roster: Roster, revoked_too: bool) -> Opened:
        # (1) The sender is who is pinned, and one of its devices signed this very frame.
        if frame.sender != roster.wallet:
            raise NotCertified("the roster is of another wallet")
        pin = self._pin(work, roster.wallet)
        if pin is None or pin.identity != roster.identity.id:
            raise IdentityChanged("the wallet is not known by this identity")
        peer = roster.device(frame.device, revoked_too=revoked_too)
        if peer.id in pin.revoked and not revoked_too:
            raise DeviceRevoked("the device has been revoked")
        frame.verify(peer.body.signing)
        # (2) It is for us, not from us, and not a repeat.
        if peer.id == self.certificate.id:
            raise Reflected("this device's own message")
        if is_wallet(frame.recipient) and self.wallet not in (frame.sender, frame.recipient):
            raise NotAddressed("the conversation is between other wallets")
        stream_name = _incoming_name(frame)
        data = work.get(stream_name)
        stream = Incoming.decode(data) if data is not None else Incoming()
        stream.check(frame.seq)
        # (3) A wrap is addressed to this device, if only by the certificate it had before.
        sealed = Envelope.decode(frame.ciphertext)
        mine, prefix = self.certificate, _SESSIONS
        wrapped = sealed.wraps.get(mine.id[:ADDRESS])
        if wrapped is None and (data := work.get(_FORMER)) is not None:
            mine, prefix = CertificateBody.decode(data), _FORMER_SESSIONS
            wrapped = sealed.wraps.get(mine.id[:ADDRESS])
        if wrapped is None:
            raise NotAddressed("the sender did not encrypt to this device")
        # (4) The session, known or opened by this message; (5) the content key.
        bound = envelope.associated_data(
            frame.sender, frame.device, frame.recipient, frame.seq, sealed.previous
        )
        digest = primitives.sha256(bound)
        name = prefix + peer.id
        sessions = _read_sessions(work, name)
        session = sessions.find(wrapped.session)
        if session is None and (former := _certificate_before(work, peer)) is not None:
            # The peer has a new certificate and sealed this under the one before.
            before = _read_sessions(work, prefix + former)
            if (session := before.find(wrapped.session)) is not None:
                name, sessions = prefix + former, before
        opens = session is None
        if session is None:
            session = self._accept(work, mine, peer, wrapped, sealed, digest)
        content_key, session = session.unwrap(wrapped, digest, sealed.commitment)
        # (6) Commitment, then content.
        content = envelope.open_payload(content_key, frame.nonce, bound, sealed)
        # (7) All is authentic: only now does anything change.
        continuity, stream = stream.take(frame.seq, sealed.previous, frame.hash)
        work.put(stream_name, stream.encode())
        work.put(name, sessions.with_(session).encode())
        _note_certificate(work, peer)
        return Opened(
            content,
            frame.sender,
            frame.device,
            frame.recipient,
            frame.seq,
            frame.ts,
            frame.cids,
            continuity,
            opens,
        )

    def _accept(
        self,
        work: _Work,
        mine: CertificateBody,
        peer: Certificate,
        wrapped: Wrapped,
        sealed: Envelope,
        digest: bytes,
    ) -> Session:
        """The session with ``mine``, an own certificate, that ``wrapped`` opens; its one-time
        prekeys are struck out in ``work``."""
        handshake = wrapped.handshake
        if handshake is None:
            raise UnknownSession("no such session; establish a new one")
        if not sealed.initiation:
            raise PostQuantumMissing("a session is opened without an ML-DSA-65 signature")
        body = envelope.initiation_body(digest, sealed.commitment, sealed.wrap_section)
        primitives.mldsa_verify(
            peer.body.post_quantum,
            sealed.initiation,
            labels.INITIATION,
            labelled(labels.INITIATION, body),
        )
        agreement, used = pqxdh.respond(
            self._keys,
            mine,
            peer,
            handshake,
            lambda kind, number: _find_secret(work, kind, number),
        )
        if agreement.session != wrapped.session:
            raise DecryptError("the wrap names another session than it opens")
        for secret in used:
            if secret.kind in (Kind.ONE_TIME, Kind.ONE_TIME_KEM):
                work.put(_prekey_name(secret.kind, secret.id), None)
        return Session.responded(agreement, handshake, used[0].secret)

    # After an old backup was restored.

    def begin_again(self, own: Changes = MappingProxyType({})) -> None:
        """Make a rolled-back state usable: drop every session and prekey secret.

        ``own``: records of the caller's that change with it.

        The caller must then publish prekeys with ``rotate``, establish sessions anew, and
        ``fast_forward`` each stream that the server knows better.
        """
        store = self._store
        dropped = (
            *store.names(_SESSIONS),
            *store.names(_FORMER_SESSIONS),
            *store.names(b"prekey/"),
        )
        changes: dict[bytes, bytes | None] = {**own, **dict.fromkeys(dropped)}
        if (data := store.get(_COUNTERS)) is not None:
            # The numbers given out since the backup must not be given to other keys.
            counters = _Counters.decode(data)
            changes[_COUNTERS] = replace(counters, next=counters.next + _NUMBERS_PASSED).encode()
        store.begin_again(changes)

    def fast_forward(self, recipient: str, last_seq: int) -> None:
        """Continue the stream to ``recipient`` above ``last_seq`` (the server's).

        Recipients see a gap there, which is the truth: this device no longer knows what it sent. A
        number that no device comes to is not followed: a server could end the stream by it.
        """
        if last_seq > _FURTHEST:
            return
        data = self._store.get(_outgoing_name(recipient))
        if data is not None and Outgoing.decode(data).seq >= last_seq:
            return
        self._store.commit({_outgoing_name(recipient): Outgoing(last_seq).encode()})


def _own_certificate(roster: Roster, device: str, keys: DeviceKeys) -> CertificateBody:
    body = roster.device(device).body
    if keys.public != (body.signing, body.agreement, body.post_quantum):
        raise NotCertified("the certificate is of other keys")
    return body


def _own_records(roster: Roster, body: CertificateBody, keys: DeviceKeys) -> dict[bytes, bytes]:
    """What the store holds of the device itself, and the pin of its own wallet."""
    secrets = keys.signing + keys.agreement + keys.post_quantum
    pin = _Pin(roster.identity.id, roster.revoked)
    return {_SELF: secrets + body.encoded, _pin_name(roster.wallet): pin.encode()}


def _follow(pinned: bytes, statements: Sequence[Identity]) -> Succession:
    """Walk from the pinned identity through ``statements``, each verified, each a rotation."""
    known: Identity | None = None
    for statement in statements[-MAX_CERTIFICATES:]:
        if known is None:
            known = statement if statement.id == pinned else None
            continue
        statement.verify()
        how = succession(known, statement)
        if how is Succession.RESET:
            return how
        known = statement
    if known is None or known is not statements[-1]:
        return Succession.RESET
    return Succession.ROTATED


def _find_secret(state: SessionStore | _Work, kind: Kind, number: int) -> PrekeySecret | None:
    secret = state.get(_prekey_name(kind, number))
    return PrekeySecret(kind, number, secret) if secret is not None else None


def _prekey_prefix(kind: Kind) -> bytes:
    return b"prekey/" + bytes((kind,))


def _prekey_name(kind: Kind, number: int) -> bytes:
    return _prekey_prefix(kind) + u32(number)


def _pin_name(wallet: str) -> bytes:
    return b"pin/" + wallet_bytes(wallet)


def _sessions_name(certificate: bytes) -> bytes:
    return _SESSIONS + certificate


def _read_sessions(state: SessionStore | _Work, name: bytes) -> Sessions:
    data = state.get(name)
    return Sessions.decode(data) if data is not None else Sessions()


def _peer_name(peer: Certificate) -> bytes:
    return b"peer/" + wallet_bytes(peer.wallet) + identifier(peer.device)


def _note_certificate(work: _Work, peer: Certificate) -> None:
    """Remember which certificate a peer's device has now, and which one it had before."""
    known = work.get(_peer_name(peer)) or b""
    if known[:_ID] != peer.id:
        work.put(_peer_name(peer), peer.id + known[:_ID])


def _certificate_before(state: SessionStore | _Work, peer: Certificate) -> bytes | None:
    """The id of the last other certificate that a peer's device had; None when none is known."""
    known = state.get(_peer_name(peer)) or b""
    last, before = known[:_ID], known[_ID:]
    return (last if last != peer.id else before) or None


def _outgoing_name(recipient: str) -> bytes:
    return b"out/" + identifier(recipient)


def _incoming_name(frame: Frame) -> bytes:
    names = (frame.sender, frame.device, frame.recipient)
    return b"in/" + primitives.sha256(*(identifier(name) for name in names))
