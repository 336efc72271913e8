"""The binary encoding: big-endian integers, length-prefixed bytes, and a strict reader.

Every value has exactly one encoding. Reading refuses whatever writing would not have produced:
a length over its cap, bytes left over, too few bytes. What the fields mean is not known here.
"""

from __future__ import annotations

import re
from typing import Final

from plugins.secure_chat.core.identifiers import IDENTIFIER
from plugins.secure_chat.crypto.errors import DecodeError, UnsupportedSuite

VERSION: Final = 2
SUITE: Final = 0x0001  # X25519 + ML-KEM-768, HKDF-SHA-256, AES-256-GCM, Ed25519 + ML-DSA-65
MAX_IDENTIFIER: Final = 128
WALLET_SIZE: Final = 20
_WALLET: Final = re.compile(r"0x[0-9a-f]{40}", re.ASCII)


def u8(value: int) -> bytes:
    return value.to_bytes(1, "big")


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def b8(data: bytes) -> bytes:
    """``data`` (up to 255 bytes) behind its length in one byte."""
    return u8(len(data)) + data


def b32(data: bytes) -> bytes:
    """``data`` behind its length in four bytes."""
    return u32(len(data)) + data


def identifier(text: str) -> bytes:
    """A wallet, device or thread id as it stands on the wire, behind its length in one byte."""
    if IDENTIFIER.fullmatch(text) is None:
        raise DecodeError("an identifier must match [A-Za-z0-9_.:-]{1,128}")
    return b8(text.encode("ascii"))


def is_wallet(text: str) -> bool:
    """Whether ``text`` is a wallet in its one form: 0x and 40 lower-case hex digits."""
    return _WALLET.fullmatch(text) is not None


def wallet_bytes(text: str) -> bytes:
    """The 20 bytes of a wallet's address."""
    if not is_wallet(text):
        raise DecodeError("a wallet is 0x and 40 lower-case hex digits")
    return bytes.fromhex(text[2:])


def wallet_text(address: bytes) -> str:
    """The one text form of a wallet's 20 bytes."""
    return "0x" + address.hex()


class Reader:
    """Takes fields off the front of ``data``. Every method raises DecodeError when it cannot."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise DecodeError("the bytes end too early")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def flag(self) -> bool:
        value = self.u8()
        if value > 1:
            raise DecodeError("a flag is neither 0 nor 1")
        return value == 1

    def b32(self, cap: int) -> bytes:
        size = self.u32()
        if size > cap:
            raise DecodeError("a length is over its cap")
        return self.take(size)

    def identifier(self) -> str:
        text = self.take(self.u8()).decode("latin-1")
        if IDENTIFIER.fullmatch(text) is None:
            raise DecodeError("an identifier must match [A-Za-z0-9_.:-]{1,128}")
        return text

    def wallet(self) -> str:
        return wallet_text(self.take(WALLET_SIZE))

    def version(self) -> None:
        """Take the version byte; anything but 2 is refused, there is nothing to negotiate."""
        if self.u8() != VERSION:
            raise UnsupportedSuite("not version 2")

    def suite(self) -> None:
        if self.u16() != SUITE:
            raise UnsupportedSuite("not a suite of this protocol")

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    @property
    def position(self) -> int:
        return self._at

    def end(self) -> None:
        if self._at != len(self._data):
            raise DecodeError("bytes are left over")
