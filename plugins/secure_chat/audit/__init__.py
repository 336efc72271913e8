"""Offline verification of a ledger file, without trusting the server that wrote it.

Here are reading the file in spans on several cores and the report. What makes a line sound is in
``core/chain.py``; printing is in ``cli/audit.py``.
"""

from plugins.secure_chat.audit.report import Report
from plugins.secure_chat.audit.verify import audit_ledger

__all__ = ["Report", "audit_ledger"]
