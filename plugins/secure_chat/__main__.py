"""``python -m plugins.secure_chat``: the same as the ``secure-chat`` command."""

from plugins.secure_chat.cli import main

main()
