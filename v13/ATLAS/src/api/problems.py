"""Refusals as RFC 9457 ``application/problem+json``, in one shape for the whole host.

A detail names the field and the rule that was broken, never what was sent: tokens and signatures
arrive in the same bodies.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


class Problem(HTTPException):
    """Raise to refuse a request with ``status`` and a ``detail`` that a caller can act on."""

    def __init__(
        self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers)


def install(app: FastAPI) -> None:
    """Answer every refusal of ``app``, FastAPI's own included, as a problem."""
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _refused(_request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 -- registered for nothing else
    return _response(error.status_code, error.detail, error.headers)


async def _invalid(_request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 -- registered for nothing else
    return _response(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(map(_rule, error.errors())), None)


def _rule(fault: Mapping[str, object]) -> str:
    """``signature: String should match …``. Names that the caller made up are not repeated."""
    where = fault["loc"]
    field = where[-1] if isinstance(where, tuple) and len(where) > 1 else "body"
    if fault["type"] == "extra_forbidden":
        return "a field is not known here"
    if fault["type"] == "json_invalid":
        return "the body is not JSON"
    return f"{field}: {fault['msg']}"


def _response(status: int, detail: str, headers: Mapping[str, str] | None) -> ProblemResponse:
    title = HTTPStatus(status).phrase
    return ProblemResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail},
        status,
        headers,
    )
