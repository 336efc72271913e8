"""What evidence costs can be measured: every kind of work is done on a ledger that is sound."""

from __future__ import annotations

from pathlib import Path

from plugins.secure_chat.bench.evidence import evidence_costs


def test_every_cost_of_the_evidence_is_measured(tmp_path: Path) -> None:
    costs = evidence_costs(tmp_path / "evidence", quick=True)
    assert len({cost.what for cost in costs}) == len(costs) == 8
    assert all(cost.value > 0 for cost in costs)
    assert [cost.what for cost in costs if cost.target is not None] == [
        "records folded into rewards",
        "records audited, one core",
    ]
