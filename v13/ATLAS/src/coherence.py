"""Coherence signals: the features that plugins offer, through the engine, wallet by wallet."""

from __future__ import annotations

from v13.ATLAS.src.plugins.hookspecs import Host
from v13.ATLAS.src.plugins.manager import Plugins
from v13.core.CoherenceEngine import CoherenceEngine
from v13.libs.CertifiedMath import BigNum128


def omega_by_wallet(
    plugins: Plugins, engine: CoherenceEngine, host: Host, epoch: int | None
) -> dict[str, list[int]]:
    """Each wallet's omega as raw 1e18 integers, wallets sorted. Computes; changes nothing.

    Raises ValueError or OverflowError when a plugin's feature is no BigNum128.
    """
    features: dict[str, list[BigNum128]] = {}
    for offers in plugins.implementations("atlas_coherence_features"):
        for wallet, numbers in (offers(host=host, epoch=epoch) or {}).items():
            features.setdefault(wallet, []).extend(BigNum128(number) for number in numbers)
    return {
        wallet: [part.value for part in engine.update_omega(features[wallet], [])]
        for wallet in sorted(features)
    }
