"""Batches over which no loss may stumble: NaN, infinity, zeros, nothing at all, unlabeled items."""

import pytest
import torch

from likewise import distances, losses, miners
from likewise.distances import EUCLIDEAN
from likewise.losses import _shown
from likewise.losses.facts import batch_facts
from likewise.masks import masks
from likewise.miners import Triplets
from test_losses import every_loss
from test_losses_memory import NothingWaits

DIM, CLASSES = 3, 4
NAN, INFINITY = torch.nan, torch.inf


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


TRIPLET_MINERS = {
    "all": miners.all_triplets,
    "all semi-hard": miners.all_semi_hard(0.5),
    "angular": miners.angular(20),
    "batch hard": miners.batch_hard,
    "hardest": miners.hardest_negative,
    "semi-hard": miners.semi_hard,
    "random hard": miners.random_hard(0.5, rng()),
    "random semi-hard": miners.random_semi_hard(0.5, rng()),
    "distance weighted": miners.distance_weighted(3, farthest=2, generator=rng()),
    **{
        f"{positive} positive, {negative} negative": miners.batch_easy_hard(positive, negative)
        for positive in ("easy", "hard", "semi_hard", "all")
        for negative in ("easy", "hard", "semi_hard", "all")
        if {positive, negative} not in ({"semi_hard"}, {"semi_hard", "all"})
    },
}
PAIR_MINERS = {
    "balanced": miners.balanced_positive_pairs(rng()),
    "hard negatives": miners.hard_negative_pairs,
    "multi-similarity": miners.multi_similarity(0.1),
    "pair margin": miners.pair_margin(),
    "within a range": miners.within_range(miners.all_pairs, positive=(0.1, 9), negative=(0.2, 3)),
}


def of_centers():
    """Losses with points of their own for each class."""
    made = {
        "softmax": losses.SoftmaxLoss(DIM, CLASSES),
        "normalized softmax": losses.NormalizedSoftmaxLoss(DIM, CLASSES),
        "normalized softmax of a share": losses.NormalizedSoftmaxLoss(DIM, 40, class_share=0.5),
        "arcface": losses.ArcFaceLoss(DIM, CLASSES, scale=4.0),
        "sub-center arcface": losses.ArcFaceLoss(DIM, CLASSES, scale=4.0, centers_per_class=3),
        "cosface": losses.CosFaceLoss(DIM, CLASSES, scale=4.0),
        "sphereface": losses.SphereFaceLoss(DIM, CLASSES, blend=1.0),
        "proxy-nca": losses.ProxyNCALoss(DIM, CLASSES),
        "proxy-nca of 2017": losses.ProxyNCALoss(DIM, CLASSES, own_below=False),
        "proxy-anchor": losses.ProxyAnchorLoss(DIM, CLASSES),
        "soft triple": losses.SoftTripleLoss(DIM, CLASSES, regularizer=0.0),
        "class weighted arcface": losses.ClassWeighted(
            losses.ArcFaceLoss(DIM, CLASSES, scale=4.0), [1.0, 2.0, 0.5, 3.0]
        ),
    }
    return {name: loss.double() for name, loss in made.items()}


def of_pairs():
    """Losses that compare items with items."""
    return {
        **every_loss(),
        **{
            f"triplet, {name}": losses.TripletLoss(margin=0.5, miner=miner, average="all")
            for name, miner in TRIPLET_MINERS.items()
        },
        **{
            f"contrastive, {name}": losses.ContrastiveLoss(margin=1.5, miner=miner)
            for name, miner in PAIR_MINERS.items()
        },
        "class weighted contrastive": losses.ClassWeighted(
            losses.ContrastiveLoss(margin=1.5), [1.0, 2.0, 0.5, 3.0]
        ).double(),
        "matryoshka": losses.MatryoshkaLoss(losses.CircleLoss(gamma=4.0), (3, 2), weights=(1, 0.5)),
        "margin of classes": losses.MarginLoss(class_count=CLASSES, nu=0.1).double(),
        "margin, semi-hard": losses.MarginLoss(miner=miners.all_semi_hard(0.5)),
        "triplet swap": losses.TripletLoss(margin=0.5, swap=True),
        "angular": losses.AngularLoss(),
        "circle with constant weights": losses.CircleLoss(average="all"),
        "contrastive by kind": losses.ContrastiveLoss(average="kind", positive_margin=0.1),
        "snr contrastive": losses.SNRContrastiveLoss(mean_weight=0.1),
        "supervised contrastive of all": losses.SupervisedContrastiveLoss(average="all"),
        "soft nearest neighbor of all": losses.SoftNearestNeighborLoss(average="all"),
        "n-pairs": losses.NPairsLoss(length_weight=0.1),
        "ranked list": losses.RankedListLoss(positive_temperature=2.0),
        "ranked list plain": losses.RankedListLoss(negative_temperature=0.0),
        "fast ap": losses.FastAPLoss(),
        "smooth ap": losses.SmoothAPLoss(),
        "recall at k": losses.RecallAtKLoss(),
        "threshold": losses.ThresholdLoss().double(),
        "sum": losses.Sum(losses.TripletLoss(), (0.5, losses.CircleLoss())),
        "sigmoid": losses.SigmoidPairsLoss().double(),
    }


OF_PAIRS = of_pairs()
EVERY = {**OF_PAIRS, **of_centers()}
every = pytest.mark.parametrize("loss", [pytest.param(v, id=k) for k, v in EVERY.items()])
every_of_pairs = pytest.mark.parametrize(
    "loss", [pytest.param(v, id=k) for k, v in OF_PAIRS.items()]
)
LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])


def points(size=8, seed=0):
    return torch.randn(size, DIM, generator=rng(seed), dtype=torch.float64)


def of(loss, rows, labels, *others):
    """Value and gradient."""
    rows = rows.clone().requires_grad_()
    value = loss(rows, labels, *others)
    (gradient,) = torch.autograd.grad(value, rows)
    return value.detach(), gradient


# NaN and infinity


@every
@pytest.mark.parametrize("bad", [NAN, INFINITY])
def test_one_number_that_is_not_finite_shows_in_value_and_gradient(loss, bad):
    for row in (0, 5):  # of a class of two, and alone of its class
        rows = points()
        rows[row, 1] = bad
        value, gradient = of(loss, rows, LABELS)
        assert not value.isfinite()
        assert gradient.isnan().any()
    assert of(loss, rows, LABELS.where(LABELS[row] != LABELS, -1))[0].isnan()
    assert not of(loss, rows[row : row + 1], LABELS[:1])[0].isfinite()


@every_of_pairs
@pytest.mark.parametrize("bad", [NAN, INFINITY])
def test_a_reference_that_is_not_finite_shows_too(loss, bad):
    references = points(6, seed=1)
    references[2, 0] = bad
    value, gradient = of(loss, points(), LABELS, references, torch.arange(6) % 4)
    assert value.isnan()
    assert gradient.isnan().any()
    bad_batch = torch.full((2, DIM), bad, dtype=torch.float64)
    assert of(loss, bad_batch, LABELS[:2], *nothing())[0].isnan()


@pytest.mark.parametrize("together", [False, True])
def test_what_is_not_finite_in_a_memory_shows_in_later_batches(together):
    loss = losses.CrossBatchMemory(
        losses.MultiSimilarityLoss(), embedding_dim=DIM, size=16, copies=True, together=together
    ).double()
    assert loss(points(), LABELS).isfinite()
    rows = points(seed=1)
    rows[0, 0] = NAN
    assert loss(rows, LABELS).isnan()
    assert loss(points(seed=2), LABELS).isnan()


def distance_that_breaks(a, b):
    return EUCLIDEAN.matrix(a, b).index_fill(1, torch.tensor([0]), NAN)


def test_a_distance_of_ones_own_that_is_not_a_number_shows():
    broken = distances.Distance("broken", distance_that_breaks, EUCLIDEAN.paired)
    assert losses.ContrastiveLoss(distance=broken)(points(), LABELS).isnan()
    assert losses.TripletLoss(distance=broken, miner=nothing_selected)(points(), LABELS).isnan()


def nothing_selected(distances, is_positive, is_negative):
    none = torch.zeros(0).long()
    return Triplets(none, none, none, none.bool())


def test_given_pairs_and_triplets_show_it_whatever_their_cost_does():
    a, b, c = points(4), points(4, seed=1), points(4, seed=2)
    same = torch.tensor([True, False, True, False])
    for cost in (None, lambda distances, _: (distances > 0).double()):
        for bad in (NAN, INFINITY):
            b[1, 0] = bad
            assert losses.GivenPairsLoss(cost)(a, b, same).isnan()
            assert losses.GivenTripletsLoss(cost)(a, c, b).isnan()
            assert losses.GivenTripletsLoss(cost)(b, a, c).isnan()


@pytest.mark.parametrize(
    "loss",
    [
        losses.SimCLRLoss(),
        losses.SimSiamLoss(torch.nn.Identity()),
        losses.BarlowTwinsLoss(),
        losses.VICRegLoss(),
    ],
)
@pytest.mark.parametrize("bad", [NAN, INFINITY])
@pytest.mark.parametrize("side", [0, 1])
def test_a_view_that_is_not_finite_shows(loss, side, bad):
    views = [points(5), points(5, seed=1)]
    assert loss(*views).isfinite()
    views[side][2, 0] = bad
    assert not loss(*views).isfinite()


def test_pure_functions_of_a_selected_distance_that_is_nan_are_nan():
    apart = EUCLIDEAN.matrix(points(), points())
    is_positive, is_negative = masks(LABELS)
    for mask in (is_positive, is_negative):
        broken = apart.clone()
        row, column = mask.nonzero()[0]
        broken[row, column] = NAN
        weights = {"positive_temperature": 1.0, "negative_temperature": 0.0}
        ranked = losses.ranked_list_loss(
            broken, is_positive, is_negative, margin=0.4, boundary=1.2, balance=0.5, **weights
        )
        assert ranked[row].isnan()
        consistent = losses.threshold_consistency_loss(
            broken, is_positive, is_negative, positive_margin=0.1, negative_margin=0.5
        )
        assert consistent.isnan()
        mined = miners.multi_similarity(0.1)(broken, is_positive, is_negative)
        assert (mined.positive | mined.negative)[row, column]
        hard = miners.batch_hard(broken, is_positive, is_negative)
        assert hard.keep[row]
        assert column in (hard.positive[row], hard.negative[row])


@every_of_pairs
def test_facts_of_a_batch_that_is_not_finite_are_not_all_finite(loss):
    rows = points()
    rows[0] = NAN
    loss(rows, LABELS)
    assert not all(fact.isfinite() for fact in loss.facts.values())


def test_a_finite_batch_passes_unchanged_and_nothing_waits(monkeypatch):
    monkeypatch.setattr(_shown, "free_to_look", lambda _: False)  # as on a GPU
    value = torch.tensor(0.3, requires_grad=True)
    with NothingWaits():
        same = _shown.shown(value, torch.tensor([[-3e38, 3e38]]), torch.zeros(1, 2))
    assert same == value
    assert torch.autograd.grad(same, value) == (1.0,)


# A row of zeros


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_row_of_zeros_leaves_a_step_of_usual_size(loss, dtype):
    largest = of(loss, points().to(dtype), LABELS)[1].abs().max()
    for row in (0, 5):  # of a class of two, and alone of its class
        rows = points().to(dtype)
        rows[row] = 0
        value, gradient = of(loss, rows, LABELS)
        assert value.isfinite()
        assert gradient.abs().max() < 100 * largest + 1


# Nothing


def nothing():
    return torch.zeros(0, DIM, dtype=torch.float64), torch.zeros(0).long()


@every
def test_an_empty_batch_costs_nothing_and_backpropagates(loss):
    for against in ((), nothing(), (points(5), torch.arange(5))):
        value, gradient = of(loss, *nothing(), *against)
        assert value == 0
        assert gradient.shape == (0, DIM)
        assert all(fact.isfinite() for fact in loss.facts.values())


@every_of_pairs
def test_a_batch_without_references_costs_nothing(loss):
    value, gradient = of(loss, points(), LABELS, *nothing())
    penalty = ("NPairsLoss", "SNRContrastiveLoss")  # on the embeddings themselves
    assert value == 0 or type(loss).__name__ in penalty
    assert gradient.isfinite().all()
    assert all(fact.isfinite() for fact in loss.facts.values())


@every
def test_one_item_one_class_and_all_alone_are_finite(loss):
    for labels in (LABELS[:1], torch.zeros(4).long(), torch.arange(4)):
        value, gradient = of(loss, points(len(labels)), labels)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize(
    "mine",
    [pytest.param(v, id=k) for k, v in {**TRIPLET_MINERS, **PAIR_MINERS}.items()],
)
def test_a_miner_of_nothing_selects_nothing(mine, shape):
    empty = torch.zeros(shape)
    mined = mine(empty, empty.bool(), empty.bool())
    if isinstance(mined, Triplets):
        assert not mined.keep.any()
    else:
        assert mined.positive.shape == mined.negative.shape == shape


# Unlabeled items


def with_unlabeled(rows, labels, seed):
    """The same with some unlabeled items among them, and where the labeled ones went."""
    size = len(rows)
    places = torch.randperm(size + 4, generator=rng(seed))[:size].sort().values
    more = points(size + 4, seed=seed + 1).index_copy(0, places, rows)
    return more, torch.full((size + 4,), -1).index_copy(0, places, labels), places


def by_chance(loss):
    miner = getattr(loss, "miner", None)
    return any(
        miner is chance
        for chance in (
            TRIPLET_MINERS["random hard"],
            TRIPLET_MINERS["random semi-hard"],
            TRIPLET_MINERS["distance weighted"],
            PAIR_MINERS["balanced"],
        )
    )


@every
@pytest.mark.parametrize("seed", range(2))
def test_unlabeled_items_change_nothing_and_have_no_gradient(loss, seed):
    rows, labels = points(seed=seed), LABELS
    more, more_labels, places = with_unlabeled(rows, labels, seed)
    loss.eval()
    expected, slopes = of(loss, rows, labels)
    told = {k: v for k, v in loss.facts.items() if not k.startswith("spread")}
    found, found_slopes = of(loss, more, more_labels)
    assert (found_slopes[more_labels == -1] == 0).all()
    if not by_chance(loss):
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(found_slopes[places], slopes)
        for name, fact in told.items():
            torch.testing.assert_close(loss.facts[name], fact, check_dtype=False)


@every_of_pairs
def test_unlabeled_items_change_nothing_against_references_either(loss):
    if by_chance(loss):
        return
    references, reference_labels = points(9, seed=5), torch.arange(9) % 4
    expected, _ = of(loss, points(), LABELS, references, reference_labels)
    more, more_labels, _ = with_unlabeled(points(), LABELS, 3)
    others, other_labels, _ = with_unlabeled(references, reference_labels, 4)
    found, slopes = of(loss, more, more_labels, others, other_labels)
    torch.testing.assert_close(found, expected)
    assert (slopes[more_labels == -1] == 0).all()


@every
def test_a_batch_without_labels_costs_nothing(loss):
    value, gradient = of(loss, points(), torch.full((8,), -1))
    assert value == 0
    assert (gradient == 0).all()
    assert of(loss, points(), LABELS)[0] != 0


def test_a_share_of_the_classes_is_drawn_for_unlabeled_items_too():
    loss = losses.NormalizedSoftmaxLoss(DIM, 40, class_share=0.25).double()
    labels = torch.tensor([-1, 7, 39, -1])
    for _ in range(20):
        compared = loss.centers(points(4), labels)
        assert compared.own[[0, 3]].tolist() == [-1, -1]
        assert torch.equal(compared.centers[compared.own[[1, 2]]], loss.centers.weight[[7, 39]])
    drawn = [loss.centers._draw(torch.tensor([-1, 7]), 10).tolist() for _ in range(200)]
    assert all(7 in some for some in drawn)
    assert 20 < sum(0 in some for some in drawn) < 80, "class 0 is drawn as any other"


@pytest.mark.parametrize("together", [False, True])
def test_unlabeled_items_in_a_memory_pair_with_nothing(together):
    def run(size, batches):
        loss = losses.CrossBatchMemory(
            losses.MultiSimilarityLoss(), embedding_dim=DIM, size=size, together=together
        ).double()
        ids = iter(torch.arange(1000))
        return [
            loss(rows, labels, ids=torch.stack([next(ids) for _ in labels]))
            for rows, labels in batches
        ], loss

    batches = [(points(seed=seed), LABELS) for seed in range(4)]
    with_more = [with_unlabeled(*batch, seed)[:2] for seed, batch in enumerate(batches)]
    expected, _ = run(64, batches)
    found, loss = run(64, with_more)
    torch.testing.assert_close(found, expected)
    assert loss.labels.eq(-1).sum() == 64 - 4 * 8


def test_an_unlabeled_item_has_no_other_view():
    loss = losses.OnViews(losses.SimCLRLoss())
    with pytest.raises(ValueError, match="exactly twice, one for each view of an item, and no -1"):
        loss(points(4), torch.tensor([-1, 5, 5, -1]))


def test_facts_of_unlabeled_items_are_those_of_the_others():
    more, more_labels, _ = with_unlabeled(points(), LABELS, 0)
    told = batch_facts(more, EUCLIDEAN.matrix(more, more), *masks(more_labels))
    alone = batch_facts(points(), EUCLIDEAN.matrix(points(), points()), *masks(LABELS))
    for name in set(told) - {"spread"}:
        torch.testing.assert_close(told[name], alone[name])
