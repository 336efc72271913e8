"""A real server for a client in another language: JSON lines in, JSON lines out.

    python -m tests.client.host

It serves as ``secure-chat serve`` does, on a free port of the loopback, until its input ends. The
first line says where; ``{"wallet": …}`` is answered with a token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.plugin.chat_server import chat_server, token


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    with TemporaryDirectory() as folder, chat_server(Path(folder)) as server:
        say({"url": f"http://127.0.0.1:{server.port}"})
        for line in sys.stdin:
            say({"token": token(json.loads(line)["wallet"])})


if __name__ == "__main__":
    main()
