import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from likewise import losses, miners
from likewise.distances import COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN
from likewise.losses import GivenPairsLoss, LearnedThreshold, ThresholdLoss


def sides(seed=0, n=7):
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, 3, generator=rng, dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_(), torch.rand(n, generator=rng) < 0.5


def learned(threshold=0.7, scale=1.3):
    return LearnedThreshold(threshold, scale=scale, learn_scale=True).double()


@given(seed=st.integers(0, 2**16), threshold=st.floats(-2, 2), scale=st.floats(0.1, 20))
def test_the_cost_is_the_cross_entropy_of_the_logits(seed, threshold, scale):
    rng = torch.Generator().manual_seed(seed)
    distances = torch.rand(9, generator=rng, dtype=torch.float64) * 3
    same = torch.rand(9, generator=rng) < 0.5
    logits = losses.threshold_logits(distances, threshold, scale)
    assert logits.shape == (9, 2)
    torch.testing.assert_close(logits.sum(dim=1), torch.zeros_like(distances))
    assert torch.equal(logits.argmax(dim=1) == 1, distances < threshold)
    torch.testing.assert_close(
        losses.threshold_loss(distances, same, threshold, scale),
        F.cross_entropy(logits, same.long(), reduction="none"),
    )


def test_the_defaults_on_cosine_distances_are_the_seed_on_squared_ones():
    a, b, _ = sides(1)
    squared = SQUARED_EUCLIDEAN.paired(F.normalize(a), F.normalize(b))
    logits = LearnedThreshold().logits(COSINE.paired(a, b))
    torch.testing.assert_close(logits, torch.stack([squared - 1, 1 - squared], dim=1))


def test_distances_and_truth_of_other_shapes_are_refused():
    message = "same must have the shape of distances, (4,), got (4, 1). Another shape would"
    with pytest.raises(ValueError, match=re.escape(message)):
        losses.threshold_loss(torch.rand(4), torch.ones(4, 1, dtype=torch.bool), 0.5)
    a, b, same = sides()
    with pytest.raises(
        ValueError, match=r"same must have shape \(7,\), one per pair, got \(7, 1\)"
    ):
        GivenPairsLoss(learned())(a, b, same[:, None])
    with pytest.raises(TypeError, match="same must be boolean, True for the same, got"):
        GivenPairsLoss(learned())(a, b, same.long())


@pytest.mark.parametrize("distance", [COSINE, EUCLIDEAN], ids=lambda d: d.name)
def test_gradient_is_the_slope_of_embeddings_threshold_and_scale(distance):
    a, b, same = sides(2)
    threshold = learned()
    loss = GivenPairsLoss(threshold, distance=distance)
    weights = [threshold.value, threshold.log_scale]
    assert loss(a, b, same) > 0.01

    def of(a, b, value, log_scale):
        with torch.no_grad():
            for weight, new in zip(weights, (value, log_scale), strict=True):
                weight.copy_(new)
        scale = log_scale.exp()
        return losses.threshold_loss(distance.paired(a, b), same, value, scale).mean()

    # With the module's own weights autograd gives what the function gives.
    loss(a, b, same).backward()
    told = [a.grad, b.grad, *(weight.grad for weight in weights)]
    points = [a, b, *(weight.detach().clone().requires_grad_() for weight in weights)]
    assert torch.autograd.gradcheck(of, points)
    for slope, expected in zip(told, torch.autograd.grad(of(*points), points), strict=True):
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(slope, expected)


def test_the_scale_is_learnt_only_when_asked():
    a, b, same = sides()
    fixed = LearnedThreshold(0.5, scale=3.0).double()
    GivenPairsLoss(fixed)(a, b, same).backward()
    assert fixed.value.grad != 0
    assert fixed.log_scale.grad is None
    assert float(fixed.log_scale.exp()) == pytest.approx(3.0)


def test_facts_tell_threshold_scale_and_the_share_on_the_right_side():
    a, b, same = sides(3, n=40)
    loss = GivenPairsLoss(learned(), distance=COSINE)
    loss(a, b, same)
    right = (COSINE.paired(a, b) <= 0.7) == same
    assert 0 < float(right.double().mean()) < 1
    assert float(loss.facts["accuracy"]) == pytest.approx(float(right.double().mean()))
    assert float(loss.facts["threshold"]) == pytest.approx(0.7)
    assert float(loss.facts["scale"]) == pytest.approx(1.3)
    assert {"positive_distance", "negative_distance", "spread"} <= set(loss.facts)
    assert not any(fact.requires_grad for fact in loss.facts.values())


# batches


def batch(seed, n=12):
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 3, generator=rng, dtype=torch.float64)
    return points, torch.randint(0, 4, (n,), generator=rng)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("miner", [miners.all_pairs, miners.hard_negative_pairs])
def test_a_batch_agrees_with_the_loops(seed, miner):
    points, labels = batch(seed)
    distances = EUCLIDEAN.matrix(points, points)
    is_positive = (labels[:, None] == labels) & ~torch.eye(12, dtype=torch.bool)
    selected = miner(distances, is_positive, labels[:, None] != labels)
    means, right = [], []
    for kind, sign in zip(selected, (1, -1), strict=True):
        rows = kind.nonzero().tolist()
        assert rows, "nothing is selected, so this seed would prove nothing"
        gaps = [sign * (float(distances[i, j]) - 1.5) for i, j in rows]
        means.append(sum(math.log1p(math.exp(2 * 1.3 * gap)) for gap in gaps) / len(gaps))
        right.append(sum(gap <= 0 for gap in gaps) / len(gaps))
    loss = ThresholdLoss(learned(1.5), distance=EUCLIDEAN, miner=miner)
    assert float(loss(points, labels).detach()) == pytest.approx(sum(means) / 2, rel=1e-6)
    assert float(loss.facts["accuracy"]) == pytest.approx(sum(right) / 2)
    assert {"threshold", "scale", "gap", "spread"} <= set(loss.facts)


def test_gradient_of_a_batch_is_the_slope_and_order_does_not_matter():
    points, labels = batch(1)
    points.requires_grad_()
    loss = ThresholdLoss(learned())
    assert loss(points, labels) > 0.01
    assert torch.autograd.gradcheck(lambda embeddings: loss(embeddings, labels), points)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(points[order], labels[order]), loss(points, labels))
    assert not torch.isclose(loss(points, labels.roll(1)), loss(points, labels))


def test_more_references_of_a_kind_weigh_no_more():
    points, labels = batch(2)
    loss = ThresholdLoss(learned())
    value = loss(points, labels, points + 0.1, labels)
    far = labels.max() + 1
    again = loss(points, labels, torch.cat([points + 0.1] * 3), labels.repeat(3))
    torch.testing.assert_close(value, again)
    assert not torch.isclose(
        value,
        loss(points, labels, torch.cat([points + 0.1] * 2), torch.cat([labels, labels + far])),
    )


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0]])
def test_a_batch_of_one_kind_or_of_equal_points_still_trains(labels):
    points = torch.ones(4, 3, requires_grad=True)
    loss = ThresholdLoss()
    loss(points, torch.tensor(labels)).backward()
    assert torch.isfinite(points.grad).all()
    assert loss.threshold.value.grad != 0


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"scale": 0.0}, "scale must be a finite number above 0, got 0.0."),
        ({"threshold": math.nan}, "threshold must be a finite number, got nan."),
    ],
)
def test_thresholds_that_cannot_be_are_refused(settings_, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LearnedThreshold(**settings_)


@pytest.mark.parametrize("pairs", [0, 1, 2])
def test_the_accuracy_of_few_pairs(pairs):
    loss = LearnedThreshold(1.0)
    loss(torch.tensor([0.5, 2.0])[:pairs], torch.tensor([True, True])[:pairs])
    assert float(loss.facts["accuracy"]) == [0, 1, 0.5][pairs]
