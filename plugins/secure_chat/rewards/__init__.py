"""Rewards around the pure rules: folding a ledger file, keeping a running server's rewards current,
and handing features to the host's coherence engine. What is earned is decided in core/rewards.py.
"""

from plugins.secure_chat.rewards.book import NoSuchEpoch, RewardBook
from plugins.secure_chat.rewards.coherence import CoherenceSignal, omega, signals
from plugins.secure_chat.rewards.ledger import FoldedEpoch, fold_ledger

__all__ = [
    "CoherenceSignal",
    "FoldedEpoch",
    "NoSuchEpoch",
    "RewardBook",
    "fold_ledger",
    "omega",
    "signals",
]
