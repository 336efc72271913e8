"""docs/client.md: the twenty lines do what they say, as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

from plugins.secure_chat.client import ChatClient, Device, WalletKey, wallet_login

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60


def _program() -> str:
    text = (ROOT / "docs" / "client.md").read_text()
    (code,) = re.findall(r"```python\n(import asyncio\n.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    return str(code)


async def _asked(server: str, folder: Path, bot: str) -> list[bytes]:
    wallet = WalletKey(secrets.token_bytes(32))
    device = Device.open(folder, wallet, secrets.token_bytes(32), witness=folder / "witness")
    with device:
        async with (
            ChatClient(server, device, wallet_login(server, wallet)) as chat,
            asyncio.timeout(PATIENCE),
        ):
            answers = []
            for text in (b"hello", b"are you there?"):
                await chat.send(bot, text)
                answers.append((await chat.receive()).content)
            return answers


def test_the_twenty_lines_of_the_documentation_answer_a_stranger(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(_program())
    environment = {**os.environ, "JWT_SECRET": secrets.token_hex(32), "PYTHONPATH": str(ROOT)}
    serving = subprocess.Popen(
        [
            *(sys.executable, "-m", "plugins.secure_chat", "serve", "--port", "0"),
            *("--data-dir", str(tmp_path / "server")),
        ],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        assert serving.stdout is not None
        server = serving.stdout.readline().split()[-1]
        environment |= {
            "SERVER": server,
            "FOLDER": str(tmp_path / "bot"),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "PASSPHRASE": "a passphrase of the operator's",
            "WALLET_KEY": secrets.token_hex(32),
        }
        echo = subprocess.Popen(
            [sys.executable, str(tmp_path / "echo.py")],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        try:
            assert echo.stdout is not None
            bot = echo.stdout.readline().split()[-1]
            answers = asyncio.run(_asked(server, tmp_path / "asker", bot))
        finally:
            echo.terminate()
            echo.communicate(timeout=PATIENCE)
        assert answers == [b"hello", b"are you there?"]
    finally:
        serving.terminate()
        serving.communicate(timeout=PATIENCE)
