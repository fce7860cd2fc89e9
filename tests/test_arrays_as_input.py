"""Arrays and lists are taken wherever numbers are, with the same results as tensors."""

import numpy as np
import pytest
import torch

from likewise import intervals, normalization
from likewise.evaluation import compare
from likewise.index import Index
from likewise.matching import normalize_neighbors
from likewise.probability import fit_logistic

DISTANCES = [0.1, 0.2, 0.4, 0.3, 0.8, 0.9]
SAME = [True, True, True, False, False, False]
COHORT = [[-1.0, 0.5, 0.0], [0.0, -1.0, 1.0], [0.3, 0.2, 1.0]]


def index():
    made = Index()
    made.add(torch.eye(3), labels=[0, 1, 2])
    return made


def facts(kind):
    return normalization.CohortFacts(kind([2.0, 1.0]), kind([0.5, 0.25]))


CALLS = {
    "of": lambda kind: fit_logistic(torch.tensor(DISTANCES), torch.tensor(SAME)).of(kind([0.5])),
    "log_likelihood_ratio": lambda kind: fit_logistic(
        torch.tensor(DISTANCES), torch.tensor(SAME)
    ).log_likelihood_ratio(kind([0.5])),
    "normalize": lambda kind: normalization.normalize(kind([1.0, 2.0]), facts(kind), facts(kind)),
    "facts": lambda kind: (
        normalization.AdaptiveNorm(kind(COHORT), nearest=2).facts(kind([[1.0, 0.2, 0.1]])).mean
    ),
    "normalize_neighbors": lambda kind: (
        normalize_neighbors(
            index().lookup(torch.tensor([[1.0, 0.2, 0.1]]), k=2),
            kind([[1.0, 0.2, 0.1]]),
            index(),
            normalization.AdaptiveNorm(torch.tensor(COHORT), nearest=2),
        ).distances
    ),
    "mean": lambda kind: intervals.mean(kind(DISTANCES), groups=kind([0, 0, 1, 1, 2, 2])),
    "jackknife": lambda kind: intervals.jackknife(
        lambda keep: float(keep.double().mean()), kind([0, 0, 1, 1, 2])
    ),
    "from_left_out": lambda kind: intervals.from_left_out(2.0, kind([1.0, 2.0, 3.0])),
    "checked_items": lambda kind: intervals.checked_items(kind([[0, 1], [2, 3]]), 2),
    "compare": lambda kind: compare(
        {"right": kind([1, 1, 1, 0])},
        {"right": kind([0, 1, 0, 0])},
        labels=kind([0, 0, 1, -1]),
    ).to_dict(),
}


@pytest.mark.parametrize("kind", [np.array, list])
@pytest.mark.parametrize("name", CALLS)
def test_arrays_and_lists_give_what_tensors_give(name, kind):
    expected, found = CALLS[name](torch.tensor), CALLS[name](kind)
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, check_dtype=False)
    else:
        assert str(found) == str(expected)
