"""mailbox/claim: one process at a time indexes a ledger in a database."""

from __future__ import annotations

import pytest

from plugins.secure_chat.errors import DatabaseUnusable
from plugins.secure_chat.mailbox.engine import engine_for
from plugins.secure_chat.mailbox.store import Mailbox
from plugins.secure_chat.runtime import Index


@pytest.mark.postgres
def test_one_process_indexes_a_ledger_in_a_database(new_postgres: str) -> None:
    one, other = Mailbox(engine_for(new_postgres)), Mailbox(engine_for(new_postgres))
    Index(one)
    Index(one)  # its own again
    with pytest.raises(DatabaseUnusable, match="another server"):
        Index(other)
    other.checkpoint()  # reading is free
    one.close()
    Index(other)
    other.close()
