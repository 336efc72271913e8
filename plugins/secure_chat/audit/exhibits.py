"""What an auditor has kept or was given, read from files: keys, checkpoints, proofs, statements.

Everything here is checked before it is used; nothing of it is the server's word.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from plugins.secure_chat.core.dialects import Line, NotARecord, parse
from plugins.secure_chat.core.merkle import ProofInvalid, leaf_hash, verify_inclusion
from plugins.secure_chat.core.nesting import parse_json
from plugins.secure_chat.core.note import (
    Checkpoint,
    InclusionProof,
    NoteMalformed,
    NoteRefused,
    Verifier,
    open_checkpoint,
    parse_proof,
)
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.core.rewards import RULES, STATEMENT_LABEL, rules_hash
from plugins.secure_chat.errors import LedgerBroken, LedgerUnusable
from plugins.secure_chat.rewards.ledger import fold_ledger
from plugins.secure_chat.transparency.keys import verifier

_MAX_FILE: Final = 64 << 20  # bytes; a statement of 100,000 records is under 30 MB


def read_keys(path: Path) -> tuple[Verifier, ...]:
    """A log's verifier keys, one a line: all of them must have signed. Raises LedgerUnusable."""
    try:
        keys = tuple(verifier(line) for line in _read(path, "the keys").decode().split())
    except (UnicodeDecodeError, NoteMalformed) as error:
        raise LedgerUnusable(f"the keys cannot be read: {error}") from None
    if not keys or len({each.key.name for each in keys}) != 1:
        raise LedgerUnusable("the keys are not those of one log")
    return keys


def read_checkpoint(path: Path, keys: Sequence[Verifier]) -> Checkpoint:
    """A saved checkpoint that every key has signed. Raises LedgerUnusable."""
    return _opened(_read(path, "the checkpoint"), keys)


def _opened(note: bytes, keys: Sequence[Verifier]) -> Checkpoint:
    if not keys:
        raise LedgerUnusable("a checkpoint is worth nothing without the log's keys: give --key")
    try:
        return open_checkpoint(note, keys, keys[0].key.name)
    except (NoteMalformed, NoteRefused) as error:
        raise LedgerUnusable(f"the checkpoint is not one of the log's: {error}") from None


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof file, and the checkpoint in it, whose signatures were checked."""

    proof: InclusionProof
    checkpoint: Checkpoint

    @property
    def position(self) -> int:
        return self.proof.index + 1

    def holds(self, line: bytes) -> bool:
        """Whether ``line`` is in the checkpoint's tree at this place."""
        try:
            verify_inclusion(
                leaf_hash(line),
                self.proof.index,
                self.checkpoint.size,
                self.proof.hashes,
                self.checkpoint.root,
            )
        except ProofInvalid:
            return False
        return True

    def record(self) -> Line:
        """The record that the file itself shows and proves. Raises LedgerUnusable."""
        line = self.proof.extra
        if not line:
            raise LedgerUnusable("the proof has no record in it: give the ledger as well")
        try:
            return parse(line, self.position)
        except NotARecord as error:
            raise LedgerUnusable(f"what the proof shows is no ledger record: {error}") from None


def read_proof(path: Path, keys: Sequence[Verifier]) -> Proof:
    """A proof file whose checkpoint every key has signed; the record in it, if there is one, is
    proven by it. Raises LedgerUnusable."""
    try:
        proof = parse_proof(_read(path, "the proof"))
    except NoteMalformed as error:
        raise LedgerUnusable(f"the proof cannot be read: {error}") from None
    opened = Proof(proof, _opened(proof.checkpoint, keys))
    if proof.extra and not opened.holds(proof.extra):
        raise LedgerUnusable("the proof does not show that its record is in the log")
    return opened


@dataclass(frozen=True, slots=True)
class StatementVerdict:
    """What recomputing a reward statement came to."""

    epoch: int
    position: int
    difference: str | None  # where it differs first; None: to the byte what the ledger gives

    def as_json(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "position": self.position,
            "agrees": self.difference is None,
            "difference": self.difference,
        }


def check_statement(path: Path, ledger: Path, audited: Head) -> StatementVerdict:
    """Recompute a reward statement from the audited ledger and compare.

    Raises LedgerUnusable for what is no statement, or one under other rules.
    """
    data = _read(path, "the statement")
    try:
        said = parse_json(data)
        if said["statement"] != STATEMENT_LABEL:
            raise ValueError("another file")
        epoch, rules = int(said["epoch"]), str(said["rules"]["hash"])
        head = Head(int(said["ledger"]["position"]), str(said["ledger"]["event_hash"]))
        if head.position < 0:
            raise ValueError("no position")
    except (ValueError, KeyError, TypeError, OverflowError):
        raise LedgerUnusable("this is no reward statement") from None
    if rules != rules_hash(RULES):
        raise LedgerUnusable("the statement was made under other rules than are known here")
    if head.position > audited.position:
        gone = f"it is of {head.position} records; the ledger has {audited.position}"
        return StatementVerdict(epoch, head.position, gone)
    recomputed = None
    try:
        for folded in fold_ledger(ledger, head):
            if folded.epoch.number == epoch:
                recomputed = folded.statement
    except LedgerBroken:
        other = f"the record at {head.position} is not the one that it names"
        return StatementVerdict(epoch, head.position, other)
    if recomputed is None:
        return StatementVerdict(epoch, head.position, "the ledger has no such epoch up to there")
    difference = None if recomputed == data else _difference(said, json.loads(recomputed))
    return StatementVerdict(epoch, head.position, difference)


def _difference(said: dict[str, Any], right: dict[str, Any]) -> str:
    """The first thing that a statement says otherwise, as a person would look for it."""
    if not isinstance(said.get("wallets"), list) or not isinstance(said.get("totals"), dict):
        return "it does not have the fields of a statement"
    lines = {str(line.get("wallet")): line for line in said["wallets"] if isinstance(line, dict)}
    for line in right["wallets"]:
        given = lines.pop(line["wallet"], None)
        if given != line:
            what = "nothing" if given is None else given.get("reward")
            return f"{line['wallet']}: it says {what}, the ledger gives {line['reward']}"
    if lines:
        return f"{min(lines)}: the ledger gives nothing"
    for name in sorted(right["totals"]):
        if said["totals"].get(name) != right["totals"][name]:
            return f"the total of {name}: the ledger gives {right['totals'][name]}"
    return "it is not written as statements are"


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise LedgerUnusable(f"{what} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise LedgerUnusable(f"{what} cannot be read: the file is too large")
    return data
