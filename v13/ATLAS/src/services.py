"""What the host offers to plugins through hooks: authentication, the ledger, coherence, its stage.

Wiring is in ``main.py``; the contracts are in ``plugins/hookspecs.py``.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from v13.ATLAS.src.api.tokens import TokenAuthority
from v13.ATLAS.src.legacy_transactions import LegacyTransactions
from v13.ATLAS.src.plugins.hookspecs import Principal, hookimpl
from v13.ATLAS.src.plugins.manager import Plugins
from v13.core.CoherenceEngine import CoherenceEngine
from v13.ledger.genesis_ledger import GenesisLedger

log: Final = logging.getLogger(__name__)


class HostServices:
    """The host as a plugin: registered first, therefore asked last."""

    def __init__(
        self,
        tokens: TokenAuthority,
        ledger: GenesisLedger,
        engine: CoherenceEngine,
        legacy_stage: str | None,
        legacy_transactions: LegacyTransactions,
    ) -> None:
        self._tokens = tokens
        self._ledger = ledger
        self._engine = engine
        self._legacy_stage = legacy_stage
        self._legacy_transactions = legacy_transactions

    @hookimpl
    def atlas_authenticate(self, token: str) -> Principal | None:
        return self._tokens.verify(token) if self._tokens.is_ours(token) else None

    @hookimpl
    def atlas_ledger(self) -> GenesisLedger:
        return self._ledger

    @hookimpl
    def atlas_coherence_engine(self) -> CoherenceEngine:
        return self._engine

    @hookimpl
    def atlas_legacy_stage(self) -> str | None:
        return self._legacy_stage

    @hookimpl
    def atlas_legacy_transactions(self) -> LegacyTransactions:
        return self._legacy_transactions


class EventAnnouncer:
    """Passes the events that the host's ledger committed on to every plugin that observes them."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    def __call__(
        self, *, position: int, event_type: str, wallet: str, metadata: dict[str, Any]
    ) -> None:
        for observer in self._plugins.implementations("atlas_event_committed"):
            try:
                observer(position=position, event_type=event_type, wallet=wallet, metadata=metadata)
            except Exception:
                log.exception(
                    "host.observer_failed plugin=%s position=%d", observer.plugin, position
                )
