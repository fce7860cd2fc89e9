"""A sheet of items: boxes, words and frames at given places, for the pictures of items."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from likewise.errors import InputError
from likewise.plots.style import (
    NEUTRAL,
    NOTE_SIZE,
    RIGHT,
    WRONG,
    canvas,
    fit,
    fit_middle,
    line_height,
)

CELL = 0.82  # inches, the side of an item
GAP = 0.14
TEXT_WIDTH = CELL + GAP - 0.03
LINE = line_height(NOTE_SIZE)
_IMAGE_SUFFIXES = {"png", "jpg", "jpeg", "bmp", "pgm"}


class Sheet:
    """A figure on which boxes and words stand where they are put.

    Places are in inches, from the left edge and down from the end of the title strip.
    """

    def __init__(self, height: float, title: str, note: str = "", *, width: float) -> None:
        self.figure = canvas(height, title, note, width=width, arrange=False)
        self._height = height

    def box(self, left: float, top: float, side: float = CELL) -> Axes:
        width, total = self.figure.get_size_inches()
        bottom = self._height - top - side
        return self.figure.add_axes((left / width, bottom / total, side / width, side / total))

    def words(
        self, left: float, top: float, lines: Sequence[tuple[str, str]], width: float = TEXT_WIDTH
    ) -> None:
        """Lines of (text, color), one below the other, cut to `width`."""
        total_width, total = self.figure.get_size_inches()
        for row, (text, color) in enumerate(lines):
            y = self._height - top - 0.05 - row * LINE
            self.figure.text(
                left / total_width,
                y / total,
                fit(text, width, NOTE_SIZE),
                color=color,
                fontsize=NOTE_SIZE,
                va="top",
            )


def verdict(agrees: bool | None) -> tuple[str, str]:
    """Frame color and mark; a mark too, as red and green look alike to some."""
    if agrees is None:
        return NEUTRAL, ""
    return (RIGHT, "✓ ") if agrees else (WRONG, "✗ ")


def short_name(name: object, width: float = TEXT_WIDTH) -> str:
    """Of an image's path the bare file name; of a long name both ends."""
    word = str(name).rstrip("/").rpartition("/")[2]
    stem, dot, suffix = word.rpartition(".")
    if dot and suffix.lower() in _IMAGE_SUFFIXES:
        word = stem
    return fit_middle(word, width, NOTE_SIZE)


def some(drawn: int, count: int) -> str:
    return f"{drawn} of {count}" if drawn < count else str(count)


def check_names(names: Sequence[object] | None, count: int, argument: str, noun: str) -> None:
    if names is not None and len(names) != count:
        raise InputError(
            f"{argument} must have {count} entries, one per {noun}, got {len(names)}. "
            "Leave it out if there are no names."
        )
