"""A map of embeddings to move about in: one page, with a thumbnail of each item."""

import base64
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from markupsafe import Markup
from torch import Tensor

from likewise import data, plots
from likewise._files import write_whole
from likewise.data.parts import paths_of
from likewise.embedded import Embedded
from likewise.errors import InputError, InputTypeError
from likewise.journeys.opening import names_of
from likewise.pages.thumbnails import sheets, thumbnails
from likewise.pages.writing import own_file, render
from likewise.plots.embedding_maps import check_points, class_look
from likewise.plots.style import check_items, name_of

_SIDES = ((1500, 64), (6000, 48))  # at most as many items, and the side of their thumbnails
_SMALLEST_SIDE = 32
_NOTES = {
    "t-SNE dimension": "t-SNE: near neighbors are meaningful, distances between groups are not.",
    "UMAP dimension": "UMAP: near neighbors are meaningful, distances between groups are not.",
    "principal component": "The two directions of largest variance.",
    "embedding dimension": "The two numbers of each embedding.",
}
_UNKNOWN = {"color": "#5b6770", "marker": "x"}


def write_map_page(
    path: str | os.PathLike[str],
    points: Float[Tensor, "n 2"],
    labels: Int[Tensor, " n"],
    class_names: Sequence[str],
    *,
    items: Tensor | None = None,
    names: Sequence[str] | None = None,
    title: str = "Embeddings",
    note: str = "",
    unseen: Collection[int] = (),
) -> Path:
    """The path of a new HTML page with a map of embeddings to zoom and to move about in.

    Pointing at an item, tapping it, or going to it with the arrow keys shows its picture, class
    and name; classes can be searched and hidden. The page holds everything it shows and loads
    nothing; its policy lets no script run but its own. `map.html#item=12` opens at the item in
    position 12, `map.html#class=cat` with a class looked for. 5,000 items with photographs take
    less than 10 MB. The file appears whole; when it cannot be written, what was there stays.

    Args:
        path: Path of the page; its folder exists.
        points: one per item, from `plots.embedding_points`.
        labels: class codes, -1 for unknown.
        class_names: Names of the label codes.
        items: images (c, h, w) or (h, w), clipped to 0..1 or uint8, made small with `thumbnails`.
            Vectors have no picture.
        names: one word on each item, e.g. its file.
        title: Title of the page.
        note: a sentence below it.
        unseen: class codes that were not trained on, drawn hollow.

    Raises:
        InputError: if sizes do not fit each other, a class has no name, or points are not finite.
        InputTypeError: for images of other integers, or names as `unseen`.
        FileNotFoundError: if the folder does not exist.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_map_page(
        ...         f"{folder}/map.html", torch.rand(2, 2), torch.tensor([0, 1]), ["cat", "dog"]
        ...     )
        ...     page.name
        'map.html'
    """
    path = Path(path)
    check_points(points, labels)
    n = len(points)
    for argument, given in (("items", items), ("names", names)):
        if given is not None and len(given) != n:
            raise InputError(
                f"{argument} must have {n} entries, one per point, got {len(given)}. "
                "Leave it out if there are none."
            )
    texts = [unseen] if isinstance(unseen, str) else [c for c in unseen if isinstance(c, str)]
    if texts:
        raise InputTypeError(
            f"unseen must be class codes, got {texts[0]!r}. Use class_names.index({texts[0]!r})."
        )
    pictures = None
    if items is not None:
        check_items(items, "items")
        if items.ndim > 2:
            pictures = sheets(thumbnails(items, _side(n)))
    across, up = _scaled(points)
    codes, position = torch.unique(labels.cpu(), return_inverse=True)
    counts = position.bincount().tolist()
    told = {
        "x": across,
        "y": up,
        "class": position.tolist(),
        "classes": [
            _class(place, code, counts[place], class_names, unseen)
            for place, code in enumerate(codes.tolist())
        ],
        "names": None if names is None else [str(name) for name in names],
        "pictures": pictures,
    }
    style, script = own_file("style.css"), own_file("map.js")
    # A class may be called "</script>"; JSON has another way to write its letters.
    data = json.dumps(told, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    content = render(
        "map.html",
        policy=f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; "
        f"style-src '{_hash(style)}'; base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        data=Markup(data),
        title=title,
        note=note,
    )
    write_whole(path, content)
    return path


def map_page(
    path: Path,
    examples: Embedded,
    *,
    source: str,
    title: str,
    method: str = "auto",
    seed: int = 0,
    total: int | None = None,
    trained_on: Sequence[str] = (),
) -> Path:
    """Write the page of embedded items.

    Args:
        path: Path of the page.
        examples: the items shown, as `likewise.embed` gives them.
        source: where they come from; files are named as seen from there.
        title: Title of the page.
        method: see `plots.embedding_points`.
        seed: Seed of the method.
        total: how many items there are, of which these are shown.
        trained_on: names of the classes trained on; others are drawn hollow.

    Raises:
        InputError: there are fewer than 2 items.
    """
    total = len(examples) if total is None else total
    if len(examples) < 2:
        raise InputError(
            f"must hold at least 2 items, got {len(examples)}. Add items.", argument="data"
        )
    points, axis = plots.embedding_points(examples.embeddings, method, seed=seed)
    pictures = None
    whole = examples.source
    if len(whole.item_shape) > 1:  # large images never lie in memory all at once
        parts = torch.split(examples.rows, 256)
        pictures = torch.cat([thumbnails(data.items(whole, p.tolist()), side=64) for p in parts])
    positions = getattr(whole, "source_indices", torch.arange(len(whole)))[examples.rows]
    names = [_within(path, source) for path in paths_of(examples)]
    if data.is_text(whole):
        names = names_of(examples)
    note = f"{len(examples):,} of {total:,}" if len(examples) < total else f"{total:,}"
    unseen = {code for code, name in enumerate(examples.class_names) if name not in trained_on}
    return write_map_page(
        path,
        points,
        examples.labels,
        examples.class_names,
        items=pictures,
        names=names or [f"item {int(position)}" for position in positions],
        title=title,
        note=f"{note} items. {_NOTES[axis]}",
        unseen=unseen if trained_on else (),
    )


def _class(
    place: int, code: int, count: int, class_names: Sequence[str], unseen: Collection[int]
) -> dict[str, Any]:
    color, marker = class_look(place)
    look = _UNKNOWN if code < 0 else {"color": color, "marker": marker}
    hollow = code < 0 or code in unseen
    return {"name": name_of(code, class_names), "count": count, "hollow": hollow, **look}


def _side(count: int) -> int:
    return next((side for most, side in _SIDES if count <= most), _SMALLEST_SIDE)


def _scaled(points: Tensor) -> list[list[float]]:
    """The columns around 0 and within -1 to 1, as the page has no use for their own scale."""
    values = points.detach().cpu().double()
    low, high = values.amin(dim=0) / 2, values.amax(dim=0) / 2
    half = float((high - low).max()) or 1.0
    scaled = (values - (low + high)) / half
    # Seven digits: more than a screen can show at the deepest zoom.
    return [[round(value, 7) for value in column] for column in scaled.T.tolist()]


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _within(path: str, source: str) -> str:
    """A path as seen from the source, where it lies below it; a page need not tell more."""
    root = Path(source).resolve()
    root = root if root.is_dir() else root.parent
    below = Path(path).is_relative_to(root)
    return os.path.relpath(path, root) if below else str(Path(*Path(path).parts[-2:]))
