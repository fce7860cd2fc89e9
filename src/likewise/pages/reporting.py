"""`report`: the page of an evaluation or of a comparison."""

from pathlib import Path

from likewise._arguments import check_file_target
from likewise.errors import InputError, InputTypeError
from likewise.journeys.compare import Compared
from likewise.model import Evaluation, SimilarityModel
from likewise.pages.compare import comparison_page
from likewise.pages.evaluate import evaluation_page


def report(
    found: Evaluation | Compared,
    path: str | Path,
    *,
    model: SimilarityModel | None = None,
    title: str | None = None,
    source: str | None = None,
) -> Path:
    """Write one HTML page with every number, its interval, and the pictures; the path.

    The same page as `likewise evaluate --report` and `likewise compare --report` write. It holds
    all that it shows, so that it can be mailed. Only the items that it shows are read again.

    Args:
        found: What `model.evaluate` or `journeys.compare.compare_models` gave.
        path: Path of the page; its folder exists.
        model: The model that was evaluated. A comparison holds its own.
        title: Title of the page.
        source: Name of the data, for the page to tell.

    Raises:
        InputError: The model of an evaluation is missing, or that of a comparison is given; or the
            path cannot be that of a file.

    Example:
        >>> import tempfile
        >>> import likewise as lw
        >>> digits = lw.data.load("digits", split="train")
        >>> model = lw.SimilarityModel(lw.encoders.MLPEncoder(digits.item_shape))
        >>> few = lw.data.sample_items(digits, per_class=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = lw.report(model.evaluate(few), f"{folder}/report.html", model=model)
        ...     "<h1>Evaluation</h1>" in page.read_text(encoding="utf-8")
        True
    """
    path = Path(path)
    check_file_target("path", path)
    if isinstance(found, Compared):
        if model is not None:
            raise InputError(
                "must be left out for a comparison, which holds its models, got one.",
                argument="model",
            )
        return comparison_page(path, found, title=title, source=source)
    if not isinstance(found, Evaluation):
        raise InputTypeError(
            "found must be what model.evaluate or compare_models gave, got "
            f"{type(found).__name__}. For another result use lw.show."
        )
    if model is None:
        raise InputError(
            "must be the one that was evaluated, got none. Use report(found, path, model=model).",
            argument="model",
        )
    return evaluation_page(path, model, found, title=title, source=source)
