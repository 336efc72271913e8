"""The stand-in CoherenceEngine gives the host's integers, and obeys the host's own rules."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tests.determinism.checker import check
from v13.core.CoherenceEngine import LAMBDA, CoherenceEngine
from v13.libs.CertifiedMath import BigNum128, CertifiedMath

engine = CoherenceEngine(CertifiedMath())


def vector(text: str) -> list[BigNum128]:
    return [BigNum128.from_string(part) for part in text.split(",") if part]


@pytest.mark.parametrize(
    ("features", "i_vector", "omega"),
    [
        (
            "1,2,3",
            "0.1,0.2,0.3",
            [302425029963839460, 604850059927678922, 907275089891518384],
        ),
        ("3,4,0", "", [600000000000000000, 800000000000000000, 0]),
        ("0.25,0.5,0.75", "0", [267261241912424384, 534522483824848769, 801783725737273154]),
        ("1,1,1", "1", [1071144651477279007] * 3),
        (
            "1,2,3",
            "20",
            [5886820603261578895730, 11773641206523157813488, 17660461809784736731245],
        ),
        (
            "1,2,3",
            "100",
            [5886820603261578895730, 11773641206523157813488, 17660461809784736731245],
        ),
        ("0,0,0", "0.5", [0, 0, 0]),
        ("", "1", []),
    ],
)
def test_omega_is_the_reference_to_the_last_digit(
    features: str, i_vector: str, omega: list[int]
) -> None:
    assert [part.value for part in engine.update_omega(vector(features), vector(i_vector))] == omega


@pytest.mark.parametrize(
    ("i_vector", "modulator"), [("", 10**18), ("0.1,0.2,0.3", 1131570847309530481)]
)
def test_the_modulator_is_the_reference_to_the_last_digit(i_vector: str, modulator: int) -> None:
    assert engine.calculate_modulator(vector(i_vector), LAMBDA).value == modulator


def test_the_modulator_of_exponent_one_is_exp_of_one() -> None:
    assert engine.calculate_modulator(vector("1"), vector("1")[0]).value == 2718281828459045226


def test_k_is_the_largest_exponent() -> None:
    capped = engine.calculate_modulator(vector("100"), LAMBDA, vector("1")[0])
    assert capped.value == 2718281828459045226


def test_features_beyond_the_range_overflow_instead_of_wrapping() -> None:
    with pytest.raises(OverflowError):
        engine.update_omega(vector("20000000000,1,1"), [])


def test_labels_are_logged_and_change_nothing() -> None:
    log: list[dict[str, object]] = []
    labelled = engine.update_omega(
        vector("3,4"), vector("1"), "L", log, pqc_cid="cid", deterministic_timestamp=7
    )
    assert labelled == engine.update_omega(vector("3,4"), vector("1"))
    assert log[-1] == {
        "op": "update_omega",
        "L": "L",
        "pqc_cid": "cid",
        "quantum_metadata": None,
        "timestamp": 7,
    }


def test_what_the_stand_in_does_not_have_it_says() -> None:
    with pytest.raises(NotImplementedError, match="no HSMF transitions"):
        engine.apply_hsmf_transition(object())


@pytest.mark.parametrize("owner", [CertifiedMath, CoherenceEngine])
def test_the_arithmetic_obeys_the_determinism_rules(owner: type) -> None:
    source = Path(inspect.getfile(owner)).read_text()
    assert check(source) == []
