"""Which items a lookup's `where` leaves."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from likewise.errors import InputTypeError
from likewise.index._durable.checksums import Integers
from likewise.index._durable.snapshot import Snapshot

Texts = Callable[[list[int]], Sequence[bytes | None]]  # metadata as JSON, from positions

_AT_ONCE = 65536  # texts that are in memory together
_ABSENT = -1


def checked_where(where: Mapping[str, Any]) -> dict[str, list[str]]:
    """The values that each key may have, as JSON.

    Raises:
        InputTypeError: no mapping from strings, or to what JSON cannot hold.
    """
    if not isinstance(where, Mapping) or not all(isinstance(key, str) for key in where):
        raise InputTypeError(
            f"where must be a dict with strings for keys, got {where!r}. "
            "Use e.g. where={'camera': 'front', 'year': [2024, 2025]}."
        )
    return {
        key: [_as_json(v) for v in (value if isinstance(value, (list, tuple)) else [value])]
        for key, value in where.items()
    }


class Filters:
    """Values of metadata, read once for every item and every key that is asked for."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[Integers, Integers]] = {}  # positions, codes of the values
        self._codes: dict[str, dict[str, int]] = {}  # key -> value as JSON -> code

    def mask(
        self, snapshot: Snapshot, where: Mapping[str, Sequence[str]], texts: Texts
    ) -> npt.NDArray[np.bool_]:
        """Which rows of `snapshot` have, for every key, one of its values, (n,).

        Args:
            snapshot: the newest; `texts` gives the metadata of its positions.
            where: from `checked_where`.
            texts: metadata as JSON.
        """
        chosen = np.ones(len(snapshot), dtype=np.bool_)
        for key, values in where.items():
            self._catch_up(key, snapshot, texts)
            positions, codes = self._read[key]
            # Metadata at a position never changes, so what is known of it holds for good.
            codes = codes[np.searchsorted(positions, snapshot.positions)]
            known = self._codes[key]
            chosen &= np.isin(codes, [known[value] for value in values if value in known])
        return chosen

    def _catch_up(self, key: str, snapshot: Snapshot, texts: Texts) -> None:
        empty = np.empty(0, dtype=np.int64)
        positions, codes = self._read.get(key, (empty, empty))
        known = self._codes.setdefault(key, {})
        last = positions[-1] if len(positions) else -1
        new = snapshot.positions[np.searchsorted(snapshot.positions, last, side="right") :]
        parts = [codes]
        for start in range(0, len(new), _AT_ONCE):
            found = texts(new[start : start + _AT_ONCE].tolist())
            parts.append(np.array([_code(key, text, known) for text in found], dtype=np.int64))
        self._read[key] = np.concatenate([positions, new]), np.concatenate(parts)


def _code(key: str, text: bytes | None, known: dict[str, int]) -> int:
    metadata = {} if text is None else json.loads(text)
    return known.setdefault(_as_json(metadata[key]), len(known)) if key in metadata else _ABSENT


def _as_json(value: object) -> str:
    try:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 1 and 1.0 are the same number
        return json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputTypeError(
            f"where must be what JSON can hold, got {value!r}: {error}. "
            "Give strings, numbers, or lists of them."
        ) from error
