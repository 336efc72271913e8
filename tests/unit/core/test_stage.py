"""core/stage: which moves there are, and the STAGE event."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plugins.secure_chat.core.records import MalformedEvent, Record
from plugins.secure_chat.core.stage import NoSuchMove, Stage, StageMove, from_record, move

WAY = [Stage.LEGACY, Stage.SHADOW, Stage.DUAL, Stage.V2, Stage.RETIRED]


def record(before: str, after: str, **changes: Any) -> Record:
    made = Record(
        position=1,
        event_id="id",
        event_type="STAGE",
        wallet="secure-chat",
        value=0,
        metadata={"from": before, "to": after},
        signature="",
        timestamp="",
        event_hash="",
        prev_hash="",
    )
    return msgspec.structs.replace(made, **changes)


def test_moves_lead_to_neighbours_and_from_retired_nowhere() -> None:
    moves = set()
    for before in WAY:
        for after in WAY:
            try:
                made = move(before, after)
            except NoSuchMove:
                continue
            else:
                assert made == StageMove(before, after)
                moves.add((before.value, after.value))
    assert moves == {
        ("legacy", "shadow"),
        ("shadow", "legacy"),
        ("shadow", "dual"),
        ("dual", "shadow"),
        ("dual", "v2"),
        ("v2", "dual"),
        ("v2", "retired"),
    }


def test_the_chat_is_dark_until_it_has_taken_over() -> None:
    assert [stage for stage in WAY if stage.is_dark] == [Stage.LEGACY, Stage.SHADOW]


def test_a_move_reads_as_it_was_written() -> None:
    made = move(Stage.DUAL, Stage.V2)
    draft = made.draft()
    assert (draft.event_type, draft.wallet, draft.value) == ("STAGE", "secure-chat", 0)
    assert from_record(record("dual", "v2", metadata=draft.metadata)) == made
    assert from_record(record("dual", "v2"), Stage.DUAL) == made


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("legacy", "dual", {}),
        ("retired", "v2", {}),
        ("dual", "dual", {}),
        ("dual", "elsewhere", {}),
        ("dual", "v2", {"event_type": "THREAD"}),
        ("dual", "v2", {"wallet": "0x" + "a" * 40}),
        ("dual", "v2", {"value": 1}),
        ("dual", "v2", {"metadata": {"from": "dual"}}),
        ("dual", "v2", {"metadata": {"from": "dual", "to": "v2", "more": 1}}),
    ],
)
def test_what_is_no_move_is_malformed(before: str, after: str, changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvent):
        from_record(record(before, after, **changes))


def test_a_move_starts_where_the_one_before_ended() -> None:
    with pytest.raises(MalformedEvent):
        from_record(record("dual", "v2"), Stage.V2)
