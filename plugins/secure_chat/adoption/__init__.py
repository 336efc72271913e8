"""Taking over what a host had before: its ledger, and the exports of its earlier chats.

The ledger is adopted as it is. Exports become ordinary ledger events that name their origin; here
are reading, deciding, resuming and verifying. The database's schema is ``migrations/``.
"""
