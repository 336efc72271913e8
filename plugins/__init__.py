"""Plugins of the ATLAS API. Each is a package of its own and knows the host only through hooks."""
