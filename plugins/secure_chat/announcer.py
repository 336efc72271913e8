"""Telling the host's plugins of what this one has committed: the hook ``atlas_event_committed``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final

import pluggy

from plugins.secure_chat.core.records import EventDraft, Receipt

log: Final = logging.getLogger(__name__)


class Announcer:
    """An observer of the service. No observer of the hook can stop the next one, or a message."""

    def __init__(self, hook: Any) -> None:
        """``hook``: the host's hooks. A host without this one is told nothing."""
        self._hook = hook

    def __call__(self, drafts: Sequence[EventDraft], receipts: Sequence[Receipt]) -> None:
        for observer in self._observers():
            for draft, receipt in zip(drafts, receipts, strict=True):
                try:
                    observer(
                        position=receipt.position,
                        event_type=draft.event_type,
                        wallet=draft.wallet,
                        metadata=draft.metadata,
                    )
                except Exception:
                    log.exception("hook.observer_failed position=%d", receipt.position)

    def _observers(self) -> Iterator[Callable[..., object]]:
        caller = getattr(self._hook, "atlas_event_committed", None)
        if caller is None:
            return
        if not hasattr(caller, "get_hookimpls"):  # a host's own hooks, without pluggy
            yield caller
            return
        for found in caller.get_hookimpls():
            observer = _naming(found.function, found.argnames)
            if found.wrapper:
                yield _around(observer, [])
            elif found.hookwrapper:
                yield _around(observer, pluggy.Result([], None))
            else:
                yield observer


def _around(
    wrapper: Callable[..., Generator[None, object, object]], nothing: object
) -> Callable[..., None]:
    """A hook wrapper as an observer: it is told, and what it wraps is nothing, of which it gets
    ``nothing`` as the result. Around a call of all it could stop the others."""

    def observer(**given: object) -> None:
        told = wrapper(**given)
        next(told)
        with contextlib.suppress(StopIteration):
            told.send(nothing)

    return observer


def _naming(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """``function``, given those arguments that it names, as pluggy gives them."""
    return lambda **given: function(**{name: given[name] for name in names})
