import math

import pytest
import torch

from likewise import data, losses, training
from likewise.errors import InputError
from likewise.losses import (
    ArcFaceLoss,
    CosFaceLoss,
    NormalizedSoftmaxLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SoftTripleLoss,
    SphereFaceLoss,
    arcface_distance,
    centers_apart,
    sphereface_distance,
)

LABELS = torch.tensor([0, 0, 1, 1, 3, 0, 3])  # class 2 has no item
DIM, CLASSES = 3, 4


def embeddings(size=7, seed=0, dim=DIM):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, dim, generator=rng, dtype=torch.float64, requires_grad=True)


def with_weights(loss, seed=1):
    rng = torch.Generator().manual_seed(seed)
    weight = loss.centers.weight
    weight.data = torch.randn(weight.shape, generator=rng, dtype=torch.float64)
    return loss.double()


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x**2 for x in a) * sum(y**2 for y in b))


def cosines(points, loss):
    """Of every point to every center, [point][class][center]."""
    points, weight = points.tolist(), loss.centers.weight.tolist()
    return [[[cosine(p, w) for w in some] for some in weight] for p in points]


def cross_entropy(logits, y):
    largest = max(logits)
    return largest + math.log(sum(math.exp(v - largest) for v in logits)) - logits[y]


def arc(cos, m, easy):
    theta = math.acos(cos)
    if easy:
        return math.cos(theta + m) if theta < math.pi / 2 else cos
    return math.cos(theta + m) if theta < math.pi - m else cos - m * math.sin(m)


def psi(cos, m):
    theta = math.acos(cos)
    k = min(int(theta * m / math.pi), m - 1)
    return (-1) ** k * math.cos(m * theta) - 2 * k


def margin_value(points, labels, loss, own, lengths=False):
    values = []
    every = zip(points.tolist(), cosines(points, loss), labels.tolist(), strict=True)
    for point, to_classes, y in every:
        scale = loss.scale * (math.sqrt(sum(x**2 for x in point)) if lengths else 1)
        nearest = [max(some) for some in to_classes]
        logits = [scale * (own(c) if k == y else c) for k, c in enumerate(nearest)]
        values.append(cross_entropy(logits, y))
    return sum(values) / len(values)


def normalized_softmax_value(points, labels, loss):
    values = [
        cross_entropy([c[0] / loss.temperature for c in to_classes], y)
        for to_classes, y in zip(cosines(points, loss), labels.tolist(), strict=True)
    ]
    return sum(values) / len(values)


def proxy_nca_value(points, labels, loss):
    values = []
    for to_classes, y in zip(cosines(points, loss), labels.tolist(), strict=True):
        masses = [math.exp(-(2 - 2 * c[0]) / loss.temperature) for c in to_classes]
        below = sum(masses) - (0 if loss.own_below else masses[y])
        values.append(-math.log(masses[y] / below))
    return sum(values) / len(values)


def proxy_anchor_value(points, labels, loss):
    s, a, m = cosines(points, loss), loss.alpha, loss.margin
    pull, push, used = 0.0, 0.0, 0
    for c in range(CLASSES):
        own = [i for i in range(len(labels)) if labels[i] == c]
        others = [i for i in range(len(labels)) if labels[i] != c]
        used += bool(own)
        pull += math.log1p(sum(math.exp(-a * (s[i][c][0] - m)) for i in own))
        push += math.log1p(sum(math.exp(a * (s[i][c][0] + m)) for i in others))
    return pull / used + push / CLASSES


def soft_triple_value(points, labels, loss):
    total = 0.0
    for to_classes, y in zip(cosines(points, loss), labels.tolist(), strict=True):
        softened = []
        for some in to_classes:
            masses = [math.exp(c / loss.gamma) for c in some]
            softened.append(sum(m * c for m, c in zip(masses, some, strict=True)) / sum(masses))
        softened[y] -= loss.margin
        total += cross_entropy([loss.scale * c for c in softened], y)
    return total / len(labels) + loss.regularizer * apart_value(loss.centers.weight.tolist())


def apart_value(weight):
    count, each = len(weight), len(weight[0])
    total = sum(
        math.sqrt(2 - 2 * cosine(some[s], some[t]))
        for some in weight
        for t in range(each)
        for s in range(t)
    )
    return total / (count * each * (each - 1))


CASES = {
    "normalized softmax": (
        lambda **o: NormalizedSoftmaxLoss(DIM, CLASSES, temperature=0.3, **o),
        normalized_softmax_value,
    ),
    "arcface": (
        lambda **o: ArcFaceLoss(DIM, CLASSES, scale=4.0, **o),
        lambda p, y, f: margin_value(p, y, f, lambda c: arc(c, 0.5, False)),
    ),
    "arcface wide": (
        lambda **o: ArcFaceLoss(DIM, CLASSES, scale=4.0, margin=2.0, **o),
        lambda p, y, f: margin_value(p, y, f, lambda c: arc(c, 2.0, False)),
    ),
    "arcface easy": (
        lambda **o: ArcFaceLoss(DIM, CLASSES, scale=4.0, easy_margin=True, **o),
        lambda p, y, f: margin_value(p, y, f, lambda c: arc(c, 0.5, True)),
    ),
    "sub-center arcface": (
        lambda **o: ArcFaceLoss(DIM, CLASSES, scale=4.0, centers_per_class=3, **o),
        lambda p, y, f: margin_value(p, y, f, lambda c: arc(c, 0.5, False)),
    ),
    "cosface": (
        lambda **o: CosFaceLoss(DIM, CLASSES, scale=4.0, **o),
        lambda p, y, f: margin_value(p, y, f, lambda c: c - 0.35),
    ),
    "sphereface": (
        lambda **o: SphereFaceLoss(DIM, CLASSES, **o),
        lambda p, y, f: margin_value(p, y, f, lambda c: psi(c, 4), lengths=True),
    ),
    "sphereface blended": (
        lambda **o: SphereFaceLoss(DIM, CLASSES, margin=3, blend=5.0, **o),
        lambda p, y, f: margin_value(p, y, f, lambda c: (5 * c + psi(c, 3)) / 6, lengths=True),
    ),
    "proxy-nca": (
        lambda **o: ProxyNCALoss(DIM, CLASSES, temperature=0.5, **o),
        proxy_nca_value,
    ),
    "proxy-nca of 2017": (
        lambda **o: ProxyNCALoss(DIM, CLASSES, temperature=1.0, own_below=False, **o),
        proxy_nca_value,
    ),
    "proxy-anchor": (
        lambda **o: ProxyAnchorLoss(DIM, CLASSES, alpha=8.0, **o),
        proxy_anchor_value,
    ),
    "soft triple": (
        lambda **o: SoftTripleLoss(DIM, CLASSES, centers_per_class=3, scale=5.0, **o),
        soft_triple_value,
    ),
}
EVERY = pytest.mark.parametrize("make", [pytest.param(c[0], id=k) for k, c in CASES.items()])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CASES)
def test_the_loss_agrees_with_the_loops(name, seed):
    make, value = CASES[name]
    loss, points = with_weights(make(), seed=seed + 10), embeddings(seed=seed)
    expected = value(points, LABELS, loss)
    assert abs(expected) > 0.05
    assert float(loss(points, LABELS).detach()) == pytest.approx(expected, rel=1e-9)


@EVERY
def test_gradient_is_the_slope_for_embeddings_and_for_weights(make):
    loss, points = with_weights(make()), embeddings()
    assert loss(points, LABELS).abs() > 0.05
    assert torch.autograd.gradcheck(lambda e, _: loss(e, LABELS), (points, loss.centers.weight))
    loss(points, LABELS).backward()
    assert loss.centers.weight.grad.abs().amax(dim=(1, 2)).min() > 0


@EVERY
def test_order_does_not_matter_and_labels_do(make):
    loss, points = with_weights(make()), embeddings()
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    torch.testing.assert_close(loss(points[order], LABELS[order]), loss(points, LABELS))
    assert not torch.isclose(loss(points, LABELS.roll(1)), loss(points, LABELS))


@EVERY
def test_references_play_no_part(make):
    loss, points = with_weights(make()), embeddings()
    ids = torch.arange(7)
    other = loss(points, LABELS, -points, LABELS.flip(0), ids=ids, reference_ids=ids)
    assert other == loss(points, LABELS)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_loss_and_gradient_are_finite_at_the_centers_and_opposite_of_them(make, dtype, scale):
    loss = make()
    loss.centers.weight.data = torch.eye(CLASSES, DIM)[:, None].repeat(
        1, loss.centers.weight.shape[1], 1
    )
    points = (scale * torch.eye(3)[[0, 0, 1, 1, 2, 2, 2]]).to(dtype)
    points[1::3] *= -1
    points.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not torch.float32):
        value = loss(points, LABELS)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(points.grad).all()
    assert torch.isfinite(loss.centers.weight.grad).all()
    assert points.grad.abs().max() > 0 or scale != 1


@EVERY
def test_a_batch_of_one_item_one_class_or_none_still_backpropagates(make):
    for points, labels in [
        (embeddings(1), torch.tensor([2])),
        (embeddings(5), torch.zeros(5, dtype=torch.int32)),
        (embeddings(2)[:0], torch.zeros(0).long()),
    ]:
        loss = with_weights(make())
        value = loss(points, labels)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(loss.centers.weight.grad).all()
        assert all(torch.isfinite(fact) for fact in loss.facts.values())


@EVERY
def test_labels_of_the_wrong_shape_kind_or_range_are_named(make):
    loss = with_weights(make())
    with pytest.raises(ValueError, match=r"labels must have shape \(7,\), .* got \(7, 1\)"):
        loss(embeddings(), LABELS[:, None])
    with pytest.raises(TypeError, match=r"labels must be integers, got torch\.float32"):
        loss(embeddings(), LABELS.float())
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.3, got 0\.\.4"):
        loss(embeddings(), LABELS + (LABELS == 3))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.3, got -2\.\.1"):
        loss(embeddings(), LABELS - 2)
    with pytest.raises(
        ValueError, match=f"embeddings must have as many dimensions as centers, {DIM}, got 2"
    ):
        loss(embeddings()[:, :2], LABELS)


@EVERY
def test_a_drawn_share_is_the_loss_of_these_classes_alone(make):
    torch.manual_seed(0)
    whole = _of_size(make, 40)
    sampled = _of_size(make, 40, class_share=0.3, seed=5)
    sampled.centers.weight.data = whole.centers.weight.data.clone()
    points = embeddings()
    value = sampled(points, LABELS)
    value.backward()
    used = sampled.centers.weight.grad.abs().amax(dim=(1, 2)) > 0
    drawn = _of_size(make, 40, class_share=0.3, seed=5).centers._draw(LABELS, 12)
    assert len(drawn) == 12 == len(set(drawn.tolist()))
    assert set(LABELS.tolist()) <= set(drawn.tolist())
    assert set(used.nonzero().flatten().tolist()) <= set(drawn.tolist())
    alone = _of_size(make, 12)
    alone.centers.weight.data = whole.centers.weight.data[drawn]
    renamed = torch.searchsorted(drawn, LABELS)
    torch.testing.assert_close(value, alone(points, renamed))
    assert not torch.isclose(value, whole(points, LABELS))
    sampled.eval()
    torch.testing.assert_close(sampled(points, LABELS), whole(points, LABELS))


SETTINGS = ["temperature", "margin", "scale", "easy_margin", "blend", "own_below", "alpha"]
SETTINGS += ["gamma", "regularizer"]


def _of_size(make, count, **options):
    closed = make(**options)
    kind = type(closed)
    settings = {name: getattr(closed, name) for name in SETTINGS if hasattr(closed, name)}
    if closed.centers.weight.shape[1] > 1:
        settings["centers_per_class"] = closed.centers.weight.shape[1]
    return kind(DIM, count, **settings, **options).double()


def test_drawn_classes_are_those_of_the_batch_and_fair_others():
    loss = CosFaceLoss(2, 100, class_share=0.2, seed=1)
    labels = torch.tensor([7, 7, 93])
    counts = torch.zeros(100)
    for _ in range(400):
        counts[loss.centers._draw(labels, 20)] += 1
    assert counts[7] == counts[93] == 400
    others = counts[torch.arange(100)[(torch.arange(100) != 7) & (torch.arange(100) != 93)]]
    assert float(others.mean()) == pytest.approx(400 * 18 / 98)
    assert others.min() > 40
    assert others.max() < 110


def test_the_share_grows_to_the_size_of_the_batch_so_that_every_label_fits():
    loss = NormalizedSoftmaxLoss(3, 1000, class_share=0.001).double()
    loss(embeddings(7), torch.arange(7) * 100)
    assert loss.facts["accuracy"] <= 1
    assert len(loss.centers(embeddings(7), torch.arange(7) * 100).centers) == 7


def test_drawing_depends_on_the_seed_and_goes_on_from_a_state():
    def draws(loss, times):
        labels = torch.tensor([1])
        return [tuple(loss.centers._draw(labels, 5).tolist()) for _ in range(times)]

    one, same, other = (CosFaceLoss(2, 50, class_share=0.1, seed=s) for s in (3, 3, 4))
    first = draws(one, 6)
    assert len(set(first)) > 1
    assert draws(same, 3) == first[:3]
    assert draws(other, 6) != first
    resumed = CosFaceLoss(2, 50, class_share=0.1, seed=3)
    resumed.load_state_dict(same.state_dict())
    assert draws(resumed, 3) == first[3:]


def test_arcface_is_the_cosine_of_a_larger_angle_until_it_would_turn_and_never_falls():
    angles = torch.linspace(0.001, math.pi - 0.001, 500, dtype=torch.float64)
    found = arcface_distance(1 - angles.cos(), margin=0.5)
    before = angles < math.pi - 0.5
    assert 0 < int(before.sum()) < 500
    torch.testing.assert_close(found[before], 1 - (angles + 0.5).cos()[before])
    assert (found.diff() > 0).all()
    easy = arcface_distance(1 - angles.cos(), margin=0.5, easy_margin=True)
    right = angles < math.pi / 2
    torch.testing.assert_close(easy[right], found[right])
    torch.testing.assert_close(easy[~right], 1 - angles.cos()[~right])


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_sphereface_falls_without_a_step_from_0_to_twice_m(m):
    angles = torch.linspace(0, math.pi, 2000, dtype=torch.float64)
    found = sphereface_distance(1 - angles.cos(), margin=m)
    assert (found.diff() > -1e-9).all()
    assert found.diff().max() < 0.01
    assert float(found[0]) == pytest.approx(0)
    assert float(found[-1]) == pytest.approx(2 * m)
    if m == 1:
        torch.testing.assert_close(found, 1 - angles.cos())


def test_a_wide_margin_costs_more():
    points = embeddings()
    for kind in (ArcFaceLoss, CosFaceLoss):
        values = [
            float(with_weights(kind(DIM, CLASSES, margin=m))(points, LABELS).detach())
            for m in (0.1, 0.6)
        ]
        assert values[0] < values[1]


def test_equal_centers_are_not_apart_and_have_a_finite_gradient():
    same = torch.ones(2, 3, 4, requires_grad=True)
    value = centers_apart(same)
    value.backward()
    assert value == 0
    assert (same.grad == 0).all()
    crossed = torch.eye(4)[None, :2]
    assert float(centers_apart(crossed)) == pytest.approx(math.sqrt(2) / 2)
    assert centers_apart(torch.rand(3, 1, 4)) == 0


def test_facts_tell_the_distances_to_centers():
    loss = CosFaceLoss(2, 2)
    loss.centers.weight.data = torch.eye(2)[:, None]
    loss(torch.tensor([[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1, 1]))
    facts = {name: round(float(value), 4) for name, value in loss.facts.items()}
    assert facts["accuracy"] == pytest.approx(2 / 3, abs=1e-3)
    assert facts["positive_distance"] == pytest.approx(2 / 3, abs=1e-3)
    assert facts["negative_distance"] == pytest.approx((1 + 0 + 2) / 3, abs=1e-3)
    assert facts["spread"] > 0.5


@EVERY
def test_fit_trains_the_centers(make):
    rng = torch.Generator().manual_seed(0)
    codes = torch.arange(60) % CLASSES
    corners = torch.randn(CLASSES, 5, generator=rng)
    points = data.load((corners[codes] + 0.1 * torch.randn(60, 5, generator=rng), codes))
    torch.manual_seed(0)
    loss = make()
    before = loss.centers.weight.detach().clone()
    history = training.fit(
        torch.nn.Linear(5, DIM), loss, points, epochs=4, batches=15, learning_rate=0.03
    )
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["accuracy"] >= history[0]["accuracy"]
    assert (loss.centers.weight != before).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArcFaceLoss(2, 2, margin=28.6), "margin must be below π, got 28.6"),
        (lambda: ArcFaceLoss(2, 1), "class_count must be at least 2, got 1"),
        (lambda: CosFaceLoss(0, 2), "embedding_dim must be at least 1, got 0"),
        (lambda: CosFaceLoss(2, 2, class_share=0.0), "class_share must be a finite number above 0"),
        (lambda: CosFaceLoss(2, 2, class_share=1.5), "class_share must be between 0 and 1"),
        (lambda: SphereFaceLoss(2, 2, margin=0), "margin must be at least 1, got 0"),
        (lambda: SphereFaceLoss(2, 2, blend=-1.0), "blend must be at least 0, got -1.0"),
        (lambda: NormalizedSoftmaxLoss(2, 2, temperature=0.0), "temperature must be a finite"),
        (lambda: ProxyAnchorLoss(2, 2, alpha=0.0), "alpha must be a finite number above 0"),
        (lambda: SoftTripleLoss(2, 2, centers_per_class=0), "centers_per_class must be at least 1"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_loss_is_exported():
    assert {"ArcFaceLoss", "ProxyAnchorLoss", "proxy_anchor_loss"} <= set(losses.__all__)


@EVERY
def test_weights_of_items_give_the_weighted_mean_also_for_the_centers(make):
    loss, points = with_weights(make()), embeddings()
    if isinstance(loss, ProxyAnchorLoss):
        return
    loss.regularizer = 0.0
    weights = torch.tensor([1.0, 2.0, 0.0, 0.5, 4.0, 1.0, 3.0], dtype=torch.float64)
    labels = LABELS.clone()
    labels[1] = -1  # counts as little as an item of weight 0
    leaves = points, loss.centers.weight
    found = loss(points, labels, weights=weights)
    used = [i for i in range(7) if i != 1]
    each = [weights[i] * loss(points[i : i + 1], labels[i : i + 1]) for i in used]
    expected = sum(each) / weights[used].sum()
    torch.testing.assert_close(found, expected)
    slopes = (torch.autograd.grad(value, leaves) for value in (found, expected))
    torch.testing.assert_close(*slopes)
    assert loss(points, labels, weights=weights * 0) == 0
    with pytest.raises(
        ValueError, match=r"weights must have shape \(7,\), one per item, got \(7, 1"
    ):
        loss(points, LABELS, weights=weights[:, None])


def loss_of_logits(loss, logits, labels):
    """What the loss makes of its logits, with a margin of next to nothing or none."""
    if isinstance(loss, ProxyAnchorLoss):
        own = torch.nn.functional.one_hot(labels, CLASSES).bool()
        distances = logits / -loss.alpha
        return losses.proxy_anchor_loss(distances, own, alpha=loss.alpha, margin=loss.margin)
    if not getattr(loss, "own_below", True):
        others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
        return (others - logits.gather(1, labels[:, None])[:, 0]).mean()
    return torch.nn.functional.cross_entropy(logits, labels)


@EVERY
def test_logits_are_those_that_the_loss_trains_by_without_its_margin(make):
    loss, points = with_weights(make()), embeddings()
    if isinstance(loss, SphereFaceLoss):
        loss.margin = 1
    elif isinstance(loss, (ArcFaceLoss, CosFaceLoss, SoftTripleLoss)):
        loss.margin = 0.0
    loss.regularizer = 0.0
    logits = loss.logits(points)
    assert logits.shape == (7, CLASSES)
    torch.testing.assert_close(loss(points, LABELS), loss_of_logits(loss, logits, LABELS))
    assert float(loss.facts["accuracy"]) == float((logits.argmax(dim=1) == LABELS).double().mean())


def test_logits_of_the_softmax_are_those_of_its_layer_and_take_all_classes_where_a_loss_draws():
    softmax = losses.SoftmaxLoss(DIM, CLASSES).double()
    torch.testing.assert_close(softmax.logits(embeddings()), softmax.classify(embeddings()))
    shared = NormalizedSoftmaxLoss(DIM, 40, class_share=0.25).double()
    assert shared.logits(embeddings()).shape == (7, 40)
    assert shared.logits(embeddings(0)).shape == (0, 40)
    assert shared.centers.draws == 0


@EVERY
def test_embeddings_of_another_width_have_no_logits(make):
    with pytest.raises(ValueError, match=f"embeddings must have as many dimensions as .*, {DIM}"):
        make().logits(torch.zeros(2, DIM + 1))


def test_centers_begin_at_the_mean_directions_of_their_classes():
    x, loss = embeddings().detach(), with_weights(ArcFaceLoss(DIM, CLASSES))
    before = loss.centers.weight.clone()
    labels = torch.tensor([0, 0, 1, -1, 3, 0, 3])
    loss.centers.begin_at(x * torch.rand(7, 1, dtype=torch.float64), labels)
    for code in range(CLASSES):
        own = [row for row, label in zip(x.tolist(), labels.tolist(), strict=True) if label == code]
        units = [[v / math.hypot(*row) for v in row] for row in own]
        total = [sum(column) for column in zip(*units, strict=True)]
        expected = [v / math.hypot(*total) for v in total] if own else before[code, 0].tolist()
        assert loss.centers.weight[code, 0].tolist() == pytest.approx(expected)
    assert loss.centers.weight.requires_grad
    assert float(loss(x, labels).detach()) < float(with_weights(loss)(x, labels).detach())


def test_several_centers_of_a_class_begin_at_its_items_in_turn():
    centers = SoftTripleLoss(DIM, CLASSES, centers_per_class=2).centers
    before = centers.weight.detach().clone()
    x = torch.eye(3)[[0, 1, 0, 1, 2]]
    centers.begin_at(x, torch.tensor([1, 1, 1, 1, 3]))
    assert torch.equal(centers.weight[1], torch.eye(3)[:2])
    assert torch.equal(centers.weight[3], torch.stack([torch.eye(3)[2], before[3, 1]]))
    assert torch.equal(centers.weight[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (torch.ones(2, DIM + 1), torch.tensor([0, 1]), "as many dimensions as centers"),
        (torch.ones(2, DIM), torch.tensor([0, CLASSES]), "labels must lie in 0..3"),
        (torch.ones(2, DIM), torch.tensor([0]), "labels"),
        (torch.full((2, DIM), math.nan), torch.tensor([0, 1]), "embeddings must be finite|NaN"),
        (torch.ones(DIM), torch.tensor([0]), "embeddings"),
    ],
)
def test_what_centers_cannot_begin_at_is_refused(x, labels, message):
    centers = ProxyNCALoss(DIM, CLASSES).centers
    before = centers.weight.detach().clone()
    with pytest.raises(InputError, match=message):
        centers.begin_at(x, labels)
    assert torch.equal(centers.weight, before)
