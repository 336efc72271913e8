# ruff: noqa: N999 -- the host's file name
"""The host's CoherenceEngine: from a wallet's features to its coherence vector, in fixed point.

A stand-in with the host's interface; ``update_omega`` and ``calculate_modulator`` give the host's
integers. Pure: no I/O, no clock, and no balance is touched. Arithmetic is CertifiedMath's alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NoReturn, TypeAlias

from v13.libs.CertifiedMath import BigNum128, CertifiedMath

LAMBDA: Final[BigNum128] = BigNum128(618_033_988_749_894_848)
LARGEST_EXPONENT: Final[BigNum128] = BigNum128.from_int(10)

Log: TypeAlias = list[dict[str, Any]]


class CoherenceEngine:
    """Computes with the CertifiedMath it is given."""

    def __init__(self, cm: CertifiedMath) -> None:
        self.cm: CertifiedMath = cm

    def update_omega(
        self,
        features: Sequence[BigNum128],
        I_vector: Sequence[BigNum128],  # noqa: N803 -- the host's parameter names
        L: object = None,  # noqa: N803
        log_list: Log | None = None,
        pqc_cid: str | None = None,
        quantum_metadata: dict[str, Any] | None = None,
        deterministic_timestamp: int = 0,
    ) -> list[BigNum128]:
        """``features / |features| * exp(clamp(LAMBDA * mean(I_vector), 0, 10))``, place by place.

        All-zero features give zeros. ``L``, ``pqc_cid``, ``quantum_metadata`` and
        ``deterministic_timestamp`` are the caller's labels: they go to the log and change nothing.
        Raises OverflowError when a step leaves 128 bits (a feature from about 1.8e10 does).
        """
        norm = self._norm(features, log_list)
        omega: list[BigNum128] = []
        if norm.value == 0:
            for _ in range(len(features)):
                omega.append(BigNum128(0))
        else:
            modulator = self.calculate_modulator(I_vector, LAMBDA, None, log_list)
            for index in range(len(features)):
                unit = self.cm.div(features[index], norm, log_list)
                omega.append(self.cm.mul(unit, modulator, log_list))
        if log_list is not None:
            log_list.append(
                {
                    "op": "update_omega",
                    "L": str(L),
                    "pqc_cid": pqc_cid,
                    "quantum_metadata": quantum_metadata,
                    "timestamp": deterministic_timestamp,
                }
            )
        return omega

    def calculate_modulator(
        self,
        I_vector: Sequence[BigNum128],  # noqa: N803
        lambda_L: BigNum128,  # noqa: N803
        K: BigNum128 | None = None,  # noqa: N803
        log_list: Log | None = None,
    ) -> BigNum128:
        """``exp(min(lambda_L * mean(I_vector), K))``; K is 10 unless given, no mean is 0."""
        exponent = self.cm.mul(lambda_L, self._mean(I_vector, log_list), log_list)
        largest = LARGEST_EXPONENT if K is None else K
        if exponent.value > largest.value:
            exponent = largest
        return self.cm.exp(exponent, log_list)

    def apply_hsmf_transition(
        self, bundle: object, log_list: Log | None = None, **_labels: object
    ) -> NoReturn:
        """The host's transitions are not part of the slice that stands in for it: always raises."""
        raise NotImplementedError("the stand-in CoherenceEngine has no HSMF transitions")

    def _norm(self, features: Sequence[BigNum128], log_list: Log | None) -> BigNum128:
        squares = BigNum128(0)
        for index in range(len(features)):
            square = self.cm.mul(features[index], features[index], log_list)
            squares = self.cm.add(squares, square, log_list)
        return self.cm.sqrt(squares, log_list)

    def _mean(self, numbers: Sequence[BigNum128], log_list: Log | None) -> BigNum128:
        if len(numbers) == 0:
            return BigNum128(0)
        total = BigNum128(0)
        for index in range(len(numbers)):
            total = self.cm.add(total, numbers[index], log_list)
        return self.cm.div(total, BigNum128.from_int(len(numbers)), log_list)
