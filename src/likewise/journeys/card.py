"""`write_card`: what a saved model is, what it guarantees and how it did, as card.md beside it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from likewise._files import read_regular, write_whole
from likewise.calibration import Calibration
from likewise.errors import ArtifactError
from likewise.model import Evaluation, SimilarityModel, load
from likewise.model.switching import described_in

CARD, EVALUATION = "card.md", "evaluation.json"
LARGEST = 1 << 20  # bytes of a kept evaluation
MOST_CLASSES = 30  # that are named


class Kept(msgspec.Struct, forbid_unknown_fields=True):
    """The numbers of an evaluation, as they are told on a card.

    Attributes:
        data: What the model was evaluated on.
        items: How many items of it counted.
        left_out: How many more were trained on or are known.
        model: A hash of the model's manifest then.
        rows: Each number by its name, with its interval.
    """

    data: str
    items: int
    left_out: int
    model: str
    rows: list[tuple[str, str]]


def write_card(
    folder: str | Path, found: Evaluation | None = None, *, data: str = "data that is not named"
) -> Path:
    """Write card.md into the folder of a saved model; its path.

    It tells what the model is made of, its operating points with what they guarantee, and the
    numbers of an evaluation, which are kept in evaluation.json for the next card.

    Args:
        folder: The folder of the model. A gallery that it uses must be there.
        found: What `SimilarityModel.evaluate` found; None for the evaluation that is kept, if any.
        data: What that evaluation was on.

    Raises:
        ArtifactError: There is no model, or what is kept of an evaluation is damaged.

    Example:
        >>> import tempfile
        >>> import likewise as lw
        >>> with tempfile.TemporaryDirectory() as place:
        ...     saved = lw.SimilarityModel(None).save(f"{place}/vectors")
        ...     print(write_card(saved).read_text().splitlines()[0])
        # vectors
    """
    place = Path(folder)
    mark = hashlib.sha256(described_in(place).content).hexdigest()[:12]
    if found is not None:
        rows = [(name, str(value)) for name, value in found.headline()]
        kept = Kept(data, found.items, found.left_out, mark, rows)
        write_whole(place / EVALUATION, msgspec.json.format(msgspec.json.encode(kept), indent=1))
    model = load(place, read_only=True, without_encoder=True)
    try:
        text = card_of(model, place.resolve().name, _kept(place), mark)
    finally:
        model.index.close()
    write_whole(place / CARD, text.encode())
    return place / CARD


def card_of(model: SimilarityModel, name: str, kept: Kept | None, mark: str) -> str:
    """The card of a model, in Markdown.

    Args:
        model: The model; its encoder may be left out.
        name: What it is called.
        kept: An evaluation of it.
        mark: A hash of its manifest, to tell whether the evaluation is of the model as it is.
    """
    encoder = str(getattr(model.encoder, "name", type(model.encoder).__name__))
    recipe = model.origin.get("recipe", {})
    facts = [
        ("encoder", encoder if model.has_encoder else "none: items are embeddings"),
        ("distance", model.distance.name),
        ("known items", f"{len(model.index):,} of {len(model.class_names):,} classes"),
        ("trained on", _listed(model.trained_on) or "not told"),
    ]
    if "data" in model.origin:
        facts.append(("training data", str(model.origin["data"])))
    if "migrated" in model.origin:
        way = model.origin["migrated"].get("way")
        told = "their embeddings mapped" if way == "map" else "its known items encoded anew"
        facts.append(("migrated", f"from an encoder before, {told}"))
    parts = [f"# {_plain(name)}", "", "A model of likewise: which known thing an item is, or none."]
    parts += ["", *_table(("", ""), facts)]
    parts += ["", "## Operating points", ""]
    if model.calibrations:
        parts += _points(model.calibrations)
        for point, made in model.calibrations.items():
            parts += ["", f"**{_plain(point)}**: {_said(made, len(model.index))}"]
    else:
        parts.append("The model is not calibrated: it tells distances, and decides nothing.")
    parts += ["", "## Evaluation", ""]
    if kept is None:
        parts.append("Not evaluated. `likewise evaluate MODEL DATA --card` adds the numbers.")
    else:
        parts.append(
            f"On {_plain(kept.data)}: {kept.items:,} items; {kept.left_out:,} more were left out, "
            "as they are known or were trained on. 95% intervals."
        )
        if kept.model != mark:
            parts += ["", "The model was saved again since; evaluate it again."]
        parts += ["", *_table(("measure", "value"), kept.rows)]
    if recipe:
        parts += ["", "## Recipe", "", *_table(("choice", "value"), recipe.items())]
    parts += [
        "",
        "## Use",
        "",
        "```python",
        "import likewise as lw",
        "",
        f"model = lw.from_pretrained({name!r})  # a folder, or a name on the Hugging Face hub",
        "model.match(items).names",
        "```",
        "",
    ]
    return "\n".join(parts)


def _points(points: dict[str, Calibration]) -> list[str]:
    rows = []
    for name, made in points.items():
        first, second = made.false_positive_rate, made.false_negative_rate
        if first is None:
            first = made.false_accept_rate
            second = None
        rows.append(
            (
                name,
                made.rule if made.k is None else f"{made.rule}, k = {made.k}",
                f"{made.threshold:.4g}",
                made.goal,
                str(first),
                "" if second is None else str(second),
            )
        )
    heads = ("point", "rule", "threshold", "goal", "falsely accepted", "falsely rejected")
    return _table(heads, rows)


def _said(made: Calibration, size: int) -> str:
    said = (
        "guarantees nothing; its rates were measured when it was calibrated."
        if made.guaranteed is None
        else f"guaranteed: {made.guaranteed}."
    )
    outgrown = made.outgrown(size) if size else None
    return said if outgrown is None else f"{said} But the {outgrown}"


def _kept(place: Path) -> Kept | None:
    path = place / EVALUATION
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(read_regular(path, LARGEST), type=Kept)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(
            f"evaluation must be whole, got {str(path)!r} damaged. Evaluate again, or remove it."
        ) from error


def _table(heads: Sequence[str], rows: Any) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(_plain(str(cell)) for cell in row)} |" for row in lines]


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - MOST_CLASSES:,} more" if len(names) > MOST_CLASSES else ""
    return ", ".join(names[:MOST_CLASSES]) + more


def _plain(text: str) -> str:
    """Text that stays itself in Markdown: on one line, and no markup."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    for mark in "\\|<>*_`[]":
        shown = shown.replace(mark, f"\\{mark}")
    return shown
