"""The host's HTTP interface: login, health, and the place where plugins' routes are mounted."""
