"""What an adoption costs can be measured: the export is planned, imported and compared."""

from __future__ import annotations

from pathlib import Path

from plugins.secure_chat.bench.adoption import adoption_costs


def test_every_cost_of_an_adoption_is_measured(tmp_path: Path) -> None:
    costs = adoption_costs(tmp_path / "adoption", quick=True)
    assert [(cost.what, cost.target) for cost in costs] == [
        ("records planned", None),
        ("records imported", 5_000),
        ("records compared", None),
    ]
    assert all(cost.value > 0 for cost in costs)
