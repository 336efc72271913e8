"""The plugin system: hook contracts, loading, and fixtures for plugin authors."""
