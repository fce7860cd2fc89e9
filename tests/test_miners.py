import pytest
import torch

import oracles
from likewise import miners
from likewise.distances import EUCLIDEAN
from likewise.masks import masks
from likewise.miners import anchor_rows

SEEDS = range(25)


def batch(seed, size=12, classes=5, ties=False):
    rng = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(size, 3, generator=rng, dtype=torch.float64)
    if ties:
        embeddings = embeddings.round()  # many equal distances, some equal items
    labels = torch.randint(0, classes, (size,), generator=rng)  # some classes have a single item
    return EUCLIDEAN.matrix(embeddings, embeddings), labels


def kept(triplets):
    *triplet, keep = triplets
    return list(zip(*(part[keep].tolist() for part in triplet), strict=True))


def chosen(mask):
    return set(map(tuple, mask.nonzero().tolist()))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rule", ["batch_hard", "hardest_negative", "semi_hard"])
def test_triplet_rules_agree_with_the_loops(rule, seed, ties):
    distances, labels = batch(seed, ties=ties)
    expected = getattr(oracles, rule)(distances, labels)
    assert expected, "the oracle found nothing, so this seed would prove nothing"
    assert kept(getattr(miners, rule)(distances, *masks(labels))) == expected


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_hard_negative_pairs_agree_with_the_loops(seed, ties):
    distances, labels = batch(seed, ties=ties)
    pairs = miners.hard_negative_pairs(distances, *masks(labels))
    expected = oracles.hard_negative_pairs(distances, labels)
    assert expected
    assert chosen(pairs.negative) == expected
    assert torch.equal(pairs.positive, masks(labels)[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_multi_similarity_agrees_with_the_loops(seed):
    distances, labels = batch(seed)
    pairs = miners.multi_similarity(0.3)(distances, *masks(labels))
    positive, negative = oracles.multi_similarity_pairs(distances, labels, 0.3)
    assert positive
    assert negative
    assert (chosen(pairs.positive), chosen(pairs.negative)) == (positive, negative)


@pytest.mark.parametrize("miner", [miners.all_pairs, miners.all_triplets])
def test_taking_all_takes_the_masks(miner):
    distances, labels = batch(0)
    is_positive, is_negative = masks(labels)
    selected = miner(distances, is_positive, is_negative)
    assert torch.equal(selected.positive, is_positive)
    assert torch.equal(selected.negative, is_negative)


def test_random_hard_draws_every_costly_negative_about_equally_and_no_other():
    distances, labels = batch(3)
    margin = 0.8
    mine = miners.random_hard(margin, torch.Generator().manual_seed(0))
    counts = {}
    rounds = 600
    for _ in range(rounds):
        for triplet in kept(mine(distances, *masks(labels))):
            counts[triplet] = counts.get(triplet, 0) + 1
    costly = {
        (a, p, n)
        for a, p, n in oracles.all_triplets(labels)
        if distances[a, p] - distances[a, n] + margin > 0
    }
    assert len(costly) > 20
    assert set(counts) == costly
    for a, p, _n in costly:
        choices = [counts[t] for t in costly if t[:2] == (a, p)]
        assert sum(choices) == rounds, "one negative per positive pair and round"
        # Six standard deviations of a fair draw.
        fair = rounds / len(choices)
        assert max(abs(count - fair) for count in choices) < 6 * fair**0.5


@pytest.mark.parametrize(
    "mine",
    [
        miners.random_hard(1.0),
        miners.random_semi_hard(1.0),
        miners.distance_weighted(3, farthest=2),
        miners.balanced_positive_pairs(),
    ],
)
def test_chance_repeats_under_the_same_seed(mine):
    distances, labels = batch(1, size=40)
    torch.manual_seed(5)
    first = mine(distances, *masks(labels)).negative
    second = mine(distances, *masks(labels)).negative
    torch.manual_seed(5)
    assert torch.equal(mine(distances, *masks(labels)).negative, first)
    assert not torch.equal(first, second)


def test_random_semi_hard_draws_every_one_within_the_margin_about_equally_and_no_other():
    distances, labels = batch(3)
    margin = 0.8
    mine = miners.random_semi_hard(margin, torch.Generator().manual_seed(0))
    counts = {}
    rounds = 400
    for _ in range(rounds):
        for triplet in kept(mine(distances, *masks(labels))):
            counts[triplet] = counts.get(triplet, 0) + 1
    within = {
        (a, p, n)
        for a, p, n in oracles.all_triplets(labels)
        if distances[a, p] < distances[a, n] < distances[a, p] + margin
    }
    assert len(within) > 20
    assert set(counts) == within
    for a, p, _n in within:
        choices = [counts[t] for t in within if t[:2] == (a, p)]
        assert sum(choices) == rounds, "one negative per positive pair and round"
        fair = rounds / len(choices)
        assert max(abs(count - fair) for count in choices) < 6 * fair**0.5


def easy_or_hard(distances, labels, positive, negative):
    """Triplets of `batch_easy_hard`, by loops."""
    found = []
    for a in range(len(labels)):
        near, far = oracles.positives(labels, a), oracles.negatives(labels, a)

        def of(items, kind, hardest, row=distances[a]):
            if kind == "all":
                return items
            hard = kind != "easy"
            pick = max if hard == (hardest == "farthest") else min
            return [pick(items, key=lambda i: float(row[i]))] if items else []

        if not near or not far:
            continue
        if positive == "semi_hard":
            (bound,) = of(far, negative, "nearest")
            near = [p for p in near if distances[a, p] < distances[a, bound]]
        if negative == "semi_hard":
            (bound,) = of(near, positive, "farthest")
            far = [n for n in far if distances[a, n] > distances[a, bound]]
        found += [
            (a, p, n) for p in of(near, positive, "farthest") for n in of(far, negative, "nearest")
        ]
    return found


KINDS = ["easy", "hard", "semi_hard", "all"]
COMBINATIONS = [
    (positive, negative)
    for positive in KINDS
    for negative in KINDS
    if {positive, negative} not in ({"semi_hard"}, {"semi_hard", "all"}, {"all"})
]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:6])
@pytest.mark.parametrize(("positive", "negative"), COMBINATIONS)
def test_batch_easy_hard_agrees_with_the_loops(positive, negative, seed, ties):
    distances, labels = batch(seed, size=36, classes=4, ties=ties)
    expected = easy_or_hard(distances, labels, positive, negative)
    assert expected
    mine = miners.batch_easy_hard(positive, negative)
    assert kept(mine(distances, *masks(labels))) == expected


def test_batch_easy_hard_has_batch_hard_hardest_negative_and_all_as_special_cases():
    distances, labels = batch(0)
    both = masks(labels)
    assert kept(miners.batch_easy_hard()(distances, *both)) == kept(
        miners.batch_hard(distances, *both)
    )
    assert kept(miners.batch_easy_hard("all", "hard")(distances, *both)) == kept(
        miners.hardest_negative(distances, *both)
    )
    assert isinstance(miners.batch_easy_hard("all", "all")(distances, *both), miners.AllTriplets)


def test_balanced_positive_pairs_take_all_positives_and_as_many_negatives_at_random():
    distances, labels = batch(2, size=30)
    is_positive, is_negative = masks(labels)
    mine = miners.balanced_positive_pairs(torch.Generator().manual_seed(0))
    drawn = torch.zeros(30, 30)
    rounds, count = 200, int(is_positive.sum())
    assert 0 < count < int(is_negative.sum())
    for _ in range(rounds):
        pairs = mine(distances, is_positive, is_negative)
        assert torch.equal(pairs.positive, is_positive)
        assert int(pairs.negative.sum()) == count
        assert not (pairs.negative & ~is_negative).any()
        drawn += pairs.negative
    fair = rounds * count / int(is_negative.sum())
    assert ((drawn[is_negative] - fair).abs() < 6 * fair**0.5).all()


def test_balanced_positive_pairs_take_every_negative_where_there_are_fewer():
    labels = torch.tensor([0, 0, 0, 0, 1])
    is_positive, is_negative = masks(labels)
    pairs = miners.balanced_positive_pairs()(torch.rand(5, 5), is_positive, is_negative)
    assert torch.equal(pairs.negative, is_negative)
    assert not miners.balanced_positive_pairs()(
        torch.rand(3, 3), *masks(torch.arange(3))
    ).negative.any()


@pytest.mark.parametrize("dimension", [2, 3, 16])
def test_distance_weighted_draws_in_inverse_proportion_to_how_common_a_distance_is(dimension):
    # Many equal anchors with one positive, and five negatives at chosen distances.
    rounds, apart = 40_000, [0.2, 0.5, 1.0, 1.3, 1.5]
    distances = torch.tensor([[0.0, *apart]]).expand(rounds, -1)
    is_positive = torch.tensor([[True] + [False] * 5]).expand(rounds, -1)

    def weight(d):
        d = max(d, 0.5)
        return d ** (2 - dimension) * (1 - d**2 / 4) ** ((3 - dimension) / 2) if d < 1.4 else 0.0

    weights = torch.tensor([weight(d) for d in apart])
    mine = miners.distance_weighted(dimension, generator=torch.Generator().manual_seed(0))
    mined = mine(distances, is_positive, ~is_positive)
    assert mined.keep.all()
    counts = torch.bincount(mined.negative, minlength=6)
    fair = rounds * weights / weights.sum()
    assert counts[0] == 0
    assert fair[0] == fair[1] > 100
    assert ((counts[1:] - fair).abs() <= 6 * fair.sqrt()).all()


@pytest.mark.parametrize(
    ("rule", "possible"), [(miners.random_hard, {1, 2, 3}), (miners.random_semi_hard, {3})]
)
def test_a_negative_exactly_as_far_as_positive_or_margin_is_not_beyond_it(rule, possible):
    distances = torch.tensor([[2.0, 1.0, 2.0, 2.5, 3.0, 4.0]]).expand(300, -1)
    is_positive = torch.tensor([[True] + [False] * 5]).expand(300, -1)
    mined = rule(1.0, torch.Generator().manual_seed(0))(distances, is_positive, ~is_positive)
    assert mined.keep.all()
    assert set(mined.negative.tolist()) == possible


def test_distance_weighted_keeps_nothing_where_no_negative_is_near():
    distances = torch.tensor([[0.0, 0.3, 1.45], [0.3, 0.0, 1.39], [1.45, 1.39, 0.0]])
    mined = miners.distance_weighted(8)(distances, *masks(torch.tensor([0, 0, 1])))
    assert kept(mined) == [(1, 0, 2)]


def angle(points, a, p, n):
    middle = (points[a] + points[p]) / 2
    return float(
        torch.atan((points[a] - points[p]).norm() / (2 * (points[n] - middle).norm())).rad2deg()
    )


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_the_angular_rule_is_the_angle_from_the_middle(seed):
    points = torch.randn(10, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = torch.arange(10) % 4
    distances = EUCLIDEAN.matrix(points, points)
    selected = miners.angular(30)(distances, *masks(labels))
    expected = {t for t in oracles.all_triplets(labels) if angle(points, *t) > 30}
    assert 0 < len(expected) < len(oracles.all_triplets(labels))
    assert {
        (a, p, n)
        for a, p, n in oracles.all_triplets(labels)
        if selected.rule(distances[a, p], distances[a, n], distances[p, n])
    } == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("looks", [True, False])
def test_sorted_rows_are_those_of_a_stable_sort(dtype, looks, monkeypatch):
    monkeypatch.setattr(anchor_rows, "free_to_look", lambda _: looks)
    values = torch.randint(-3, 4, (6, 40), generator=torch.Generator().manual_seed(0)).to(dtype) / 3
    values[0, ::3] = torch.inf
    values[1, ::3] = -torch.inf
    values[2, ::2] = -0.0
    ordered, columns = anchor_rows.sorted_rows(values)
    expected, expected_columns = values.sort(dim=1, stable=True)
    assert torch.equal(ordered, expected)
    assert torch.equal(columns, expected_columns)
    assert torch.equal(anchor_rows.sorted_values(values[0]), values[0].sort().values)


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_as_on_a_gpu_without_looking_at_numbers_the_same_is_kept(seed, monkeypatch):
    distances, labels = batch(seed)
    rules = (miners.hardest_negative, miners.semi_hard, miners.batch_easy_hard("all", "easy"))
    expected = [kept(mine(distances, *masks(labels))) for mine in rules]
    negative = miners.hard_negative_pairs(distances, *masks(labels)).negative
    monkeypatch.setattr(anchor_rows, "free_to_look", lambda _: False)
    assert [kept(mine(distances, *masks(labels))) for mine in rules] == expected
    assert torch.equal(miners.hard_negative_pairs(distances, *masks(labels)).negative, negative)


def test_there_are_no_more_triplets_than_anchors_times_positives():
    distances, _ = batch(0, size=40)
    labels = torch.arange(40) // 4
    assert miners.semi_hard(distances, *masks(labels)).keep.shape == (40 * 3,)


TRIPLET_RULES = [
    miners.batch_hard,
    miners.hardest_negative,
    miners.semi_hard,
    miners.random_hard(0.5, torch.Generator().manual_seed(0)),
    miners.random_semi_hard(5.0, torch.Generator().manual_seed(0)),
    miners.distance_weighted(3, farthest=2, generator=torch.Generator().manual_seed(0)),
    miners.batch_easy_hard("easy", "hard"),
    miners.batch_easy_hard("hard", "easy"),
    miners.batch_easy_hard("easy", "semi_hard"),
    miners.batch_easy_hard("semi_hard", "easy"),
    miners.batch_easy_hard("all", "hard"),
    miners.batch_easy_hard("easy", "all"),
]


@pytest.mark.parametrize("mine", TRIPLET_RULES)
@pytest.mark.parametrize(
    "labels", [torch.zeros(5).long(), torch.arange(5)], ids=["one class", "all alone"]
)
def test_without_both_kinds_nothing_is_kept(mine, labels):
    distances, _ = batch(0, size=5)
    assert kept(mine(distances, *masks(labels))) == []


@pytest.mark.parametrize("mine", TRIPLET_RULES)
def test_rectangular_masks_give_valid_triplets(mine):
    rng = torch.Generator().manual_seed(0)
    anchors, references = torch.randn(6, 3, generator=rng), torch.randn(15, 3, generator=rng)
    labels = torch.randint(0, 3, (6,), generator=rng)
    reference_labels = torch.randint(0, 3, (15,), generator=rng)
    is_positive, is_negative = masks(labels, reference_labels)
    found = kept(mine(EUCLIDEAN.matrix(anchors, references), is_positive, is_negative))
    assert len(found) >= 6
    for anchor, positive, negative in found:
        assert is_positive[anchor, positive]
        assert is_negative[anchor, negative]


@pytest.mark.parametrize("mine", [*TRIPLET_RULES[:3], miners.hard_negative_pairs])
def test_mining_never_differentiates(mine):
    distances, labels = batch(0)
    distances.requires_grad_()
    assert not any(part.requires_grad for part in mine(distances, *masks(labels)))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="margin must be a finite number above 0, got 0"):
        miners.random_hard(0)
    with pytest.raises(ValueError, match="epsilon must be at least 0, got -1"):
        miners.multi_similarity(-1)
    with pytest.raises(ValueError, match="margin must be a finite number above 0, got 0"):
        miners.random_semi_hard(0)
    with pytest.raises(ValueError, match="margin must be a finite number above 0, got 0"):
        miners.all_semi_hard(0)
    with pytest.raises(ValueError, match="degrees must be below 90, got 90"):
        miners.angular(90)
    with pytest.raises(ValueError, match="positive must be one of all, easy, hard, semi_hard, got"):
        miners.batch_easy_hard("medium")
    with pytest.raises(ValueError, match="negative must be easy or hard beside all, got 'semi_h"):
        miners.batch_easy_hard("all", "semi_hard")
    with pytest.raises(ValueError, match=r"farthest must be above nearest, 0\.5, and at most 2"):
        miners.distance_weighted(8, farthest=0.5)
    with pytest.raises(ValueError, match="dimension must be at least 2, got 1"):
        miners.distance_weighted(1)


@pytest.mark.parametrize("looks", [True, False], ids=["CPU", "as on a GPU"])
@pytest.mark.parametrize("most", [None, 1, 2, 3, 4, 5])
def test_positives_side_by_side_are_those_of_each_row_in_order(most, looks, monkeypatch):
    monkeypatch.setattr(anchor_rows, "free_to_look", lambda _: looks)
    positive = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]]).bool()
    if most == 1:  # 2 is a bound that holds, 1 is none
        with pytest.raises((ValueError, RuntimeError), match=r"most_positives|nonzero value"):
            anchor_rows.positive_columns(positive, most)
        return
    columns, valid = anchor_rows.positive_columns(positive, most)
    # A bound saves room; without one that is below the number of columns all of them are there.
    width = 2 if looks else min(most or 4, 4)
    assert columns.shape == valid.shape == (4, width)
    if not looks and width == 4:
        assert torch.equal(columns[0], torch.arange(4))
    found = [row[keep].tolist() for row, keep in zip(columns, valid, strict=True)]
    assert found == [[1, 3], [], [0], [2, 3]]


@pytest.mark.parametrize("looks", [True, False], ids=["CPU", "as on a GPU"])
def test_positives_of_one_column_or_none_are_side_by_side_too(looks, monkeypatch):
    monkeypatch.setattr(anchor_rows, "free_to_look", lambda _: looks)
    columns, valid = anchor_rows.positive_columns(torch.tensor([[True], [True], [False]]))
    assert columns.tolist() == [[0], [0], [0]]
    assert valid.tolist() == [[True], [True], [False]]
    columns, valid = anchor_rows.positive_columns(torch.zeros(3, 0, dtype=torch.bool))
    assert columns.shape == valid.shape == (3, 0)


@pytest.mark.parametrize("seed", range(6))
def test_pair_margin_agrees_with_the_loops(seed):
    distances, labels = batch(seed, ties=True)
    size = range(len(labels))
    low, high = 2**0.5, 2.0
    pairs = miners.pair_margin(low, high)(distances, *masks(labels))
    positive = {(a, p) for a in size for p in oracles.positives(labels, a) if distances[a, p] > low}
    negative = {
        (a, n) for a in size for n in oracles.negatives(labels, a) if distances[a, n] < high
    }
    assert 0 < len(positive) < int(masks(labels)[0].sum())
    assert 0 < len(negative) < int(masks(labels)[1].sum())
    assert (distances == high).any(), "a tie at a margin"
    assert (chosen(pairs.positive), chosen(pairs.negative)) == (positive, negative)


@pytest.mark.parametrize("seed", range(6))
def test_within_a_range_batch_hard_takes_the_hardest_of_the_range(seed):
    distances, labels = batch(seed, ties=True)
    mine = miners.within_range(miners.batch_hard, positive=(1.0, 2.0), negative=(1.0, 9.0))
    expected = []
    for a in range(len(labels)):
        near = [p for p in oracles.positives(labels, a) if 1 <= distances[a, p] <= 2]
        far = [n for n in oracles.negatives(labels, a) if 1 <= distances[a, n] <= 9]
        if near and far:
            positive = max(near, key=lambda i: float(distances[a, i]))
            expected.append((a, positive, min(far, key=lambda i: float(distances[a, i]))))
    assert expected
    found = kept(mine(distances, *masks(labels)))
    assert found == expected
    assert found != oracles.batch_hard(distances, labels)


def test_an_unbounded_range_leaves_everything_and_pairs_keep_what_is_no_number():
    distances, labels = batch(0)
    everything = miners.within_range(miners.all_pairs)(distances, *masks(labels))
    assert torch.equal(everything.positive, masks(labels)[0])
    distances[0] = torch.nan
    narrow = miners.within_range(miners.all_pairs, positive=(0, 0), negative=(0, 0))
    for mine in (narrow, miners.pair_margin(9.0, 0.0)):
        pairs = mine(distances, *masks(labels))
        assert torch.equal((pairs.positive | pairs.negative)[0], torch.arange(12) != 0)
        assert not (pairs.positive | pairs.negative)[1:].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: miners.pair_margin(torch.nan), "positive_margin must be a finite number, got nan"),
        (lambda: miners.pair_margin(negative_margin="1"), "negative_margin must be a number, got"),
        (
            lambda: miners.within_range(miners.all_pairs, negative=(2, 1)),
            "negative must be a smallest and a largest distance, got 2 and 1",
        ),
        (
            lambda: miners.within_range(miners.all_pairs, positive=(torch.nan, 1)),
            "positive must be a number, got nan",
        ),
    ],
)
def test_bounds_that_are_none_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
