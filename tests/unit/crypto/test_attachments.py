"""Attachments: any size comes back whole, and a swapped block is seen (A20)."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest

from plugins.secure_chat.crypto import attachments
from plugins.secure_chat.crypto.attachments import CHUNK, MAX_BLOCK, Attachment
from plugins.secure_chat.crypto.errors import ContentTooLarge, DecryptError


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_content_of_any_size_comes_back(size: int) -> None:
    content = os.urandom(size)
    attachment, blocks = attachments.seal(content, os.urandom)
    assert all(len(block) <= MAX_BLOCK for block in blocks)
    assert Attachment.decode(attachment.encode()) == attachment
    stored = dict(zip(attachment.cids, blocks, strict=True))
    assert b"".join(attachments.open_(attachment, stored.__getitem__)) == content


def test_the_cid_is_that_of_ipfs() -> None:
    assert attachments.cid(b"hello") == (
        "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
    )


def test_a_block_swapped_flipped_or_cut_is_seen() -> None:
    attachment, blocks = attachments.seal(os.urandom(2 * CHUNK), os.urandom)
    stored = dict(zip(attachment.cids, blocks, strict=True))
    one, two = attachment.cids
    for wrong in (
        {one: blocks[1], two: blocks[0]},
        {**stored, two: blocks[1][:-1]},
        {**stored, two: blocks[1][:-1] + bytes((blocks[1][-1] ^ 1,))},
    ):
        with pytest.raises(DecryptError):
            list(attachments.open_(attachment, wrong.__getitem__))


def test_blocks_in_another_order_do_not_decrypt_even_under_their_own_cids() -> None:
    attachment, blocks = attachments.seal(os.urandom(2 * CHUNK), os.urandom)
    turned = Attachment(attachment.key, attachment.size, attachment.cids[::-1])
    stored = dict(zip(attachment.cids, blocks, strict=True))
    with pytest.raises(DecryptError):
        list(attachments.open_(turned, stored.__getitem__))


def test_equal_content_gives_unequal_blocks() -> None:
    made = [attachments.seal(b"same", os.urandom)[1][0] for _ in range(3)]
    assert all(one != other for one, other in pairwise(made))


def test_size_has_a_cap() -> None:
    with pytest.raises(ContentTooLarge):
        attachments.seal(bytes(64 * CHUNK + 1), os.urandom)
    assert len(attachments.seal(bytes(64 * CHUNK), os.urandom)[1]) == 64
