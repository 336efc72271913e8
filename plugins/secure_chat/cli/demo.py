"""``secure-chat demo``: two fresh wallets chat through a real server in a process of its own, and
what is left of it is shown: the conversation, the devices, a changed identity and the warning it
gives, the ledger, its audit, the rewards.

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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from plugins.secure_chat.audit import Report, audit_ledger
from plugins.secure_chat.cli.serve import BUILT_CLIENT
from plugins.secure_chat.client import (
    ChatClient,
    Contact,
    Continuity,
    Device,
    Enrolment,
    Receipt,
    Received,
    Refused,
    WalletKey,
    wallet_login,
)
from plugins.secure_chat.crypto.errors import IdentityChanged
from plugins.secure_chat.crypto.safety import grouped
from plugins.secure_chat.errors import SecureChatError
from plugins.secure_chat.rewards import fold_ledger
from plugins.secure_chat.web_client import NOT_BUILT, WebClient

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
PLAY_SECONDS: Final = 240.0  # for the whole conversation, also on a slow machine
LEDGER: Final = "genesis_ledger.jsonl"
CHR: Final = 10**18
ROOT: Final = Path(__file__).resolve().parents[3]

PROTECTED: Final = (
    "What is said: it is opened on the two wallets' own devices, and nowhere else.",
    "What was said before a device was stolen: message keys are gone once used.",
    "Against a later quantum computer: ML-KEM-768 is in the opening of every session.",
    "Who said it, and where: what is altered, moved, repeated or left out shows.",
    "Who the other one is: a new key stops everything until the number is compared.",
    "That it was logged, and its order: an ACK is a ledger position for ever.",
    "The ledger's past: the audit trusts no server, and names a changed line.",
)
NOT_PROTECTED: Final = (
    "Who talks to whom, when, and roughly how much: server and ledger show it.",
    "A first contact, until the two have compared the safety number elsewhere.",
    "What a stolen, unlocked device shows, and gets until it is revoked.",
    "The removal of the ledger's last lines, unless its head is kept elsewhere.",
)


class DemoFailed(Exception):
    """Something that the demo promises did not happen. One line."""


@dataclass(slots=True)
class Line:
    """One message of the conversation, as all ends saw it. ``note``: what is to be seen in it."""

    speaker: str
    text: str
    position: int
    note: str = ""


@dataclass(slots=True)
class KeyChange:
    """What Alice's client says when Bob's identity is not the one it knew."""

    before: str
    now: str
    refused: bool = False


@dataclass(slots=True)
class Play:
    """What happened."""

    address: str
    wallets: dict[str, str] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    safety_number: str = ""
    lines: list[Line] = field(default_factory=list)
    while_away: int = 0
    key_change: KeyChange | None = None
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
    command = [sys.executable, "-m", "plugins.secure_chat", "serve", "--port", "0", "--with-client"]
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
    client = NOT_BUILT
    if WebClient(BUILT_CLIENT).built:
        client = "Open it in a browser, in two windows, to chat"
    console.print(
        f"\nThe server is up at {play.address}; its data is in {folder}. {client}. Ctrl-C ends it."
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:
        console.print("Stopping.")
        return
    raise DemoFailed(f"the server ended by itself with status {code}")


# -- the play ---------------------------------------------------------------------------------


class _Place:
    """A device: its keys on the disk, and a client for it."""

    def __init__(self, play: Play, name: str, key: WalletKey, device: Device) -> None:
        self.name = name
        self.wallet = key.wallet
        self.device = device
        self.warnings: asyncio.Queue[Contact] = asyncio.Queue()
        self._key = key
        self._address = play.address
        play.devices[name] = device.id

    def client(self) -> ChatClient:
        return ChatClient(
            self._address,
            self.device,
            wallet_login(self._address, self._key),
            on_identity_change=self.warnings.put_nowait,
            on_refused=self._refused,
        )

    def _refused(self, refused: Refused) -> None:
        """Held back until its sender's new identity is accepted, or not meant to happen here."""
        if not isinstance(refused.reason, IdentityChanged):
            raise DemoFailed(f"a message was refused: {refused.reason}")


async def _play(folder: Path, address: str, messages: int) -> Play:
    started = time.monotonic()
    play = Play(address)
    play.while_away = max(1, messages // 4)
    async with asyncio.timeout(PLAY_SECONDS):
        await _converse(play, folder, messages)
    ledger = folder / "server" / LEDGER
    play.report = await asyncio.to_thread(audit_ledger, ledger)
    play.records = [json_text.loads(line) for line in ledger.read_bytes().splitlines()]
    *_, epoch = fold_ledger(ledger, play.report.head)
    play.statement = json_text.loads(epoch.statement)
    _check(play, folder)
    play.seconds = round(time.monotonic() - started, 2)
    return play


async def _converse(play: Play, folder: Path, messages: int) -> None:
    alice, bob = (WalletKey(secrets.token_bytes(32)) for _ in range(2))
    play.wallets = {"Alice": alice.wallet, "Bob": bob.wallet}
    with (
        _device(folder, "alice", alice) as phone,
        _device(folder, "bob", bob) as his,
        _further_device(folder, "laptop", alice, phone) as laptop,
        _device(folder, "bob-anew", bob, reset=True) as anew,
    ):
        alices = _Place(play, "Alice", alice, phone)
        bobs = _Place(play, "Bob", bob, his)
        async with alices.client() as at_alice:
            await _talk(play, at_alice, bobs, messages)
            await _on_two_devices(play, at_alice, bobs, _Place(play, "laptop", alice, laptop))
            await _identity_changes(play, at_alice, alices, _Place(play, "Bob anew", bob, anew))


def _device(folder: Path, name: str, key: WalletKey, *, reset: bool = False) -> Device:
    """A new identity of the wallet, and its first device. Its state is under a key of its own."""
    unlock = secrets.token_bytes(32)
    return Device.open(folder / name, key, unlock, witness=folder / f"{name}-witness", reset=reset)


def _further_device(folder: Path, name: str, key: WalletKey, first: Device) -> Device:
    """A device that ``first`` endorses; request and endorsement go by hand between the two."""
    unlock = secrets.token_bytes(32)
    enrolment = Enrolment(folder / name, key.wallet, unlock, witness=folder / f"{name}-witness")
    return enrolment.finish(first.endorse(enrolment.request), key)


async def _talk(play: Play, at_alice: ChatClient, bobs: _Place, messages: int) -> None:
    """Both in turn; then Alice goes on alone; then Bob is back and answers all of it."""
    alice, bob = play.wallets["Alice"], play.wallets["Bob"]
    together = messages - play.while_away
    async with bobs.client() as at_bob:
        play.safety_number = (await at_alice.contact(bob)).safety_number
        if (await at_bob.contact(alice)).safety_number != play.safety_number:
            raise DemoFailed("the two do not see the same safety number")
        for number in range(1, together + 1):
            await _say(play, "Alice", _note(number), at_alice, at_bob)
            await _say(play, "Bob", _answer(number), at_bob, at_alice)
    sent = [
        (_note(number), await at_alice.send(bob, _note(number).encode()))
        for number in range(together + 1, messages + 1)
    ]
    async with bobs.client() as at_bob:
        for text, receipt in sent:
            _heard(play, text, receipt, await at_bob.receive())
            play.lines.append(Line("Alice", text, receipt.position, "resumed"))
        for number in range(together + 1, messages + 1):
            await _say(play, "Bob", _answer(number), at_bob, at_alice)


async def _on_two_devices(play: Play, at_alice: ChatClient, bobs: _Place, laptops: _Place) -> None:
    """What Bob writes reaches both devices of Alice, and each gets what the other sent."""
    alice = play.wallets["Alice"]
    async with bobs.client() as at_bob, laptops.client() as at_laptop:
        for client in (at_alice, at_bob):
            await client.contact(alice)  # asked anew: the laptop is there
        text = "Alice, this is on your phone and on your laptop."
        await _say(play, "Bob", text, at_bob, at_alice, at_laptop, note="on both")
        text = "Bob, I write this on the laptop, and my phone has it too."
        await _say(play, "Alice", text, at_laptop, at_bob, at_alice, note="from the laptop")


async def _identity_changes(play: Play, at_alice: ChatClient, alices: _Place, bobs: _Place) -> None:
    """Bob has lost his device and begins a new identity: Alice's client stops, and asks her."""
    bob = play.wallets["Bob"]
    async with bobs.client() as at_bob:
        text = "Alice, it is me. My phone is new."
        receipt = await at_bob.send(play.wallets["Alice"], text.encode())
        warning = await alices.warnings.get()
        change = play.key_change = KeyChange(play.safety_number, warning.safety_number)
        try:
            await at_alice.send(bob, b"This must not leave.")
        except IdentityChanged:
            change.refused = True
        if change.now != (await at_bob.contact(play.wallets["Alice"])).safety_number:
            raise DemoFailed("the two do not see the same new safety number")
        await at_alice.accept(bob, change.now)  # they have compared it over another channel
        _heard(play, text, receipt, await at_alice.receive())
        play.lines.append(Line("Bob", text, receipt.position, "held till then"))
        await _say(play, "Alice", "Good to have you back, Bob.", at_alice, at_bob)


def _note(number: int) -> str:
    return f"Bob, this is note {number}, for you and for nobody between."


def _answer(number: int) -> str:
    return f"Got note {number}, Alice; it opened here and nowhere else."


async def _say(
    play: Play, speaker: str, text: str, sender: ChatClient, *hearers: ChatClient, note: str = ""
) -> None:
    """To the other side; every device of ``hearers`` hears it."""
    peer = play.wallets["Bob" if speaker == "Alice" else "Alice"]
    receipt = await sender.send(peer, text.encode())
    for hearer in hearers:
        _heard(play, text, receipt, await hearer.receive())
    play.lines.append(Line(speaker, text, receipt.position, note))


def _heard(play: Play, text: str, receipt: Receipt, heard: Received) -> None:
    """What arrived is what was sent, where its receipt says, and after all before it."""
    if heard.content.decode() != text or heard.position != receipt.position:
        raise DemoFailed("a message did not arrive as it was sent")
    if heard.continuity in (Continuity.GAP, Continuity.LATE):
        raise DemoFailed("a message before it is missing")
    if receipt.duplicate or (play.lines and receipt.position <= play.lines[-1].position):
        raise DemoFailed("the ledger's order is not the conversation's")


def _check(play: Play, folder: Path) -> None:
    if play.report is None or not play.report.sound:
        raise DemoFailed(f"the audit: {play.report and play.report.finding}")
    messages = [record for record in play.records if record["event_type"] == "MESSAGE"]
    if len(messages) != len(play.lines):
        raise DemoFailed("the ledger does not hold each message once")
    if not all(record["signature"] for record in messages):
        raise DemoFailed("a message in the ledger is not signed")
    if not all(int(earned["reward"]) > 0 for earned in play.statement["wallets"]):
        raise DemoFailed("messages that were answered earned nothing")
    if play.key_change is None or not play.key_change.refused:
        raise DemoFailed("a message left for an identity that nobody had accepted")
    texts = [line.text.encode() for line in play.lines]
    for path in sorted(folder.rglob("*")):
        if path.is_file() and any(text in path.read_bytes() for text in texts):
            raise DemoFailed(f"plaintext was found in {path.name}")


# -- printing ---------------------------------------------------------------------------------


def _as_json(play: Play) -> dict[str, Any]:
    assert play.report is not None  # noqa: S101 (checked in _check)
    assert play.key_change is not None  # noqa: S101 (checked in _check)
    return {
        "ok": True,
        "address": play.address,
        "seconds": play.seconds,
        "wallets": play.wallets,
        "devices": play.devices,
        "safety_number": play.safety_number,
        "messages": {"delivered": len(play.lines), "resumed": play.while_away},
        "conversation": [asdict(line) for line in play.lines],
        "key_change": asdict(play.key_change),
        "ledger": play.records,
        "audit": play.report.as_json(),
        "rewards": play.statement,
        "protected": list(PROTECTED),
        "not_protected": list(NOT_PROTECTED),
    }


def _show(console: Console, play: Play) -> None:
    assert play.report is not None  # noqa: S101 (checked in _check)
    assert play.key_change is not None  # noqa: S101 (checked in _check)
    for name, wallet in play.wallets.items():
        console.print(f"[bold]{name:5}[/] {wallet}  logged in by signature")
    console.print(f"\nThe safety number, the same at both:\n  {_number(play.safety_number)}")
    console.rule("The conversation, as the two read it")
    _show_lines(console, play)
    console.rule("What Alice's client said when Bob began anew")
    _show_key_change(console, play.key_change)
    console.rule("The ledger, as everyone may read it")
    _show_records(console, play)
    console.rule("The audit")
    report = play.report
    console.print(
        f"[bold green]sound[/]: {report.records} records in one chain; "
        f"{sum(report.messages.values())} messages in {report.streams} rising streams"
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
        f"\n{len(play.lines)} messages, once on each device, {play.while_away} of them after "
        f"being away, in {play.seconds:.1f} s."
    )


def _number(safety_number: str) -> str:
    """The digits in two lines, as people read them to each other."""
    groups = grouped(safety_number).split()
    return " ".join(groups[:6]) + "\n  " + " ".join(groups[6:])


def _show_lines(console: Console, play: Play) -> None:
    lines = play.lines
    away = [index for index, line in enumerate(lines) if line.note == "resumed"]
    noted = [index for index, line in enumerate(lines) if line.note not in ("", "resumed")]
    ends = [away[0] + 1, away[-1], len(lines) - 1]
    shown = {*range(min(4, len(lines))), away[0], *ends, *noted}
    before = -1
    for index in sorted(shown):
        if index > before + 1:
            console.print(f"      … {index - before - 1} more", style="dim")
        line = lines[index]
        if index == away[0]:
            console.print("      Bob goes offline; what Alice says meanwhile waits", style="dim")
        note = f"  [dim]({line.note})[/]" if line.note else ""
        console.print(f"{line.position:5} [bold]{line.speaker:5}[/] {line.text}{note}")
        before = index


def _show_key_change(console: Console, change: KeyChange) -> None:
    console.print("[bold yellow]! Bob's identity has changed.[/]")
    for text in (
        "His device may be new, or someone else has his wallet. Nothing is sent to him,",
        "and nothing of his is shown, before you have compared this with him elsewhere:",
    ):
        console.print(f"  {text}")
    console.print(f"  [bold]{_number(change.now)}[/]")
    console.print(f"  It was\n  {_number(change.before)}", style="dim")
    console.print(
        "She tried to write to him: refused. They compared, she accepted, they went on.",
        style="dim",
    )


def _show_records(console: Console, play: Play) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("no.", "event", "wallet", "what", "seq", "hash", "record hash"):
        table.add_column(column, no_wrap=True)
    messages = [n for n, one in enumerate(play.records) if one["event_type"] == "MESSAGE"]
    identities = [n for n, one in enumerate(play.records) if one["event_type"] == "IDENTITY"]
    shown = sorted({*identities[:5], *messages[:3], *identities[-3:], messages[-1]})
    before = -1
    for index in shown:
        if index > before + 1:
            table.add_row("", f"… {index - before - 1} more", style="dim")
        table.add_row(*_record_cells(index + 1, play.records[index]))
        before = index
    console.print(table)


def _record_cells(position: int, record: dict[str, Any]) -> list[str]:
    data = record["metadata"]
    what = f"to {_short(data['recipient'])}" if "recipient" in data else data.get("kind", "")
    if "device" in data and "recipient" not in data:
        what += f" {data['device']}"
    return [
        str(position),
        record["event_type"],
        _short(record["wallet"]),
        what,
        str(data.get("seq", "")),
        _short(data.get("hash", data.get("id", ""))),
        _short(record["hash"]),
    ]


def _short(text: str) -> str:
    return f"{text[:10]}…" if len(text) > 10 else text


def _show_rewards(console: Console, play: Play) -> None:
    for earned in play.statement["wallets"]:
        whole, rest = divmod(int(earned["reward"]), CHR)
        console.print(f"{_short(earned['wallet'])}  {whole}.{rest:018d} CHR")
    totals = play.statement["totals"]
    console.print(
        f"{totals['counted']} messages count: signed by registered devices, and answered."
    )
