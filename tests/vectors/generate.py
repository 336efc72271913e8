"""Writes the vector files: ``python -m tests.vectors.generate``. Deterministic.

Secrets are named draws from SHAKE-256. ML-DSA signatures are hedged and ML-KEM encapsulation draws
its own randomness, so both are taken from ``pinned.json``, where each was kept when first made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nacl import bindings

from plugins.secure_chat.crypto import (
    attachments,
    devices,
    envelope,
    identity,
    labels,
    primitives,
    wallet,
)
from plugins.secure_chat.crypto.codec import u32
from plugins.secure_chat.crypto.devices import Certificate, DeviceKeys
from plugins.secure_chat.crypto.envelope import Envelope
from plugins.secure_chat.crypto.frame import Frame
from plugins.secure_chat.crypto.identity import Identity, IdentityBody, PostQuantumKey
from plugins.secure_chat.crypto.messenger import Messenger, _outgoing_name
from plugins.secure_chat.crypto.prekeys import Bundle, Kind, Prekey, PrekeySecret, Publication
from plugins.secure_chat.crypto.primitives import labelled
from plugins.secure_chat.crypto.roster import Roster
from plugins.secure_chat.crypto.roster import verify as verify_roster
from plugins.secure_chat.crypto.session import Wrapped
from plugins.secure_chat.crypto.store import SessionStore
from plugins.secure_chat.crypto.streams import Outgoing
from tests.vectors.operations import (
    OPERATIONS,
    MemoryStorage,
    MemoryWitness,
    plain,
    vector_form,
)

HERE = Path(__file__).parent
PINNED = HERE / "pinned.json"
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
# Ed25519 (RFC 8032): the field's prime, the group's order, and y of a point of order 8.
FIELD = (1 << 255) - 19
GROUP = (1 << 252) + 27742317777372353535851937790883648493
ORDER_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
ORDER = 2 * HALF_ORDER + 1
_POST_QUANTUM = "bad_post_quantum_signature"


def draw(name: str, size: int = 32) -> bytes:
    return hashlib.shake_256(b"atlas secure chat vector: " + name.encode()).digest(size)


class Draws:
    """Randomness with a name: the n-th call draws ``name n``."""

    def __init__(self, name: str) -> None:
        self.name, self.calls = name, 0

    def __call__(self, size: int) -> bytes:
        self.calls += 1
        return draw(f"{self.name} {self.calls}", size)


class Pinned:
    """What cannot be drawn, kept from the run that made it first."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = json.loads(PINNED.read_text()) if PINNED.exists() else {}
        self.used: dict[str, str] = {}
        self._sign = primitives.mldsa_sign

    def _pin(self, key: str, make: Callable[[], bytes]) -> None:
        if key not in self.used:
            self.used[key] = self.kept.get(key) or make().hex()

    def sign(self, seed: bytes, label: bytes, message: bytes) -> bytes:
        key = "mldsa " + hashlib.sha256(seed + labelled(label, message)).hexdigest()
        self._pin(key, lambda: self._sign(seed, label, message))
        return bytes.fromhex(self.used[key])

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        key = "mlkem " + hashlib.sha256(public).hexdigest()
        self._pin(key, lambda: b"".join(primitives.encapsulate(public)))
        both = bytes.fromhex(self.used[key])
        return both[:32], both[32:]


class Person:
    """A wallet, its identity and its devices."""

    def __init__(self, name: str, *device_names: str) -> None:
        self.name = name
        self.wallet_secret = draw(f"{name} wallet")
        self.wallet = wallet.WalletKey(self.wallet_secret)
        self.post_quantum = PostQuantumKey(draw(f"{name} identity"))
        self.identity = self.vouch(self.post_quantum)
        self.keys: dict[str, DeviceKeys] = {}
        self.certificates: dict[str, Certificate] = {}
        for device in device_names:
            self.add(device)

    def vouch(
        self, key: PostQuantumKey, before: Identity | None = None, *, bless: bool = True
    ) -> Identity:
        body = IdentityBody(
            self.wallet.wallet,
            before.body.generation + 1 if before else 0,
            before.id if before else bytes(32),
            key.public,
        )
        old = self.post_quantum if before and bless else None
        return identity.vouch(body, self.wallet.sign(body.text), key, old)

    def add(self, device: str, *, endorsed: bool = True, by: str | None = None) -> Certificate:
        """A device, endorsed by the first one unless ``by`` another."""
        keys = DeviceKeys.generate(Draws(f"{self.name} {device}"))
        first = by or next(iter(self.certificates), None) if endorsed else None
        endorser = self.certificates[first] if first else None
        body = devices.describe(self.identity, device, keys, endorser)
        self.keys[device] = keys
        self.certificates[device] = devices.certify(
            body,
            self.wallet.sign(body.text),
            self.post_quantum,
            keys,
            self.keys[first] if first else None,
        )
        return self.certificates[device]

    @property
    def roster(self) -> Roster:
        return verify_roster(self.identity, self.certificates.values())

    def messenger(self, device: str, encapsulate: primitives.Encapsulate) -> Messenger:
        name = f"{self.name} {device} messenger"
        store = SessionStore(MemoryStorage(), MemoryWitness(), bytes(32), Draws(name + " store"))
        keys = self.keys[device]
        return Messenger.create(store, keys, self.roster, device, Draws(name), encapsulate)

    def secrets(self, device: str) -> dict[str, Any]:
        keys = self.keys[device]
        secrets = {
            "signing": keys.signing,
            "agreement": keys.agreement,
            "post_quantum": keys.post_quantum,
        }
        return {name: vector_form(secret) for name, secret in secrets.items()}


class Document:
    """One vector file being written."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.blobs: dict[str, str] = {}
        self.vectors: list[dict[str, Any]] = []

    def blob(self, name: str, data: bytes) -> dict[str, Any]:
        self.blobs[name] = data.hex()
        return {"blob": name}

    def good(self, name: str, op: str, **inputs: Any) -> Any:
        shaped = {key: _shape(value) for key, value in inputs.items()}
        output = OPERATIONS[op](**{k: plain(v, self.blobs) for k, v in shaped.items()})
        vector = {"name": name, "op": op, "input": shaped, "output": vector_form(output)}
        self.vectors.append(vector)
        return output

    def bad(self, name: str, op: str, error: str, **inputs: Any) -> None:
        shaped = {key: _shape(value) for key, value in inputs.items()}
        self.vectors.append({"name": name, "op": op, "input": shaped, "error": error})

    @property
    def text(self) -> str:
        document = {
            "format": "atlas-secure-chat-vectors/1",
            "subject": self.subject,
            "blobs": self.blobs,
            "vectors": self.vectors,
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _shape(value: Any) -> Any:
    """Bytes become hex; what is in vector form already stays."""
    if isinstance(value, dict):
        return {key: _shape(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shape(one) for one in value]
    return vector_form(value)


def edited(blob: dict[str, Any], at: int, cut: int, put: bytes = b"") -> dict[str, Any]:
    return {**blob, "edits": [{"at": at, "cut": cut, "put": put.hex()}]}


def flipped(blob: dict[str, Any], data: bytes, at: int) -> dict[str, Any]:
    """``blob`` (holding ``data``) with the lowest bit of one byte changed."""
    return edited(blob, at, 1, bytes((data[at] ^ 1,)))


def basics() -> Document:
    doc = Document("Labels, HKDF, the wallet's signature")
    for value in labels.ALL:
        use = value.removeprefix(labels.PREFIX).decode()
        names = [name for name in vars(labels) if getattr(labels, name) == value]
        doc.good(f"label {use}", "label", use=names[0].lower().replace("_", "-"))
    doc.good(
        "HKDF of one block and a half",
        "hkdf",
        salt=draw("salt"),
        secret=draw("ikm"),
        info=labels.RATCHET_MESSAGE,
        size=44,
    )
    edge_signatures(doc)
    secret = draw("alice wallet")
    digest = draw("digest")
    label, someone = labels.DEVICE_CERTIFICATE.decode(), wallet.WalletKey(secret)
    made = doc.good(
        "text with a device",
        "wallet-text",
        label=label,
        wallet_id=someone.wallet,
        digest=digest,
        device="phone",
    )
    doc.good(
        "text without a device",
        "wallet-text",
        label=labels.IDENTITY.decode(),
        wallet_id=someone.wallet,
        digest=digest,
        device="",
    )
    text = made["text"]
    signature = doc.good("sign", "wallet-sign", secret=secret, text=text)["signature"]
    doc.good("recover", "wallet-recover", text=text, signature=signature)
    zero_based = signature[:64] + bytes((signature[64] - 27,))
    doc.good("v counted from 0", "wallet-recover", text=text, signature=zero_based)
    s = int.from_bytes(signature[32:64], "big")
    high = signature[:32] + (ORDER - s).to_bytes(32, "big") + bytes((55 - signature[64],))
    half = HALF_ORDER.to_bytes(32, "big")
    at_half = signature[:32] + half + signature[64:]
    doc.good("s of half the order", "wallet-recover", text=text, signature=at_half)
    # x of a point may lie between the order and the field's prime: v of 2 and 3 mean such a point.
    beyond = next(r for r in range(1, 99) if _is_x(ORDER + r)).to_bytes(32, "big")
    for name, broken in (
        ("s in the upper half", high),
        (
            "s of half the order and one",
            signature[:32] + (HALF_ORDER + 1).to_bytes(32, "big") + signature[64:],
        ),
        ("s of zero", signature[:32] + bytes(32) + signature[64:]),
        ("r of the order", ORDER.to_bytes(32, "big") + signature[32:]),
        ("v of 29", beyond + half + b"\x1d"),
        ("v of 2", beyond + half + b"\x02"),
        ("v of 3", beyond + half + b"\x03"),
        ("64 bytes", signature[:64]),
        ("66 bytes", signature + b"\0"),
        ("r of zero", bytes(32) + signature[32:]),
    ):
        doc.bad(name, "wallet-recover", "bad_wallet_signature", text=text, signature=broken)
    return doc


def _is_x(x: int) -> bool:
    """Whether secp256k1 (SEC 2) has a point with this x."""
    prime = (1 << 256) - (1 << 32) - 977
    return pow(x**3 + 7, (prime - 1) // 2, prime) == 1


def edge_signatures(doc: Document) -> None:
    """What Ed25519 libraries answer differently: SPEC-crypto C32."""
    op, error = "ed25519-verify", "bad_classical_signature"
    seed = draw("ed25519 edge")
    public, message = primitives.ed25519_public(seed), b"edge"
    signature = primitives.ed25519_sign(seed, message)
    doc.good("Ed25519", op, public=public, message=message, signature=signature)
    doc.bad(
        "Ed25519, another message", op, error, public=public, message=b"egde", signature=signature
    )
    points = {
        "the neutral point": 1,
        "the neutral point, not canonical": FIELD + 1,
        "the neutral point with a sign": (1 << 255) + 1,
        "a point of order 2": FIELD - 1,
        "a point of order 4": 0,
        "a point of order 4, not canonical": FIELD,
        "a point of order 8": int.from_bytes(ORDER_8, "little"),
        "a point of order 8 with a sign": int.from_bytes(ORDER_8, "little") + (1 << 255),
        "another point of order 8": FIELD - int.from_bytes(ORDER_8, "little"),
    }
    for name, y in points.items():
        # The key adds nothing where the challenge is a multiple of 8: then S·B = R holds as it is.
        point, r = y.to_bytes(32, "little"), 1
        while _challenge(_times_base(r), point, message) % 8:
            r += 1
        forged = _times_base(r) + r.to_bytes(32, "little")
        doc.bad(
            f"Ed25519, the key is {name}",
            op,
            error,
            public=point,
            message=message,
            signature=forged,
        )
    secret = _clamped(seed)

    def signed(r: int, point: bytes, key: bytes = public) -> bytes:
        s = (r + _challenge(point, key, message) * secret) % GROUP
        return point + s.to_bytes(32, "little")

    for name, y in (("", 1), (", not canonical", FIELD + 1), (" with a sign", (1 << 255) + 1)):
        doc.bad(
            f"Ed25519, R is the neutral point{name}",
            op,
            error,
            public=public,
            message=message,
            signature=signed(0, y.to_bytes(32, "little")),
        )
    nonce = int.from_bytes(draw("ed25519 nonce"), "little") % GROUP
    honest = _times_base(nonce)
    doc.good(
        "Ed25519, a nonce of one's own",
        op,
        public=public,
        message=message,
        signature=signed(nonce, honest),
    )
    two = (FIELD - 1).to_bytes(32, "little")
    shifted = bindings.crypto_core_ed25519_add(honest, two)
    doc.bad(
        "Ed25519, sound with the cofactor alone: R",
        op,
        error,
        public=public,
        message=message,
        signature=signed(nonce, shifted),
    )
    mixed = bindings.crypto_core_ed25519_add(public, two)
    while _challenge(honest, mixed, message) % 2 == 0:
        nonce += 1
        honest = _times_base(nonce)
    doc.bad(
        "Ed25519, sound with the cofactor alone: the key",
        op,
        error,
        public=mixed,
        message=message,
        signature=signed(nonce, honest, mixed),
    )
    s = int.from_bytes(signature[32:], "little")
    doc.bad(
        "Ed25519, S not below the group's order",
        op,
        error,
        public=public,
        message=message,
        signature=signature[:32] + (s + GROUP).to_bytes(32, "little"),
    )
    for size in (0, 63, 65):
        doc.bad(
            f"Ed25519, {size} bytes",
            op,
            error,
            public=public,
            message=message,
            signature=(signature + b"\0")[:size],
        )


def _challenge(point: bytes, public: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(point + public + message).digest(), "little") % GROUP


def _times_base(scalar: int) -> bytes:
    return bindings.crypto_scalarmult_ed25519_base_noclamp(scalar.to_bytes(32, "little"))


def _clamped(seed: bytes) -> int:
    """The scalar of an Ed25519 seed (RFC 8032, 5.1.5)."""
    half = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    return (half & ((1 << 254) - 8)) | (1 << 254)


def identities(alice: Person, bob: Person) -> Document:
    doc = Document("Identity statements, rotation, safety numbers")
    data = alice.identity.encode()
    mine, his = doc.blob("alice", data), doc.blob("bob", bob.identity.encode())
    doc.good("alice", "identity-verify", identity=mine)
    doc.good("bob", "identity-verify", identity=his)
    body = len(alice.identity.body.encoded)
    for name, at, error in (
        ("another wallet", 1, "bad_wallet_signature"),
        ("another post-quantum key", 60, "bad_wallet_signature"),
        ("wallet signature altered", body + 40, "bad_wallet_signature"),
        ("post-quantum signature altered", body + 65 + 7, "bad_post_quantum_signature"),
        ("another version", 0, "unsupported_suite"),
    ):
        doc.bad(name, "identity-verify", error, identity=flipped(mine, data, at))
    doc.bad(
        "a byte too many", "identity-verify", "decode", identity=edited(mine, len(data), 0, b"\0")
    )
    doc.bad("a byte too few", "identity-verify", "decode", identity=edited(mine, -1, 1))
    doc.bad("a flag of 2", "identity-verify", "decode", identity=edited(mine, -1, 1, b"\2"))
    doc.bad(
        "generation 1 without a previous one",
        "identity-verify",
        "decode",
        identity=edited(mine, 21, 4, u32(1)),
    )
    doc.bad(
        "a previous one at generation 0",
        "identity-verify",
        "decode",
        identity=edited(mine, 25, 1, b"\1"),
    )
    doc.bad(
        "a previous signature at generation 0",
        "identity-verify",
        "decode",
        identity=edited(mine, -1, 1, b"\1" + bytes(3309)),
    )
    new_key = PostQuantumKey(draw("alice identity 2"))
    rotated = alice.vouch(new_key, alice.identity)
    reset = alice.vouch(new_key, alice.identity, bless=False)
    turned, started = doc.blob("rotated", rotated.encode()), doc.blob("reset", reset.encode())
    doc.good("a rotated identity", "identity-verify", identity=turned)
    doc.good("the same", "identity-succession", known=mine, new=mine)
    doc.good("rotated", "identity-succession", known=mine, new=turned)
    doc.good("not blessed by the old key", "identity-succession", known=mine, new=started)
    doc.good("rotated backwards", "identity-succession", known=turned, new=mine)
    another = Person("alice")
    another.post_quantum = PostQuantumKey(draw("alice identity, another"))
    first_of_all = doc.blob("another first", another.vouch(another.post_quantum).encode())
    doc.good("rotated from another one", "identity-succession", known=first_of_all, new=turned)
    astray_body = replace(rotated.body, previous=draw("a statement that nobody made"))
    astray = identity.vouch(
        astray_body, alice.wallet.sign(astray_body.text), new_key, alice.post_quantum
    )
    doc.good(
        "blessed, but it names another statement before it",
        "identity-succession",
        known=mine,
        new=doc.blob("astray", astray.encode()),
    )
    leap_body = replace(rotated.body, generation=2)
    leap = identity.vouch(
        leap_body, alice.wallet.sign(leap_body.text), new_key, alice.post_quantum
    ).encode()
    leapt = doc.blob("two generations on", leap)
    doc.good("blessed, two generations on", "identity-succession", known=mine, new=leapt)
    doc.bad(
        "two generations on, a blessing that does not verify",
        "identity-succession",
        "bad_post_quantum_signature",
        known=mine,
        new=flipped(leapt, leap, len(leap) - 3000),
    )
    doc.bad(
        "a blessing that does not verify",
        "identity-succession",
        "bad_post_quantum_signature",
        known=mine,
        new=flipped(turned, rotated.encode(), len(rotated.encode()) - 3000),
    )
    doc.good("safety number", "safety-number", one=mine, other=his)
    doc.good("safety number from the other side", "safety-number", one=his, other=mine)
    doc.good("safety number after a rotation", "safety-number", one=turned, other=his)
    return doc


def device_documents(alice: Person, bob: Person) -> Document:
    doc = Document("Device certificates, revocations, rosters")
    owner, other = doc.blob("identity", alice.identity.encode()), bob.identity.encode()
    phone, desk = alice.certificates["phone"], alice.certificates["desk"]
    first, second = doc.blob("phone", phone.encode()), doc.blob("desk", desk.encode())
    stranger = doc.blob("bob identity", other)
    doc.good("public keys", "device-keys", device=alice.secrets("phone"))
    doc.good("certificate id", "certificate-body", data=phone.body.encoded)
    doc.good("first device", "certificate-verify", identity=owner, certificate=first, endorser=b"")
    doc.good(
        "endorsed device", "certificate-verify", identity=owner, certificate=second, endorser=first
    )
    data, body = desk.encode(), len(desk.body.encoded)
    parts = (65, 3309, 64, 3309, 64, 3309)
    starts = [body + sum(parts[:index]) for index in range(len(parts))]
    for name, at, error in (
        ("wallet signature altered", starts[0] + 3, "bad_wallet_signature"),
        ("identity signature altered", starts[1] + 3, "bad_post_quantum_signature"),
        ("device signature altered", starts[2] + 3, "bad_classical_signature"),
        ("device post-quantum signature altered", starts[3] + 3, "bad_post_quantum_signature"),
        ("endorser's signature altered", starts[4] + 3, "bad_classical_signature"),
        ("endorser's post-quantum signature altered", starts[5] + 3, "bad_post_quantum_signature"),
        ("another X25519 key", body - 32 - 1952 - 5, "bad_wallet_signature"),
        ("another version", 0, "unsupported_suite"),
    ):
        doc.bad(
            name,
            "certificate-verify",
            error,
            identity=owner,
            certificate=flipped(second, data, at),
            endorser=first,
        )
    for index, error in enumerate(
        (
            "bad_wallet_signature",
            _POST_QUANTUM,
            "bad_classical_signature",
            _POST_QUANTUM,
            "bad_classical_signature",
        )
    ):
        both_altered = flipped(second, data, starts[index] + 3)
        both_altered["edits"] += flipped(second, data, starts[index + 1] + 3)["edits"]
        doc.bad(
            f"signatures {index + 1} and {index + 2} altered: the first is named",
            "certificate-verify",
            error,
            identity=owner,
            certificate=both_altered,
            endorser=first,
        )
    doc.bad(
        "of another wallet",
        "certificate-verify",
        "not_certified",
        identity=owner,
        certificate=flipped(first, phone.encode(), 5),
        endorser=b"",
    )
    renewed = alice.vouch(alice.post_quantum, alice.identity)
    later = doc.blob("identity of the same keys", renewed.encode())
    doc.bad(
        "of the identity before, which had the same keys",
        "certificate-verify",
        "not_certified",
        identity=later,
        certificate=first,
        endorser=b"",
    )
    laptop, guest_keys = bob.certificates["laptop"], DeviceKeys.generate(Draws("guest"))
    guest_body = devices.describe(alice.identity, "guest", guest_keys, laptop)
    guest = devices.certify(
        guest_body,
        alice.wallet.sign(guest_body.text),
        alice.post_quantum,
        guest_keys,
        bob.keys["laptop"],
    )
    doc.bad(
        "endorsed by a device of another wallet",
        "certificate-verify",
        "not_certified",
        identity=owner,
        certificate=doc.blob("guest", guest.encode()),
        endorser=doc.blob("laptop", laptop.encode()),
    )
    doc.bad(
        "endorsement cut off",
        "certificate-verify",
        "decode",
        identity=owner,
        certificate=edited(second, starts[4], 64 + 3309),
        endorser=first,
    )
    doc.bad(
        "no endorser at hand",
        "certificate-verify",
        "not_certified",
        identity=owner,
        certificate=second,
        endorser=b"",
    )
    doc.bad(
        "of another identity",
        "certificate-verify",
        "not_certified",
        identity=stranger,
        certificate=first,
        endorser=b"",
    )
    doc.bad(
        "another endorser than it names",
        "certificate-verify",
        "not_certified",
        identity=owner,
        certificate=second,
        endorser=second,
    )
    doc.bad(
        "wallet signature altered, no endorser at hand",
        "certificate-verify",
        "bad_wallet_signature",
        identity=owner,
        certificate=flipped(second, data, starts[0] + 3),
        endorser=b"",
    )
    bad_name = edited(first, 1 + 20 + 32 + 1, 1, b" ")
    doc.bad(
        "a space in the device's name",
        "certificate-verify",
        "decode",
        identity=owner,
        certificate=bad_name,
        endorser=b"",
    )
    revocation_body = devices.revocation_body(desk)
    revocation = devices.revoke(desk, alice.wallet.sign(revocation_body.text), alice.post_quantum)
    end = doc.blob("revocation", revocation.encode())
    doc.good("revocation", "revocation-verify", identity=owner, revocation=end)
    size = len(revocation_body.encoded)
    for name, at, error in (
        ("revocation of another certificate", size - 1, "bad_wallet_signature"),
        ("revocation, post-quantum signature altered", size + 70, "bad_post_quantum_signature"),
    ):
        changed = flipped(end, revocation.encode(), at)
        doc.bad(name, "revocation-verify", error, identity=owner, revocation=changed)
    for name, edit, error in (
        ("of another wallet", (5, 1, bytes((revocation.encode()[5] ^ 1,))), "not_certified"),
        ("another version", (0, 1, b"\3"), "unsupported_suite"),
        ("a byte too many", (len(revocation.encode()), 0, b"\0"), "decode"),
        ("wallet signature altered", (size + 3, 1, b"\0"), "bad_wallet_signature"),
    ):
        doc.bad(
            f"revocation, {name}",
            "revocation-verify",
            error,
            identity=owner,
            revocation=edited(end, *edit),
        )
    doc.bad(
        "revocation of the identity before, which had the same keys",
        "revocation-verify",
        "not_certified",
        identity=later,
        revocation=end,
    )
    doc.bad(
        "revocation of another identity",
        "revocation-verify",
        "not_certified",
        identity=stranger,
        revocation=end,
    )
    both: list[Any] = [first, second]
    none: list[Any] = []
    doc.good("roster", "roster-verify", identity=owner, certificates=both, revocations=none)
    doc.good(
        "roster in any order",
        "roster-verify",
        identity=owner,
        certificates=[second, first],
        revocations=none,
    )
    doc.good(
        "roster with a revoked device",
        "roster-verify",
        identity=owner,
        certificates=both,
        revocations=[end],
    )
    root_body = devices.revocation_body(phone)
    root_end = devices.revoke(phone, alice.wallet.sign(root_body.text), alice.post_quantum)
    doc.good(
        "roster, the revoked device endorsed another",
        "roster-verify",
        identity=owner,
        certificates=both,
        revocations=[doc.blob("revocation of the first", root_end.encode())],
    )
    doc.good(
        "roster, a revocation of no certificate in it",
        "roster-verify",
        identity=owner,
        certificates=[first],
        revocations=[end],
    )
    doc.good(
        "roster, 64 revocations",
        "roster-verify",
        identity=owner,
        certificates=both,
        revocations=[end] * 64,
    )
    doc.bad(
        "roster, 65 revocations",
        "roster-verify",
        "not_certified",
        identity=owner,
        certificates=both,
        revocations=[end] * 65,
    )
    doc.good(
        "roster without devices", "roster-verify", identity=owner, certificates=[], revocations=none
    )
    doc.bad(
        "roster, one signature does not verify",
        "roster-verify",
        "bad_classical_signature",
        identity=owner,
        certificates=[first, flipped(second, data, starts[2] + 3)],
        revocations=none,
    )
    doc.bad(
        "roster, a revocation does not verify",
        "roster-verify",
        "bad_post_quantum_signature",
        identity=owner,
        certificates=both,
        revocations=[flipped(end, revocation.encode(), size + 70)],
    )
    for name, at, error in (
        ("wallet", len(alice.identity.body.encoded) + 40, "bad_wallet_signature"),
        ("post-quantum", len(alice.identity.body.encoded) + 70, _POST_QUANTUM),
    ):
        doc.bad(
            f"roster, the identity's {name} signature altered",
            "roster-verify",
            error,
            identity=flipped(owner, alice.identity.encode(), at),
            certificates=both,
            revocations=none,
        )
    # One signature of each is over another name: whoever looks at it says so.
    named = [edited(second, 1 + 20 + 32 + 1, 1, bytes((one,))) for one in b"0123456789ABCDEF" * 4]
    for place, one in enumerate(named):
        one["edits"].append({"at": 1 + 20 + 32 + 2, "cut": 1, "put": f"{0x41 + place // 16:02x}"})
    for count, error in ((64, "bad_wallet_signature"), (65, "not_certified")):
        doc.bad(
            f"roster, {count} certificates that do not verify",
            "roster-verify",
            error,
            identity=owner,
            certificates=[first, *named[: count - 1]],
            revocations=none,
        )
    chained = Person("alice", "phone", "desk")
    third = doc.blob("third", chained.add("third", by="desk").encode())
    doc.good(
        "roster, endorsed by one that was endorsed",
        "roster-verify",
        identity=owner,
        certificates=[third, second, first],
        revocations=none,
    )
    doc.bad(
        "roster, an endorser in between is not there",
        "roster-verify",
        "not_certified",
        identity=owner,
        certificates=[first, third],
        revocations=none,
    )
    ghost = Person("alice", "phone")
    ghost_certificate = doc.blob("ghost", ghost.add("ghost", endorsed=False).encode())
    twin = doc.blob("twin", ghost.add("phone").encode())
    doc.bad(
        "a second device without an endorser",
        "roster-verify",
        "not_certified",
        identity=owner,
        certificates=[first, ghost_certificate],
        revocations=none,
    )
    doc.bad(
        "an endorser that is not there",
        "roster-verify",
        "not_certified",
        identity=owner,
        certificates=[second],
        revocations=none,
    )
    doc.bad(
        "one device name twice",
        "roster-verify",
        "not_certified",
        identity=owner,
        certificates=[first, twin],
        revocations=none,
    )
    return doc


def enrolments(alice: Person, bob: Person) -> Document:
    """Alice's phone endorses her tablet."""
    doc = Document("Enrolling a further device")
    made = Person("alice", "phone", "tablet")
    phone, tablet = made.certificates["phone"], made.certificates["tablet"]
    owner, endorser = (
        doc.blob("identity", made.identity.encode()),
        doc.blob("phone", phone.encode()),
    )
    device, wallet_secret = made.secrets("tablet"), made.wallet_secret
    asked = doc.good(
        "request",
        "enrolment-request",
        device=device,
        wallet_id=made.wallet.wallet,
        device_id="tablet",
    )["request"]
    request = doc.blob("request", asked)
    op: str = "enrolment-body"
    doc.good("what is certified", op, identity=owner, endorser=endorser, request=request)
    for name, changed, error in (
        ("another version", edited(request, 0, 1, b"\3"), "unsupported_suite"),
        ("of another wallet", flipped(request, asked, 1), "not_certified"),
        ("a space in the device's name", edited(request, 22, 1, b" "), "decode"),
        ("no name", edited(request, 21, 7, b"\0"), "decode"),
        ("a byte too many", edited(request, len(asked), 0, b"\0"), "decode"),
        ("a byte too few", edited(request, -1, 1), "decode"),
        (
            "a byte too many, of another wallet",
            edited(flipped(request, asked, 1), len(asked), 0, b"\0"),
            "decode",
        ),
    ):
        doc.bad(f"request, {name}", op, error, identity=owner, endorser=endorser, request=changed)
    assert tablet.endorsement is not None
    parts = (
        made.identity.encode(),
        phone.encode(),
        tablet.identity_signature,
        *tablet.endorsement,
    )
    word = doc.good(
        "answer",
        "enrolment-answer",
        identity=owner,
        endorser=endorser,
        identity_signature=parts[2],
        classical=parts[3],
        post_quantum=parts[4],
    )["answer"]
    answer = doc.blob("answer", word)
    op = "enrolment-finish"
    own: dict[str, Any] = {"device": device, "device_id": "tablet", "wallet_secret": wallet_secret}
    doc.good("the further device's certificate", op, **own, answer=answer)
    starts = [1 + sum(4 + len(part) for part in parts[:index]) for index in range(len(parts))]

    def given(index: int, value: bytes) -> dict[str, Any]:
        """The answer with another value in the place of one of the five."""
        return edited(answer, starts[index], 4 + len(parts[index]), u32(len(value)) + value)

    altered = bytes((parts[2][0] ^ 1,)) + parts[2][1:]
    for name, changed, error in (
        ("another version", edited(answer, 0, 1, b"\3"), "unsupported_suite"),
        ("a byte too many", edited(answer, len(word), 0, b"\0"), "decode"),
        ("a byte too few", edited(answer, -1, 1), "decode"),
        ("a value of 16,385 bytes", given(2, bytes(16_385)), "decode"),
        ("a value of 16,384 bytes", given(2, bytes(16_384)), _POST_QUANTUM),
        ("the identity cut short", given(0, parts[0][:-1]), "decode"),
        ("identity signature altered", given(2, altered), _POST_QUANTUM),
        ("identity signature of 3,310 bytes", given(2, parts[2] + b"\0"), _POST_QUANTUM),
        (
            "endorser's signature altered",
            flipped(answer, word, starts[3] + 4),
            "bad_classical_signature",
        ),
        ("endorser's signature of 65 bytes", given(3, parts[3] + b"\0"), "bad_classical_signature"),
        (
            "endorser's post-quantum signature altered",
            flipped(answer, word, starts[4] + 4),
            _POST_QUANTUM,
        ),
        (
            "endorser's post-quantum signature of 3,308 bytes",
            given(4, parts[4][:-1]),
            _POST_QUANTUM,
        ),
        (
            "the endorser's own certificate altered",
            flipped(answer, word, starts[1] + 4 + len(phone.body.encoded) + 3),
            "bad_wallet_signature",
        ),
        (
            "an endorser of another identity",
            given(1, bob.certificates["laptop"].encode()),
            "not_certified",
        ),
        (
            "an endorser whose own endorser is not there",
            given(1, alice.certificates["desk"].encode()),
            "not_certified",
        ),
        ("of another wallet", given(0, bob.identity.encode()), "not_certified"),
    ):
        doc.bad(f"answer, {name}", op, error, **own, answer=changed)
    doc.bad(
        "answer, for another device's keys",
        op,
        _POST_QUANTUM,
        **{**own, "device": alice.secrets("desk")},
        answer=answer,
    )
    doc.bad(
        "answer, for another device's name",
        op,
        _POST_QUANTUM,
        **{**own, "device_id": "tables"},
        answer=answer,
    )
    doc.bad(
        "answer, another wallet would sign",
        op,
        "not_certified",
        **{**own, "wallet_secret": bob.wallet_secret},
        answer=answer,
    )
    return doc


def prekey_set(person: Person, device: str) -> dict[Kind, PrekeySecret]:
    source = Draws(f"{person.name} {device} prekeys")
    return {kind: PrekeySecret.generate(kind, 10 + kind, source) for kind in Kind}


def secrets_of(prekeys: dict[Kind, PrekeySecret], *kinds: Kind) -> list[dict[str, Any]]:
    return [
        {"kind": int(kind), "id": prekeys[kind].id, "secret": prekeys[kind].secret}
        for kind in kinds or tuple(Kind)
    ]


def publications(
    doc: Document,
    his: Certificate,
    keys: DeviceKeys,
    public: dict[Kind, Prekey],
    initiator: dict[str, Any],
) -> None:
    """What a device publishes; ``initiator``: another device's certificate."""
    responder = {"blob": "bob"}
    publication = Publication(
        his.id,
        public[Kind.SIGNED],
        public[Kind.LAST_RESORT_KEM],
        (public[Kind.ONE_TIME],),
        (public[Kind.ONE_TIME_KEM],),
    )
    whole = doc.blob("publication", publication.encode())
    doc.good("publication", "publication-verify", certificate=responder, publication=whole)
    doc.bad(
        "publication of another device",
        "publication-verify",
        "not_certified",
        certificate=initiator,
        publication=whole,
    )
    data, size = publication.encode(), {kind: len(public[kind].encode()) for kind in Kind}
    at = {Kind.SIGNED: 35, Kind.LAST_RESORT_KEM: 35 + size[Kind.SIGNED]}
    at[Kind.ONE_TIME] = at[Kind.LAST_RESORT_KEM] + size[Kind.LAST_RESORT_KEM] + 2
    at[Kind.ONE_TIME_KEM] = at[Kind.ONE_TIME] + size[Kind.ONE_TIME] + 2
    for kind in Kind:
        classical = at[kind] + 5 + len(public[kind].key)
        doc.bad(
            f"publication, Ed25519 of kind {int(kind)} altered",
            "publication-verify",
            "bad_classical_signature",
            certificate=responder,
            publication=flipped(whole, data, classical),
        )
        if kind is not Kind.ONE_TIME:
            doc.bad(
                f"publication, ML-DSA of kind {int(kind)} altered",
                "publication-verify",
                _POST_QUANTUM,
                certificate=responder,
                publication=flipped(whole, data, classical + 64 + 300),
            )
    more = {
        kind: PrekeySecret.generate(kind, 20, Draws(f"more {int(kind)}"))
        for kind in (Kind.ONE_TIME, Kind.ONE_TIME_KEM)
    }
    others = {kind: secret.publish(keys, his.id) for kind, secret in more.items()}
    two = replace(
        publication,
        one_time=(public[Kind.ONE_TIME], others[Kind.ONE_TIME]),
        one_time_kem=(public[Kind.ONE_TIME_KEM], others[Kind.ONE_TIME_KEM]),
    )
    pair = doc.blob("publication of two", two.encode())
    doc.good("publication of two", "publication-verify", certificate=responder, publication=pair)
    doc.good(
        "publication without one-time prekeys",
        "publication-verify",
        certificate=responder,
        publication=replace(publication, one_time=(), one_time_kem=()).encode(),
    )
    none_follows = len(replace(two, one_time_kem=()).encode())
    for name, place, error in (
        ("Ed25519 of the first one-time one", at[Kind.ONE_TIME] + 37, "bad_classical_signature"),
        ("ML-DSA of the first one-time KEM one", none_follows + 5 + 1184 + 300, _POST_QUANTUM),
    ):
        changed = flipped(pair, two.encode(), place)
        doc.bad(
            f"publication of two, {name} altered",
            "publication-verify",
            error,
            certificate=responder,
            publication=changed,
        )
    kem_first = replace(two, one_time=(), one_time_kem=two.one_time_kem[::-1])
    swapped = replace(publication, signed=publication.last_resort, last_resort=publication.signed)
    for name, wrong in (
        ("one id twice", replace(publication, one_time=publication.one_time * 2)),
        ("ids that descend", replace(two, one_time=two.one_time[::-1], one_time_kem=())),
        ("KEM ids that descend", kem_first),
        ("the two signed ones exchanged", swapped),
        (
            "a signed prekey among the one-time ones",
            replace(publication, one_time=(publication.signed,)),
        ),
        (
            "the last resort among the one-time KEM ones",
            replace(publication, one_time_kem=(publication.last_resort,)),
        ),
    ):
        doc.bad(
            f"publication, {name}",
            "publication-verify",
            "decode",
            certificate=responder,
            publication=wrong.encode(),
        )
    for name, edit, error in (
        ("another version", (0, 1, b"\3"), "unsupported_suite"),
        ("another suite", (1, 2, b"\0\2"), "unsupported_suite"),
        ("suite 0", (1, 2, b"\0\0"), "unsupported_suite"),
        ("a byte too many", (len(data), 0, b"\0"), "decode"),
        ("a prekey of id 0", (at[Kind.ONE_TIME] + 1, 4, u32(0)), "decode"),
    ):
        doc.bad(
            f"publication, {name}",
            "publication-verify",
            error,
            certificate=responder,
            publication=edited(whole, *edit),
        )
    many = [
        PrekeySecret(Kind.ONE_TIME, number, draw(f"one of many {number}")).publish(keys, his.id)
        for number in range(1, 102)
    ]
    full_list = replace(publication, one_time=tuple(many[:100]), one_time_kem=()).encode()
    hundred = doc.blob("publication of 100", full_list)
    doc.good(
        "publication, 100 one-time prekeys",
        "publication-verify",
        certificate=responder,
        publication=hundred,
    )
    one_more = edited(hundred, at[Kind.ONE_TIME] - 2, 2, b"\0\x65")
    one_more["edits"].append({"at": -2, "cut": 0, "put": many[100].encode().hex()})
    doc.bad(
        "publication, 101 one-time prekeys",
        "publication-verify",
        "decode",
        certificate=responder,
        publication=one_more,
    )


def handshakes(alice: Person, bob: Person, pinned: Pinned) -> Document:
    doc = Document("Prekeys and the PQXDH handshake")
    mine, his = alice.certificates["phone"], bob.certificates["laptop"]
    initiator, responder = doc.blob("alice", mine.encode()), doc.blob("bob", his.encode())
    prekeys, keys = prekey_set(bob, "laptop"), bob.keys["laptop"]
    public = {kind: secret.publish(keys, his.id) for kind, secret in prekeys.items()}
    for kind in Kind:
        doc.good(
            f"public half of kind {int(kind)}",
            "prekey-public",
            kind=int(kind),
            secret=prekeys[kind].secret,
        )
    publications(doc, his, keys, public, initiator)
    kem_key = public[Kind.ONE_TIME_KEM].key
    doc.good("KEM key", "encapsulate", public=kem_key)
    doc.bad("KEM key, a byte short", "encapsulate", "decode", public=kem_key[:-1])
    # FIPS 203, 7.2: the first coefficient is q.
    beyond = bytes((0x01, kem_key[1] & 0xF0 | 0x0D)) + kem_key[2:]
    doc.bad("KEM key, a coefficient not below q", "encapsulate", "decode", public=beyond)
    full = Bundle(his.id, public[Kind.SIGNED], public[Kind.ONE_TIME_KEM], public[Kind.ONE_TIME])
    spent = Bundle(his.id, public[Kind.SIGNED], public[Kind.LAST_RESORT_KEM], None)
    bundles = {"full": full, "spent": spent}
    blobs = {name: doc.blob(f"bundle {name}", one.encode()) for name, one in bundles.items()}
    for name, blob in blobs.items():
        doc.good(f"bundle {name}", "bundle-verify", certificate=responder, bundle=blob)
    bare = replace(spent, kem=None).encode()
    doc.bad(
        "no KEM prekey",
        "bundle-verify",
        "post_quantum_missing",
        certificate=responder,
        bundle=doc.blob("bundle bare", bare),
    )
    doc.bad(
        "no KEM prekey, of another device",
        "bundle-verify",
        "not_certified",
        certificate=initiator,
        bundle={"blob": "bundle bare"},
    )
    data, signed_at = full.encode(), 3 + 32 + 5
    kem_at = signed_at + 32 + 64 + 3309 + 1 + 5
    one_at = kem_at + 1184 + 64 + 3309 + 1 + 5
    for name, at, error in (
        ("another version", 0, "unsupported_suite"),
        ("another suite", 2, "unsupported_suite"),
        ("another certificate", 4, "not_certified"),
        ("another signed prekey", signed_at, "bad_classical_signature"),
        ("signed prekey's Ed25519 altered", signed_at + 33, "bad_classical_signature"),
        ("signed prekey's ML-DSA altered", signed_at + 99, "bad_post_quantum_signature"),
        ("another KEM prekey", kem_at, "bad_classical_signature"),
        ("KEM prekey's ML-DSA altered", kem_at + 1184 + 70, "bad_post_quantum_signature"),
        ("another one-time prekey", one_at, "bad_classical_signature"),
    ):
        doc.bad(
            name,
            "bundle-verify",
            error,
            certificate=responder,
            bundle=flipped(blobs["full"], data, at),
        )
    doc.bad(
        "prekey id 0",
        "bundle-verify",
        "decode",
        certificate=responder,
        bundle=edited(blobs["full"], signed_at - 4, 4, u32(0)),
    )
    doc.bad(
        "last resort passed off as one-time",
        "bundle-verify",
        "bad_classical_signature",
        certificate=responder,
        bundle=edited(blobs["spent"], signed_at + 32 + 64 + 3309 + 1, 1, b"\4"),
    )
    for name, misplaced in (
        ("signed prekey where the one-time one belongs", replace(full, one_time=full.signed)),
        ("signed prekey where the KEM one belongs", replace(full, kem=full.signed)),
        (
            "one-time prekey where the signed one belongs",
            replace(spent, signed=public[Kind.ONE_TIME]),
        ),
    ):
        doc.bad(name, "bundle-verify", "decode", certificate=responder, bundle=misplaced.encode())
    for name, at, error in (
        ("last resort's Ed25519 altered", kem_at + 1184, "bad_classical_signature"),
        ("last resort's ML-DSA altered", kem_at + 1184 + 70, _POST_QUANTUM),
    ):
        changed = flipped(blobs["spent"], spent.encode(), at)
        doc.bad(name, "bundle-verify", error, certificate=responder, bundle=changed)
    for name, edit in (
        ("bundle, a flag of 2", (kem_at - 6, 1, b"\2")),
        ("bundle, a byte too many", (len(data), 0, b"\0")),
    ):
        doc.bad(
            name,
            "bundle-verify",
            "decode",
            certificate=responder,
            bundle=edited(blobs["full"], *edit),
        )
    for name, one in bundles.items():
        assert one.kem is not None
        kem_secret, kem_ciphertext = pinned.encapsulate(one.kem.key)
        made = doc.good(
            f"initiate, {name} bundle",
            "handshake-initiate",
            device=alice.secrets("phone"),
            initiator=initiator,
            responder=responder,
            bundle=blobs[name],
            opened=1_700_000_000_000,
            ephemeral=draw(f"ephemeral {name}"),
            kem_secret=kem_secret,
            kem_ciphertext=kem_ciphertext,
        )
        answer = doc.blob(f"handshake {name}", made["handshake"])
        inputs: dict[str, Any] = {
            "device": bob.secrets("laptop"),
            "initiator": initiator,
            "responder": responder,
            "prekeys": secrets_of(prekeys),
        }
        got = doc.good(f"respond, {name} bundle", "handshake-respond", handshake=answer, **inputs)
        assert got["root"] == made["root"]
    answer, sent = {"blob": "handshake full"}, bytes.fromhex(doc.blobs["handshake full"])
    doc.good(
        "a forged KEM ciphertext gives another root",
        "handshake-respond",
        handshake=flipped(answer, sent, 100),
        **inputs,
    )
    doc.bad(
        "one-time prekey is gone",
        "handshake-respond",
        "unknown_prekey",
        handshake=answer,
        **{**inputs, "prekeys": secrets_of(prekeys, Kind.SIGNED, Kind.ONE_TIME_KEM)},
    )
    for name, gone in (
        ("signed prekey is gone", Kind.SIGNED),
        ("KEM prekey is gone", Kind.ONE_TIME_KEM),
    ):
        left = secrets_of(prekeys, *(kind for kind in Kind if kind is not gone))
        doc.bad(
            name,
            "handshake-respond",
            "unknown_prekey",
            handshake=answer,
            **{**inputs, "prekeys": left},
        )
    doc.bad(
        "handshake, a byte too many",
        "handshake-respond",
        "decode",
        handshake=edited(answer, len(sent), 0, b"\0"),
        **inputs,
    )
    doc.bad(
        "one-time prekey is gone, ephemeral key of low order",
        "handshake-respond",
        "unknown_prekey",
        handshake=edited(answer, 8, 32, bytes(32)),
        **{**inputs, "prekeys": secrets_of(prekeys, Kind.SIGNED, Kind.ONE_TIME_KEM)},
    )
    doc.bad(
        "ephemeral key of low order",
        "handshake-respond",
        "decrypt",
        handshake=edited(answer, 8, 32, bytes(32)),
        **inputs,
    )
    doc.bad(
        "KEM kind 1",
        "handshake-respond",
        "decode",
        handshake=edited(answer, 44, 1, b"\1"),
        **inputs,
    )
    doc.bad(
        "opened beyond 2^53-1",
        "handshake-respond",
        "decode",
        handshake=edited(answer, 0, 2, b"\x00\x20"),
        **inputs,
    )
    for name, at in (("signed", 40), ("KEM", 45)):
        doc.bad(
            f"{name} prekey 0",
            "handshake-respond",
            "decode",
            handshake=edited(answer, at, 4, bytes(4)),
            **inputs,
        )
    return doc


def ratchets() -> Document:
    doc = Document("The Double Ratchet")
    root, signed = draw("ratchet root"), draw("ratchet signed prekey")

    def send(side: str, text: str, key: str, **more: Any) -> dict[str, Any]:
        return {
            "side": side,
            "do": "encrypt",
            "plaintext": text.encode(),
            "associated_data": b"AD",
            "private": draw(f"ratchet {key}"),
            **more,
        }

    def read(side: str, message: int, **more: Any) -> dict[str, Any]:
        return {"side": side, "do": "decrypt", "message": message, "associated_data": b"AD", **more}

    a, b = "initiator", "responder"
    doc.good(
        "in order, then turn about",
        "ratchet-script",
        root=root,
        signed=signed,
        steps=[
            send(a, "one", "a1"),
            read(b, 0),
            send(a, "two", "-"),
            read(b, 1),
            send(b, "three", "b1"),
            read(a, 2),
            send(a, "four", "a2"),
            read(b, 3),
        ],
    )
    doc.good(
        "late, out of order, over a turn",
        "ratchet-script",
        root=root,
        signed=signed,
        steps=[
            send(a, "0", "a1"),
            send(a, "1", "-"),
            send(a, "2", "-"),
            read(b, 2),
            read(b, 0),
            send(b, "3", "b1"),
            read(a, 3),
            send(a, "4", "a2"),
            send(a, "5", "-"),
            read(b, 5),
            read(b, 1),
            read(b, 4),
        ],
    )
    doc.good(
        "twice, altered, with other data: refused and nothing changes",
        "ratchet-script",
        root=root,
        signed=signed,
        steps=[
            send(a, "0", "a1"),
            send(a, "1", "-"),
            read(b, 0),
            read(b, 0),
            read(b, 1, flip=0),
            read(b, 1, associated_data=b"AE"),
            read(b, 1),
            read(b, 1),
        ],
    )
    key = primitives.x25519_public(draw("ratchet a1"))
    doc.good(
        "too many skipped",
        "ratchet-script",
        root=root,
        signed=signed,
        steps=[
            send(a, "0", "a1"),
            read(b, 0),
            read(b, 0, header=key + u32(0) + u32(2002)),
            read(b, 0, header=key + u32(0) + u32(2001)),
        ],
    )
    doc.good(
        "late, of a chain that has ended",
        "ratchet-script",
        root=root,
        signed=signed,
        steps=[
            send(a, "0", "a1"),
            send(a, "1", "-"),
            read(b, 0),
            send(b, "2", "b1"),
            read(a, 2),
            send(a, "3", "a2"),
            read(b, 3),
            read(b, 1),
            # Its key is used: what it names is taken for a new remote key.
            read(b, 0),
        ],
    )
    other = primitives.x25519_public(draw("ratchet a2"))
    doc.good(
        "too many skipped at the end of a chain, a key of low order",
        "ratchet-script",
        root=root,
        signed=signed,
        steps=[
            send(a, "0", "a1"),
            read(b, 0),
            read(b, 0, header=other + u32(2002) + u32(0)),
            read(b, 0, header=other + u32(2001) + u32(0)),
            read(b, 0, header=other + u32(2001) + u32(2000)),
            read(b, 0, header=other + u32(2001) + u32(2001)),
            read(b, 0, header=bytes(32) + u32(1) + u32(0)),
        ],
    )
    doc.good(
        "513 passed over: the first key is dropped",
        "ratchet-script",
        root=root,
        signed=signed,
        steps=[
            send(a, "0", "a1"),
            send(a, "1", "-", repeat=514),
            read(b, 0),
            read(b, 514),
            read(b, 1),
            read(b, 2),
            read(b, 513),
        ],
    )
    return doc


def session_document() -> Document:
    doc = Document("Sessions of two devices: which are kept, and which is sent on")
    op, now = "sessions-rank", 1_700_000_000_000
    last = (1 << 53) - 1

    def sessions(*opened: int, ids: bytes = b"") -> list[dict[str, Any]]:
        """With ids in ascending order, or those that begin with the bytes of ``ids``."""
        return [
            {"transcript": bytes((first,)) + draw(f"transcript {place}", 31), "opened": when}
            for place, (first, when) in enumerate(zip(ids or range(9), opened, strict=False))
        ]

    doc.good("no session", op, sessions=[], now=now)
    doc.good("the one that was opened last is first", op, sessions=sessions(5, 7, 6), now=now)
    tied = sessions(7, 7, 7, ids=b"\x80\x7f\xff")
    doc.good("opened at once: the smaller id, as bytes", op, sessions=tied, now=now)
    alike = [{"transcript": bytes(15) + bytes((n,)) + bytes(16), "opened": 7} for n in (2, 1)]
    doc.good("ids that differ in their last byte", op, sessions=alike, now=now)
    doc.good("four are kept", op, sessions=sessions(1, 2, 3, 4), now=now)
    doc.good("a fifth drops the last", op, sessions=sessions(4, 1, 3, 2, 5), now=now)
    doc.good("a fifth that would be the last", op, sessions=sessions(4, 5, 3, 2, 1), now=now)
    doc.good(
        "a fifth, opened at once", op, sessions=sessions(7, 7, 7, 7, 7, ids=b"\5\4\3\2\1"), now=now
    )
    doc.good("opened after the clock", op, sessions=sessions(now + 9, 3), now=now)
    doc.good("opened at this millisecond", op, sessions=sessions(now), now=now)
    doc.good("opened at the last number that there is", op, sessions=sessions(last), now=now)
    return doc


def messages(alice: Person, bob: Person, pinned: Pinned) -> Document:
    doc = Document("Envelopes, frames, and messages opened from end to end")
    me, him = alice.wallet.wallet, bob.wallet.wallet
    doc.good("conversation of two", "conversation", sender=me, recipient=him)
    doc.good("the same from the other side", "conversation", sender=him, recipient=me)
    doc.good("conversation of a thread", "conversation", sender=me, recipient="thread:42")
    made = doc.good(
        "associated data",
        "associated-data",
        sender=me,
        device="phone",
        recipient=him,
        seq=7,
        previous=draw("previous"),
    )
    keys = doc.good("content keys", "content-keys", key=draw("content"), digest=made["digest"])
    doc.good(
        "associated data of a wrapped key",
        "key-wrap-data",
        transcript=draw("transcript"),
        digest=made["digest"],
        commitment=keys["commitment"],
    )
    for size in (0, 1, 256, 257, 264, 265, 1000, 65_536, 65_537, 524_288):
        doc.good(f"padded size of {size}", "padded-size", size=size)
    padded = doc.good("pad", "pad", content=b"hello")["padded"]
    doc.good("unpad", "unpad", padded=padded)
    for name, broken in (
        ("padding that is not zero", padded[:-1] + b"\1"),
        ("padding a byte short", padded[:-1]),
        ("length beyond the end", u32(253) + padded[4:]),
    ):
        doc.bad(name, "unpad", "decode", padded=broken)

    sender = alice.messenger("phone", pinned.encapsulate)
    sender.learn(bob.roster)
    secrets = {name: prekey_set(bob, name) for name in bob.keys}
    rosters = [bob.roster, alice.roster]
    for certificate in sender.missing_sessions([bob.roster]):
        own, name = bob.keys[certificate.device], certificate.device
        public = {k: one.publish(own, certificate.id) for k, one in secrets[name].items()}
        bundle = Bundle(
            certificate.id, public[Kind.SIGNED], public[Kind.ONE_TIME_KEM], public[Kind.ONE_TIME]
        )
        sender.establish(bob.roster, bundle, 1_700_000_000_000)
    sealed = [
        sender.seal(him, rosters[:1], text, 1_700_000_000.5 + index)
        for index, text in enumerate((b"hello", b"a second one", b"", b"x" * 300))
    ]
    receiver = {
        "identity": doc.blob("bob identity", bob.identity.encode()),
        "certificates": [
            doc.blob(f"bob {name}", one.encode()) for name, one in bob.certificates.items()
        ],
        "revocations": [],
        "device": "laptop",
    }
    origin = {
        "identity": doc.blob("alice identity", alice.identity.encode()),
        "certificates": [
            doc.blob(f"alice {name}", one.encode()) for name, one in alice.certificates.items()
        ],
        "revocations": [],
    }
    inputs: dict[str, Any] = {
        "device": bob.secrets("laptop"),
        "receiver": receiver,
        "sender": origin,
        "prekeys": secrets_of(secrets["laptop"]),
    }
    desk = bob.certificates["desk"]
    public = {k: one.publish(bob.keys["desk"], desk.id) for k, one in secrets["desk"].items()}
    spent = Bundle(desk.id, public[Kind.SIGNED], public[Kind.LAST_RESORT_KEM], None)
    kem_secret, kem_ciphertext = pinned.encapsulate(public[Kind.LAST_RESORT_KEM].key)
    lonely = devices.revocation_body(bob.certificates["laptop"])
    gone = devices.revoke(
        bob.certificates["laptop"], bob.wallet.sign(lonely.text), bob.post_quantum
    )
    doc.good(
        "seal a first message",
        "message-seal",
        device=alice.secrets("phone"),
        sender={**origin, "device": "phone"},
        receiver={
            "identity": receiver["identity"],
            "certificates": receiver["certificates"],
            "revocations": [doc.blob("laptop revoked", gone.encode())],
        },
        bundle=doc.blob("bundle", spent.encode()),
        opened=1_700_000_000_000,
        ephemeral=draw("seal ephemeral"),
        kem_secret=kem_secret,
        kem_ciphertext=kem_ciphertext,
        content_key=draw("seal content key"),
        nonce=draw("seal nonce", 12),
        private=draw("seal ratchet key"),
        content=b"hello",
    )
    wire = [frame.to_wire() for frame in sealed]
    ciphertext = doc.blob("ciphertext", sealed[0].ciphertext)
    parsed = doc.good("envelope", "envelope-decode", ciphertext=ciphertext)
    doc.good(
        "what opens a session is signed",
        "initiation-body",
        digest=made["digest"],
        commitment=keys["commitment"],
        wrap_section=parsed["wrap_section"],
    )
    size = 3 + 32 + 32 + 1
    wraps_at = size + 3309 + 2
    address = sealed[0].ciphertext[wraps_at : wraps_at + 16]

    def unopened(kind: str) -> list[dict[str, Any]]:
        """Both wraps without their handshakes, the second one first: the offsets stay."""
        return [
            {"at": wraps_at + 1262 * wrap + at, "cut": cut, "put": put}
            for wrap in (1, 0)
            for at, cut, put in ((33, 1141, ""), (16, 1, kind))
        ]

    for name, edit, error in (
        ("envelope, another version", edited(ciphertext, 0, 1, b"\3"), "unsupported_suite"),
        ("envelope, another suite", edited(ciphertext, 2, 1, b"\2"), "unsupported_suite"),
        ("envelope, a flag of 2", edited(ciphertext, size - 1, 1, b"\2"), "decode"),
        (
            "envelope, a session opened unsigned",
            edited(ciphertext, size - 1, 1 + 3309, b"\0"),
            "post_quantum_missing",
        ),
        (
            "envelope, no wraps and nothing signed",
            edited(ciphertext, size - 1, 1 + 3309 + 2 + 2 * 1262, b"\0\0\0"),
            "decode",
        ),
        ("envelope, no wraps", edited(ciphertext, size + 3309, 2, b"\0\0"), "decode"),
        ("envelope, 401 wraps", edited(ciphertext, size + 3309, 2, b"\x01\x91"), "decode"),
        ("envelope, kind of wrap 3", edited(ciphertext, size + 3309 + 18, 1, b"\3"), "decode"),
        ("envelope, cut short", edited(ciphertext, -100, 100), "decode"),
        (
            "envelope, wraps out of order",
            edited(ciphertext, size + 3309 + 2, 1, b"\xff"),
            "decode",
        ),
        (
            "envelope, an initiation that opens no session",
            {**ciphertext, "edits": unopened("01")},
            "decode",
        ),
        (
            "envelope, kind of wrap 3 without a handshake",
            {
                **ciphertext,
                "edits": [*unopened("03"), {"at": size - 1, "cut": 1 + 3309, "put": "00"}],
            },
            "decode",
        ),
        ("envelope, an address twice", edited(ciphertext, wraps_at + 1262, 16, address), "decode"),
    ):
        doc.bad(name, "envelope-decode", error, ciphertext=edit)

    plain = _without_handshakes(sealed[1])
    known = doc.blob("no session opened", plain.encode())
    doc.good("envelope that opens no session", "envelope-decode", ciphertext=known)
    doc.bad(
        "envelope, payload of 271 bytes",
        "envelope-decode",
        "decode",
        ciphertext=edited(known, -1, 1),
    )

    doc.good("messages in order", "messages-open", frames=wire, **inputs)
    doc.good(
        "one withheld, then late, then twice",
        "messages-open",
        frames=[wire[0], wire[2], wire[1], wire[1], wire[3]],
        **inputs,
    )
    doc.good("the first one lost", "messages-open", frames=[wire[1], wire[0]], **inputs)
    seed = alice.keys["phone"].signing

    def again(frame: Frame, **changes: Any) -> dict[str, Any]:
        """The frame altered and signed anew, as a malicious sender could."""
        return replace(frame, **changes).signed(seed).to_wire()

    first = sealed[0]
    inside = Envelope.decode(first.ciphertext)
    bob_desk = bob.certificates["desk"].id[:16]
    bob_laptop = bob.certificates["laptop"].id[:16]
    swapped = {bob_desk: inside.wraps[bob_laptop], bob_laptop: inside.wraps[bob_desk]}
    initiation = bytes((inside.initiation[0] ^ 1,)) + inside.initiation[1:]
    payload = bytes((inside.payload[0] ^ 1,)) + inside.payload[1:]
    second = Envelope.decode(sealed[1].ciphertext)
    for name, frame in (
        ("signature of another device", {**wire[0], "signature": wire[1]["signature"]}),
        ("device renamed", {**wire[0], "device": "desk"}),
        ("time changed", {**wire[0], "ts": 1.0}),
        ("hash of another message", {**wire[0], "hash": wire[1]["hash"]}),
        ("another number, signed", again(first, seq=2)),
        ("another nonce, signed", again(first, nonce=bytes(12))),
        ("moved to a thread, signed", again(first, recipient="thread:42")),
        (
            "previous hash changed, signed",
            again(first, ciphertext=replace(inside, previous=draw("p")).encode()),
        ),
        (
            "commitment changed, signed",
            again(first, ciphertext=replace(inside, commitment=draw("c")).encode()),
        ),
        (
            "payload changed, signed",
            again(first, ciphertext=replace(inside, payload=payload).encode()),
        ),
        (
            "wraps exchanged, signed",
            again(first, ciphertext=replace(inside, wraps=swapped).encode()),
        ),
        (
            "opening signature altered, signed",
            again(first, ciphertext=replace(inside, initiation=initiation).encode()),
        ),
        (
            "not for this device, signed",
            again(
                first,
                ciphertext=replace(inside, wraps={bob_desk: inside.wraps[bob_desk]}).encode(),
            ),
        ),
        (
            "payload of another message, signed",
            again(first, ciphertext=replace(inside, payload=second.payload).encode()),
        ),
    ):
        doc.good(f"refused: {name}", "messages-open", frames=[frame, wire[0]], **inputs)
        outcomes = doc.vectors[-1]["output"]["outcomes"]
        assert "error" in outcomes[0], name
        assert "content" in outcomes[1], name
    # A sender who wraps a key that it did not commit to (threat A11): all authentic but for that.
    doc.good(
        "refused: the key is not the one committed to",
        "messages-open",
        frames=[_uncommitted(sender, rosters[:1], him, first), wire[0]],
        **inputs,
    )
    assert doc.vectors[-1]["output"]["outcomes"][0] == {"error": "commitment_mismatch"}
    doc.good(
        "refused: padding that is not canonical",
        "messages-open",
        frames=[_badly_padded(sender, rosters[:1], him, first), wire[0]],
        **inputs,
    )
    assert doc.vectors[-1]["output"]["outcomes"][0] == {"error": "decrypt"}
    doc.good(
        "refused: prekeys are gone", "messages-open", frames=[wire[0]], **{**inputs, "prekeys": []}
    )
    misnamed = {
        address: replace(one, session=draw("session", 16)) for address, one in inside.wraps.items()
    }
    for name, frame, error in (
        (
            "wraps that name another session than they open",
            again(first, ciphertext=_opening(alice, first, misnamed).encode()),
            "decrypt",
        ),
        ("session not known", again(sealed[1], ciphertext=plain.encode()), "unknown_session"),
        (
            "to a third wallet, signed",
            again(first, recipient="0x" + "ab" * 20),
            "not_addressed",
        ),
        ("no such device", {**wire[0], "device": "tablet"}, "not_certified"),
        (
            "not signed",
            {k: v for k, v in wire[0].items() if k != "signature"},
            "bad_classical_signature",
        ),
    ):
        doc.good(f"refused: {name}", "messages-open", frames=[frame, wire[0]], **inputs)
        outcomes = doc.vectors[-1]["output"]["outcomes"]
        assert outcomes[0] == {"error": error}, name
        assert "content" in outcomes[1], name
    revoked = devices.revocation_body(alice.certificates["phone"])
    stop = devices.revoke(
        alice.certificates["phone"], alice.wallet.sign(revoked.text), alice.post_quantum
    )
    doc.good(
        "refused: the sending device is revoked",
        "messages-open",
        frames=[wire[0]],
        **{
            **inputs,
            "sender": {**origin, "revocations": [doc.blob("phone revoked", stop.encode())]},
        },
    )
    doc.good(
        "a known session, without its handshake",
        "messages-open",
        frames=[wire[0], again(sealed[1], ciphertext=plain.encode())],
        **inputs,
    )
    unsigned_opening = replace(second, initiation=bytes(3309))
    doc.good(
        "the opening signature is for who does not know the session",
        "messages-open",
        frames=[wire[0], again(sealed[1], ciphertext=unsigned_opening.encode())],
        **inputs,
    )
    streams(doc, sender, alice, bob, wire, inputs)

    cid = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
    simple = replace(first, ciphertext=draw("small", 40), signature=b"", cids=(cid,))
    doc.good(
        "what a frame's signature covers",
        "signing-input",
        sender=simple.sender,
        device="phone",
        recipient=him,
        nonce=simple.nonce,
        seq=1,
        ts=simple.ts,
        hash=simple.hash,
        cids=[cid],
    )
    doc.good(
        "a whole number counts as a double",
        "signing-input",
        sender=simple.sender,
        device="0",
        recipient="thread:42",
        nonce=simple.nonce,
        seq=2**53 - 1,
        ts=3,
        hash=simple.hash,
        cids=[],
    )
    doc.good(
        "minus zero is signed as zero",
        "signing-input",
        sender=simple.sender,
        device="0",
        recipient=him,
        nonce=simple.nonce,
        seq=1,
        ts=-0.0,
        hash=simple.hash,
        cids=[],
    )
    unsigned = {**simple.to_wire(), "signature": wire[0]["signature"]}
    signature = doc.good("sign a frame", "frame-sign", frame=unsigned, seed=seed)["signature"]
    signed = replace(simple, signature=signature).to_wire()
    verifying = primitives.ed25519_public(seed)
    doc.good("verify a frame", "frame-verify", frame=signed, public=verifying)
    upper = {**signed, "sender": "0x" + me[2:].upper()}
    doc.good("frame, an address in upper case", "frame-verify", frame=upper, public=verifying)
    delivered = {**signed, "id": "1", "position": 1, "timestamp": "t"}
    doc.good(
        "frame with the server's own fields", "frame-verify", frame=delivered, public=verifying
    )
    digest = signed["hash"]
    loose = digest[:-2] + chr(ord(digest[-2]) + 1) + "="  # bits that decoding drops
    for name, change, error in (
        ("frame, hash in loose base64", {"hash": loose}, "decode"),
        ("frame, no name of a block", {"cids": ["cid"]}, "decode"),
        ("frame, no blocks", {"cids": []}, "decode"),
        ("frame, a block twice", {"cids": [cid, cid]}, "decode"),
        ("frame, not signed", {"signature": ...}, "bad_classical_signature"),
        ("frame, another sender", {"sender": him}, "bad_classical_signature"),
        ("frame, another device", {"device": "desk"}, "bad_classical_signature"),
        ("frame, another recipient", {"recipient": me}, "bad_classical_signature"),
        ("frame, another time", {"ts": 2}, "bad_classical_signature"),
        ("frame, without its cids", {"cids": ...}, "bad_classical_signature"),
        ("frame, another nonce", {"nonce": "AAAAAAAAAAAAAAAA"}, "frame_hash_mismatch"),
        ("frame, another number", {"seq": 2}, "frame_hash_mismatch"),
        ("frame, number 0", {"seq": 0}, "decode"),
        ("frame, number 2^53", {"seq": 1 << 53}, "decode"),
        ("frame of another type", {"type": "ACK"}, "decode"),
    ):
        changed = {k: v for k, v in {**signed, **change}.items() if v is not ...}
        doc.bad(name, "frame-verify", error, frame=changed, public=verifying)
    return doc


def streams(
    doc: Document,
    sender: Messenger,
    alice: Person,
    bob: Person,
    wire: list[dict[str, Any]],
    inputs: dict[str, Any],
) -> None:
    """To the sender's other device, to a thread, and after numbers that were passed over.

    ``wire`` and ``inputs``: the messages to Bob's laptop before, and how they are opened there.
    """
    him, own, origin = bob.wallet.wallet, prekey_set(alice, "desk"), inputs["sender"]
    desk, keys = alice.certificates["desk"], alice.keys["desk"]
    public = {kind: one.publish(keys, desk.id) for kind, one in own.items()}
    bundle = Bundle(desk.id, public[Kind.SIGNED], public[Kind.ONE_TIME_KEM], public[Kind.ONE_TIME])
    sender.establish(alice.roster, bundle, 1_700_000_000_000)
    everyone, thread = [bob.roster, alice.roster], "thread_" + "5e" * 16
    to_all = sender.seal(him, everyone, b"to all of us", 1_700_000_010.0).to_wire()
    to_thread = sender.seal(thread, everyone, b"to the thread", 1_700_000_011.0).to_wire()
    at_desk: dict[str, Any] = {
        "device": alice.secrets("desk"),
        "receiver": {**origin, "device": "desk"},
        "sender": origin,
        "prekeys": secrets_of(own),
    }
    op = "messages-open"
    doc.good("the sender's other device", op, frames=[to_all, to_thread], **at_desk)
    doc.good("to a thread, another stream", op, frames=[wire[0], to_thread, to_all], **inputs)
    doc.good(
        "refused: one's own message",
        op,
        frames=[to_all],
        **{
            **at_desk,
            "device": alice.secrets("phone"),
            "receiver": {**origin, "device": "phone"},
            "prekeys": [],
        },
    )
    assert doc.vectors[-1]["output"]["outcomes"] == [{"error": "reflected"}]
    # The sender passes numbers over, and says so: `previous` is the message before.
    last = Frame.from_wire(to_all)
    sender._store.commit({_outgoing_name(him): Outgoing(last.seq + 10, last.hash).encode()})
    jump = sender.seal(him, [bob.roster], b"numbers unused", 1_700_000_012.0)
    unused = replace(last, seq=jump.seq - 1).signed(alice.keys["phone"].signing)
    doc.good(
        "numbers that the sender passed over are not missing",
        op,
        frames=[to_all, jump.to_wire(), unused.to_wire()],
        **inputs,
    )
    # The sender has lost its state: it goes on above the server's last number.
    sender.fast_forward(him, jump.seq + 10)
    anew = sender.seal(him, [bob.roster], b"from a backup", 1_700_000_013.0).to_wire()
    doc.good("the sender lost its state", op, frames=[wire[0], anew, wire[1]], **inputs)
    doc.good("first at a high number", op, frames=[anew, wire[0]], **inputs)
    # The directory hands the same prekeys out again.
    laptop, keys = bob.certificates["laptop"], bob.keys["laptop"]
    secrets = prekey_set(bob, "laptop")
    public = {kind: one.publish(keys, laptop.id) for kind, one in secrets.items()}
    signed, last_resort = public[Kind.SIGNED], public[Kind.LAST_RESORT_KEM]
    opening = [
        _opened_with(sender, bob, Bundle(laptop.id, signed, *others))
        for others in (
            (public[Kind.ONE_TIME_KEM], public[Kind.ONE_TIME]),
            (public[Kind.ONE_TIME_KEM], None),
            (last_resort, None),
            (last_resort, None),
        )
    ]
    doc.good(
        "one-time prekeys open one session, the others many",
        op,
        frames=[wire[0], *opening],
        **inputs,
    )


def _opened_with(sender: Messenger, person: Person, bundle: Bundle) -> dict[str, Any]:
    """A message in a session that ``bundle`` opens."""
    sender.establish(person.roster, bundle, 1_700_000_000_000)
    return sender.seal(person.wallet.wallet, [person.roster], b"anew", 1_700_000_014.0).to_wire()


def _without_handshakes(frame: Frame) -> Envelope:
    """What the sender would write if it had been answered: same wraps, no session opened."""
    one = Envelope.decode(frame.ciphertext)
    wraps = {address: replace(wrap, handshake=None) for address, wrap in one.wraps.items()}
    return replace(one, wraps=wraps, initiation=b"")


def _opening(sender: Person, frame: Frame, wraps: dict[bytes, Wrapped]) -> Envelope:
    """The frame's envelope with other wraps, its opening signature made for them."""
    one = replace(Envelope.decode(frame.ciphertext), wraps=wraps)
    data = envelope.associated_data(
        frame.sender, frame.device, frame.recipient, frame.seq, one.previous
    )
    digest = primitives.sha256(data)
    body = envelope.initiation_body(digest, one.commitment, one.wrap_section)
    _, signature = sender.keys[frame.device].sign(labels.INITIATION, body)
    return replace(one, initiation=signature)


def _uncommitted(sender: Messenger, rosters: list[Roster], recipient: str, model: Frame) -> Any:
    """A message sealed by the book, but for a commitment to another key."""
    honest = envelope.content_keys
    try:
        envelope.content_keys = lambda key, digest: (  # type: ignore[assignment]
            honest(key, digest)[0],
            honest(draw("another key"), digest)[1],
        )
        frame = sender.seal(recipient, rosters, b"two faces", model.ts)
    finally:
        envelope.content_keys = honest
    return frame.to_wire()


def _badly_padded(sender: Messenger, rosters: list[Roster], recipient: str, model: Frame) -> Any:
    """A message sealed by the book, but for one zero too many behind its content."""
    honest = envelope.pad
    try:
        envelope.pad = lambda content: honest(content) + b"\0"
        frame = sender.seal(recipient, rosters, b"padded", model.ts)
    finally:
        envelope.pad = honest
    return frame.to_wire()


def attachment_documents() -> Document:
    doc = Document("Attachments")
    doc.good("cid of hello", "cid", block=b"hello")
    key = draw("attachment")
    small = doc.good("seal a small one", "attachment-seal", key=key, content=b"hello", repeat=1)
    doc.good("seal nothing", "attachment-seal", key=key, content=b"", repeat=1)
    doc.good("seal one full block", "attachment-seal", key=key, content=b"\7", repeat=262_128)
    doc.good("seal two blocks", "attachment-seal", key=key, content=b"\7", repeat=262_129)
    descriptor = doc.blob("descriptor", small["descriptor"])
    _, blocks = attachments.seal(b"hello", lambda _: key)
    doc.good("open", "attachment-open", descriptor=descriptor, blocks=blocks)
    doc.bad("another block", "attachment-open", "decrypt", descriptor=descriptor, blocks=[b"other"])
    doc.bad(
        "another size",
        "attachment-open",
        "decrypt",
        descriptor=edited(descriptor, 40, 1, b"\6"),
        blocks=blocks,
    )
    doc.bad(
        "two blocks for five bytes",
        "attachment-open",
        "decode",
        descriptor=edited(descriptor, 42, 1, b"\2"),
        blocks=blocks,
    )
    for name, edit, error in (
        ("descriptor, another version", (0, 1, b"\3"), "unsupported_suite"),
        ("descriptor, a byte too many", (len(small["descriptor"]), 0, b"\0"), "decode"),
        (
            "two blocks for five bytes, both named",
            (33, 10, (5).to_bytes(8, "big") + b"\0\2" + bytes(32)),
            "decode",
        ),
        (
            "one block for more than one holds",
            (33, 10, (262_129).to_bytes(8, "big") + b"\0\1"),
            "decode",
        ),
        ("no block", (33, 42, bytes(10)), "decode"),
        (
            "65 blocks",
            (33, 10, (64 * 262_128 + 1).to_bytes(8, "big") + b"\0\x41" + bytes(32 * 64)),
            "decode",
        ),
    ):
        broken = edited(descriptor, *edit)
        doc.bad(name, "attachment-open", error, descriptor=broken, blocks=blocks)
    for size in (4, 6):
        block = primitives.seal(
            attachments._block_key(key, size),
            attachments._nonce(0),
            b"hello",
            attachments._data(0, 1),
        )
        lying = attachments.Attachment(key, size, (attachments.cid(block),))
        doc.bad(
            f"five bytes that are said to be {size}",
            "attachment-open",
            "decrypt",
            descriptor=lying.encode(),
            blocks=[block],
        )
    most = edited(
        descriptor, 33, 10, (64 * 262_128).to_bytes(8, "big") + b"\0\x40" + bytes(32 * 63)
    )
    doc.bad(
        "64 blocks, and the first is not the one",
        "attachment-open",
        "decrypt",
        descriptor=most,
        blocks=[b""] * 64,
    )
    return doc


def documents() -> dict[str, str]:
    """Every vector file's name and text."""
    pinned = Pinned()
    honest = primitives.mldsa_sign
    primitives.mldsa_sign = pinned.sign
    try:
        alice, bob = Person("alice", "phone", "desk"), Person("bob", "laptop", "desk")
        made = {
            "crypto-basics.json": basics().text,
            "crypto-identity.json": identities(alice, bob).text,
            "crypto-devices.json": device_documents(alice, bob).text,
            "crypto-enrolment.json": enrolments(alice, bob).text,
            "crypto-handshake.json": handshakes(alice, bob, pinned).text,
            "crypto-ratchet.json": ratchets().text,
            "crypto-sessions.json": session_document().text,
            "crypto-messages.json": messages(alice, bob, pinned).text,
            "crypto-attachments.json": attachment_documents().text,
        }
    finally:
        primitives.mldsa_sign = honest
    made["pinned.json"] = json.dumps(pinned.used, indent=1, sort_keys=True) + "\n"
    return made


if __name__ == "__main__":
    for name, text in documents().items():
        (HERE / name).write_text(text)
