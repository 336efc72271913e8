"""What a server takes as it grows is measured on servers that run."""

from __future__ import annotations

from pathlib import Path

from plugins.secure_chat.bench.scale import scale_costs


def test_every_figure_is_of_a_server_that_did_its_work(tmp_path: Path) -> None:
    costs = scale_costs(tmp_path / "scale", quick=True)
    assert len({cost.what for cost in costs}) == len(costs) == 4
    assert all(cost.value > 0 for cost in costs)
    assert [cost.at_most for cost in costs if cost.target is not None] == [True, False, True]
