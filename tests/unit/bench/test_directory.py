"""The directory's costs can be measured: every kind of work is done, and none is refused."""

from __future__ import annotations

from pathlib import Path

from plugins.secure_chat.bench.directory import directory_costs


def test_every_cost_is_of_work_that_was_done(tmp_path: Path) -> None:
    costs = directory_costs(tmp_path / "directory", quick=True)
    assert len({cost.what for cost in costs}) == len(costs) == 5
    assert all(cost.value > 0 for cost in costs)
