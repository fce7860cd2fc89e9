"""`compare`: two models on the same queries or pairs; `compare_runs`: two recipes over seeds."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from likewise import intervals, metrics
from likewise._checks import as_tensor, check_choice, check_finite
from likewise.errors import InputError, InputTypeError
from likewise.evaluation._labeled import kept, labeled
from likewise.evaluation.comparison import paired
from likewise.evaluation.comparison.comparison_result import Comparison, Found, finished
from likewise.evaluation.judged_search import SearchResult
from likewise.evaluation.matching import MatchingResult
from likewise.evaluation.repetition import Repeated
from likewise.evaluation.retrieval import RetrievalResult
from likewise.evaluation.verifying import PARTS_OF_ITEMS, VerificationResult
from likewise.intervals import A_RATE, ANYWHERE, FEWEST_GROUPS, Estimate

# Of measures that are called so, or end so: "unseen.loss" is a loss.
SMALLER_IS_BETTER = frozenset(
    {"error_rate", "false_accept_rate", "false_reject_rate", "loss", "seconds"}
    | {"rank", "rank.mean", "rank.median", "rank.worst"}
)
Scores = Mapping[str, Num[Tensor, " q"]]
Judged = RetrievalResult | SearchResult | MatchingResult | VerificationResult | Scores
Runs = Repeated | Mapping[str, Sequence[float]] | Sequence[float]


def compare(
    a: Judged,
    b: Judged,
    *,
    names: tuple[str, str] = ("A", "B"),
    measures: Iterable[str] | None = None,
    labels: Int[Tensor, " q"] | None = None,
    classes_as_sample: bool = False,
    smaller_is_better: Collection[str] = SMALLER_IS_BETTER,
) -> Comparison:
    """The differences of two models judged on the same queries or pairs, with their intervals.

    What is easy for one model is mostly easy for the other, so differences are surer than two
    intervals side by side tell. Each is tested by the method of its interval, and the interval
    misses 0 exactly when the p-value is below 0.05:

    - scores of queries: Student t over the queries' differences. Where all scores are 0 or 1,
      the exact test of McNemar, and an interval from the exact ones of how many queries the
      models differ on and of the share of these that the first has right.
    - the same with `classes_as_sample`: Student t over classes left out, for new classes. Of
      retrieval results a class goes as queries and as references; of other scores as queries.
    - verification: Student t over items left out, as in `evaluate_verification`; over classes,
      if these were its items.

    No difference in any query or part gives a p-value of 1, one that is equal in all, where
    Student's t has nothing to go by, nan. Several measures are tested at once, so the verdict
    goes by p-values adjusted for their number (Holm).

    Args:
        a: results of `evaluate_retrieval`, `evaluate_search`, `evaluate_matching` or
            `evaluate_verification`, or numbers of your own, a tensor (q,) by name with one for
            each query.
        b: the same of the other model.
        names: what the two go by in the verdict.
        measures: Measures to compare; all that both have if None. Fewer leave each a smaller
            adjustment.
        labels: class codes of the queries of numbers of your own, (q,); queries labeled -1 are
            left out.
        classes_as_sample: claim about new classes instead of new queries; of retrieval results
            only if both were evaluated so. Fewer than 10 classes give no intervals.
        smaller_is_better: measures where the smaller number is ahead.

    Raises:
        InputTypeError: for two different kinds of results.
        InputError: if the two are not of the same queries or pairs; for verification without
            items; for `classes_as_sample` without labels.

    Source:
        McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions",
        Psychometrika 1947. Zou & Donner, "Construction of Confidence Limits about Effect
        Measures", Statistics in Medicine 2008, for the interval from two. Holm, "A Simple
        Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 1979.

    Example:
        >>> right = {"correct": torch.tensor([1, 1, 1, 1, 1, 1, 1, 1, 0, 0])}
        >>> wrong = {"correct": torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 0, 0])}
        >>> compare(right, wrong).verdict
        'A is ahead on correct by 0.700 [0.123, 0.933], p = 0.016.'
    """
    if isinstance(a, VerificationResult) and isinstance(b, VerificationResult):
        if classes_as_sample:
            raise InputError(
                "classes_as_sample must be left off for verification, got True. What is left out "
                "are its items: evaluate both with the classes of the pairs as items."
            )
        found = _of_pairs(a, b)
        found = {name: found[name] for name in _chosen(measures, found)}
        compared = f"{len(a.same)} pairs"
    elif type(a) is type(b) or (isinstance(a, Mapping) and isinstance(b, Mapping)):
        one, other = _queries(a, labels), _queries(b, labels)
        _check_same_queries(one, other)
        shared = _shared(one.scores, other.scores)
        chosen = _chosen(measures, shared)
        found = (_of_classes if classes_as_sample else _of_queries)(one, other, chosen)
        compared = f"{len(one.scores[shared[0]])} queries"
    else:
        raise InputTypeError(
            f"b must be of the kind of a, {type(a).__name__}, got {type(b).__name__}. "
            "Evaluate both in the same way."
        )
    return finished(names, compared, found, smaller_is_better)


def compare_runs(
    a: Runs,
    b: Runs,
    *,
    names: tuple[str, str] = ("A", "B"),
    smaller_is_better: Collection[str] = SMALLER_IS_BETTER,
) -> Comparison:
    """The differences of two recipes over seeds: Student t over the differences of each seed.

    The claim is about new seeds on the same data. Equal values in every run have no interval and
    a p-value of 1; values that differ by the same in every run have a p-value of nan.

    Args:
        a: what `repeat` gave, or the values of the runs, by name or of one number alone.
        b: the same of the other recipe, the seeds in the same order.
        names: what the two go by in the verdict.
        smaller_is_better: numbers where the smaller one is ahead.

    Raises:
        InputError: for other seeds, another number of runs, or no name that both have.

    Example:
        >>> print(compare_runs([0.91, 0.93, 0.92], [0.88, 0.91, 0.87]).verdict)
        No difference is established on value.
    """
    if isinstance(a, Repeated) and isinstance(b, Repeated) and list(a.seeds) != list(b.seeds):
        raise InputError(
            f"b must be of the same seeds as a, {list(a.seeds)}, got {list(b.seeds)}. "
            "Runs are paired by their seed."
        )
    one, other = _run_values(a), _run_values(b)
    found = {}
    for name in _shared(one, other):
        runs = len(one[name])
        if runs != len(other[name]):
            raise InputError(
                f"b must hold as many runs as a, {runs}, got {len(other[name])}. "
                "Run both with the same seeds."
            )
        tested = paired.of_values(one[name] - other[name])
        found[name] = intervals.mean(one[name]), intervals.mean(other[name]), tested
    return finished(names, f"{runs} runs", found, smaller_is_better)


def compare_classes(
    a: RetrievalResult | MatchingResult | Scores,
    b: RetrievalResult | MatchingResult | Scores,
    measure: str,
    *,
    labels: Int[Tensor, " q"] | None = None,
) -> dict[int, Estimate]:
    """The difference a - b of one measure for each class among the queries, by class code.

    Each interval is of its class alone, as `compare` makes it. Of many classes some will miss 0
    by chance.

    Raises:
        InputError: if the two are not of the same queries, or without labels.
    """
    one, other = _queries(a, labels), _queries(b, labels)
    _check_same_queries(one, other)
    check_choice("measure", measure, _shared(one.scores, other.scores))
    truth = one.labels
    if truth is None:
        raise InputError("labels must be given for differences by class, got none.")
    columns = one.scores[measure], other.scores[measure]
    return {
        code: paired.of_scores(*(scores[truth == code] for scores in columns))[0]
        for code in torch.unique(truth).tolist()
    }


class _Queries(NamedTuple):
    scores: Mapping[str, Float[Tensor, " q"]]
    counted: Int[Tensor, " q"] | None = None
    labels: Int[Tensor, " q"] | None = None
    without_classes: Mapping[str, Float[Tensor, " parts"]] | None = None


def _queries(result: object, labels: Tensor | None) -> _Queries:
    if isinstance(result, RetrievalResult):
        return _Queries(
            result.per_query, result.counted, result.query_labels, result.without_classes
        )
    if isinstance(result, SearchResult):
        return _Queries(result.per_query, result.counted)
    if isinstance(result, MatchingResult):
        return _Queries({"accuracy": result.right.double()}, None, result.truth)
    if not isinstance(result, Mapping) or not result:
        raise InputError(
            "a and b must be results, or scores of queries by name, got "
            f"{type(result).__name__}. "
            'Give e.g. {"correct": tensor of 0 and 1}.'
        )
    scores: dict[str, Float[Tensor, " q"]] = {}
    for name, values in result.items():
        values = as_tensor(values, name)
        if not isinstance(values, Tensor) or values.ndim != 1 or not len(values):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InputError(f"{name} must be a tensor of shape (q,), one per query, got {got}.")
        check_finite(values, name)
        first, count = next(((n, len(v)) for n, v in scores.items()), (name, len(values)))
        if len(values) != count:
            raise InputError(
                f"{name} must have as many queries as {first}, {count}, got {len(values)}. "
                "Judge all on the same queries."
            )
        scores[name] = values.detach().cpu().double()
    labels = as_tensor(labels, "labels")
    if labels is not None:
        (*columns, labels) = kept(
            labeled(labels, len(next(iter(scores.values())))), *scores.values(), labels.cpu()
        )
        scores = dict(zip(scores, columns, strict=True))
    return _Queries(scores, None, labels)


def _check_same_queries(a: _Queries, b: _Queries) -> None:
    (name, *_) = _shared(a.scores, b.scores)
    counts = len(a.scores[name]), len(b.scores[name])
    others = [
        of_a is not None and of_b is not None and not torch.equal(of_a, of_b)
        for of_a, of_b in ((a.counted, b.counted), (a.labels, b.labels))
    ]
    if counts[0] != counts[1] or any(others):
        raise InputError(
            f"b must be of the same queries as a, {counts[0]}, got {counts[1]} that are not the "
            "same. Judge both models on the same items in the same order."
        )


def _shared(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    names = [name for name in a if name in b]
    if not names:
        raise InputError(
            f"b must have a measure that a has, such as {next(iter(a))}, got {', '.join(b)}."
        )
    return names


def _chosen(measures: Iterable[str] | None, known: Iterable[str]) -> list[str]:
    if measures is None:
        return list(known)
    chosen = list(measures)
    if isinstance(measures, str) or not chosen:
        raise InputError(
            f"measures must be names, at least one, got {measures!r}. "
            f"Use e.g. [{next(iter(known))!r}]."
        )
    for name in chosen:
        check_choice("measures", name, known)
    return chosen


def _of_queries(a: _Queries, b: _Queries, names: Iterable[str]) -> dict[str, Found]:
    found = {}
    for name in names:
        of_a, of_b = a.scores[name], b.scores[name]
        found[name] = _value(of_a), _value(of_b), paired.of_scores(of_a, of_b)
    return found


def _of_classes(a: _Queries, b: _Queries, names: Iterable[str]) -> dict[str, Found]:
    classes = a.labels
    if classes is None:
        raise InputError(
            "labels must be given with classes_as_sample, got none. Give the class codes of the "
            "queries, or leave classes_as_sample off."
        )
    count = len(torch.unique(classes))
    found: dict[str, Found] = {}
    for name in names:
        of_a, of_b = a.scores[name], b.scores[name]
        if count < FEWEST_GROUPS:
            values = float(of_a.mean()), float(of_b.mean())
            one, other = (intervals.too_few(value, count) for value in values)
            found[name] = one, other, paired.of_few(values[0] - values[1], count)
            continue
        if a.counted is None:  # other scores than of retrieval do not hang on the other classes
            tested = paired.of_groups(of_a - of_b, classes)
            found[name] = _value(of_a, classes), _value(of_b, classes), tested
            continue
        if a.without_classes is None or b.without_classes is None:
            raise InputError(
                "a and b must be evaluated with classes_as_sample=True to compare them so, got "
                "results without. Classes are left out as references, too."
            )
        whole_a, whole_b = float(of_a.mean()), float(of_b.mean())
        parts_a, parts_b = a.without_classes[name], b.without_classes[name]
        found[name] = (
            intervals.from_left_out(whole_a, parts_a, within=_range(of_a)),
            intervals.from_left_out(whole_b, parts_b, within=_range(of_b)),
            paired.of_parts(whole_a - whole_b, parts_a - parts_b),
        )
    return found


def _of_pairs(a: VerificationResult, b: VerificationResult) -> dict[str, Found]:
    items = _same_pairs(a, b)
    values = {
        "roc_auc": (a.roc_auc, b.roc_auc),
        "equal_error_rate": (a.equal_error_rate, b.equal_error_rate),
    }
    if a.at_threshold is not None and b.at_threshold is not None:
        values["accuracy"] = (a.at_threshold["accuracy"], b.at_threshold["accuracy"])

    def differences(keep: Bool[Tensor, " 2p"]) -> list[float]:
        # The two are sorted by their own distances; parts are those of the items, not of rows.
        pairs = zip(*map(_pair_numbers, (a, b), keep.chunk(2)), strict=True)
        return [of_a - of_b for of_a, of_b in pairs][: len(values)]

    tested = paired.of_left_out(differences, items, most_groups=PARTS_OF_ITEMS)
    return {name: (*values[name], of) for name, of in zip(values, tested, strict=True)}


def _pair_numbers(result: VerificationResult, keep: Bool[Tensor, " p"]) -> list[float]:
    (kept,) = torch.where(keep)
    distances, same = result.distances[kept], result.same[kept]
    if bool(same.all()) or not bool(same.any()):
        return [math.nan] * 3
    counts = metrics.sweep(distances, same)
    threshold = math.nan if result.threshold is None else result.threshold
    right = ((distances <= threshold) == same).double().mean()
    return [metrics.roc_auc(counts), metrics.equal_error_rate(counts), float(right)]


def _same_pairs(a: VerificationResult, b: VerificationResult) -> Int[Tensor, "2p s"]:
    """The items of both, one below the other."""
    if a.items is None or b.items is None:
        raise InputError(
            "a and b must be evaluated with items to be compared, got none. Give "
            "evaluate_verification items=, or items=torch.arange(p) if pairs share nothing."
        )
    rows = [torch.cat([r.items, r.same[:, None]], dim=1) for r in (a, b) if r.items is not None]
    rows = [row[np.lexsort(row.T.numpy())] for row in rows]  # distances have sorted them otherwise
    if not torch.equal(*rows):
        raise InputError(
            f"b must be of the same pairs as a, {len(a.same)}, got {len(b.same)} that are not the "
            "same. Judge both models on the same pairs, with the same items."
        )
    return torch.cat([a.items, b.items])


def _run_values(runs: Runs) -> dict[str, Float[Tensor, " r"]]:
    given = runs.values if isinstance(runs, Repeated) else runs
    if not isinstance(given, Mapping):
        given = {"value": given}
    if not given:
        raise InputError("a and b must hold at least one measure, got none. Give what repeat gave.")
    values = {}
    for name, row in given.items():
        try:
            values[name] = torch.as_tensor(row, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            values[name] = torch.empty(0)
        if values[name].ndim != 1 or not len(values[name]):
            raise InputError(
                f"{name} must be numbers, one per run and at least one, got {row!r}. "
                "Give what repeat gave, or a list."
            )
        check_finite(values[name], name)
    if len({len(row) for row in values.values()}) != 1:
        raise InputError(
            "a and b must have the same number of runs for every measure, got "
            f"{ {name: len(row) for name, row in values.items()} }. Run all with the same seeds."
        )
    return values


def _value(scores: Tensor, groups: Tensor | None = None) -> Estimate:
    if groups is None and bool(((scores == 0) | (scores == 1)).all()):
        return intervals.binomial(int(scores.sum()), len(scores))
    return intervals.mean(scores, groups=groups, within=_range(scores))


def _range(scores: Tensor) -> tuple[float, float]:
    return A_RATE if bool(((scores >= 0) & (scores <= 1)).all()) else ANYWHERE
