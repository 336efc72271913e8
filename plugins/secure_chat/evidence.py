"""What a running server derives from its ledger to show for it: rewards and the transparency log.

Both follow the ledger's file on threads of their own, so every record counts, whoever appended it,
and no commit waits. Everything under ``DATA_DIR/rewards`` is derived; of ``DATA_DIR/transparency``
the checkpoint is a promise, and ``DATA_DIR/log.key`` is secret (docs/transparency.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from plugins.secure_chat.ledger.follower import LedgerFollower
from plugins.secure_chat.ledger.port import Ledger
from plugins.secure_chat.metrics import Metrics
from plugins.secure_chat.rewards.book import RewardBook
from plugins.secure_chat.transparency.keyfile import open_signer
from plugins.secure_chat.transparency.log import TransparencyLog

REWARDS_INTERVAL: Final = 0.25  # seconds
LOG_INTERVAL: Final = 1.0  # seconds between two checkpoints
STOP_SECONDS: Final = 5.0  # to take up what was committed last; the next start does the rest


class Evidence:
    """Rewards and transparency log of one ledger, kept current between ``start`` and ``stop``."""

    def __init__(
        self, ledger: Ledger, data_dir: Path, log_name: str | None, metrics: Metrics
    ) -> None:
        """Raises ConfigurationError for a key file that is not this log's, or OSError."""
        self._ledger = ledger
        signer = open_signer(data_dir / "log.key", log_name)
        self.verifier_keys = f"{signer.ed25519_key}\n{signer.ml_dsa_key}\n"
        """The log's two public keys, one a line: what auditors and clients check against."""
        self.rewards = RewardBook(
            ledger.path,
            data_dir / "rewards",
            breathe=lambda worked: self._follow_rewards.breathe(worked),
        )
        self.log = TransparencyLog(
            ledger.path,
            data_dir / "transparency",
            signer,
            breathe=lambda worked: self._follow_log.breathe(worked),
        )
        self._follow_rewards = LedgerFollower("rewards", self.rewards, interval=REWARDS_INTERVAL)
        self._follow_log = LedgerFollower("transparency log", self.log, interval=LOG_INTERVAL)
        for follower in self._followers:
            metrics.follower_lag.labels(follower.name).set_function(follower.lag)

    @property
    def _followers(self) -> tuple[LedgerFollower, LedgerFollower]:
        return self._follow_rewards, self._follow_log

    @property
    def position(self) -> int:
        """The ledger's durable head."""
        return self._ledger.checkpoint.head.position

    def start(self) -> None:
        """Begin to follow. Returns at once."""
        self._ledger.observe(self._moved)
        for follower in self._followers:
            follower.start(self.position)

    def stop(self) -> None:
        """Take up what was committed last, and end. Blocks for twice STOP_SECONDS at most."""
        for follower in self._followers:
            follower.stop(STOP_SECONDS)

    def _moved(self) -> None:
        for follower in self._followers:
            follower.notify(self.position)

    async def rewards_reach(self, position: int, within: float) -> bool:
        """Wait until the rewards have taken the record at ``position``."""
        return await self._follow_rewards.reached(position, within)

    async def log_reaches(self, position: int, within: float) -> bool:
        """Wait until a checkpoint covers the record at ``position``."""
        return await self._follow_log.reached(position, within)

    @property
    def log_stopped(self) -> str | None:
        """Why no checkpoint is signed any more, for good or for long; None while the log works."""
        return self._follow_log.stopped

    def repair_log(self) -> None:
        """A reader met TreeDamaged: have the tree built anew."""
        self._follow_log.repair()

    def why_not_ready(self) -> list[str]:
        return [f.stopped for f in self._followers if f.stopped is not None]
