"""Figures and pages as files: a whole new file, or the old one untouched."""

import io
import os
import warnings
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from likewise._checks import check_choice
from likewise._files import write_whole
from likewise.plots.style import STYLE

_METADATA: dict[str, dict[str, str | None]] = {
    ".png": {"Software": "likewise"},
    ".svg": {"Date": None},  # a date would make equal figures different files
    ".pdf": {"CreationDate": None},
}


def save(figure: Figure, path: str | os.PathLike[str], *, dots_per_inch: int = 200) -> Path:
    """The path of the figure's new PNG, SVG or PDF file, as its suffix says.

    The file appears whole: it is written beside its place and then moved there, so a full disk
    leaves what was there before.

    Args:
        figure: any matplotlib figure.
        path: ends in .png, .svg or .pdf; its folder exists.
        dots_per_inch: resolution of a PNG.

    Raises:
        InputError: for another suffix.
        FileNotFoundError: if the folder does not exist.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> from likewise import plots
        >>> figure = plots.items_per_class({"cat": 3, "dog": 5})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plots.save(figure, f"{folder}/classes.png").name
        'classes.png'
    """
    path = Path(path)
    suffix = path.suffix.lower()
    check_choice("suffix of path", suffix, _METADATA)
    write_whole(path, image_bytes(figure, suffix, dots_per_inch=dots_per_inch))
    return path


def image_bytes(figure: Figure, suffix: str = ".png", *, dots_per_inch: int = 200) -> bytes:
    """The figure as the content of a .png, .svg or .pdf file."""
    content = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes; no reason to fail.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(content, format=suffix[1:], dpi=dots_per_inch, metadata=_METADATA[suffix])
    return content.getvalue()
