"""Tests through the host: they use the fixtures that plugin authors are given."""

from v13.ATLAS.src.plugins.testing import make_wallet, start_host

__all__ = ["make_wallet", "start_host"]
