"""Which items a lookup's `where` leaves: one grammar, for every store.

    where      {key: value, ...}              every part holds
    value      "front"                        the metadata has this value under the key
               ["front", "rear"]              one of these
               {"==": value}                  equal, also where the value is a list or a dict
               {"in": [value, ...]}           one of these
               {">=": 2000, "<": 2010}        in a range, of numbers or of strings
    parts      {"and": [where, ...]}          all of them
               {"or": [where, ...]}           at least one
               {"not": where}                 it does not hold

An item without the key passes none of these, but `not` of them. A metadata key that is called
"and", "or" or "not" is meant wherever what stands there is no list of dicts, or for "not" no dict.
"""

import json
import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from likewise.errors import InputError, InputTypeError
from likewise.index._durable.checksums import Integers

Texts = Callable[[list[int]], Sequence[bytes | str | None]]  # metadata as JSON, from positions
T = TypeVar("T")

RANGES: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OPERATORS = ["==", "in", *RANGES]
_EXAMPLE = "Use e.g. where={'camera': 'front', 'year': {'>=': 2024}}."
_DEEPEST = 20  # of parts in parts
_AT_ONCE = 65536  # texts that are in memory together
_ABSENT = -1


@dataclass(frozen=True)
class Test:
    """What the value under one key must be: one of some, or in a range."""

    key: str
    among: frozenset[str] = frozenset()  # values as JSON
    limits: tuple[tuple[str, Any], ...] = ()  # operators of RANGES with their bounds; none: `among`

    def holds(self, value: Any, text: str) -> bool:
        """Whether it is so of a value that is there, given with its JSON."""
        if not self.limits:
            return text in self.among
        return all(
            _kind(value) == _kind(bound) != "" and RANGES[name](value, bound)
            for name, bound in self.limits
        )


@dataclass(frozen=True)
class Joined:
    """Parts of which all, at least one, or none must hold."""

    word: str  # "and", "or", "not"
    parts: "tuple[Condition, ...]"


Condition = Test | Joined


def parsed(where: object) -> Condition:
    """The condition that `where` writes down; see the module.

    Raises:
        InputTypeError: no mapping from strings, or to what JSON cannot hold.
        InputError: an operator that there is not, or parts too deep in each other.
    """
    return _parsed(where, 0)


def tests_of(condition: Condition) -> Iterator[Test]:
    """All tests in it."""
    if isinstance(condition, Test):
        yield condition
    else:
        for part in condition.parts:
            yield from tests_of(part)


def folded(
    condition: Condition, of_test: Callable[[Test], T], join: Callable[[str, list[T]], T]
) -> T:
    """What a condition comes to, from what its tests come to."""
    if isinstance(condition, Test):
        return of_test(condition)
    return join(condition.word, [folded(part, of_test, join) for part in condition.parts])


def unknown_key(key: str, known: set[str]) -> InputError:
    """The sentence for a key that no item has."""
    names = sorted(known)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    there = f"the keys are {', '.join(map(repr, names[:8]))}{more}" if names else "there are none"
    return InputError(
        f"where must name keys of the metadata, got {key!r}, which no item has. "
        f"Check the spelling: {there}."
    )


def as_json(value: object) -> str:
    """A value as JSON, by which it is compared; 1 and 1.0 are the same number.

    Raises:
        InputTypeError: JSON cannot hold it.
    """
    try:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputTypeError(
            f"where must be what JSON can hold, got {value!r}: {error}. "
            "Give strings, numbers, or lists of them."
        ) from error


class Filters:
    """Values of metadata, read once for every item and every key that is asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._columns: dict[str, _Codes] = {}

    def mask(
        self, positions: Integers, condition: Condition, texts: Texts
    ) -> npt.NDArray[np.bool_]:
        """Which items pass, (n,).

        Args:
            positions: Positions of the items of any snapshot of the store, ascending.
            condition: from `parsed`.
            texts: metadata as JSON, from positions.

        Raises:
            InputError: a key that no item has.
        """
        everything = np.ones(len(positions), dtype=np.bool_)

        def of_test(test: Test) -> npt.NDArray[np.bool_]:
            column = self._columns.setdefault(test.key, _Codes(test.key))
            passed, is_there = column.passed(positions, test, texts)
            if not is_there.any():
                known = {key for text in _all(positions, texts) for key in _facts(text)}
                raise unknown_key(test.key, known)
            return passed

        def join(word: str, parts: list[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
            if word == "not":
                return ~parts[0]
            passed = everything if word == "and" else ~everything
            for part in parts:
                passed = passed & part if word == "and" else passed | part
            return passed

        with self._lock:
            return folded(condition, of_test, join)


class Column:
    """The value under one key of every item, read once; any number of threads may ask."""

    def __init__(self, key: str) -> None:
        self._key = key
        # Reads that value only, and the rest of a text no further than where it ends.
        one = msgspec.defstruct("_One", [("value", Any, None)], rename={"value": key})
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(one)
        nothing = np.empty(0, dtype=np.int64), np.empty(0, dtype=object)
        self._known: tuple[Integers, npt.NDArray[np.object_]] = nothing

    def of(self, positions: Integers, texts: Texts) -> list[Any]:
        """The value of each item of a snapshot, None where there is none; see `Filters.mask`."""
        known, kept = self._known
        if not np.array_equal(known, positions):
            values = np.empty(len(positions), dtype=object)
            at = known.searchsorted(positions)
            at[at == len(known)] = 0
            has = known[at] == positions if len(known) else np.zeros(len(at), dtype=np.bool_)
            values[has] = kept[at[has]]
            new = np.flatnonzero(~has)
            for start in range(0, len(new), _AT_ONCE):
                rows = new[start : start + _AT_ONCE]
                # One by one, as NumPy would take lists apart.
                for row, text in zip(rows.tolist(), texts(positions[rows].tolist()), strict=True):
                    values[row] = self._value(text)
            self._known = positions, values
            kept = values
        found: list[Any] = kept.tolist()
        return found

    def _value(self, text: bytes | str | None) -> Any:
        if text is None or text == "{}":
            return None
        try:
            return self._decoder.decode(text).value
        except (msgspec.DecodeError, UnicodeError):  # lone surrogates, which Python's JSON takes
            return _facts(text).get(self._key)


class _Codes:
    """The value under one key of every item that was looked at."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._forget()

    def _forget(self) -> None:
        self._positions = np.empty(0, dtype=np.int64)  # ascending
        self._codes = np.empty(0, dtype=np.int64)  # of the value at each
        self._known: dict[str, int] = {}  # values as JSON -> code
        self._values: list[Any] = []  # by code

    def passed(
        self, positions: Integers, test: Test, texts: Texts
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which items pass, and which have the key."""
        # Metadata at a position never changes, so what is known of it holds for good.
        if len(self._positions) > 2 * len(positions) + _AT_ONCE:  # mostly of removed items
            self._forget()
        self._read(positions[~self._has(positions)], texts)
        codes = self._codes[np.searchsorted(self._positions, positions)]
        if test.limits:
            pairs = zip(self._values, self._known, strict=True)
            holds = [test.holds(value, text) for value, text in pairs]
        else:
            holds = [False] * len(self._values)
            for text in test.among & self._known.keys():
                holds[self._known[text]] = True
        return np.array([*holds, False])[codes], codes != _ABSENT  # the last for those without

    def _has(self, positions: Integers) -> npt.NDArray[np.bool_]:
        if not len(self._positions):
            return np.zeros(len(positions), dtype=np.bool_)
        at = np.searchsorted(self._positions, positions).clip(max=len(self._positions) - 1)
        return np.asarray(self._positions[at] == positions)

    def _read(self, new: Integers, texts: Texts) -> None:
        if not len(new):
            return
        parts = [self._codes]
        for start in range(0, len(new), _AT_ONCE):
            found = texts(new[start : start + _AT_ONCE].tolist())
            parts.append(np.array([self._code(text) for text in found], dtype=np.int64))
        positions = np.concatenate([self._positions, new])
        order = np.argsort(positions, kind="stable")
        self._positions, self._codes = positions[order], np.concatenate(parts)[order]

    def _code(self, text: bytes | str | None) -> int:
        facts = _facts(text)
        if self._key not in facts:
            return _ABSENT
        value = facts[self._key]
        code = self._known.setdefault(as_json(value), len(self._known))
        if code == len(self._values):
            self._values.append(value)
        return code


def _facts(text: bytes | str | None) -> dict[str, Any]:
    return {} if text is None else json.loads(text)


def _all(positions: Integers, texts: Texts) -> Iterator[bytes | str | None]:
    for start in range(0, len(positions), _AT_ONCE):
        yield from texts(positions[start : start + _AT_ONCE].tolist())


def _parsed(where: object, depth: int) -> Condition:
    if not isinstance(where, Mapping) or not all(isinstance(key, str) for key in where):
        raise InputTypeError(
            f"where must be a dict with strings for keys, got {where!r}. {_EXAMPLE}"
        )
    if depth > _DEEPEST:
        raise InputError(f"where must hold parts at most {_DEEPEST} deep, got more. {_EXAMPLE}")
    parts = tuple(_part(key, value, depth) for key, value in where.items())
    return parts[0] if len(parts) == 1 else Joined("and", parts)


def _part(key: str, value: object, depth: int) -> Condition:
    is_list = isinstance(value, (list, tuple))
    if key in ("and", "or") and is_list and all(isinstance(each, Mapping) for each in value):  # type: ignore[attr-defined]
        return Joined(key, tuple(_parsed(each, depth + 1) for each in value))  # type: ignore[attr-defined]
    if isinstance(value, Mapping):
        if key == "not" and not (value and value.keys() <= {*_OPERATORS}):
            return Joined("not", (_parsed(value, depth + 1),))
        return _compared(key, value)
    return _among(key, value if is_list else [value])


def _compared(key: str, operators: Mapping[Any, Any]) -> Condition:
    odd = [name for name in operators if name not in _OPERATORS]
    if odd or not operators:
        raise InputError(
            f"where must use the operators {', '.join(_OPERATORS)} under {key!r}, got "
            f"{odd[0] if odd else 'none'!r}. "
            f"Use where={{{key!r}: {{'==': ...}}}} for a value that is a dict."
        )
    parts: list[Condition] = []
    limits = []
    for name, value in operators.items():
        if name == "==":
            parts.append(_among(key, [value]))
        elif name == "in":
            if not isinstance(value, (list, tuple)):
                raise InputTypeError(
                    f"where must give a list for 'in' under {key!r}, got {value!r}. "
                    "Use '==' for one value."
                )
            parts.append(_among(key, value))
        else:
            as_json(value)  # refuses NaN and infinity
            if not _kind(value):
                raise InputTypeError(
                    f"where must give a number or a string for {name!r} under {key!r}, got "
                    f"{value!r}. Others have no order."
                )
            limits.append((name, value))
    if limits:
        parts.append(Test(key, limits=tuple(limits)))
    return parts[0] if len(parts) == 1 else Joined("and", tuple(parts))


def _among(key: str, values: Any) -> Test:
    return Test(key, frozenset(as_json(value) for value in values))


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "string"
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else ""
