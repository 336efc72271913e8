"""secure-chat audit --html: one page for people, complete in itself; nothing in it is believed."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from plugins.secure_chat.audit import audit_ledger
from plugins.secure_chat.audit.activity import MAX_BARS, activity_of, refusals_of
from plugins.secure_chat.audit.page import page
from plugins.secure_chat.cli.audit import audit
from plugins.secure_chat.core.rewards import CHR
from plugins.secure_chat.errors import Code, LedgerUnusable
from plugins.secure_chat.metrics import Metrics
from tests.ledgers import writers
from tests.ledgers.writers import Event, Ledger

app = typer.Typer()
app.command("audit")(audit)


class Reader(HTMLParser):
    """What a browser would find: tags, their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def chatty(dialect: str = "v1", exchanges: int = 20) -> Ledger:
    ledger = Ledger().add_all(dialect, [*writers.registration(1), *writers.registration(2)])
    for seq in range(1, exchanges + 1):
        ledger.add(dialect, writers.secure_message(seq))
        ledger.add(dialect, writers.secure_message(seq, sender=2, recipient=1))
    return ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def run(*arguments: object) -> int:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code in (0, 1), result.output
    return result.exit_code


def test_the_page_says_what_the_audit_found_and_loads_nothing(path: Path, tmp_path: Path) -> None:
    ledger = chatty()
    path.write_bytes(ledger.data)
    metrics = Metrics()
    for _ in range(3):
        metrics.refused(Code.RATE_LIMITED)
    saved = tmp_path / "metrics.txt"
    saved.write_bytes(metrics.exposition())
    out = tmp_path / "report.html"
    assert run(path, "--html", out, "--metrics", saved) == 0
    text = out.read_text(encoding="utf-8")
    found = Reader(text)
    names = {name for name, _ in found.tags}
    assert "script" not in names
    for _, attributes in found.tags:
        assert not {"src", "href", "onload", "style"} & set(attributes)
    assert not any(loads in text for loads in ("http:", "https:", "url(", "@import"))
    assert "ledger.jsonl: sound" in found.text
    assert f"44:{ledger.head}" in found.text
    assert "rate_limited: 3 refusals" in found.text
    assert "epoch 0: 3.9000 CHR" in found.text
    assert [name for name, _ in found.tags].count("svg") == 4


def test_a_broken_ledger_is_said_first(path: Path, tmp_path: Path) -> None:
    path.write_bytes(chatty().data.replace(b'"size": 64', b'"size": 65', 1))
    out = tmp_path / "report.html"
    assert run(path, "--html", out) == 1
    text = Reader(out.read_text(encoding="utf-8")).text
    assert "ledger.jsonl: broken" in text
    assert "line 5 (index 4)" in text
    assert "is not in its ledger" in text


def test_what_comes_from_the_ledger_is_escaped() -> None:
    evil = "</title><script>alert(1)</script>"
    text = page(evil, True, [evil], [(evil, evil)], None, {evil: 1})
    assert "<script" not in text
    assert evil in Reader(text).text


def test_days_without_messages_are_bars_too_and_wallets_are_counted_once(path: Path) -> None:
    first = [("2026-01-01", writers.secure_message(seq)) for seq in (1, 2)]
    activity = _activity(path, [first, [("2026-01-04", writers.secure_message(3))]])
    assert activity.stretch == "a day"
    assert [(bar.label, bar.messages, bar.wallets) for bar in activity.bars] == [
        ("2026-01-01", 2, 1),
        ("2026-01-02", 0, 0),
        ("2026-01-03", 0, 0),
        ("2026-01-04", 1, 1),
    ]


def _activity(path: Path, days: list[list[tuple[str, Event]]]) -> Any:
    """A ledger whose records carry the given days."""
    head = writers.ZEROS
    lines: list[bytes] = []
    for day, event in (one for some in days for one in some):
        line, head = writers.v1_line(event, head, f"{day}T10:00:00+00:00", f"id-{len(lines)}")
        lines.append(line)
    path.write_bytes(b"".join(lines))
    report = audit_ledger(path)
    assert report.sound
    return activity_of(path, report.head)


@pytest.mark.parametrize("day", ["2026-W01-1", "20260101", "", "<b>", "9999-99-99"])
def test_timestamps_that_are_no_days_of_ours_are_cut_by_position(path: Path, day: str) -> None:
    head = writers.ZEROS
    line, head = writers.v1_line(writers.secure_message(1), head, day, "id-1")
    path.write_bytes(line)
    activity = activity_of(path, audit_ledger(path).head)
    assert activity.stretch == "1 records"
    assert run(path, "--html", path.with_name("page.html")) == 0


def test_a_ledger_without_dates_is_cut_by_position(path: Path) -> None:
    path.write_bytes(chatty("v7", exchanges=60).data)
    activity = activity_of(path, audit_ledger(path).head)
    assert activity.stretch == "3 records"
    assert len(activity.bars) == MAX_BARS
    assert sum(bar.messages for bar in activity.bars) == 120
    assert activity.bars[0].label == "from 1"


def test_many_days_share_a_bar(path: Path) -> None:
    days = [[(f"{2020 + year}-06-01", writers.secure_message(1 + year))] for year in range(6)]
    activity = _activity(path, days)
    assert activity.stretch == "31 days"
    assert len(activity.bars) <= MAX_BARS
    assert sum(bar.messages for bar in activity.bars) == 6


def test_epochs_are_what_the_rewards_say(path: Path) -> None:
    path.write_bytes(chatty().data)
    (epoch,) = activity_of(path, audit_ledger(path).head).epochs
    assert (epoch.number, epoch.wallets, epoch.complete) == (0, 2, False)
    assert epoch.amount == 39 * CHR // 10


@pytest.mark.parametrize(
    "text", ["secure_chat_refusals_total{ 1", "\xff", 'secure_chat_refusals_total{code="x"} +Inf\n']
)
def test_metrics_that_cannot_be_read_are_unusable(tmp_path: Path, text: str) -> None:
    saved = tmp_path / "metrics.txt"
    saved.write_bytes(text.encode("latin-1"))
    with pytest.raises(LedgerUnusable):
        refusals_of(saved)
