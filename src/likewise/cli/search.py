"""What `likewise evaluate --relevance` tells of a search."""

from likewise.cli.answers import Answer
from likewise.cli.console import columns
from likewise.journeys.search import JudgedSearch


def answer(found: JudgedSearch) -> Answer:
    """The scores, and what was left out of them."""
    search = found.search
    lines = columns([[name, str(value)] for name, value in search.headline()])
    said = f"{search.queries} queries, the {search.ranks} nearest items of each"
    counts = (
        (found.known, "left out, indexed or trained on"),
        (search.left_out, "without a relevant item"),
        (search.not_asked, "of the table not among them"),
    )
    said += "".join(f"; {count} {what}" for count, what in counts if count)
    lines.append(said)
    if found.not_indexed:
        lines.append(f"{found.not_indexed} relevant items are not indexed and count as missed")
    return found.to_dict(), lines
