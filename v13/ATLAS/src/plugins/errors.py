"""The one error of building a host: something about it must be changed by whoever runs it."""

from __future__ import annotations


class ConfigurationError(ValueError):
    """A setting or a plugin that the host does not start with. One line; says what to do."""
