"""Settings of the chat, from the environment: prefix SECURE_CHAT_, but for the host's JWT_SECRET.

Where files are kept is the host's to say (``Host.data_dir``, ``Host.ledger_path``).
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import AwareDatetime, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from plugins.secure_chat.core.envelope import MAX_CIPHERTEXT
from plugins.secure_chat.core.stage import Stage
from plugins.secure_chat.errors import ConfigurationError


class Settings(BaseSettings):
    """What an operator may set. Units are in the names or the descriptions."""

    model_config = SettingsConfigDict(env_prefix="SECURE_CHAT_", extra="ignore")

    @classmethod
    def of_environment(cls) -> Settings:
        """The environment's. Raises ConfigurationError, one line, which names the variables and
        never their values."""
        try:
            return cls()
        except ValidationError as error:
            faults = (
                f"{_variable(str(fault['loc'][0]))}: {fault['msg']}" for fault in error.errors()
            )
            raise ConfigurationError("; ".join(faults)) from None
        except SettingsError:
            # Only lists are written in JSON here, and there is one.
            raise ConfigurationError(
                'SECURE_CHAT_ORIGINS: must be a JSON list, ["https://…"]'
            ) from None

    jwt_secret: str = Field(default="", validation_alias="JWT_SECRET", repr=False)
    insecure_dev: bool = False
    stage: Stage | None = Field(
        default=None, description="Of the legacy route, until the ledger says; None: v2"
    )
    legacy_deprecated: AwareDatetime = Field(
        default=datetime(2026, 11, 24, tzinfo=UTC), description="Since when, told to its callers"
    )
    legacy_sunset: AwareDatetime = Field(
        default=datetime(2027, 5, 31, tzinfo=UTC), description="When it ends, told to its callers"
    )

    @field_validator("legacy_sunset")
    @classmethod
    def _is_not_before_the_deprecation(cls, sunset: datetime, info: ValidationInfo) -> datetime:
        deprecated = info.data.get("legacy_deprecated")
        if deprecated is not None and sunset < deprecated:
            raise ValueError("a contract cannot end before it is deprecated (RFC 9745)")
        return sunset

    accept_ledger_at: int | None = Field(
        default=None, ge=0, description="Records of a ledger that lost some: go on with it"
    )
    origins: list[str] = Field(default_factory=list, description="Allowed besides the own host")
    query_token: bool = Field(default=True, description="Accept ?token=, as the host does")
    rate_per_second: float = Field(default=100.0, gt=0, description="Requests a wallet")
    burst: int = Field(default=500, ge=1, description="Requests a wallet may make at once")
    max_ciphertext: int = Field(default=MAX_CIPHERTEXT, ge=16, le=MAX_CIPHERTEXT)
    log_name: str | None = Field(
        default=None, description="Of the transparency log, for ever; made up when there is none"
    )
    outbox_bytes: int = Field(default=4 << 20, ge=1 << 16, description="Unsent, before 4408")
    database_url: str = Field(
        default="", repr=False, description="postgresql://…; empty: DATA_DIR/mailbox.sqlite"
    )
    require_signatures: bool = Field(
        default=False, description="Take messages of registered devices only"
    )
    statements_per_second: float = Field(
        default=1.0, gt=0, description="Statements a wallet publishes; ten prekeys are one"
    )
    statement_burst: int = Field(default=200, ge=21, description="Statements at once")
    claims_per_second: float = Field(
        default=1.0, gt=0, description="Prekey bundles a wallet claims, and that are claimed of it"
    )
    claim_burst: int = Field(default=400, ge=64, description="Bundles at once")
    retention_days: float | None = Field(default=None, gt=0, description="None keeps ciphertext")


def _variable(name: str) -> str:
    """The environment variable of a field, which validation may name by its alias."""
    return name if name.isupper() else f"SECURE_CHAT_{name.upper()}"
