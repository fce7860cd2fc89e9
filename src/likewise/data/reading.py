"""How a source is read: which columns of a table hold what, and what is passed over."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("text", "label", "vectors", "path_column", "id")


@dataclass(frozen=True)
class Reading:
    """Arguments of `data.load` that say how a source is read; a model remembers the columns.

    Args:
        text: the column of texts.
        label: the column of labels.
        vectors: the column of lists of numbers, or a pattern of columns of numbers.
        path_column: the column of image files.
        id: the column of ids.
        labels: a file with the labels of an .npy.
        skip_unreadable: whether image files that cannot be read are left out.
        unchecked: whether files that a table names are looked for only when they are fetched.

    Example:
        >>> remembered = Reading(text="question", label="intent").columns
        >>> Reading.from_columns(remembered).given
        {'text': 'question', 'label': 'intent'}
    """

    text: str | None = None
    label: str | None = None
    vectors: str | None = None
    path_column: str | None = None
    id: str | None = None
    labels: str | Path | None = None
    skip_unreadable: bool = False
    unchecked: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """The arguments that differ from their defaults."""
        return {name: value for name, value in asdict(self).items() if value not in (None, False)}

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are named, which is what a model remembers."""
        return {name: value for name, value in self.given.items() if name in COLUMNS}

    @classmethod
    def from_columns(cls, columns: Mapping[str, str]) -> "Reading":
        """The reading of these columns; names that are none are left out."""
        text, label, vectors, path, id_ = (columns.get(name) for name in COLUMNS)
        return cls(text, label, vectors, path, id_)
