"""The key directory: who a wallet is, which devices it has, and prekeys to write to them.

What is in force follows from the ledger's IDENTITY events (``core/directory_entry.py``); the bytes
of what was published are kept beside the mailbox. Statements and signatures are ``crypto/``'s.
"""
