"""Going back from a stage: what the stage before answered it answers again, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from plugins.secure_chat.core.stage import Stage
from plugins.secure_chat.legacy import transactions
from plugins.secure_chat.mailbox.store import Mailbox
from tests.plugin.chat_server import ALICE, BOB, CAROL, ChatServer, message, token
from tests.regression.legacy_server import LegacyClient, at_stage, move_stage
from v13.ATLAS.src.legacy_transactions import LegacyTransactions

EVERYONE = (ALICE, BOB, CAROL)
BACK = (Stage.V2, Stage.DUAL, Stage.SHADOW, Stage.LEGACY)


def change_members(server: ChatServer, thread: str, method: str, path: str, body: Any) -> None:
    answer = server.http.request(
        method,
        f"/v1/chat/threads/{thread}/members{path}",
        headers={"Authorization": f"Bearer {token(ALICE)}"},
        json=body,
    )
    assert answer.status_code == 200, answer.text


def live_through(server: ChatServer, legacy: LegacyClient) -> None:
    """Everything that can happen to threads, by both contracts."""
    thread = legacy.create(ALICE, BOB, title="T", metadata={"a": {"b": [1]}})["thread_id"]
    # In an order and a case of their own: both come back as they were given.
    legacy.post(
        ALICE, thread, content_hash="aB" * 32, metadata={"k": "v"}, content_type="image/png"
    )
    seq = int(server.records()[-1]["metadata"]["size"]) + len(server.records())
    assert server.post(BOB, message(thread, seq)).status_code == 201
    change_members(server, thread, "POST", "", {"members": [CAROL]})
    legacy.post(BOB, thread, "2")
    change_members(server, thread, "DELETE", f"/{BOB}", None)
    legacy.post(CAROL, thread, "3", message_type="file")
    archived = legacy.create(BOB, "zoe", ALICE, "adam")["thread_id"]
    assert legacy.ask(BOB, "PUT", f"/threads/{archived}/status", status="ARCHIVED").is_success
    deleted = legacy.create(CAROL, ALICE)["thread_id"]
    assert legacy.ask(CAROL, "PUT", f"/threads/{deleted}/status", status="DELETED").is_success


@pytest.mark.parametrize("start", [Stage.V2, Stage.DUAL])
def test_every_stage_back_answers_the_same_with_what_was_written_meanwhile(
    tmp_path: Path, start: Stage
) -> None:
    with at_stage(tmp_path, start) as (server, legacy):
        live_through(server, legacy)
        live_through(server, legacy)
        answers = legacy.everything(*EVERYONE)
    way = BACK[BACK.index(start) :]
    for before, after in pairwise(way):
        move_stage(tmp_path, before, after)
        with at_stage(tmp_path) as (server, legacy):
            assert legacy.everything(*EVERYONE) == answers, after
            if after is Stage.DUAL:
                live_through(server, legacy)
                answers = legacy.everything(*EVERYONE)


def test_what_the_host_wrote_in_the_dark_is_there_after_every_move_back(tmp_path: Path) -> None:
    with at_stage(tmp_path, Stage.LEGACY) as (_, legacy):
        thread = legacy.create(ALICE, BOB)["thread_id"]
        legacy.post(BOB, thread)
        answers = legacy.everything(ALICE, BOB)
    move_stage(tmp_path, Stage.LEGACY, Stage.SHADOW)
    with at_stage(tmp_path, Stage.LEGACY) as (_, legacy):
        assert legacy.everything(ALICE, BOB) == answers
        legacy.post(ALICE, thread)
        answers = legacy.everything(ALICE, BOB)
    move_stage(tmp_path, Stage.SHADOW, Stage.LEGACY)
    with at_stage(tmp_path) as (_, legacy):
        assert legacy.everything(ALICE, BOB) == answers


def test_a_mirror_that_was_cut_off_is_made_up_for_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's records fail from some point on; the chat is the truth and goes on."""
    append = LegacyTransactions.append
    taken: list[int] = []

    def failing(self: LegacyTransactions, bundles: Any) -> None:
        if len(taken) >= 2:
            raise OSError("the host's disk is full")
        taken.extend(bundle["ledger_position"] for bundle in bundles)
        append(self, bundles)

    monkeypatch.setattr(LegacyTransactions, "append", failing)
    monkeypatch.setattr(transactions, "PAGE", 1)
    monkeypatch.setattr(transactions, "RETRY_SECONDS", 0.01)
    with at_stage(tmp_path, Stage.DUAL) as (server, legacy):
        live_through(server, legacy)
        answers = legacy.everything(*EVERYONE)
    monkeypatch.undo()
    lines = (tmp_path / "legacy_transactions.jsonl").read_text().splitlines()
    assert len(lines) == len(taken) < len(server.records())
    move_stage(tmp_path, Stage.DUAL, Stage.SHADOW)
    with at_stage(tmp_path) as (_, legacy):
        assert legacy.everything(*EVERYONE) == answers
    positions = [
        json.loads(line)["ledger_position"]
        for line in (tmp_path / "legacy_transactions.jsonl").read_text().splitlines()
    ]
    assert positions == sorted(set(positions))


def _has(found: Callable[[], list[int]], count: int) -> bool:
    return len(found()) == count


def test_at_dual_the_hosts_records_follow_while_the_server_runs(tmp_path: Path) -> None:
    """What the chat logged, each event once and in its order; at v2 nothing any more."""
    file = tmp_path / "legacy_transactions.jsonl"

    def mirrored() -> list[int]:
        *whole, _ = file.read_text().split("\n")
        return [json.loads(line)["ledger_position"] for line in whole]

    with at_stage(tmp_path, Stage.DUAL) as (server, legacy):
        for _ in range(2):
            live_through(server, legacy)
            count = len(server.records())
            server.wait_for(partial(_has, mirrored, count), "all to be mirrored")
        assert mirrored() == list(range(1, count + 1))
        answers = legacy.everything(*EVERYONE)
        host = LegacyTransactions(file)  # as another reader of the file, beside the server
        for wallet in EVERYONE:
            shown = [one.model_dump(mode="json") for one in host.threads_of(wallet)]
            assert shown == answers[wallet][0]["threads"]
        host.close()
    before = file.read_bytes()
    move_stage(tmp_path, Stage.DUAL, Stage.V2)
    with at_stage(tmp_path) as (server, legacy):
        live_through(server, legacy)
    assert file.read_bytes() == before


def test_a_mirrored_transaction_says_what_the_hosts_own_would(tmp_path: Path) -> None:
    """Also what the contract never shows again: titles, types of content, metadata of messages."""

    def said(stage: Stage) -> list[Any]:
        with at_stage(tmp_path / stage, stage) as (_, legacy):
            thread = legacy.create(ALICE, BOB, title="T", metadata={"a": {"b": [1]}})["thread_id"]
            given = {"content_type": "image/png", "message_type": "file", "metadata": {"k": ["v"]}}
            legacy.post(BOB, thread, "1", **given)
            legacy.post(ALICE, thread, "2")
            legacy.ask(ALICE, "PUT", f"/threads/{thread}/status", status="ARCHIVED")
        lines = (tmp_path / stage / "legacy_transactions.jsonl").read_text().splitlines()
        found = []
        for bundle in map(json.loads, lines):
            (operation,) = bundle["operations"]
            data = operation["data"]
            assert data.pop("timestamp") == bundle["timestamp"]
            assert data.pop("thread_id", thread) == thread
            found.append((bundle["creator_id"], operation["creator_id"], operation["type"], data))
        return found

    assert said(Stage.DUAL) == said(Stage.LEGACY)


def test_what_is_not_mirrored_yet_is_at_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: transactions.Mirror) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(transactions.Mirror, "_catch_up_when_woken", never)
    file = tmp_path / "legacy_transactions.jsonl"
    with at_stage(tmp_path, Stage.DUAL) as (server, legacy):
        live_through(server, legacy)
        assert not file.read_text()
    assert len(file.read_text().splitlines()) == len(server.records())


def test_a_torn_last_transaction_is_cut_off_and_written_again(tmp_path: Path) -> None:
    with at_stage(tmp_path, Stage.DUAL) as (server, legacy):
        live_through(server, legacy)
        answers = legacy.everything(*EVERYONE)
    file = tmp_path / "legacy_transactions.jsonl"
    whole = file.read_bytes()
    for cut in (1, 40, len(whole.splitlines()[-1]) + 20):
        file.write_bytes(whole[:-cut])
        with at_stage(tmp_path, Stage.DUAL) as (_, legacy):
            assert legacy.everything(*EVERYONE) == answers
        assert file.read_bytes() == whole


def test_stages_by_which_nothing_was_mirrored_are_caught_up_with(tmp_path: Path) -> None:
    with at_stage(tmp_path, Stage.V2) as (server, legacy):
        live_through(server, legacy)
        answers = legacy.everything(*EVERYONE)
        assert not (tmp_path / "legacy_transactions.jsonl").exists()
    move_stage(tmp_path, Stage.V2, Stage.DUAL, Stage.SHADOW, Stage.LEGACY)
    with at_stage(tmp_path) as (_, legacy):
        assert legacy.everything(*EVERYONE) == answers


def test_a_lost_database_loses_no_thread_on_the_way_back(tmp_path: Path) -> None:
    """The host's records keep even the metadata that the database alone had."""
    with at_stage(tmp_path, Stage.DUAL) as (server, legacy):
        live_through(server, legacy)
        answers = legacy.everything(*EVERYONE)
    for path in tmp_path.glob("mailbox.sqlite*"):
        path.unlink()
    move_stage(tmp_path, Stage.DUAL, Stage.SHADOW)
    with at_stage(tmp_path) as (_, legacy):
        assert legacy.everything(*EVERYONE) == answers


def test_the_mailbox_says_where_the_last_move_led(tmp_path: Path) -> None:
    with at_stage(tmp_path, Stage.V2):
        pass
    move_stage(tmp_path, Stage.V2, Stage.DUAL, Stage.SHADOW)
    with at_stage(tmp_path):
        pass
    mailbox = Mailbox.at(tmp_path / "mailbox.sqlite")
    assert mailbox.stage() is Stage.SHADOW
    mailbox.close()
