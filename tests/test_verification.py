import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from likewise import fit, metrics
from likewise.calibration import at_least_precision, at_most_false_accepts, best_f1, calibrate
from likewise.data import ArrayDataset, GivenPairs, PairDataset
from likewise.distances import COSINE, EUCLIDEAN
from likewise.losses import GivenPairsLoss, LearnedThreshold, ThresholdLoss
from likewise.verification import (
    DistanceSiamese,
    ThresholdSiamese,
    pair_distances,
    validate_pairs,
)


def points(seed=0, n=120, classes=12):
    """Classes of points around a middle of their own, in six dimensions."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    middles = torch.randn(classes, 6, generator=torch.Generator().manual_seed(7))
    return ArrayDataset(middles[labels] + 0.6 * torch.randn(n, 6, generator=rng), labels.tolist())


def linear(seed=0, width=4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(6, width)


def test_a_siamese_gives_the_distance_of_its_sides_with_gradient():
    a, b = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    siamese = DistanceSiamese(linear(), distance=EUCLIDEAN)
    expected = EUCLIDEAN.paired(siamese.encoder(a), siamese.encoder(b))
    torch.testing.assert_close(siamese(a, b), expected)
    siamese(a, b).sum().backward()
    assert siamese.encoder.weight.grad.abs().sum() > 0


def test_cross_entropy_of_the_logits_trains_encoder_and_threshold():
    data = points()
    pairs = PairDataset(data, per_item=2.0)
    siamese = ThresholdSiamese(linear(), 0.3)
    optimizer = torch.optim.Adam(siamese.parameters(), lr=0.02)
    ((a, b), same) = pairs.__getitems__(range(len(pairs)))[0]
    values = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(siamese(a, b), same.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0] - 0.05
    assert abs(float(siamese.threshold) - 0.3) > 0.01
    accepted = siamese(a, b).argmax(dim=1) == 1
    assert torch.equal(siamese.verify(a, b), accepted)
    assert 0 < int(accepted.sum()) < len(accepted)


@pytest.mark.parametrize("way", ["pairs", "batches"])
def test_training_a_loss_trains_the_siamese_that_has_its_threshold(way):
    data = points()
    threshold = LearnedThreshold(0.3)
    siamese = ThresholdSiamese(linear(), threshold)
    before = siamese.encoder.weight.detach().clone()
    if way == "pairs":
        loss, given = GivenPairsLoss(threshold, distance=COSINE), PairDataset(data, per_item=2.0)
    else:
        loss, given = ThresholdLoss(threshold), data
    history = fit(siamese.encoder, loss, given, epochs=6, learning_rate=0.02)
    assert history[-1]["loss"] < history[0]["loss"]
    assert siamese.threshold.value is threshold.value
    assert float(threshold) != pytest.approx(0.3, abs=1e-3)
    assert history[-1]["accuracy"] > history[0]["accuracy"]
    assert not torch.equal(siamese.encoder.weight, before)


def test_distances_of_pairs_are_those_of_their_items_each_encoded_once():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear()
            self.seen = 0

        def forward(self, items):
            self.seen += len(items)
            return self.inner(items)

    data = points()
    rows = torch.tensor([[0, 5], [5, 9], [9, 0], [40, 5]])
    pairs = GivenPairs(data, rows, torch.tensor([True, False, False, True]))
    encoder = Counting()
    found = pair_distances(encoder, pairs, distance=EUCLIDEAN, batch_size=3)
    assert encoder.seen == 4
    with torch.no_grad():
        a, b = (encoder.inner(data[int(i)][0][None]) for i in (40, 5))
    torch.testing.assert_close(found[3:], EUCLIDEAN.paired(a, b))
    assert len(set(found.tolist())) == 4
    halved = pair_distances(encoder, pairs, distance=EUCLIDEAN, preprocess=lambda items: items / 2)
    assert not torch.allclose(halved, found)


def test_fitting_the_threshold_is_one_calibration():
    pairs = PairDataset(points(), per_item=4.0)
    siamese = ThresholdSiamese(linear())
    between = pair_distances(siamese.encoder, pairs)
    by_class = pairs.data.labels[pairs.pairs]
    for leave_out, items in [("items", pairs.pairs), ("classes", by_class), (None, None)]:
        chosen = siamese.fit_threshold(pairs, best_f1, leave_out=leave_out)
        assert chosen == calibrate(between, pairs.same, goal=best_f1, items=items)
        assert float(siamese.threshold) == chosen.threshold
    a, b = (torch.stack([pairs.data[int(i)][0] for i in side]) for side in pairs.pairs.T)
    assert torch.equal(siamese.verify(a, b), between <= chosen.threshold)
    with pytest.raises(ValueError, match="leave_out must be one of classes, items, got 'pairs'"):
        siamese.fit_threshold(pairs, leave_out="pairs")


def test_the_exact_threshold_is_never_less_accurate_than_a_grid():
    pairs = PairDataset(points(), per_item=4.0)
    siamese = ThresholdSiamese(linear())
    between = pair_distances(siamese.encoder, pairs)
    chosen = siamese.fit_threshold(pairs)
    grid = [float(((between <= t) == pairs.same).double().mean()) for t in np.arange(0, 2, 0.005)]
    assert chosen.accuracy.value >= max(grid) > 0.6


def test_a_guarantee_is_fitted_for_new_items_and_for_new_classes():
    siamese = ThresholdSiamese(linear())
    goal = at_most_false_accepts(0.1, confidence=0.9)
    pairs = PairDataset(points(n=400, classes=100), per_item=5.0)
    assert siamese.fit_threshold(pairs, goal).guarantee.holds_for == "items"
    kept = siamese.fit_threshold(pairs, goal, leave_out="classes").guarantee
    assert kept.holds_for == "classes"
    assert 40 <= kept.negatives <= 50
    before = float(siamese.threshold)
    with pytest.raises(ValueError, match="different pairs that share no item must be at least 230"):
        siamese.fit_threshold(pairs, at_most_false_accepts(0.01, 0.9), leave_out="classes")
    assert float(siamese.threshold) == before


def test_weights_go_through_a_state_dict_and_modes_stay():
    encoder = nn.Sequential(linear(), nn.Dropout(0.5)).train()
    siamese = ThresholdSiamese(encoder, 0.8)
    siamese.fit_threshold(PairDataset(points()))
    assert encoder[1].training
    a, b = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(2))
    other = ThresholdSiamese(nn.Sequential(linear(seed=1), nn.Dropout(0.5)))
    other.load_state_dict(siamese.state_dict())
    assert torch.equal(other.verify(a, b), siamese.verify(a, b))
    assert set(siamese.state_dict()) == {
        "encoder.0.weight",
        "encoder.0.bias",
        "threshold.value",
        "threshold.log_scale",
    }


def test_sides_of_different_number_are_refused():
    siamese = ThresholdSiamese(linear())
    with pytest.raises(ValueError, match=r"b must have as many items as a, 3, got 2\."):
        siamese.verify(torch.rand(3, 6), torch.rand(2, 6))
    with pytest.raises(ValueError, match=r"b must have as many rows as a, 3, got 2\."):
        siamese(torch.rand(3, 6), torch.rand(2, 6))


# during training


def test_validation_adds_what_calibration_would_give():
    train, held = PairDataset(points(0)), PairDataset(points(1), per_item=2.0)
    encoder = linear()
    record = {}
    validate_pairs(held, distance=EUCLIDEAN, goal=best_f1)(record, encoder)
    between = pair_distances(encoder, held, distance=EUCLIDEAN)
    chosen = calibrate(between, held.same, goal=best_f1)
    assert record == {
        "validation/threshold": chosen.threshold,
        "validation/accuracy": chosen.accuracy.value,
        "validation/roc_auc": metrics.roc_auc(metrics.sweep(between, held.same)),
    }
    callbacks = [validate_pairs(held, distance=EUCLIDEAN)]
    history = fit(encoder, GivenPairsLoss(), train, epochs=2, callbacks=callbacks)
    assert all(0.5 < record["validation/roc_auc"] <= 1 for record in history.records)


def test_a_goal_out_of_reach_ends_no_training():
    held = PairDataset(points(1), per_item=2.0)
    record = {}
    validate_pairs(held, goal=at_least_precision(1.0))(record, linear(width=1))
    assert 0 <= record["validation/roc_auc"] <= 1
    assert math.isnan(record["validation/threshold"])
    assert math.isnan(record["validation/accuracy"])


def test_a_guarantee_is_no_goal_of_validation():
    message = (
        "goal must do without a confidence in validation, got at_most_false_accepts(0.1, "
        "confidence=0.9). Keep the guarantee when training is over, with fit_threshold."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        validate_pairs(PairDataset(points()), goal=at_most_false_accepts(0.1, 0.9))
