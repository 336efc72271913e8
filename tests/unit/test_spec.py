"""SPEC.md: every numbered MUST names a test that exists, and README's links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from plugins.secure_chat.core.thread import details_body

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "plugins/secure_chat/SPEC.md").read_text()
SPEC_CRYPTO = (ROOT / "plugins/secure_chat/SPEC-crypto.md").read_text()
REQUIREMENT = re.compile(r"^- \*\*([A-Z]\d+)\*\* (.*?)\(`([^`]+)`\)$", re.MULTILINE | re.DOTALL)


def test_every_requirement_names_a_test_that_exists() -> None:
    found = REQUIREMENT.findall(SPEC)
    assert [number for number, *_ in found] == re.findall(r"^- \*\*([A-Z]\d+)\*\*", SPEC, re.M)
    for number, sentence, test in found:
        path, _, name = test.partition("::")
        assert "MUST" in sentence, number
        assert f"def {name}(" in (ROOT / path).read_text(), f"{number} names no test"


def test_a_number_names_one_requirement() -> None:
    """Each letter counts from 1, within one section, in order."""
    counted: dict[str, list[int]] = {}
    sections: dict[str, set[str]] = {}
    for section in SPEC.split("\n## ")[1:]:
        for letter, number in re.findall(r"^- \*\*([A-Z])(\d+)\*\*", section, re.M):
            counted.setdefault(letter, []).append(int(number))
            sections.setdefault(letter, set()).add(section.partition("\n")[0])
    for letter, numbers in counted.items():
        assert numbers == list(range(1, len(numbers) + 1)), letter
        assert letter == "W" or len(sections[letter]) == 1, letter


def test_a_number_of_the_cryptography_names_one_requirement() -> None:
    """Each has words of obligation and a test or vectors; what it names exists."""
    found = re.findall(r"^- \*\*C(\d+)\*\* (.*?)(?=\n- |\n\n)", SPEC_CRYPTO, re.M | re.DOTALL)
    assert sorted(int(number) for number, _ in found) == list(range(1, len(found) + 1))
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for number, sentence in found:
        source = sentence.rpartition("(")[2]
        named = re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|ts))(?:::(\w+))?`", source)
        assert named or "vectors" in source, f"C{number}"
        for path, name in named:
            assert path in tests or (ROOT / path).exists(), f"C{number}: {path}"
            assert not name or f"def {name}(" in (ROOT / path).read_text(), f"C{number}: {name}"


def test_the_example_of_canonical_json_is_what_is_hashed() -> None:
    _, fence, rest = SPEC.partition("*Canonical JSON* is")[2].partition("```\n")
    assert fence
    example = rest.partition("\n```")[0]
    parsed = json.loads(example)
    assert details_body(parsed["title"], parsed["metadata"]) == example.encode()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/adopting.md",
        "docs/client.md",
        "docs/embedding.md",
        "docs/migrating.md",
        "plugins/secure_chat/SPEC.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    document = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_paths_named_in_the_decisions_exist() -> None:
    for record in (ROOT / "docs/ADR").glob("*.md"):
        for path in re.findall(r"`(tests/[\w./-]+)`", record.read_text()):
            assert (ROOT / path).exists(), f"{record.name}: {path}"
