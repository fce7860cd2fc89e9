import json
import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from likewise.calibration import (
    ClassThresholds,
    at_most_false_accepts,
    best_accuracy,
    best_f1,
    calibrate_matching,
    calibrate_per_class,
)
from likewise.calibration.guarantee import Guarantee


def queries(seed, sizes, *, scale=1.0):
    """Unknowns and rightly answered queries of each class, whose distances are on its own scale.

    `sizes` are (right, unknowns) by class; class c spreads over (1 + scale · c).
    """
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.full(r + s, c) for c, (r, s) in enumerate(sizes)])
    known = np.concatenate([np.arange(r + s) < r for r, s in sizes])
    unit = np.where(known, 0.5 * rng.random(len(labels)), rng.random(len(labels)))
    distances = unit * (1 + scale * labels)
    order = rng.permutation(len(labels))
    tensors = [torch.from_numpy(array[order]) for array in (distances, known, labels)]
    return tensors[0], tensors[1], tensors[1], tensors[2]


def test_a_class_with_data_enough_gets_what_its_own_queries_give_and_others_the_global_one():
    distances, same, known, labels = queries(0, [(60, 60), (60, 60), (60, 29), (29, 60), (0, 50)])
    thresholds = calibrate_per_class(distances, same, known, labels, gallery_size=50)
    assert sorted(thresholds.classes) == [0, 1]
    for code in (0, 1):
        own = labels == code
        alone = calibrate_matching(distances[own], same[own], known[own], gallery_size=50)
        assert thresholds.classes[code] == type(alone)(**{**alone.__dict__, "sample": ()})
    everywhere = calibrate_matching(distances, same, known, gallery_size=50)
    assert thresholds.everywhere == everywhere
    asked = torch.tensor([1, 0, 2, 99, -1])
    limits = [thresholds.classes[1].threshold, thresholds.classes[0].threshold]
    assert thresholds.of(asked).tolist() == [*limits, *[everywhere.threshold] * 3]
    assert limits[0] > 1.5 * limits[1] > 0
    assert thresholds.guarantee is None
    with_30 = calibrate_per_class(distances, same, known, labels, gallery_size=50, fewest=29)
    assert sorted(with_30.classes) == [0, 1, 2, 3]


def test_a_class_that_cannot_reach_the_goal_gets_the_global_one():
    distances, same, known, labels = queries(1, [(60, 60), (60, 60)], scale=0.0)
    distances[((labels == 1) & ~same).nonzero()[:3]] = -1.0
    distances[((labels == 0) & same).nonzero()[:9]] = -2.0
    goal = at_most_false_accepts(0.03)
    thresholds = calibrate_per_class(distances, same, known, labels, gallery_size=5, goal=goal)
    assert sorted(thresholds.classes) == [0]
    assert thresholds.of(torch.tensor([1])).item() == thresholds.everywhere.threshold


def test_known_queries_taken_for_a_class_are_wrong_answers_too():
    distances, same, known, labels = queries(0, [(60, 60), (60, 60)])
    known = known | (labels == 1)  # what class 1 gets wrong is of other indexed classes
    thresholds = calibrate_per_class(distances, same, known, labels, gallery_size=50)
    assert sorted(thresholds.classes) == [0, 1]


def test_fewer_mistakes_are_made_with_a_threshold_for_each_class():
    sizes = [(200, 200)] * 4
    distances, same, known, labels = queries(2, sizes, scale=2.0)
    thresholds = calibrate_per_class(
        distances, same, known, labels, gallery_size=5, goal=best_accuracy
    )
    new, right, _, given = queries(3, sizes, scale=2.0)
    by_class = float(((new <= thresholds.of(given)) == right).double().mean())
    by_one = float(((new <= thresholds.everywhere.threshold) == right).double().mean())
    assert by_class > by_one + 0.05


# the guarantee


GOAL = at_most_false_accepts(0.1, confidence=0.9)


def test_a_guarantee_is_shared_among_the_classes_and_the_rest():
    sizes = [(50, 300), (50, 300), (50, 40), (50, 5)]
    distances, same, known, labels = queries(4, sizes)
    distances[known] /= 20
    thresholds = calibrate_per_class(
        distances, same, known, labels, gallery_size=50, goal=GOAL, fewest=10
    )
    # With three thresholds each needs ceil(log(0.1 / 3) / log(0.9)) = 33 unknowns: class 2 has
    # enough, but what is left to the others, 5, has not.
    assert Guarantee(0.1, 1 - 0.1 / 3).fewest == 33
    assert sorted(thresholds.classes) == [0, 1]
    parts = [*thresholds.classes.values(), thresholds.everywhere]
    assert [round(part.guarantee.confidence, 4) for part in parts] == [0.9667] * 3
    assert [part.guarantee.negatives for part in parts] == [300, 300, 45]
    assert thresholds.guarantee.confidence == 0.9
    assert thresholds.guarantee.negatives == 645
    assert thresholds.guarantee.accepted == sum(part.guarantee.accepted for part in parts)
    assert thresholds.guarantee.holds_for == "unknown items"


def test_without_others_every_class_has_its_own_and_with_too_few_none_has():
    distances, same, known, labels = queries(5, [(50, 100), (50, 100)])
    options = {"gallery_size": 9, "goal": GOAL, "fewest": 10}
    thresholds = calibrate_per_class(distances, same, known, labels, **options)
    assert sorted(thresholds.classes) == [0, 1]
    assert thresholds.guarantee.negatives == 200
    assert round(thresholds.classes[0].guarantee.confidence, 4) == 0.95
    assert thresholds.everywhere.guarantee.confidence == 0.9
    distances, same, known, labels = queries(5, [(50, 20), (50, 20)])
    thresholds = calibrate_per_class(distances, same, known, labels, **options)
    assert thresholds.classes == {}
    assert thresholds.everywhere.guarantee == thresholds.guarantee
    assert thresholds.guarantee.negatives == 40
    assert thresholds.guarantee.confidence == 0.9


def test_unknowns_that_are_one_item_count_once():
    distances, same, known, labels = queries(6, [(60, 100), (60, 100)])
    items = torch.arange(len(labels))
    items[(~known) & (labels == 1)] = torch.arange(100) % 20 + 1000
    thresholds = calibrate_per_class(
        distances, same, known, labels, gallery_size=9, goal=GOAL, fewest=10, items=items
    )
    assert thresholds.classes == {}, "20 unknowns are too few for either part"
    assert thresholds.guarantee.negatives == 120
    assert thresholds.guarantee.holds_for == "groups"


def test_one_item_of_each_unknown_class_counts_for_all_thresholds_together():
    distances, same, known, labels = queries(6, [(60, 300), (60, 300)])
    classes = torch.where(known, labels, 10 + torch.arange(len(labels)) % 90)
    options = {"gallery_size": 9, "goal": GOAL, "fewest": 10, "classes": classes}
    thresholds = calibrate_per_class(distances, same, known, labels, **options)
    assert thresholds.guarantee.holds_for == "unknown classes"
    assert (thresholds.guarantee.negatives, thresholds.guarantee.classes) == (90, 90)
    assert sorted(thresholds.classes) == [0, 1]
    each = [part.guarantee.negatives for part in thresholds.classes.values()]
    assert sum(each) == 90
    assert min(each) >= Guarantee(0.1, 0.95).fewest == 29
    of_items = calibrate_per_class(
        distances, same, known, labels, **options, guarantee_for="items"
    ).guarantee
    assert (of_items.holds_for, of_items.negatives, of_items.classes) == ("unknown items", 600, 90)
    few = torch.where(known, labels, 10 + torch.arange(len(labels)) % 40)
    thresholds = calibrate_per_class(distances, same, known, labels, **options | {"classes": few})
    assert thresholds.classes == {}, "40 unknown classes are too few for two thresholds"
    assert thresholds.guarantee.negatives == 40


def test_a_class_of_unknowns_that_are_too_near_is_named():
    distances, same, known, labels = queries(7, [(50, 100), (50, 100)])
    distances[(labels == 1) & ~known] = -1.0
    with pytest.raises(ValueError, match="class 1 cannot have a threshold of its own: no thres"):
        calibrate_per_class(distances, same, known, labels, gallery_size=9, goal=GOAL)


def test_all_thresholds_together_keep_the_guarantee():
    rate, trials = 0.1, 120
    shares = np.array([0.6, 0.25, 0.15])  # of unknowns, taken for each class
    broken = single = 0
    for seed in range(trials):
        distances, same, known, labels = queries(seed, [(40, 240), (40, 100), (40, 60)])
        thresholds = calibrate_per_class(
            distances, same, known, labels, gallery_size=9, goal=GOAL, fewest=20
        )
        limits = thresholds.of(torch.arange(3)).numpy()
        true_rates = np.clip(limits / (1 + np.arange(3)), 0, 1)
        broken += shares @ true_rates > rate
        single += bool((true_rates > rate).any())
        assert len(thresholds.classes) == 3
    assert binomtest(single, trials, 0.1, "greater").pvalue > 0.01
    assert single > trials * 0.02, "a guarantee with room to spare would prove nothing"
    assert broken <= single


# edges


def test_thresholds_by_class_survive_json():
    distances, same, known, labels = queries(8, [(60, 100), (60, 100)])
    for goal in (GOAL, best_f1):
        thresholds = calibrate_per_class(distances, same, known, labels, gallery_size=9, goal=goal)
        fields = json.loads(json.dumps(thresholds.to_dict(), allow_nan=False))
        assert ClassThresholds.from_dict(fields) == thresholds
        assert len(thresholds.classes) == 2
        assert ClassThresholds.from_dict(fields | {"fewest": 1}).fewest == 1
    for damaged, message in [
        ([], "class thresholds must be a dict of everywhere, classes, fewest, guarantee"),
        (fields | {"more": 1}, "class thresholds must be a dict of"),
        (fields | {"fewest": 0}, "fewest must be a whole number above 0, got 0."),
        (fields | {"classes": {"x": {}}}, "classes of class thresholds must be a dict by class"),
        (fields | {"classes": {"3": {}}}, "a calibration must have the fields"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            ClassThresholds.from_dict(damaged)


def test_refused_arguments_say_why():
    distances, same, known, labels = queries(9, [(60, 100)])
    with pytest.raises(ValueError, match=r"labels must have shape \(160,\), one per item"):
        calibrate_per_class(distances, same, known, labels[:5], gallery_size=9)
    with pytest.raises(ValueError, match="fewest must be at least 1, got 0"):
        calibrate_per_class(distances, same, known, labels, gallery_size=9, fewest=0)
    distances[0] = math.inf
    with pytest.raises(ValueError, match="distances must be finite"):
        calibrate_per_class(distances, same, known, labels, gallery_size=9)
