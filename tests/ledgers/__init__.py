"""Ledgers for tests, written from the host's recipes without the product's own code."""
