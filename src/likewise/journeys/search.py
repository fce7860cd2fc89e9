"""How well a model's index answers queries, judged by a table of relevance."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from likewise import _tables
from likewise import data as sources
from likewise.data.parts import paths_of
from likewise.errors import InputError, naming
from likewise.evaluation import SearchResult, evaluate_search
from likewise.model import SimilarityModel

Progress = Callable[[int, int], None]
DEPTH = 1000  # ranks that are looked at, as in TREC

_Names = dict[str, list[str]]  # ids by what an item is called


@dataclass(frozen=True, eq=False)
class JudgedSearch:
    """What a table of relevance says of a model's index.

    Attributes:
        search: the scores of the queries.
        known: queries that were left out, as they are indexed or were trained on.
        not_indexed: items that the table calls relevant and the index does not have; they count
            as missed.
    """

    search: SearchResult
    known: int
    not_indexed: int

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        table = self.search._table()
        counts = [(name, f"{getattr(self, name):,}") for name in ("known", "not_indexed")]
        more = [(name.replace("_", " "), count) for name, count in counts]
        return table._replace(title=f"Judged{table.title}", rows=[*table.rows, *more])

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        return {**self.search.to_dict(), "known": self.known, "not_indexed": self.not_indexed}


def judge_search(
    model: SimilarityModel,
    queries: sources.Dataset,
    relevance: sources.Relevance | str | Path,
    *,
    ks: Iterable[int] | None = None,
    progress: Progress | None = None,
) -> JudgedSearch:
    """Look up queries in a model's index, and judge what is found by a table of relevance.

    In the table an item goes by its file (relative to the table), by its text, or by its id in the
    index; a query by its file, by its text, or by its position in `queries`, from 0. The first of
    these that is known counts. Queries that are indexed or were trained on are left out.

    Args:
        model: has the known items; see `SimilarityModel.add`.
        queries: a dataset; its labels do not count.
        relevance: a table, or the file with one; see `data.load_relevance`.
        ks: ranks at which scores are wanted; without it those of 1, 5 and 10 that are there.
        progress: called as progress(done, total) while embedding.

    Raises:
        FileNotFoundError: there is no such table.
        InputError: nothing is indexed, no item of the table is, or no query of the table is among
            the queries; a k larger than the index.

    Example:
        >>> import likewise as lw
        >>> digits = lw.data.load("digits")
        >>> model = lw.SimilarityModel(lw.encoders.MLPEncoder(digits.item_shape))
        >>> ids = model.add(lw.data.sample_items(digits, per_class=1))
        >>> relevance = lw.data.Relevance([0, 0], [0, 1], [2, 1])
        >>> found = judge_search(model, lw.data.Subset(digits, [500]), relevance)
        >>> found.search.queries, found.not_indexed
        (1, 0)
    """
    folder = Path.cwd()
    if isinstance(relevance, (str, Path)):
        folder = Path(relevance).expanduser().resolve().parent
        with naming(path="relevance"):
            relevance = sources.load_relevance(relevance)
    if not len(model.index):
        raise InputError("model must have known items to search, got none. Index some first.")
    of_index = _by_name(
        [str(each) for each in model.index.ids.tolist()],
        model.index.column("path")[0],
        model.index.column("text")[0],
    )
    missing = [name for name in relevance.relevant_items() if not _known(of_index, name, folder)]
    if len(missing) == len(relevance.relevant_items()):
        raise InputError(
            f"must name relevant items of the index, got {relevance.items[0]!r}, which is none. "
            "Use their files, their texts or their ids.",
            argument="relevance",
        )
    new = model.embedded(
        sources.as_dataset(queries), queries=True, only_new=True, progress=progress
    )
    if not len(new):
        raise InputError(
            f"queries must not all be indexed or trained on, got {new.skipped} that are. "
            "Keep some aside."
        )
    positions = [str(row) for row in new.rows.tolist()]
    texts = sources.items(new.source, new.rows.tolist()) if sources.is_text(new.source) else []
    of_queries = _by_name(positions, paths_of(new), texts)
    renamed = relevance.renamed(
        lambda name: _known(of_queries, name, folder) or [f"not asked: {name}"],
        lambda name: _known(of_index, name, folder) or [f"not indexed: {name}"],
    )
    embeddings = model.embed(new)
    return JudgedSearch(
        evaluate_search(
            model.index.lookup(embeddings, k=min(len(model.index), DEPTH)),
            renamed,
            queries=positions,
            ks=ks,
        ),
        known=new.skipped,
        not_indexed=len(missing),
    )


def _by_name(ids: Sequence[str], paths: Sequence[Any], texts: Sequence[Any]) -> list[_Names]:
    """Ids by file, by text and by themselves; paths and texts are one per id, or none at all."""
    files = [os.path.realpath(path) if isinstance(path, str) else None for path in paths]
    return [_grouped(names, ids) for names in (files, texts, ids)]


def _grouped(names: Sequence[Any], ids: Sequence[str]) -> _Names:
    found: _Names = defaultdict(list)
    for name, id_ in zip(names, ids, strict=False):
        if isinstance(name, str):
            found[name].append(id_)
    return found


def _known(by_name: Sequence[_Names], name: str, folder: Path) -> list[str]:
    """The ids that a cell of a table in this folder means, none if it is not known."""
    files, texts, ids = by_name
    may_be_file = files and "\0" not in name
    file = os.path.realpath(folder / name) if may_be_file else ""
    return files.get(file) or texts.get(name) or ids.get(name) or []
