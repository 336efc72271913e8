"""Prometheus metrics of each stage of a message's life. Labels never hold user data."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from plugins.secure_chat.core.identity_event import StatementKind
from plugins.secure_chat.errors import Code

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
MAX_CALLERS: Final = 100_000  # counted one by one; a gauge at this number says: at least so many
_GROUP: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class Latencies(Collector):
    """A histogram of seconds without a lock, for one thread: made for what every message does."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self._counts = [0] * (len(_SECONDS) + 1)  # by bucket, the last without a bound
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[HistogramMetricFamily]:
        bounds = [*(str(bound) for bound in _SECONDS), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets, self._sum)


class Metrics:
    """One registry a service, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        stages = Counter(
            "secure_chat_messages", "Messages by stage of life.", ["stage"], registry=self.registry
        )
        self._received = stages.labels("received")
        self._validated = stages.labels("validated")
        self._committed = stages.labels("committed")
        self._delivered = stages.labels("delivered")
        self._acknowledged = stages.labels("acknowledged")
        # Counted here and handed over when asked for: a Counter's lock costs more than the sum.
        # All of it is the event loop's.
        self._new_received = self._new_validated = self._new_acknowledged = 0
        self._refusals = Counter(
            "secure_chat_refusals", "Refused requests by code.", ["code"], registry=self.registry
        )
        self._commit_seconds = Histogram(
            "secure_chat_commit_seconds",
            "Time of one group commit.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._group_size = Histogram(
            "secure_chat_group_messages",
            "Messages a group commit.",
            buckets=_GROUP,
            registry=self.registry,
        )
        self._ack_seconds = Latencies("secure_chat_ack_seconds", "From validated to acknowledged.")
        self.registry.register(self._ack_seconds)
        self._signatures = Counter(
            "secure_chat_signatures",
            "Checked device signatures by verdict.",
            ["verdict"],
            registry=self.registry,
        )
        self._statements = Counter(
            "secure_chat_directory_statements",
            "Statements that came into force, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self._claims = Counter(
            "secure_chat_prekey_claims",
            "Bundles handed out, by their KEM prekey.",
            ["kem"],
            registry=self.registry,
        )
        self.connections = Gauge(
            "secure_chat_connections", "Authenticated sockets.", registry=self.registry
        )
        self.pool = Gauge(
            "secure_chat_pool_messages", "Messages that wait for a commit.", registry=self.registry
        )
        self.head = Gauge(
            "secure_chat_ledger_position", "Records in the ledger.", registry=self.registry
        )

        self.follower_lag = Gauge(
            "secure_chat_follower_lag_records",
            "Durable records that what is derived from the ledger has not taken yet.",
            ["name"],
            registry=self.registry,
        )

        self._legacy_calls = Counter(
            "secure_chat_legacy_calls",
            "Requests that the legacy route got.",
            ["route"],
            registry=self.registry,
        )
        self._legacy_callers = Gauge(
            "secure_chat_legacy_callers",
            "Different wallets that called the legacy route since the start.",
            ["route"],
            registry=self.registry,
        )
        self._callers: dict[str, set[str]] = {}
        self._shadow_reads = Counter(
            "secure_chat_shadow_reads",
            "Legacy reads that were compared with what the chat would have answered.",
            ["route", "result"],
            registry=self.registry,
        )

    def legacy_call(self, route: str, wallet: str | None) -> None:
        """One of the legacy routes was called; by whom is not asked any more when it is retired."""
        self._legacy_calls.labels(route).inc()
        if wallet is None:
            return
        callers = self._callers.setdefault(route, set())
        if len(callers) < MAX_CALLERS:
            callers.add(wallet)
        self._legacy_callers.labels(route).set(len(callers))

    def shadow_read(self, route: str, *, same: bool) -> None:
        """A legacy read was compared."""
        self._shadow_reads.labels(route, "same" if same else "different").inc()

    def received(self) -> None:
        self._new_received += 1

    def validated(self) -> None:
        self._new_validated += 1

    def committed(self, messages: int, seconds: float) -> None:
        self._committed.inc(messages)
        self._group_size.observe(messages)
        self._commit_seconds.observe(seconds)

    def delivered(self, messages: int) -> None:
        self._delivered.inc(messages)

    def acknowledged(self, seconds: float) -> None:
        self._new_acknowledged += 1
        self._ack_seconds.observe(seconds)

    def refused(self, code: Code) -> None:
        self._refusals.labels(code.value).inc()

    def signatures(self, checked: int, good: int) -> None:
        self._signatures.labels("good").inc(good)
        self._signatures.labels("bad").inc(checked - good)

    def published(self, kind: StatementKind) -> None:
        self._statements.labels(kind.value).inc()

    def claimed(self, *, one_time_kem: bool) -> None:
        self._claims.labels("one_time" if one_time_kem else "last_resort").inc()

    def exposition(self) -> bytes:
        """The registry in Prometheus' text format, up to date."""
        self._received.inc(self._new_received)
        self._validated.inc(self._new_validated)
        self._acknowledged.inc(self._new_acknowledged)
        self._new_received = self._new_validated = self._new_acknowledged = 0
        return generate_latest(self.registry)
