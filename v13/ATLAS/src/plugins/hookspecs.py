"""The contracts between the host and its plugins: every hook there is, and the types they carry.

A hook is a name and a docstring. A plugin is a module or an object with functions marked by
``pluggy.HookimplMarker("atlas")``; it needs nothing from this module and should not import it, so
that it also loads into hosts that have no such module. Hooks grow by new arguments: an
implementation names the arguments it wants and no others.

Nothing here may do anything: loading is in ``manager.py``, the host's own side in ``services.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pluggy
from fastapi import APIRouter

PROJECT: Final = "atlas"
ENTRY_POINT_GROUP: Final = "atlas.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, slots=True)
class Host:
    """What a plugin may know of the host.

    ``hook``: calls the hooks of everybody, ``host.hook.atlas_ledger()``. ``data_dir``: where to
    keep files, created before anything starts. ``ledger_path``: the ledger's file. ``settings``:
    the host's settings by name, secrets left out, and under a plugin's name what whoever built the
    host has for it.
    """

    hook: pluggy.HookRelay
    data_dir: Path
    ledger_path: Path
    settings: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a token speaks for, until when (Unix seconds), and what it may do.

    A verifier may answer with any object that has these three attributes.
    """

    wallet: str
    expires_at: float
    scopes: frozenset[str]


class InvalidToken(PermissionError):
    """A token that is refused. A verifier may raise any PermissionError. The text has no token."""


# --- implemented by plugins, called by the host ---------------------------------------------------


@hookspec
def atlas_routes(host: Host) -> list[APIRouter]:  # type: ignore[empty-body]  # a contract
    """Return the routers, WebSocket routes included, that the host is to serve.

    Called once for each plugin while the application is built, in the order of loading, and before
    any ``atlas_start``: routers must not need anything that is started yet. The host includes them
    in the returned order, after its own routes, without a prefix; of two routes with one path the
    first serves.
    """


@hookspec
def atlas_start(host: Host) -> Awaitable[None] | None:
    """Open what the plugin needs; an awaitable, if one is returned, is awaited.

    Called in the order of loading, each plugin after the one before has started, inside the running
    event loop. An exception refuses to start the host: the plugins started before are stopped, the
    failing one is not and must clean up after itself.
    """


@hookspec
def atlas_stop(host: Host) -> Awaitable[None] | None:
    """Finish work in flight and close what ``atlas_start`` opened; the ledger is still open.

    Called in the reverse order of starting, only for plugins that started. An exception does not
    keep the others from stopping; it is raised when all have.
    """


@hookspec
def atlas_ready(host: Host) -> list[str]:  # type: ignore[empty-body]  # a contract
    """Say why the plugin cannot serve now, one sentence a reason; an empty list means ready.

    Called for each ``GET /health/ready``, between start and stop, on the event loop: it must not
    block. The reasons are shown to anyone who asks.
    """


@hookspec
def atlas_coherence_features(  # type: ignore[empty-body]  # a contract
    host: Host, epoch: int | None
) -> Mapping[str, Sequence[int]]:
    """Return each wallet's features for ``CoherenceEngine.update_omega``, as raw 1e18 integers.

    ``epoch`` None means all that the ledger holds. The answer must follow from committed ledger
    records alone. Features of one wallet from several plugins are put behind one another in the
    order of loading.
    """


@hookspec
def atlas_event_committed(
    position: int, event_type: str, wallet: str, metadata: Mapping[str, Any]
) -> None:
    """Take note of a ledger event that is durable: ``position`` counts lines from 1.

    Called by whoever appended the event, once for each, after it is committed: by the host's ledger
    for what others append through it, by a plugin for what it put into the journal itself, or
    through a host's ledger object, unless that has an attribute ``announces_events`` which is true.
    It may be called from any thread, and not in the order of positions. It is not called again for
    events of an earlier run. It must be quick and cannot veto: the caller logs an exception and
    goes on. Each observer is called by itself, in the order of loading; a hook wrapper is one too,
    and wraps nothing. ``metadata`` must not be changed.
    """


# --- implemented by the host, called by plugins ---------------------------------------------------


@hookspec(firstresult=True)
def atlas_authenticate(token: str) -> Principal | None:
    """Say who ``token`` speaks for; None when it is no token of this verifier's kind.

    Raises InvalidToken (a PermissionError) when it is of its kind and refused: expired, forged,
    malformed. Called for every request and connection, so it must not block. Plugins are asked
    before the host, the one loaded last first; the first answer counts. A caller that gets None
    from everyone must refuse as well.
    """


@hookspec(firstresult=True)
def atlas_ledger() -> object:
    """Return the host's GenesisLedger, of either interface, the same object at every call.

    Known interfaces: ``append_event(event_type, wallet, metadata, signature, value=0)`` with
    ``storage_path``, or async ``append(entry)`` with ``filepath``. The host's own ledger has both,
    and ``journal`` for group commit; only one object may write the file.
    """


@hookspec(firstresult=True)
def atlas_coherence_engine() -> object:
    """Return the host's CoherenceEngine: it has ``update_omega`` and its arithmetic, ``cm``.

    The engine computes and keeps nothing, so anyone may call it from any thread. It takes and
    gives the host's own BigNum128.
    """


@hookspec(firstresult=True)
def atlas_legacy_stage() -> str | None:
    """Return the stage of the legacy chat route that the host's operator asks for.

    None, the default, leaves it to the plugin.
    """


@hookspec(firstresult=True)
def atlas_legacy_transactions() -> object:
    """Return the record that the host's own legacy chat route answers from; None: it has none.

    It has ``append(bundles)``, which appends transaction bundles in order and is durable on return,
    and ``mirrored_position``, the highest ``ledger_position`` of any bundle there, 0 when none has
    one. Both may block; a plugin calls them off the event loop. A bundle is ``{bundle_hash,
    creator_id, operations: [{creator_id, data, nonce, type}], signature, timestamp}`` as the route
    writes it, with ``ledger_position`` besides; its ``bundle_hash`` is the id that the route shows
    of what it made. A ``secure_chat_thread_updated`` may have ``participants``, all who are left.
    A plugin that has taken the route over appends what it took, so that the route can answer again.
    """
