"""End-to-end encryption and the dual identity (SPEC-crypto.md holds the exact bytes).

Everything here is protocol: bytes in, bytes and values out. Randomness, time and storage are
passed in; the one module that touches a disk is ``file_storage.py``. Nothing here knows of
sockets, HTTP or the ledger.

From the bottom up: ``labels``, ``codec`` and ``primitives``; ``wallet``, ``identity``, ``devices``,
``roster`` and ``safety`` (who); ``prekeys``, ``pqxdh``, ``ratchet`` and ``session`` (between two
devices); ``frame``, ``envelope``, ``streams`` and ``attachments`` (one message); ``store`` and
``messenger`` (one device, and all it remembers).
"""
