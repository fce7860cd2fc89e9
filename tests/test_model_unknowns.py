"""A model calibrated for matching: every item known and as an unknown, and where these are from."""

import numpy as np
import pytest
import torch

import likewise as lw
from likewise.calibration import CrossFit
from likewise.journeys import cross_fitting
from likewise.probability import fit_logistic


class Same(torch.nn.Module):
    def forward(self, items):
        return items


def blobs(count, seed, classes=12, first=0, noise=0.5):
    """Items of classes around fixed centers; class names go by their number."""
    centers = np.random.default_rng(7).normal(0, 2, (60, 4))
    labels = first + np.arange(count) % classes
    items = centers[labels] + np.random.default_rng(seed).normal(0, noise, (count, 4))
    return lw.data.load((items.astype(np.float32), [f"c{label:02}" for label in labels]))


def indexed(classes=12, each=5, trained_on=()):
    model = lw.SimilarityModel(Same(), distance=lw.distances.EUCLIDEAN)
    model.add(blobs(classes * each, 1, classes))
    model.trained_on = list(trained_on)
    return model


NAMES = [f"c{code:02}" for code in range(12)]


def nearest(model, data, leave_own_out):
    """For each item the distance of the nearest indexed one, by the loops."""
    names = [data.class_names[code] for code in data.labels.tolist()]
    stored = [model.class_names[code] for code in model.index.labels.tolist()]
    found = []
    for row, name in enumerate(names):
        gaps = (model.index.embeddings - data[row][0]).norm(dim=1).tolist()
        found.append(
            min(
                gap
                for gap, other in zip(gaps, stored, strict=True)
                if not (leave_own_out and other == name)
            )
        )
    return torch.tensor(found, dtype=torch.float64)


def test_every_item_is_judged_known_and_as_an_unknown():
    model, data = indexed(), blobs(240, 2)
    chosen = model.calibrate(data)
    (judged,) = chosen.unknowns
    assert (judged.kind, judged.items, judged.classes) == ("left out", 240, 12)
    assert (chosen.goal, chosen.gallery_size) == ("balanced(0.5)", 60)
    without = nearest(model, data, True)
    share = float((without <= chosen.threshold + 1e-6).double().mean())
    assert chosen.false_positive_rate.value == pytest.approx(share * 12 / 11, abs=1e-6)
    assert chosen.false_positive_rate.method.count("times 1.09 for the gallery") == 1
    right = model.match(data).labels == torch.tensor(
        [model.class_names.index(data.class_names[code]) for code in data.labels]
    )
    assert chosen.false_negative_rate.value == pytest.approx(1 - float(right.double().mean()))
    assert chosen.outgrown(60) is None  # it is for the gallery there is
    at_5 = model.calibrate(data, goal=lw.at_most_false_accepts(0.05))
    allowed = [d for d in without.tolist() if (without <= d).double().mean() * 12 / 11 <= 0.05]
    assert at_5.unknowns[0].accepted.value <= 0.05
    assert at_5.threshold >= max(allowed) - 1e-6


def test_classes_that_are_not_indexed_are_unknowns_as_they_are():
    model, data = indexed(8), blobs(240, 2)
    chosen = model.calibrate(data)
    assert (chosen.unknowns[0].items, chosen.unknowns[0].classes) == (240, 12)
    assert chosen.same_total + chosen.different_total == 160 + 240


def test_trained_classes_stand_in_only_where_there_are_no_others():
    data = blobs(240, 2)
    chosen = indexed(trained_on=NAMES[:9]).calibrate(data)
    (judged,) = chosen.unknowns
    assert (judged.kind, judged.items, judged.classes) == ("left out", 60, 3)
    (judged,) = indexed(trained_on=NAMES).calibrate(data).unknowns
    assert (judged.kind, judged.items, judged.classes) == ("trained", 240, 12)
    assert "optimistic: 12 trained classes stood in for unknowns" in str(judged)


def a_cross_fit(scale=1.0, shift=0.0):
    rng = torch.Generator().manual_seed(5)

    def fold(codes):
        classes = torch.tensor(codes).repeat_interleave(20)
        unknown = shift + scale * (3 + torch.rand(len(classes), generator=rng))
        return scale * torch.rand(80, generator=rng), unknown, classes, (classes + 1) % 12

    return CrossFit.of(NAMES, [fold(range(4)), fold(range(4, 8)), fold(range(8, 12))])


def test_a_cross_fit_judges_trained_classes_whatever_its_unit(tmp_path):
    data, found = blobs(240, 2), []
    for scale in (1.0, 100.0):
        model = indexed(trained_on=NAMES)
        model.cross_fit = a_cross_fit(scale)
        chosen = model.calibrate(data, goal=lw.at_most_false_accepts(0.1))
        (judged,) = chosen.unknowns
        assert (judged.kind, judged.items, judged.classes) == ("cross-fit", 240, 12)
        found.append(chosen.threshold)
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    # The folds met 8 of 12 classes, so unknowns may come in 1.5 times as often.
    carried = model.cross_fit.carried(nearest(model, data, False))
    share = float((carried <= chosen.threshold).double().mean())
    assert chosen.false_positive_rate.value == pytest.approx(1.5 * share, abs=0.02)
    model.calibrate(data, per_class=True, fewest=5)
    model.encoder = lw.encoders.MLPEncoder((4,))
    model.save(tmp_path / "m")
    again = lw.load(tmp_path / "m").cross_fit
    assert again.class_names == tuple(NAMES)
    for name, tensor in model.cross_fit.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)
    (file,) = (tmp_path / "m").glob("cross_fit-*.safetensors")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(lw.ArtifactError):
        lw.load(tmp_path / "m")


def test_real_unknowns_are_reported_beside_and_the_stricter_threshold_is_kept():
    model, data = indexed(), blobs(240, 2)
    alone = model.calibrate(data, goal=lw.at_most_false_accepts(0.1))
    others = blobs(100, 3, 10, first=30)
    chosen = model.calibrate(data, goal=lw.at_most_false_accepts(0.1), unknowns=others)
    by_kind = {each.kind: each for each in chosen.unknowns}
    assert by_kind["left out"].threshold == alone.threshold
    assert (by_kind["given"].items, by_kind["given"].classes) == (100, 10)
    limits = {each.threshold for each in chosen.unknowns}
    assert model.evaluate(others).calibrated_on == 100
    assert len(limits) == 2
    assert chosen.threshold == min(limits)
    with pytest.raises(
        ValueError, match=r"unknowns must be of classes that are not indexed.*'c00'"
    ):
        model.calibrate(data, unknowns=blobs(20, 3))
    with pytest.raises(ValueError, match="unknowns must be left out for pairs"):
        model.calibrate(data, unknowns=others, rule="pairs")
    with pytest.raises(ValueError, match="unknowns must be left out with per_class"):
        model.calibrate(data, unknowns=others, per_class=True)


def test_a_threshold_for_a_gallery_to_come_is_stricter_and_says_so():
    model, data = indexed(), blobs(240, 2)
    goal = lw.at_most_false_accepts(0.2)
    now, later = (
        model.calibrate(data, goal=goal),
        model.calibrate(data, goal=goal, for_gallery_of=180),
    )
    assert later.threshold < now.threshold
    assert later.gallery_size == 180
    third = model.calibrate(data, goal=lw.at_most_false_accepts(0.2 / 3))
    assert later.threshold == third.threshold
    assert model.calibrate(data, goal=goal, for_gallery_of=10) == now
    with pytest.raises(ValueError, match="for_gallery_of must be at least 1, got 0"):
        model.calibrate(data, for_gallery_of=0)
    with pytest.raises(ValueError, match="for_gallery_of must be left out for pairs"):
        model.calibrate(data, rule="pairs", for_gallery_of=9)


def test_most_unknowns_accepted_is_warned_of():
    model, data = indexed(), blobs(240, 2, noise=3.0)
    with pytest.warns(UserWarning, match="of the unknowns are accepted by the goal at_most_false_"):
        model.calibrate(data, goal=lw.at_most_false_accepts(0.9))


@pytest.mark.parametrize("rule", ["majority", "weighted", "center"])
def test_every_rule_judges_both_ways(rule):
    chosen = indexed().calibrate(blobs(240, 2), rule=rule, k=1 if rule == "center" else 3)
    assert chosen.unknowns[0].items == 240
    assert 0 <= chosen.false_positive_rate.value < 0.5


def test_unknowns_are_voted_on_by_k_neighbors_as_the_known_are():
    model, data = indexed(), blobs(240, 2, noise=2.0)
    chosen = model.calibrate(data, rule="majority", k=3, goal=lw.at_most_false_accepts(0.3))
    names = [data.class_names[code] for code in data.labels.tolist()]
    stored = [model.class_names[code] for code in model.index.labels.tolist()]
    accepted = 0
    for row, name in enumerate(names):
        gaps = (model.index.embeddings - data[row][0]).norm(dim=1).tolist()
        near = sorted(
            (gap, other) for gap, other in zip(gaps, stored, strict=True) if other != name
        )[:3]
        votes = [other for _, other in near]
        winner = max(votes, key=lambda one: (votes.count(one), -votes.index(one)))
        mean = np.mean([gap for gap, other in near if other == winner])
        accepted += mean <= chosen.threshold + 1e-6
    share = accepted / len(names) * 12 / 11
    assert 0.1 < share < 0.31
    assert chosen.false_positive_rate.value == pytest.approx(share, abs=1e-6)


def test_unknowns_of_few_classes_have_a_rate_without_an_interval():
    goal = lw.at_most_false_accepts(0.3)
    rate = indexed(4).calibrate(blobs(80, 2, 4, noise=2.0), goal=goal).false_positive_rate
    assert 0 < rate.value < 1
    assert np.isnan([rate.low, rate.high]).all()
    assert rate.method.startswith("no interval")


# the folds of a training


def test_the_folds_are_planned_by_time_and_classes():
    digits = lw.data.load("digits", split="train")
    plan = cross_fitting.plan(digits, lw.Recipe(), 100)
    assert [len(fold) for fold in plan.folds] == [4, 3, 3]
    assert sorted(name for fold in plan.folds for name in fold) == [
        str(digit) for digit in range(10)
    ]
    assert plan.time == pytest.approx(2)
    assert sum(plan.batches) == pytest.approx(200, abs=3)
    assert "3 more encoders, each trained without up to 4 of 10 classes" in str(plan)
    assert "about 2.0 times the time" in str(plan)
    assert cross_fitting.plan(digits, lw.Recipe(cross_fit="off"), 100) is None
    assert len(cross_fitting.plan(digits, lw.Recipe(cross_fit=10), 100).folds) == 10
    few = lw.data.choose_classes(digits, ["1", "2"])
    assert cross_fitting.plan(few, lw.Recipe(), 100) is None
    with pytest.raises(ValueError, match="cross_fit must be at most the number of classes, 2,"):
        cross_fitting.plan(few, lw.Recipe(cross_fit=4), 100)
    for wrong in (1, "three", 0):
        with pytest.raises(ValueError, match="cross_fit must be"):
            lw.Recipe(cross_fit=wrong)


@pytest.mark.parametrize("keep_aside", [0.1, 0.0])
def test_training_keeps_what_folds_said_of_left_out_classes(keep_aside):
    digits = lw.data.load("digits", split="train")
    seen, said = [], []
    choices = {"epochs": 1, "batches": 6, "keep_aside": keep_aside, "features": 0}
    recipe = lw.Recipe(**choices)
    model = lw.train(
        digits, recipe, device="cpu", tell=said.append, progress=lambda *now: seen.append(now)
    )
    assert seen == [(done, 18) for done in range(1, 19)]
    assert said[0].startswith("cross-fit: 3 more encoders")
    fit = model.cross_fit
    assert fit.folds == 3
    assert fit.classes.bincount().tolist() == [100] * 10
    assert bool((fit.classes != fit.taken_for).all())
    plan = cross_fitting.plan(digits, recipe, 6)
    for fold, names in enumerate(plan.folds):
        here = fit.unknown_folds == fold
        assert {fit.class_names[code] for code in fit.classes[here].tolist()} == set(names)
        assert not {fit.class_names[code] for code in fit.taken_for[here].tolist()} & set(names)
    alone = lw.train(digits, lw.Recipe(**choices, cross_fit="off"), device="cpu")
    assert alone.cross_fit is None
    assert alone.fingerprint == model.fingerprint  # folds change nothing of the model itself


@pytest.mark.filterwarnings("ignore:.*of the unknowns are accepted")
def test_goals_of_the_mix_count_the_queries_as_they_come():
    model, data = indexed(8), blobs(240, 2, noise=1.2)
    labels, distances = lw.matching.decide(model.lookup(data, k=1))
    truth = [NAMES.index(data.class_names[code]) for code in data.labels.tolist()]
    named = [NAMES.index(model.class_names[code]) for code in labels.tolist()]
    same = torch.tensor([a == b for a, b in zip(truth, named, strict=True)])
    known = torch.tensor(truth) < 8
    for goal in (lw.best_f1, lw.best_accuracy, lw.at_least_precision(0.9)):
        alone = lw.calibrate(distances, same, known=known, goal=goal, rule="nearest", k=1)
        chosen = model.calibrate(data, goal=goal)
        assert chosen.threshold == alone.threshold
        assert chosen.unknowns[0].items == 240
        model.calibrate(data, goal=goal, per_class=True, point="by class")
        assert model.class_thresholds["by class"].everywhere.threshold == alone.threshold


def test_as_many_unknowns_as_a_cross_fit_has_leave_the_probability_as_it_is():
    data, priors = blobs(240, 2), []
    for times in (1, 5):
        model, fit = indexed(trained_on=NAMES), a_cross_fit()
        many = {n: t.repeat(times) for n, t in fit.tensors().items() if not n.startswith("known")}
        model.cross_fit = CrossFit.from_tensors(NAMES, fit.tensors() | many)
        assert model.calibrate(data).unknowns[0].items == 240 * times
        priors.append(model.probabilities["nearest"].prior)
    labels, _ = lw.matching.decide(model.lookup(data, k=1))
    named = [model.class_names[code] for code in labels.tolist()]
    truth = [data.class_names[code] for code in data.labels.tolist()]
    right = sum(a == b for a, b in zip(named, truth, strict=True)) / 240
    assert priors == [pytest.approx(right / 2)] * 2


@pytest.mark.parametrize("rule", ["nearest", "majority"])
def test_a_query_without_a_labeled_neighbor_is_missed_and_never_accepted(rule):
    model, data = indexed(), blobs(240, 2)
    plain = model.calibrate(data, rule=rule, k=3)
    hidden = torch.stack([data[row][0] for row in range(24)]) + 1e-3
    model.add(hidden.repeat_interleave(3, 0))  # unlabeled
    chosen = model.calibrate(data, rule=rule, k=3)
    silent = lw.matching.decide(model.lookup(data, k=3), rule)[0] < 0
    assert bool(silent[:24].all())
    assert chosen.identification_rate.value <= 1 - float(silent.double().mean())
    assert chosen.threshold == pytest.approx(plain.threshold, rel=0.5)
    with pytest.raises(lw.InputError, match="index must hold labeled items near the data, got un"):
        model.calibrate(lw.data.Subset(data, range(24)), rule=rule, k=3)


def judged_both_ways(model, data, near):
    """Distance, class and truth of each item with its class known, then without, by the loops."""
    stored = model.index.labels.tolist()
    own = [model.class_names.index(data.class_names[code]) for code in data.labels.tolist()]
    found = []
    for without in (False, True):
        for row, code in enumerate(own):
            gaps = [
                (float((model.index.embeddings[at] - data[row][0]).norm()), at)
                for at, other in enumerate(stored)
                if not (without and other == code)
            ]
            at = min(gaps)[1]
            found.append((near(row, at), stored[at], not without and stored[at] == code))
    distances, labels, same = zip(*found, strict=True)
    return torch.tensor(distances), torch.tensor(labels), torch.tensor(same)


def test_thresholds_by_class_and_the_probability_rest_on_both_kinds_of_trials():
    model, data = indexed(), blobs(240, 2, noise=1.0)

    def gap(row, at):
        return float((model.index.embeddings[at] - data[row][0]).norm())

    distances, labels, same = judged_both_ways(model, data, gap)
    model.calibrate(data, per_class=True, fewest=5)
    by_class = model.class_thresholds["nearest"].classes
    assert len(by_class) > 6
    for code, made in by_class.items():
        here = labels == code
        assert made.same_total == int((here & same).sum())
        assert made.different_total == int((here & ~same).sum())
        accepted = (distances[here & (torch.arange(480) >= 240)] <= made.threshold + 1e-6).double()
        rate = min(1.0, float(accepted.mean()) * 12 / 11)
        assert made.false_positive_rate.value == pytest.approx(rate, abs=1e-6)
    expected = fit_logistic(distances, same, prior=float(same[:240].double().mean()) / 2)
    found = model.probabilities["nearest"]
    assert found.prior == expected.prior
    torch.testing.assert_close(found.of(distances), expected.of(distances), atol=1e-3, rtol=0)


def test_a_cohort_normalizes_both_kinds_of_trials():
    model, data = indexed(), blobs(240, 2, noise=1.0)
    rng = torch.Generator().manual_seed(3)
    norm = model.use_cohort(3 * torch.randn(60, 4, generator=rng), nearest=20)
    compared = norm.as_distance()
    items = torch.stack([data[row][0] for row in range(240)])
    gaps = compared.matrix(items, model.index.embeddings)
    distances, _, same = judged_both_ways(model, data, lambda row, at: float(gaps[row, at]))
    chosen = model.calibrate(data)
    accepted = distances <= chosen.threshold + 1e-5
    rate = float(accepted[240:].double().mean()) * 12 / 11
    assert chosen.false_positive_rate.value == pytest.approx(rate, abs=0.01)
    missed = 1 - float((accepted & same)[:240].double().mean())
    assert chosen.false_negative_rate.value == pytest.approx(missed, abs=0.01)
    assert 0 < rate < 1
    assert 0 < missed < 1
