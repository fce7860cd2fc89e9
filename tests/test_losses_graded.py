"""Losses of graded pairs and of a teacher's distances."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import likewise as lw
from likewise.distances import COSINE, EUCLIDEAN
from likewise.losses import DistillationLoss, GradedPairsLoss, distillation_loss, graded_pairs_loss
from likewise.losses import graded_pairs as graded_pairs_module


def rows(size, seed=0, dim=4):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, dim, generator=rng, dtype=torch.float64)


def grades_of(size, seed=0, kinds=4):
    return torch.randint(0, kinds, (size,), generator=torch.Generator().manual_seed(seed)).double()


def graded_by_loops(distances, grades, scale):
    terms = [
        torch.exp(scale * (distances[i] - distances[j]))
        for i in range(len(grades))
        for j in range(len(grades))
        if grades[i] > grades[j]
    ]
    return (1 + sum(terms)).log() if terms else 0 * distances.sum()


@pytest.mark.parametrize("in_numpy", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_graded_pairs_agree_with_the_loops(monkeypatch, seed, in_numpy):
    if not in_numpy:
        monkeypatch.setattr(graded_pairs_module, "WIDEST", -torch.inf)
    distances = rows(9, seed)[:, 0].abs().requires_grad_()
    grades = grades_of(9, seed)
    assert len(grades.unique()) < 9, "equal grades ask for nothing"
    found, expected = (
        loss(distances, grades, scale=3.0) for loss in (graded_pairs_loss, graded_by_loops)
    )
    assert expected > 1
    torch.testing.assert_close(found, expected)
    slopes = (torch.autograd.grad(value, distances)[0] for value in (found, expected))
    torch.testing.assert_close(*slopes)
    assert torch.autograd.gradcheck(lambda d: graded_pairs_loss(d, grades, scale=3.0), distances)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_far_distances_overflow_neither_value_nor_slopes(scale):
    distances = torch.tensor([100.0, 1.0, 50.0], requires_grad=True)
    value = graded_pairs_loss(distances, torch.tensor([2, 1, 0]), scale=scale)
    value.backward()
    assert float(value.detach()) == pytest.approx(99 * scale, rel=1e-6)
    torch.testing.assert_close(distances.grad, scale * torch.tensor([1.0, -1.0, 0.0]))


@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize(
    "grades",
    [
        grades_of(8),
        torch.arange(8),
        torch.arange(8) > 4,
        grades_of(8).bfloat16(),
        grades_of(8).requires_grad_(),
    ],
)
def test_the_module_takes_the_cosine_of_the_sides_and_any_kind_of_grades(
    monkeypatch, grades, looks
):
    monkeypatch.setattr(graded_pairs_module, "free_to_look", lambda _: looks)
    a, b, loss = rows(8), rows(8, 1), GradedPairsLoss(scale=5.0)
    expected = graded_by_loops(COSINE.paired(a, b), grades, 5.0)
    torch.testing.assert_close(loss(a, b, grades), expected)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(a[order], b[order], grades[order]), expected)
    assert torch.autograd.gradcheck(lambda x: loss(x, b, grades), a.requires_grad_())


def test_the_share_in_order_is_told():
    a = torch.tensor([[0.0], [0.0], [0.0]])
    loss = GradedPairsLoss(distance=EUCLIDEAN)
    loss(a, torch.tensor([[1.0], [2.0], [1.5]]), torch.tensor([3, 2, 1]))
    assert float(loss.facts["ordered"]) == pytest.approx(2 / 3)  # 2 before 1.5 is wrong
    loss(a, a, torch.ones(3))
    assert float(loss.facts["ordered"]) == 0


def test_odd_batches_of_graded_pairs():
    loss = GradedPairsLoss()
    for size in (0, 1):
        a = rows(size).requires_grad_()
        value = loss(a, rows(size, 1), torch.ones(size))
        value.backward()
        assert value == 0
        assert (a.grad == 0).all()
    assert loss(rows(4), rows(4, 1), torch.ones(4)) == 0  # one grade
    for bad in (torch.nan, torch.inf):
        broken = rows(4)
        broken[2, 1] = bad
        assert loss(broken, rows(4, 1), torch.arange(4)).isnan()
        assert loss(rows(4), broken, torch.ones(4)).isnan()
    for dtype in (torch.float16, torch.bfloat16):
        half = rows(4).to(dtype)
        half[1] = 0
        half.requires_grad_()
        value = loss(half, rows(4, 1).to(dtype), torch.arange(4))
        value.backward()
        assert value.dtype == torch.float32
        assert half.grad.isfinite().all()


@pytest.mark.parametrize(
    ("grades", "message"),
    [
        (torch.ones(3), r"grades must have shape \(4,\), one per pair, got \(3,\)"),
        (torch.ones(4, 1), r"grades must have shape \(4,\), one per pair, got \(4, 1\)"),
        (torch.tensor([1.0, torch.nan, 0, 0]), "grades must be finite, got 1 NaN"),
        ([1, 2, 3, 4], r"grades must be a tensor of numbers, got \[1, 2, 3, 4\]"),
    ],
)
def test_grades_that_are_none_are_named(grades, message):
    with pytest.raises(ValueError, match=message):
        GradedPairsLoss()(rows(4), rows(4, 1), grades)


def circle(size):
    """Points around a circle, and pairs graded by how near they are."""
    angles = torch.arange(size) * (2 * math.pi / size)
    items = torch.stack([angles.cos(), angles.sin()], dim=1)
    rng = np.random.default_rng(0)
    pairs = np.unique(np.sort(rng.integers(0, size, (200, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    grades = (items[pairs[:, 0]] * items[pairs[:, 1]]).sum(dim=1)
    return lw.data.ArrayDataset(items.numpy(), np.zeros(size, dtype=int)), pairs, grades


def test_fit_trains_on_graded_pairs():
    data, pairs, grades = circle(40)
    graded = lw.data.GradedPairs(data, pairs, 5 * grades)
    (a, _), grade = graded[3]
    assert torch.equal(a, data[int(pairs[3, 0])][0])
    assert grade == pytest.approx(5 * float(grades[3]))
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 8))
    history = lw.fit(encoder, GradedPairsLoss(), graded, epochs=8, learning_rate=0.01)
    assert history[-1]["loss"] < history[0]["loss"] - 0.3
    assert history[-1]["ordered"] > 0.85


@pytest.mark.parametrize(
    ("grades", "message"),
    [
        ([1.0], r"same must have shape \(2,\)"),
        ([[1.0], [2.0]], r"grades must have shape \(2,\), one per pair, got \(2, 1\)"),
        ([1.0, math.inf], "grades must be finite, got 1 NaN or infinite of 2"),
        (["a", "b"], "grades must be numbers, got <U1"),
    ],
)
def test_grades_of_a_dataset_that_are_none_are_named(grades, message):
    data, _, _ = circle(4)
    with pytest.raises(ValueError, match=message):
        lw.data.GradedPairs(data, [[0, 1], [2, 3]], grades)


# A teacher


def distilled_by_loops(d, teacher, counted, temperature):
    costs = []
    for i in range(len(d)):
        columns = [j for j in range(d.shape[1]) if counted[i, j]]
        if not columns:
            costs.append(0 * d.sum())
            continue
        p, q = ((-x[i, columns] / temperature).softmax(dim=0) for x in (teacher, d))
        costs.append(temperature**2 * (p * (p / q).log()).sum())
    return torch.stack(costs)


def test_distillation_agrees_with_the_loops():
    d = EUCLIDEAN.matrix(rows(6), rows(5, 1)).detach().requires_grad_()
    teacher = EUCLIDEAN.matrix(rows(6, 2), rows(5, 3))
    counted = rows(6, 4, 5) > 0
    counted[2] = False
    expected = distilled_by_loops(d, teacher, counted, 0.7)
    assert (expected > 0.01).sum() > 2
    found = distillation_loss(d, teacher, counted, temperature=0.7)
    torch.testing.assert_close(found, expected)
    slopes = (torch.autograd.grad(value.sum(), d)[0] for value in (found, expected))
    torch.testing.assert_close(*slopes)
    assert (distillation_loss(teacher, teacher, counted, temperature=0.7).abs() < 1e-12).all()


def test_the_module_looks_the_teacher_up_by_ids_and_leaves_an_item_itself_out():
    teacher, points, ids = rows(20, 5, dim=7), rows(6), torch.tensor([3, 9, 0, 19, 7, 9])
    loss = DistillationLoss(teacher, temperature=0.2)
    known = COSINE.matrix(teacher[ids], teacher[ids])
    counted = ids[:, None] != ids
    assert not counted[1, 5], "twice the same item"
    expected = distilled_by_loops(COSINE.matrix(points, points), known, counted, 0.2).mean()
    unlabeled = torch.full((6,), -1)
    torch.testing.assert_close(loss(points, unlabeled, ids=ids), expected)
    assert float(loss.facts["teacher_distance"]) == pytest.approx(float(known[counted].mean()))
    assert torch.autograd.gradcheck(
        lambda x: loss(x, unlabeled, ids=ids), points.clone().requires_grad_()
    )
    references, others = rows(4, 6), torch.tensor([1, 3, 5, 0])
    expected = distilled_by_loops(
        COSINE.matrix(points, references),
        COSINE.matrix(teacher[ids], teacher[others]),
        ids[:, None] != others,
        0.2,
    ).mean()
    found = loss(points, unlabeled, references, others, ids=ids, reference_ids=others)
    torch.testing.assert_close(found, expected)


def test_odd_batches_of_a_student():
    loss, ids = DistillationLoss(rows(9)), torch.arange(4)
    for size in (0, 1):
        points = rows(size).requires_grad_()
        value = loss(points, ids[:size], ids=ids[:size])
        value.backward()
        assert value == 0
        assert (points.grad == 0).all()
    broken = rows(4)
    broken[3, 0] = torch.nan
    assert loss(broken, ids, ids=ids).isnan()
    half = rows(4).half()
    half[0] = 0
    half.requires_grad_()
    value = loss(half, ids, ids=ids)
    value.backward()
    assert value.dtype in (torch.float32, torch.float64)
    assert half.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda loss: loss(rows(3), torch.arange(3)), "ids must be the positions of the items in"),
        (
            lambda loss: loss(rows(3), torch.arange(3), ids=torch.tensor([0, 1, 9])),
            "ids must be between 0 and 8, got 0 to 9",
        ),
        (
            lambda loss: loss(rows(3), torch.arange(3), ids=torch.tensor([0, -1, 2])),
            "ids must be between 0 and 8, got -1 to 2",
        ),
        (
            lambda loss: loss(rows(3), torch.arange(3), ids=torch.arange(2)),
            r"ids must have shape \(3,\)",
        ),
        (
            lambda loss: loss(rows(2), torch.arange(2), rows(2), ids=torch.arange(2)),
            "reference_ids must be the positions of the items in the data, got none",
        ),
        (lambda _: DistillationLoss(rows(9) * torch.nan), "teacher must be finite, got 36 NaN"),
        (lambda _: DistillationLoss(rows(9), temperature=0), "temperature must be a finite number"),
    ],
)
def test_a_teacher_that_does_not_know_the_items_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(DistillationLoss(rows(9)))


def test_a_student_learns_the_order_of_its_teacher():
    data, _, _ = circle(40)
    teacher = torch.from_numpy(np.stack([data[i][0].numpy() for i in range(40)]))
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 8))
    sampler = lw.samplers.ShuffledBatchSampler(40, batch_size=20, batches=20)
    loss = lw.losses.Sum(DistillationLoss(teacher, temperature=0.5))
    history = lw.fit(encoder, loss, data, epochs=6, batch_sampler=sampler, learning_rate=0.01)
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]
