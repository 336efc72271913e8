"""transparency/keyfile.py: a log's keys are made once, kept from others, and never mixed up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from plugins.secure_chat.core.note import Checkpoint, open_checkpoint
from plugins.secure_chat.errors import ConfigurationError
from plugins.secure_chat.transparency.keyfile import open_signer

NAME = "example.com/ledger"
HEAD = Checkpoint(NAME, 3, bytes(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "log.key"


def test_keys_are_made_once_and_read_ever_after(path: Path) -> None:
    first = open_signer(path, NAME)
    again = open_signer(path, NAME)
    note = again.sign(HEAD, 1).encode()
    assert open_checkpoint(note, first.verifiers(), NAME) == HEAD
    assert first.ed25519_key == again.ed25519_key
    assert [each.name for each in path.parent.iterdir()] == ["log.key"]


def test_two_logs_have_different_keys_and_one_log_two(path: Path, tmp_path: Path) -> None:
    open_signer(path, NAME)
    other = tmp_path / "other.key"
    open_signer(other, NAME)
    seeds = [json.loads(each.read_bytes())[kind] for each in (path, other) for kind in KINDS]
    assert len(set(seeds)) == 4


KINDS = ("ed25519", "ml_dsa_44")


def test_the_file_is_its_owners_alone(path: Path) -> None:
    open_signer(path, NAME)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    open_signer(path, NAME)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        open_signer(path, NAME)


def test_the_keys_of_another_log_are_refused(path: Path) -> None:
    open_signer(path, NAME)
    with pytest.raises(ConfigurationError, match="another name"):
        open_signer(path, "example.com/another")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b'{"name": 1, "ed25519": 2, "ml_dsa_44": 3}', b"\xff", b"[" * 200_000],
)
def test_what_holds_no_keys_is_refused_and_kept(path: Path, content: bytes) -> None:
    open_signer(path, NAME)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError):
        open_signer(path, NAME)
    assert path.read_bytes() == content


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_at_once(path: Path, make: Callable[[Path], object]) -> None:
    path.parent.mkdir()
    make(path)
    with pytest.raises(ConfigurationError, match="no file"):
        open_signer(path, NAME)


def test_a_damaged_seed_is_not_shown_in_the_error(path: Path) -> None:
    open_signer(path, NAME)
    stored = json.loads(path.read_bytes())
    stored["ed25519"] = stored["ed25519"][:-2] + "zz"
    path.write_bytes(json.dumps(stored).encode())
    with pytest.raises(ConfigurationError) as caught:
        open_signer(path, NAME)
    assert stored["ed25519"][:8] not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_start_killed_while_it_made_the_keys_leaves_nothing_in_the_way(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("log.key.new").write_bytes(b"half")
    open_signer(path, NAME)
    assert open_signer(path, NAME).ed25519_key.name == NAME


def test_a_name_that_no_note_can_bear_is_refused_and_nothing_is_made(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        open_signer(path, "two words")
    assert not path.exists()
