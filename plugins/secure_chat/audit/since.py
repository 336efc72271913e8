"""Going on from an earlier audit: what it came to, kept in a file, and taken up again.

The file is the auditor's own and is trusted. It must not be where the server can write.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from plugins.secure_chat.audit.spans import LedgerFile
from plugins.secure_chat.audit.tree import Grown
from plugins.secure_chat.core.chain import Chain, Defect, Finding
from plugins.secure_chat.core.dialects import NotARecord, parse
from plugins.secure_chat.core.nesting import parse_json
from plugins.secure_chat.core.tiles import Edge
from plugins.secure_chat.errors import LedgerUnusable

LABEL: Final = "atlas/secure-chat/v2/audit"
_WINDOW: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Since:
    """What an earlier audit of the same ledger came to."""

    chain: dict[str, Any]
    edge: tuple[int, tuple[bytes, ...]]

    def resume(self, file: LedgerFile, size: int) -> Chain:
        """The chain as it was, when the file's line that ended it is still that line; else the
        finding says so. Raises LedgerUnusable for a file that does not hold an audit."""
        try:
            chain = Chain.restore(self.chain)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise LedgerUnusable("the earlier audit cannot be taken up: it is incomplete") from None
        if chain.position and not _is_there(file, size, chain):
            chain.finding = Finding(
                chain.position,
                Defect.HEAD,
                "it is not, or not where it was, the last record of the earlier audit",
            )
        return chain

    def tree(self) -> Grown:
        size, partial = self.edge
        return Grown(Edge(size, partial), int(self.chain["size"]))


def read_since(path: Path) -> Since:
    """Raises LedgerUnusable."""
    try:
        stored = parse_json(path.read_bytes())
        if stored["audit"] != LABEL:
            raise ValueError("another file")
        tree = stored["tree"]
        edge = (int(tree["size"]), tuple(bytes.fromhex(level) for level in tree["levels"]))
        Edge(*edge)
        if edge[0] != stored["chain"]["position"]:
            raise ValueError("the tree is of another ledger")
        return Since(stored["chain"], edge)
    except OSError as error:
        raise LedgerUnusable(f"the earlier audit cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, OverflowError):
        raise LedgerUnusable("this is no earlier audit: make one with --save") from None


def write_since(path: Path, ledger: Path, chain: dict[str, Any], since: Since | None) -> None:
    """Keep what an audit came to: ``chain`` is the sound chain's snapshot.

    ``since``: what that audit itself went on from, which spares the reading. Raises OSError, or
    LedgerUnusable when the ledger was cut meanwhile.
    """
    grown = Grown.empty() if since is None else since.tree()
    with LedgerFile(ledger) as file:
        for _ in grown.grow(file, int(chain["size"]), int(chain["position"])):
            pass
    if grown.offset != chain["size"]:
        raise LedgerUnusable("the ledger was cut or changed while it was read; audit it again")
    tree = {
        "size": grown.edge.size,
        "levels": [bytes(level).hex() for level in grown.edge.levels],
    }
    text = json.dumps({"audit": LABEL, "chain": chain, "tree": tree})
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.replace(path)


def _is_there(file: LedgerFile, size: int, chain: Chain) -> bool:
    """Whether the record that ends at the chain's offset is its last one."""
    if chain.size > size:
        return False
    length = _WINDOW
    while True:
        start = max(0, chain.size - length)
        block = file.read(start, chain.size)
        cut = block.rfind(b"\n", 0, -1)
        if cut >= 0 or start == 0:
            break
        length *= 4
    try:
        line = parse(block[cut + 1 : -1], chain.position)
    except NotARecord:
        return False
    return (
        block.endswith(b"\n")
        and line.hash_is_right
        and line.is_canonical
        and line.record.event_hash == chain.event_hash
    )
