"""``secure-chat demo`` as a newcomer runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "plugins.secure_chat", "demo")
PATIENCE = 300  # seconds: only a failing test waits this long


def _run(tmp_path: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*COMMAND, *options),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def _servers(tmp_path: Path) -> list[str]:
    """Command lines of processes that serve from this test's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if str(tmp_path) in line and " serve " in line:
            found.append(line)
    return found


def test_demo_json_is_one_object_that_says_all_of_it_held(tmp_path: Path) -> None:
    run = _run(tmp_path, "--json")
    assert run.returncode == 0, run.stderr
    shown: dict[str, Any] = json.loads(run.stdout)
    assert shown["ok"] is True
    assert shown["messages"] == {"delivered": 44, "resumed": 5}
    assert shown["audit"]["verdict"] == "sound"
    assert shown["audit"]["events"]["MESSAGE"] == 44
    # Three identities, four devices and their prekeys; the fourth device is of the first identity.
    identities = [one for one in shown["ledger"] if one["event_type"] == "IDENTITY"]
    kinds = [one["metadata"]["kind"] for one in identities]
    assert (kinds.count("identity"), kinds.count("device"), kinds.count("prekeys")) == (3, 4, 4)
    assert len(set(shown["devices"].values())) == 4
    change = shown["key_change"]
    assert change["refused"] is True
    assert change["before"] == shown["safety_number"] != change["now"]
    assert len(change["now"]) == 60
    assert all(int(earned["reward"]) > 0 for earned in shown["rewards"]["wallets"])
    positions = [line["position"] for line in shown["conversation"]]
    assert positions == sorted(set(positions))
    assert shown["rewards"]["ledger"]["position"] == shown["audit"]["records"]
    ledger = json.dumps(shown["ledger"])
    assert not any(line["text"] in ledger for line in shown["conversation"])
    assert shown["protected"]
    assert shown["not_protected"]
    assert list(tmp_path.iterdir()) == []
    assert _servers(tmp_path) == []


def test_demo_reads_as_a_story_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run = _run(tmp_path, "--messages", "3")
    assert run.returncode == 0, run.stderr
    for promised in (
        "Alice",
        "The safety number",
        "Bob goes offline",
        "on both",
        "Bob's identity has changed",
        "IDENTITY",
        "sound",
        "CHR",
        "Not protected",
    ):
        assert promised in run.stdout
    assert list(tmp_path.iterdir()) == []
    assert _servers(tmp_path) == []


def test_a_demo_that_fails_says_why_in_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run = _run(tmp_path, SECURE_CHAT_MAX_CIPHERTEXT="100")
    assert run.returncode == 1
    assert run.stderr.startswith("secure-chat demo failed: message_too_large")
    assert len(run.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert _servers(tmp_path) == []


def test_demo_keep_serves_until_ctrl_c(tmp_path: Path) -> None:
    with subprocess.Popen(
        (*COMMAND, "--keep", "--json", "--messages", "1"),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job is started with it ignored, and so is all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        address = json.loads(demo.stdout.readline())["address"]
        line = demo.stderr.readline() or demo.stderr.readline()
        while address not in line:
            line = demo.stderr.readline()
            assert line, "the demo ended without saying where the server is"
        with urllib.request.urlopen(f"{address}/health/ready", timeout=PATIENCE) as answer:  # noqa: S310 (our own server)
            assert answer.status == 200
        demo.send_signal(signal.SIGINT)
        assert demo.wait(PATIENCE) == 0
    assert _servers(tmp_path) == []
    assert [folder.name[:16] for folder in tmp_path.iterdir()] == ["secure-chat-demo"]
