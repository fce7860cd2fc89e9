import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from likewise.distances import COSINE, EUCLIDEAN, MANHATTAN
from likewise.evaluation.few_shot import (
    _distinct,
    _Items,
    evaluate_few_shot,
    evaluate_one_shot_runs,
)
from likewise.matching import class_centers


def drawn(seed, classes=12, most=9):
    """Classes of 1 to `most` items, shuffled, whose codes have gaps, in three groups."""
    rng = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, most + 1, (classes,), generator=rng)
    number = torch.arange(classes).repeat_interleave(sizes)
    number = number[torch.randperm(len(number), generator=rng)]
    center = torch.randn(classes, 4, generator=rng, dtype=torch.float64)
    noise = torch.randn(len(number), 4, generator=rng, dtype=torch.float64)
    return center[number] + 0.7 * noise, 3 * number + 5, 7 - number % 3


def between(distance, a, b):
    return float(distance.paired(torch.as_tensor(a)[None], torch.as_tensor(b)[None]))


@pytest.mark.parametrize("rule", ["nearest", "center"])
@pytest.mark.parametrize("distance", [COSINE, EUCLIDEAN, MANHATTAN], ids=lambda d: d.name)
@pytest.mark.parametrize(("grouped", "shots", "queries"), [(False, 1, 1), (True, 2, 3)])
def test_every_episode_agrees_with_the_loops(rule, distance, grouped, shots, queries):
    embeddings, labels, group = drawn(shots)
    within = group if grouped else None
    episodes, ways = 60, 3
    result = evaluate_few_shot(
        embeddings,
        labels,
        ways=ways,
        shots=shots,
        queries=queries,
        episodes=episodes,
        distance=distance,
        rule=rule,
        within=within,
        seed=3,
    )
    items = _Items(labels, ways, shots + queries, within)
    generator = torch.Generator().manual_seed(3)
    parts = [part for _, part in items.episodes(episodes, shots + queries, generator)]
    assert len(parts) > 1, "one chunk would not test that chunks are put together"
    expected = []
    for episode in torch.cat(parts).tolist():
        classes = [{int(labels[item]) for item in drawn_items} for drawn_items in episode]
        assert all(len(codes) == 1 for codes in classes)
        assert len(set.union(*classes)) == ways
        assert all(len(set(drawn_items)) == shots + queries for drawn_items in episode)
        if grouped:
            assert len({int(group[item]) for row in episode for item in row}) == 1
        support, codes = [], []
        for row in episode:
            code = int(labels[row[0]])
            rows = embeddings[row[:shots]]
            if rule == "center":
                one_class = torch.full((shots,), code)
                center = class_centers(rows, one_class, distance=distance)
                rows = center.embeddings.double()
            support += list(rows)
            codes += [code] * len(rows)
        hits = 0
        for row in episode:
            for item in row[shots:]:
                far = [between(distance, embeddings[item], known) for known in support]
                hits += codes[int(np.argmin(far))] == int(labels[item])
        expected.append(hits / (ways * queries))
    assert result.per_episode.tolist() == expected
    assert float(result.accuracy) == pytest.approx(np.mean(expected))
    assert 1 / ways < float(result.accuracy) < 1


def test_what_is_drawn_is_drawn_evenly():
    numbers = _distinct(torch.full((24_000,), 4), 3, torch.Generator().manual_seed(0))
    _, counts = np.unique(numbers.numpy(), axis=0, return_counts=True)
    assert len(counts) == 24  # every order of every choice
    assert stats.chisquare(counts).pvalue > 0.001
    mixed = _distinct(torch.tensor([2, 5, 3]), 2, torch.Generator().manual_seed(0))
    assert bool((mixed < torch.tensor([[2], [5], [3]])).all())


def test_groups_are_drawn_as_often_as_each_other_and_their_classes_too():
    labels = torch.arange(15).repeat_interleave(2)  # groups of 3 and 12 classes
    items = _Items(labels, 2, 2, (labels >= 3).long())
    generator = torch.Generator().manual_seed(1)
    classes = torch.cat([part for part, _ in items.episodes(3000, 2, generator)])
    counts = classes.flatten().bincount()
    assert counts[:3].sum() == pytest.approx(3000, abs=200)
    for group in (counts[:3], counts[3:]):
        assert stats.chisquare(group).pvalue > 0.001


def test_small_classes_and_groups_are_left_out_and_counted():
    labels = torch.cat([torch.arange(6).repeat_interleave(3), torch.tensor([6, 6, 7])])
    group = torch.where(labels < 4, 0, 1)
    embeddings = torch.eye(8)[labels]
    result = evaluate_few_shot(embeddings, labels, ways=3, shots=2, episodes=20)
    assert (result.classes, result.left_out) == (6, 2)
    result = evaluate_few_shot(embeddings, labels, ways=3, shots=2, episodes=20, within=group)
    assert (result.classes, result.left_out) == (4, 4)  # of group 1 only two classes are left


@pytest.mark.parametrize("rule", ["nearest", "center"])
def test_of_equally_near_ones_the_first_counts(rule):
    labels = torch.arange(10).repeat_interleave(4)
    same = torch.ones(40, 2)
    result = evaluate_few_shot(same, labels, ways=5, shots=2, rule=rule, distance=MANHATTAN)
    assert set(result.per_episode.tolist()) == {0.2}
    assert math.isnan(result.accuracy.low)
    assert "the same in every part" in result.accuracy.method
    runs = torch.ones(2, 3, 4)
    found = evaluate_one_shot_runs(runs, runs, torch.tensor([[0, 1, 2], [0, 0, 2]]))
    assert found.per_run.tolist() == [2 / 3, 1 / 3]


@given(seed=st.integers(0, 2**16), scale=st.sampled_from([0.5, 4.0]), grouped=st.booleans())
@settings(max_examples=10)
def test_names_and_scale_change_nothing_and_one_example_is_its_own_center(seed, scale, grouped):
    embeddings, labels, group = drawn(seed % 7)
    asked = {"ways": 2, "episodes": 30, "seed": seed}
    result = evaluate_few_shot(embeddings, labels, **asked, within=group if grouped else None)
    renamed = evaluate_few_shot(
        scale * embeddings,
        7 * labels,
        **asked,
        rule="center",
        within=3 * group.int() if grouped else None,
    )
    assert torch.equal(result.per_episode, renamed.per_episode)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_intervals_are_over_episodes_or_over_classes(grouped):
    rng = torch.Generator().manual_seed(5)
    labels = torch.arange(48).repeat_interleave(4)
    group = labels // 4
    embeddings = torch.randn(48, 3, generator=rng)[labels]
    embeddings += 0.5 * torch.randn(len(labels), 3, generator=rng)
    asked = {"ways": 4, "episodes": 300, "within": group if grouped else None}
    result = evaluate_few_shot(embeddings, labels, **asked)
    values = result.per_episode.numpy()
    ends = stats.t.interval(0.95, 299, values.mean(), stats.sem(values))
    assert (result.accuracy.low, result.accuracy.high) == pytest.approx(ends)
    assert "300 values" in result.accuracy.method

    by_class = evaluate_few_shot(embeddings, labels, **asked, classes_as_sample=True)
    assert torch.equal(by_class.per_episode, result.per_episode)
    items = _Items(labels, 4, 2, asked["within"])
    parts = items.episodes(300, 2, torch.Generator().manual_seed(0))
    classes = torch.cat([part for part, _ in parts])
    units = classes // 4 if grouped else classes
    count = 12 if grouped else 48
    without = [values[(units != unit).all(dim=1).numpy()].mean() for unit in range(count)]
    odds = np.log(without) - np.log1p(-np.array(without))
    error = math.sqrt((count - 1) / count * ((odds - odds.mean()) ** 2).sum())
    middle = math.log(values.mean() / (1 - values.mean()))
    reach = stats.t.ppf(0.975, count - 1) * error
    expected = [1 / (1 + math.exp(-middle + step)) for step in (reach, -reach)]
    assert (by_class.accuracy.low, by_class.accuracy.high) == pytest.approx(expected)
    assert f"each of {count} groups" in by_class.accuracy.method


def test_the_same_seed_asks_the_same_episodes():
    embeddings, labels, _ = drawn(0)
    first, same, other = (
        evaluate_few_shot(embeddings, labels, ways=4, episodes=50, seed=seed).per_episode
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_few_shot_results_are_ready_for_json():
    embeddings, labels, _ = drawn(0)
    result = evaluate_few_shot(embeddings, labels, ways=4)
    fields = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert fields.keys() == {"accuracy", "classes", "left_out", "unlabeled"}
    assert fields["accuracy"]["value"] == result.accuracy.value
    runs = torch.randn(3, 4, 2)
    found = evaluate_one_shot_runs(runs, runs, torch.arange(4).expand(3, 4))
    fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (fields["trials"], fields["per_run"]) == (12, [0, 0, 0])


@pytest.mark.parametrize("distance", [COSINE, EUCLIDEAN], ids=lambda d: d.name)
def test_given_runs_agree_with_the_loops(distance):
    rng = torch.Generator().manual_seed(0)
    support = torch.randn(70, 5, 3, generator=rng)
    answers = torch.randint(5, (70, 6), generator=rng)
    queries = support.gather(1, answers[..., None].expand(-1, -1, 3))
    queries = queries + 0.6 * torch.randn(queries.shape, generator=rng)
    result = evaluate_one_shot_runs(support, queries, answers, distance=distance)
    wrong = [
        [
            int(np.argmin([between(distance, query, known) for known in support[run]])) != answer
            for query, answer in zip(queries[run], answers[run].tolist(), strict=True)
        ]
        for run in range(70)
    ]
    assert result.per_run.tolist() == np.mean(wrong, axis=1).tolist()
    total = int(np.sum(wrong))
    assert 0 < total < 420 == result.trials
    exact = stats.binomtest(total, 420).proportion_ci(method="exact")
    assert (result.error_rate.low, result.error_rate.high) == pytest.approx(tuple(exact))
    per_run = result.per_run.numpy()
    over_runs = result.error_rate_over_runs
    ends = stats.t.interval(0.95, 69, per_run.mean(), stats.sem(per_run))
    assert (over_runs.low, over_runs.high) == pytest.approx(ends)
    assert over_runs.value == pytest.approx(result.error_rate.value)


FEW = torch.arange(8).repeat_interleave(3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ways": 9}, ValueError, "with at least 2 items (shots + queries), 8, got 9. Ask for few"),
        ({"shots": 3}, ValueError, "with at least 4 items (shots + queries), 0, got 4."),
        (
            {"within": FEW // 3},
            ValueError,
            "ways must be at most the classes of one group with at least 2 items (shots + queries)"
            ", 3, got 4.",
        ),
        ({"within": torch.arange(24)}, ValueError, "one group, got several for the class 0. Give"),
        ({"within": FEW[:3]}, ValueError, "within must have shape (24,), one per item, got (3,)"),
        ({"rule": "mean"}, ValueError, "rule must be one of center, nearest, got 'mean'."),
        ({"ways": 1}, ValueError, "ways must be at least 2, got 1."),
        ({"queries": 0}, ValueError, "queries must be at least 1, got 0."),
        ({"episodes": 2.5}, TypeError, "episodes must be a whole number, got 2.5."),
        ({"labels": FEW - 2}, ValueError, "labels must be class codes of at least 0, or -1 for un"),
        ({"labels": FEW[:5]}, ValueError, "labels must have shape (24,), one per item, got (5,)"),
        ({"embeddings": torch.full((24, 2), math.nan)}, ValueError, "embeddings must be finite"),
        (
            {"embeddings": torch.zeros(0, 2), "labels": FEW[:0]},
            ValueError,
            "labels must hold at least one item, got none. Give items.",
        ),
    ],
)
def test_episodes_that_cannot_be_are_refused(change, error, message):
    given_arguments = {"embeddings": torch.randn(24, 2), "labels": FEW, "ways": 4} | change
    with pytest.raises(error, match=re.escape(message)) as info:
        evaluate_few_shot(**given_arguments)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"support": torch.zeros(4, 3)}, ValueError, "support must have shape (runs, items, d)"),
        ({"queries": torch.zeros(2, 0, 3)}, ValueError, "none of them 0, got (2, 0, 3). Stack"),
        ({"queries": torch.zeros(3, 4, 3)}, ValueError, "as many runs as support, 2, got 3."),
        ({"queries": torch.zeros(2, 4, 5)}, ValueError, "queries must have as many dimensions as"),
        ({"support": torch.full((2, 4, 3), math.inf)}, ValueError, "support must be finite"),
        ({"answers": torch.zeros(2, 3)}, ValueError, "answers must have shape (2, 4), one per que"),
        ({"answers": torch.zeros(2, 4)}, TypeError, "answers must be integers"),
        (
            {"answers": torch.full((2, 4), 4)},
            ValueError,
            "answers must be positions in the support, 0 to 3, got 4 to 4.",
        ),
    ],
)
def test_runs_that_cannot_be_judged_are_refused(change, error, message):
    runs = torch.zeros(2, 4, 3)
    right = {"support": runs, "queries": runs, "answers": torch.arange(4).expand(2, 4)}
    with pytest.raises(error, match=re.escape(message)):
        evaluate_one_shot_runs(**(right | change))
