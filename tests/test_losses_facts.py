import copy
import weakref

import pytest
import torch

from likewise.distances import EUCLIDEAN, INNER_PRODUCT
from likewise.losses import TripletLoss
from likewise.losses.facts import MOST_ANCHORS, batch_facts, spread
from likewise.masks import masks
from test_losses_odd_batches import CLASSES, DIM, of_centers, of_pairs


def batch(size, others=None, seed=0, classes=4):
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(size, 3, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, classes, (size,), generator=rng)
    if others is None:
        return points, points, masks(labels)
    references = torch.randn(others, 3, generator=rng, dtype=torch.float64)
    return points, references, masks(labels, torch.randint(0, classes, (others,), generator=rng))


@pytest.mark.parametrize("distance", [EUCLIDEAN, INNER_PRODUCT], ids=lambda d: d.name)
@pytest.mark.parametrize("others", [None, 23])
@pytest.mark.parametrize("seed", range(5))
def test_facts_agree_with_the_loops(seed, others, distance):
    points, references, (positive, negative) = batch(12, others, seed)
    distances = distance.matrix(points, references)
    told = {
        name: float(fact)
        for name, fact in batch_facts(points, distances, positive, negative).items()
    }
    kinds = {}
    for kind, mask in (("positive", positive), ("negative", negative)):
        found = [
            float(distances[i, j])
            for i in range(len(points))
            for j in range(len(references))
            if mask[i, j]
        ]
        assert len(found) > 5
        kinds[kind] = found
        assert told[f"{kind}_distance"] == pytest.approx(sum(found) / len(found))
        assert told[f"smallest_{kind}"] == min(found)
        assert told[f"largest_{kind}"] == max(found)
    assert told["gap"] == pytest.approx(min(kinds["negative"]) - max(kinds["positive"]))
    assert told["gap"] < 0
    assert told["mean_gap"] == pytest.approx(told["negative_distance"] - told["positive_distance"])


def test_the_gap_is_above_0_where_one_threshold_tells_apart():
    points = torch.tensor([[0.0], [1.0], [5.0], [6.5]])
    told = batch_facts(points, EUCLIDEAN.matrix(points, points), *masks(torch.tensor([0, 0, 1, 1])))
    assert float(told["gap"]) == pytest.approx(4.0 - 1.5)


@pytest.mark.parametrize("labels", [torch.arange(4), torch.zeros(4).long()])
def test_what_a_missing_kind_leaves_is_0(labels):
    points = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    told = batch_facts(points, EUCLIDEAN.matrix(points, points), *masks(labels))
    missing = "positive" if len(set(labels.tolist())) > 1 else "negative"
    other = {"positive": "negative", "negative": "positive"}[missing]
    for name in (f"{missing}_distance", f"smallest_{missing}", f"largest_{missing}", "gap"):
        assert told[name] == 0
    assert told[f"largest_{other}"] > told[f"smallest_{other}"] > 0


def test_an_empty_batch_has_facts_too():
    empty = torch.zeros(0, 3)
    told = batch_facts(empty, EUCLIDEAN.matrix(empty, empty), *masks(torch.zeros(0).long()))
    assert all(torch.isfinite(fact) for fact in told.values())


def test_of_many_anchors_evenly_spread_ones_tell():
    points, _, (positive, negative) = batch(3 * MOST_ANCHORS - 1, classes=8)
    distances = EUCLIDEAN.matrix(points, points)
    told = batch_facts(points, distances, positive, negative)
    rows = slice(None, None, 3)
    few = batch_facts(points, distances[rows], positive[rows], negative[rows])
    assert told == few
    whole = float(distances[positive].mean())
    assert float(told["positive_distance"]) == pytest.approx(whole, rel=0.05)


def test_facts_hold_no_gradient_and_spread_is_that_of_the_points():
    points, _, (positive, negative) = batch(12)
    points.requires_grad_()
    told = batch_facts(points, EUCLIDEAN.matrix(points, points), positive, negative)
    assert not any(fact.requires_grad for fact in told.values())
    assert spread(torch.ones(5, 3)) == 0
    assert float(spread(torch.cat([torch.eye(3), -torch.eye(3)]))) == pytest.approx(1.0)


class Kept:
    pass


class Encoder(torch.autograd.Function):
    """Twice the items, with something that lives as long as this step of the graph."""

    @staticmethod
    def forward(ctx, items):
        ctx.kept = Kept()
        return 2 * items

    @staticmethod
    def backward(ctx, slopes):
        return 2 * slopes


def every_loss_at_all():
    return {**of_pairs(), **of_centers()}


# What these select, they draw anew in every call.
DRAWN = {
    "contrastive, balanced",
    "normalized softmax of a share",
    "triplet, distance weighted",
    "triplet, random hard",
    "triplet, random semi-hard",
}


@pytest.mark.parametrize("name", sorted(every_loss_at_all().keys() - DRAWN))
def test_facts_read_late_are_those_of_the_call(name):
    loss = every_loss_at_all()[name]
    points, labels = torch.randn(8, DIM, dtype=torch.float64), torch.arange(8) % CLASSES
    loss(points.clone(), labels.clone())
    at_once = {fact: told.clone() for fact, told in loss.facts.items()}
    again = every_loss_at_all()[name]
    again.load_state_dict(loss.state_dict())
    given, codes = points.clone(), labels.clone()
    again(given, codes)
    given.zero_()
    codes.zero_()
    assert dict(again.facts) == at_once


@pytest.mark.parametrize("name", every_loss_at_all())
def test_facts_hold_no_graph(name):
    loss = every_loss_at_all()[name]
    leaf = torch.randn(8, DIM, dtype=torch.float64, requires_grad=True)
    embeddings = Encoder.apply(leaf)
    step = weakref.ref(embeddings.grad_fn.kept)
    loss(embeddings, torch.arange(8) % CLASSES).backward()
    del embeddings
    assert step() is None
    assert not any(told.requires_grad for told in loss.facts.values())


def test_facts_can_be_copied_and_shown_before_they_are_read():
    loss = TripletLoss()
    loss(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    copied = copy.deepcopy(loss)
    assert type(copied.facts) is dict
    assert copied.facts == loss.facts
    assert repr(loss.facts) == repr(copied.facts)
