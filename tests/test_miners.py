import pytest
import torch

import oracles
from likewise import miners
from likewise.distances import EUCLIDEAN
from likewise.masks import masks

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


def test_random_hard_repeats_under_the_same_seed():
    distances, labels = batch(1, size=40)
    mine = miners.random_hard(1.0)
    torch.manual_seed(5)
    first = mine(distances, *masks(labels)).negative
    second = mine(distances, *masks(labels)).negative
    torch.manual_seed(5)
    assert torch.equal(mine(distances, *masks(labels)).negative, first)
    assert not torch.equal(first, second)


TRIPLET_RULES = [
    miners.batch_hard,
    miners.hardest_negative,
    miners.semi_hard,
    miners.random_hard(0.5, torch.Generator().manual_seed(0)),
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
