import json
import re

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from likewise.calibration import (
    Calibration,
    at_least_recall,
    at_most_false_accepts,
    best_accuracy,
    best_f1,
    calibrate,
    calibrate_all,
    calibrate_matching,
)
from likewise.calibration.guarantee import Guarantee


def queries(seed, unknowns=400, known=100, confused=20):
    """Known queries that are near, some of them to a wrong class, and unknowns farther away."""
    rng = np.random.default_rng(seed)
    total = unknowns + known
    is_known = torch.arange(total) < known
    same = is_known & (torch.arange(total) >= confused)
    distances = torch.from_numpy(rng.random(total))
    distances[is_known] *= 0.6
    order = torch.from_numpy(rng.permutation(total))
    return distances[order], same[order], is_known[order]


def test_a_guarantee_rests_on_unknowns_and_not_on_confused_known_queries():
    distances, same, known = queries(0)
    goal = at_most_false_accepts(0.05, confidence=0.95)
    chosen = calibrate_matching(distances, same, known, gallery_size=500, goal=goal)
    unknowns = distances[~known].sort().values
    looked_at = Guarantee(0.05, 0.95).looked_at(400)
    assert looked_at > 5
    limit = unknowns[looked_at - 1]
    assert chosen.threshold == float(distances[distances < limit].max())
    assert chosen.guarantee.negatives == 400
    assert chosen.guarantee.holds_for == "unknown items"
    assert "for new items of these unknown classes, with" in str(chosen.guarantee)
    assert chosen.guarantee.accepted == looked_at - 1
    assert chosen.false_positive_rate.value == (looked_at - 1) / 400
    assert chosen.false_accept_rate == chosen.false_positive_rate
    assert calibrate(distances, same).false_positive_rate is None
    assert (chosen.gallery_size, chosen.rule, chosen.k) == (500, "nearest", 1)


def test_unknowns_of_few_classes_count_once_each():
    distances, same, known = queries(1)
    classes = torch.where(known, 0, 1 + torch.arange(500) % 80)
    goal = at_most_false_accepts(0.05, confidence=0.95)
    chosen = calibrate_matching(distances, same, known, gallery_size=9, goal=goal, items=classes)
    assert chosen.guarantee.holds_for == "groups"
    assert chosen.guarantee.negatives == 80
    assert "leaving out" in chosen.false_positive_rate.method
    below = distances[~known] <= chosen.threshold
    assert chosen.false_positive_rate.value == pytest.approx(float(below.double().mean()))


def test_too_few_unknowns_are_refused_and_one_more_will_do():
    distances, same, known = queries(2, unknowns=59)
    distances[same.nonzero()[0]] = -1.0
    goal = at_most_false_accepts(0.05, confidence=0.95)
    few = known.clone()
    few[(~known).nonzero()[0]] = True
    message = (
        "unknown queries (of classes not indexed) must be at least 59 for at most 0.05 false "
        "accepts with a confidence of 0.95, got 58: 1 more would do, or a rate of 0.0504 or more."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrate_matching(distances, same, few, gallery_size=9, goal=goal)
    chosen = calibrate_matching(distances, same, known, gallery_size=9, goal=goal)
    assert chosen.guarantee.negatives == 59
    assert chosen.guarantee.accepted == 0


def test_where_all_are_known_no_share_of_unknowns_is_told():
    distances, same, known = queries(3, unknowns=0, confused=30)
    chosen = calibrate_matching(distances, same, known, gallery_size=9)
    assert chosen.false_positive_rate is None
    goal = at_most_false_accepts(0.01, confidence=0.95)
    with pytest.raises(ValueError, match=r"at least 299 .* got 0: 299 more would do\. Give"):
        calibrate_matching(distances, same, known, gallery_size=9, goal=goal)


GALLERY, WIDE = 200, 6


def test_the_guarantee_holds_for_new_unknowns_to_this_gallery_and_a_power_of_pairs_is_far_off():
    # Items of a gallery crowd in places: chances to be mistaken are far from independent, and
    # an unknown's nearest distance tells what a product of single chances does not.
    rng = torch.Generator().manual_seed(0)
    gallery = torch.randn(GALLERY, 3, generator=rng)
    gallery[GALLERY // 2 :] = gallery[0] + 0.05 * torch.randn(GALLERY // 2, 3, generator=rng)

    def apart(count, seed):
        points = WIDE * torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) - 3
        return torch.cdist(points, gallery).double()

    def nearest(count, seed):
        return apart(count, seed).amin(dim=1)

    rate, trials = 0.05, 150
    truth = nearest(50_000, 10_000).sort().values
    goal = at_most_false_accepts(rate, confidence=0.9)
    came_out = []
    for seed in range(trials):
        distances = torch.cat([nearest(290, seed), torch.linspace(-1, 1, 100).double()])
        known = torch.arange(390) >= 290
        chosen = calibrate_matching(distances, known, known, gallery_size=GALLERY, goal=goal)
        came_out.append(float(torch.searchsorted(truth, chosen.threshold)) / len(truth))
    broken = int((np.array(came_out) > rate).sum())
    assert binomtest(broken, trials, 0.1, "greater").pvalue > 0.01
    assert broken > trials * 0.02, "a guarantee with room to spare would prove nothing"
    # The product of single chances puts the same rate at another threshold.
    of_a_pair = float((apart(20_000, 9) <= chosen.threshold).double().mean())
    assert 1 - (1 - of_a_pair) ** GALLERY > 1.5 * came_out[-1] > 0


# unknown classes


def test_a_guarantee_for_unknown_classes_counts_one_item_of_each():
    distances, same, known = queries(1)
    classes = torch.where(known, 0, 1 + torch.arange(500) % 80)
    goal = at_most_false_accepts(0.05, confidence=0.95)
    chosen = calibrate_matching(distances, same, known, gallery_size=9, goal=goal, classes=classes)
    assert chosen.guarantee.holds_for == "unknown classes"
    assert (chosen.guarantee.negatives, chosen.guarantee.classes) == (80, 80)
    assert chosen.guaranteed.startswith("at most 0.05 false accepts for new unknown classes, with")
    assert "exact binomial" in chosen.accuracy.method, "intervals still leave out queries"
    # Which item counts depends on neither the distances nor the order of goals.
    mapped = calibrate_matching(
        distances * 2, same, known, gallery_size=9, goal=goal, classes=classes
    )
    assert mapped.threshold == 2 * chosen.threshold
    of_items = calibrate_matching(
        distances, same, known, gallery_size=9, goal=goal, classes=classes, guarantee_for="items"
    )
    assert of_items.guarantee.negatives == int((~known).sum()) == 400
    assert "for new items of these 80 classes, with" in of_items.guaranteed
    together = calibrate_all(
        distances,
        same,
        {"x": goal},
        known=known,
        rule="nearest",
        k=1,
        gallery_size=9,
        classes=classes,
    )
    assert together["x"] == chosen


def test_too_few_unknown_classes_are_refused_with_what_is_missing_and_what_is_possible():
    distances, same, known = queries(2, unknowns=590)
    goal = at_most_false_accepts(0.05, confidence=0.95)
    for count in (58, 59):
        classes = torch.where(known, 0, 1 + torch.arange(690) % count)
        options = {"gallery_size": 9, "goal": goal, "classes": classes}
        if count == 59:
            assert calibrate_matching(distances, same, known, **options).guarantee.negatives == 59
            continue
        message = (
            "unknown classes must be at least 59 for at most 0.05 false accepts with a confidence "
            "of 0.95, got 58: 1 more would do, or a rate of 0.0504 or more. Give queries of more "
            "classes that are not indexed, or ask for new items of these classes only."
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            calibrate_matching(distances, same, known, **options)
        possible = {**options, "goal": at_most_false_accepts(0.0504, confidence=0.95)}
        assert calibrate_matching(distances, same, known, **possible).guarantee.negatives == 58
    with pytest.raises(ValueError, match="guarantee_for must be one of classes, items, got 'all'"):
        calibrate_matching(distances, same, known, **options | {"guarantee_for": "all"})
    with pytest.raises(ValueError, match=r"classes must have shape \(690,\), one per item"):
        calibrate_matching(distances, same, known, **options | {"classes": classes[:5]})


@pytest.mark.parametrize("unknown_classes", [60, 400])
def test_a_guarantee_holds_for_new_unknown_classes_and_one_of_items_does_not(unknown_classes):
    # A class lies near the gallery or far from it, with all of its items: 8% look alike.
    rate, trials, each = 0.05, 200, 10
    rng = np.random.default_rng(unknown_classes)

    def draw(classes):
        near = rng.random(classes) < 0.08
        place = np.where(near, rng.normal(1.0, 0.5, classes), rng.normal(4.0, 0.8, classes))
        return place[:, None] + rng.normal(0, 0.2, (classes, each))

    truth = np.sort(draw(20_000).ravel())
    goal = at_most_false_accepts(rate, confidence=0.95)
    broken = {"classes": 0, "items": 0}
    for _ in range(trials):
        drawn = draw(unknown_classes).ravel()
        distances = torch.from_numpy(np.concatenate([drawn, np.linspace(-3, 2, 100)]))
        known = torch.arange(len(distances)) >= len(drawn)
        classes = torch.where(known, 9999, torch.arange(len(distances)) // each)
        for guarantee_for in broken:
            threshold = calibrate_matching(
                distances,
                known,
                known,
                gallery_size=9,
                goal=goal,
                classes=classes,
                guarantee_for=guarantee_for,
            ).threshold
            above = np.searchsorted(truth, threshold, side="right") / len(truth)
            broken[guarantee_for] += above > rate
    assert binomtest(broken["classes"], trials, 0.05, "greater").pvalue > 0.01
    assert broken["classes"] > 0, "a guarantee with room to spare would prove nothing"
    assert broken["items"] > trials * 0.15


def test_answers_that_are_all_right_or_all_wrong_say_which_queries_to_add():
    distances, right = torch.rand(20), torch.ones(20, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"queries must be .* got 20 right .* not indexed\."):
        calibrate_matching(distances, right, right, gallery_size=3)
    with pytest.raises(ValueError, match=r"got 0 right .* 20 wrong .* class is indexed\."):
        calibrate_matching(distances, ~right, right, gallery_size=3)


# growth


def test_a_gallery_that_grew_is_told_what_the_guarantee_is_worth():
    distances, same, known = queries(4)
    goal = at_most_false_accepts(0.05, confidence=0.95)
    chosen = calibrate_matching(distances, same, known, gallery_size=1000, goal=goal)
    assert chosen.guaranteed.endswith("accepted), in a gallery of up to 1,000 items")
    assert chosen.guaranteed.startswith("at most 0.05 false accepts for new items of these unknown")
    assert chosen.outgrown(1000) is None
    assert chosen.outgrown(1) is None
    assert chosen.outgrown(2500) == (
        "gallery must hold at most 1,000 items for the guarantee of this calibration, got 2,500. "
        "Calibrate again: unknowns may be accepted up to 2.5 times as often, at a rate of 0.125 "
        "instead of 0.05."
    )
    assert "at a rate of 1 instead" in chosen.outgrown(10**6)
    plain = calibrate_matching(distances, same, known, gallery_size=1000)
    assert (plain.guaranteed, plain.outgrown(2500)) == (None, None)
    with pytest.raises(ValueError, match="gallery_size must be at least 1, got 0"):
        chosen.outgrown(0)


def test_the_rate_of_a_gallery_of_g_parts_is_at_most_the_sum_of_theirs():
    rng = torch.Generator().manual_seed(5)
    unknowns, parts = torch.randn(4000, 4, generator=rng), torch.randn(5, 60, 4, generator=rng)
    nearest = torch.stack([torch.cdist(unknowns, part).amin(dim=1) for part in parts])
    for threshold in (0.2, 0.5, 1.0):
        alone = (nearest <= threshold).double().mean(dim=1)
        together = (nearest.amin(dim=0) <= threshold).double().mean()
        assert 0 < alone.max() < together <= alone.sum()


# several goals


def test_several_goals_give_what_each_gives_alone():
    distances, same, known = queries(6)
    goals = {
        "usual": best_f1,
        "far=0.05": at_most_false_accepts(0.05, confidence=0.95),
        "wide": at_least_recall(0.5),
    }
    together = calibrate_all(
        distances, same, goals, known=known, rule="nearest", gallery_size=9, k=1
    )
    for name, goal in goals.items():
        alone = calibrate_matching(distances, same, known, gallery_size=9, goal=goal)
        assert together[name] == alone
    assert len({point.threshold for point in together.values()}) == 3
    of_pairs = calibrate_all(distances, same, {"a": best_accuracy})
    assert of_pairs == {"a": calibrate(distances, same, goal=best_accuracy)}


def test_the_goal_that_is_refused_is_named():
    distances, same, _ = queries(7)
    goals = {"usual": best_f1, "strict": at_most_false_accepts(0.0)}
    distances[(~same).nonzero()[0]] = -1
    with pytest.raises(ValueError, match=r"^goal strict: no threshold keeps false accepts"):
        calibrate_all(distances, same, goals)
    with pytest.raises(ValueError, match="goals must name at least one goal, got none"):
        calibrate_all(distances, same, {})
    with pytest.raises(ValueError, match="known must say which queries are of indexed classes"):
        calibrate_all(distances, same, goals, gallery_size=3)
    with pytest.raises(ValueError, match="gallery_size must be at least 1, got 0"):
        calibrate_matching(distances, same, same, gallery_size=0)


# the sample, and saving


def test_the_sample_is_of_the_distances_and_of_pairs_that_share_nothing():
    distances = torch.arange(3000).double()
    same = torch.arange(3000) % 2 == 0
    kept = calibrate(distances, same).sample
    assert len(set(kept)) == 1000
    assert list(kept) == sorted(kept)
    assert abs(np.mean(kept) - 1500) < 100
    items = (torch.arange(3000) // 10)[:, None].repeat(1, 2) * 2 + torch.tensor([0, 1])
    kept = [int(distance) // 10 for distance in calibrate(distances, same, items=items).sample]
    assert 250 < len(kept) == len(set(kept)) <= 300
    assert calibrate(distances[:9], same[:9]).sample == tuple(range(9))


def test_a_calibration_for_matching_survives_json_and_lacks_nothing():
    distances, same, known = queries(8)
    goal = at_most_false_accepts(0.05, confidence=0.95)
    chosen = calibrate_matching(distances, same, known, gallery_size=77, goal=goal)
    fields = json.loads(json.dumps(chosen.to_dict(), allow_nan=False))
    assert Calibration.from_dict(fields) == chosen
    assert Calibration.from_dict(fields).sample == chosen.sample != ()
    for name in ("gallery_size", "unknowns", "sample"):
        with pytest.raises(ValueError, match=f"one that lacks {name}"):
            Calibration.from_dict({key: fields[key] for key in fields.keys() - {name}})
    for change in ({"gallery_size": 0}, {"sample": "x"}, {"sample": [None]}, {"unknowns": 3}):
        with pytest.raises(ValueError, match=f"{next(iter(change))} of a calibration must be a"):
            Calibration.from_dict(fields | change)
