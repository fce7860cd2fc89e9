"""Unlabeled items, -1, are left out of every score and counted; unknowns have their own code."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from likewise import metrics
from likewise.calibration import calibrate_matching
from likewise.distances import EUCLIDEAN
from likewise.evaluation import (
    compare,
    compare_classes,
    confused_classes,
    evaluate_few_shot,
    evaluate_matching,
    evaluate_open_set,
    evaluate_retrieval,
    farthest_right,
    nearest_wrong,
)
from likewise.index import loss_of_keeping

HIDDEN = torch.arange(120) % 7 == 3  # whose labels are taken away
KEPT = (~HIDDEN).nonzero().flatten()


def items(seed=0, classes=12):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (120,), generator=rng)
    return torch.eye(classes)[labels] + 0.6 * torch.randn(120, classes, generator=rng), labels


def without_labels(labels: Tensor) -> Tensor:
    return labels.masked_fill(HIDDEN, -1)


def numbers(result, *but):
    return {name: value for name, value in result.to_dict().items() if name not in but}


@pytest.mark.parametrize("classes_as_sample", [False, True])
def test_retrieval_is_that_of_the_labeled_items(classes_as_sample):
    embeddings, labels = items()
    options = {"classes_as_sample": classes_as_sample, "clustering": True}
    found = evaluate_retrieval(embeddings, without_labels(labels), **options)
    expected = evaluate_retrieval(embeddings[KEPT], labels[KEPT], **options)
    assert numbers(found, "unlabeled") == numbers(expected, "unlabeled")
    assert (found.unlabeled, expected.unlabeled) == (int(HIDDEN.sum()), 0)
    assert torch.equal(found.counted, KEPT[expected.counted])
    assert torch.equal(found.query_labels, labels[found.counted])
    assert found.map_at_r != evaluate_retrieval(embeddings, labels).map_at_r


def test_retrieval_among_references_and_groups_is_that_of_the_labeled_ones():
    embeddings, labels = items()
    references, reference_labels = items(1)
    groups, reference_groups = torch.arange(120) % 5, torch.arange(120) % 4
    found = evaluate_retrieval(
        embeddings,
        without_labels(labels),
        references=references,
        reference_labels=without_labels(reference_labels),
        groups=groups,
        reference_groups=reference_groups,
    )
    expected = evaluate_retrieval(
        embeddings[KEPT],
        labels[KEPT],
        references=references[KEPT],
        reference_labels=reference_labels[KEPT],
        groups=groups[KEPT],
        reference_groups=reference_groups[KEPT],
    )
    assert numbers(found, "unlabeled") == numbers(expected, "unlabeled")
    assert found.unlabeled == 2 * int(HIDDEN.sum())


def test_matching_counts_unknowns_and_leaves_unlabeled_queries_out():
    rng = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 12, (120,), generator=rng)
    answers = truth.where(torch.rand(120, generator=rng) < 0.6, (truth + 1) % 8)
    answers = answers.where(truth < 8, torch.where(torch.arange(120) % 3 == 0, 2, -1))
    options = {"indexed_classes": range(8), "seen_classes": range(4)}
    found = evaluate_matching(answers, without_labels(truth), **options)
    expected = evaluate_matching(answers[KEPT], truth[KEPT], **options)
    assert numbers(found, "unlabeled") == numbers(expected, "unlabeled")
    assert (found.unlabeled, found.queries) == (int(HIDDEN.sum()), len(KEPT))
    assert found.to_dict()["unlabeled"] == found.unlabeled
    assert torch.equal(found.counted, KEPT)
    assert torch.equal(found.truth, truth[KEPT])
    # Answered -1, an unknown is right and an unlabeled query nothing.
    unknown = evaluate_matching(torch.tensor([-1, -1]), torch.tensor([9, -1]), indexed_classes=[0])
    assert (unknown.accuracy_unknown.value, unknown.queries) == (1, 1)


@pytest.mark.parametrize("leave_out", ["items", "classes"])
def test_an_open_set_is_that_of_the_labeled_queries(leave_out):
    rng = torch.Generator().manual_seed(0)
    truth = torch.arange(120) % 12
    known = truth < 8
    labels = torch.where(known & (torch.rand(120, generator=rng) < 0.9), truth, 0)
    distances = torch.rand(120, generator=rng) + (~known).float() / 2
    options = {"threshold": 0.8, "leave_out": leave_out}
    found = evaluate_open_set(distances, labels, without_labels(truth), known, **options)
    part = (column[KEPT] for column in (distances, labels, truth, known))
    expected = evaluate_open_set(*part, **options)
    assert numbers(found, "unlabeled") == numbers(expected, "unlabeled")
    assert found.unlabeled == int(HIDDEN.sum())


def test_few_shot_episodes_are_those_of_the_labeled_items():
    embeddings, labels = items(classes=6)
    within = labels // 3
    for options in ({}, {"within": within}):
        found = evaluate_few_shot(embeddings, without_labels(labels), ways=3, **options)
        options = {name: column[KEPT] for name, column in options.items()}
        expected = evaluate_few_shot(embeddings[KEPT], labels[KEPT], ways=3, **options)
        assert torch.equal(found.per_episode, expected.per_episode)
        assert found.unlabeled == found.to_dict()["unlabeled"] == int(HIDDEN.sum())


def test_comparisons_of_own_scores_leave_unlabeled_queries_out():
    rng = torch.Generator().manual_seed(0)
    a, b = ({"x": torch.rand(120, generator=rng)} for _ in range(2))
    labels = torch.arange(120) % 12
    for options in ({}, {"classes_as_sample": True}):
        found = compare(a, b, labels=without_labels(labels), **options)
        part = {"x": a["x"][KEPT]}, {"x": b["x"][KEPT]}
        assert found == compare(*part, labels=labels[KEPT], **options)
    by_class = compare_classes(a, b, "x", labels=without_labels(labels))
    assert by_class == compare_classes(*part, "x", labels=labels[KEPT])
    assert -1 not in by_class


def test_metrics_leave_unlabeled_items_out():
    rng = torch.Generator().manual_seed(0)
    values, labels = torch.rand(120, generator=rng), torch.arange(120) % 5
    found = metrics.mean_by_class(values, without_labels(labels))
    for one, other in zip(found, metrics.mean_by_class(values[KEPT], labels[KEPT]), strict=True):
        assert torch.equal(one, other)
    clusters = torch.randint(0, 4, (120,), generator=rng)
    found = metrics.mutual_information(clusters, without_labels(labels))
    assert found == metrics.mutual_information(clusters[KEPT], labels[KEPT])
    assert found != metrics.mutual_information(clusters, labels)
    with pytest.raises(ValueError, match="values must be finite, got 1 NaN"):
        metrics.mean_by_class(torch.tensor([1.0, math.nan]), torch.tensor([0, 1]))


@pytest.mark.parametrize("find", [nearest_wrong, farthest_right])
def test_pairs_of_unlabeled_items_are_no_mistakes(find):
    embeddings, labels = items()
    found = find(embeddings, without_labels(labels), 20)
    expected = find(embeddings[KEPT], labels[KEPT], 20)
    assert torch.equal(found.items, KEPT[expected.items])
    answers = labels.roll(1)
    confused = confused_classes(answers, without_labels(labels))
    expected = confused_classes(answers[KEPT], labels[KEPT])
    for one, other in zip(confused, expected, strict=True):
        assert dataclasses.astuple(one)[:4] == dataclasses.astuple(other)[:4]


def test_what_keeping_costs_counts_unknowns_and_not_the_unlabeled():
    points, labels = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 0, 1])
    queries = torch.tensor([[0.1], [9.0], [5.1], [20.0]])
    options = {"threshold": 1.0, "truth": torch.tensor([0, 7, -1, 1])}
    options["distance"] = EUCLIDEAN
    loss = loss_of_keeping(torch.tensor([0, 2]), points, labels, queries, **options)
    # Right: the first, and the unknown of class 7; the last is of class 1 and too far.
    assert loss.accuracy_before.value == loss.accuracy_after.value == pytest.approx(2 / 3)


def test_classes_of_queries_to_calibrate_on_must_be_labels():
    known = torch.arange(40) < 20
    with pytest.raises(ValueError, match="classes must be class codes of at least 0, got -1"):
        calibrate_matching(
            torch.rand(40), known, known, gallery_size=9, classes=torch.full((40,), -1)
        )
