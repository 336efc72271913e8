"""The ledger as a transparency log: its Merkle tree kept as tiles, and signed checkpoints of it.

Everything here but the checkpoint is derived from the ledger and is rebuilt from it when it is
missing or wrong. The commit path knows nothing of it.
"""
