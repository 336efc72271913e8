"""An export file as a run of records: JSON Lines, a JSON array, or a JSON object of arrays.

One record is in memory at a time, and none is longer than MAX_RECORD. What a record means is
``records.py``.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from plugins.secure_chat.errors import ExportUnusable

MAX_RECORD: Final = 1 << 20  # bytes of a line, characters in a document; a host's is under 64 KiB
_BLOCK: Final = 1 << 18
_SPACE: Final = re.compile(r"[\s,]*")
_AFTER_A_VALUE: Final = frozenset(" \t\r\n,]}")
_KEY: Final = re.compile(r'[\s,]*"(?:[^"\\]|\\.)*"\s*:\s*')


_MARK: Final = codecs.BOM_UTF8
_BEHIND_A_KEY: Final = (b'":', b" :", b"\t:", b"\n:", b"\r:")
# Says where a record of a document ends. What it is, ``_record`` says, as of a line.
_EXTENT: Final = json.JSONDecoder(parse_float=len, parse_int=len, parse_constant=len)
_RECORD: Final = msgspec.json.Decoder()


class Element(NamedTuple):
    """One record as it stands: its number from 1 (in JSON Lines the line's), its value or defect.

    ``offset`` is where the reader is in the file, for a progress bar.
    """

    number: int
    value: Any
    defect: str | None
    offset: int


@dataclass(frozen=True, slots=True)
class Export:
    """An export: the first ``size`` bytes of a file, named by their hash.

    A host's file of transactions grows, and what was imported from it stays its beginning.
    """

    path: Path
    digest: str  # SHA-256, hex
    size: int

    @classmethod
    def at(cls, path: Path, size: int | None = None) -> Export:
        """Read the file, or its first ``size`` bytes, once for the hash. Raises ExportUnusable."""
        digest = hashlib.sha256()
        read = 0
        try:
            if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
                raise ExportUnusable(f"{name_of(path)} cannot be read: it is not a file")
            with path.open("rb") as file:
                while block := file.read(_BLOCK if size is None else min(_BLOCK, size - read)):
                    digest.update(block)
                    read += len(block)
        except OSError as error:
            raise ExportUnusable(f"{name_of(path)} cannot be read: {error.strerror}") from None
        return cls(path, digest.hexdigest(), read)

    @property
    def name(self) -> str:
        """The file's name for people and databases, also where it is not UTF-8."""
        return name_of(self.path)

    def check(self) -> None:
        """Read a document to its end once, so that a broken one is refused before it is begun.

        Raises ExportUnusable.
        """
        with self.path.open("rb") as file:
            if not _is_json_lines(self.path, file):
                for _ in _document(file, self.name):
                    pass

    def elements(self) -> Iterator[Element]:
        """Every record in the file's order. Raises ExportUnusable for what is no JSON at all.

        A bad line of JSON Lines is a defect of that record; a document that is broken in the middle
        cannot be read on.
        """
        with self.path.open("rb") as file:
            if _is_json_lines(self.path, file):
                yield from _lines(file, self.size)
            else:
                yield from _document(file, self.name)


def all_of(paths: Iterable[Path]) -> str:
    """One SHA-256, hex, of what all the files are, in whatever order. Raises ExportUnusable."""
    digests = sorted(bytes.fromhex(Export.at(path).digest) for path in paths)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def name_of(path: Path) -> str:
    """A file's name for people and databases, also where it is not UTF-8."""
    return os.fsencode(path.name).decode(errors="replace")


def _is_json_lines(path: Path, file: BinaryIO) -> bool:
    """By its name; else by whether the first line is one object, and not a document's arrays."""
    if path.suffix in (".jsonl", ".ndjson"):
        return True
    first = file.readline(MAX_RECORD).removeprefix(_MARK)
    file.seek(0)
    try:
        value = _RECORD.decode(first)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return isinstance(value, dict) and not _is_document(value)


def _record(text: bytes) -> tuple[Any, str | None]:
    """What a record says, or its defect."""
    try:
        value = _RECORD.decode(text)
        # As many keys as colons that may be behind one: none is there twice.
        if sum(map(text.count, _BEHIND_A_KEY)) != _keys_in(value) and _has_a_key_twice(text):
            return None, "it has a key twice"
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None, "it is not JSON"
    return value, None


def _keys_in(value: Any) -> int:
    """How many keys all its objects have."""
    count, rest = 0, [value]
    for one in rest:
        if isinstance(one, dict):
            count += len(one)
            rest.extend(one.values())
        elif isinstance(one, list):
            rest.extend(one)
    return count


def _has_a_key_twice(text: bytes) -> bool:
    """Of one JSON value; every object's keys as they are read."""
    twice = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal twice
        twice = twice or len({key for key, _ in pairs}) < len(pairs)

    json.loads(text.decode(), object_pairs_hook=look, parse_int=len)
    return twice


def _is_document(value: dict[str, Any]) -> bool:
    """An object whose only structured values are arrays or maps of records."""
    structured = [v for v in value.values() if isinstance(v, list | dict)]
    return bool(structured) and not any(key.endswith(("_id", "_hash")) for key in value)


def _lines(file: BinaryIO, size: int) -> Iterator[Element]:
    number = offset = 0
    while line := file.readline(min(MAX_RECORD + 1, size - offset)):
        number += 1
        offset += len(line)
        if number == 1:
            line = line.removeprefix(_MARK)
        if len(line) > MAX_RECORD:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_RECORD)
                offset += len(line)
            yield Element(number, None, "it is too long", offset)
            continue
        if not line.strip():
            continue
        yield Element(number, *_record(line), offset)


class _Text:
    """The document's text, a window of it at a time."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._window = ""
        self._at = 0
        self._ended = False
        self.offset = 0

    def _more(self) -> bool:
        if self._ended:
            return False
        block = self._file.read(_BLOCK)
        self.offset += len(block)
        self._ended = not block
        try:
            self._window = self._window[self._at :] + self._decode(block, final=self._ended)
        except UnicodeDecodeError:
            raise self.unusable() from None
        self._at = 0
        return True

    def unusable(self, what: str = "is not JSON") -> ExportUnusable:
        return ExportUnusable(f"{self._name} {what} near byte {self.offset}")

    def skip(self, pattern: re.Pattern[str]) -> None:
        """Pass over ``pattern``, which ends before the next character that matters."""
        while True:
            match = pattern.match(self._window, self._at)
            if match is not None and match.end() < len(self._window):
                self._at = match.end()
                return
            if len(self._window) - self._at > MAX_RECORD or not self._more():
                if match is None:
                    raise self.unusable()
                self._at = match.end()
                return

    def peek(self) -> str:
        """The next character that is no space or comma; empty at the end."""
        self.skip(_SPACE)
        return self._window[self._at : self._at + 1]

    def take(self) -> None:
        self._at += 1

    def value(self) -> bytes:
        """The text of the JSON value that starts here."""
        while True:
            try:
                _, end = _EXTENT.raw_decode(self._window, self._at)
            except (ValueError, RecursionError):
                end = len(self._window)
            # Something follows every value in a document; a number may go on in the next block.
            if self._window[end : end + 1] in _AFTER_A_VALUE:
                text = self._window[self._at : end].encode()
                self._at = end
                return text
            if len(self._window) - self._at > MAX_RECORD:
                raise self.unusable("is not JSON, or a record of it is longer than 1 MiB,")
            if not self._more():
                raise self.unusable()


def _document(file: BinaryIO, name: str) -> Iterator[Element]:
    text = _Text(file, name)
    number = 0
    opening = text.peek()
    if opening not in ("[", "{"):
        raise text.unusable()
    text.take()
    if opening == "[":
        for record in _members(text, "]"):
            number += 1
            yield Element(number, *_record(record), text.offset)
    else:
        while (character := text.peek()) != "}":
            if character == "":
                raise text.unusable()
            text.skip(_KEY)
            inner = text.peek()
            if inner in ("[", "{"):
                text.take()
                for record in _members(text, "]" if inner == "[" else "}"):
                    number += 1
                    yield Element(number, *_record(record), text.offset)
            else:
                text.value()  # of the export itself: a version, a date
        text.take()
    if text.peek() != "":
        raise text.unusable()


def _members(text: _Text, closing: str) -> Iterator[bytes]:
    """The values of an array, or of an object whatever their keys, up to and with its end."""
    while (character := text.peek()) != closing:
        if character == "":
            raise text.unusable()
        if closing == "}":
            text.skip(_KEY)
        yield text.value()
    text.take()
