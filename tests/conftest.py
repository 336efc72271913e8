"""What several suites share: a database of each kind that the chat runs on."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine, make_url, text

from tests import postgres

# The same examples at every run, so that a change is what turns a test red. To look for new ones:
# HYPOTHESIS_PROFILE=explore. How long an example takes, or the making of one, is the machine's.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("explore"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A running PostgreSQL server; skips where there is none."""
    if postgres.binaries() is None:
        pytest.skip(postgres.MISSING)
    with postgres.cluster() as cluster:
        yield cluster.url


@pytest.fixture
def own_cluster() -> Iterator[postgres.Cluster]:
    """A PostgreSQL server of this test's own, to be restarted; skips where there is none."""
    if postgres.binaries() is None:
        pytest.skip(postgres.MISSING)
    with postgres.cluster() as cluster:
        yield cluster


@pytest.fixture
def new_postgres(postgres_url: str) -> Iterator[str]:
    """The URL of an empty database on it."""
    name = f"chat_{uuid.uuid4().hex}"
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = make_url(postgres_url).set(database=name)
    yield url.render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'deep' / 'mailbox.sqlite'}"
    url: str = request.getfixturevalue("new_postgres")
    return url
