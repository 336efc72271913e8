"""A port of the loopback that stays one test's own while its server ends and starts again."""

from __future__ import annotations

import socket


class KeptPort:
    """A free port, bound and not listened on until ``close``.

    A server that sets SO_REUSEADDR, as ours do, can listen there. While none does, the kernel
    refuses connections to it, and gives it to nobody else: neither to a server that takes any free
    port, nor to a connection's own end.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()
