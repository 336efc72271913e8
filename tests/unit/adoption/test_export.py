"""adoption/export: every record of a file, in bounded memory, with its number or its defect."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugins.secure_chat.adoption import export as reading
from plugins.secure_chat.adoption.export import Export
from plugins.secure_chat.errors import ExportUnusable

RECORDS = [{"a": 1, "text": 'é]}\\"'}, {"b": [{"c": {}}, 2.5]}, {"d": None}]


def read(path: Path) -> list[Any]:
    return [element.value for element in Export.at(path).elements()]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", ["e.jsonl", "e.ndjson", "e.json", "e"])
def test_json_lines_by_name_or_by_looks(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "\n".join(map(json.dumps, RECORDS)))
    assert read(path) == RECORDS


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "document",
    [
        RECORDS,
        {"version": "1.0", "count": 3, "threads": RECORDS[:1], "messages": RECORDS[1:]},
        {"threads": {"x": RECORDS[0], "y": RECORDS[1]}, "messages": [RECORDS[2]], "at": None},
    ],
    ids=["array", "arrays", "maps"],
)
def test_documents_of_every_form(tmp_path: Path, document: Any, indent: int | None) -> None:
    path = write(tmp_path / "e.json", json.dumps(document, indent=indent, ensure_ascii=False))
    assert read(path) == RECORDS
    Export.at(path).check()


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_where_a_block_ends_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(reading, "_BLOCK", block)
    document = {"n": 12345.5e3, "threads": [*RECORDS, 17, True, "x"], "k": {"q": RECORDS[0]}}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    path = write(tmp_path / "e.json", text.encode("utf-8-sig"))
    assert read(path) == [*RECORDS, 17, True, "x", RECORDS[0]]


def test_lines_are_numbered_as_in_the_file_and_bad_ones_named(tmp_path: Path) -> None:
    path = write(tmp_path / "e.jsonl", b'{"a":1}\n\n{"b":\n\xff\n[1]\n{"c":NaN}\n{"d":2}')
    found = [(e.number, e.value, e.defect) for e in Export.at(path).elements()]
    assert found == [
        (1, {"a": 1}, None),
        (3, None, "it is not JSON"),
        (4, None, "it is not JSON"),
        (5, [1], None),
        (6, None, "it is not JSON"),
        (7, {"d": 2}, None),
    ]


NO_RECORD = {
    '{"c":NaN}': "it is not JSON",
    '{"c":-Infinity}': "it is not JSON",
    '{"c":1e999}': "it is not JSON",
    '{"c":"\\ud800"}': "it is not JSON",
    '{"\\udc00":1}': "it is not JSON",
    '{"c":1,"c":2}': "it has a key twice",
    '{"c":1, "c" : 1}': "it has a key twice",
    '{"c":{"d":[{"e":1,"e":1}]}}': "it has a key twice",
    '{"c":1,"\\u0063":2}': "it has a key twice",
    '{"a":"\\": ","c":1,"c":2}': "it has a key twice",
}


@pytest.mark.parametrize("form", ["lines", "document"])
@pytest.mark.parametrize("text", NO_RECORD)
def test_a_record_that_readers_do_not_agree_on_is_a_defect_of_that_record(
    tmp_path: Path, text: str, form: str
) -> None:
    """Of two values of a key one would be lost; what is no number or no text is nowhere kept."""
    last = '{"a":"\\": ","b" : {"a":[{"a":1},{"a":1}]}}'  # every key once in its object
    lines = ['{"a":1}', text, last]
    if form == "lines":
        path = write(tmp_path / "e.jsonl", "\n".join(lines))
    else:
        path = write(tmp_path / "e.json", "[" + ",".join(lines) + "]")
    Export.at(path).check()
    found = [(e.value, e.defect) for e in Export.at(path).elements()]
    assert found == [({"a": 1}, None), (None, NO_RECORD[text]), (json.loads(last), None)]


@pytest.mark.parametrize("name", ["e.jsonl", "e.json"])
def test_a_mark_of_utf_8_before_the_first_line_is_no_part_of_it(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "\n".join(map(json.dumps, RECORDS)).encode("utf-8-sig"))
    assert read(path) == RECORDS


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["pipe", "directory"])
def test_what_cannot_be_read_twice_is_unusable(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "e.jsonl")
    with pytest.raises(ExportUnusable, match=r"e\.jsonl cannot be read: it is not a file"):
        Export.at(tmp_path / "e.jsonl")


def test_a_record_of_a_document_that_is_too_long_is_said(tmp_path: Path) -> None:
    text = json.dumps([{"a": "x" * (2 * reading.MAX_RECORD)}])
    path = write(tmp_path / "e.json", text)
    with pytest.raises(ExportUnusable, match="longer than 1 MiB"):
        Export.at(path).check()


def test_a_line_that_is_too_long_is_passed_over_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a":1}\n{"b":"')
        for _ in range(40):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"c":2}\n')
    tracemalloc.start()
    found = [(e.number, e.value, e.defect) for e in Export.at(path).elements()]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [(1, {"a": 1}, None), (2, None, "it is too long"), (3, {"c": 2}, None)]
    assert peak < 5 * reading.MAX_RECORD


@pytest.mark.parametrize("form", ["lines", "document"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, form: str) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{form}-{count}.json"
        record = json.dumps({"a": "x" * 200})
        if form == "lines":
            path.write_text((record + "\n") * count)
        else:
            path.write_text('{"threads": [' + ",".join([record] * count) + "]}")
        tracemalloc.start()
        assert sum(1 for _ in Export.at(path).elements()) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(50_000) < 1.5 * peak(10_000)


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[1, 2", '{"threads": [{"a": 1}', '{"a" 1}', "[1] tail", '[{"a": x}]', "17"],
)
def test_what_is_no_json_is_unusable_before_anything_is_begun(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "e.json", text)
    with pytest.raises(ExportUnusable, match=r"e\.json"):
        Export.at(path).check()


def test_a_missing_file_is_unusable(tmp_path: Path) -> None:
    with pytest.raises(ExportUnusable, match="cannot be read"):
        Export.at(tmp_path / "none.jsonl")


def test_an_export_is_the_beginning_of_a_file_that_has_grown(tmp_path: Path) -> None:
    path = write(tmp_path / "e.jsonl", '{"a":1}\n{"b":2}\n')
    before = Export.at(path)
    assert before.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with path.open("a") as file:
        file.write('{"c":3}\n')
    after = Export.at(path, before.size)
    assert after == before
    assert [element.value for element in after.elements()] == [{"a": 1}, {"b": 2}]
    assert Export.at(path).digest != before.digest
