"""Shells that carry the chat: the WebSocket, REST, and the documents that describe both."""
