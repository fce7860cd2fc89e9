"""Losses around other losses: class weights, and embeddings cut to several widths."""

import sys

import pytest
import torch
import torch.nn.functional as F

from likewise import losses, miners
from likewise.losses import ClassWeighted, MatryoshkaLoss
from likewise.masks import masks
from test_losses_memory import NothingWaits

LABELS = torch.tensor([0, 2, 0, 1, 1, 1, 2, 0, 1])
WEIGHTS = [0.5, 3.0, 1.25]


def embeddings(size=9, seed=0, dim=4):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, dim, generator=rng, dtype=torch.float64, requires_grad=True)


def both(value, leaf):
    (slopes,) = torch.autograd.grad(value, leaf, retain_graph=True)
    return value.detach(), slopes


@pytest.mark.parametrize(
    "loss", [losses.SoftmaxLoss(4, 3), losses.NormalizedSoftmaxLoss(4, 3, temperature=0.3)]
)
@pytest.mark.parametrize("unlabeled", [False, True])
def test_of_a_softmax_class_weights_are_those_of_cross_entropy(loss, unlabeled):
    labels = LABELS.clone()
    if unlabeled:
        labels[[1, 5]] = -1
    points, loss = embeddings(), loss.double()
    weighted = ClassWeighted(loss, WEIGHTS).double()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    expected = F.cross_entropy(loss.logits(points), labels, weight=weights, ignore_index=-1)
    assert not torch.isclose(expected, loss(points, labels))
    torch.testing.assert_close(both(weighted(points, labels), points), both(expected, points))


@pytest.mark.parametrize("against", [False, True])
def test_of_anchors_class_weights_weigh_the_anchors(against):
    points, references = embeddings(), embeddings(7, seed=1)
    others = (references, torch.arange(7) % 3) if against else ()
    loss = losses.CircleLoss(gamma=4.0, average="all", constant_weights=False)
    distances = loss.distance.matrix(points, references if against else points)
    pairs = masks(LABELS, *others[1:])
    costs = losses.circle_loss(distances, *pairs, margin=0.4, gamma=4.0, constant_weights=False)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)[LABELS]
    expected = (weights * costs).sum() / weights.sum()
    assert expected > 0.1
    found = ClassWeighted(loss, WEIGHTS).double()(points, LABELS, *others)
    torch.testing.assert_close(both(found, points), both(expected, points))


def test_class_weights_of_one_are_the_plain_mean_over_anchors_and_a_weight_of_zero_leaves_out():
    points, loss = embeddings(), losses.MultiSimilarityLoss(beta=10.0)
    even = ClassWeighted(loss, [2.0, 2.0, 2.0])
    torch.testing.assert_close(even(points, LABELS), loss(points, LABELS))
    only = ClassWeighted(loss, [0.0, 1.0, 0.0])
    rows, ids = LABELS == 1, torch.arange(9)
    expected = loss(points[rows], LABELS[rows], points, LABELS, ids=ids[rows], reference_ids=ids)
    torch.testing.assert_close(only(points, LABELS), expected)
    assert only(points[~rows], LABELS[~rows]) == 0


def test_older_copies_in_a_memory_are_no_pairs_of_class_weighted_losses():
    loss = losses.CrossBatchMemory(
        ClassWeighted(losses.ContrastiveLoss(margin=2.0), WEIGHTS), embedding_dim=4, size=9
    ).double()
    points, ids = embeddings().detach(), torch.arange(9)
    first, second = (loss(points, LABELS, ids=ids) for _ in range(2))
    torch.testing.assert_close(second, 2 * first)  # the memory is the batch without the copies


def test_facts_are_the_same_means_and_the_spread_is_of_the_batch():
    points, part = embeddings(), losses.ContrastiveLoss(margin=1.5)
    loss = ClassWeighted(part, WEIGHTS)
    loss(points, LABELS)
    ids, told = torch.arange(9), []
    for code in range(3):
        rows = LABELS.eq(code)
        part(points[rows], LABELS[rows], points, LABELS, ids=ids[rows], reference_ids=ids)
        told.append(float(part.facts["positive_distance"]))
    shares = torch.tensor(WEIGHTS) * torch.tensor([3.0, 4.0, 2.0])
    expected = float((shares * torch.tensor(told)).sum() / shares.sum())
    assert float(loss.facts["positive_distance"]) == pytest.approx(expected)
    part(points, LABELS)
    assert float(loss.facts["spread"]) == pytest.approx(float(part.facts["spread"]))


def test_a_teacher_is_asked_for_the_items_of_the_batch_by_class_weighted_losses_too():
    points, ids = embeddings(), torch.tensor([4, 8, 17, 3, 11, 0, 15, 2, 9])
    loss = losses.DistillationLoss(embeddings(20, seed=3).detach(), temperature=0.5)
    weighted = ClassWeighted(loss, WEIGHTS).double()
    assert weighted.takes_ids
    expected = 0
    for code, weight in enumerate(WEIGHTS):
        rows = code == LABELS
        value = loss(points[rows], LABELS[rows], points, LABELS, ids=ids[rows], reference_ids=ids)
        expected = expected + weight * rows.sum() * value
    expected = expected / torch.tensor(WEIGHTS)[LABELS].sum()
    assert expected > 0.01
    torch.testing.assert_close(weighted(points, LABELS, ids=ids), expected)
    with pytest.raises(ValueError, match="ids must be the positions of the items in the data"):
        weighted(points, LABELS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ClassWeighted(losses.NPairsLoss(), WEIGHTS),
            "loss must be a mean over items, got",
        ),
        (
            lambda: ClassWeighted(MatryoshkaLoss(losses.NPairsLoss(), (4, 2)), WEIGHTS),
            "loss must be a mean over items, got NPairsLoss",
        ),
        (lambda: ClassWeighted(losses.ProxyAnchorLoss(4, 3), WEIGHTS), "loss must be a mean over"),
        (lambda: ClassWeighted(len, WEIGHTS), "loss must be a module, got builtin"),
        (lambda: ClassWeighted(losses.TripletLoss(), [1.0, -1.0]), "weights must be finite, at le"),
        (lambda: ClassWeighted(losses.TripletLoss(), [0.0, 0.0]), "weights must be finite, at le"),
        (lambda: ClassWeighted(losses.TripletLoss(), [torch.nan]), "weights must be finite, at le"),
        (lambda: ClassWeighted(losses.TripletLoss(), 2.0), "weights must be finite, at least 0"),
        (lambda: ClassWeighted(losses.TripletLoss(), None), "weights must be .*, got None"),
        (lambda: ClassWeighted(losses.TripletLoss(), ["a"]), "weights must be numbers, got <U1"),
        (lambda: MatryoshkaLoss(len, (2, 1)), "loss must be a module, got builtin"),
        (lambda: MatryoshkaLoss([len, len], (2, 1)), "loss must be a module, got builtin"),
        (
            lambda: ClassWeighted(losses.TripletLoss(), [1.0, 1.0])(embeddings(), LABELS),
            r"labels must lie in 0\.\.1, got 0\.\.2",
        ),
        (lambda: MatryoshkaLoss(losses.TripletLoss(), ()), "dims must be different widths"),
        (lambda: MatryoshkaLoss(losses.TripletLoss(), (2, 2)), "dims must be different widths"),
        (lambda: MatryoshkaLoss(losses.TripletLoss(), (0,)), "dims must be at least 1, got 0"),
        (lambda: MatryoshkaLoss([losses.TripletLoss()], (2, 1)), "loss must be one for each of t"),
        (
            lambda: MatryoshkaLoss(losses.TripletLoss(), (2, 1), weights=(1,)),
            "weights must be one for each of the 2 dims, got 1",
        ),
        (
            lambda: MatryoshkaLoss(losses.TripletLoss(), (8, 4))(embeddings(), LABELS),
            "dim must be at most the width of the embeddings, 4, got 8",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("normalize", [True, False])
def test_a_matryoshka_loss_is_the_weighted_sum_over_the_first_numbers(normalize):
    points, references = embeddings(), embeddings(7, seed=1)
    loss = losses.TripletLoss(margin=0.5)
    cut = (lambda x, d: F.normalize(x[:, :d], dim=1)) if normalize else (lambda x, d: x[:, :d])
    nested = MatryoshkaLoss(loss, (4, 2, 1), weights=(1.0, 0.5, 0.25), normalize=normalize)
    others = torch.arange(7) % 3
    for against in ((), (references, others)):
        expected = sum(
            weight * loss(cut(points, d), LABELS, *(cut(against[0], d), others) if against else ())
            for d, weight in ((4, 1.0), (2, 0.5), (1, 0.25))
        )
        assert expected > 0.1
        found = nested(points, LABELS, *against)
        torch.testing.assert_close(both(found, points), both(expected, points))
    named = nested(points, LABELS, references=references, reference_labels=others)
    torch.testing.assert_close(named, found)
    assert torch.autograd.gradcheck(lambda e: nested(e, LABELS), points)


def test_matryoshka_facts_stand_under_their_width():
    nested = MatryoshkaLoss(losses.TripletLoss(margin=0.5), (4, 2))
    value = nested(embeddings(), LABELS)
    assert {"4/loss", "2/loss", "4/active", "2/gap", "spread"} <= set(nested.facts)
    torch.testing.assert_close(nested.facts["4/loss"] + nested.facts["2/loss"], value.detach())


def test_losses_with_centers_have_a_width_each_and_train():
    parts = [losses.ArcFaceLoss(d, 3) for d in (4, 2)]
    nested = MatryoshkaLoss(parts, (4, 2)).double()
    nested(embeddings(), LABELS).backward()
    assert all((part.centers.weight.grad != 0).any() for part in parts)
    assert len(list(nested.parameters())) == 2
    assert len(MatryoshkaLoss(losses.ArcFaceLoss(4, 3), (4,)).state_dict()) == 2


def test_sides_of_pairs_and_triplets_and_memories_are_cut_too():
    a, b, same = embeddings(), embeddings(seed=1), LABELS == 0
    given = losses.GivenPairsLoss()
    expected = sum(given(*(F.normalize(x[:, :d], dim=1) for x in (a, b)), same) for d in (3, 1))
    torch.testing.assert_close(MatryoshkaLoss(given, (3, 1))(a, b, same), expected)
    grades = torch.linspace(0, 1, 9, dtype=torch.float64)
    graded = losses.GradedPairsLoss()
    expected = sum(graded(*(F.normalize(x[:, :d], dim=1) for x in (a, b)), grades) for d in (3, 1))
    torch.testing.assert_close(MatryoshkaLoss(graded, (3, 1))(a, b, grades), expected)
    memory = losses.CrossBatchMemory(
        MatryoshkaLoss(losses.ContrastiveLoss(), (3, 1)), embedding_dim=4, size=9, copies=True
    ).double()
    assert memory(a, LABELS) < memory(b, LABELS)
    assert MatryoshkaLoss(memory, (4,)).takes_ids
    assert not MatryoshkaLoss(losses.TripletLoss(), (4,)).takes_ids


def test_cut_half_precision_is_scaled_in_float32():
    points = (3e4 * torch.eye(4)[[0, 0, 1, 2, 3, 3]]).half().requires_grad_()
    loss = MatryoshkaLoss(losses.TripletLoss(miner=miners.batch_hard), (4, 2))
    value = loss(points, torch.tensor([0, 1, 0, 1, 0, 1]))
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert points.grad.isfinite().all()


def as_on_a_gpu():
    """Losses that have a way of their own where a number of the device must not be waited for."""
    ids = torch.arange(9)
    narrow = miners.within_range(miners.pair_margin(), positive=(0.0, 9.0))
    teacher = losses.DistillationLoss(embeddings(9, seed=2, dim=2).detach())
    weighted = ClassWeighted(losses.ArcFaceLoss(4, 3), WEIGHTS)
    graded = losses.GradedPairsLoss()
    return {
        "margin": losses.MarginLoss(),
        "margin of classes": losses.MarginLoss(class_count=3, nu=0.1),
        "margin, batch hard": losses.MarginLoss(miner=miners.batch_hard),
        "margin, semi-hard": losses.MarginLoss(miner=miners.all_semi_hard(0.5)),
        "tuplet margin": losses.TupletMarginLoss(miner=narrow),
        "intra-pair variance": losses.IntraPairVarianceLoss(),
        "matryoshka": MatryoshkaLoss(losses.ContrastiveLoss(), (4, 2)),
        "class weights": weighted.double(),
        "distillation": lambda points, labels: teacher(points, labels, ids=ids),
        "graded pairs": lambda points, labels: graded(points, points.roll(1, 0), labels),
    }


@pytest.mark.parametrize("name", as_on_a_gpu())
def test_no_step_waits_for_the_device_and_all_are_as_on_a_cpu(monkeypatch, name):
    points, loss = embeddings(), as_on_a_gpu()[name]
    expected = both(loss(points, LABELS), points)
    for module in [each for key, each in sys.modules.items() if key.startswith("likewise")]:
        if hasattr(module, "free_to_look"):
            monkeypatch.setattr(module, "free_to_look", lambda _: False)
    with NothingWaits():
        found = loss(points, LABELS)
        found.backward()
    torch.testing.assert_close((found.detach(), points.grad), expected)


def test_a_matryoshka_loss_takes_ids_where_one_of_its_parts_does():
    plain = losses.TripletLoss()
    memory = losses.CrossBatchMemory(losses.TripletLoss(), embedding_dim=2)
    assert MatryoshkaLoss([plain, memory], dims=(4, 2)).takes_ids
    assert not MatryoshkaLoss(plain, dims=(4, 2)).takes_ids
