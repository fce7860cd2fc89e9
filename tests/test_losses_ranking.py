import math

import pytest
import torch

from likewise.distances import COSINE, EUCLIDEAN
from likewise.losses import (
    FastAPLoss,
    RankedListLoss,
    RecallAtKLoss,
    SmoothAPLoss,
    fast_ap_loss,
    smooth_ranks,
)
from likewise.masks import masks
from likewise.miners import anchor_rows

LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 0])


def embeddings(size=7, seed=0, dim=3):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, dim, generator=rng, dtype=torch.float64, requires_grad=True)


def batch(seed, size=13, classes=4):
    labels = torch.randint(0, classes, (size,), generator=torch.Generator().manual_seed(seed))
    return embeddings(size, seed), labels


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -500 else 0.0


def rows(distances, is_positive, is_negative):
    """Of each anchor: the distances of its positives and of its negatives."""
    for d, p, n in zip(distances.tolist(), is_positive.tolist(), is_negative.tolist(), strict=True):
        yield (
            [x for x, yes in zip(d, p, strict=True) if yes],
            [x for x, yes in zip(d, n, strict=True) if yes],
        )


def fast_ap_value(every, loss):
    values, width = [], loss.farthest / loss.bins
    for ps, ns in every:
        if not ps:
            continue
        edges = [width * j for j in range(loss.bins + 1)]
        h_p = [sum(max(0, 1 - abs(d - edge) / width) for d in ps) for edge in edges]
        h = [sum(max(0, 1 - abs(d - edge) / width) for d in ps + ns) for edge in edges]
        total = sum(
            h_p[j] * sum(h_p[: j + 1]) / sum(h[: j + 1]) for j in range(len(h)) if h_p[j] > 0
        )
        values.append(1 - total / len(ps))
    return sum(values) / len(values)


def smooth_ap_value(every, loss):
    values = []
    for ps, ns in every:
        if not ps:
            continue
        total = 0.0
        for i, d in enumerate(ps):
            among = 1 + sum(sigmoid((d - x) / loss.temperature) for x in ps[:i] + ps[i + 1 :])
            total += among / (among + sum(sigmoid((d - x) / loss.temperature) for x in ns))
        values.append(1 - total / len(ps))
    return sum(values) / len(values)


def recall_value(every, loss):
    values = []
    for ps, ns in every:
        if not ps:
            continue
        recalls = []
        for k in loss.ks:
            found = 0.0
            for i, d in enumerate(ps):
                others = ps[:i] + ps[i + 1 :] + ns
                rank = 1 + sum(sigmoid((d - x) / loss.temperature) for x in others)
                found += sigmoid((k - rank) / loss.rank_temperature)
            recalls.append(found / len(ps))
        values.append(1 - sum(recalls) / len(recalls))
    return sum(values) / len(values)


def ranked_list_value(every, loss):
    total = count = 0
    for ps, ns in every:
        count += 1
        inner = loss.boundary - loss.margin
        for part, costs, t in [
            (1 - loss.balance, [d - inner for d in ps if d > inner], loss.positive_temperature),
            (
                loss.balance,
                [loss.boundary - d for d in ns if d < loss.boundary],
                loss.negative_temperature,
            ),
        ]:
            weights = [math.exp(t * cost) for cost in costs]
            if costs:
                cost = sum(w * c for w, c in zip(weights, costs, strict=True)) / sum(weights)
                total += part * cost
    return total / count


CASES = {
    "fast ap": (FastAPLoss(), fast_ap_value),
    "fast ap of many bins": (FastAPLoss(bins=37), fast_ap_value),
    "smooth ap": (SmoothAPLoss(temperature=0.1), smooth_ap_value),
    "smooth ap of euclidean": (SmoothAPLoss(temperature=0.3, distance=EUCLIDEAN), smooth_ap_value),
    "recall at k": (RecallAtKLoss(ks=(1, 3), temperature=0.1), recall_value),
    "ranked list": (RankedListLoss(), ranked_list_value),
    "ranked list weighted": (
        RankedListLoss(positive_temperature=3.0, balance=0.3, boundary=1.8),
        ranked_list_value,
    ),
}
LOSSES = pytest.mark.parametrize("loss", [pytest.param(c[0], id=k) for k, c in CASES.items()])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CASES)
def test_the_loss_agrees_with_the_loops(name, seed):
    loss, value = CASES[name]
    points, labels = batch(seed)
    distances = loss.distance.matrix(points, points).detach()
    expected = value(rows(distances, *masks(labels)), loss)
    assert expected > 0.01
    assert float(loss(points, labels).detach()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CASES)
def test_the_loss_against_references_with_older_copies_agrees_with_the_loops(name, seed):
    loss, value = CASES[name]
    points, labels = batch(seed, size=6)
    references, reference_labels = batch(seed + 50, size=17)
    ids, reference_ids = torch.arange(6), torch.arange(17) + 3
    distances = loss.distance.matrix(points, references).detach()
    every = rows(distances, *masks(labels, reference_labels, ids=ids, reference_ids=reference_ids))
    expected = value(every, loss)
    found = loss(points, labels, references, reference_labels, ids=ids, reference_ids=reference_ids)
    assert expected > 0.01
    assert float(found.detach()) == pytest.approx(expected, rel=1e-9)


@LOSSES
def test_gradient_is_the_slope(loss):
    assert loss(embeddings(), LABELS) > 0.01
    assert torch.autograd.gradcheck(lambda e: loss(e, LABELS), embeddings())
    other, labels = batch(5, size=9)
    assert loss(embeddings(), LABELS, other, labels) > 0.01
    assert torch.autograd.gradcheck(
        lambda e, r: loss(e, LABELS, r, labels), (embeddings(), other.detach().requires_grad_())
    )


@LOSSES
def test_blocks_of_rows_change_nothing(loss, monkeypatch):
    points, labels = batch(3)
    results = []
    for most in (1 << 20, 40):
        monkeypatch.setattr(anchor_rows, "MOST", most)
        value = loss(points, labels)
        (gradient,) = torch.autograd.grad(value, points)
        results.append((value.detach(), gradient))
    assert results[0][1].abs().max() > 0
    torch.testing.assert_close(results[0], results[1])


@LOSSES
def test_ties_and_duplicates_agree_with_the_loops(loss):
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [-1.0, 0.0]]).double()
    labels = torch.tensor([0, 0, 0, 1, 1])
    value = next(v for c, v in CASES.values() if c is loss)
    distances = loss.distance.matrix(points, points)
    expected = value(rows(distances, *masks(labels)), loss)
    assert expected > 0.01
    assert float(loss(points, labels)) == pytest.approx(expected, rel=1e-9)


@LOSSES
def test_order_and_label_names_do_not_matter_and_labels_do(loss):
    points, labels = batch(2)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(points[order], 90 - 7 * labels[order]), loss(points, labels))
    assert not torch.isclose(loss(points, labels.roll(1)), loss(points, labels))


@LOSSES
def test_a_right_arrangement_costs_less_than_a_wrong_one(loss):
    corners = torch.eye(3).repeat_interleave(4, dim=0)
    corners = corners + 0.01 * torch.arange(12)[:, None] * torch.tensor([[1.0, -1.0, 0.5]])
    assert loss(corners, torch.arange(12) // 4) < 0.7 * loss(corners, torch.arange(12) % 4)


@LOSSES
@pytest.mark.parametrize("labels", [torch.arange(6), torch.zeros(6).long()])
def test_a_batch_without_both_kinds_still_backpropagates(loss, labels):
    lonely = embeddings(6)
    loss(lonely, labels).backward()
    assert torch.isfinite(lonely.grad).all()


@pytest.mark.parametrize("loss", [FastAPLoss(), SmoothAPLoss(), RecallAtKLoss()])
def test_a_batch_without_positives_costs_nothing(loss):
    lonely = embeddings(6)
    value = loss(lonely, torch.arange(6))
    value.backward()
    assert value == 0
    assert (lonely.grad == 0).all()
    empty = loss(lonely[:0], torch.zeros(0).long())
    assert empty == 0


@LOSSES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_loss_and_gradient_are_finite_at_duplicates_and_large_scale(loss, dtype, scale):
    points = (scale * torch.eye(3)[[0, 0, 1, 2, 0, 1, 2]]).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not torch.float32):
        value = loss(points, LABELS)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(points.grad).all()


@LOSSES
def test_labels_of_the_wrong_shape_or_kind_are_named(loss):
    with pytest.raises(ValueError, match=r"labels must have shape \(7,\), .* got \(7, 1\)"):
        loss(embeddings(), LABELS[:, None])
    with pytest.raises(TypeError, match=r"labels must be integers, got torch\.float32"):
        loss(embeddings(), LABELS.float())


def test_smooth_average_precision_becomes_the_real_one_as_the_temperature_falls():
    distances = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5]]).double()
    positive = torch.tensor([[True, False, True, False, False]])
    among, every, ranked = smooth_ranks(distances, positive, ~positive, temperature=1e-4)
    ranks = {(round(float(a)), round(float(b))) for a, b in zip(among[0], every[0], strict=True)}
    assert ranked.all()
    assert ranks == {(1, 1), (2, 3)}


def test_ranks_of_at_most_so_many_positives_need_not_be_looked_for():
    points, labels = batch(4)
    distances = COSINE.matrix(points, points).detach()
    fullest = int(masks(labels)[0].sum(dim=1).max())
    looked = SmoothAPLoss()(points, labels)
    torch.testing.assert_close(SmoothAPLoss(most=fullest)(points, labels), looked)
    torch.testing.assert_close(SmoothAPLoss(most=50)(points, labels), looked)
    assert not torch.isclose(SmoothAPLoss(most=fullest - 1)(points, labels), looked)
    few = smooth_ranks(distances, *masks(labels), temperature=0.1, most=2)
    assert few[0].shape == few[1].shape == few[2].shape == (13, 2)


def test_distances_beyond_the_last_bin_count_there_and_do_not_move():
    distances = torch.tensor([[0.5, 1.0, 7.0]], dtype=torch.float64, requires_grad=True)
    positive = torch.tensor([[True, False, True]])
    value = fast_ap_loss(distances, positive, ~positive, bins=4, farthest=2.0)
    (gradient,) = torch.autograd.grad(value.sum(), distances)
    clamped = fast_ap_loss(distances.clamp(max=2), positive, ~positive, bins=4, farthest=2.0)
    torch.testing.assert_close(value, clamped)
    assert gradient[0, 2] == 0


def test_facts_of_the_ranked_list():
    loss = RankedListLoss(margin=0.4, boundary=1.0)
    loss(torch.tensor([[0.0], [0.5], [1.4]]), torch.tensor([0, 0, 1]))
    assert float(loss.facts["active"]) == pytest.approx(2 / 6)  # |0.5 − 1.4| = 0.9, both ways
    assert float(loss.facts["positive_distance"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FastAPLoss(bins=0), "bins must be at least 1, got 0"),
        (lambda: FastAPLoss(farthest=0.0), "farthest must be a finite number above 0"),
        (lambda: SmoothAPLoss(temperature=0.0), "temperature must be a finite number above 0"),
        (lambda: SmoothAPLoss(most=0), "most must be at least 1, got 0"),
        (lambda: RecallAtKLoss(ks=()), "ks must hold at least one number"),
        (lambda: RecallAtKLoss(ks=(0,)), "ks must be at least 1, got 0"),
        (lambda: RankedListLoss(balance=1.5), "balance must be between 0 and 1, got 1.5"),
        (lambda: RankedListLoss(margin=0.0), "margin must be a finite number above 0"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
