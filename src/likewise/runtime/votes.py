"""From neighbors to one label and one distance per query, in NumPy: the rules of `matching`."""

import numpy as np

from likewise.runtime.answers import UNKNOWN, Codes, Numbers

RULES = ("center", "majority", "nearest", "weighted")


def decided(rule: str, labels: Codes, distances: Numbers) -> tuple[Codes, Numbers]:
    """The label each query would get if it were accepted, and the distance to judge it by.

    Args:
        rule: One of RULES; for "center" the neighbors are class centers.
        labels: Labels of the neighbors, (q, k), nearest first.
        distances: Theirs, (q, k).

    Returns:
        Labels (q,), -1 where nobody has a vote, and distances (q,).
    """
    if rule in ("nearest", "center"):
        return labels[:, 0], distances[:, 0]
    may_vote = (labels != UNKNOWN) & ~np.isposinf(distances)
    far = distances.astype(np.float64)
    weights = np.ones(far.shape)
    if rule == "weighted":
        least = np.where(may_vote, far, np.inf).min(axis=1, keepdims=True)
        most = np.where(may_vote, far, -np.inf).max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            weights = np.where(most > least, (most - far) / (most - least), 1.0)
    weights = np.where(may_vote, weights, 0)
    votes = np.zeros(weights.shape)  # that the label of each neighbor gets
    for voter in range(labels.shape[1]):
        votes += weights[:, voter, None] * (labels == labels[:, voter, None])
    winner = votes.argmax(axis=1)[:, None]  # the first of equals, so the nearer
    of_winner = np.take_along_axis(labels, winner, axis=1)
    share = np.where(may_vote & (labels == of_winner), weights, 0)
    anyone = may_vote.any(axis=1)
    with np.errstate(invalid="ignore"):
        mean = (share * np.where(share > 0, far, 0)).sum(axis=1) / share.sum(axis=1)
    return (
        np.where(anyone, of_winner[:, 0], UNKNOWN),
        np.where(anyone, mean, np.inf).astype(distances.dtype),
    )
