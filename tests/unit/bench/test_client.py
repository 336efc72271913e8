"""The client's costs are measured over what really opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.secure_chat.bench.client import TARGET, client_costs
from plugins.secure_chat.crypto.errors import DecryptError
from plugins.secure_chat.crypto.messenger import Messenger


def test_every_size_and_store_is_measured_each_way(tmp_path: Path) -> None:
    costs = client_costs(tmp_path / "client", quick=True)
    names = [cost.what for cost in costs]
    assert len(set(names)) == len(names)
    assert all(cost.value > 0 for cost in costs)
    for size in ("1 recipient device", "10 recipient devices"):
        for where in ("in memory", "on disk"):
            assert sum(f"{size}, {where}" in name for name in names) == 4
    assert {cost.target for cost in costs} == {None, TARGET}
    assert sum("handshakes" in name for name in names) == 2
    assert list(tmp_path.iterdir()) == []


def test_figures_of_messages_that_do_not_open_are_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(self: Messenger, frames: object) -> list[DecryptError]:
        return [DecryptError("no")]

    monkeypatch.setattr(Messenger, "open_many", refusing)
    with pytest.raises(RuntimeError):
        client_costs(tmp_path / "client", quick=True)
