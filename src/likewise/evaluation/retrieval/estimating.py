"""Scores of queries, and the intervals of their means."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import bdtr, bdtrik, stdtrit
from torch import Tensor

from likewise import intervals, metrics
from likewise.intervals import Estimate

FROM_FIRST = (1.0, math.inf)  # what a rank can be


def scores_of(
    relevant: Bool[Tensor, "q k"],
    relevant_total: Int[Tensor, " q"],
    rank: Int[Tensor, " q"],
    ks: Sequence[int],
) -> dict[str, Float[Tensor, " q"]]:
    """Every score of each query by name, and last the rank of its nearest relevant reference."""
    found = {
        "precision_at_1": metrics.precision_at(relevant, 1),
        "r_precision": metrics.r_precision(relevant, relevant_total),
        "map_at_r": metrics.average_precision_at_r(relevant, relevant_total),
        "reciprocal_rank": 1 / rank.double(),
    }
    for k in ks:
        found[f"recall_at_{k}"] = metrics.recall_at(relevant, k)
        found[f"share_found_at_{k}"] = metrics.share_found_at(relevant, relevant_total, k)
        found[f"precision_at_{k}"] = metrics.precision_at(relevant, k)
        found[f"map_at_{k}"] = metrics.average_precision_at(relevant, relevant_total, k)
        found[f"ndcg_at_{k}"] = metrics.ndcg_at(relevant, relevant_total, k)
    return {**found, "rank": rank.double()}


def over_queries(values: Float[Tensor, " q"], name: str) -> Estimate:
    """The mean of a score (or rank) over queries, which are taken as independent."""
    if name == "rank":
        return intervals.mean(values, within=FROM_FIRST)
    if bool(((values == 0) | (values == 1)).all()):
        return intervals.binomial(int(values.sum()), len(values))
    return intervals.mean(values, within=intervals.A_RATE)


def over_classes(
    values: Float[Tensor, " q"], query_class: Int[Tensor, " q"], name: str
) -> Estimate:
    """The mean over classes of the class's mean; queries are taken as independent.

    A mean of queries that weigh as much as 1 / the size of their class, with as many degrees of
    freedom as the weights are worth (Kish): the plain mean's where all classes are of one size.
    """
    sizes = query_class.bincount()
    weight = 1 / (int((sizes > 0).sum()) * sizes[query_class].double())
    value = float((weight * values).sum())
    worth = 1 / float(weight.square().sum())
    squares = float((weight * (values - value)).square().sum())
    if worth - 1 < 1e-9 or squares <= 1e-24 * max(1.0, value) ** 2:
        why = "no interval: all queries score the same"
        return Estimate(value, math.nan, math.nan, why)
    reach = float(stdtrit(worth - 1, 0.975)) * math.sqrt(squares * worth / (worth - 1))
    least, most = FROM_FIRST if name == "rank" else intervals.A_RATE
    method = (
        f"95% Student t over {len(values)} values taken as independent, each class of the same "
        "weight"
    )
    return Estimate(value, max(value - reach, least), min(value + reach, most), method)


def over_queries_and_classes(
    per_query: Mapping[str, Float[Tensor, " q"]], query_class: Int[Tensor, " q"]
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Micro and macro means of every score, by name."""
    micro = {name: over_queries(values, name) for name, values in per_query.items()}
    macro = {name: over_classes(per_query[name], query_class, name) for name in per_query}
    return micro, macro


def ranks_of(
    rank: Float[Tensor, " q"], mean: Estimate, classes_as_sample: bool
) -> dict[str, Estimate]:
    """Mean, median and worst rank."""
    values = np.sort(rank.numpy())
    median = Estimate(
        float(np.median(values)),
        math.nan,
        math.nan,
        "no interval: leaving out classes does not tell how a median varies",
    )
    if not classes_as_sample:
        # The most values that may lie below so that at most 2.5% of samples have as few.
        below = math.floor(float(bdtrik(0.025, len(values), 0.5)) + 1e-9)
        if below >= 0 and bdtr(below, len(values), 0.5) <= 0.025:
            low, high = float(values[below]), float(values[-1 - below])
            method = f"95% exact for a median, {len(values)} values taken as independent"
        else:
            low = high = math.nan
            method = "no interval: there are too few values"
        median = Estimate(median.value, low, high, method)
    worst = Estimate(
        float(values[-1]),
        math.nan,
        math.nan,
        "no interval: the worst of all grows with the number of queries",
    )
    return {"mean": mean, "median": median, "worst": worst}
