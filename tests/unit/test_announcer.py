"""Whoever announces an event, the host's ledger or the chat: the same plugins hear of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from plugins.secure_chat.announcer import Announcer
from plugins.secure_chat.core.records import EventDraft, Receipt
from v13.ATLAS.src.plugins.hookspecs import hookimpl
from v13.ATLAS.src.plugins.manager import Plugins
from v13.ATLAS.src.services import EventAnnouncer

Announce = Callable[[Plugins], None]


def by_the_host(plugins: Plugins) -> None:
    announce = EventAnnouncer(plugins)
    for position in (1, 2):
        announce(position=position, event_type="MESSAGE", wallet="alice", metadata={})


def by_the_chat(plugins: Plugins) -> None:
    drafts = [EventDraft("MESSAGE", "alice", {})] * 2
    receipts = [Receipt(position, "id", "hash", "now") for position in (1, 2)]
    Announcer(plugins.hook)(drafts, receipts)


class Hearing:
    """Keeps the positions of what it is told."""

    def __init__(self) -> None:
        self.heard: list[int] = []


class Observer(Hearing):
    @hookimpl
    def atlas_event_committed(self, position: int) -> None:
        self.heard.append(position)


class Wrapper(Hearing):
    @hookimpl(wrapper=True)
    def atlas_event_committed(self, position: int) -> Generator[None, Any, Any]:
        result = yield
        self.heard.append(position)
        return result


class OldWrapper(Hearing):
    @hookimpl(hookwrapper=True)
    def atlas_event_committed(self, position: int) -> Generator[None, Any, None]:
        outcome = yield
        assert outcome.get_result() == []
        self.heard.append(position)


class BrokenWrapper(Hearing):
    @hookimpl(wrapper=True)
    def atlas_event_committed(self, position: int) -> Generator[None, Any, Any]:
        yield
        self.heard.append(position)
        raise LookupError


@pytest.mark.parametrize("announce", [by_the_host, by_the_chat])
def test_a_wrapper_hears_of_every_event_and_stops_no_other_observer(announce: Announce) -> None:
    observers: list[Hearing] = [BrokenWrapper(), OldWrapper(), Wrapper(), Observer()]
    plugins = Plugins()
    for observer in observers:
        plugins.register(observer)
    announce(plugins)
    assert [observer.heard for observer in observers] == [[1, 2]] * 4


@pytest.mark.parametrize("announce", [by_the_host, by_the_chat])
def test_observers_are_told_in_the_order_of_loading(announce: Announce) -> None:
    told: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl
        def atlas_event_committed(self, position: int) -> None:
            if position == 1:
                told.append(self.name)

    plugins = Plugins()
    for name in ("first", "second", "third"):
        plugins.register(Named(name))
    announce(plugins)
    assert told == ["first", "second", "third"]
