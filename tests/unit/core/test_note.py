"""core/note.py: notes, checkpoints and proof files are C2SP's to the byte, and bad ones refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from plugins.secure_chat.core.note import (
    COSIGNATURE_ML_DSA_44,
    ED25519,
    MAX_SIGNATURES,
    Checkpoint,
    InclusionProof,
    Note,
    NoteMalformed,
    NoteRefused,
    Signature,
    VerifierKey,
    cosigned_message,
    key_id,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_key,
    parse_note,
    parse_proof,
)
from plugins.secure_chat.transparency.keys import CheckpointSigner, verifier

# The example of golang.org/x/mod/sumdb/note, the reference implementation.
KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PRIVATE = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6"
    "KE6RyyBwJnAM=\n"
)
NOTE = f"{TEXT}\n{LINE}".encode()

# The example of c2sp.org/tlog-checkpoint.
CHECKPOINT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
COSIGNED = (
    CHECKPOINT + "\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBI"
    "fZ+qnA==\n"
).encode()

VECTOR: dict[str, Any] = json.loads((Path(__file__).parent / "note_vectors.json").read_text())
ML_DSA_NOTE = ("\n".join(VECTOR["lines"]) + "\n").encode()

SIGNER = CheckpointSigner("example.com/log", b"\x01" * 32, b"\x02" * 32)
HEAD = Checkpoint("example.com/log", 5, bytes(range(32)))


def test_the_reference_note_opens_with_its_key() -> None:
    note = open_note(NOTE, [verifier(KEY)])
    assert note.text == TEXT
    assert [line.name for line in note.signatures] == ["PeterNeumann"]
    assert note.encode() == NOTE


def test_the_reference_key_signs_the_reference_note() -> None:
    seed = base64.b64decode(PRIVATE)[1:]
    key = parse_key(KEY)
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(TEXT.encode())
    assert Note(TEXT, (Signature(key.name, key.key_id, signature),)).encode() == NOTE
    assert str(key) == KEY
    assert key.kind == ED25519


def test_a_published_ml_dsa_checkpoint_opens_with_its_key() -> None:
    key = parse_key(VECTOR["key"])
    assert key.kind == COSIGNATURE_ML_DSA_44
    checkpoint = open_checkpoint(ML_DSA_NOTE, [verifier(VECTOR["key"])], "example.com/mldsa-log")
    assert checkpoint.size == 1
    assert parse_note(ML_DSA_NOTE).encode() == ML_DSA_NOTE


def test_the_example_checkpoint_is_read_and_written_as_the_specification_has_it() -> None:
    note = parse_note(COSIGNED)
    checkpoint = parse_checkpoint(note.text)
    assert checkpoint.text == CHECKPOINT
    assert checkpoint.origin == "example.com/behind-the-sofa"
    assert checkpoint.size == 20852163
    assert [line.key_id.hex() for line in note.signatures] == ["033de0ae", "8d66cf3f"]
    assert note.encode() == COSIGNED


def test_what_an_ml_dsa_cosignature_signs_has_the_layout_of_the_specification() -> None:
    assert cosigned_message("mirror.test/m1", 1679315147, HEAD) == (
        b"subtree/v1\n\0"
        b"\x0emirror.test/m1"
        b"\x00\x00\x00\x00\x64\x18\x50\xcb"
        b"\x0fexample.com/log"
        b"\0\0\0\0\0\0\0\0"
        b"\0\0\0\0\0\0\0\5" + bytes(range(32))
    )
    with pytest.raises(ValueError, match="255"):
        cosigned_message("n" * 256, 0, HEAD)
    with pytest.raises(ValueError, match="timestamp"):
        cosigned_message("n", 1 << 63, HEAD)


def test_our_checkpoints_carry_both_signatures() -> None:
    data = SIGNER.sign(HEAD, 1_700_000_000).encode()
    assert open_checkpoint(data, SIGNER.verifiers(), "example.com/log") == HEAD
    lines = parse_note(data).signatures
    assert [len(line.signature) for line in lines] == [64, 8 + 2420]
    assert [line.key_id for line in lines] == [
        SIGNER.ed25519_key.key_id,
        SIGNER.ml_dsa_key.key_id,
    ]


@pytest.mark.parametrize("place", [0, 1])
def test_a_checkpoint_that_one_of_the_two_keys_did_not_sign_is_refused(place: int) -> None:
    note = SIGNER.sign(HEAD, 7)
    single = Note(note.text, (note.signatures[place],)).encode()
    with pytest.raises(NoteRefused, match="must sign"):
        open_checkpoint(single, SIGNER.verifiers(), HEAD.origin)


def test_a_checkpoint_of_another_log_is_refused() -> None:
    data = SIGNER.sign(HEAD, 7).encode()
    with pytest.raises(NoteRefused, match="another log"):
        open_checkpoint(data, SIGNER.verifiers(), "example.com/other")


@pytest.mark.parametrize("field", ["origin", "size", "root"])
@pytest.mark.parametrize("place", [0, 1])
def test_neither_signature_covers_another_tree_head(field: str, place: int) -> None:
    changed = {
        "origin": HEAD._replace(origin="example.com/loG"),
        "size": HEAD._replace(size=6),
        "root": HEAD._replace(root=bytes(32)),
    }[field]
    line = SIGNER.sign(HEAD, 7).signatures[place]
    with pytest.raises(NoteRefused, match="does not verify"):
        open_note(Note(changed.text, (line,)).encode(), SIGNER.verifiers())


def test_the_cosignatures_time_is_signed() -> None:
    line = SIGNER.sign(HEAD, 7).signatures[1]
    later = line._replace(signature=(8).to_bytes(8, "big") + line.signature[8:])
    with pytest.raises(NoteRefused, match="does not verify"):
        open_note(Note(HEAD.text, (later,)).encode(), SIGNER.verifiers())


def test_a_note_with_any_byte_of_its_text_changed_is_refused() -> None:
    for place in range(len(TEXT.encode()) - 1):
        changed = bytearray(NOTE)
        changed[place] ^= 1
        with pytest.raises((NoteRefused, NoteMalformed)):
            open_note(bytes(changed), [verifier(KEY)])


def test_lines_of_unknown_keys_are_passed_over() -> None:
    unknown = Signature("someone.example", b"\1\2\3\4", b"anything")
    note = parse_note(NOTE)
    with_stranger = Note(note.text, (unknown, *note.signatures)).encode()
    assert open_note(with_stranger, [verifier(KEY)]).signatures == note.signatures


@pytest.mark.parametrize("shared", ["name", "key_id"])
def test_a_key_is_known_by_name_and_id_together(shared: str) -> None:
    line = parse_note(NOTE).signatures[0]
    other = line._replace(key_id=b"\0\0\0\0") if shared == "name" else line._replace(name="Neumann")
    with pytest.raises(NoteRefused, match="no known key"):
        open_note(Note(TEXT, (other,)).encode(), [verifier(KEY)])


def test_a_false_line_of_a_known_key_refuses_the_whole_note() -> None:
    line = parse_note(NOTE).signatures[0]
    false = line._replace(signature=bytes(64))
    good = SIGNER.sign(HEAD, 7)
    with pytest.raises(NoteRefused, match="does not verify"):
        open_note(Note(TEXT, (false, line)).encode(), [verifier(KEY)])
    mixed = Note(good.text, (good.signatures[0], good.signatures[1]._replace(signature=b"x" * 9)))
    with pytest.raises(NoteRefused, match="does not verify"):
        open_note(mixed.encode(), SIGNER.verifiers())


def test_further_lines_of_a_key_are_passed_over() -> None:
    line = parse_note(NOTE).signatures[0]
    again = Note(TEXT, (line, line._replace(signature=bytes(64)), line))
    assert open_note(again.encode(), [verifier(KEY)]).signatures == (line,)


def test_a_note_that_nobody_known_signed_is_refused() -> None:
    with pytest.raises(NoteRefused, match="no known key"):
        open_note(NOTE, SIGNER.verifiers())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"text\n", "no signature lines"),
        (b"text\n\n", "no signature lines"),
        (NOTE[:-1], "no signature lines"),
        (NOTE.replace(b"\n\n", b"\n"), "no signature lines"),
        (NOTE.replace(b"\xe2\x80\x94 ", b"-- "), "not one"),
        (NOTE.replace(b"PeterNeumann x", b"PeterNeumannx"), "not one"),
        (NOTE.replace(b"PeterNeumann x", b"Peter+Neumann x"), "key name"),
        (NOTE.replace(b"PeterNeumann x", "Peter\u00a0Neumann x".encode()), "key name"),
        (NOTE.replace(b"AM=\n", b"AM\n"), "base64"),
        (NOTE.replace(b"AM=\n", b"AN=\n"), "canonical"),
        (NOTE.replace(b"AM=\n", b"A-=\n"), "base64"),
        (TEXT.encode() + "\n— name AAAAAA==\n".encode(), "no signature"),
        (NOTE.replace(b"If", b"I\rf"), "control"),
        (NOTE.replace(b"If", b"I\0f"), "control"),
        (NOTE.replace(b"If", b"I\xff"), "UTF-8"),
        (NOTE + LINE.encode() * MAX_SIGNATURES, "too many"),
        (b"a" * (1 << 20) + NOTE, "too long"),
    ],
)
def test_what_is_no_note_is_refused_with_its_defect(data: bytes, reason: str) -> None:
    with pytest.raises(NoteMalformed, match=reason):
        parse_note(data)


def test_sixteen_signatures_are_read() -> None:
    """signed-note: a verifier accepts at least 16."""
    note = Note(TEXT, tuple(Signature(f"k{n}", b"\0\0\0\1", b"s") for n in range(16)))
    assert parse_note(note.encode()) == note


def test_a_text_may_have_empty_lines_and_the_last_one_ends_it() -> None:
    note = Note("a\n\nb\n", (Signature("k", b"abcd", b"sig"),))
    assert parse_note(note.encode()) == note


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        KEY.replace("c74f20a3", "c74f20a4"),
        KEY.replace("c74f20a3", "C74F20A3"),
        KEY.replace("Peter", "peter"),
        KEY.replace("PeterNeumann", ""),
        KEY[:-1],
        KEY + "=",
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
    ],
)
def test_a_mangled_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(NoteMalformed):
        verifier(text)


@pytest.mark.parametrize("kind", [0x00, 0x02, 0x04, 0xFF])
def test_keys_of_types_that_do_not_sign_here_are_refused(kind: int) -> None:
    key = VerifierKey("example.com/log", kind, bytes(range(32)))
    with pytest.raises(NoteMalformed, match="no type"):
        verifier(str(key))


def test_keys_of_the_wrong_length_are_refused() -> None:
    for kind in (ED25519, COSIGNATURE_ML_DSA_44):
        with pytest.raises(NoteMalformed, match="length"):
            verifier(str(VerifierKey("example.com/log", kind, bytes(33))))


def test_one_key_has_another_id_for_each_use_and_name() -> None:
    public = bytes(32)
    ids = {key_id(name, kind, public) for name in ("a", "b") for kind in (0x01, 0x06)}
    assert len(ids) == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n1\n",
        CHECKPOINT[:-1],
        CHECKPOINT.replace("20852163", "020852163"),
        CHECKPOINT.replace("20852163", "-1"),
        CHECKPOINT.replace("20852163", "２"),
        CHECKPOINT.replace("20852163", "1e3"),
        CHECKPOINT.replace("CsUY", "CsU"),
        CHECKPOINT.replace("q2I=", "q2J="),
        CHECKPOINT.replace("example.com/behind-the-sofa", ""),
        CHECKPOINT + "\n",
        CHECKPOINT + "\nextension\n",
        "origin\n1\nAAAA\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteMalformed):
        parse_checkpoint(text)


def test_extension_lines_are_passed_over() -> None:
    assert parse_checkpoint(CHECKPOINT + "more\n") == parse_checkpoint(CHECKPOINT)


def test_the_empty_tree_has_a_checkpoint() -> None:
    empty = Checkpoint("example.com/log", 0, bytes(32))
    assert parse_checkpoint(empty.text) == empty


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=64),
)
def test_proof_files_are_read_as_written(index: int, hashes: list[bytes]) -> None:
    proof = InclusionProof(index, tuple(hashes), COSIGNED)
    assert parse_proof(proof.encode()) == proof


def test_a_proof_file_has_the_lines_of_the_specification() -> None:
    proof = InclusionProof(73894, (bytes(32),), COSIGNED)
    zero = base64.b64encode(bytes(32)).decode()
    assert proof.encode() == (
        f"c2sp.org/tlog-proof@v1\nindex 73894\n{zero}\n\n".encode() + COSIGNED
    )
    with_extra = proof.encode().replace(b"index", b"extra YWJj\nindex")
    assert parse_proof(with_extra) == proof.with_extra(b"abc")
    assert proof.with_extra(b"abc").encode() == with_extra


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"proof@v1", b"proof@v2"),
        (b"index 7", b"index 07"),
        (b"index 7", b"indeks 7"),
        (b"\n\n", b"\n"),
        (b"AAAA=", b"AAAB="),
        (b"AAAA=", b"AA="),
        (b"index", "índex".encode()),
    ],
)
def test_what_is_no_proof_file_is_refused(old: bytes, new: bytes) -> None:
    data = InclusionProof(7, (bytes(32),), b"checkpoint\n").encode()
    with pytest.raises(NoteMalformed):
        parse_proof(data.replace(old, new))


def test_a_signer_refuses_a_name_or_seed_that_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        CheckpointSigner("example.com/log", b"short", bytes(32))
    with pytest.raises(ValueError, match="key name"):
        CheckpointSigner("two words", bytes(32), bytes(32))
