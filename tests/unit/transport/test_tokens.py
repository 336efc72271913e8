"""transport/tokens: the plugin's own verifier, for hosts without one, and what it asks of theirs.

Through sockets and REST, with the stand-in host's verifier: ``tests/plugin/test_chat_access.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from plugins.secure_chat.errors import Unauthorized
from plugins.secure_chat.transport.tokens import MAX_TOKEN, host_verifier, jwt_verifier
from tests.plugin.chat_server import ALICE, SECRET, token
from tests.plugin.test_chat_access import REFUSED


def hooks(answer: Callable[[str], Any]) -> Any:
    return SimpleNamespace(atlas_authenticate=lambda *, token: answer(token))


def principal(**fields: Any) -> Any:
    whole = {"wallet": ALICE, "expires_at": time.time() + 60, "scopes": ("user",)}
    return SimpleNamespace(**{**whole, **fields})


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_a_token_that_must_not_count_is_refused_by_the_plugins_own_verifier(
    make: Callable[[], str],
) -> None:
    own = jwt_verifier(SECRET)
    for verify in (own, host_verifier(hooks(lambda _: None), own)):
        with pytest.raises(Unauthorized):
            verify(make())


def test_a_good_token_says_who_until_when_and_with_which_scopes() -> None:
    until = int(time.time()) + 90
    good = token("0x" + "A1" * 20, exp=until, scope="user auditor")
    found = jwt_verifier(SECRET)(good)
    assert (found.wallet, found.expires_at) == (ALICE, until)
    assert found.scopes == ("user", "auditor")
    assert jwt_verifier(SECRET)(token(ALICE, scope=7)).scopes == ()


def test_a_token_that_no_hook_knows_goes_to_the_own_verifier_if_there_is_one() -> None:
    nobody = hooks(lambda _: None)
    assert host_verifier(nobody, jwt_verifier(SECRET))(token(ALICE)).wallet == ALICE
    with pytest.raises(Unauthorized):
        host_verifier(nobody, None)(token(ALICE))


def test_a_hosts_verifier_is_not_asked_about_a_token_without_end() -> None:
    asked: list[str] = []

    def answer(token: str) -> Any:
        asked.append(token)
        return principal()

    verify = host_verifier(hooks(answer), None)
    with pytest.raises(Unauthorized):
        verify("x" * (MAX_TOKEN + 1))
    assert asked == []
    assert verify("x" * MAX_TOKEN).wallet == ALICE


def refused(_: str) -> Any:
    raise PermissionError("of a user that must not be named")


@pytest.mark.parametrize(
    "answer",
    [
        refused,
        lambda _: principal(expires_at=time.time() - 1),
        lambda _: principal(expires_at=0),
        lambda _: principal(wallet="a wallet with spaces"),
        lambda _: principal(wallet="thread_" + "0a" * 16),
    ],
)
def test_what_a_hosts_verifier_refuses_or_should_have_is_refused(
    answer: Callable[[str], Any],
) -> None:
    with pytest.raises(Unauthorized) as error:
        host_verifier(hooks(answer), jwt_verifier(SECRET))(token(ALICE))
    assert "must not be named" not in str(error.value)


def test_a_hosts_user_is_canonical() -> None:
    verify = host_verifier(hooks(lambda _: principal(wallet="0x" + "A1" * 20)), None)
    assert verify("t").wallet == ALICE
