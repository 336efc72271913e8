"""What the host reads from its environment, and what it refuses to start with."""

from __future__ import annotations

from pathlib import Path

import pytest

from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.plugins.errors import ConfigurationError
from v13.ATLAS.src.settings import (
    KNOWN_DEFAULT_SECRET,
    SHORTEST_SECRET,
    HostSettings,
)

GOOD = "x" * SHORTEST_SECRET


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JWT_SECRET", "GENESIS_LEDGER_PATH", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    for field in HostSettings.model_fields:
        monkeypatch.delenv(f"ATLAS_{field.upper()}", raising=False)


def test_the_hosts_own_names_are_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JWT_SECRET", GOOD)
    monkeypatch.setenv("GENESIS_LEDGER_PATH", str(tmp_path / "ledger"))
    monkeypatch.setenv("REDIS_URL", "redis://nowhere")
    monkeypatch.setenv("ATLAS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ATLAS_PLUGINS", "one.plugin, two.plugin,")
    settings = HostSettings()
    assert settings.signing_key() == GOOD.encode()
    assert settings.ledger_path == tmp_path / "ledger"
    assert settings.redis_url == "redis://nowhere"
    assert settings.data_dir == tmp_path
    assert settings.plugins == ("one.plugin", "two.plugin")


def test_the_ledger_is_in_the_data_directory_unless_told_otherwise(tmp_path: Path) -> None:
    settings = HostSettings(data_dir=tmp_path)
    assert settings.ledger_path == tmp_path / "genesis_ledger.jsonl"


def test_a_change_of_directory_does_not_move_the_ledger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = HostSettings(data_dir=Path("here"))
    monkeypatch.chdir("/")
    assert settings.ledger_path == tmp_path / "here" / "genesis_ledger.jsonl"


@pytest.mark.parametrize(
    "secret", ["", "sesame", KNOWN_DEFAULT_SECRET, "x" * (SHORTEST_SECRET - 1), None]
)
def test_a_weak_secret_is_refused_in_one_line_that_does_not_show_it(
    secret: str | None, tmp_path: Path
) -> None:
    given = {} if secret is None else {"jwt_secret": secret}
    settings = HostSettings.model_validate({"data_dir": tmp_path, **given})
    with pytest.raises(ConfigurationError) as refused:
        create_app(settings, [])
    assert isinstance(refused.value, ValueError), "who starts a host need not import ours"
    assert "JWT_SECRET" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not secret or secret not in str(refused.value)


def test_the_default_secret_is_refused_for_being_known_and_not_for_its_length(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigurationError, match="publicly known default"):
        HostSettings(data_dir=tmp_path).signing_key()


@pytest.mark.parametrize("secret", ["", "sesame", KNOWN_DEFAULT_SECRET])
def test_insecure_dev_takes_any_secret(secret: str, tmp_path: Path) -> None:
    settings = HostSettings.model_validate(
        {"jwt_secret": secret, "data_dir": tmp_path, "insecure_dev": True}
    )
    tokens = create_app(settings, []).state.tokens
    assert tokens.verify(tokens.issue("alice")).wallet == "alice"


def test_a_public_key_is_no_secret(tmp_path: Path) -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"
    settings = HostSettings.model_validate({"jwt_secret": pem, "data_dir": tmp_path})
    with pytest.raises(ConfigurationError, match="asymmetric key"):
        create_app(settings, [])


def test_a_bad_environment_is_one_line_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ATLAS_TOKEN_TTL", "never, my-secret")
    with pytest.raises(ConfigurationError, match="token_ttl") as refused:
        create_app()
    assert "\n" not in str(refused.value)
    assert "my-secret" not in str(refused.value)


def test_the_secret_is_not_shown_by_repr() -> None:
    assert GOOD not in repr(HostSettings.model_validate({"jwt_secret": GOOD}))


def test_plugins_get_the_settings_without_the_secret(tmp_path: Path) -> None:
    app = create_app(HostSettings.model_validate({"jwt_secret": GOOD, "data_dir": tmp_path}), [])
    settings = app.state.host.settings
    assert "jwt_secret" not in settings
    assert GOOD not in repr(dict(settings))
    assert settings["data_dir"] == tmp_path
