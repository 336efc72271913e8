"""The state file: what it holds outlives the process, and it serves one process only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.secure_chat.client.errors import StateUnusable
from plugins.secure_chat.client.state import ClientState, Unacknowledged

ROOT = Path(__file__).resolve().parents[3]
ME, PEER = "0x" + "a" * 40, "0x" + "b" * 40


def test_numbers_the_outbox_and_the_key_outlive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from plugins.secure_chat.client.state import ClientState, Unacknowledged\n"
        f"state = ClientState(Path(sys.argv[1]), {ME!r})\n"
        "for seq in (1, 2, 3):\n"
        f"    state.keep(Unacknowledged({PEER!r}, seq, f'hash {{seq}}', f'frame {{seq}}'))\n"
        f"state.drop({PEER!r}, 2)\n"
        f"state.received(9, {PEER!r}, '0', 4, resume_at=9)\n"
        "print(state.contact_key.public.hex(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE, timeout=60
    )
    assert run.returncode == -signal.SIGKILL
    with ClientState(path, ME) as state:
        assert state.contact_key.public.hex() == run.stdout.decode().strip()
        assert state.next_seq(PEER) == 4
        assert [kept.frame for kept in state.outbox()] == ["frame 1", "frame 3"]
        assert state.position == 9
        assert state.has_received(9)
        assert state.has_opened(PEER, "0", 4)
        assert not state.has_opened(PEER, "0", 5)


def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    with ClientState(tmp_path / "state.sqlite", ME) as state:
        state.keep(Unacknowledged(PEER, 1, "h", "f"))
        state.drop(PEER, 1)
        assert state.next_seq(PEER) == 2
        state.continue_above(PEER, 7)
        state.continue_above(PEER, 3)
        assert state.next_seq(PEER) == 8
        assert state.next_seq(ME) == 1


def test_resume_never_goes_back(tmp_path: Path) -> None:
    with ClientState(tmp_path / "state.sqlite", ME) as state:
        state.resume_at(5)
        state.resume_at(3)
        assert state.position == 5


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    with ClientState(path, ME), pytest.raises(StateUnusable, match="locked"):
        ClientState(path, ME)
    ClientState(path, ME).close()


@pytest.mark.parametrize(("wallet", "device"), [(PEER, "0"), (ME, "1")])
def test_another_wallets_or_devices_state_is_refused(
    tmp_path: Path, wallet: str, device: str
) -> None:
    path = tmp_path / "state.sqlite"
    ClientState(path, ME).close()
    with pytest.raises(StateUnusable, match="another"):
        ClientState(path, wallet, device)


def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StateUnusable):
        ClientState(path, ME)
    assert path.read_bytes() == b"not a database" * 100


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    ClientState(path, ME).close()
    assert os.stat(path).st_mode & 0o077 == 0
