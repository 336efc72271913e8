"""The outcome of a step as lines for a person, as JSON values, and as the written report.

Names of files, counts, line numbers and reasons: nothing of what a record says.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import Engine

from plugins.secure_chat.adoption.steps import Outcome
from plugins.secure_chat.adoption.store import AdoptionStore, Refusal
from plugins.secure_chat.core.migration_event import Counts
from plugins.secure_chat.ledger.file import sync_directory
from plugins.secure_chat.mailbox.store import Mailbox

_SHOWN: Final = 20  # refusals on a screen; the report has all of them
_WORDS: Final = {
    "threads": "threads",
    "messages": "messages, not end-to-end encrypted and never rewarded",
    "statuses": "changes of status",
    "duplicates": "known already",
    "mirrored": "written by the chat itself",
    "plaintext": "in clear: nothing of them is kept",
    "refused": "refused",
}


def as_json(outcome: Outcome, refusals: Iterable[Refusal]) -> dict[str, Any]:
    """The outcome as JSON values. Keys are only ever added."""
    adopted = outcome.adopted
    return {
        "verdict": "mismatch" if outcome.mismatches else "done",
        "ledger": None if outcome.audit is None else outcome.audit.as_json(),
        "head": {"position": outcome.head.position, "hash": outcome.head.event_hash},
        "adopted": adopted and {"position": adopted.position, "hash": adopted.event_hash},
        "sources": [
            {
                "source": source.source,
                "name": source.name,
                "bytes": source.size,
                "done": source.done,
                "planned": source.planned,
                "in": source.counts.records,
                "out": sum(source.counts[1:]),
                **source.counts._asdict(),
            }
            for source in outcome.sources
        ],
        "refusals": [refusal._asdict() for refusal in refusals],
        "mismatches": outcome.mismatches,
        "verified": outcome.verified,
        "stage": outcome.stage,
    }


def lines(outcome: Outcome, refusals: Iterable[Refusal]) -> Iterator[str]:
    """The outcome as a person would like to read it."""
    audit = outcome.audit
    if audit is not None:
        verdict = "sound" if audit.finding is None else f"NOT SOUND: {audit.finding}"
        kinds = ", ".join(f"{name} {audit.messages[name]:,}" for name in audit.messages)
        dialects = ", ".join(f"{name} {audit.dialects[name]:,}" for name in audit.dialects)
        yield f"  ledger      {audit.records:,} records ({dialects}): {verdict}"
        if kinds:
            yield f"  in it       messages: {kinds}"
    if outcome.adopted is not None:
        yield f"  adopted     at {outcome.adopted.position}:{outcome.adopted.event_hash}"
    for source in outcome.sources:
        state = "" if source.done else ", not finished: run again"
        if source.planned:
            state = ", nothing of it taken yet"
        yield f"  {source.name}: {source.counts.records:,} records in{state}"
        for count, name in zip(source.counts[1:], Counts._fields[1:], strict=True):
            if count:
                yield f"    {count:>12,} {_WORDS[name]}"
    shown = list(islice(refusals, _SHOWN + 1))
    for refusal in shown[:_SHOWN]:
        yield f"    record {refusal.line}: {refusal.reason}"
    if len(shown) > _SHOWN:
        yield "    … and more; --json and the report have them all"
    for mismatch in outcome.mismatches:
        yield f"  MISMATCH    {mismatch}"
    yield f"  verified    {'yes' if outcome.verified else 'no'}"
    yield f"  stage       {outcome.stage or 'never moved'}"


def write_report(path: Path, outcome: Outcome, engine: Engine) -> None:
    """Write the whole report: every refused record with its reason. Replaces an earlier one."""
    partial = path.with_name(f"{path.name}.partial")
    with contextlib.closing(Mailbox(engine)) as mailbox, partial.open("wb") as file:
        values = as_json(outcome, ())
        del values["refusals"]
        file.write(orjson.dumps(values, option=orjson.OPT_INDENT_2)[:-2])
        file.write(b',\n  "refusals": [')
        separator = b"\n    "
        for refusal in AdoptionStore(mailbox).refusals():
            file.write(separator + orjson.dumps(refusal._asdict()))
            separator = b",\n    "
        file.write(b"\n  ]\n}\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_directory(path.parent)
