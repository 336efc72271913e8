"""The host's core: stand-ins with the host's interface (see v13/README.md)."""
