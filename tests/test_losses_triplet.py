import math

import pytest
import torch

from likewise import miners
from likewise.distances import COSINE, EUCLIDEAN, SNR, SQUARED_EUCLIDEAN, Distance
from likewise.losses import AngularLoss, TripletLoss, all_triplets_hinge, angular_loss, triplet_loss
from likewise.losses.triplet import FEW_TRIPLETS
from likewise.masks import masks
from likewise.miners import anchor_rows

SEEDS = range(6)


def batch(seed, size=13, classes=4, dim=3):
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(size, dim, generator=rng, dtype=torch.float64)
    points[1] = points[0]  # a duplicate
    return points.requires_grad_(), torch.randint(0, classes, (size,), generator=rng)


def rectangular(seed):
    points, labels = batch(seed, 7)
    references, reference_labels = batch(seed + 100, 11)
    return points, labels, references, reference_labels


def listed(positive, negative):
    """Every (row, positive, negative), by loops."""
    rows, columns = positive.shape
    return [
        (a, p, n)
        for a in range(rows)
        for p in range(columns)
        if positive[a, p]
        for n in range(columns)
        if negative[a, n]
    ]


def cost_of(gap, margin):
    return torch.log1p(gap.exp()) if margin is None else torch.relu(gap + margin)


def spans(near, far, beside, degrees):
    near, far, beside = (float(distance.detach()) for distance in (near, far, beside))
    middle = math.sqrt(max(0.0, (far**2 + beside**2) / 2 - near**2 / 4))
    return near > 2 * math.tan(math.radians(degrees)) * middle


def by_loops(distances, between, positive, negative, margin, swap=False, chosen=None):
    """Sum, number above zero and number of the triplets for which `chosen` holds."""
    total, active, count = distances.sum() * 0, 0, 0
    for a, p, n in listed(positive, negative):
        near, far, beside = distances[a, p], distances[a, n], between[p, n]
        if chosen is not None and not chosen(near, far, beside):
            continue
        if swap:
            far = torch.minimum(far, beside)
        cost = cost_of(near - far, margin)
        total = total + cost
        active += int(cost > 0)
        count += 1
    return total, active, count


def test_the_hinge_is_the_gap_and_the_margin_and_the_soft_margin_its_logarithm():
    near, far = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([2.0, 1.0, 1.0])
    assert triplet_loss(near, far, margin=0.75).tolist() == [0.0, 1.75, 0.25]
    soft = [math.log1p(math.exp(gap)) for gap in (-1.0, 1.0, -0.5)]
    assert triplet_loss(near, far, margin=None).tolist() == pytest.approx(soft)


def test_chosen_triplets_are_read_from_row_and_column():
    distances = torch.arange(12.0).view(3, 4).requires_grad_()

    def mine(*_):
        index = torch.tensor([2, 0])
        return miners.Triplets(index, torch.tensor([1, 3]), torch.tensor([0, 2]), index >= 0)

    table = Distance("table", lambda a, b: distances, EUCLIDEAN.paired)
    loss = TripletLoss(margin=5.0, miner=mine, distance=table)
    value = loss(torch.zeros(3, 2), torch.arange(3), torch.zeros(4, 2), torch.arange(4))
    assert value == 5 + 1  # 9 - 8 and 3 - 2
    value.backward()
    assert distances.grad.nonzero().tolist() == [[0, 2], [0, 3], [2, 0], [2, 1]]


RULES = {
    "all": (miners.all_triplets, None),
    "semi-hard": (miners.all_semi_hard(0.6), lambda near, far, _: near < far < near + 0.6),
    "angular": (miners.angular(25), lambda *three: spans(*three, 25)),
}


@pytest.mark.parametrize("average", ["active", "all"])
@pytest.mark.parametrize("distance", [EUCLIDEAN, SNR])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("margin", [0.4, 0.9, None])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_of_all_triplets_are_those_of_the_loops(
    seed, rule, margin, swap, distance, average
):
    points, labels, references, reference_labels = rectangular(seed)
    miner, chosen = RULES[rule]
    loss = TripletLoss(margin=margin, swap=swap, miner=miner, average=average, distance=distance)
    found = loss(points, labels, references, reference_labels)
    total, active, count = by_loops(
        distance.matrix(points, references),
        distance.matrix(references, references),
        *masks(labels, reference_labels),
        margin,
        swap,
        chosen,
    )
    assert active > 1
    expected = total / (active if average == "active" else count)
    assert float(expected.detach()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(loss.facts["active"], torch.tensor(active / count))
    for side in (points, references):
        mine, theirs = (
            torch.autograd.grad(value, side, retain_graph=True)[0] for value in (found, expected)
        )
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs)


@pytest.fixture(params=[0, FEW_TRIPLETS], ids=["sorted", "looked at"])
def few_triplets(request, monkeypatch):
    monkeypatch.setattr("likewise.losses.triplet.FEW_TRIPLETS", request.param)


@pytest.mark.usefixtures("few_triplets")
@pytest.mark.parametrize("margin", [2.0, 0.5])
@pytest.mark.parametrize("within", [None, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", SEEDS)
def test_closed_form_has_value_count_and_gradient_of_the_list_at_ties(seed, dtype, within, margin):
    rng = torch.Generator().manual_seed(seed)
    # Whole numbers make ties, where a triplet costs nothing or is not within.
    distances = torch.randint(-3, 4, (7, 12), generator=rng).to(dtype).requires_grad_()
    labels = torch.randint(0, 3, (7,), generator=rng)
    positive, negative = masks(labels, torch.randint(0, 3, (12,), generator=rng))
    total, active = all_triplets_hinge(distances, positive, negative, margin=margin, within=within)
    between = torch.zeros(12, 12, dtype=dtype)
    expected, count, _ = by_loops(
        distances,
        between,
        positive,
        negative,
        margin,
        chosen=None if within is None else lambda near, far, _: near < far < near + within,
    )
    (slope,) = torch.autograd.grad(total, distances)
    (expected_slope,) = torch.autograd.grad(expected, distances)
    assert int(active) == count
    assert count > 0 or within == 1.0 or margin == 0.5
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(slope, expected_slope)


@pytest.mark.usefixtures("few_triplets")
@pytest.mark.parametrize("seed", SEEDS)
def test_semi_hard_within_more_than_the_margin_counts_those_that_cost_nothing_too(seed):
    points, labels = batch(seed)
    distances = EUCLIDEAN.matrix(points, points).detach()
    loss = TripletLoss(margin=0.3, miner=miners.all_semi_hard(1.0), average="all")
    total, active, count = by_loops(
        distances, distances, *masks(labels), 0.3, chosen=lambda near, far, _: near < far < near + 1
    )
    assert 0 < active < count
    torch.testing.assert_close(loss(points, labels).detach(), total / count)


@pytest.mark.usefixtures("few_triplets")
def test_a_margin_that_rounding_swallows_makes_no_negative_counts():
    distances = torch.tensor([[1e8, 1e8, 2e8]])
    positive = torch.tensor([[True, False, False]])
    _, active = all_triplets_hinge(distances, positive, ~positive, margin=0.1, within=0.1)
    assert int(active) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_swap_of_chosen_triplets_takes_the_nearer_of_both(seed):
    points, labels, references, reference_labels = rectangular(seed)
    distances = EUCLIDEAN.matrix(points, references).detach()
    between = EUCLIDEAN.matrix(references, references).detach()
    mined = miners.semi_hard(distances, *masks(labels, reference_labels))
    three = [part[mined.keep].tolist() for part in mined[:3]]
    gaps = [
        float(distances[a, p] - min(distances[a, n], between[p, n]))
        for a, p, n in zip(*three, strict=True)
    ]
    costs = [max(0.0, gap + 0.8) for gap in gaps]
    plain = TripletLoss(margin=0.8, miner=miners.semi_hard, average="all")
    swapped = TripletLoss(margin=0.8, miner=miners.semi_hard, average="all", swap=True)
    found = swapped(points, labels, references, reference_labels)
    assert float(found.detach()) == pytest.approx(sum(costs) / len(costs))
    assert found > plain(points, labels, references, reference_labels)


LOSSES = {
    "semi-hard": TripletLoss(margin=0.7, miner=miners.all_semi_hard(0.7)),
    "swap": TripletLoss(margin=0.7, swap=True),
    "swap batch hard": TripletLoss(margin=0.7, swap=True, miner=miners.batch_hard),
    "soft": TripletLoss(margin=None),
    "soft swap": TripletLoss(margin=None, swap=True, distance=COSINE),
    "soft semi-hard": TripletLoss(margin=None, miner=miners.all_semi_hard(0.7)),
    "angular miner": TripletLoss(margin=0.7, miner=miners.angular(20)),
    "squared": TripletLoss(margin=0.7, swap=True, distance=SQUARED_EUCLIDEAN),
    "angular": AngularLoss(),
}


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]


def test_gradient_is_the_slope(loss):
    points = torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    points.requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])
    assert loss(points, labels) > 0.01
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), points)


def test_order_does_not_matter_and_labels_do(loss):
    points, labels = batch(3)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(points[order], labels[order]), loss(points, labels))
    assert not torch.isclose(loss(points, labels.roll(1)), loss(points, labels))


@pytest.mark.parametrize("labels", [torch.arange(6), torch.zeros(6).long()])
def test_without_both_kinds_it_costs_nothing_and_still_backpropagates(loss, labels):
    points = batch(0, 6)[0]
    value = loss(points, labels)
    value.backward()
    assert value == 0
    assert (points.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_loss_and_gradient_are_finite_at_duplicates_and_large_scale(loss, dtype, scale):
    points = (scale * torch.eye(3)[[0, 0, 1, 2, 0, 1]]).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(points, torch.tensor([0, 0, 1, 1, 1, 2]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(points.grad).all()


def test_references_equal_to_the_batch_with_ids_give_the_loss_of_the_batch(loss):
    points, labels = batch(2)
    ids = torch.arange(len(labels))
    against = loss(points, labels, points, labels, ids=ids, reference_ids=ids)
    assert against > 0
    torch.testing.assert_close(against, loss(points, labels))


@pytest.mark.parametrize("most", [None, 8])
def test_as_on_a_gpu_without_looking_at_numbers_it_is_the_same(loss, most, monkeypatch):
    def once():
        points, labels = batch(5)
        points = points.detach().float().requires_grad_()
        value = loss(points, labels)
        value.backward()
        return value, points.grad

    expected = once()
    assert expected[0] > 0
    monkeypatch.setattr(anchor_rows, "free_to_look", lambda _: False)
    monkeypatch.setattr(loss, "most_positives", most)
    torch.testing.assert_close(once(), expected)


def test_few_rows_at_a_time_are_the_same(loss, monkeypatch):
    points, labels = batch(4)
    expected = loss(points, labels)
    monkeypatch.setattr(anchor_rows, "MOST", 100)
    torch.testing.assert_close(loss(points, labels), expected)


def angular_by_loops(unit, other, positive, negative, degrees):
    tangent = math.tan(math.radians(degrees)) ** 2
    total, pairs = unit.sum() * 0, 0
    for a in range(len(unit)):
        for p in range(len(other)):
            if positive[a, p]:
                pairs += 1
                inside = 1.0
                for n in range(len(other)):
                    if negative[a, n]:
                        pull = (unit[a] + other[p]) @ other[n]
                        push = unit[a] @ other[p]
                        inside = inside + (4 * tangent * pull - 2 * (1 + tangent) * push).exp()
                total = total + torch.as_tensor(inside, dtype=unit.dtype).log()
    return total / pairs


@pytest.mark.parametrize("degrees", [36, 55])
@pytest.mark.parametrize("seed", [0, 1])
def test_angular_loss_agrees_with_the_loops(seed, degrees):
    points, labels, references, reference_labels = rectangular(seed)
    unit = torch.nn.functional.normalize
    expected = angular_by_loops(
        unit(points), unit(references), *masks(labels, reference_labels), degrees
    )
    found = AngularLoss(degrees=degrees)(points, labels, references, reference_labels)
    assert expected > 0.1
    torch.testing.assert_close(found, expected)
    for side in (points, references):
        mine, theirs = (
            torch.autograd.grad(value, side, retain_graph=True)[0] for value in (found, expected)
        )
        torch.testing.assert_close(mine, theirs)


def test_angular_loss_of_wide_angles_does_not_overflow():
    distances = torch.tensor([[0.0, 2.0, 0.0]]).requires_grad_()
    positive = torch.tensor([[False, True, False]])
    negative = torch.tensor([[False, False, True]])
    value = angular_loss(distances, torch.zeros(3, 3), positive, negative, degrees=85)
    value.backward()
    tangent = math.tan(math.radians(85)) ** 2
    assert float(value.detach()) == pytest.approx(8 * tangent + 2 * (1 + tangent), rel=1e-6)
    assert torch.isfinite(distances.grad).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AngularLoss(degrees=90), "degrees must be below 90, got 90"),
        (lambda: AngularLoss(degrees=0), "degrees must be a finite number above 0, got 0"),
        (lambda: AngularLoss(most_positives=0), "most_positives must be at least 1, got 0"),
        (lambda: TripletLoss(most_positives=0), "most_positives must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bound_on_positives_that_does_not_hold_is_refused():
    points, _ = batch(0, 5)
    with pytest.raises(
        ValueError, match=r"most_positives must be a bound on .* anchor, 3 here, got 2"
    ):
        TripletLoss(most_positives=2)(points, torch.tensor([0, 0, 0, 0, 1]))
