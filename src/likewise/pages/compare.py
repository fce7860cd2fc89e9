"""The page of two models side by side."""

from pathlib import Path
from typing import Any

from likewise import plots
from likewise.evaluation.comparison import compare_classes
from likewise.journeys.compare import Compared, comparison_table
from likewise.pages.writing import Section, write_page
from likewise.plots.comparison import differences


def comparison_page(
    path: Path, found: Compared, *, title: str | None = None, source: str | None = None
) -> Path:
    """Write the report of a comparison."""
    a, b = found.names
    first, second = (judged.verification for judged in found.judged)
    sweeps = {a: first.sweep, b: second.sweep}
    gaps = {name: one.difference for name, one in found.comparison.measures.items()}
    told = {name: name.replace("_", " ") for name in gaps}
    retrieval = [judged.retrieval for judged in found.judged]
    by_class = compare_classes(retrieval[0], retrieval[1], "map_at_r")
    classes = {found.items.class_names[code]: gap for code, gap in by_class.items()}
    sections = [
        Section(
            "Verdict",
            "\n\n".join([found.comparison.verdict, *found.biased, *found.without_intervals])
            + f"\n\nThe intervals and p-values are for new "
            f"{found.holds_for}: each is of the difference on the same {found.comparison.compared}."
            " A p-value tells how often a difference so far from 0 would come about by chance; "
            "adjusted, it holds for all measures at once.",
            table=comparison_table(found),
            figures=[
                differences(
                    {told[name]: gap for name, gap in gaps.items()},
                    names=found.names,
                    ahead={told[n]: one.ahead for n, one in found.comparison.measures.items()},
                    smaller_is_better={told[name] for name in found.smaller_is_better},
                )
            ],
        ),
        Section(
            "Verification",
            f"{first.same_total} pairs of the same class and {first.different_total} of "
            "different classes, the same for both models.",
            figures=[plots.roc(sweeps), plots.det(sweeps)],
        ),
        Section(
            "Class by class",
            "The difference in MAP at R for the queries of each class. Each interval is of its "
            "class alone and of new queries, so of many classes some stand out by chance.",
            figures=[differences(classes, names=found.names, title="MAP at R by class")],
        ),
    ]
    settings = {
        **({} if source is None else {"compared on": source}),
        "items": len(found.items),
        "seed": found.seed,
        **{
            f"{name}: {key}": value
            for name, model in zip(found.names, found.models, strict=True)
            for key, value in {**model.origin, "distance": model.distance.name}.items()
            if key != "history" and value is not None
        },
    }
    facts: list[tuple[str, Any]] = [("items new to both", len(found.items))]
    for measure in ("retrieval map_at_r", "verification roc_auc", "matching accuracy"):
        if measure in gaps:
            one = found.comparison.measures[measure]
            facts += [(f"{told[measure]}, {a}", one.a), (f"{told[measure]}, {b}", one.b)]
    if title is None:
        title = f"{a} and {b}" if source is None else f"{a} and {b} on {source}"
    return write_page(path, title=title, facts=facts, sections=sections, settings=settings)
