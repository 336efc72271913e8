"""The GenesisLedger as a durable log: our journal, and adapters to a host's own ledger object."""
