"""Few items or classes are judged all the same, and no interval is claimed for others."""

import math

import pytest
import torch

from likewise import intervals
from likewise.calibration import calibrate, calibrate_matching
from likewise.evaluation import (
    compare,
    evaluate_few_shot,
    evaluate_folds,
    evaluate_matching,
    evaluate_open_set,
    evaluate_retrieval,
    evaluate_verification,
)
from likewise.intervals import FEWEST_GROUPS, Estimate, f1, from_left_out, jackknife


def some(count, classes=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return torch.eye(classes)[labels] + torch.randn(count, classes, generator=rng), labels


def without_interval(estimate: Estimate, groups: int) -> bool:
    said = f"no interval: an interval for other items or classes needs 10, there are {groups}"
    return math.isnan(estimate.low) and math.isnan(estimate.high) and estimate.method == said


@pytest.mark.parametrize("count", range(3, 12))
def test_retrieval_of_any_number_of_items_tells_the_ranks_there_are(count):
    embeddings, labels = some(count)
    found = evaluate_retrieval(embeddings, labels)
    assert list(found.recall_at_k) == [k for k in (1, 5, 10) if k < count]
    asked = evaluate_retrieval(embeddings, labels, ks=tuple(found.recall_at_k))
    assert asked.to_dict() == found.to_dict()
    with pytest.raises(ValueError, match=f"ks must be at most {count - 1}, .* got {count}"):
        evaluate_retrieval(embeddings, labels, ks=(count,))


def test_ranks_are_cut_to_what_the_query_sees_that_sees_least():
    embeddings, labels = some(12)
    groups = torch.tensor([0] * 8 + [1, 2, 3, 4])  # a query of group 0 sees 4 others
    assert list(evaluate_retrieval(embeddings, labels, groups=groups).ndcg_at_k) == [1]
    apart = evaluate_retrieval(*some(3), references=embeddings[:5], reference_labels=labels[:5])
    assert list(apart.map_at_k) == [1, 5]


@pytest.mark.parametrize("classes", [2, 9, 10])
def test_new_classes_are_told_of_from_ten_on(classes):
    embeddings, labels = some(5 * classes, classes)
    found = evaluate_retrieval(embeddings, labels, ks=(1,), classes_as_sample=True)
    plain = evaluate_retrieval(embeddings, labels, ks=(1,))
    for name, estimate in found.macro.items():
        assert estimate.value == pytest.approx(plain.macro[name].value)
    assert found.map_at_r.value == pytest.approx(plain.map_at_r.value)
    few = classes < FEWEST_GROUPS
    for estimate in (found.map_at_r, found.rank["mean"], found.macro["map_at_r"]):
        assert without_interval(estimate, classes) == few
        assert math.isnan(estimate.low) == few
    assert (found.without_classes is None) == few


def test_models_compared_on_few_classes_have_a_difference_without_an_interval():
    embeddings, labels = some(40, 4)
    other = embeddings + torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    results = [
        evaluate_retrieval(e, labels, ks=(1,), classes_as_sample=True) for e in (embeddings, other)
    ]
    found = compare(*results, classes_as_sample=True).measures["map_at_r"]
    gap = results[0].map_at_r.value - results[1].map_at_r.value
    assert found.difference.value == pytest.approx(gap)
    assert abs(gap) > 0.01
    assert without_interval(found.difference, 4)
    assert math.isnan(found.p_value)
    assert found.ahead is None
    assert compare(results[0], results[0], classes_as_sample=True).measures["map_at_r"].p_value == 1


@pytest.mark.parametrize("items", [2, 9, 10])
def test_pairs_of_few_items_are_judged_without_an_interval(items):
    a, b = torch.combinations(torch.arange(items + 1))[: 8 * items].T
    held = torch.stack([a, b % items], dim=1)
    held = held[held[:, 0] % items != held[:, 1]] % items
    rng = torch.Generator().manual_seed(0)
    distances, same = torch.rand(len(held), generator=rng), torch.arange(len(held)) % 2 == 0
    if len(held) < 2:
        held, distances, same = held.repeat(3, 1), torch.rand(3), torch.tensor([True, False, True])
    result = evaluate_verification(distances, same, items=held, threshold=0.5)
    plain = evaluate_verification(distances, same, threshold=0.5)
    told = [result.roc_auc, *result.at_threshold.values()]
    for estimate, other in zip(told, [plain.roc_auc, *plain.at_threshold.values()], strict=True):
        assert estimate.value == pytest.approx(other.value, nan_ok=True)
        assert without_interval(estimate, items) == (items < 10)
    assert result.min_detection_cost().value == plain.min_detection_cost().value
    chosen = calibrate(distances, same, items=held)
    assert chosen.threshold == calibrate(distances, same).threshold
    assert math.isnan(chosen.accuracy.low) == (items < 10)
    twice = compare(result, result)
    assert twice.measures["roc_auc"].difference.value == 0
    assert twice.measures["roc_auc"].p_value == 1


def test_models_compared_on_pairs_of_few_items_have_no_interval():
    held = torch.combinations(torch.arange(6))
    same = torch.arange(15) % 2 == 0
    a, b = (
        evaluate_verification(torch.rand(15, generator=rng), same, items=held)
        for rng in (torch.Generator().manual_seed(seed) for seed in (0, 1))
    )
    found = compare(a, b).measures["roc_auc"]
    assert found.difference.value == a.roc_auc.value - b.roc_auc.value != 0
    assert without_interval(found.difference, 6)
    assert math.isnan(found.p_value)


@pytest.mark.parametrize("classes", [6, 12])
def test_an_open_set_of_few_classes_has_no_interval_for_others(classes):
    truth = torch.arange(10 * classes) % classes
    known = truth < classes - 2
    rng = torch.Generator().manual_seed(0)
    distances = torch.rand(len(truth), generator=rng) + (~known).float() / 2
    queries = distances, torch.where(known, truth, 0), truth, known
    found = evaluate_open_set(*queries, threshold=0.7, leave_out="classes")
    exact = evaluate_open_set(*queries, threshold=0.7)
    told = [found.false_positive_rate, found.spread, found.false_negatives(0.2)]
    values = [exact.false_positive_rate, exact.spread, exact.false_negatives(0.2)]
    for estimate, other in zip(told, values, strict=True):
        assert estimate.value == pytest.approx(other.value)
        assert without_interval(estimate, classes) == (classes < 10)


def test_few_shot_of_few_classes_or_groups_has_no_interval_for_others():
    embeddings, labels = some(36, 9)
    found = evaluate_few_shot(embeddings, labels, ways=3, episodes=50, classes_as_sample=True)
    assert without_interval(found.accuracy, 9)
    plain = evaluate_few_shot(embeddings, labels, ways=3, episodes=50)
    assert found.accuracy.value == plain.accuracy.value
    within = labels // 3
    grouped = evaluate_few_shot(
        embeddings, labels, ways=3, episodes=50, classes_as_sample=True, within=within
    )
    assert without_interval(grouped.accuracy, 3)
    once = evaluate_few_shot(embeddings, labels, ways=2, episodes=1).accuracy
    assert once.method == "no interval: there is only one value"


def test_two_queries_two_folds_and_two_pairs_are_enough_for_numbers():
    two = torch.tensor([0, 1])
    assert evaluate_matching(two, two, indexed_classes=[0, 1]).accuracy.value == 1
    pair = torch.tensor([0.1, 0.9]), torch.tensor([True, False])
    assert evaluate_verification(*pair).roc_auc.value == 1
    assert evaluate_folds([pair, pair]).accuracy.value == 1
    assert calibrate(*pair, items=torch.tensor([[0, 1], [0, 2]])).threshold == pytest.approx(0.1)
    chosen = calibrate_matching(*pair, torch.tensor([True, False]), gallery_size=3)
    assert chosen.accuracy.value == 1


def test_one_group_has_no_interval():
    found = jackknife(lambda keep: float(keep.sum()), torch.zeros(4, dtype=torch.long))
    assert found.value == 4
    assert found.method.endswith("needs 2, there are 1")
    assert math.isnan(from_left_out(math.nan, torch.tensor([0.1, 0.2])).low)


def test_two_values_left_out_are_enough_for_an_interval():
    found = from_left_out(0.5, torch.tensor([0.4, 0.6]))
    assert found.low < 0.4 < 0.6 < found.high


def test_the_f1_of_one_case_is_that_of_its_share():
    alone = f1(1, 0)
    share = intervals.binomial(1, 1)
    assert alone.low == pytest.approx(2 * share.low / (2 * share.low + 1 - share.low))
    assert alone.low > share.low + 0.01
    assert math.isnan(f1(0, 0).value)
