"""The database's schema, version by version (Alembic): the environment, the versions, the upgrade.

A version only adds, so that the code before it runs on it. What the tables mean is said where they
are defined; moving a host's old data is ``legacy/``.
"""
