"""Flat JSON objects whose bytes can be foreseen: every writer of JSON gives the same ones.

Objects of one shape (the same names and types, in the same order) share templates that are filled
in; that takes a third of a JSON writer's time. What may not be foreseen (escapes, nesting, odd
floats) is not written here: the caller has an exact way for it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec

_NAME: Final = re.compile(r"[A-Za-z0-9_]+", re.ASCII)  # needs no escape, in JSON or in a template
# Every byte that JSON writers leave as it is, but for the quotes, which are counted.
_PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')


class FlatText(NamedTuple):
    """One object in two spellings, right if ``is_plain`` says so of a text that holds either."""

    spaced: str  # as Python's json writes it by default
    compact: str  # no white space, names sorted
    quotes: int  # in each


class _Templates(msgspec.Struct, frozen=True):
    spaced: str
    compact: str
    sorted: Callable[[tuple[Any, ...]], tuple[Any, ...]]  # values in the order of the names
    quotes: int
    floats: tuple[int, ...]  # places
    lists: tuple[int, ...]


def flat_text(fields: Mapping[str, Any]) -> FlatText | None:
    """``fields`` as JSON, when all values are strings, integers, ordinary floats or lists of
    strings; else None."""
    values = tuple(fields.values())
    templates = _templates(tuple(fields), tuple(map(type, values)))
    if templates is None:
        return None
    for place in templates.floats:
        if not is_ordinary(values[place]):
            return None
    if templates.lists:
        return _with_lists(templates, values)
    return FlatText(
        templates.spaced % values, templates.compact % templates.sorted(values), templates.quotes
    )


def _with_lists(templates: _Templates, values: tuple[Any, ...]) -> FlatText | None:
    spaced, compact, quotes = list(values), list(values), templates.quotes
    for place in templates.lists:
        if not all(type(text) is str for text in values[place]):
            return None
        quoted = [f'"{text}"' for text in values[place]]
        spaced[place], compact[place] = ", ".join(quoted), ",".join(quoted)
        quotes += 2 * len(quoted)
    return FlatText(
        templates.spaced % tuple(spaced),
        templates.compact % templates.sorted(tuple(compact)),
        quotes,
    )


def is_plain(text: bytes, quotes: int) -> bool:
    """Whether ``text`` has only bytes that no writer of JSON escapes, and so many quotes."""
    return len(text.translate(None, _PLAIN)) == quotes


def is_ordinary(value: float) -> bool:
    """Whether every writer spells ``value`` alike: shortest digits and no exponent."""
    return value == 0 or 1e-4 <= abs(value) < 1e16


_HOLES: Final[Mapping[type, str]] = {str: '"%s"', int: "%d", float: "%r", list: "[%s]"}


@functools.lru_cache(maxsize=512)  # shapes: an honest ledger has a dozen
def _templates(names: tuple[str, ...], types: tuple[type, ...]) -> _Templates | None:
    if not all(type(name) is str and _NAME.fullmatch(name) for name in names):
        return None
    if not _HOLES.keys() >= set(types):
        return None
    holes = [(name, _HOLES[kind]) for name, kind in zip(names, types, strict=True)]
    order = sorted(range(len(names)), key=names.__getitem__)
    return _Templates(
        spaced="{" + ", ".join([f'"{name}": {hole}' for name, hole in holes]) + "}",
        compact="{" + ",".join([f'"{name}":{hole}' for name, hole in sorted(holes)]) + "}",
        sorted=itemgetter(*order) if len(order) > 1 else tuple,
        quotes=2 * len(names) + 2 * types.count(str),
        floats=tuple(place for place, kind in enumerate(types) if kind is float),
        lists=tuple(place for place, kind in enumerate(types) if kind is list),
    )
