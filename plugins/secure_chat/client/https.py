"""What the client's requests share: whose certificates they believe."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


@cache
def authorities() -> ssl.SSLContext:
    """TLS with the certificate authorities of httpx, those of the environment left aside.

    They are read once in a process: it takes longer than a login does.
    """
    return httpx.create_ssl_context(trust_env=False)
