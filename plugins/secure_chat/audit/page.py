"""The audit on one page for people: HTML that needs nothing else, without scripts, charts in SVG.

Whatever comes from the ledger is escaped. Which figures there are is not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from plugins.secure_chat.audit.activity import Activity
from plugins.secure_chat.core.rewards import CHR

_WIDTH: Final = 640
_HEIGHT: Final = 120
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #d0d7de; --bar: #4263a8;
        --good: #1a7f37; --bad: #c62828; --quiet: #57606a }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --line: #30363d; --bar: #7c9fe0; --good: #3fb950;
          --bad: #ff7b72; --quiet: #9198a1 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1rem; margin: 1.6rem 0 .3rem }
.sound { color: var(--good) } .broken { color: var(--bad) } .quiet { color: var(--quiet) }
table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 600 }
th, td { padding: .15rem .8rem .15rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
         overflow-wrap: anywhere }
th { white-space: nowrap } svg { width: 100%; height: auto; display: block }
rect { fill: var(--bar) }
svg text { fill: var(--quiet); font-size: 11px } line { stroke: var(--line) }
@media print { body { margin: 0 } }
"""


def page(
    title: str,
    sound: bool,
    verdict: Sequence[str],
    figures: Sequence[tuple[str, str]],
    activity: Activity | None,
    refusals: dict[str, int] | None,
) -> str:
    """The whole document. ``verdict``: sentences; ``figures``: what was counted, name and text."""
    word = "sound" if sound else "broken"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}: {word}</title>",
        f"<style>{_STYLE}</style></head><body>",
        f'<h1>{escape(title)}: <span class="{word}">{word}</span></h1>',
        *(f"<p>{escape(sentence)}</p>" for sentence in verdict),
        "<h2>What was checked</h2>",
        _table(figures),
    ]
    if activity is not None:
        labels = [bar.label for bar in activity.bars]
        parts += [
            f"<h2>Messages, one bar for {escape(activity.stretch)}</h2>",
            _bars([bar.messages for bar in activity.bars], labels, "messages"),
            f"<h2>Wallets that sent, one bar for {escape(activity.stretch)}</h2>",
            _bars([bar.wallets for bar in activity.bars], labels, "wallets"),
            "<h2>Rewards, CHR an epoch</h2>",
            _bars(
                [epoch.amount for epoch in activity.epochs],
                [f"epoch {epoch.number}" for epoch in activity.epochs],
                "CHR",
                unit=CHR,
            ),
        ]
        running = [epoch.number for epoch in activity.epochs if not epoch.complete]
        if running:
            parts.append(f'<p class="quiet">Epoch {running[-1]} is not over yet.</p>')
    parts.append("<h2>Refusals</h2>")
    if refusals is None:
        parts.append(
            '<p class="quiet">What a server refused is not in its ledger; '
            "give a saved answer of its /metrics to see it here.</p>"
        )
    else:
        parts.append(_bars(list(refusals.values()), list(refusals), "refusals"))
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = [f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows]
    return f"<table>{''.join(cells)}</table>"


def _bars(values: Sequence[int], labels: Sequence[str], what: str, *, unit: int = 1) -> str:
    """A bar chart. Each bar says its figure when pointed at, and to a screen reader."""
    top = max(values, default=0)
    if top == 0:
        return f'<p class="quiet">No {escape(what)}.</p>'
    step = _WIDTH / len(values)
    width = min(step * 0.8, 48)
    marks = []
    for place, (value, label) in enumerate(zip(values, labels, strict=True)):
        height = value / top * _HEIGHT
        marks.append(
            f'<rect x="{place * step + (step - width) / 2:.1f}" y="{_HEIGHT - height + 14:.1f}" '
            f'width="{width:.1f}" height="{height:.1f}"><title>{escape(label)}: '
            f"{_figure(value, unit)} {escape(what)}</title></rect>"
        )
    low, base = _HEIGHT + 30, _HEIGHT + 14
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 36}" role="img" aria-label="{escape(what)}, '
        f'at most {_figure(top, unit)}"><text x="0" y="10">{_figure(top, unit)}</text>'
        f'<line x1="0" y1="{base}" x2="{_WIDTH}" y2="{base}"/>{"".join(marks)}'
        f'<text x="0" y="{low}">{escape(labels[0])}</text>'
        f'<text x="{_WIDTH}" y="{low}" text-anchor="end">{escape(labels[-1])}</text></svg>'
    )


def _figure(value: int, unit: int) -> str:
    if unit == 1:
        return f"{value:,}"
    whole, rest = divmod(value, unit)
    return f"{whole:,}.{rest * 10_000 // unit:04d}"
