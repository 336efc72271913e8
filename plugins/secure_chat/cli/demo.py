"""``secure-chat demo``: two fresh wallets chat through a real server in a process of its own, and
what is left of it is shown: the conversation, the ledger, its audit, the rewards.

Here are the play and how it is printed. Everything in it is the product itself: server, client,
audit and rewards. A promise that does not hold ends the demo with status 1.
"""

from __future__ import annotations

import asyncio
import json as json_text
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from plugins.secure_chat.audit import Report, audit_ledger
from plugins.secure_chat.client import (
    ChatClient,
    ClientState,
    ContactCard,
    Receipt,
    Received,
    StaticSession,
    WalletKey,
    wallet_login,
)
from plugins.secure_chat.errors import SecureChatError
from plugins.secure_chat.rewards import fold_ledger

START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 15.0
PLAY_SECONDS: Final = 50.0  # for the whole conversation
LEDGER: Final = "genesis_ledger.jsonl"
CHR: Final = 10**18
ROOT: Final = Path(__file__).resolve().parents[3]

PROTECTED: Final = (
    "What is said: encrypted before it leaves, opened only by the other wallet's key.",
    "Who said it, and in which place: a message that is altered or moved does not open.",
    "That it was logged, and its order: an ACK is a durable ledger position that never changes.",
    "The ledger's past: the audit needs no trust in the server, and names a changed line.",
)
NOT_PROTECTED: Final = (
    "Who talks to whom, when, and roughly how much: the server and the ledger show it.",
    "Past messages when a key is stolen: these static sessions have no forward secrecy.",
    "Against a swapped contact card: compare the wallet with your contact over another channel.",
    "Against a quantum computer, and against removal of the ledger's last lines unless its head "
    "is kept elsewhere.",
)


class DemoFailed(Exception):
    """Something that the demo promises did not happen. One line."""


@dataclass(slots=True)
class Line:
    """One message of the conversation, as both ends saw it."""

    speaker: str
    text: str
    position: int
    while_away: bool


@dataclass(slots=True)
class Play:
    """What happened."""

    address: str
    wallets: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    while_away: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    report: Report | None = None
    statement: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def demo(
    messages: Annotated[int, typer.Option(min=1, max=500, help="Messages in each direction.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the server and its data until Ctrl-C.")
    ] = False,
) -> None:
    """Show it all at work: two wallets, a server, a ledger and its audit, in under a minute."""
    console = Console(highlight=False, emoji=False, soft_wrap=json)
    folder = Path(tempfile.mkdtemp(prefix="secure-chat-demo-"))
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        with _server(folder) as (process, address):
            play = asyncio.run(_play(folder, address, messages))
            if json:
                sys.stdout.write(json_text.dumps(_as_json(play)) + "\n")
                sys.stdout.flush()
            else:
                _show(console, play)
            if keep:
                _wait(process, play, folder, Console(stderr=json, highlight=False, soft_wrap=True))
    except (DemoFailed, SecureChatError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        if json:
            sys.stdout.write(json_text.dumps({"ok": False, "error": reason}) + "\n")
        typer.echo(f"secure-chat demo failed: {reason}", err=True)
        raise typer.Exit(1) from None
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _on_sigterm(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)  # so that what was started is ended on the way out


@contextmanager
def _server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with a secret of its own, in a session of its own: Ctrl-C reaches us alone."""
    environment = {
        **os.environ,
        "JWT_SECRET": secrets.token_hex(32),
        "PYTHONPATH": os.pathsep.join(
            part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part
        ),
    }
    environment.pop("GENESIS_LEDGER_PATH", None)  # the demo writes into no ledger but its own
    command = [sys.executable, "-m", "plugins.secure_chat", "serve", "--port", "0"]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 (our own command)
            [*command, "--data-dir", str(folder / "server")],
            stdout=subprocess.PIPE,
            stderr=output,
            env=environment,
            text=True,
            start_new_session=True,
        )
    try:
        yield process, _address(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    """Where it listens, as it says itself."""
    output = process.stdout
    if output is not None and select.select([output], [], [], START_SECONDS)[0]:
        line = output.readline().strip()
        if line.startswith("listening on "):
            return line.removeprefix("listening on ")
    said = log.read_text(errors="replace").strip().splitlines()
    raise DemoFailed(f"the server did not start: {said[-1] if said else 'it said nothing'}")


def _wait(process: subprocess.Popen[str], play: Play, folder: Path, console: Console) -> None:
    console.print(f"\nThe server is up at {play.address}; its data is in {folder}. Ctrl-C ends it.")
    try:
        code = process.wait()
    except KeyboardInterrupt:
        console.print("Stopping.")
        return
    raise DemoFailed(f"the server ended by itself with status {code}")


# -- the play ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Person:
    name: str
    key: WalletKey
    state: ClientState

    def client(self, address: str, other: ContactCard) -> ChatClient:
        session = StaticSession(self.state.contact_key, self.key.wallet, other)
        return ChatClient(
            address,
            wallet_login(address, self.key),
            self.state,
            sessions={other.wallet: session},
        )

    def card(self) -> ContactCard:
        """As the other one gets it: by hand, and verified when read."""
        return ContactCard.decode(self.state.contact_key.card(self.key).encode())


async def _play(folder: Path, address: str, messages: int) -> Play:
    started = time.monotonic()
    play = Play(address)
    alice, bob = (_person(folder, name) for name in ("Alice", "Bob"))
    play.wallets = {person.name: person.key.wallet for person in (alice, bob)}
    play.while_away = max(1, messages // 4)
    with alice.state, bob.state:
        async with asyncio.timeout(PLAY_SECONDS):
            await _converse(play, alice, bob, messages)
    ledger = folder / "server" / LEDGER
    play.report = await asyncio.to_thread(audit_ledger, ledger)
    play.records = [json_text.loads(line) for line in ledger.read_bytes().splitlines()]
    _check(play, folder, messages)
    *_, epoch = fold_ledger(ledger, play.report.head)
    play.statement = json_text.loads(epoch.statement)
    play.seconds = round(time.monotonic() - started, 2)
    return play


def _person(folder: Path, name: str) -> _Person:
    key = WalletKey(secrets.token_bytes(32))
    return _Person(name, key, ClientState(folder / f"{name.lower()}.sqlite", key.wallet))


async def _converse(play: Play, alice: _Person, bob: _Person, messages: int) -> None:
    """Both in turn; then Alice goes on alone; then Bob is back and answers all of it."""
    alices = alice.client(play.address, bob.card())
    together = messages - play.while_away
    async with alices:
        bobs = bob.client(play.address, alice.card())
        async with bobs:
            for number in range(1, together + 1):
                await _say(play, alice.name, alices, bobs, number)
                await _say(play, bob.name, bobs, alices, number)
        receipts = [
            await alices.send(bobs.wallet, _text(alice.name, number).encode())
            for number in range(together + 1, messages + 1)
        ]
        async with bob.client(play.address, alice.card()) as back:
            for number, receipt in enumerate(receipts, start=together + 1):
                text = _text(alice.name, number)
                _heard(play, alice.name, text, receipt, await back.receive(), while_away=True)
            for number in range(together + 1, messages + 1):
                await _say(play, bob.name, back, alices, number)


async def _say(
    play: Play, speaker: str, sender: ChatClient, recipient: ChatClient, number: int
) -> None:
    text = _text(speaker, number)
    receipt = await sender.send(recipient.wallet, text.encode())
    _heard(play, speaker, text, receipt, await recipient.receive(), while_away=False)


def _text(speaker: str, number: int) -> str:
    if speaker == "Alice":
        return f"Bob, this is note {number}, for you and for nobody between."
    return f"Got note {number}, Alice; it opened with your key and no other."


def _heard(
    play: Play, speaker: str, text: str, receipt: Receipt, heard: Received, *, while_away: bool
) -> None:
    """What arrived is what was sent, where its receipt says, and after all before it."""
    if heard.plaintext.decode() != text or heard.position != receipt.position:
        raise DemoFailed("a message did not arrive as it was sent")
    if receipt.duplicate or (play.lines and receipt.position <= play.lines[-1].position):
        raise DemoFailed("the ledger's order is not the conversation's")
    play.lines.append(Line(speaker, text, heard.position, while_away))


def _check(play: Play, folder: Path, messages: int) -> None:
    if play.report is None or not play.report.sound:
        raise DemoFailed(f"the audit: {play.report and play.report.finding}")
    logged = sum(record["event_type"] == "MESSAGE" for record in play.records)
    if not logged == len(play.lines) == 2 * messages:
        raise DemoFailed("the ledger does not hold each message once")
    texts = [line.text.encode() for line in play.lines]
    for path in sorted(folder.rglob("*")):
        if path.is_file() and any(text in path.read_bytes() for text in texts):
            raise DemoFailed(f"plaintext was found in {path.name}")


# -- printing ---------------------------------------------------------------------------------


def _as_json(play: Play) -> dict[str, Any]:
    assert play.report is not None  # noqa: S101 (checked in _check)
    return {
        "ok": True,
        "address": play.address,
        "seconds": play.seconds,
        "wallets": play.wallets,
        "messages": {
            "each_way": len(play.lines) // 2,
            "delivered": len(play.lines),
            "resumed": play.while_away,
        },
        "conversation": [
            {
                "speaker": line.speaker,
                "text": line.text,
                "position": line.position,
                "while_away": line.while_away,
            }
            for line in play.lines
        ],
        "ledger": play.records,
        "audit": play.report.as_json(),
        "rewards": play.statement,
        "protected": list(PROTECTED),
        "not_protected": list(NOT_PROTECTED),
    }


def _show(console: Console, play: Play) -> None:
    assert play.report is not None  # noqa: S101 (checked in _check)
    for name, wallet in play.wallets.items():
        console.print(f"[bold]{name:5}[/] {wallet}  logged in by signature")
    console.rule("The conversation, as the two read it")
    _show_lines(console, play)
    console.rule("The ledger, as everyone may read it")
    _show_records(console, play)
    console.rule("The audit")
    report = play.report
    console.print(
        f"[bold green]sound[/]: {report.records} records, each chained to the one before; "
        f"{sum(report.messages.values())} messages in {report.streams} streams, each rising"
    )
    console.print(f"head {report.head.position}:{report.head.event_hash[:32]}…")
    console.rule("The rewards")
    _show_rewards(console, play)
    console.rule("Protected")
    for text in PROTECTED:
        console.print(f"[green]✓[/] {text}")
    console.rule("Not protected")
    for text in NOT_PROTECTED:
        console.print(f"[yellow]–[/] {text}")
    console.print(
        f"\n{len(play.lines)} messages delivered once each, {play.while_away} of them after "
        f"being away, in {play.seconds:.1f} s."
    )


def _show_lines(console: Console, play: Play) -> None:
    lines = play.lines
    away = [index for index, line in enumerate(lines) if line.while_away]
    shown = sorted({*range(min(4, len(lines))), *away[:2], away[-1], len(lines) - 1})
    before = -1
    for index in shown:
        if index > before + 1:
            console.print(f"      … {index - before - 1} more", style="dim")
        line = lines[index]
        if away and index == away[0]:
            console.print("      Bob goes offline; what Alice says meanwhile waits", style="dim")
        note = "  [dim](resumed)[/]" if line.while_away else ""
        console.print(f"{line.position:5} [bold]{line.speaker:5}[/] {line.text}{note}")
        before = index


def _show_records(console: Console, play: Play) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("no.", "event", "wallet", "to", "seq", "message hash", "record hash"):
        table.add_column(column, no_wrap=True)
    for position, record in enumerate(play.records[:5], start=1):
        data = record["metadata"]
        table.add_row(
            str(position),
            record["event_type"],
            _short(record["wallet"]),
            _short(data.get("recipient", "")),
            str(data.get("seq", "")),
            _short(data.get("hash", "")),
            _short(record["hash"]),
        )
    console.print(table)
    console.print(f"      … {max(0, len(play.records) - 5)} more", style="dim")


def _short(text: str) -> str:
    return f"{text[:10]}…" if len(text) > 10 else text


def _show_rewards(console: Console, play: Play) -> None:
    statement = play.statement
    totals = statement["totals"]
    for earned in statement["wallets"]:
        whole, rest = divmod(int(earned["reward"]), CHR)
        console.print(f"{_short(earned['wallet'])}  {whole}.{rest:018d} CHR")
    console.print(
        f"{totals['counted']} messages counted, {totals['unsigned']} did not: they bear no "
        "signature of a registered device, and only signed messages can earn."
    )
