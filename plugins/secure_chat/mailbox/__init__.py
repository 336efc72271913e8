"""The mailbox: ciphertext that waits for its recipients, and an index of the ledger's messages."""
