"""A number with its interval, and the interval of a standard error."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import stdtrit

from likewise import _tables
from likewise._checks import is_finite_number
from likewise.errors import InputError, InputTypeError

ANYWHERE = (-math.inf, math.inf)
A_RATE = (0.0, 1.0)


@dataclass(frozen=True)
class Estimate:
    """A number, its interval, and how the interval was made.

    `float(estimate)` is the value, `format(estimate, ".3f")` formats it, and
    `str(estimate)` reads "0.912 [0.881, 0.937]". Where no interval can be given, `low` and
    `high` are nan and `method` says why.
    """

    value: float
    low: float
    high: float
    method: str

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __repr__(self) -> str:
        return f"{self} ({self.method})"

    _repr_html_ = _tables.as_html

    def __str__(self) -> str:
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.value:.3f} (no interval)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, float | str | None]:
        """The four fields, ready for JSON: nan becomes None."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        kept = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        return {**kept, "method": self.method}

    @classmethod
    def from_dict(cls, fields: object) -> "Estimate":
        """The estimate that `to_dict` wrote.

        Raises:
            InputError: if `fields` is not such a dict.
        """
        if not isinstance(fields, Mapping) or set(fields) != {"value", "low", "high", "method"}:
            raise InputError(
                f"an estimate must be a dict of value, low, high and method, got {fields!r}."
            )
        numbers = [fields["value"], fields["low"], fields["high"]]
        for number in numbers:
            if number is not None and not is_finite_number(number):
                raise InputError(f"an estimate must hold numbers or None, got {number!r}.")
        if not isinstance(fields["method"], str):
            raise InputError(f"an estimate's method must be text, got {fields['method']!r}.")
        value, low, high = (math.nan if number is None else float(number) for number in numbers)
        return cls(value, low, high, fields["method"])


def student(
    value: float,
    error: float,
    freedom: int,
    confidence: float,
    within: tuple[float, float],
    method: str,
) -> Estimate:
    """The value with the interval of a standard error, cut to a range."""
    # Equal values would give an interval of width zero, a certainty that nobody has.
    if error <= 1e-12 * max(1.0, abs(value)):
        return without_interval(value, "it is the same in every part of the data")
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return Estimate(value, max(value - reach, within[0]), min(value + reach, within[1]), method)


def without_interval(value: float, why: str) -> Estimate:
    """The value alone, and why."""
    return Estimate(value, math.nan, math.nan, f"no interval: {why}")


def check_confidence(confidence: float) -> None:
    """Refuse a confidence outside (0, 1)."""
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)):
        raise InputTypeError(f"confidence must be a number, got {confidence!r}. Use e.g. 0.95.")
    if not 0 < confidence < 1:
        raise InputError(
            f"confidence must be between 0 and 1, exclusive, got {confidence}. Use e.g. 0.95."
        )
