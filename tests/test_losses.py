import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from likewise import losses, miners
from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT, SQUARED_EUCLIDEAN
from likewise.losses import ContrastiveLoss, MultiSimilarityLoss, SoftmaxLoss, TripletLoss
from likewise.masks import masks

LABELS = torch.tensor([0, 0, 1, 1, 1, 2])
SELECTORS = {
    "all": miners.all_triplets,
    "batch hard": miners.batch_hard,
    "hardest": miners.hardest_negative,
    "semi-hard": miners.semi_hard,
}


def embeddings(size=6, seed=0, dim=3):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, dim, generator=rng, dtype=torch.float64, requires_grad=True)


def batch(seed, size=14, classes=4):
    labels = torch.randint(0, classes, (size,), generator=torch.Generator().manual_seed(seed))
    return embeddings(size, seed), labels


def every_loss():
    return {
        "contrastive": ContrastiveLoss(margin=1.5),
        "contrastive plain": ContrastiveLoss(margin=1.5, squared=False),
        "contrastive hard": ContrastiveLoss(margin=1.5, miner=miners.hard_negative_pairs),
        "triplet": TripletLoss(margin=0.5),
        "triplet squared": TripletLoss(margin=0.5, distance=SQUARED_EUCLIDEAN),
        "triplet soft": TripletLoss(margin=None),
        "triplet batch hard": TripletLoss(margin=0.5, miner=miners.batch_hard),
        "triplet semi-hard": TripletLoss(margin=2.0, miner=miners.semi_hard, distance=COSINE),
        "multi-similarity": MultiSimilarityLoss(beta=10.0),
        "circle": losses.CircleLoss(gamma=4.0, constant_weights=False),
        "nt-xent": losses.NTXentLoss(temperature=0.3),
        "supervised contrastive": losses.SupervisedContrastiveLoss(temperature=0.3),
        "soft nearest neighbor": losses.SoftNearestNeighborLoss(temperature=0.5),
        "lifted": losses.LiftedStructureLoss(),
        "generalized lifted": losses.GeneralizedLiftedLoss(),
        "multiple negatives": losses.MultipleNegativesLoss(symmetric=True),
        "sigmoid": losses.SigmoidPairsLoss(),
        "threshold consistency": losses.ThresholdConsistencyLoss(),
        "threshold": losses.ThresholdLoss(),
        "margin": losses.MarginLoss(),
        "margin, batch hard": losses.MarginLoss(miner=miners.batch_hard, learn_beta=False),
        "tuplet margin": losses.TupletMarginLoss(scale=8.0),
        "intra-pair variance": losses.IntraPairVarianceLoss(),
    }


LOSSES = [pytest.param(loss, id=name) for name, loss in every_loss().items()]


@pytest.mark.parametrize("average", ["active", "all"])
@pytest.mark.parametrize("margin", [0.5, None])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rule", SELECTORS)
def test_triplet_loss_agrees_with_the_loops(rule, seed, margin, average):
    points, labels = batch(seed)
    distances = EUCLIDEAN.matrix(points, points).detach()
    triplets = {
        "all": lambda: oracles.all_triplets(labels),
        "batch hard": lambda: oracles.batch_hard(distances, labels),
        "hardest": lambda: oracles.hardest_negative(distances, labels),
        "semi-hard": lambda: oracles.semi_hard(distances, labels),
    }[rule]()
    values = oracles.triplet_values(distances, triplets, margin)
    active = sum(value > 0 for value in values)
    assert active
    loss = TripletLoss(margin=margin, miner=SELECTORS[rule], average=average)
    count = active if average == "active" else len(values)
    assert float(loss(points, labels).detach()) == pytest.approx(sum(values) / count, rel=1e-12)
    assert float(loss.facts["active"]) == pytest.approx(active / len(values))


@pytest.mark.parametrize("seed", range(10))
def test_all_triplets_in_closed_form_has_the_value_count_and_gradient_of_the_enumeration(seed):
    rng = torch.Generator().manual_seed(seed)
    # Whole numbers make ties, where a triplet costs exactly nothing.
    distances = torch.randint(0, 6, (7, 11), generator=rng).double().requires_grad_()
    labels = torch.randint(0, 3, (7,), generator=rng)
    positive, negative = masks(labels, torch.randint(0, 3, (11,), generator=rng))
    total, active = losses.all_triplets_hinge(distances, positive, negative, margin=2.0)
    (gradient,) = torch.autograd.grad(total, distances)

    gaps = distances[:, :, None] - distances[:, None, :] + 2.0
    valid = positive[:, :, None] & negative[:, None, :]
    listed = torch.where(valid, gaps.relu(), 0)
    (expected,) = torch.autograd.grad(listed.sum(), distances)
    assert int(active) == int((listed > 0).sum()) > 0
    torch.testing.assert_close(total, listed.sum())
    torch.testing.assert_close(gradient, expected)


def test_all_triplets_needs_no_list_of_them():
    size = 1024  # 62 million triplets: a list of their indices would be 1.5 GB
    points = torch.randn(size, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(size) % 16
    loss = TripletLoss(margin=0.5, average="all")
    value = loss(points, labels)
    value.backward()
    rows = slice(0, 4)
    distances = EUCLIDEAN.matrix(points[rows], points).detach()
    positive, negative = (mask[rows] for mask in masks(labels))
    few = torch.cat(
        [
            (d[p][:, None] - d[n][None, :] + 0.5).relu().flatten()
            for d, p, n in zip(distances, positive, negative, strict=True)
        ]
    )
    total, active = losses.all_triplets_hinge(distances, positive, negative, margin=0.5)
    assert float(total) == pytest.approx(float(few.double().sum()), rel=1e-6)
    assert int(active) == int((few > 0).sum())
    assert torch.isfinite(points.grad).all()


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_contrastive_loss_agrees_with_the_loops(seed, squared):
    points, labels = batch(seed)
    distances = EUCLIDEAN.matrix(points, points).detach()
    size = len(labels)
    pairs = [(a, b) for a in range(size) for b in range(size) if a != b]
    expected = oracles.contrastive_value(distances, pairs, labels, 1.5, squared)
    assert expected > 0.1
    found = ContrastiveLoss(margin=1.5, squared=squared)(points, labels)
    assert float(found.detach()) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_contrastive_loss_over_hard_negatives_agrees_with_the_loops(seed):
    points, labels = batch(seed)
    distances = EUCLIDEAN.matrix(points, points).detach()
    pairs = [(a, p) for a in range(len(labels)) for p in oracles.positives(labels, a)]
    pairs += oracles.hard_negative_pairs(distances, labels)
    expected = oracles.contrastive_value(distances, pairs, labels, 1.5, True)
    found = ContrastiveLoss(margin=1.5, miner=miners.hard_negative_pairs)(points, labels)
    assert float(found.detach()) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_multi_similarity_loss_agrees_with_the_loops(seed):
    points, labels = batch(seed)
    distances = COSINE.matrix(points, points).detach()
    expected = oracles.multi_similarity_value(distances, labels, 2.0, 10.0, 0.5, 0.1)
    assert expected > 0.1
    assert float(MultiSimilarityLoss(beta=10.0)(points, labels).detach()) == pytest.approx(expected)


def test_softmax_is_cross_entropy_of_a_linear_layer_and_trains_it():
    loss = SoftmaxLoss(3, 3).double()
    points = embeddings()
    value = loss(points, LABELS)
    logits = points @ loss.classify.weight.T + loss.classify.bias
    expected = torch.stack([-row.log_softmax(0)[y] for row, y in zip(logits, LABELS, strict=True)])
    assert float(value.detach()) == pytest.approx(float(expected.detach().mean()), rel=1e-6)
    value.backward()
    assert loss.classify.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_softmax_of_half_embeddings_is_that_of_the_same_numbers_in_float32(dtype, autocast):
    loss = SoftmaxLoss(3, 3)
    points = embeddings().detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(points, LABELS)
    value.backward()
    assert torch.equal(value, loss(points.detach().float(), LABELS))
    assert points.grad.dtype == dtype
    assert points.grad.abs().max() > 0
    assert loss.half()(points, LABELS).dtype == torch.float32


def test_softmax_names_an_embedding_dim_that_does_not_fit():
    with pytest.raises(ValueError, match="embeddings must have as many dimensions as weights, 4"):
        SoftmaxLoss(4, 3).double()(embeddings(), LABELS)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_the_slope(loss):
    assert loss(embeddings(), LABELS) > 0  # a flat loss would pass any gradient check
    assert torch.autograd.gradcheck(lambda e: loss(e, LABELS), embeddings())


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=10)
def test_batch_order_and_label_names_are_irrelevant(loss, seed):
    points, labels = batch(seed)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss(points[order], 90 - 7 * labels[order]), loss(points, labels))


@pytest.mark.parametrize("loss", LOSSES)
def test_rotation_of_all_embeddings_changes_nothing(loss):
    points, labels = batch(1)
    rotation, _ = torch.linalg.qr(embeddings(3, seed=9))
    torch.testing.assert_close(loss(points @ rotation, labels), loss(points, labels))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_right_arrangement_costs_less_than_a_wrong_one(loss):
    corners = torch.eye(3).repeat_interleave(4, dim=0)
    corners = corners + 0.01 * torch.arange(12)[:, None] * torch.tensor([[1.0, -1.0, 0.5]])
    right, wrong = torch.arange(12) // 4, torch.arange(12) % 4
    assert loss(corners, right) < 0.7 * loss(corners, wrong)


@pytest.mark.parametrize("loss", [TripletLoss(margin=0.5), ContrastiveLoss(margin=0.5)])
def test_classes_a_margin_apart_cost_nothing(loss):
    apart = torch.eye(3).repeat_interleave(2, dim=0)
    assert loss(apart, torch.tensor([0, 0, 1, 1, 2, 2])) == 0
    assert loss(apart, torch.tensor([0, 1, 1, 2, 2, 0])) > 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("labels", [torch.arange(6), torch.zeros(6).long()])
def test_a_batch_without_both_kinds_still_backpropagates(loss, labels):
    lonely = embeddings()
    loss(lonely, labels).backward()
    assert torch.isfinite(lonely.grad).all()


def test_a_batch_without_triplets_costs_nothing():
    lonely = embeddings()
    TripletLoss()(lonely, torch.arange(6)).backward()
    assert (lonely.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_loss_and_gradient_are_finite_at_duplicates_and_large_scale(loss, dtype, scale):
    points = (scale * torch.eye(3)[[0, 0, 1, 2, 0, 1]]).to(dtype).requires_grad_()
    value = loss(points, LABELS)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(points.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_references_equal_to_the_batch_with_ids_give_the_loss_of_the_batch(loss):
    points, labels = batch(2)
    ids = torch.arange(len(labels))
    alone = loss(points, labels)
    against = loss(points, labels, points, labels, ids=ids, reference_ids=ids)
    torch.testing.assert_close(against, alone)


def test_without_ids_an_item_among_the_references_counts_as_its_own_positive():
    points, labels = batch(2)
    loss = ContrastiveLoss(margin=1.5)
    assert loss(points, labels, points, labels) < 0.99 * loss(points, labels)


def test_facts_tell_what_the_batch_was():
    loss = TripletLoss(margin=0.5)
    loss(torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([0, 0, 1]))
    facts = {name: float(value) for name, value in loss.facts.items()}
    assert facts["positive_distance"] == 1.0
    assert facts["negative_distance"] == 3.5
    assert facts["active"] == 0.0
    loss(torch.ones(3, 2), torch.tensor([0, 0, 1]))
    assert float(loss.facts["spread"]) == 0.0
    assert facts["spread"] > 0.5


@pytest.mark.parametrize("loss", [*LOSSES, SoftmaxLoss(3, 3).double()])
def test_labels_of_the_wrong_shape_or_kind_are_named(loss):
    with pytest.raises(ValueError, match=r"labels must have shape \(6,\), .* got \(4,\)"):
        loss(embeddings(), LABELS[:4])
    with pytest.raises(ValueError, match=r"labels must have shape \(6,\), .* got \(6, 1\)"):
        loss(embeddings(), LABELS[:, None])
    with pytest.raises(TypeError, match=r"labels must be integers, got torch\.float32"):
        loss(embeddings(), LABELS.float())


def test_codes_beyond_the_classes_of_the_softmax_are_named():
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got 0\.\.5"):
        SoftmaxLoss(3, 3).double()(embeddings(), torch.arange(6))


def test_the_broadcast_that_broke_a_seed_is_refused():
    with pytest.raises(
        ValueError, match=r"same must have the shape of distances, \(5,\), got \(5, 1\)"
    ):
        losses.contrastive_loss(torch.rand(5), torch.ones(5, 1).bool(), margin=1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TripletLoss(margin=0.0), "margin must be a finite number above 0, got 0.0"),
        (lambda: TripletLoss(average="sum"), "average must be one of active, all, got 'sum'"),
        (lambda: ContrastiveLoss(margin=-1), "margin must be a finite number above 0, got -1"),
        (lambda: MultiSimilarityLoss(beta=0), "beta must be a finite number above 0, got 0"),
        (lambda: ContrastiveLoss(distance=INNER_PRODUCT), "distance must be 0 between equals"),
        (lambda: SoftmaxLoss(4, 1), "class_count must be at least 2, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("odd", ["", "alone", "unlabeled", "one class"])
@pytest.mark.parametrize("average", ["active", "all"])
def test_a_small_batch_costs_what_it_costs_in_any_batch(monkeypatch, average, odd, spread):
    points = spread * torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(12).long() if odd == "one class" else torch.arange(12) // 3
    if odd:
        labels[0] = -1 if odd == "unlabeled" else 9 if odd == "alone" else 0
    made = [
        losses.SoftNearestNeighborLoss(average=average),
        losses.GeneralizedLiftedLoss(),
        losses.NPairsLoss(),
        losses.SupervisedContrastiveLoss(average=average),
        losses.TripletLoss(average=average),
    ]
    for loss in made:
        found = []
        for small in (True, False):
            with monkeypatch.context() as patch:
                if not small:
                    patch.setattr("likewise.losses._log_sum_exp.SMALL", 0)
                    patch.setattr("likewise.losses.triplet.FEW_TRIPLETS", 0)
                given = points.clone().requires_grad_()
                value = loss(given, labels)
                value.backward()
                found.append((value.detach(), given.grad, dict(loss.facts)))
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
