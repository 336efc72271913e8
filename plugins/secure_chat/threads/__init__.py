"""Group threads on the server: their tables, the state of those in use, and their REST routes."""
