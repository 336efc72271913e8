"""Login with a wallet: a challenge, its EIP-191 signature, and a token in return.

Here are the two routes and the order of their steps. Challenges, recovery and tokens have modules
of their own. Nothing that arrives here may appear in an answer or a log line.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final, Protocol

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from plugins.secure_chat.errors import LedgerUnavailable
from v13.ATLAS.src.api.challenges import ChallengeRefused, Challenges, TooManyChallenges
from v13.ATLAS.src.api.eip191 import BadWalletSignature, recover
from v13.ATLAS.src.api.json_body import JSONBodyRoute
from v13.ATLAS.src.api.problems import Problem
from v13.ATLAS.src.api.tokens import TokenAuthority

SOURCE: Final = "api_auth"

Wallet = Annotated[str, Field(pattern=r"^0[xX][0-9a-fA-F]{40}$", max_length=42)]


class ChallengeRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    wallet: Wallet


class ChallengeAnswer(BaseModel):
    nonce: str = Field(description="The exact text to sign as a personal message (EIP-191).")
    timestamp: int = Field(description="Unix seconds; the challenge is good for 300 of them.")


class ConnectRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    wallet: Wallet
    signature: Annotated[
        str,
        Field(pattern=r"^(0x)?[0-9a-fA-F]{130}$", max_length=132, description="r, s and v in hex."),
    ]
    nonce: Annotated[str, Field(min_length=1, max_length=128)]
    referral_code: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] | None = None


class ConnectAnswer(BaseModel):
    token: str
    profile_exists: bool = Field(description="Whether the ledger knew this wallet before.")


class LoginLedger(Protocol):
    """What a login needs of the ledger."""

    def append_event(
        self, event_type: str, wallet: str, metadata: dict[str, object], signature: str
    ) -> object: ...

    def has_events(self, wallet: str) -> bool: ...


def auth_router(challenges: Challenges, tokens: TokenAuthority, ledger: LoginLedger) -> APIRouter:
    """The routes of ``/v1/auth``."""
    router = APIRouter(prefix="/v1/auth", tags=["auth"], route_class=JSONBodyRoute)

    @router.post("/challenge", summary="Ask for a text to sign")
    def challenge(request: ChallengeRequest, response: Response) -> ChallengeAnswer:
        try:
            made = challenges.make(request.wallet)
        except TooManyChallenges as full:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too many logins are open; try again later",
                {"Retry-After": str(full.retry_after)},
            ) from None
        response.headers["Cache-Control"] = "no-store"
        return ChallengeAnswer(nonce=made.nonce, timestamp=made.timestamp)

    # A plain function: FastAPI runs it in a thread, where it may wait for the ledger's sync.
    @router.post("/connect-wallet", summary="Log in with the signed text")
    def connect_wallet(request: ConnectRequest, response: Response) -> ConnectAnswer:
        wallet = request.wallet.lower()
        try:
            challenges.redeem(request.nonce, wallet)
        except ChallengeRefused:
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "no open challenge of this wallet has this nonce; ask for a new one",
            ) from None
        try:
            signer = recover(request.nonce, bytes.fromhex(request.signature.removeprefix("0x")))
        except BadWalletSignature as bad:
            raise Problem(HTTPStatus.UNAUTHORIZED, f"signature: {bad}") from None
        if signer != wallet:
            raise Problem(HTTPStatus.UNAUTHORIZED, "signature: it is not this wallet's")
        try:
            profile_exists = ledger.has_events(wallet)
            if request.referral_code is not None:
                referral: dict[str, object] = {"referral_code": request.referral_code}
                ledger.append_event("REFERRAL_USE", wallet, referral, "")
            ledger.append_event("LOGIN", wallet, {"source": SOURCE}, "")
        except LedgerUnavailable:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the ledger takes no events now; try again later",
                {"Retry-After": "5"},
            ) from None
        response.headers["Cache-Control"] = "no-store"
        return ConnectAnswer(token=tokens.issue(wallet), profile_exists=profile_exists)

    return router
