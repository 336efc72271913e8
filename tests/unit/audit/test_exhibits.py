"""Threat A23 against what an auditor has kept: checkpoints, proofs, earlier audits, statements.

Exhaustive over a small ledger: every roll-back, and a fork at every record.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import typer
from typer.testing import CliRunner

from plugins.secure_chat.audit.spans import LedgerFile
from plugins.secure_chat.audit.tree import against_checkpoints
from plugins.secure_chat.cli.audit import audit
from plugins.secure_chat.core.note import parse_proof
from plugins.secure_chat.core.records import Head
from plugins.secure_chat.errors import LedgerUnusable
from plugins.secure_chat.rewards.ledger import fold_ledger
from plugins.secure_chat.transparency.keys import CheckpointSigner
from plugins.secure_chat.transparency.log import TransparencyLog
from tests.ledgers import writers
from tests.ledgers.writers import Ledger

app = typer.Typer()
app.command("audit")(audit)

RECORDS: Final = 9
SIGNER: Final = CheckpointSigner("example.com/ledger", b"\x01" * 32, b"\x02" * 32)
OTHER: Final = CheckpointSigner("example.com/ledger", b"\x03" * 32, b"\x04" * 32)


def honest() -> Ledger:
    ledger = Ledger().add("v1", writers.login())
    ledger.add_all("v7", [*writers.registration(1), *writers.registration(2)])
    for seq in (1, 2):
        ledger.add("v1", writers.secure_message(seq))
        ledger.add("v7", writers.secure_message(seq, sender=2, recipient=1))
    return ledger


HONEST: Final = honest()


def forked(at: int) -> Ledger:
    """The ledger up to before position ``at``, and another history of the same length from there:
    every line follows and is right in itself."""
    kept = HONEST.lines[: at - 1]
    fork = Ledger(list(kept), json.loads(kept[-1])["hash"] if kept else writers.ZEROS)
    for number in range(at, RECORDS + 1):
        fork.add("v7", writers.login(100 + number))
    return fork


class Case:
    """A ledger file and what an auditor has: saved while the ledger was honest."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "ledger.jsonl"
        self.saved = directory / "saved"
        self.keys = directory / "keys"
        self.keys.write_text(f"{SIGNER.ed25519_key}\n{SIGNER.ml_dsa_key}\n")
        self.write(HONEST)
        self.log = TransparencyLog(self.path, self.saved, SIGNER, clock=lambda: 1.0)
        self.log.open(RECORDS)
        self.log.publish()
        self.checkpoint = self.saved / "checkpoint"

    def write(self, ledger: Ledger) -> None:
        self.path.write_bytes(ledger.data)

    def checkpoint_of(self, size: int) -> Path:
        """A checkpoint saved when the ledger had ``size`` records."""
        folder = self.directory / f"saved-{size}"
        log = TransparencyLog(self.path, folder, SIGNER, clock=lambda: 1.0)
        log.open(size)
        log.publish()
        return folder / "checkpoint"

    def proof_of(self, position: int, *, record: bool = True) -> Path:
        proof = self.log.inclusion(position)
        if record:
            proof = proof.with_extra(self.log.entry(position))
        path = self.directory / f"{position}.proof"
        path.write_bytes(proof.encode())
        return path

    def run(self, *arguments: object) -> tuple[int, dict[str, Any]]:
        given = [str(argument) for argument in (*arguments, "--json")]
        result = CliRunner().invoke(app, given)
        assert not isinstance(result.exception, Exception) or isinstance(
            result.exception, SystemExit
        ), result.exception
        return result.exit_code, json.loads(result.stdout)

    def held(self, *arguments: object) -> tuple[int, dict[str, Any]]:
        return self.run(self.path, "--key", self.keys, *arguments)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def found(outcome: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    """Which line is named, and for what."""
    status, said = outcome
    assert (status, said["verdict"]) == (1, "broken")
    assert said["records"] == said["finding"]["line"] - 1, "only what is before it is counted"
    return said["finding"]["line"], said["finding"]["defect"]


def test_an_honest_ledger_bears_out_all_that_was_kept(case: Case) -> None:
    grown = Ledger(list(HONEST.lines), HONEST.head).add("v7", writers.login())
    proofs = [case.proof_of(position) for position in range(1, RECORDS + 1)]
    checkpoints = [case.checkpoint_of(size) for size in range(RECORDS + 1)]
    for ledger in (HONEST, grown):
        case.write(ledger)
        status, said = case.held(
            "--tiles", case.saved, *given("--proof", proofs), *given("--checkpoint", checkpoints)
        )
        assert (status, said["verdict"]) == (0, "sound"), said["finding"]
        assert [one["size"] for one in said["checkpoints"]] == list(range(RECORDS + 1))
        assert [one["position"] for one in said["proofs"]] == list(range(1, RECORDS + 1))


def given(option: str, paths: list[Path]) -> list[object]:
    return [part for path in paths for part in (option, path)]


@pytest.mark.parametrize("kept", range(RECORDS))
def test_a_ledger_rolled_back_misses_the_line_after_its_end(case: Case, kept: int) -> None:
    case.write(Ledger(HONEST.lines[:kept]))
    assert case.run(case.path)[0] == 0, "a chain does not show that its end is missing"
    assert found(case.held("--checkpoint", case.checkpoint)) == (kept + 1, "checkpoint")


@pytest.mark.parametrize("at", range(1, RECORDS + 1))
def test_a_fork_is_named_at_its_first_record_by_the_saved_tiles(case: Case, at: int) -> None:
    case.write(forked(at))
    assert case.run(case.path)[0] == 0, "every line of a fork follows"
    named = case.held("--checkpoint", case.checkpoint, "--tiles", case.saved)
    assert found(named) == (at, "checkpoint")


@pytest.mark.parametrize("at", range(1, RECORDS + 1))
def test_without_tiles_a_fork_lies_between_two_checkpoints(case: Case, at: int) -> None:
    checkpoints = [case.checkpoint_of(size) for size in (3, 6, RECORDS)]
    case.write(forked(at))
    line, defect = found(case.held(*given("--checkpoint", checkpoints)))
    assert defect == "checkpoint"
    assert line == next(size for size in (3, 6, RECORDS) if size >= at)


@pytest.mark.parametrize("at", range(1, RECORDS + 1))
def test_a_record_that_was_proven_and_is_another_now_is_named(case: Case, at: int) -> None:
    proofs = [case.proof_of(position) for position in range(1, RECORDS + 1)]
    case.write(forked(at))
    line, _ = found(case.held("--proof", proofs[at - 1]))
    assert line == at
    if at > 1:
        # The proof of a record before the fork holds; the checkpoint that it comes with does not.
        assert found(case.held("--proof", proofs[at - 2])) == (RECORDS, "checkpoint")


def test_a_broken_line_is_named_before_what_was_kept_is_asked(case: Case) -> None:
    for at in range(1, RECORDS + 1):
        lines = list(HONEST.lines)
        lines[at - 1] = lines[at - 1].replace(b'"metadata":', b'"metadata" :', 1)
        case.write(Ledger(lines))
        line, defect = found(case.held("--checkpoint", case.checkpoint, "--tiles", case.saved))
        assert (line, defect) == (at, "bytes")


def test_a_proof_stands_alone_with_its_record_in_it(case: Case) -> None:
    for position in range(1, RECORDS + 1):
        status, said = case.run("--key", case.keys, "--proof", case.proof_of(position))
        record = json.loads(HONEST.lines[position - 1])
        assert (status, said["verdict"], said["position"]) == (0, "proven", position)
        assert (said["event_hash"], said["wallet"]) == (record["hash"], record["wallet"])
    bare = case.proof_of(1, record=False)
    assert case.run("--key", case.keys, "--proof", bare)[0] == 2
    assert case.held("--proof", bare)[0] == 0, "with the ledger it needs no record"


def test_a_changed_proof_is_no_proof(case: Case) -> None:
    path = case.proof_of(3)
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert case.run("--key", case.keys, "--proof", path)[0] == 2, at


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda case: case.keys.write_text(f"{OTHER.ed25519_key}\n{OTHER.ml_dsa_key}\n"), "log's"),
        (lambda case: case.keys.write_text(""), "one log"),
        (lambda case: case.keys.write_text("a key"), "keys"),
        (lambda case: case.keys.unlink(), "No such file"),
        (lambda case: case.checkpoint.write_bytes(b"not a note"), "checkpoint"),
        (lambda case: case.checkpoint.unlink(), "No such file"),
        (lambda case: shutil.rmtree(case.saved / "tile"), "tiles"),
        (lambda case: _overwrite(case.saved / "tile/0/000.p/9"), "tile"),
    ],
)
def test_what_was_kept_must_itself_be_sound(
    case: Case, prepare: Callable[[Case], object], reason: str
) -> None:
    case.write(forked(4))
    prepare(case)
    status, said = case.held("--checkpoint", case.checkpoint, "--tiles", case.saved)
    assert (status, said["verdict"]) == (2, "unusable")
    assert reason in said["reason"]


def _overwrite(tile: Path) -> None:
    tile.write_bytes(bytes(len(tile.read_bytes())))


def test_a_saved_tile_that_was_changed_convicts_nobody(tmp_path: Path) -> None:
    """A full tile is not part of the root itself: a leaf in it must be vouched for."""
    path, saved = tmp_path / "lines", tmp_path / "saved"
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(300)))
    log = TransparencyLog(path, saved, SIGNER, clock=lambda: 1.0)
    log.open(300)
    signed = [log.publish().checkpoint]
    with LedgerFile(path) as file:
        assert against_checkpoints(file, file.size(), signed, tiles=saved) is None
        tile = saved / "tile/0/000"
        whole = tile.read_bytes()
        tile.write_bytes(whole[:32] + bytes(32) + whole[64:])
        with pytest.raises(LedgerUnusable, match="not that of the checkpoint"):
            against_checkpoints(file, file.size(), signed, tiles=saved)
    path.write_bytes(path.read_bytes().replace(b"line 1\n", b"line X\n"))
    tile.write_bytes(whole)
    with LedgerFile(path) as file:
        finding = against_checkpoints(file, file.size(), signed, tiles=saved)
    assert finding is not None
    assert finding.position == 2


def test_a_checkpoint_without_keys_is_worth_nothing(case: Case) -> None:
    status, said = case.run(case.path, "--checkpoint", case.checkpoint)
    assert status == 2
    assert "give --key" in said["reason"]


# -- going on from an earlier audit ----------------------------------------------------------------


@pytest.mark.parametrize("first", range(RECORDS + 1))
def test_an_audit_that_goes_on_says_what_a_whole_one_says(case: Case, first: int) -> None:
    state = case.directory / "audit.json"
    case.write(Ledger(HONEST.lines[:first]))
    assert case.run(case.path, "--save", state)[0] == 0
    case.write(HONEST)
    whole = case.held("--checkpoint", case.checkpoint)
    assert case.held("--checkpoint", case.checkpoint, "--since", state, "--save", state) == whole
    assert case.held("--checkpoint", case.checkpoint, "--since", state) == whole
    bad = Ledger(list(HONEST.lines), HONEST.head).add("v7", writers.secure_message(2))
    case.write(bad)
    assert found(case.run(case.path, "--since", state)) == (RECORDS + 1, "sequence")


def test_lines_of_an_earlier_audit_are_not_read_again(case: Case) -> None:
    state = case.directory / "audit.json"
    assert case.run(case.path, "--save", state)[0] == 0
    lines = list(HONEST.lines)
    lines[4] = lines[4].replace(b"0", b"1", 1)
    case.write(Ledger(lines))
    assert case.run(case.path, "--since", state)[0] == 0
    assert found(case.run(case.path)) == (5, "hash")


@pytest.mark.parametrize("at", range(1, RECORDS + 1))
def test_a_ledger_that_no_longer_holds_the_earlier_audit_is_broken(case: Case, at: int) -> None:
    state = case.directory / "audit.json"
    assert case.run(case.path, "--save", state)[0] == 0
    for other in (forked(at), Ledger(HONEST.lines[: at - 1])):
        case.write(other)
        status, said = case.run(case.path, "--since", state)
        assert (status, said["verdict"]) == (1, "broken")
        assert said["finding"]["defect"] == "head"


def test_nothing_is_saved_of_a_broken_ledger(case: Case) -> None:
    state = case.directory / "audit.json"
    case.path.write_bytes(HONEST.data[:-5])
    assert case.run(case.path, "--save", state)[0] == 1
    assert not state.exists()


@pytest.mark.parametrize("text", ["", "{}", '{"audit": "atlas/secure-chat/v2/audit"}', "[]"])
def test_what_is_no_earlier_audit_is_unusable(case: Case, text: str) -> None:
    state = case.directory / "audit.json"
    state.write_text(text)
    assert case.run(case.path, "--since", state)[0] == 2


# -- reward statements -----------------------------------------------------------------------------


@pytest.fixture
def statement(case: Case) -> Path:
    path = case.directory / "epoch-0.json"
    head = Head(RECORDS, HONEST.head)
    *_, last = fold_ledger(case.path, head)
    path.write_bytes(last.statement)
    return path


def test_a_statement_is_recomputed_and_agrees_to_the_byte(case: Case, statement: Path) -> None:
    for ledger in (HONEST, Ledger(list(HONEST.lines), HONEST.head).add("v7", writers.login())):
        case.write(ledger)
        status, said = case.run(case.path, "--statement", statement)
        assert (status, said["reward_statements"][0]["agrees"]) == (0, True)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        (b'"sent":2', b'"sent":3', "0x"),
        (b'"counted":4', b'"counted":5', "counted"),
        (b'"complete":false', b'"complete": false', "written"),
        (b'"wallet":"0x', b'"wallet":"0X', "nothing"),
        (b'"position":9', b'"position":10', "10 records"),
        (b'"position":9', b'"position":8', "not the one"),
        (b'"epoch":0', b'"epoch":1', "no such epoch"),
    ],
)
def test_a_statement_that_says_otherwise_is_refuted_and_the_place_named(
    case: Case, statement: Path, old: bytes, new: bytes, where: str
) -> None:
    data = statement.read_bytes()
    assert old in data
    statement.write_bytes(data.replace(old, new))
    status, said = case.run(case.path, "--statement", statement)
    assert (status, said["verdict"], said["finding"]) == (1, "broken", None)
    assert where in said["reward_statements"][0]["difference"]


@pytest.mark.parametrize("change", [(b'"hash":"', b'"hash":"0'), (b"reward-statement", b"other")])
def test_a_statement_of_other_rules_or_none_is_unusable(
    case: Case, statement: Path, change: tuple[bytes, bytes]
) -> None:
    statement.write_bytes(statement.read_bytes().replace(*change))
    assert case.run(case.path, "--statement", statement)[0] == 2


# -- what a stranger may hand over -----------------------------------------------------------------


def test_every_proof_is_held_also_when_two_are_about_one_position(case: Case) -> None:
    whole = case.proof_of(3, record=False).read_bytes()
    honest_proof, bad = case.directory / "honest.proof", case.directory / "bad.proof"
    honest_proof.write_bytes(whole)
    proof = parse_proof(whole)
    bad.write_bytes(replace(proof, hashes=(bytes(32), *proof.hashes[1:])).encode())
    for proofs in ([honest_proof, bad], [bad, honest_proof], [bad]):
        status, said = case.held(*given("--proof", proofs))
        assert (status, said["verdict"]) == (2, "unusable"), "a wrong proof convicts nobody"
        assert "does not hold" in said["reason"]


def test_a_proof_that_shows_another_record_than_it_proves_is_none(case: Case) -> None:
    forged = parse_proof(case.proof_of(3).read_bytes()).with_extra(HONEST.lines[1][:-1])
    path = case.directory / "forged.proof"
    path.write_bytes(forged.encode())
    for outcome in (case.held("--proof", path), case.run("--key", case.keys, "--proof", path)):
        status, said = outcome
        assert (status, said["verdict"]) == (2, "unusable")
        assert "its record" in said["reason"]


def test_a_checkpoint_larger_than_any_tree_is_refused(case: Case) -> None:
    text, _, signatures = case.checkpoint.read_text().rpartition("\n\n")
    origin, _, root = text.split("\n")
    cosignature_first = "\n".join(reversed(signatures.rstrip("\n").split("\n")))
    for size in (1 << 63, 10**20 - 1):
        case.checkpoint.write_text(f"{origin}\n{size}\n{root}\n\n{cosignature_first}\n")
        status, said = case.held("--checkpoint", case.checkpoint)
        assert (status, said["verdict"]) == (2, "unusable")


@pytest.mark.parametrize("option", ["--since", "--statement", "--certificates"])
def test_json_of_any_depth_or_size_is_refused(case: Case, statement: Path, option: str) -> None:
    state = case.directory / "audit.json"
    assert case.run(case.path, "--save", state)[0] == 0
    hostile = case.directory / "hostile"
    for text in (
        "[" * 200_000,
        state.read_text().replace(f'"size": {RECORDS}', '"size": 1e999'),
        state.read_text().replace('"signed": 4', '"signed": "4"'),
        statement.read_text().replace('"epoch":0', '"epoch":Infinity'),
        statement.read_text().replace('"position":9', '"position":-9'),
    ):
        assert text not in (state.read_text(), statement.read_text())
        hostile.write_text(text)
        status, said = case.run(case.path, option, hostile)
        assert (status, said["verdict"]) == (2, "unusable")


@pytest.mark.parametrize("name", ["\x1b[2J\nledger.jsonl: sound", "\ud800"])
def test_nothing_in_a_statement_can_write_to_the_terminal(
    case: Case, statement: Path, name: str
) -> None:
    said = json.loads(statement.read_text())
    said["wallets"].append({"wallet": name, "reward": "1"})
    statement.write_text(json.dumps(said))
    result = CliRunner().invoke(app, [str(case.path), "--statement", str(statement)])
    assert result.exit_code == 1
    assert "the ledger gives nothing" in result.stdout
    assert "\x1b" not in result.stdout
    assert "\nledger.jsonl" not in result.stdout
    difference = case.run(case.path, "--statement", statement)[1]["reward_statements"][0]
    assert name in difference["difference"]


def test_a_position_beyond_all_numbers_is_said(case: Case, statement: Path) -> None:
    large = 10**400
    text = statement.read_text().replace('"position":9', f'"position":{large}')
    statement.write_text(text)
    status, said = case.run(case.path, "--statement", statement)
    assert (status, said["reward_statements"][0]["position"]) == (1, large)


# -- a careless hand -------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--html", "--save"])
def test_nothing_that_is_read_is_written_over(case: Case, statement: Path, option: str) -> None:
    proof, link = case.proof_of(3), case.directory / "link"
    link.symlink_to(case.path)
    arguments = ("--checkpoint", case.checkpoint, "--proof", proof, "--statement", statement)
    for taken in (case.path, link, case.keys, case.checkpoint, proof, statement):
        before = taken.read_bytes()
        status, said = case.held(*arguments, option, taken)
        assert (status, said["verdict"]) == (2, "unusable")
        assert "files of their own" in said["reason"]
        assert taken.read_bytes() == before
    one = case.directory / "one"
    assert case.held("--html", one, "--save", one)[0] == 2
    assert not one.exists()
    assert case.held("--save", one)[0] == 0
    assert case.held("--since", one, "--save", one)[0] == 0, "an audit goes on from the last"


def test_what_would_not_be_looked_at_is_refused(case: Case) -> None:
    metrics = case.directory / "metrics"
    for useless in (("--tiles", case.saved), ("--metrics", metrics)):
        assert case.held(*useless)[0] == 2
    proof = case.proof_of(3)
    for useless in (("--checkpoint", case.checkpoint), ("--html", case.directory / "page")):
        status, said = case.run("--key", case.keys, "--proof", proof, *useless)
        assert (status, said["ledger"]) == (2, None)
        assert "without a ledger" in said["reason"]
