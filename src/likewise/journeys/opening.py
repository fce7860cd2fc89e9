"""Sources of data, opened as a model or a training needs them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from likewise import data
from likewise._arguments import first_of
from likewise._checks import check_choice
from likewise._parts import is_parts
from likewise.data.benchmarks import PARTS
from likewise.data.cross_tables import open_cross_pairs
from likewise.data.framing import ImageSize
from likewise.data.loading import NAMED
from likewise.data.pair_tables import read_pair_table
from likewise.data.parts import paths_of
from likewise.data.records import open_records
from likewise.data.saved_datasets import is_saved_dataset
from likewise.data.tables import TABLES, read_header
from likewise.embedded import Embedded
from likewise.encoders import takes_texts
from likewise.errors import InputError, naming
from likewise.journeys.embed import embedded_parts
from likewise.model import SimilarityModel

PLAIN = data.Reading()
OPTIONAL = ("label", "id")  # columns that a table may lack
SHOWN = 80  # characters of a text that is named


def open_data(
    source: str | Path,
    split: str | None = None,
    *,
    default_split: str = "train",
    image_size: ImageSize | None = None,
    channels: int | None = None,
    reading: data.Reading = PLAIN,
) -> data.Dataset:
    """One part of a source: the part asked for, or the default one where the source has parts.

    Args:
        source: Anything that `data.load` reads.
        split: "train", "val", "test" or "all"; of In-shop also "query" or "gallery".
        default_split: The part that is read where the source has parts and none is asked for.
        image_size: Side of the images, (height, width), or a `Framing`.
        channels: 1 for gray images, 3 for color.
        reading: Which columns hold what, and what is passed over.
    """
    if split is None and data.has_splits(source, **reading.columns):
        split = default_split
    if split is not None:
        check_choice("split", split, (*PARTS, "all"))
    part = None if split == "all" else split
    return data.load(source, split=part, image_size=image_size, channels=channels, **reading.given)


def open_fitting(
    model: SimilarityModel,
    source: str | Path,
    split: str | None = None,
    *,
    default_split: str,
    reading: data.Reading = PLAIN,
    queries: bool = False,
) -> data.Dataset:
    """A part of a source, read as the model's items are; see `open_data`.

    With two towers these are its known items, or with `queries` what is asked about.

    A table is read by the columns that the model remembers, but for those that are named here;
    one of labels or of ids that the table lacks is left out. Without labels, items are unlabeled.

    Raises:
        InputError: The model is over texts, and nothing says which column holds them.
    """
    encoder, preprocess = model.tower(queries=queries)
    if is_parts(source) and not isinstance(encoder, torch.nn.Identity):
        raise InputError(
            f"must be items that are yet to be embedded, got parts, {str(source)!r}.",
            argument="source",
            remedy="Take them into an index with journeys.embed.add_parts.",
            command="Take them into a gallery with likewise gallery import.",
        )
    if encoder is model.encoder:  # the columns that a model remembers are those of known items
        reading = _as_remembered(model, source, reading)
    if takes_texts(encoder) and reading.text is None:
        raise InputError(
            f"must name the column of texts in {str(source)!r}, got none.", argument="text"
        )
    return open_data(
        source, split, default_split=default_split, reading=reading, **_size(preprocess)
    )


def open_items(
    model: SimilarityModel,
    source: str | Path,
    split: str | None = None,
    *,
    default_split: str,
    reading: data.Reading = PLAIN,
    queries: bool = False,
) -> data.Dataset | Embedded:
    """As `open_fitting`, or the embeddings in a folder of parts that this model made.

    Raises:
        InputError: Another encoder made the parts, or they are to be read otherwise than whole.
    """
    encoder, _ = model.tower(queries=queries)
    if not is_parts(source) or isinstance(encoder, torch.nn.Identity):
        return open_fitting(
            model, source, split, default_split=default_split, reading=reading, queries=queries
        )
    if split not in (None, "all"):
        raise InputError(f"must be left out for parts, got {split!r}.", argument="split")
    if reading.columns:
        name, column = next(iter(reading.columns.items()))
        raise InputError(f"must be left out for parts, got {column!r}.", argument=name)
    with naming(parts="source"):
        return embedded_parts(source, model, queries=queries)


def _as_remembered(
    model: SimilarityModel, source: str | Path, reading: data.Reading
) -> data.Reading:
    path = Path(source)
    if is_saved_dataset(path):
        return data.Reading(**{**reading.given, **model.reading.columns, **reading.columns})
    if path.suffix.lower() not in (*NAMED, ".npz") or not path.is_file():
        return reading
    known = model.reading.columns
    if {"text", "vectors", "path_column"} & reading.columns.keys():
        known = {name: known[name] for name in OPTIONAL if name in known}
    remembered = {name for name in OPTIONAL if name in known and name not in reading.columns}
    if remembered:
        table = open_records(path)
        absent = {name for name in remembered if table.has(known[name]) is None}
        known = {name: column for name, column in known.items() if name not in absent}
    return data.Reading(**{**reading.given, **known, **reading.columns})


def open_pairs(model: SimilarityModel, source: str | Path) -> data.GivenPairs | data.CrossPairs:
    """A table of pairs: of texts, image files, or ids of known items, as the model's items are.

    With two towers the column a holds queries, and b known items. Ids are for a model without an
    encoder, which has no other names for its items.

    Raises:
        InputError: The model has no preprocess, so nothing says how it reads images; or an id is
            not known.
    """
    if model.query_encoder is not None:
        towers = [model.tower(queries=True), model.tower(queries=False)]
        return open_cross_pairs(
            source, *(None if takes_texts(encoder) else _size(reads) for encoder, reads in towers)
        )
    if takes_texts(model.encoder):
        return data.load_pairs(source, texts=True)
    if not model.has_encoder:
        return _known_pairs(model, source)
    if model.preprocess is None:
        raise InputError(
            "model must have a preprocess to read image files, got one without. "
            "Make it with preprocess=data.Preprocess.fit(dataset)."
        )
    return data.load_pairs(source, **_size(model.preprocess))


def _known_pairs(model: SimilarityModel, source: str | Path) -> data.GivenPairs:
    table = read_pair_table(source, what="ids")
    if table.same is None:
        raise InputError(
            f"{str(source)!r} must have the column same (1 = the same) or different "
            "(1 = different), got neither. Add one."
        )
    found = known_embeddings(model, table.sides)
    return data.GivenPairs(
        data.ArrayDataset(found, range(len(table.sides)), table.names), table.pairs, table.same
    )


def known_embeddings(model: SimilarityModel, ids: Sequence[str]) -> Tensor:
    """The embeddings (n, d) of known items by their ids, written as text.

    Raises:
        InputError: One is not known.
    """
    index = model.index
    if index.ids.dtype.kind == "U":
        return index.get(list(ids)).embeddings
    for id_ in ids:
        if not id_.isdecimal() or len(id_) > len(str(2**63)):
            raise InputError(f"ids must be whole numbers, as those known are, got {id_!r}.")
    return index.get([int(id_) for id_ in ids]).embeddings


def is_pair_table(source: str | Path) -> bool:
    """Whether a source is a table whose header names two sides, a and b."""
    path = Path(source)
    if path.suffix.lower() not in TABLES or not path.is_file():
        return False
    return {"a", "b"} <= {name.removeprefix("path_") for name in read_header(path)}


def of_classes(
    examples: data.Dataset, classes: Sequence[str], without: Sequence[str]
) -> data.Dataset:
    """The items of some classes, or of all but some; unlabeled ones are of none.

    Raises:
        InputError: A class is not there, or none is left.
    """
    present = list(data.items_per_class(examples))
    chosen = named_classes(classes, present, "classes") if classes else present
    left_out = named_classes(without, present, "except_") if without else []
    kept = [name for name in chosen if name not in left_out]
    if not kept:
        raise InputError(f"must leave a class, got {', '.join(left_out)}.", argument="except_")
    codes = torch.tensor([examples.class_names.index(name) for name in kept])
    return data.Subset(examples, torch.isin(examples.labels, codes).nonzero().flatten())


def named_classes(
    words: Sequence[str], present: Sequence[str], argument: str = "hold_out_classes"
) -> list[str]:
    """The classes that words name: each word one class, or else a list separated by commas.

    In a list, a name that holds a comma stands in double quotes.

    Raises:
        InputError: a class is not there.

    Example:
        >>> named_classes(["oak, red", 'elm, "fir, old"'], ["oak, red", "elm", "fir, old"])
        ['oak, red', 'elm', 'fir, old']
    """
    names: list[str] = []
    for word in words:
        if word in present:
            names.append(word)
        else:
            names += parts_of_list(word)
    absent = [name for name in names if name not in present]
    if absent or not names:
        raise InputError(
            f"must name classes of the data ({first_of(map(repr, present))}), got "
            f"{first_of(map(repr, absent))}. Give the option once for each class, or "
            "names separated by commas; one that holds a comma goes in double quotes.",
            argument=argument,
        )
    return names


def parts_of_list(word: str) -> list[str]:
    """The names in a list separated by commas; one that holds a comma is in double quotes."""
    try:
        (parts,) = csv.reader([word], skipinitialspace=True)
    except (csv.Error, ValueError):  # ends of lines, as in no list; or nothing at all
        return [word]
    return [part.strip() for part in parts]


def names_of(examples: Any) -> list[str]:
    """What each item is called: its id, its file, the start of its text, or its number."""
    if (ids := data.ids_of(examples)) is not None:
        return list(map(str, ids))
    is_embedded = isinstance(examples, Embedded)
    whole, rows = (examples.source, examples.rows.tolist()) if is_embedded else (examples, None)
    if data.is_text(whole):
        texts = data.items(whole, rows)
        return [text if len(text) <= SHOWN else f"{text[:SHOWN]}…" for text in texts]
    return paths_of(examples) or [f"item {number}" for number in range(len(examples))]


def _size(preprocess: data.Preprocess | None) -> dict[str, Any]:
    if preprocess is None or len(preprocess.item_shape) != 3:
        return {}
    channels, *size = preprocess.item_shape
    return {"image_size": preprocess.framing or tuple(size), "channels": channels}
