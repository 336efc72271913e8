"""Settings of the stand-in host, read once from the environment, and their refusals.

The names that the monorepo has (``JWT_SECRET``, ``GENESIS_LEDGER_PATH``, ``REDIS_URL``) are kept;
everything else is ``ATLAS_…``. A plugin's own settings are the plugin's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from v13.ATLAS.src.plugins.errors import ConfigurationError

KNOWN_DEFAULT_SECRET: Final = "dev-secret-change-me-in-prod"  # noqa: S105 -- the one we refuse
SHORTEST_SECRET: Final = 32  # bytes: below the output of SHA-256 a key can be searched for
LEDGER_NAME: Final = "genesis_ledger.jsonl"


class HostSettings(BaseSettings):
    """What the host can be told. Fields can be given by name; the environment is read otherwise."""

    model_config = SettingsConfigDict(
        env_prefix="ATLAS_", frozen=True, validate_by_name=True, validate_by_alias=True
    )

    jwt_secret: SecretStr = Field(
        default=SecretStr(KNOWN_DEFAULT_SECRET), validation_alias="JWT_SECRET"
    )
    """Signs login tokens (HS256). At least 32 bytes, and not the monorepo's default."""

    genesis_ledger_path: Path | None = Field(default=None, validation_alias="GENESIS_LEDGER_PATH")
    """The ledger file; ``data_dir/genesis_ledger.jsonl`` when not given."""

    redis_url: str | None = Field(default=None, validation_alias="REDIS_URL")
    """Not used by the stand-in host itself; plugins find it in ``Host.settings``."""

    data_dir: Path = Path("data")
    """Everything the host and its plugins keep is under it, the ledger excepted if told so."""

    insecure_dev: bool = False
    """Take any JWT_SECRET. For a developer's own machine."""

    token_ttl: Annotated[int, Field(gt=0)] = 24 * 3600
    """Seconds from login to a token's expiry."""

    open_challenges: Annotated[int, Field(gt=0)] = 65_536
    """Logins open at one time, about 20 MiB of them; beyond it new ones are refused."""

    largest_body: Annotated[int, Field(gt=0)] = 4 << 20
    """Bytes of a request's body; a message of 1 MiB in base64 needs about 1.5."""

    plugins: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of plugins to load (comma-separated in the environment). None named: those installed
    under the entry point group ``atlas.plugins``."""

    legacy_stage: str | None = None
    """The stage of the legacy chat route that the host's operator decided on, if any."""

    @field_validator("plugins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name for part in value.split(",") if (name := part.strip()))
        return value

    @model_validator(mode="after")
    def _paths_are_absolute(self) -> Self:
        """A later change of directory must not move the ledger."""
        object.__setattr__(self, "data_dir", self.data_dir.absolute())
        if self.genesis_ledger_path is not None:
            object.__setattr__(self, "genesis_ledger_path", self.genesis_ledger_path.absolute())
        return self

    @property
    def ledger_path(self) -> Path:
        return self.genesis_ledger_path or self.data_dir / LEDGER_NAME

    def for_plugins(self) -> dict[str, object]:
        """All settings by name, the secret left out."""
        return {
            name: getattr(self, name) for name in type(self).model_fields if name != "jwt_secret"
        }

    def signing_key(self) -> bytes:
        """The checked secret as HMAC key. Raises ConfigurationError, never showing the secret."""
        secret = self.jwt_secret.get_secret_value()
        key = secret.encode("utf-8", "surrogateescape")
        if not self.insecure_dev:
            if secret == KNOWN_DEFAULT_SECRET:
                raise ConfigurationError(
                    "JWT_SECRET is not set, or the publicly known default; set a random one of at "
                    f"least {SHORTEST_SECRET} bytes (or allow it with insecure_dev on your own "
                    "machine)"
                )
            if len(key) < SHORTEST_SECRET:
                raise ConfigurationError(
                    f"JWT_SECRET is shorter than {SHORTEST_SECRET} bytes; set a longer random one "
                    "(or allow it with insecure_dev on your own machine)"
                )
        # HMAC itself fills a short key with zero bytes, so this changes no signature; it only
        # keeps PyJWT from warning about what insecure_dev has allowed.
        return key.ljust(SHORTEST_SECRET, b"\0")
