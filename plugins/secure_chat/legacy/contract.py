"""The legacy contract: what `/secure-chat` takes and answers, field by field, in this order.

Both who answer it, the chat and the stand-in host's own route, write these models, so that they
can differ in what they know and not in its form.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from plugins.secure_chat.core.legacy_message import CONTENT_HASH, MAX_CONTENT, MAX_TYPE
from plugins.secure_chat.core.thread import MAX_PARTICIPANTS, Status

PREFIXES: Final = ("/secure-chat", "/api/v1/secure-chat")
PAGE: Final = 100  # entries of a list when no number is asked for
LARGEST_PAGE: Final = 1_000  # asking for more gives so many; ``total`` says that there are more
ENCRYPTED: Final = "encrypted"  # the message_type of what is sealed end to end
TEXT: Final = "text"  # and of what does not say
OCTETS: Final = "application/octet-stream"  # the content_type of the sealed

Limit = Annotated[int, Field(ge=1)]
Offset = Annotated[int, Field(ge=0, le=2**53)]


class NewThread(BaseModel):
    participants: list[str] = Field(min_length=1, max_length=MAX_PARTICIPANTS)
    title: str | None = None
    metadata: dict[str, Any] | None = None


class Thread(BaseModel):
    thread_id: str
    creator_id: str
    participants: list[str]
    created_at: str
    status: Status
    metadata: dict[str, Any]
    transaction_id: str


class ThreadList(BaseModel):
    threads: list[Thread]
    total: int


class NewMessage(BaseModel):
    thread_id: str
    content_hash: Annotated[str, Field(pattern=rf"^{CONTENT_HASH.pattern}$")]
    content_size: Annotated[int, Field(gt=0, le=MAX_CONTENT)]
    content_type: Annotated[str, Field(max_length=MAX_TYPE)] = "text/plain"
    message_type: Annotated[str, Field(max_length=MAX_TYPE)] = TEXT
    metadata: dict[str, Any] | None = None


class Message(BaseModel):
    message_id: str
    thread_id: str
    sender_id: str
    content_hash: str
    content_size: int
    timestamp: str
    message_type: str
    transaction_id: str


class MessageList(BaseModel):
    messages: list[Message]
    total: int
    thread_id: str


class StatusChange(BaseModel):
    status: str = "updated"
    transaction_id: str
