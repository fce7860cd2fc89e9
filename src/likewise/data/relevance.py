"""Which items are relevant to which queries, and how much: graded, or by labels in common."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from likewise import _tables
from likewise._checks import as_tensor, check_exists, check_finite
from likewise.data.records import RECORDS, labels_in, open_records
from likewise.data.tables import TABLES, read_words
from likewise.errors import InputError, InputTypeError

QUERY_NAMES = ("query", "query_id", "query-id", "qid", "topic")
ITEM_NAMES = ("item", "item_id", "item-id", "corpus-id", "doc", "docid", "doc_id", "document")
GRADE_NAMES = ("grade", "relevance", "score", "rel")

_Array = np.ndarray[Any, Any]
Ids = Sequence[str | int] | _Array | Tensor


class Relevance:
    """A table of relevance: a row says how relevant an item is to a query.

    Queries and items go by ids, which are compared as text: 7 and "7" are one. A pair that has
    no row is not relevant, and neither is one of grade 0. A grade of -1 says that nobody judged
    the pair, and counts as no row.

    Args:
        queries: the id of the query in each row.
        items: the id of the item in each row.
        grades: how relevant it is, -1 or at least 0; 1 in every row if None.

    Attributes:
        queries: the ids of the queries, each once, in order of appearance.
        items: the ids of the items, each once.

    Raises:
        InputError: columns of different lengths, no row, a grade below 0 other than -1, a pair
            with two grades.
        InputTypeError: ids that are neither text nor whole numbers, grades that are no numbers.

    Example:
        >>> Relevance(["q1", "q1", "q2"], ["a", "b", "a"], [2, 1, 1])
        Relevance: 3 rows
          queries  2
          items    2
          grades   1, 2
    """

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def __init__(
        self, queries: Ids, items: Ids, grades: Sequence[float] | Tensor | None = None
    ) -> None:
        names = [as_names("queries", queries), as_names("items", items)]
        count = len(names[0])
        values = as_tensor([1.0] * count if grades is None else grades, "grades")
        if not isinstance(values, Tensor) or values.is_complex():
            raise InputTypeError(f"grades must be numbers, got {type(grades).__name__}.")
        if values.ndim != 1 or len({count, len(names[1]), len(values)}) > 1 or not count:
            raise InputError(
                "queries, items and grades must have the same length, at least 1, got "
                f"{count}, {len(names[1])} and {tuple(values.shape)}. Give one of each per row."
            )
        values = values.detach().cpu().double()
        check_finite(values, "grades")
        odd = values[(values < 0) & (values != -1)]
        if len(odd):
            raise InputError(
                f"grades must be at least 0, or -1 for pairs that nobody judged, got "
                f"{float(odd[0]):g}. Use 0 for items that are not relevant."
            )
        (self.queries, rows), (self.items, columns) = (_numbered(each) for each in names)
        key = rows * len(self.items) + columns
        self._set(key, values.numpy())

    def _set(self, key: _Array, grades: _Array) -> None:
        order = key.argsort(kind="stable")
        key, grades = key[order], grades[order]
        again = np.flatnonzero(key[1:] == key[:-1])
        differs = again[grades[again] != grades[again + 1]]
        if len(differs):
            row, column = divmod(int(key[differs[0]]), len(self.items))
            raise InputError(
                f"grades must be one per pair, got {grades[differs[0]]:g} and "
                f"{grades[differs[0] + 1]:g} for query {self.queries[row]!r} and item "
                f"{self.items[column]!r}. Remove one."
            )
        keep = grades > 0
        keep[again + 1] = False
        self._key, self._grades = key[keep], grades[keep]
        self._row_of = {name: row for row, name in enumerate(self.queries)}
        self._column_of = {name: column for column, name in enumerate(self.items)}
        rows = self._key // max(1, len(self.items))
        self._starts = np.searchsorted(rows, np.arange(len(self.queries) + 1))

    def __len__(self) -> int:
        """Number of pairs with a grade above 0."""
        return len(self._key)

    def _table(self) -> _tables.Table:
        grades = np.unique(self._grades).tolist()
        rows = [("queries", len(self.queries)), ("items", len(self.items)), ("grades", grades)]
        return _tables.Table(
            f"Relevance: {len(self):,} rows", [(name, _tables.value(of)) for name, of in rows]
        )

    def without_own(self) -> "Relevance":
        """The same without the rows in which query and item have the same id."""
        column = np.array([self._column_of.get(name, -1) for name in self.queries])
        own = np.flatnonzero(column >= 0) * len(self.items) + column[column >= 0]
        made = object.__new__(Relevance)
        made.queries, made.items = self.queries, self.items
        keep = ~np.isin(self._key, own)
        made._set(self._key[keep], self._grades[keep])
        return made

    def renamed(
        self, query_of: Callable[[str], Sequence[str]], item_of: Callable[[str], Sequence[str]]
    ) -> "Relevance":
        """The same with other ids: for each query and item the ids it has elsewhere, one or more.

        Raises:
            InputError: a pair then has two grades.
        """
        queries, items = list(map(query_of, self.queries)), list(map(item_of, self.items))
        rows, columns = np.divmod(self._key, len(self.items))
        made = [
            (query, item, grade)
            for row, column, grade in zip(
                rows.tolist(), columns.tolist(), self._grades.tolist(), strict=True
            )
            for query in queries[row]
            for item in items[column]
        ]
        if not made:
            raise InputError("relevance must hold a grade above 0, got none.")
        return Relevance(*zip(*made, strict=True))

    def relevant_items(self) -> list[str]:
        """The items that are relevant to any query."""
        columns = np.unique(self._key % len(self.items))
        return [self.items[column] for column in columns.tolist()]

    def grades_of(self, queries: Sequence[str], found: _Array) -> Float[Tensor, "q k"]:
        """The grade of each item found for each query, 0 where there is no row.

        Args:
            queries: ids of the queries, (q,).
            found: ids of the items, (q, k), text or whole numbers.
        """
        names, place = np.unique(found, return_inverse=True)
        of_name = [self._column_of.get(str(name), -1) for name in names.tolist()]
        column = np.array(of_name, dtype=np.int64)[place].reshape(found.shape)
        row = np.array([self._row_of.get(name, -1) for name in queries], dtype=np.int64)[:, None]
        key = row * len(self.items) + column
        at = np.searchsorted(self._key, key)
        at[at == len(self._key)] = 0
        grades = np.zeros(found.shape)
        if len(self._key):
            there = (row >= 0) & (column >= 0) & (self._key[at] == key)
            grades[there] = self._grades[at[there]]
        return torch.from_numpy(grades)

    def best(self, queries: Sequence[str], k: int) -> Float[Tensor, "q k"]:
        """The k highest grades of each query, descending, filled up with 0."""
        highest = np.zeros((len(queries), k))
        for row, grades in enumerate(map(self._of, queries)):
            top = np.sort(grades)[::-1][:k]
            highest[row, : len(top)] = top
        return torch.from_numpy(highest)

    def total(self, queries: Sequence[str], relevant_from: float | None) -> Int[Tensor, " q"]:
        """How many items have at least this grade, or any above 0, for each query."""
        least = 0.0 if relevant_from is None else relevant_from
        counts = [int((self._of(name) >= least).sum()) for name in queries]
        return torch.tensor(counts, dtype=torch.int64)

    def _of(self, query: str) -> _Array:
        row = self._row_of.get(query)
        if row is None:
            return self._grades[:0]
        return self._grades[self._starts[row] : self._starts[row + 1]]


def load_relevance(path: str | Path) -> Relevance:
    """The table of relevance in a file.

    ===========================  ==============================================================
    file                         what is read
    ===========================  ==============================================================
    .csv, .tsv, .jsonl,          the columns query, item and grade, or query-id, corpus-id and
    .parquet, .feather, .arrow   score as BEIR has them; without a column of grades all are 1
    any other                    the qrels of TREC: query, a number that is ignored, item and
                                 grade in each line, separated by space
    ===========================  ==============================================================

    Args:
        path: the file.

    Raises:
        FileNotFoundError: it is not there.
        InputError: a column is missing, a row is faulty, or a pair has two grades.
        MissingExtra: it takes pyarrow, which is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "test.qrels")
        ...     _ = file.write_text("q1 0 a 2\\nq1 0 b 0\\nq2 0 a 1\\n")
        ...     load_relevance(file).queries
        ['q1', 'q2']
    """
    path = Path(path).expanduser()
    check_exists("path", path)
    if path.suffix.lower() not in (*TABLES, *RECORDS):
        return _qrels(path)
    records = open_records(path)
    query, item, grade = (
        next(filter(None, map(records.has, names)), None)
        for names in (QUERY_NAMES, ITEM_NAMES, GRADE_NAMES)
    )
    if query is None or item is None:
        raise InputError(
            f"{str(path)!r} must have the columns query, item and perhaps grade, got "
            f"{', '.join(records.columns) or 'none'}. Name them in the first row."
        )
    cells = records.read([query, item, *([grade] if grade else [])])
    names = []
    for column in (query, item):
        told = labels_in(records, column, cells[column])
        if None in told:
            where = records.where(told.index(None))
            raise InputError(f"{where} must have a {column}, got none. Correct or remove the row.")
        names.append([str(name) for name in told])
    if not names[0]:
        raise InputError(f"{str(path)!r} must have a row after its header, got none. Add rows.")
    grades = [1.0] * len(names[0])
    if grade:
        grades = [_grade(records.where(row), cell) for row, cell in enumerate(cells[grade])]
    return _named_by(path, names[0], names[1], grades)


def relevance_of_labels(
    query_labels: Sequence[Any] | Tensor,
    item_labels: Sequence[Any] | Tensor,
    *,
    queries: Ids | None = None,
    items: Ids | None = None,
    graded: bool = False,
) -> Relevance:
    """The relevance of items that have several labels each: those that share one are relevant.

    Args:
        query_labels: the labels of each query, as a list of sets, or 0 and 1 for each of c
            labels, (q, c). Queries without any label have no relevant item.
        item_labels: the same of the items, (m, c) with the same c.
        queries: their ids; their positions if None.
        items: their ids; their positions if None, which are the ids of an `Index` that they were
            added to at once without any.
        graded: the grade is the number of labels in common, else 1.

    Returns:
        A table with a row for every pair that shares a label; keep classes of very many pairs
        out of it, as memory grows with these.

    Raises:
        InputError: no label in common, or another number of ids than of items.
        InputTypeError: labels of other kinds.

    Example:
        >>> tags = [{"red", "round"}, {"red"}, {"blue", "round"}]
        >>> relevance_of_labels([["red", "round"]], tags, graded=True)
        Relevance: 3 rows
          queries  1
          items    3
          grades   1, 2
    """
    code_of: dict[Any, int] = {}
    sides = [
        _many_hot(name, labels, code_of)
        for name, labels in (("query_labels", query_labels), ("item_labels", item_labels))
    ]
    are_arrays = {
        isinstance(labels, (Tensor, np.ndarray)) for labels in (query_labels, item_labels)
    }
    if are_arrays == {True, False}:
        raise InputTypeError(
            "item_labels must be of the kind of query_labels, got an array beside a list of sets. "
            "Give both as one kind."
        )
    if are_arrays == {True} and sides[0].shape[1] != sides[1].shape[1]:
        raise InputError(
            f"item_labels must have a column for each of the {sides[0].shape[1]} labels of "
            f"query_labels, got {sides[1].shape[1]}. Use the same columns for both."
        )
    for side in sides:
        side.resize(side.shape[0], max(side.shape[1] for side in sides))
    names = [
        as_names(name, range(side.shape[0]) if given is None else given)
        for name, given, side in (("queries", queries, sides[0]), ("items", items, sides[1]))
    ]
    for name, ids, side in zip(("queries", "items"), names, sides, strict=True):
        if len(ids) != side.shape[0] or len(set(ids)) != len(ids):
            raise InputError(
                f"{name} must be {side.shape[0]} different ids, got {len(ids)}, "
                f"{len(set(ids))} of them different. Give one for each row of labels."
            )
    shared = (sides[0] @ sides[1].T).tocoo()
    if not shared.nnz:
        raise InputError(
            "item_labels must hold a label of some query, got none. Use the same names for both."
        )
    grades = torch.from_numpy(shared.data.astype(np.float64))
    return Relevance(
        [names[0][row] for row in shared.row],
        [names[1][column] for column in shared.col],
        grades if graded else torch.ones_like(grades),
    )


def as_names(name: str, ids: object) -> list[str]:
    """Ids as text.

    Raises:
        InputTypeError: some are neither text nor whole numbers.
    """
    if isinstance(ids, (Tensor, np.ndarray)):
        ids = ids.tolist()
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise InputTypeError(f"{name} must be a list of ids, got {type(ids).__name__}.")
    given = list(ids)
    for each in given:
        if isinstance(each, bool) or not isinstance(each, (str, int, np.integer)):
            raise InputTypeError(
                f"{name} must be text or whole numbers, got {type(each).__name__}. "
                "Use the ids of the index."
            )
    return [str(each) for each in given]


def _numbered(names: Sequence[str]) -> tuple[list[str], _Array]:
    """The names, each once in order of appearance, and the number of each given one."""
    number: dict[str, int] = {}
    numbers = [number.setdefault(name, len(number)) for name in names]
    return list(number), np.array(numbers, dtype=np.int64)


def _many_hot(name: str, labels: object, code_of: dict[Any, int]) -> "sparse.csr_array":
    """Which labels each item has, (n, c), with codes for labels that are named."""
    if isinstance(labels, (Tensor, np.ndarray)):
        table = as_tensor(labels, name)
        if table.ndim != 2 or bool(((table != 0) & (table != 1)).any()):
            raise InputError(
                f"{name} must be 0 or 1 for each item and label, (n, c), got "
                f"{table.dtype} of shape {tuple(table.shape)}. Or give a list of sets."
            )
        return sparse.csr_array(table.cpu().numpy().astype(np.int32))
    if isinstance(labels, str) or not isinstance(labels, Collection):
        raise InputTypeError(
            f"{name} must be a list of sets of labels, or an array (n, c), got "
            f"{type(labels).__name__}."
        )
    rows, columns = [], []
    for row, one in enumerate(labels):
        if isinstance(one, (str, bytes)) or not isinstance(one, Collection):
            raise InputTypeError(
                f"{name} must hold a set of labels for each item, got {type(one).__name__}. "
                'Put one label into a list, as ["red"].'
            )
        for label in set(one):
            rows.append(row)
            columns.append(code_of.setdefault(label, len(code_of)))
    shape = (len(labels), len(code_of))
    return sparse.csr_array((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)


def _qrels(path: Path) -> Relevance:
    queries, items, grades = [], [], []
    for where, cells in read_words(path):
        if len(cells) != 4:
            raise InputError(
                f"{where} must hold a query, a number, an item and a grade, got "
                f"{' '.join(cells)[:80]!r}. Give a table with the columns query, item and grade as "
                ".csv."
            )
        queries.append(cells[0])
        items.append(cells[2])
        grades.append(_grade(where, cells[3]))
    if not queries:
        raise InputError(f"{str(path)!r} must hold a line, got none. Add lines.")
    return _named_by(path, queries, items, grades)


def _grade(where: str, cell: Any) -> float:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = float("nan")
    if not (value >= 0 or value == -1) or value == float("inf"):
        raise InputError(
            f"{where} must have a grade of at least 0, or -1 for a pair that nobody judged, got "
            f"{cell!r}. Correct or remove the row."
        )
    return value


def _named_by(
    path: Path, queries: Sequence[str], items: Sequence[str], grades: Sequence[float]
) -> Relevance:
    try:
        return Relevance(queries, items, grades)
    except InputError as error:
        raise type(error)(f"{str(path)!r}: {error}") from error
