"""The pure core: what a message, a sequence and a ledger record are.

Nothing here does I/O, reads a clock, draws randomness, logs or knows an event loop, and nothing
here imports the shells around it. ``tests/unit/test_core_is_pure.py`` holds that.
"""
