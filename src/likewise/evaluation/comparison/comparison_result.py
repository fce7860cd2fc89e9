"""What a comparison of two models says, and its verdict in plain words."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from likewise import _tables
from likewise.errors import InputError, InputTypeError
from likewise.evaluation._plain import plain_fields
from likewise.evaluation.comparison.paired import Tested, holm
from likewise.intervals import Estimate

LEVEL = 0.05  # of the tests; the intervals are of 1 - LEVEL


@dataclass(frozen=True)
class Difference:
    """One measure of two models.

    Attributes:
        a: what the first has.
        b: what the second has.
        difference: a - b; its interval misses 0 where `p_value` is below 0.05.
        p_value: how often a difference so far from 0 would come about by chance; nan where
            `difference` has no interval and is not 0.
        adjusted_p_value: the same for all measures compared at once (Holm).
        smaller_is_better: whether the model with the smaller number is ahead.
    """

    a: Estimate
    b: Estimate
    difference: Estimate
    p_value: float
    adjusted_p_value: float
    smaller_is_better: bool = False

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def ahead(self) -> int | None:
        """0 for the first and 1 for the second model, None unless `adjusted_p_value` < 0.05."""
        if not self.adjusted_p_value < LEVEL:
            return None
        return int((self.difference.value < 0) != self.smaller_is_better)

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return plain_fields(self, *self.__dataclass_fields__)


@dataclass(frozen=True)
class Comparison:
    """Two models, measure by measure.

    Attributes:
        names: what the first and the second go by.
        compared: on how many queries, pairs or runs.
        measures: by name. Their `adjusted_p_value` hold for all of them at once.
    """

    names: tuple[str, str]
    compared: str
    measures: dict[str, Difference]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        rows = [("measure", *self.names, "difference", "p (adjusted)")]
        for name, one in self.measures.items():
            numbers = f"{one.a}", f"{one.b}", f"{one.difference}", f"{one.adjusted_p_value:.2g}"
            rows.append((name, *numbers))
        return _tables.Table(f"Comparison on {self.compared}", rows, headings=True)

    @property
    def verdict(self) -> str:
        """Who is ahead, on what, in plain words; by the adjusted p-values."""
        sentences = []
        for model, name in enumerate(self.names):
            ahead = [_told(on, one) for on, one in self.measures.items() if one.ahead == model]
            if ahead:
                sentences.append(f"{name} is ahead on {'; on '.join(ahead)}.")
        tested = {on: one for on, one in self.measures.items() if not math.isnan(one.p_value)}
        if equal := [on for on, one in tested.items() if one.ahead is None]:
            sentences.append(f"No difference is established on {', '.join(equal)}.")
        for on, one in self.measures.items():
            if on not in tested:
                gap = one.difference
                sentences.append(f"On {on} the difference is {gap.value:.3f} ({gap.method}).")
        if len(tested) > 1:
            sentences.append(f"The p-values are adjusted for {len(tested)} measures (Holm).")
        return " ".join(sentences)

    def to_dict(self) -> dict[str, object]:
        """All fields and the verdict, ready for JSON."""
        return {
            "names": list(self.names),
            "compared": self.compared,
            "measures": {name: one.to_dict() for name, one in self.measures.items()},
            "verdict": self.verdict,
        }


def together(parts: Mapping[str, Comparison]) -> Comparison:
    """Several comparisons of the same two models as one, p-values adjusted for all measures.

    A measure's name comes after that of its comparison: "retrieval map_at_r".

    Raises:
        InputError: without any comparison, or if their models go by different names.
    """
    names = {part.names for part in parts.values()}
    if len(names) != 1:
        raise InputError(f"parts must be comparisons of the same two models, got {sorted(names)}.")
    measures = {
        f"{t} {name}": one for t, part in parts.items() for name, one in part.measures.items()
    }
    compared = ", ".join(part.compared for part in parts.values())
    return Comparison(names.pop(), compared, _adjusted(measures))


Found = tuple[Estimate, Estimate, Tested]  # of the first, of the second, their difference


def finished(
    names: tuple[str, str],
    compared: str,
    found: Mapping[str, Found],
    smaller_is_better: Collection[str],
) -> Comparison:
    """The comparison of these measures, their p-values adjusted for all of them."""
    if isinstance(names, str) or len(names) != 2 or names[0] == names[1]:
        raise InputError(
            f"names must be two different ones, got {names!r}. Give e.g. ('before', 'after')."
        )
    if isinstance(smaller_is_better, str):
        raise InputTypeError(
            f"smaller_is_better must be a set of names, got {smaller_is_better!r}. "
            f"Use {{{smaller_is_better!r}}}."
        )
    measures = {
        name: Difference(a, b, gap, p_value, p_value, _is_one_of(name, smaller_is_better))
        for name, (a, b, (gap, p_value)) in found.items()
    }
    return Comparison(names, compared, _adjusted(measures))


def _is_one_of(name: str, names: Collection[str]) -> bool:
    """Whether a name is one of these, or ends with one, as "unseen.loss" and "unseen_loss" do."""
    # A reciprocal rank is larger where the rank is smaller.
    return not name.endswith("reciprocal_rank") and any(
        name == one or name.endswith((f".{one}", f"_{one}", f"/{one}")) for one in names
    )


def _adjusted(measures: Mapping[str, Difference]) -> dict[str, Difference]:
    adjusted = holm([one.p_value for one in measures.values()])
    return {
        name: replace(one, adjusted_p_value=p)
        for (name, one), p in zip(measures.items(), adjusted, strict=True)
    }


def _told(name: str, one: Difference) -> str:
    """A measure on which one is ahead, and by how much."""
    gap = one.difference
    if gap.value < 0:
        gap = replace(gap, value=-gap.value, low=-gap.high, high=-gap.low)
    p = one.adjusted_p_value
    return f"{name} by {gap}, p {'< 0.0001' if p < 1e-4 else f'= {p:.2g}'}"
