import math

import numpy as np
import pytest
import torch

from likewise.calibration import (
    at_most_false_accepts,
    best_accuracy,
    calibrate_matching,
    calibrate_per_class,
)
from likewise.distances import COSINE, EUCLIDEAN, NAMED
from likewise.index import Index, Neighbors
from likewise.matching import (
    RULES,
    UNKNOWN,
    class_centers,
    decide,
    match,
    normalize_neighbors,
    relative_centers,
)
from likewise.normalization import AdaptiveNorm
from likewise.probability import fit_logistic


def gallery(seed, n=60, d=5, classes=4):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=rng) * 3 + 2
    return torch.randn(n, d, generator=rng) + labels[:, None] * torch.eye(d)[0], labels


# centers


@pytest.mark.parametrize("distance", NAMED.values(), ids=NAMED.get)
def test_centers_are_the_means_of_classes(distance):
    embeddings, labels = gallery(0)
    labels[:7] = -1
    centers = class_centers(embeddings, labels, distance=distance)
    assert centers.ids.tolist() == centers.labels.tolist() == [2, 5, 8, 11]
    rows = embeddings / embeddings.norm(dim=1, keepdim=True) if distance is COSINE else embeddings
    for code, center in zip(centers.ids.tolist(), centers.embeddings, strict=True):
        torch.testing.assert_close(center, rows[labels == code].mean(dim=0))


def test_the_rule_decides_by_the_nearest_center():
    embeddings, labels = gallery(1)
    centers = class_centers(embeddings, labels, distance=EUCLIDEAN)
    queries = gallery(2)[0]
    found = centers.lookup(queries, k=2)
    matches = match(found, 2.0, rule="center")
    by_hand = EUCLIDEAN.matrix(queries, centers.embeddings)
    expected = centers.labels[by_hand.argmin(dim=1)].where(by_hand.amin(dim=1) <= 2.0, UNKNOWN)
    assert matches.labels.tolist() == expected.tolist()
    assert 0 < int(matches.accepted.sum()) < 60
    index = Index(EUCLIDEAN)
    index.add(embeddings, labels=labels)
    by_nearest = match(index.lookup(queries, k=1), math.inf).labels
    assert not torch.equal(by_nearest, match(found, math.inf, rule="center").labels)


def test_class_names_are_kept_and_items_are_refused():
    embeddings, labels = gallery(3, classes=2)
    names = ["a", "b", "c", "d", "e", "f"]
    assert class_centers(embeddings, labels, class_names=names).class_names == names
    index = Index()
    for ids in (np.arange(60) + 5, [f"id{i}" for i in range(60)]):
        index = Index()
        index.add(embeddings, labels=labels, ids=ids)
        with pytest.raises(ValueError, match="neighbors must be class centers for the rule"):
            decide(index.lookup(embeddings, k=3), "center")
    with pytest.raises(ValueError, match="labels must be known for at least one item, got 60"):
        class_centers(embeddings, torch.full((60,), -1))
    nobody = class_centers(embeddings, labels).lookup(embeddings[:0], k=1)
    assert match(nobody, 1.0, rule="center").labels.tolist() == []


# thresholds by class, the size of the gallery, probabilities


def trials():
    rng = np.random.default_rng(0)
    labels = torch.arange(400) % 2
    known = torch.from_numpy(rng.random(400) < 0.5)
    distances = torch.from_numpy(np.where(known, 0.5, 1) * rng.random(400)) * (1 + labels)
    distances[known] /= 4
    return distances, known, labels


def found(distances, labels):
    ids = np.arange(len(labels))[:, None]
    return Neighbors(ids, distances[:, None].float(), labels[:, None])


def test_each_label_is_judged_by_its_own_threshold():
    distances, known, labels = trials()
    thresholds = calibrate_per_class(
        distances, known, known, labels, gallery_size=9, goal=best_accuracy
    )
    assert len(thresholds.classes) == 2
    own = [thresholds.classes[code].threshold for code in (0, 1)]
    middle = (own[0] + own[1]) / 2
    asked = found(torch.full((3,), middle), torch.tensor([0, 1, 7]))
    matches = match(asked, thresholds)
    assert own[0] < middle < own[1]
    assert matches.labels[:2].tolist() == [UNKNOWN, 1]
    assert matches.limits.tolist() == [*own, thresholds.everywhere.threshold]
    assert matches.threshold == thresholds.everywhere.threshold
    assert (matches.labels[2] == 7) == (middle <= matches.threshold)
    with pytest.raises(ValueError, match="calibrated for the rule 'majority'"):
        match(asked, thresholds, rule="majority")
    assert match(asked, 0.1).limits is None


@pytest.mark.parametrize("by_class", [False, True])
def test_a_grown_gallery_is_warned_of_and_a_smaller_one_is_not(by_class):
    distances, known, labels = trials()
    goal = at_most_false_accepts(0.1, confidence=0.9)
    if by_class:
        made = calibrate_per_class(distances, known, known, labels, gallery_size=50, goal=goal)
        assert made.classes
    else:
        made = calibrate_matching(distances, known, known, gallery_size=50, goal=goal)
    asked = found(distances, labels)
    same = match(asked, made, gallery_size=50)  # warnings are errors here
    match(asked, made)
    with pytest.warns(UserWarning, match=r"at most 50 items .* got 100\. .* 2 times as often"):
        grown = match(asked, made, gallery_size=100)
    assert torch.equal(same.labels, grown.labels)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_calibrated_probability(rule):
    embeddings, labels = gallery(4, n=300)
    queries, truth = gallery(5, n=300)
    new, new_truth = gallery(6, n=300)
    if rule == "center":
        home = class_centers(embeddings, labels, distance=EUCLIDEAN)
    elif rule == "relative":
        home = relative_centers(embeddings, labels, distance=EUCLIDEAN)
    else:
        home = Index(EUCLIDEAN)
        home.add(embeddings, labels=labels)
    given, distances = decide(home.lookup(queries, k=3), rule)
    share = float((given == truth).double().mean())
    probability = fit_logistic(distances, given == truth, prior=share)
    matches = match(home.lookup(new, k=3), math.inf, rule=rule, probability=probability)
    assert torch.equal(matches.probabilities, probability.of(matches.distances))
    came_out = float((matches.labels == new_truth).double().mean())
    assert 0.5 < came_out < 0.95
    assert float(matches.probabilities.mean()) == pytest.approx(came_out, abs=0.08)
    assert match(home.lookup(new, k=3), math.inf, rule=rule).probabilities is None


def test_where_nobody_voted_the_probability_is_zero():
    probability = fit_logistic(torch.tensor([0.1, 0.9]), torch.tensor([True, False]))
    asked = found(torch.tensor([math.inf, 0.1, 0.0]), torch.tensor([-1, 3, -1]))
    matches = match(asked, 1.0, probability=probability)
    assert matches.probabilities.tolist()[::2] == [0, 0]
    assert matches.probabilities[1] > 0.5


# normalized neighbors


def test_normalized_neighbors_are_those_of_the_normalized_distance():
    embeddings, labels = gallery(7)
    cohort, queries = gallery(8)[0] * 2, gallery(9, n=11)[0]
    norm = AdaptiveNorm(cohort, EUCLIDEAN, nearest=20)
    index = Index(EUCLIDEAN)
    index.add(embeddings, labels=labels, ids=[f"id{i}" for i in range(60)])
    whole = Index(norm.as_distance())
    whole.add(embeddings, labels=labels, ids=[f"id{i}" for i in range(60)])
    expected = whole.lookup(queries, k=60)
    plain = index.lookup(queries, k=60)
    ours = normalize_neighbors(plain, queries, index, norm)
    torch.testing.assert_close(ours.distances, expected.distances, rtol=1e-4, atol=1e-4)
    assert (ours.ids == expected.ids).mean() > 0.99  # but where rounding swaps two
    assert (ours.ids[:, 0] != plain.ids[:, 0]).any()


def test_padding_stays_at_the_end_and_nothing_gives_nothing():
    embeddings, labels = gallery(10, n=6)
    index = Index(EUCLIDEAN)
    index.add(embeddings, labels=labels, metadata=[{"odd": i % 2} for i in range(6)])
    norm = AdaptiveNorm(gallery(11)[0], EUCLIDEAN, nearest=9)
    plain = index.lookup(embeddings, k=5, where={"odd": 1})
    ours = normalize_neighbors(plain, embeddings, index, norm)
    assert ours.distances[:, 3:].isposinf().all()
    assert ours.distances[:, :3].isfinite().all()
    assert ours.ids[:, 3:].tolist() == [[-1, -1]] * 6
    assert ours.labels[:, 3:].tolist() == [[-1, -1]] * 6
    nothing = index.lookup(embeddings[:2], k=5, where={"odd": 9})
    assert normalize_neighbors(nothing, embeddings[:2], index, norm).ids.tolist() == [[-1] * 5] * 2
    with pytest.raises(ValueError, match="queries must be those that were looked up, 6, got 5"):
        normalize_neighbors(plain, embeddings[:5], index, norm)


def test_centers_of_no_rows_of_numbers_are_refused():
    with pytest.raises(ValueError, match=r"embeddings must .* got .*\(3,\)"):
        class_centers(torch.ones(3), torch.tensor([0, 1, 1]))
    with pytest.raises(TypeError, match=r"embeddings must be floating point, got torch\.int64"):
        class_centers(torch.ones(3, 2).long(), torch.tensor([0, 1, 1]))
