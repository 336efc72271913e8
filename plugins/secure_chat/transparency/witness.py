"""What a client holds a log to: its own messages are included, and no two checkpoints disagree.

Everything here checks; fetching is the client's. Whatever is raised is an alarm: the server, or
somebody in between, shows a ledger that is not the one it acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence

from plugins.secure_chat.core.dialects import NotARecord, parse
from plugins.secure_chat.core.merkle import (
    ProofInvalid,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from plugins.secure_chat.core.note import (
    Checkpoint,
    NoteMalformed,
    NoteRefused,
    Verifier,
    open_checkpoint,
    parse_proof,
)
from plugins.secure_chat.errors import ClientError


class Alarm(ClientError):
    """The log broke its promise. The text says which."""


class LogWitness:
    """Remembers the largest checkpoint of one log that it has seen, and holds the next ones to it.

    ``last`` is what must be kept over restarts: without it a rollback does not show.
    """

    def __init__(
        self, origin: str, verifiers: Sequence[Verifier], last: Checkpoint | None = None
    ) -> None:
        """``verifiers``: every key that must have signed; they come from elsewhere than the log."""
        self._origin = origin
        self._verifiers = tuple(verifiers)
        self.last = last

    def open(self, note: bytes) -> Checkpoint:
        """The checkpoint in ``note``, which every key has signed. Raises Alarm.

        The caller must still ``see`` it, with a consistency proof from ``last.size`` when it is
        larger (or from its size to ``last.size`` when it is smaller).
        """
        try:
            return open_checkpoint(note, self._verifiers, self._origin)
        except (NoteMalformed, NoteRefused) as error:
            raise Alarm(f"the checkpoint is not the log's: {error}") from None

    def see(self, checkpoint: Checkpoint, proof: Sequence[bytes]) -> None:
        """Hold an opened checkpoint against the last one; it becomes the last when it is larger.

        Raises Alarm when the proof does not show that the smaller tree begins the larger one. An
        older checkpoint is no alarm: caches serve them.
        """
        last = self.last
        if last is None:
            self.last = checkpoint
            return
        old, new = sorted((last, checkpoint), key=lambda each: each.size)
        try:
            verify_consistency(old.size, new.size, old.root, new.root, proof)
        except ProofInvalid as error:
            raise Alarm(f"two checkpoints of the log disagree: {error}") from None
        if checkpoint.size > last.size:
            self.last = checkpoint

    def check_included(
        self, proof_file: bytes, line: bytes, position: int, event_hash: str
    ) -> Checkpoint:
        """Check that the record that was acknowledged at ``position`` with ``event_hash`` is in the
        log, by a proof file and the ledger ``line`` that it is about.

        (1) The line is a record with the acknowledged hash, and that hash is right. (2) The proof
        is about that position. (3) Its checkpoint is signed. (4) The line is in its tree. Returns
        that checkpoint. Raises Alarm. The caller must still compare the record's metadata with the
        message it sent, and ``see`` the checkpoint.
        """
        try:
            parsed = parse(line, position)
            proof = parse_proof(proof_file)
        except (NotARecord, NoteMalformed) as error:
            raise Alarm(f"the log's answer cannot be read: {error}") from None
        if not parsed.hash_is_right or parsed.record.event_hash != event_hash:
            raise Alarm("the record at this position is not the one that was acknowledged")
        if proof.index != position - 1:
            raise Alarm("the proof is about another position")
        checkpoint = self.open(proof.checkpoint)
        try:
            verify_inclusion(
                leaf_hash(line), proof.index, checkpoint.size, proof.hashes, checkpoint.root
            )
        except ProofInvalid as error:
            raise Alarm(f"the record is not in the log: {error}") from None
        return checkpoint
