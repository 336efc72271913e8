"""The host's GenesisLedger (see v13/README.md)."""
