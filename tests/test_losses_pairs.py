"""The losses over pairs, against slow loops written from the papers: value and gradient."""

import math
from typing import NamedTuple

import pytest
import torch

from likewise import losses, miners
from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT, SNR, SQUARED_EUCLIDEAN
from likewise.losses import n_pairs as n_pairs_module
from likewise.losses._log_sum_exp import log_sum_exp, pull_and_push
from likewise.masks import masks


class Case(NamedTuple):
    """A batch, perhaps with references; `args` and `ids` as a loss takes them."""

    points: torch.Tensor
    labels: torch.Tensor
    references: torch.Tensor | None = None
    reference_labels: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    reference_ids: torch.Tensor | None = None

    def call(self, loss, points):
        ids = {} if self.ids is None else {"ids": self.ids, "reference_ids": self.reference_ids}
        return loss(points, self.labels, self.references, self.reference_labels, **ids)

    def distances(self, distance, points):
        return distance.matrix(points, points if self.references is None else self.references)

    def kinds(self):
        """For each anchor the columns of its positives and those of its negatives."""
        others = self.labels if self.references is None else self.reference_labels
        rows = []
        for i in range(len(self.labels)):
            counted = [
                j
                for j in range(len(others))
                if (self.references is not None or i != j)
                and (self.ids is None or self.ids[i] != self.reference_ids[j])
            ]
            positives = [j for j in counted if others[j] == self.labels[i]]
            rows.append((positives, [j for j in counted if others[j] != self.labels[i]]))
        return rows


def points(size, seed, dim=4):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, dim, generator=rng, dtype=torch.float64)


def cases():
    labels = torch.tensor([3, 0, 1, 0, 1, 1, 2, 0, 3])  # 2 has a single item
    duplicates = points(9, 1)
    duplicates[[3, 4, 6]] = duplicates[[1, 1, 8]]
    grid = (points(9, 2) * 1.5).round() + torch.tensor([0.5, 0.0, 0.0, 0.0])  # many ties
    stored, stored_labels = points(13, 7), torch.tensor([0, 1, 5, 1, 0, 2, 2, 9, 9, 0, 1, 1, 0])
    return {
        "batch": Case(points(9, 0), labels),
        "duplicates": Case(duplicates, labels),
        "ties": Case(grid, labels),
        "memory": Case(points(9, 3), labels, stored, stored_labels),
        "copies": Case(
            points(9, 4),
            labels,
            torch.cat([points(9, 4), points(4, 9)]),
            torch.cat([labels, torch.tensor([1, 0, 3, 7])]),
            torch.arange(9),
            torch.arange(13),
        ),
        "one class": Case(points(5, 5), torch.zeros(5).long()),
        "no positives": Case(points(5, 6), torch.arange(5)),
    }


CASES = [pytest.param(case, id=name) for name, case in cases().items()]
EMPTY = points(9, 0)[0, 0] * 0


def mean(values):
    return sum(values, EMPTY) / max(len(values), 1)


def log_sum(values):
    return torch.stack(values).exp().sum().log()


def nt_xent(d, kinds, temperature):
    s = -d / temperature
    return mean(
        [
            -(s[i, p].exp() / (s[i, p].exp() + sum(s[i, n].exp() for n in ns))).log()
            for i, (ps, ns) in enumerate(kinds)
            for p in ps
        ]
    )


def supervised_contrastive(d, kinds, temperature, average="active"):
    s = -d / temperature
    costs = []
    for i, (ps, ns) in enumerate(kinds):
        if ps:
            everything = sum(s[i, j].exp() for j in ps + ns)
            costs.append(mean([-(s[i, p].exp() / everything).log() for p in ps]))
    return mean(costs) if average == "active" else sum(costs, EMPTY) / len(kinds)


def soft_nearest_neighbor(d, kinds, temperature, average="active"):
    w = (-d / temperature).exp()
    costs = [
        -(sum(w[i, p] for p in ps) / sum(w[i, j] for j in ps + ns)).log()
        for i, (ps, ns) in enumerate(kinds)
        if ps
    ]
    return mean(costs) if average == "active" else sum(costs, EMPTY) / len(kinds)


def circle(d, kinds, margin, gamma, constant, coupled, average):
    costs = []
    for i, (ps, ns) in enumerate(kinds):
        if not ps or not ns:
            continue
        s = 1 - d[i]
        weights = s.detach() if constant else s
        pull = sum(
            (-gamma * (1 + margin - weights[p]).relu() * (s[p] - (1 - margin))).exp() for p in ps
        )
        push = sum((gamma * (weights[n] + margin).relu() * (s[n] - margin)).exp() for n in ns)
        costs.append((1 + pull * push).log() if coupled else (1 + pull).log() + (1 + push).log())
    return mean(costs) if average == "active" else sum(costs, EMPTY) / len(kinds)


def lifted(d, kinds, margin, squared=True):
    costs = []
    for i, (ps, ns) in enumerate(kinds):
        for p in ps:
            inner = [margin - d[i, n] for n in ns]
            inner += [margin - d[k, p] for k, (_, others) in enumerate(kinds) if p in others]
            above = (log_sum(inner) + d[i, p]).relu() if inner else EMPTY
            costs.append((above**2 if squared else above) / 2)
    return mean(costs)


def generalized_lifted(d, kinds, margin):
    costs = [
        (log_sum([d[i, p] for p in ps]) + log_sum([margin - d[i, n] for n in ns])).relu()
        for i, (ps, ns) in enumerate(kinds)
        if ps and ns
    ]
    return sum(costs, EMPTY) / len(kinds)


def n_pairs(d, kinds, labels):
    chosen = {}
    for i, (ps, _) in enumerate(kinds):
        if ps and int(labels[i]) not in chosen:
            chosen[int(labels[i])] = (i, ps[0])
    costs = []
    for y, (i, p) in chosen.items():
        others = [q for z, (_, q) in chosen.items() if z != y and q in kinds[i][1]]
        costs.append((1 + sum([(d[i, p] - d[i, q]).exp() for q in others], EMPTY)).log())
    return mean(costs)


def multiple_negatives(d, kinds, temperature, symmetric):
    there = nt_xent(d, kinds, temperature)
    if not symmetric:
        return there
    columns = range(d.shape[1])
    back = [
        (
            [i for i, (ps, _) in enumerate(kinds) if j in ps],
            [i for i, (_, ns) in enumerate(kinds) if j in ns],
        )
        for j in columns
    ]
    return (there + nt_xent(d.T, back, temperature)) / 2


def sigmoid_pairs(d, kinds, scale, bias):
    total = EMPTY
    for i, (ps, ns) in enumerate(kinds):
        for sign, columns in ((1, ps), (-1, ns)):
            for j in columns:
                total = total - torch.sigmoid(sign * (scale * (1 - d[i, j]) + bias)).log()
    return total / len(kinds)


def threshold_consistency(d, kinds, low, high, weights):
    s = 1 - d
    pull = [1 - low - s[i, p] for i, (ps, _) in enumerate(kinds) for p in ps if s[i, p] <= 1 - low]
    push = [
        s[i, n] - (1 - high) for i, (_, ns) in enumerate(kinds) for n in ns if s[i, n] >= 1 - high
    ]
    return weights[0] * mean(pull) + weights[1] * mean(push)


def contrastive(d, kinds, margin, squared, low, factor, average):
    power = 2 if squared else 1
    pull = [factor * (d[i, p] - low).relu() ** power for i, (ps, _) in enumerate(kinds) for p in ps]
    push = [
        factor * (margin - d[i, n]).relu() ** power for i, (_, ns) in enumerate(kinds) for n in ns
    ]
    if average == "pairs":
        return mean(pull + push)
    if average == "active":
        pull, push = [v for v in pull if v > 0], [v for v in push if v > 0]
    return mean(pull) + mean(push)


def multi_similarity(d, kinds, alpha, beta, center, epsilon):
    total = EMPTY
    for i, (ps, ns) in enumerate(kinds):
        if ps and ns:
            near, far = min(d[i, n] for n in ns), max(d[i, p] for p in ps)
            pull = [(alpha * (d[i, p] - center)).exp() for p in ps if d[i, p] > near - epsilon]
            push = [(beta * (center - d[i, n])).exp() for n in ns if d[i, n] < far + epsilon]
            total = total + (1 + sum(pull)).log() / alpha if pull else total
            total = total + (1 + sum(push)).log() / beta if push else total
    return total / len(kinds)


def margin_triplets(d, kinds, rule=lambda near, far: True):
    return [
        (i, p, n)
        for i, (ps, ns) in enumerate(kinds)
        for p in ps
        for n in ns
        if rule(d[i, p], d[i, n])
    ]


def margin(d, triplets, case, beta, alpha, nu=0.0):
    total, count = EMPTY, 0
    for i, p, n in triplets:
        boundary = beta[case.labels[i]] if beta.ndim else beta
        for cost in (d[i, p] - boundary + alpha, boundary - d[i, n] + alpha):
            total, count = total + cost.relu(), count + int(cost > 0)
        total = total + nu * boundary
    return total / count if count else EMPTY


def batch_hard_of(d, kinds):
    return [
        (i, max(ps, key=lambda p: d.detach()[i, p]), min(ns, key=lambda n: d.detach()[i, n]))
        for i, (ps, ns) in enumerate(kinds)
        if ps and ns
    ]


def far_enough(distances, is_positive, is_negative):
    rule = lambda positive, negative, _: negative > 0.5 * positive  # noqa: E731
    return miners.AllTriplets(is_positive, is_negative, rule=rule)


BETAS = torch.tensor([1.0, 2.0, 3.0, 2.5, 4.0, 1.5], dtype=torch.float64)


def margin_of_classes():
    loss = losses.MarginLoss(margin=0.4, class_count=6, nu=0.05).double()
    with torch.no_grad():
        loss.beta.copy_(BETAS)
    return loss


def tuplet_margin(d, kinds, angle, scale):
    costs = []
    for i, (ps, ns) in enumerate(kinds):
        for p in ps:
            near = torch.cos(torch.acos((1 - d[i, p]).clamp(-1, 1 - 1e-15)) - angle)
            costs.append((1 + sum([(scale * (1 - d[i, n] - near)).exp() for n in ns], EMPTY)).log())
    return mean(costs)


def intra_pair_variance(d, kinds, low, high):
    near = [1 - d[i, p] for i, (ps, _) in enumerate(kinds) for p in ps]
    far = [1 - d[i, n] for i, (_, ns) in enumerate(kinds) for n in ns]
    pull = mean([((1 - low) * mean(near) - s).relu() ** 2 for s in near])
    return pull + mean([(s - (1 + high) * mean(far)).relu() ** 2 for s in far])


def sigmoid_loss():
    loss = losses.SigmoidPairsLoss(bias=-2.0).double()
    with torch.no_grad():
        loss.log_scale.copy_(torch.tensor(3.0, dtype=torch.float64).log())
    return loss


def checked():
    """Every loss with a loop of the same settings: name, loss, loop(distances, kinds, case)."""
    yield "nt-xent", losses.NTXentLoss(temperature=0.3), lambda d, k, _: nt_xent(d, k, 0.3)
    yield (
        "nt-xent euclidean",
        losses.NTXentLoss(temperature=0.5, distance=EUCLIDEAN),
        lambda d, k, _: nt_xent(d, k, 0.5),
    )
    for average in ("active", "all"):
        yield (
            f"supervised contrastive {average}",
            losses.SupervisedContrastiveLoss(temperature=0.3, average=average),
            lambda d, k, _, average=average: supervised_contrastive(d, k, 0.3, average),
        )
        yield (
            f"soft nearest neighbor {average}",
            losses.SoftNearestNeighborLoss(temperature=2.0, average=average),
            lambda d, k, _, average=average: soft_nearest_neighbor(d, k, 2.0, average),
        )
        for constant, coupled in ((True, True), (False, True), (False, False)):
            yield (
                f"circle {average} {constant} {coupled}",
                losses.CircleLoss(
                    gamma=4.0, average=average, constant_weights=constant, coupled=coupled
                ),
                lambda d, k, _, a=(constant, coupled, average): circle(d, k, 0.4, 4.0, *a),
            )
    for squared in (True, False):
        yield (
            f"lifted {squared}",
            losses.LiftedStructureLoss(margin=0.7, squared=squared),
            lambda d, k, _, squared=squared: lifted(d, k, 0.7, squared),
        )
    yield (
        "generalized lifted",
        losses.GeneralizedLiftedLoss(margin=0.7),
        lambda d, k, _: generalized_lifted(d, k, 0.7),
    )
    yield "n-pairs", losses.NPairsLoss(), lambda d, k, case: n_pairs(d, k, case.labels)
    for symmetric in (False, True):
        yield (
            f"multiple negatives {symmetric}",
            losses.MultipleNegativesLoss(temperature=0.3, symmetric=symmetric),
            lambda d, k, _, symmetric=symmetric: multiple_negatives(d, k, 0.3, symmetric),
        )
    yield (
        "sigmoid",
        sigmoid_loss(),
        lambda d, k, _: sigmoid_pairs(d, k, 3.0, -2.0),
    )
    yield (
        "threshold consistency",
        losses.ThresholdConsistencyLoss(positive_weight=2.0, negative_weight=0.5),
        lambda d, k, _: threshold_consistency(d, k, 0.1, 0.5, (2.0, 0.5)),
    )
    for average in ("pairs", "kind", "active"):
        for squared, low, halved in ((True, 0.0, True), (False, 1.2, False)):
            yield (
                f"contrastive {average} {squared} {low}",
                losses.ContrastiveLoss(
                    margin=2.0, squared=squared, positive_margin=low, halved=halved, average=average
                ),
                lambda d, k, _, a=(squared, low, 0.5 if halved else 1.0, average): contrastive(
                    d, k, 2.0, *a
                ),
            )
    two = torch.tensor(2.0, dtype=torch.float64)
    yield (
        "margin",
        losses.MarginLoss(margin=0.4, beta=2.0),
        lambda d, k, case: margin(d, margin_triplets(d, k), case, two, 0.4),
    )
    yield (
        "margin of classes",
        margin_of_classes(),
        lambda d, k, case: margin(d, margin_triplets(d, k), case, BETAS, 0.4, 0.05),
    )
    yield (
        "margin, batch hard",
        losses.MarginLoss(margin=0.4, beta=2.0, miner=miners.batch_hard),
        lambda d, k, case: margin(d, batch_hard_of(d, k), case, two, 0.4),
    )
    yield (
        "margin, semi-hard",
        losses.MarginLoss(margin=0.4, beta=2.0, miner=miners.all_semi_hard(1.0)),
        lambda d, k, case: margin(
            d, margin_triplets(d, k, lambda near, far: near < far < near + 1), case, two, 0.4
        ),
    )
    yield (
        "margin, a rule",
        losses.MarginLoss(margin=0.4, beta=2.0, miner=far_enough),
        lambda d, k, case: margin(
            d, margin_triplets(d, k, lambda near, far: far > 0.5 * near), case, two, 0.4
        ),
    )
    yield (
        "tuplet margin",
        losses.TupletMarginLoss(margin=0.2, scale=6.0),
        lambda d, k, _: tuplet_margin(d, k, 0.2, 6.0),
    )
    yield (
        "intra-pair variance",
        losses.IntraPairVarianceLoss(positive_slack=0.1, negative_slack=0.2),
        lambda d, k, _: intra_pair_variance(d, k, 0.1, 0.2),
    )
    yield (
        "contrastive, hinge on squared distance",
        losses.ContrastiveLoss(margin=6.0, squared=False, distance=SQUARED_EUCLIDEAN),
        lambda d, k, _: contrastive(d, k, 6.0, False, 0.0, 1.0, "pairs"),
    )
    yield (
        "snr contrastive",
        losses.SNRContrastiveLoss(margin=2.0),
        lambda d, k, _: contrastive(d, k, 2.0, False, 0.0, 1.0, "active"),
    )
    yield (
        "multi-similarity",
        losses.MultiSimilarityLoss(beta=10.0),
        lambda d, k, _: multi_similarity(d, k, 2.0, 10.0, 0.5, 0.1),
    )


CHECKED = [pytest.param(loss, loop, id=name) for name, loss, loop in checked()]
LOSSES = [pytest.param(loss, id=name) for name, loss, _ in checked()]
SLOPED = [
    pytest.param(loss, id=name) for name, loss, _ in checked() if "True True" not in name
]  # circle with constant weights has a gradient that is no slope


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("loss", "loop"), CHECKED)
def test_value_and_gradient_agree_with_the_loops(loss, loop, case):
    ours = case.points.clone().requires_grad_()
    value = case.call(loss, ours)
    value.backward()
    theirs = case.points.clone().requires_grad_()
    # The embeddings are touched, so that a loop that finds nothing can be differentiated too.
    expected = loop(case.distances(loss.distance, theirs), case.kinds(), case) + 0 * theirs.sum()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("loss", "loop"), CHECKED)
def test_the_loops_find_something(loss, loop):
    for name in ("batch", "duplicates", "memory", "copies"):
        case = cases()[name]
        leaf = case.points.clone().requires_grad_()
        value = loop(case.distances(loss.distance, leaf), case.kinds(), case)
        value.backward()
        assert value > 0.01
        assert leaf.grad.abs().max() > 1e-3


@pytest.mark.parametrize("loss", SLOPED)
def test_gradient_is_the_slope(loss):
    case = cases()["batch"]
    leaf = case.points.clone().requires_grad_()
    assert case.call(loss, leaf) > 0.01  # a flat loss would pass any gradient check
    assert torch.autograd.gradcheck(lambda embeddings: case.call(loss, embeddings), leaf)


def test_gradient_of_references_is_the_slope():
    case = cases()["memory"]
    for loss in (
        losses.LiftedStructureLoss(),
        losses.MultipleNegativesLoss(symmetric=True),
        losses.MarginLoss(beta=2.0, miner=far_enough),
    ):
        assert torch.autograd.gradcheck(
            lambda stored, loss=loss: loss(case.points, case.labels, stored, case.reference_labels),
            case.references.clone().requires_grad_(),
        )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("labels", [torch.arange(6), torch.zeros(6).long()])
def test_a_batch_without_both_kinds_still_backpropagates(loss, labels):
    lonely = points(6, 0).requires_grad_()
    loss(lonely, labels).backward()
    assert torch.isfinite(lonely.grad).all()


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.id != "multi-similarity"])
def test_an_empty_batch_costs_nothing(loss):
    none = torch.zeros(0, 4, requires_grad=True)
    value = loss(none, torch.zeros(0).long())
    value.backward()
    assert value == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_finite_at_duplicates_and_large_scale(loss, dtype, scale):
    leaf = (scale * torch.eye(3)[[0, 0, 1, 2, 0, 1]]).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(leaf, torch.tensor([0, 0, 1, 1, 1, 2]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_miner_decides_which_pairs_count(loss):
    if not hasattr(loss, "miner"):
        return
    selected = miners.AllTriplets if isinstance(loss, losses.MarginLoss) else miners.Pairs

    def nothing(distances, is_positive, is_negative):
        return selected(is_positive & False, is_negative & False)

    usual, loss.miner = loss.miner, nothing
    try:
        leaf = points(9, 0).requires_grad_()
        value = loss(leaf, cases()["batch"].labels)
        value.backward()
    finally:
        loss.miner = usual
    assert value == 0
    assert (leaf.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_facts_are_left_and_hold_no_graph(loss):
    loss(points(9, 0).requires_grad_(), cases()["batch"].labels)
    assert 0.5 < float(loss.facts["spread"]) <= 1
    assert not any(fact.requires_grad for fact in loss.facts.values())
    assert 0 <= float(loss.facts.get("active", 0)) <= 1


@pytest.mark.parametrize("loss", LOSSES)
def test_labels_of_the_wrong_shape_or_kind_are_named(loss):
    with pytest.raises(ValueError, match=r"labels must have shape \(6,\), .* got \(6, 1\)"):
        loss(points(6, 0), torch.zeros(6, 1).long())
    with pytest.raises(TypeError, match=r"labels must be integers, got torch\.float32"):
        loss(points(6, 0), torch.zeros(6))


@pytest.mark.parametrize("scale", [1.0, -1.0, 7.5, -30.0])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("way", [{}, {"SMALL": 0}, {"SMALL": 0, "LARGE": 0, "FEW": 1.0}])
def test_log_sum_exp_has_the_value_and_slope_of_its_definition(scale, dim, way, monkeypatch):
    for name, limit in way.items():
        monkeypatch.setattr(f"likewise.losses._log_sum_exp.{name}", limit)
    values = (20 * points(6, 0, dim=8)).requires_grad_()
    mask = torch.rand(6, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[:, 2], mask[3] = False, False
    found = log_sum_exp(values, mask, scale=scale, dim=dim)
    expected = (scale * values).masked_fill(~mask, -torch.inf).logsumexp(dim)
    some = mask.any(dim)
    torch.testing.assert_close(found[some], expected[some])
    assert ((found[~some] < -1e300) & torch.isfinite(found[~some])).all()
    assert (~some).any()
    (slope,) = torch.autograd.grad(found.sum(), values)
    (wanted,) = torch.autograd.grad(expected[some].sum(), values)
    torch.testing.assert_close(slope, wanted)


@pytest.mark.parametrize("few", [0.2, 1.0])
def test_both_sums_have_their_slopes_where_one_or_both_are_of_few(few, monkeypatch):
    values = points(20, 0, dim=30)
    positive = torch.rand(20, 30, generator=torch.Generator().manual_seed(1)) < 0.1
    negative = torch.rand(20, 30, generator=torch.Generator().manual_seed(2)) < 0.5
    assert (positive & negative).any()
    found = []
    for large in (1 << 20, 0):
        monkeypatch.setattr("likewise.losses._log_sum_exp.SMALL", 0)
        monkeypatch.setattr("likewise.losses._log_sum_exp.LARGE", large)
        monkeypatch.setattr("likewise.losses._log_sum_exp.FEW", few)
        leaf = values.clone().requires_grad_()
        sums = pull_and_push(leaf, positive, negative, pull_scale=2.0, push_scale=-5.0)
        sum((side * (1 + torch.arange(20))).sum() for side in sums).backward()
        found.append((*sums, leaf.grad))
    assert found[0][2].abs().max() > 1
    torch.testing.assert_close(found[1], found[0])


def test_a_pair_may_be_hopeless_without_losing_its_gradient():
    # A ratio computed before its logarithm would be 0, and log 0 pulls at nothing.
    leaf = torch.tensor([[0.0], [2000.0], [0.1]], requires_grad=True)
    loss = losses.NTXentLoss(temperature=1.0, distance=EUCLIDEAN)
    value = loss(leaf, torch.tensor([0, 0, 1]))
    value.backward()
    # Of the two pairs one costs 2000 - 0.1, the other 2000 - 1999.9 and a little.
    assert float(value.detach()) == pytest.approx((1999.9 + math.log1p(math.exp(0.1))) / 2)
    assert leaf.grad[1] > 0.2


def test_n_pairs_takes_the_first_pair_of_each_class():
    labels = torch.tensor([4, 7, 7, 4, 4, 7, 9])
    chosen = losses.first_of_each_class(labels, masks(labels)[0].any(dim=1))
    assert chosen.nonzero().flatten().tolist() == [0, 1]
    leaf = points(7, 0).requires_grad_()
    losses.NPairsLoss()(leaf, labels).backward()
    touched = leaf.grad.abs().sum(dim=1) > 0
    assert touched.nonzero().flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("case", CASES)
def test_n_pairs_is_the_same_where_it_may_not_look(case, monkeypatch):
    found = []
    for look in (True, False):
        monkeypatch.setattr(n_pairs_module, "free_to_look", lambda _, look=look: look)
        leaf = case.points.clone().requires_grad_()
        value = case.call(losses.NPairsLoss(), leaf)
        value.backward()
        found.append((value, leaf.grad))
    torch.testing.assert_close(found[0], found[1])


def test_n_pairs_counts_lengths_on_request():
    case = cases()["batch"]
    plain, heavy = losses.NPairsLoss(), losses.NPairsLoss(length_weight=0.5)
    added = heavy(case.points, case.labels) - plain(case.points, case.labels)
    torch.testing.assert_close(added, 0.5 * case.points.square().sum(dim=1).mean())


def test_snr_contrastive_counts_sums_on_request():
    case = cases()["batch"]
    plain, heavy = losses.SNRContrastiveLoss(), losses.SNRContrastiveLoss(mean_weight=0.5)
    added = heavy(case.points, case.labels) - plain(case.points, case.labels)
    torch.testing.assert_close(added, 0.5 * case.points.sum(dim=1).abs().mean())
    assert plain.distance is SNR


@pytest.mark.parametrize("distance", [COSINE, INNER_PRODUCT])
def test_two_towers_rank_as_cross_entropy_does(distance):
    queries, keys = points(6, 0), points(8, 1)  # the last two keys are hard negatives
    loss = losses.MultipleNegativesLoss(temperature=0.05, distance=distance)
    value = loss(queries, torch.arange(6), keys, torch.arange(8))
    scores = 20 * -distance.matrix(queries, keys)
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(6))
    torch.testing.assert_close(value, expected)


def test_the_sigmoid_loss_owns_a_scale_and_a_bias_that_learn():
    loss = losses.SigmoidPairsLoss()
    assert {name for name, _ in loss.named_parameters()} == {"log_scale", "bias"}
    loss(points(6, 0), torch.tensor([0, 0, 1, 1, 2, 2])).backward()
    assert all(float(p.grad.abs()) > 0 for p in loss.parameters())
    assert float(loss.facts["scale"]) == pytest.approx(10)
    assert float(loss.facts["bias"]) == -10


def test_nt_xent_of_many_positives_needs_no_cube():
    size = 2048  # 260,000 positive pairs against 1,920 negatives each would be 2 GB
    leaf = torch.randn(size, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(size) % 16
    loss = losses.NTXentLoss(temperature=0.2)
    value = loss(leaf, labels)
    value.backward()
    assert torch.isfinite(leaf.grad).all()
    d = COSINE.matrix(leaf[:1], leaf).detach()[0].double()
    row = labels == 0
    push = (-d[~row] / 0.2).logsumexp(0)
    row[0] = False
    expected = torch.nn.functional.softplus(push + d[row] / 0.2).mean()
    first = losses.nt_xent_loss(d[None].float(), masks(labels)[1][:1], temperature=0.2)[0, row]
    assert float(first.mean()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.NTXentLoss(temperature=0), "temperature must be a finite number above 0"),
        (lambda: losses.CircleLoss(gamma=-1), "gamma must be a finite number above 0, got -1"),
        (lambda: losses.CircleLoss(average="sum"), "average must be one of active, all"),
        (lambda: losses.ContrastiveLoss(average="all"), "average must be one of active, kind"),
        (lambda: losses.LiftedStructureLoss(margin=-0.1), "margin must be at least 0, got -0.1"),
        (lambda: losses.NPairsLoss(length_weight=-1), "length_weight must be at least 0, got -1"),
        (lambda: losses.SigmoidPairsLoss(scale=0), "scale must be a finite number above 0, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_boundary_of_a_class_moves_towards_what_its_anchors_need():
    case, loss = cases()["batch"], margin_of_classes()
    loss.nu = 0.0
    case.call(loss, case.points).backward()
    leaf = BETAS.clone().requires_grad_()
    distances = case.distances(EUCLIDEAN, case.points)
    margin(distances, margin_triplets(distances, case.kinds()), case, leaf, 0.4).backward()
    assert (leaf.grad != 0).sum() > 2
    torch.testing.assert_close(loss.beta.grad, leaf.grad)
    assert float(loss.facts["beta"]) == float(BETAS.mean())
    triplets = margin_triplets(distances, case.kinds())
    costly = [
        distance - sign * BETAS[case.labels[i]] + 0.4 > 0
        for i, p, n in triplets
        for sign, distance in ((1, distances[i, p]), (-1, -distances[i, n]))
    ]
    assert 0 < sum(costly) < len(costly)
    assert float(loss.facts["active"]) == pytest.approx(float(sum(costly)) / len(costly))
    far = torch.tensor([[0.0], [0.1], [9.0]])
    assert losses.MarginLoss(nu=1.0)(far, torch.tensor([0, 0, 1])) == 0  # no pair costs anything
    fixed = losses.MarginLoss(learn_beta=False)
    assert not fixed.beta.requires_grad
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.5, got 0\.\.6"):
        loss(case.points, case.labels * 2)


def test_the_share_of_one_pair_that_is_selected_is_whole():
    loss = losses.MultiSimilarityLoss(miner=miners.all_pairs)
    one, other = torch.eye(2).split(1)
    loss(one, torch.tensor([0]), other, torch.tensor([0]))
    assert float(loss.facts["active"]) == 1
