"""What a vector's ``op`` means here: one function for each, inputs by name, outputs as a dict.

A function takes exactly the inputs that the vectors of its op may have, so an unknown key fails.
Values: text and numbers as they are, bytes as ``{"hex": …}`` or ``{"blob": name, "edits": […]}``,
where an edit replaces ``cut`` bytes at ``at`` by ``put``; edits apply in order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from plugins.secure_chat.crypto import (
    attachments,
    envelope,
    labels,
    messenger,
    pqxdh,
    primitives,
    roster,
    safety,
    wallet,
)
from plugins.secure_chat.crypto import frame as frames
from plugins.secure_chat.crypto.codec import Reader
from plugins.secure_chat.crypto.devices import Certificate, CertificateBody, DeviceKeys, Revocation
from plugins.secure_chat.crypto.endorsement import Answer, Request
from plugins.secure_chat.crypto.envelope import Envelope
from plugins.secure_chat.crypto.errors import CryptoError
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.identity import Identity, succession
from plugins.secure_chat.crypto.prekeys import Bundle, Kind, PrekeySecret, Publication
from plugins.secure_chat.crypto.ratchet import Header, Ratchet
from plugins.secure_chat.crypto.session import Session, Sessions, wrap_data
from plugins.secure_chat.crypto.store import SessionStore

Outcome = dict[str, Any]


def plain(value: Any, blobs: dict[str, str]) -> Any:
    """A vector's value with its bytes decoded."""
    if isinstance(value, list):
        return [plain(one, blobs) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"hex"}:
        return bytes.fromhex(value["hex"])
    if "blob" in value:
        data = bytes.fromhex(blobs[value["blob"]])
        unknown = set(value) - {"blob", "edits"}
        for edit in value.get("edits", ()):
            unknown |= set(edit) ^ {"at", "cut", "put"}
            at = edit["at"] if edit["at"] >= 0 else len(data) + edit["at"]
            data = data[:at] + bytes.fromhex(edit["put"]) + data[at + edit["cut"] :]
        if unknown:
            raise KeyError(f"unknown keys in a vector: {sorted(unknown)}")
        return data
    return {key: plain(one, blobs) for key, one in value.items()}


def vector_form(value: Any) -> Any:
    """A result as a vector holds it."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, (list, tuple)):
        return [vector_form(one) for one in value]
    if isinstance(value, dict):
        return {key: vector_form(one) for key, one in value.items()}
    return value


def label(use: str) -> Outcome:
    return {"label": getattr(labels, use.upper().replace("-", "_")).decode()}


def hkdf(salt: bytes, secret: bytes, info: bytes, size: int) -> Outcome:
    return {"output": primitives.hkdf(salt, secret, info, size)}


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> Outcome:
    primitives.ed25519_verify(public, signature, message)
    return {}


def wallet_text(label: str, wallet_id: str, digest: bytes, device: str) -> Outcome:
    text = wallet.statement_text(label.encode(), wallet_id, digest, device)
    return {"text": text, "eip191": wallet.eip191_hash(text)}


def wallet_sign(secret: bytes, text: str) -> Outcome:
    key = wallet.WalletKey(secret)
    return {"wallet": key.wallet, "signature": key.sign(text)}


def wallet_recover(text: str, signature: bytes) -> Outcome:
    return {"wallet": wallet.recover(text, signature)}


def identity_verify(identity: bytes) -> Outcome:
    one = Identity.decode(identity)
    one.verify()
    assert one.encode() == identity
    return {
        "wallet": one.wallet,
        "generation": one.body.generation,
        "id": one.id,
        "text": one.body.text,
    }


def identity_succession(known: bytes, new: bytes) -> Outcome:
    return {"succession": succession(Identity.decode(known), Identity.decode(new)).value}


def safety_number(one: bytes, other: bytes) -> Outcome:
    number = safety.safety_number(Identity.decode(one), Identity.decode(other))
    return {"number": number, "grouped": safety.grouped(number)}


def certificate_verify(identity: bytes, certificate: bytes, endorser: bytes) -> Outcome:
    one = Certificate.decode(certificate)
    one.verify(Identity.decode(identity), Certificate.decode(endorser) if endorser else None)
    assert one.encode() == certificate
    return {"wallet": one.wallet, "device": one.device, "id": one.id, "text": one.body.text}


def revocation_verify(identity: bytes, revocation: bytes) -> Outcome:
    one = Revocation.decode(revocation)
    one.verify(Identity.decode(identity))
    assert one.encode() == revocation
    return {"device": one.body.device, "id": one.id, "text": one.body.text}


def _roster(identity: bytes, certificates: list[bytes], revocations: list[bytes]) -> roster.Roster:
    return roster.verify(
        Identity.decode(identity),
        [Certificate.decode(one) for one in certificates],
        [Revocation.decode(one) for one in revocations],
    )


def roster_verify(identity: bytes, certificates: list[bytes], revocations: list[bytes]) -> Outcome:
    one = _roster(identity, certificates, revocations)
    return {"active": [each.device for each in one.active]}


def enrolment_request(device: dict[str, bytes], wallet_id: str, device_id: str) -> Outcome:
    return {"request": Request(wallet_id, device_id, *_keys(device).public).encode()}


def enrolment_body(identity: bytes, endorser: bytes, request: bytes) -> Outcome:
    """What the endorser, and the identity's key, sign for the device that made ``request``."""
    asked = Request.decode(request)
    assert asked.encode() == request
    body = asked.body(Identity.decode(identity), Certificate.decode(endorser))
    return {"body": body.encoded, "id": body.id, "text": body.text}


def enrolment_answer(
    identity: bytes,
    endorser: bytes,
    identity_signature: bytes,
    classical: bytes,
    post_quantum: bytes,
) -> Outcome:
    statement, certificate = Identity.decode(identity), Certificate.decode(endorser)
    answer = Answer(statement, certificate, identity_signature, (classical, post_quantum))
    return {"answer": answer.encode()}


def enrolment_finish(
    device: dict[str, bytes], device_id: str, wallet_secret: bytes, answer: bytes
) -> Outcome:
    """The new device's part. Its own signatures are hedged: that the whole verifies is compared."""
    keys, signer, word = _keys(device), wallet.WalletKey(wallet_secret), Answer.decode(answer)
    assert word.encode() == answer
    body = Request(signer.wallet, device_id, *keys.public).body(word.statement, word.endorser)
    proof = keys.sign(labels.DEVICE_CERTIFICATE, body.encoded)
    certificate, known = word.certified(body, signer.sign(body.text), proof)
    return {"id": certificate.id, "active": [each.device for each in known.active]}


def publication_verify(certificate: bytes, publication: bytes) -> Outcome:
    one = Publication.decode(publication)
    one.verify(Certificate.decode(certificate))
    assert one.encode() == publication
    return {"one_time": [each.id for each in one.one_time], "signed": one.signed.id}


def bundle_verify(certificate: bytes, bundle: bytes) -> Outcome:
    one = Bundle.decode(bundle)
    kem = one.verify(Certificate.decode(certificate))
    assert one.encode() == bundle
    return {"kem": kem.id, "kem_kind": int(kem.kind), "signed": one.signed.id}


def encapsulate(public: bytes) -> Outcome:
    """Randomised: that the key is taken is all there is to compare."""
    primitives.encapsulate(public)
    return {}


def _keys(device: dict[str, bytes]) -> DeviceKeys:
    return DeviceKeys(device["signing"], device["agreement"], device["post_quantum"])


def device_keys(device: dict[str, bytes]) -> Outcome:
    signing, agreement, post_quantum = _keys(device).public
    return {"signing": signing, "agreement": agreement, "post_quantum": post_quantum}


def prekey_public(kind: int, secret: bytes) -> Outcome:
    return {"public": PrekeySecret(Kind(kind), 1, secret).public}


def handshake_initiate(
    device: dict[str, bytes],
    initiator: bytes,
    responder: bytes,
    bundle: bytes,
    opened: int,
    ephemeral: bytes,
    kem_secret: bytes,
    kem_ciphertext: bytes,
) -> Outcome:
    agreement, handshake = pqxdh.initiate(
        _keys(device),
        Certificate.decode(initiator).body,
        Certificate.decode(responder),
        Bundle.decode(bundle),
        opened,
        lambda _: ephemeral,
        lambda _: (kem_secret, kem_ciphertext),
    )
    return {
        "transcript": agreement.transcript,
        "root": agreement.root,
        "session": agreement.session,
        "handshake": handshake.encode(),
    }


def handshake_respond(
    device: dict[str, bytes],
    initiator: bytes,
    responder: bytes,
    prekeys: list[dict[str, Any]],
    handshake: bytes,
) -> Outcome:
    secrets = {
        (one["kind"], one["id"]): PrekeySecret(Kind(one["kind"]), one["id"], one["secret"])
        for one in prekeys
    }
    agreement, used = pqxdh.respond(
        _keys(device),
        Certificate.decode(responder).body,
        Certificate.decode(initiator),
        pqxdh.Handshake.decode(handshake),
        lambda kind, number: secrets.get((int(kind), number)),
    )
    return {
        "transcript": agreement.transcript,
        "root": agreement.root,
        "session": agreement.session,
        "used": [[int(one.kind), one.id] for one in used],
    }


def _drawn(key: bytes, _: int) -> bytes:
    return key


def ratchet_script(root: bytes, signed: bytes, steps: list[dict[str, Any]]) -> Outcome:
    """Two sides; ``private`` is the key that a sending side draws when it makes a new one.

    ``repeat``: so many messages, each counted; the outcome is the last one's.
    """
    sides = {
        "initiator": Ratchet.initiator(root, primitives.x25519_public(signed)),
        "responder": Ratchet.responder(root, signed),
    }
    messages: list[tuple[Header, bytes]] = []
    outcomes: list[Outcome] = []
    for step in steps:
        state = sides[step["side"]]
        if step["do"] == "encrypt":
            draw, data = partial(_drawn, step["private"]), step["associated_data"]
            for _ in range(step.get("repeat", 1)):
                header, sealed, state = state.encrypt(step["plaintext"], data, draw)
                messages.append((header, sealed))
            outcomes.append({"header": header.encode(), "sealed": sealed})
        else:
            header, sealed = messages[step["message"]]
            if "header" in step:
                header = Header.decode(step["header"])
            if "flip" in step:
                at = step["flip"]
                sealed = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
            try:
                plaintext, state = state.decrypt(header, sealed, step["associated_data"])
                outcomes.append({"plaintext": plaintext})
            except CryptoError as error:
                outcomes.append({"error": error.code})
        assert set(step) <= {
            *("side", "do", "private", "plaintext", "associated_data", "message", "header"),
            *("flip", "repeat"),
        }
        sides[step["side"]] = state
    return {"outcomes": outcomes}


def sessions_rank(sessions: list[dict[str, Any]], now: int) -> Outcome:
    """Which of these sessions are kept, the one to send on first, and what ``opened`` a session
    that is opened at ``now`` has."""
    known = Sessions()
    for one in sessions:
        ratchet = Ratchet.responder(bytes(32), bytes(32))
        known = known.with_(Session(one["transcript"], one["opened"], ratchet))
        assert set(one) == {"transcript", "opened"}
    return {"kept": [one.id for one in known.ranked], "opened": known.next_opened(now)}


def conversation(sender: str, recipient: str) -> Outcome:
    return {"conversation": envelope.conversation(sender, recipient)}


def associated_data(sender: str, device: str, recipient: str, seq: int, previous: bytes) -> Outcome:
    data = envelope.associated_data(sender, device, recipient, seq, previous)
    return {"associated_data": data, "digest": primitives.sha256(data)}


def content_keys(key: bytes, digest: bytes) -> Outcome:
    payload_key, commitment = envelope.content_keys(key, digest)
    return {"payload_key": payload_key, "commitment": commitment}


def padded_size(size: int) -> Outcome:
    return {"size": envelope.padded_size(size)}


def pad(content: bytes) -> Outcome:
    return {"padded": envelope.pad(content)}


def unpad(padded: bytes) -> Outcome:
    return {"content": envelope.unpad(padded)}


def key_wrap_data(transcript: bytes, digest: bytes, commitment: bytes) -> Outcome:
    return {"associated_data": wrap_data(transcript, digest, commitment)}


def initiation_body(digest: bytes, commitment: bytes, wrap_section: bytes) -> Outcome:
    body = envelope.initiation_body(digest, commitment, wrap_section)
    return {"signed": primitives.labelled(labels.INITIATION, body)}


def envelope_decode(ciphertext: bytes) -> Outcome:
    one = Envelope.decode(ciphertext)
    assert one.encode() == ciphertext
    return {
        "previous": one.previous,
        "commitment": one.commitment,
        "addresses": list(one.wraps),
        "sessions": [each.session for each in one.wraps.values()],
        "opening": [each.handshake is not None for each in one.wraps.values()],
        "wrap_section": one.wrap_section,
        "payload": one.payload,
    }


def signing_input(
    sender: str,
    device: str,
    recipient: str,
    nonce: bytes,
    seq: int,
    ts: float,
    hash: bytes,
    cids: list[str],
) -> Outcome:
    data = frames.signing_input(sender, device, recipient, nonce, seq, ts, hash, tuple(cids))
    return {"signed": data}


def frame_sign(frame: dict[str, Any], seed: bytes) -> Outcome:
    signed = Frame.from_wire(frame).signed(seed)
    return {"signature": signed.signature, "public": primitives.ed25519_public(seed)}


def frame_verify(frame: dict[str, Any], public: bytes) -> Outcome:
    one = Frame.from_wire(frame)
    one.verify(public)
    return {"hash": one.hash}


class MemoryStorage:
    """Storage in memory, for tests."""

    def __init__(self) -> None:
        self.blob: bytes | None = None

    def read(self) -> bytes | None:
        return self.blob

    def write(self, blob: bytes) -> None:
        self.blob = blob


class MemoryWitness:
    """A witness in memory, for tests."""

    def __init__(self) -> None:
        self.generation = 0

    def read(self) -> int:
        return self.generation

    def advance(self, generation: int) -> None:
        self.generation = generation


def messages_open(
    device: dict[str, bytes],
    receiver: dict[str, Any],
    prekeys: list[dict[str, Any]],
    sender: dict[str, Any],
    frames: list[dict[str, Any]],
) -> Outcome:
    """Open frames in order on a device that has these prekeys and no session yet."""
    own = _roster(receiver["identity"], receiver["certificates"], receiver["revocations"])
    other = _roster(sender["identity"], sender["certificates"], sender["revocations"])
    store = SessionStore(MemoryStorage(), MemoryWitness(), bytes(32), bytes)
    one = messenger.Messenger.create(store, _keys(device), own, receiver["device"], bytes)
    store.commit(
        {messenger._prekey_name(Kind(each["kind"]), each["id"]): each["secret"] for each in prekeys}
    )
    one.learn(other)
    outcomes: list[Outcome] = []
    for wire in frames:
        try:
            opened = one.open(Frame.from_wire(wire), other)
            outcomes.append({"content": opened.content, "continuity": opened.continuity.value})
        except CryptoError as error:
            outcomes.append({"error": error.code})
    return {"outcomes": outcomes}


def message_seal(
    device: dict[str, bytes],
    sender: dict[str, Any],
    receiver: dict[str, Any],
    bundle: bytes,
    opened: int,
    ephemeral: bytes,
    kem_secret: bytes,
    kem_ciphertext: bytes,
    content_key: bytes,
    nonce: bytes,
    private: bytes,
    content: bytes,
) -> Outcome:
    """The first message to a device: every drawn value is given; ``private`` is the ratchet key.

    Of what depends on the hedged signature (ciphertext, hash) only the parts before it are given.
    """
    own = _roster(sender["identity"], sender["certificates"], sender["revocations"])
    other = _roster(receiver["identity"], receiver["certificates"], receiver["revocations"])
    draws = iter((ephemeral, content_key, nonce, private))
    store = SessionStore(MemoryStorage(), MemoryWitness(), bytes(32), bytes)
    one = messenger.Messenger.create(
        store,
        _keys(device),
        own,
        sender["device"],
        lambda _: next(draws),
        lambda _: (kem_secret, kem_ciphertext),
    )
    one.learn(other)
    one.establish(other, Bundle.decode(bundle), opened)
    frame = one.seal(other.wallet, [other], content, 0)
    inside = Envelope.decode(frame.ciphertext)
    return {
        "seq": frame.seq,
        "previous": inside.previous,
        "commitment": inside.commitment,
        "wrap_section": inside.wrap_section,
        "payload": inside.payload,
    }


def cid(block: bytes) -> Outcome:
    return {"cid": attachments.cid(block)}


def attachment_seal(key: bytes, content: bytes, repeat: int) -> Outcome:
    """``content`` repeated so many times, so that large ones stay small here."""
    one, blocks = attachments.seal(content * repeat, lambda _: key)
    return {
        "descriptor": one.encode(),
        "cids": list(one.cids),
        "sizes": [len(block) for block in blocks],
    }


def attachment_open(descriptor: bytes, blocks: list[bytes]) -> Outcome:
    """``blocks``: what is fetched for each CID in turn."""
    one = attachments.Attachment.decode(descriptor)
    by_name = dict(zip(one.cids, blocks, strict=True))
    return {"content": b"".join(attachments.open_(one, by_name.__getitem__))}


def certificate_body(data: bytes) -> Outcome:
    reader = Reader(data)
    body = CertificateBody.read(reader)
    reader.end()
    return {"id": body.id}


OPERATIONS: dict[str, Callable[..., Outcome]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(label, hkdf, ed25519_verify, wallet_text, wallet_sign, wallet_recover),
        *(identity_verify, identity_succession, safety_number),
        *(device_keys, certificate_body, certificate_verify, revocation_verify, roster_verify),
        *(enrolment_request, enrolment_body, enrolment_answer, enrolment_finish),
        *(prekey_public, publication_verify, bundle_verify, encapsulate),
        *(handshake_initiate, handshake_respond, ratchet_script, sessions_rank),
        *(conversation, associated_data, content_keys, padded_size, pad, unpad, key_wrap_data),
        *(initiation_body, envelope_decode, message_seal, messages_open),
        *(signing_input, frame_sign, frame_verify),
        *(cid, attachment_seal, attachment_open),
    )
}
