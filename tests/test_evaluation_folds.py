import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import stats

from likewise import metrics
from likewise.calibration import at_most_false_accepts, best_accuracy, calibrate
from likewise.evaluation import evaluate_folds


def drawn(seed, count=10, n=80):
    """Folds of different difficulty, so that their numbers differ."""
    rng = torch.Generator().manual_seed(seed)
    folds = []
    for _ in range(count):
        same = torch.rand(n, generator=rng) < 0.5
        ease = 0.7 + 0.3 * torch.rand(1, generator=rng)
        folds.append((torch.randn(n, generator=rng) + torch.where(same, -ease, ease), same))
    return folds


@pytest.mark.parametrize("goal", [best_accuracy, at_most_false_accepts(0.1)])
@pytest.mark.parametrize("seed", range(4))
def test_each_fold_is_judged_by_the_threshold_of_the_others(seed, goal):
    folds = drawn(seed)
    result = evaluate_folds(folds, goal=goal)
    for i, (distances, same) in enumerate(folds):
        others = [fold for j, fold in enumerate(folds) if j != i]
        threshold = calibrate(*map(torch.cat, zip(*others, strict=True)), goal=goal).threshold
        assert result.thresholds[i] == threshold
        accepted = distances <= threshold
        expected = {
            "accuracy": float((accepted == same).double().mean()),
            "true_accept_rate": float(accepted[same].double().mean()),
            "false_accept_rate": float(accepted[~same].double().mean()),
            "roc_auc": metrics.roc_auc(metrics.sweep(distances, same)),
            "equal_error_rate": metrics.equal_error_rate(metrics.sweep(distances, same)),
        }
        assert {name: values[i] for name, values in result.per_fold.items()} == pytest.approx(
            expected
        )
    assert len(set(result.thresholds)) > 1
    for name, values in result.per_fold.items():
        estimate = getattr(result, name)
        ends = stats.t.interval(0.95, 9, np.mean(values), stats.sem(values))
        np.testing.assert_allclose((estimate.low, estimate.high), np.clip(ends, 0, 1))


def test_a_threshold_below_every_distance_of_a_fold_accepts_nothing():
    same = torch.tensor([True, True, False, False])
    near, far = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([5.0, 6.0, 7.0, 8.0])
    result = evaluate_folds([(near, same), (far, same)])
    assert result.thresholds == pytest.approx([6.0, 0.2])
    assert result.per_fold["true_accept_rate"] == [1.0, 0.0]
    assert result.per_fold["false_accept_rate"] == [1.0, 0.0]


def test_the_folds_result_is_ready_for_json():
    result = evaluate_folds(drawn(0), goal=at_most_false_accepts(0.1))
    fields = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert fields["goal"] == "at_most_false_accepts(0.1)"
    assert fields["accuracy"]["value"] == result.accuracy.value
    assert len(fields["thresholds"]) == len(fields["per_fold"]["roc_auc"]) == 10


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda folds: folds[:1], ValueError, "folds must be at least 2, got 1. Each gets its"),
        (
            lambda folds: [*folds[:2], (folds[2][0], torch.ones(80).bool())],
            ValueError,
            "fold 2: same must hold pairs of both kinds, got 80 same and 0 different.",
        ),
        (
            lambda folds: [folds[0], (folds[1][0] * math.nan, folds[1][1])],
            ValueError,
            "fold 1: distances must be finite, got 80 NaN",
        ),
        (
            lambda folds: [folds[0], (folds[1][0], folds[1][1].long())],
            TypeError,
            "fold 1: same must be boolean, True for the same",
        ),
    ],
)
def test_folds_that_cannot_be_judged_are_named(change, error, message):
    with pytest.raises(error, match=re.escape(message)):
        evaluate_folds(change(drawn(0)))
