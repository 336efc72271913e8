"""The host's libraries: stand-ins with the host's interface (see v13/README.md)."""
