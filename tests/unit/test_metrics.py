"""Counts are exact at every look, however often somebody looks."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from plugins.secure_chat.metrics import _SECONDS, Latencies, Metrics


def test_each_stage_is_counted_once_over_any_number_of_looks() -> None:
    metrics = Metrics()
    for expected in (1, 2, 3):
        metrics.received()
        metrics.validated()
        metrics.acknowledged(0.001)
        metrics.exposition()
        text = metrics.exposition().decode()
        for stage in ("received", "validated", "acknowledged"):
            assert f'secure_chat_messages_total{{stage="{stage}"}} {expected}.0' in text
        assert f"secure_chat_ack_seconds_count {expected}.0" in text


def test_latencies_fall_into_the_buckets_that_prometheus_own_histogram_has() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    latencies = Latencies("some_seconds", "Some.")
    ours.register(latencies)
    histogram = Histogram("some_seconds", "Some.", buckets=_SECONDS, registry=theirs)
    for seconds in (0.0, 0.0001, 0.0005, 0.0006, 0.25, 1.0, 4.9, 5.0, 5.1, 60.0):
        latencies.observe(seconds)
        histogram.observe(seconds)
    expected = generate_latest(theirs).decode().splitlines()
    assert generate_latest(ours).decode().splitlines() == [
        line for line in expected if "_created" not in line
    ]
