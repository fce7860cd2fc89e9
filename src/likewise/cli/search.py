"""What `likewise evaluate` tells with --relevance and with --protocol."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from likewise import data
from likewise.cli.answers import Answer
from likewise.cli.console import columns
from likewise.errors import InputError
from likewise.evaluation import evaluate_benchmark
from likewise.journeys.search import judge_search
from likewise.model import SimilarityModel

Progress = Callable[[int, int], None]


def check_options(
    relevance: Path | None,
    protocol: bool,
    ks: Sequence[int] | None,
    report: Path | None,
    point: str | None,
    split: str | None,
) -> None:
    """Refuse options that do not go together."""
    if ks and relevance is None:
        raise InputError("must come with --relevance, got no table.", argument="ks")
    name = "protocol" if protocol else "relevance"
    others = {"--report": report, "--point": point}
    if protocol:
        others |= {"--relevance": relevance, "--split": split}
    for option, given in others.items():
        if given is not None:
            raise InputError(
                f"must be given without {option}, got both. Leave one out.", argument=name
            )


def search_answer(
    model: SimilarityModel,
    queries: data.Dataset,
    relevance: Path,
    ks: Sequence[int] | None,
    progress: Progress,
) -> Answer:
    """The scores of a search, and what was left out of them."""
    found = judge_search(model, queries, relevance, ks=ks or None, progress=progress)
    search = found.search
    lines = columns([[name, str(value)] for name, value in search.headline()])
    said = f"{search.queries} queries, the {search.ranks} nearest items of each"
    counts = (
        (found.known, "left out, indexed or trained on"),
        (search.left_out, "without a relevant item"),
        (search.not_asked, "of the table not among them"),
    )
    lines.append(said + "".join(f"; {count} {what}" for count, what in counts if count))
    if found.not_indexed:
        lines.append(f"{found.not_indexed} relevant items are not indexed and count as missed")
    return found.to_dict(), lines


def benchmark_answer(model: SimilarityModel, source: str, progress: Progress) -> Answer:
    """The scores of a model on a published benchmark, and whether it was trained on its classes."""
    model.check_one_tower("a benchmark")
    found = evaluate_benchmark(
        functools.partial(model.embed, progress=progress),
        source,
        preprocess=model.preprocess,
        distance=model.compared_by,
    )
    rows: list[tuple[str, Any]] = [
        *((f"recall at {k}", value) for k, value in found.recall_at_k.items()),
        ("R-precision", found.r_precision),
        ("MAP at R", found.map_at_r),
    ]
    lines = columns([[name, str(value)] for name, value in rows])
    lines.append(f"{found.queries} queries; {found.left_out} without an item to find")
    test = data.load(source, split="test", image_size=1, channels=1)
    trained = sorted(set(data.items_per_class(test)) & set(model.trained_on))
    if trained:
        lines.append(f"{len(trained)} of its test classes were trained on, as no paper does")
    return {**found.to_dict(), "test_classes_trained_on": len(trained)}, lines
