"""Prediction sets: the classes of a set, its limit, and how often it holds the right one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

import likewise as lw
from likewise.calibration import Calibration, KnownDistances
from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT
from likewise.index import Index
from likewise.matching import class_centers, classes_within, own_class_distances
from test_model_unknowns import a_cross_fit, blobs, indexed


def stored(seed, distance, names=()):
    rng = torch.Generator().manual_seed(seed)
    index = Index(distance, class_names=names)
    labels = torch.randint(-1, 5, (60,), generator=rng)
    index.add(torch.randn(60, 3, generator=rng), labels=labels)
    return index, torch.randn(40, 3, generator=rng), torch.randint(0, 6, (40,), generator=rng)


def by_class(index, query, distance):
    """The least distance of a query to each class, by the loops."""
    near = {}
    for row, code in enumerate(index.labels.tolist()):
        if code >= 0:
            gap = float(distance.matrix(query[None], index.embeddings[row][None]))
            near[code] = min(gap, near.get(code, math.inf))
    return near


@pytest.mark.parametrize("distance", [EUCLIDEAN, COSINE, INNER_PRODUCT], ids=lambda d: d.name)
@pytest.mark.parametrize("of", ["items", "centers"])
def test_sets_and_own_distances_agree_with_the_loops(distance, of, monkeypatch):
    monkeypatch.setattr("likewise.matching.prediction_sets.NUMBERS", 7 * 60)  # several blocks
    index, queries, own = stored(1, distance)
    if of == "centers":
        index = class_centers(index.embeddings, index.labels, distance=distance)
    near = [by_class(index, query, distance) for query in queries]
    limit = float(np.median([gap for each in near for gap in each.values()])) + 1e-4
    sets = classes_within(queries, index, limit, distance=distance)
    sizes = set()
    for codes, expected in zip(sets, near, strict=True):
        inside = sorted((gap, code) for code, gap in expected.items() if gap <= limit)
        assert codes.tolist() == [code for _, code in inside]
        sizes.add(len(inside))
    assert len(sizes) > 2, "sets of one size would prove little"
    found = own_class_distances(queries, own, index, distance=distance)
    expected = [each.get(code, math.inf) for each, code in zip(near, own.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert bool(found.isinf().any()), "the class that is not stored"


@pytest.mark.parametrize("distance", [EUCLIDEAN, COSINE, INNER_PRODUCT], ids=lambda d: d.name)
def test_an_item_at_the_limit_is_inside_to_the_last_digit(distance, monkeypatch):
    monkeypatch.setattr("likewise.matching.prediction_sets.NUMBERS", 90 * 300)  # several blocks
    rng = torch.Generator().manual_seed(4)
    labels = torch.arange(300) % 10
    stored = torch.randn(300, 64, generator=rng)
    # More near-equal items than a lookup would propose.
    stored[labels < 3] = stored[0] + 1e-6 * torch.randn(90, 64, generator=rng)
    index = Index(distance)
    index.add(stored, labels=labels)
    items, own = torch.randn(200, 64, generator=rng), torch.arange(200) % 10
    limits = own_class_distances(items, own, index, distance=distance)
    for item, code, limit in zip(items[:, None], own.tolist(), limits.tolist(), strict=True):
        nearest = index.lookup(item, k=300)
        assert limit == float(nearest.distances[nearest.labels == code].min())
        below = float(np.nextafter(np.float32(limit), np.float32(-np.inf)))
        (inside,) = classes_within(item, index, limit, distance=distance)
        (without,) = classes_within(item, index, below, distance=distance)
        assert code in inside.tolist()
        assert code not in without.tolist()
    sets = classes_within(items, index, float(limits.median()), distance=distance)
    for item, codes in zip(items[:, None], sets, strict=True):
        nearest = index.lookup(item, k=300)
        expected = nearest.labels[nearest.distances <= limits.median()].tolist()
        assert codes.tolist() == list(dict.fromkeys(expected))


def test_a_limit_is_inclusive_and_equally_near_classes_come_as_they_are_stored():
    index = Index(EUCLIDEAN, class_names=["ant", "bee", "cat"])
    index.add(torch.tensor([[2.0], [-2.0], [3.0], [2.0]]), labels=["bee", "ant", "cat", "bee"])
    (codes,) = classes_within(torch.zeros(1, 1), index, 3.0, distance=EUCLIDEAN)
    assert codes.tolist() == [1, 0, 2]
    (codes,) = classes_within(torch.zeros(1, 1), index, 2.999, distance=EUCLIDEAN)
    assert codes.tolist() == [1, 0]
    assert classes_within(torch.zeros(0, 1), index, 3.0, distance=EUCLIDEAN) == ()
    with pytest.raises(ValueError, match="stored must hold labeled items, got none"):
        classes_within(torch.zeros(1, 1), Index(EUCLIDEAN), 1.0, distance=EUCLIDEAN)
    with pytest.raises(ValueError, match="same"):
        classes_within(torch.zeros(1, 2), index, 1.0, distance=EUCLIDEAN)


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=60),
    st.integers(1, 999).map(lambda level: level / 1000),
)
def test_the_limit_is_the_smallest_that_covers_enough_with_one_more(distances, level):
    known = KnownDistances.of(torch.tensor(distances), torch.zeros(len(distances), dtype=torch.int))
    count = len(distances)
    enough = [
        limit
        for limit in known.distances
        # Of count + 1 items the new one counts as if it was outside.
        if 1000 * sum(each <= limit for each in known.distances)
        >= round(1000 * level) * (count + 1)
    ]
    if enough:
        assert known.limit(level) == min(enough)
    else:
        with pytest.raises(ValueError, match="more would do"):
            known.limit(level)


def test_too_few_items_are_told_with_what_is_missing_and_what_is_possible():
    known = KnownDistances.of(torch.arange(18.0), torch.arange(18) % 2)
    with pytest.raises(lw.errors.TooFewItems) as refused:
        known.limit(0.95)
    assert str(refused.value) == (
        "candidates must be at most 0.947 with 18 items to rest on, got 0.95, which takes 19: "
        "1 more would do. Calibrate on more items that are indexed, or ask for a lower level."
    )
    assert known.limit(0.947) == 17
    for count, level in ((19, 0.95), (9, 0.9), (99, 0.99), (999, 0.999)):
        assert KnownDistances.of(torch.arange(float(count)), torch.zeros(count).long()).limit(
            level
        ) == (count - 1)
        with pytest.raises(ValueError, match=f"takes {count}: 1 more"):
            KnownDistances.of(torch.arange(count - 1.0), torch.zeros(count - 1).long()).limit(level)
    for level in (0, 1, -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="candidates must be"):
            known.limit(level)


def test_of_classes_one_random_item_each_counts_and_of_many_items_a_thousand():
    rng = np.random.default_rng(0)
    distances, classes = torch.from_numpy(rng.random(5000)), torch.arange(5000) % 30
    known = KnownDistances.of(distances, classes, holds_for="classes")
    assert (len(known.distances), known.classes) == (30, 30)
    drawn = [int((distances == each).nonzero()) % 30 for each in known.distances]
    assert sorted(drawn) == list(range(30))
    items = KnownDistances.of(distances, classes)
    assert len(items.distances) == 1000
    assert abs(np.mean(items.distances) - 0.5) < 0.05  # not the smallest, nor the first
    assert "rests on 1,000 items" in items.rests_on(0.9)
    assert "rests on 30 classes" in known.rests_on(0.9)


def world(seed, classes=8, first=0):
    """Stored items and others of classes that differ much in how wide they are."""
    rng = np.random.default_rng([seed, 5])
    centers = rng.normal(0, 3, (classes, 2))
    wide = rng.lognormal(0, 0.8, classes)

    def items(count):
        labels = rng.integers(0, classes, count)
        noise = rng.standard_t(3, (count, 2)) * wide[labels, None]
        return torch.from_numpy(centers[labels] + noise).float(), torch.from_numpy(labels)

    return items


LEVEL = 0.8


def covered(holds_for, worlds):
    """Whether the set of one new item of each world holds its class."""
    hits = 0
    for seed in range(worlds):
        classes = 60 if holds_for == "classes" else 8
        items = world(seed, classes)
        index = Index(EUCLIDEAN)
        embeddings, labels = items(6 * classes)
        index.add(embeddings, labels=labels)
        near, own = items(4 * classes)
        new, truth = items(1 if holds_for == "items" else 200)
        calibrated = torch.isin(own, labels)
        if holds_for == "classes":
            calibrated &= own < 12
            new, truth = new[truth >= 12], truth[truth >= 12]
        near, own = near[calibrated], own[calibrated]
        to_own = own_class_distances(near, own, index, distance=EUCLIDEAN)
        limit = KnownDistances.of(to_own, own, holds_for=holds_for).limit(LEVEL)
        (codes,) = classes_within(new[:1], index, limit, distance=EUCLIDEAN)
        hits += int(truth[0]) in codes.tolist()
    return hits


@pytest.mark.parametrize("holds_for", ["items", "classes"])
def test_sets_hold_the_right_class_as_often_as_the_level_says(holds_for):
    worlds = 300
    hits = covered(holds_for, worlds)
    assert hits >= binom.ppf(0.001, worlds, LEVEL)
    # Nor much more often, or every class would do: the level is kept up to 1 / (n + 1).
    most = LEVEL + (1 / 13 if holds_for == "classes" else 1 / 25)
    assert hits <= binom.ppf(0.999, worlds, most)


def right(model, data):
    return [data.class_names[code] for code in data.labels.tolist()]


def test_a_model_tells_the_candidates_of_each_item_and_keeps_what_they_rest_on(tmp_path):
    model, aside, new = indexed(), blobs(240, 2, noise=1.5), blobs(600, 3, noise=1.5)
    model.encoder = lw.encoders.MLPEncoder((4,))
    index = model.index
    model.index = Index(EUCLIDEAN)
    model.add(blobs(60, 1))
    assert len(index) == len(model.index)
    chosen = model.calibrate(aside)
    assert (chosen.known.holds_for, chosen.known.classes) == ("items", 12)
    plain = model.match(new)
    found = model.match(new, candidates=0.9)
    assert plain.candidates is None
    assert torch.equal(plain.labels, found.labels)
    # By the loops: the distance to the nearest item of the own class, and its quantile.
    names = right(model, aside)
    gaps = EUCLIDEAN.matrix(model.embed(aside), model.index.embeddings)
    codes = [model.class_names[code] for code in model.index.labels.tolist()]
    own = sorted(
        min(float(gaps[row, at]) for at, code in enumerate(codes) if code == name)
        for row, name in enumerate(names)
    )
    assert found.candidates.limit == pytest.approx(own[math.ceil(241 * 0.9) - 1], rel=1e-5)
    held = [
        name in names for name, names in zip(right(model, new), found.candidates.names, strict=True)
    ]
    assert 0.85 < np.mean(held) < 0.96
    assert found.candidates.rests_on == (
        "at least 0.9 of the sets hold the item's class, on average, for new items of the 12 "
        "classes calibrated on, in the same mix (rests on 240 items)"
    )
    far = model.match(100 + torch.rand(3, 4), candidates=0.9)
    assert all(isinstance(each, list) for each in far.candidates.names)
    assert "candidates" in repr(found)
    assert "rests on 240 items" in repr(found.candidates)
    model.save(tmp_path / "m")
    again = lw.load(tmp_path / "m").match(new, candidates=0.9).candidates
    assert again.names == found.candidates.names
    assert Calibration.from_dict(chosen.to_dict()) == chosen
    # What is a matter of the index may change: more items of a class make it nearer, never farther.
    before = model.match(new, candidates=0.9).candidates
    model.index.add(model.embed(new)[:50] + 0.01, labels=right(model, new)[:50])
    for some, more in zip(
        before.names, model.match(new, candidates=0.9).candidates.names, strict=True
    ):
        assert set(some) <= set(more)


def test_an_empty_set_means_unknown():
    model = indexed()
    model.calibrate(blobs(240, 2))
    far = model.match(100 + torch.rand(3, 4), candidates=0.95)
    assert far.candidates.names == [[], [], []]
    assert far.candidates.words == ["unknown"] * 3
    assert far.candidates.sizes.tolist() == [0, 0, 0]
    assert far.labels.tolist() == [lw.UNKNOWN] * 3


def test_trained_classes_rest_on_items_kept_aside_with_a_cross_fit_or_without():
    names = [f"c{code:02}" for code in range(12)]
    known = []
    for with_fit in (False, True):
        model = indexed(trained_on=names)
        if with_fit:
            model.cross_fit = a_cross_fit()
        trained = blobs(240, 2)
        model.trained_prints = lw.data.fingerprints(blobs(120, 2))  # the first half of these
        made = model.calibrate(trained)
        assert made.unknowns[0].kind == ("cross-fit" if with_fit else "trained")
        known.append(made.known)
    assert known[0] == known[1]
    items = blobs(240, 2)
    aside = [row for row in range(240) if row not in set(np.flatnonzero(~model.is_new(items)))]
    assert 0 < len(known[0].distances) == len(aside) < 240


def test_classes_left_out_make_a_level_for_new_classes():
    model = indexed(12)
    model.calibrate(blobs(240, 2), leave_out="classes")
    with pytest.raises(ValueError, match=r"12 classes to rest on, got 0\.95, which takes 19: 7"):
        model.match(blobs(5, 3), candidates=0.95)
    found = model.match(blobs(5, 3), candidates=0.9).candidates
    assert found.rests_on.endswith("for items of new classes (rests on 12 classes)")


@pytest.mark.parametrize("rule", ["center", "majority"])
def test_other_rules_a_cohort_and_thresholds_by_class(rule):
    model, aside, new = indexed(), blobs(240, 2, noise=1.5), blobs(400, 3, noise=1.5)
    for cohort in (False, True):
        if cohort:
            model.use_cohort(
                torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3, nearest=20
            )
        model.calibrate(aside, rule=rule, k=1 if rule == "center" else 3)
        model.calibrate(aside, per_class=True, fewest=5, point="each")
        for point in (rule, "each"):
            found = model.match(new, point=point, candidates=0.8).candidates
            held = [
                name in names for name, names in zip(right(model, new), found.names, strict=True)
            ]
            assert 0.72 < np.mean(held) < 0.88
    model.calibrate(aside)
    assert model.calibrations["nearest"].known == model.calibrations["each"].known


def test_what_nothing_can_be_said_of_is_refused():
    model = indexed()
    model.calibrate(blobs(240, 2), rule="pairs")
    model.calibrate(blobs(240, 2))
    new = blobs(5, 3)
    for wrong, words in (
        ({"threshold": 1.0}, "candidates must be left out with a threshold"),
        ({"where": {"a": 1}}, "candidates must be left out with where"),
        ({"point": "pairs"}, "candidates must come with a calibration of the model for matching"),
    ):
        with pytest.raises(lw.InputError, match=words):
            model.match(new, candidates=0.9, **wrong)
    for level in (0.0, 1.0, "0.9", True):
        with pytest.raises(ValueError, match="candidates must be"):
            model.match(new, candidates=level)
    with pytest.raises(ValueError, match=r"0.995 with 240 items to rest on, got 0.999.* 999: 759"):
        model.match(new, candidates=0.999)
    with pytest.raises(ValueError, match="Ask for a lower level"):
        model.match(new, candidates=0.9999)


@pytest.mark.parametrize(
    "change",
    [
        {"distances": [2.0, 1.0]},
        {"distances": []},
        {"distances": [math.nan]},
        {"distances": "1"},
        {"holds_for": "pairs"},
        {"classes": 0},
        {"more": 1},
    ],
)
def test_damaged_known_distances_are_refused(change):
    kept = KnownDistances.of(torch.arange(3.0), torch.zeros(3).long())
    assert KnownDistances.from_dict(kept.to_dict()) == kept
    with pytest.raises(ValueError, match="must"):
        KnownDistances.from_dict({**kept.to_dict(), **change})
    chosen = indexed().calibrate(blobs(240, 2)) if "more" in change else None
    if chosen is not None:
        with pytest.raises(ValueError, match="known of a calibration cannot be read"):
            Calibration.from_dict({**chosen.to_dict(), "known": {**kept.to_dict(), **change}})
