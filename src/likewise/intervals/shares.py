"""Shares of cases, and F1, with exact binomial intervals."""

import math

from scipy.special import betaincinv

from likewise._checks import check_count
from likewise.errors import InputError
from likewise.intervals.estimate import Estimate, check_confidence, without_interval


def binomial(successes: int, total: int, *, confidence: float = 0.95) -> Estimate:
    """The share successes / total with its exact (Clopper-Pearson) interval.

    Cases are taken as independent. The interval covers the true share with at least
    `confidence`, whatever the share, and has a width even for 0 or all successes. With a
    total of 0, value and bounds are nan.

    Args:
        successes: how many cases went well, 0 to total.
        total: how many cases there were.
        confidence: between 0 and 1, exclusive.

    Raises:
        InputError: for more successes than cases, or a confidence outside (0, 1).

    Source:
        Clopper & Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case
        of the Binomial", Biometrika 1934.

    Example:
        >>> print(binomial(9, 10))
        0.900 [0.555, 0.997]
    """
    check_count("total", total, least=0)
    check_count("successes", successes, least=0)
    check_confidence(confidence)
    if successes > total:
        raise InputError(f"successes must be at most the total of {total}, got {successes}.")
    if total == 0:
        return without_interval(math.nan, "there are no cases")
    tail = (1 - confidence) / 2
    failures = total - successes
    low = 0.0 if successes == 0 else float(betaincinv(successes, failures + 1, tail))
    high = 1.0 if failures == 0 else float(betaincinv(successes + 1, failures, 1 - tail))
    method = f"{confidence:.0%} exact binomial (Clopper-Pearson), cases taken as independent"
    return Estimate(successes / total, low, high, method)


def f1(hits: int, failures: int, double_failures: int = 0, *, confidence: float = 0.95) -> Estimate:
    """The F1 of counts, 2 hits / (2 hits + failures + 2 double_failures), with its interval.

    F1 rises with the share of hits among hits and failures, and that share is binomial, so
    its Clopper-Pearson bounds carry over. That is exact when no failure can be double; else
    the share of double ones among the failures is held at the one observed (none, if nothing
    failed). With no hit and no failure, value and bounds are nan.

    Args:
        hits: right answers (true positives).
        failures: cases that are a wrong answer or a missing one.
        double_failures: cases that are both, a wrong answer where a right one existed;
            they count in precision and in recall.
        confidence: between 0 and 1, exclusive.

    Raises:
        InputError: for a negative count, or a confidence outside (0, 1).

    Example:
        >>> print(f1(90, 20))
        0.900 [0.846, 0.939]
    """
    check_count("hits", hits, least=0)
    check_count("failures", failures, least=0)
    check_count("double_failures", double_failures, least=0)
    wrong = failures + double_failures
    share = binomial(hits, hits + wrong, confidence=confidence)
    if hits + wrong == 0:
        return share
    weight = (failures + 2 * double_failures) / wrong if wrong else 1.0

    def of(p: float) -> float:
        return 2 * p / (2 * p + weight * (1 - p))

    method = (
        f"{confidence:.0%} exact binomial (Clopper-Pearson) of hits among hits and failures, "
        "turned into F1, cases taken as independent"
    )
    return Estimate(of(share.value), of(share.low), of(share.high), method)
