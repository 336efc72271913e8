"""End-to-end encrypted chat for an ATLAS API: a blind server on a durable, hash-chained ledger."""

__version__ = "0.1.0"
