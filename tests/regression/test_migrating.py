"""The whole way: the host's own records taken over by the command, and every stage gone through.

What the host's route answered, the chat answers: imported, compared, written on, and back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plugins.secure_chat.adoption.records import thread_of
from plugins.secure_chat.cli import app
from plugins.secure_chat.core.stage import Stage
from plugins.secure_chat.legacy.stages import Mismatch
from plugins.secure_chat.mailbox.store import Mailbox
from tests import exports
from tests.plugin.chat_server import ALICE, BOB, CAROL, ChatServer
from tests.regression.legacy_server import LegacyClient, at_stage
from tests.regression.test_contract import is_a_moment
from tests.regression.test_stages import metric

EVERYONE = (ALICE, BOB, CAROL)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def migrate(data: Path, command: str, *arguments: str, status: int = 0) -> dict[str, Any]:
    """The command as an operator gives it; what it says as JSON."""
    options = [*arguments, "--data-dir", str(data), "--json"]
    done = CliRunner().invoke(app, ["migrate", command, *options])
    assert done.exit_code == status, done.output
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def records(data: Path) -> str:
    """The file that the host's own route keeps."""
    return str(data / "legacy_transactions.jsonl")


def take_over(data: Path) -> dict[str, Any]:
    """Import the host's records as they are now, and verify them."""
    migrate(data, "plan", records(data))
    migrate(data, "run", records(data))
    return migrate(data, "verify", records(data))


def compared(server: ChatServer, route: str) -> float:
    """How many reads of a route were compared, whatever came of it."""
    return sum(
        metric(server, f'secure_chat_shadow_reads_total{{result="{result}",route="{route}"}}')
        for result in ("same", "different")
    )


def mismatches(data: Path) -> list[Mismatch]:
    """What the shadow stage recorded, once its server has stopped."""
    mailbox = Mailbox.at(data / "mailbox.sqlite")
    found = mailbox.mismatches()
    mailbox.close()
    return list(found)


def write(legacy: LegacyClient) -> str:
    """What callers of the contract do; an active thread of all."""
    thread = legacy.create(ALICE, BOB, CAROL, title="T", metadata={"a": {"b": [1]}})["thread_id"]
    legacy.post(ALICE, thread, "1", metadata={"k": "v"}, content_type="image/png")
    legacy.post(BOB, thread, "2", message_type="file")
    for creator, status in ((BOB, "ARCHIVED"), (CAROL, "DELETED")):
        other = legacy.create(creator, ALICE)["thread_id"]
        legacy.post(ALICE, other, "3")
        assert legacy.ask(creator, "PUT", f"/threads/{other}/status", status=status).is_success
    return str(thread)


def test_callers_see_no_difference_from_the_first_stage_to_the_last_but_one(data: Path) -> None:
    with at_stage(data, Stage.LEGACY) as (_, legacy):
        thread = write(legacy)
    assert take_over(data)["verified"]
    assert migrate(data, "advance", records(data), "--from", "legacy")["stage"] == "shadow"

    with at_stage(data, Stage.LEGACY) as (server, legacy):
        legacy.everything(*EVERYONE)
        server.wait_for(lambda: compared(server, "GET /threads") == len(EVERYONE), "comparisons")
    assert mismatches(data) == []
    with at_stage(data) as (_, legacy):
        write(legacy)
        answers = legacy.everything(*EVERYONE)

    early = migrate(data, "advance", records(data), status=2)
    assert "not the files that were verified" in early["reason"]
    assert take_over(data)["verified"]  # what was written at shadow
    assert migrate(data, "advance", records(data))["stage"] == "dual"
    with at_stage(data) as (_, legacy):
        assert legacy.everything(*EVERYONE) == answers
        legacy.post(CAROL, thread, "4")
        write(legacy)
        answers = legacy.everything(*EVERYONE)
    # What was imported came from these records and is not mirrored into them once more.
    lines = (data / "legacy_transactions.jsonl").read_text().splitlines()
    ids = [json.loads(line)["bundle_hash"] for line in lines]
    assert len(ids) == len(set(ids))
    assert migrate(data, "advance")["stage"] == "v2"
    with at_stage(data) as (_, legacy):
        assert legacy.everything(*EVERYONE) == answers

    for stage in ("dual", "shadow", "legacy"):
        assert migrate(data, "rollback")["stage"] == stage
        with at_stage(data) as (_, legacy):
            assert legacy.everything(*EVERYONE) == answers, stage


def test_what_the_chat_mirrored_is_not_taken_over_again(data: Path) -> None:
    with at_stage(data, Stage.LEGACY) as (_, legacy):
        thread = write(legacy)
    take_over(data)
    migrate(data, "advance", records(data), "--from", "legacy")
    migrate(data, "advance", records(data))
    with at_stage(data) as (_, legacy):
        mirrored = write(legacy)
        legacy.post(BOB, thread, "5")
    migrate(data, "rollback")
    with at_stage(data) as (_, legacy):
        legacy.post(BOB, mirrored, "6")  # the host's own, in a thread that the chat made
        answers = legacy.everything(*EVERYONE)
    source = take_over(data)["sources"][-1]
    assert source["refused"] == 0
    assert source["mirrored"] > 0
    assert (source["threads"], source["messages"]) == (0, 1)
    migrate(data, "advance", records(data))
    with at_stage(data) as (_, legacy):
        assert legacy.everything(*EVERYONE) == answers


def test_records_with_unix_times_are_answered_in_the_contracts_form_at_every_stage(
    data: Path,
) -> None:
    """The route's transactions had seconds; its contract has ISO 8601, and pages are made by it."""
    data.mkdir()
    shapes = list(exports.transactions(9, threads=1))
    del shapes[-1]["operations"][0]["data"]["message_type"]
    exports.write_lines(Path(records(data)), shapes)
    sender, thread = exports.wallet(0), exports.digest("thread 0")
    with at_stage(data, Stage.LEGACY) as (_, legacy):
        before = legacy.everything(sender)
        assert legacy.messages(sender, thread)["total"] == 9
    take_over(data)
    migrate(data, "advance", records(data), "--from", "legacy")
    with at_stage(data) as (server, legacy):
        assert legacy.everything(sender) == before
        route = "GET /threads/{thread_id}/messages"
        server.wait_for(lambda: compared(server, route) == 1, "the comparison")
    assert mismatches(data) == []
    take_over(data)
    migrate(data, "advance", records(data))
    for stage in (Stage.DUAL, Stage.V2):
        with at_stage(data) as (server, legacy):
            assert legacy.everything(sender) == before, stage
            found = legacy.messages(sender, thread)["messages"]
            assert found[0]["timestamp"] == "2025-12-15T12:00:00+00:00"
            assert all(is_a_moment(one["timestamp"]) for one in found)
            assert {one["message_type"] for one in found} == {"text"}
            assert is_a_moment(legacy.thread(sender, thread)["created_at"])
            page = legacy.messages(sender, thread, before=found[4]["timestamp"], limit=2)
            assert (page["messages"], page["total"]) == (found[2:4], 4)
            shown = server.get(f"/v1/chat/threads/{thread_of(thread)}", sender).json()
            assert is_a_moment(shown["created_at"])
        if stage is Stage.DUAL:
            migrate(data, "advance")
    for _ in range(3):
        migrate(data, "rollback")
        with at_stage(data) as (_, legacy):
            assert legacy.everything(sender) == before


def test_callers_see_what_was_imported_from_elsewhere(data: Path) -> None:
    """v14 named content by its CID, and did not say how large it is, nor of which type."""
    data.mkdir()
    sent = exports.conversation_message(1, 1)
    export = str(exports.write_lines(data / "v14.jsonl", [exports.conversation(1), sent]))
    migrate(data, "run", export)
    assert migrate(data, "verify", export)["verified"]
    with at_stage(data, Stage.V2) as (_, legacy):
        sender = sent["sender_wallet"]
        (thread,) = legacy.threads(sender)["threads"]
        (found,) = legacy.messages(sender, thread["thread_id"])["messages"]
    assert (thread["thread_id"], thread["creator_id"]) == ("conv_1", sender)
    assert thread["participants"] == ["wallet_1", "wallet_2"]
    assert (found["message_id"], found["thread_id"]) == (sent["message_id"], "conv_1")
    assert (found["sender_id"], found["content_hash"]) == (sender, sent["content_cid"])
    assert found["content_size"] == 0
    assert found["message_type"] == "text"
    assert thread["created_at"] == "2025-12-15T12:00:00.500000+00:00"
    assert found["timestamp"] == "2025-12-15T12:00:01.250000+00:00"
