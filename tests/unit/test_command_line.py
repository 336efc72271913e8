"""cli: what all commands share: a wrong use is told to a person in words, to a script in JSON."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from plugins.secure_chat.cli import app

COMMANDS = (
    ("audit",),
    ("rewards",),
    ("bench",),
    ("demo",),
    *(("migrate", step) for step in ("plan", "run", "verify", "status", "advance", "rollback")),
)
WRONG = (
    *((*command, "--nonsense") for command in COMMANDS),
    ("nonsense",),
    ("--nonsense",),
    ("migrate", "nonsense"),
    ("migrate", "run", "--batch", "many"),
    ("migrate", "run", "--batch", "0"),
    ("migrate", "advance", "--from", "nowhere"),
    ("migrate", "status", "a-word-too-many"),
    ("rewards",),
    ("audit", "--until", "\x1b[2J"),
)


def names(arguments: tuple[str, ...]) -> str:
    return " ".join(arguments).encode("unicode_escape").decode()


@pytest.mark.parametrize("arguments", WRONG, ids=names)
def test_a_wrong_use_is_one_json_object_for_a_script(arguments: tuple[str, ...]) -> None:
    for given in ((*arguments, "--json"), (arguments[0], "--json", *arguments[1:])):
        done = CliRunner().invoke(app, given)
        assert (done.exit_code, done.stderr) == (2, ""), done.output
        said = json.loads(done.stdout)
        assert said.keys() == {"verdict", "reason"}
        assert said["verdict"] == "unusable"
        assert said["reason"]
        assert done.stdout.isascii()
        assert done.stdout.rstrip("\n").isprintable()


@pytest.mark.parametrize("arguments", WRONG, ids=names)
def test_a_wrong_use_is_words_on_stderr_for_a_person(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert "Usage: " in done.stderr


def test_help_stays_help_for_a_script_too() -> None:
    done = CliRunner().invoke(app, ["migrate", "run", "--help", "--json"])
    assert (done.exit_code, done.stdout.lstrip().startswith("Usage: ")) == (0, True)
