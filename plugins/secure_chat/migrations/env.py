"""Alembic's entry: runs on the connection that ``schema.py`` gives, or on SECURE_CHAT_DATABASE_URL.

The second way is the developer's: ``alembic revision --autogenerate``.
"""

from __future__ import annotations

import os

from alembic import context

from plugins.secure_chat.mailbox.engine import engine_for
from plugins.secure_chat.migrations.schema import tables

connection = context.config.attributes.get("connection")
if connection is None:
    connection = engine_for(os.environ["SECURE_CHAT_DATABASE_URL"]).connect()
context.configure(connection=connection, target_metadata=tables(), transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
