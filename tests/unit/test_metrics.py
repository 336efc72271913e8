"""Counts are exact at every look, however often somebody looks."""

from __future__ import annotations

from plugins.secure_chat.metrics import Metrics


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
