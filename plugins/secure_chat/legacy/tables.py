"""The tables of the stages: ``stage_moves`` follows from the ledger, ``shadow_mismatches`` not."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, String, Table

from plugins.secure_chat.mailbox.tables import metadata

stage_moves: Final = Table(
    "stage_moves",
    metadata,
    Column(
        "position",
        BigInteger().with_variant(Integer, "sqlite"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("stage", String(16), nullable=False),
)

shadow_mismatches: Final = Table(
    "shadow_mismatches",
    metadata,
    Column("route", String(64), primary_key=True),
    Column("difference", String(64), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("first_at", String(40), nullable=False),
    Column("last_at", String(40), nullable=False),
)
