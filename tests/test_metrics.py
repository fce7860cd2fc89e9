import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

import oracles
from likewise import metrics


def pairs(seed, n=60, levels=None):
    """Distances, smaller for pairs that are the same; few levels make many ties."""
    rng = torch.Generator().manual_seed(seed)
    same = torch.rand(n, generator=rng) < 0.4
    same[0], same[1] = True, False
    distances = torch.randn(n, generator=rng) + torch.where(same, -0.7, 0.6)
    if levels is not None:
        distances = (distances * levels / 4).round()
    return distances, same


def ranking(seed, q=9, k=7):
    """Relevance of the k nearest of q queries, and how many are relevant in all."""
    rng = torch.Generator().manual_seed(seed)
    relevant = torch.rand(q, k, generator=rng) < 0.45
    missed = torch.randint(0, 3, (q,), generator=rng)
    total = (relevant.sum(dim=1) + missed).clamp(min=1, max=k)
    return relevant, total


LEVELS = [None, 12, 2]


# the sweep


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("seed", range(10))
def test_the_sweep_agrees_with_counting_at_every_threshold(seed, levels):
    distances, same = pairs(seed, levels=levels)
    known = same | (torch.arange(len(same)) % 3 == 0)
    counts = metrics.sweep(distances, same, known=known)

    assert counts.thresholds.tolist() == sorted(set(distances.tolist()))
    assert counts.thresholds.dtype == torch.float64
    assert counts.true_accepts.dtype == counts.false_accepts.dtype == torch.int64
    for i, threshold in enumerate(counts.thresholds.tolist()):
        accepted = [d <= threshold for d in distances.tolist()]
        facts = list(zip(accepted, same.tolist(), known.tolist(), strict=True))
        tp = sum(a and s for a, s, _ in facts)
        fp = sum(a and not s for a, s, _ in facts)
        fn = sum(s and not a for a, s, _ in facts)
        tn = sum(not a and not s for a, s, _ in facts)
        of_known = sum(k for _, _, k in facts)
        assert (int(counts.true_accepts[i]), int(counts.false_accepts[i])) == (tp, fp)
        assert float(counts.true_accept_rate[i]) == tp / (tp + fn)
        assert float(counts.false_reject_rate[i]) == fn / (tp + fn)
        unknowns = [a for a, _, k in facts if not k]
        assert int(counts.unknown_accepts[i]) == sum(unknowns) == int(counts.impostor_accepts[i])
        assert float(counts.false_accept_rate[i]) == sum(unknowns) / len(unknowns)
        assert float(counts.false_negative_rate[i]) == (of_known - tp) / of_known
        as_pairs = metrics.sweep(distances, same)
        assert float(as_pairs.false_accept_rate[i]) == fp / (fp + tn)
        at = [s for d, s in zip(distances.tolist(), same.tolist(), strict=True) if d == threshold]
        assert (int(counts.same_at[i]), int(counts.different_at[i])) == (sum(at), at.count(False))
        assert float(counts.accuracy[i]) == (tp + tn) / len(same)
        precision = tp / (tp + fp)
        assert float(counts.precision[i]) == precision
        assert float(counts.recall[i]) == tp / of_known < tp / (tp + fn) or tp == 0
        for f1, recall in [
            (counts.f1[i], tp / of_known),
            (counts.f1_tensorflow_similarity[i], tp / (tp + fn)),
        ]:
            harmonic = 2 * precision * recall / (precision + recall) if tp else 0.0
            assert float(f1) == pytest.approx(harmonic)
        if tn + fn:
            assert float(counts.negative_predictive_value[i]) == tn / (tn + fn)
        else:
            assert i == len(counts.thresholds) - 1
            assert math.isnan(counts.negative_predictive_value[i])


def test_without_known_recall_is_the_true_accept_rate():
    counts = metrics.sweep(*pairs(0))
    assert counts.to_be_found == counts.same_total
    assert torch.equal(counts.recall, counts.true_accept_rate)
    assert torch.equal(counts.f1, counts.f1_tensorflow_similarity)


@given(seed=st.integers(0, 2**16), levels=st.sampled_from(LEVELS))
def test_no_count_depends_on_the_order_of_pairs_or_the_scale_of_distances(seed, levels):
    distances, same = pairs(seed, levels=levels)
    one = metrics.sweep(distances, same)
    order = torch.randperm(len(same), generator=torch.Generator().manual_seed(seed + 1))
    other = metrics.sweep((distances[order].double() / 3).exp(), same[order])
    assert torch.equal(one.true_accepts, other.true_accepts)
    assert torch.equal(one.false_accepts, other.false_accepts)
    assert metrics.roc_auc(one) == metrics.roc_auc(other)


def test_thresholds_accept_the_very_distances_they_come_from():
    distances = torch.tensor([0.1, 0.3, 0.7], dtype=torch.float32)
    counts = metrics.sweep(distances, torch.tensor([True, False, True]))
    for threshold, distance in zip(counts.thresholds.tolist(), distances, strict=True):
        assert bool(distance <= threshold)


def test_the_sweep_leaves_its_arguments_alone():
    distances, same = pairs(3)
    before = distances.clone(), same.clone()
    metrics.sweep(distances, same)
    assert torch.equal(distances, before[0])
    assert torch.equal(same, before[1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda d, s: metrics.sweep(d, torch.ones_like(s)),
            ValueError,
            "same must hold pairs of both kinds, got 60 same and 0 different. Draw pairs",
        ),
        (
            lambda d, s: metrics.sweep(d[:, None], s),
            ValueError,
            "distances must be a tensor of shape (p,), one per pair, got (60, 1).",
        ),
        (
            lambda d, s: metrics.sweep(0.5, s),
            ValueError,
            "distances must be a tensor of shape (p,), one per pair, got float.",
        ),
        (
            lambda d, s: metrics.sweep(d, s[:, None]),
            ValueError,
            "same must have shape (60,), one per pair, got (60, 1).",
        ),
        (lambda d, s: metrics.sweep(d, s.long()), TypeError, "same must be boolean"),
        (
            lambda d, s: metrics.sweep(d.masked_fill(s, math.nan), s),
            ValueError,
            "distances must be finite",
        ),
        (
            lambda d, s: metrics.sweep(d.masked_fill(s, math.inf), s),
            ValueError,
            "distances must be finite",
        ),
        (
            lambda d, s: metrics.sweep(d, s, known=~s),
            ValueError,
            "known must be True wherever same is, got",
        ),
        (
            lambda d, s: metrics.true_accept_rate_at(metrics.sweep(d, s), 1.5),
            ValueError,
            "far must be between 0 and 1, got 1.5.",
        ),
        (
            lambda d, s: metrics.min_detection_cost(metrics.sweep(d, s), prior=1.0),
            ValueError,
            "prior must be above 0 and below 1, got 1.0. Give the share of pairs",
        ),
        (
            lambda d, s: metrics.min_detection_cost(metrics.sweep(d, s), miss_cost=0),
            ValueError,
            "miss_cost must be a finite number above 0, got 0.",
        ),
    ],
)
def test_what_cannot_be_swept_is_named(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(*pairs(0))


# numbers read off the sweep


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("seed", range(20))
def test_areas_agree_with_scikit_learn(seed, levels):
    distances, same = pairs(seed, levels=levels)
    counts = metrics.sweep(distances, same)
    area = sklearn_metrics.roc_auc_score(same, -distances)
    precision = sklearn_metrics.average_precision_score(same, -distances)
    assert area not in (0, 1)
    assert metrics.roc_auc(counts) == pytest.approx(area, abs=1e-12)
    assert metrics.average_precision(counts) == pytest.approx(precision, abs=1e-12)
    far, tar, _ = sklearn_metrics.roc_curve(same, -distances, drop_intermediate=False)
    np.testing.assert_allclose(metrics.roc_curve(counts), (far, tar), atol=1e-15)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("seed", range(10))
def test_the_det_curve_agrees_with_scikit_learn(seed, levels):
    distances, same = pairs(seed, levels=levels)
    false_accepts, false_rejects = metrics.det_curve(metrics.sweep(distances, same))
    assert (float(false_accepts[0]), float(false_rejects[0])) == (0, 1)
    assert (float(false_accepts[-1]), float(false_rejects[-1])) == (1, 0)
    # scikit-learn leaves out all but the last point without false accepts, and all but the
    # first without false rejects.
    first = int((false_accepts == 0).sum()) - 1
    last = int((false_rejects > 0).sum()) + 1
    far, frr, _ = sklearn_metrics.det_curve(same, -distances)
    np.testing.assert_allclose(false_accepts[first:last].flip(0), far, atol=1e-15)
    np.testing.assert_allclose(false_rejects[first:last].flip(0), frr, atol=1e-15)


@pytest.mark.parametrize("costs", [(0.01, 1.0, 1.0), (0.5, 1.0, 1.0), (0.2, 10.0, 3.0)])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_detection_cost_is_that_of_the_loops(seed, levels, costs):
    distances, same = pairs(seed, levels=levels)
    prior, miss_cost, false_accept_cost = costs
    found = []
    for threshold in [-math.inf, *distances.tolist()]:
        accepted = distances <= threshold
        missed = float((~accepted)[same].double().mean())
        wrong = float(accepted[~same].double().mean())
        found.append(miss_cost * prior * missed + false_accept_cost * (1 - prior) * wrong)
    without_looking = min(miss_cost * prior, false_accept_cost * (1 - prior))
    ours = metrics.min_detection_cost(
        metrics.sweep(distances, same),
        prior=prior,
        miss_cost=miss_cost,
        false_accept_cost=false_accept_cost,
    )
    assert ours == pytest.approx(min(found) / without_looking, abs=1e-12)
    assert 0 < ours <= 1


def test_the_smallest_detection_cost_at_its_ends():
    right_way = torch.tensor([1.0, 2.0, 3.0, 4.0])
    same = torch.tensor([True, True, False, False])
    assert metrics.min_detection_cost(metrics.sweep(right_way, same)) == 0
    assert metrics.min_detection_cost(metrics.sweep(-right_way, same)) == 1


def test_areas_agree_with_scikit_learn_on_many_pairs():
    distances, same = pairs(0, n=200_000, levels=4000)
    counts = metrics.sweep(distances, same)
    assert len(counts.thresholds) < 200_000
    expected = sklearn_metrics.roc_auc_score(same, -distances)
    assert metrics.roc_auc(counts) == pytest.approx(expected, abs=1e-12)
    expected = sklearn_metrics.average_precision_score(same, -distances)
    assert metrics.average_precision(counts) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("seed", range(10))
def test_the_equal_error_rate_is_where_the_roc_meets_the_diagonal(seed, levels):
    distances, same = pairs(seed, n=40, levels=levels)
    negative, positive = (~same).sum().item(), same.sum().item()
    corners = [(0.0, 0.0)]
    for threshold in sorted(set(distances.tolist())):
        accepted = distances <= threshold
        corners.append(
            (
                (accepted & ~same).sum().item() / negative,
                (accepted & same).sum().item() / positive,
            )
        )
    met = []
    for (far, tar), (next_far, next_tar) in itertools.pairwise(corners):
        for share in np.linspace(0, 1, 2001):
            x, y = far + share * (next_far - far), tar + share * (next_tar - tar)
            met.append((abs(x - (1 - y)), x))
    closest, error = min(met)
    assert closest < 1e-3
    ours = metrics.equal_error_rate(metrics.sweep(distances, same))
    assert 0 < ours < 0.5
    assert ours == pytest.approx(error, abs=1e-3)


def test_the_equal_error_rate_between_two_thresholds_is_interpolated():
    # From (0, 0) the ROC goes to (1/3, 1) at once: it meets the diagonal at (1/4, 3/4).
    distances = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0])
    same = torch.tensor([True, True, False, False, False])
    assert metrics.equal_error_rate(metrics.sweep(distances, same)) == pytest.approx(0.25)


@pytest.mark.parametrize(("sign", "error"), [(1, 0.0), (-1, 1.0)])
def test_the_equal_error_rate_at_its_ends(sign, error):
    distances = sign * torch.tensor([1.0, 2.0, 3.0, 4.0])
    same = torch.tensor([True, True, False, False])
    assert metrics.equal_error_rate(metrics.sweep(distances, same)) == error


@given(seed=st.integers(0, 2**16), far=st.floats(0, 1), levels=st.sampled_from(LEVELS))
def test_the_true_accept_rate_is_that_of_the_loosest_threshold_allowed(seed, far, levels):
    distances, same = pairs(seed, levels=levels)
    allowed = [
        float((distances[same] <= t).double().mean())
        for t in distances.tolist()
        if float((distances[~same] <= t).double().mean()) <= far
    ]
    ours = metrics.true_accept_rate_at(metrics.sweep(distances, same), far)
    assert ours == pytest.approx(max(allowed, default=0.0))


def test_nothing_is_accepted_where_no_threshold_is_allowed():
    counts = metrics.sweep(torch.tensor([2.0, 1.0, 3.0]), torch.tensor([True, False, False]))
    assert metrics.true_accept_rate_at(counts, 0.4) == 0
    assert metrics.true_accept_rate_at(counts, 0.5) == 1


# ranking metrics


@pytest.mark.parametrize("seed", range(10))
def test_ranking_metrics_agree_with_loops(seed):
    relevant, total = ranking(seed)
    q, k = relevant.shape
    r_precision = metrics.r_precision(relevant, total)
    average = metrics.average_precision_at_r(relevant, total)
    for query in range(q):
        row, r = relevant[query].tolist(), int(total[query])
        for n in range(1, k + 1):
            assert float(metrics.precision_at(relevant, n)[query]) == sum(row[:n]) / n
            assert float(metrics.recall_at(relevant, n)[query]) == float(any(row[:n]))
        assert float(r_precision[query]) == sum(row[:r]) / r
        summed = sum(sum(row[: i + 1]) / (i + 1) for i in range(r) if row[i])
        assert float(average[query]) == pytest.approx(summed / r)
    assert (average <= r_precision).all()
    assert (average < r_precision).any()


@pytest.mark.parametrize("seed", range(10))
def test_scores_at_k_agree_with_loops(seed):
    relevant, total = ranking(seed)
    k = relevant.shape[1]
    for query, row in enumerate(relevant.tolist()):
        # What is relevant but not among the ranks given comes after them.
        hits = row + [True] * (int(total[query]) - sum(row))
        expected = oracles.ranking_scores(hits, range(1, k + 1))
        for n in range(1, k + 1):
            average = metrics.average_precision_at(relevant, total, n)[query]
            assert float(average) == pytest.approx(expected[f"map_at_{n}"])
            share = metrics.share_found_at(relevant, total, n)[query]
            assert float(share) == pytest.approx(expected[f"share_found_at_{n}"])
            whole = metrics.average_precision_of_ranking(relevant[:, :n], total)[query]
            summed = sum(sum(row[: i + 1]) / (i + 1) for i in range(n) if row[i])
            assert float(whole) == pytest.approx(summed / int(total[query]))
            gain = metrics.ndcg_at(relevant, total, n)[query]
            assert float(gain) == pytest.approx(expected[f"ndcg_at_{n}"])
        rank = float(metrics.first_relevant_rank(relevant)[query])
        assert rank == (expected["rank"] if any(row) else math.inf)


@pytest.mark.parametrize("seed", range(5))
def test_gain_agrees_with_scikit_learn_where_everything_is_ranked(seed):
    relevant, _ = ranking(seed, q=20, k=12)
    relevant = relevant[relevant.any(dim=1)]
    scores = -np.arange(12.0)[None].repeat(len(relevant), axis=0)
    for k in (1, 4, 12):
        ours = metrics.ndcg_at(relevant, relevant.sum(dim=1), k).mean()
        theirs = sklearn_metrics.ndcg_score(relevant.double().numpy(), scores, k=k)
        assert 0.1 < float(ours) == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(5))
def test_graded_gain_agrees_with_scikit_learn_and_of_grades_0_and_1_with_the_plain_one(seed):
    rng = np.random.default_rng(seed)
    gains = torch.from_numpy(rng.choice([0.0, 1.0, 2.5], (20, 12)))
    scores = -np.arange(12.0)[None].repeat(20, axis=0)
    for k in (1, 4, 12):
        ours = metrics.graded_ndcg_at(gains, gains, k)
        theirs = sklearn_metrics.ndcg_score(gains.numpy(), scores, k=k)
        assert 0.1 < float(ours.mean()) == pytest.approx(theirs)
    relevant, total = ranking(seed)
    ideal = (torch.arange(int(total.max())) < total[:, None]).double()
    for k in (1, 3, 7):
        plain = metrics.ndcg_at(relevant, total, k)
        torch.testing.assert_close(metrics.graded_ndcg_at(relevant.double(), ideal, k), plain)
    assert metrics.graded_ndcg_at([[0.0, 0.0]], [[0.0]], 2).isnan().all()


def test_at_k_of_r_the_two_average_precisions_are_one():
    relevant, _ = ranking(1)
    total = torch.full((len(relevant),), 7)
    one = metrics.average_precision_at(relevant, total, 7)
    torch.testing.assert_close(one, metrics.average_precision_at_r(relevant, total))


def test_the_gain_falls_short_where_relevant_items_are_not_retrieved():
    hit_last = torch.tensor([[False, True]])
    assert float(metrics.ndcg_at(hit_last, torch.tensor([1]), 2)) == pytest.approx(0.6309, abs=1e-4)
    assert float(metrics.ndcg_at(hit_last, torch.tensor([9]), 2)) == pytest.approx(0.3869, abs=1e-4)


@given(seed=st.integers(0, 2**16))
def test_moving_a_hit_forward_never_lowers_a_score(seed):
    relevant, total = ranking(seed)
    better = relevant.sort(dim=1, descending=True).values
    for k in (1, 3, 7):
        for score in (metrics.average_precision_at, metrics.ndcg_at):
            assert (score(better, total, k) >= score(relevant, total, k) - 1e-12).all()
            assert (score(better, total, k) <= 1 + 1e-12).all()


def test_means_by_class():
    values = torch.tensor([1.0, 0.0, 0.5, 0.25])
    labels = torch.tensor([2**61, -3, 2**61, 7])
    classes, means = metrics.mean_by_class(values, labels)
    assert classes.tolist() == [-3, 7, 2**61]
    assert means.tolist() == [0, 0.25, 0.75]


def test_a_query_with_nothing_to_find_is_nan():
    relevant = torch.tensor([[False, False], [True, False]])
    total = torch.tensor([0, 1])
    assert metrics.r_precision(relevant, total).isnan().tolist() == [True, False]
    assert metrics.average_precision_at_r(relevant, total).isnan().tolist() == [True, False]
    assert metrics.average_precision_at(relevant, total, 2).isnan().tolist() == [True, False]
    assert metrics.ndcg_at(relevant, total, 2).isnan().tolist() == [True, False]
    assert metrics.first_relevant_rank(relevant).tolist() == [math.inf, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r, t: metrics.precision_at(r, 8),
            "k must be at most the 7 ranks given, got 8. Look up more neighbors.",
        ),
        (lambda r, t: metrics.recall_at(r, 0), "k must be at least 1, got 0."),
        (
            lambda r, t: metrics.r_precision(r, t + 7),
            "relevant must reach down to rank R for every query, got 7 ranks where a query has",
        ),
        (
            lambda r, t: metrics.average_precision_at_r(r, t * 0),
            "relevant_total must be at least the number of relevant items found",
        ),
        (
            lambda r, t: metrics.ndcg_at(r, t, 8),
            "k must be at most the 7 ranks given, got 8. Look up more neighbors.",
        ),
        (
            lambda r, t: metrics.average_precision_at(r, t * 0, 7),
            "relevant_total must be at least the number of relevant items found",
        ),
        (
            lambda r, t: metrics.share_found_at(r, t * 0, 7),
            "relevant_total must be at least the number of relevant items found",
        ),
        (
            lambda r, t: metrics.average_precision_of_ranking(r, t * 0),
            "relevant_total must be at least the number of relevant items found",
        ),
        (
            lambda r, t: metrics.graded_ndcg_at(r.double(), r.double(), 8),
            "k must be at most the 7 ranks given, got 8. Look up more neighbors.",
        ),
        (
            lambda r, t: metrics.graded_ndcg_at(r.double() + 1, r.double(), 3),
            "ideal_gains must hold the gains of all relevant items, got a query whose items found",
        ),
        (
            lambda r, t: metrics.graded_ndcg_at(r.double(), r.double()[:3], 3),
            "ideal_gains must have one row per query, 9, got 3.",
        ),
        (
            lambda r, t: metrics.graded_ndcg_at(r.double() - 1, r.double(), 3),
            "gains must be at least 0, got -1. Use 0 for items that are not relevant.",
        ),
        (
            lambda r, t: metrics.graded_ndcg_at(t, t, 3),
            "gains must be numbers of shape (q, k), got torch.int64 of shape (9,).",
        ),
        (
            lambda r, t: metrics.first_relevant_rank(r[:, :0]),
            "k must be at most the 0 ranks given, got 1.",
        ),
        (
            lambda r, t: metrics.mean_by_class(torch.ones(2), t),
            "labels must have shape (2,), one per item, got (9,).",
        ),
        (
            lambda r, t: metrics.r_precision(r, t[:3]),
            "relevant_total must have shape (9,), one per item, got (3,).",
        ),
        (
            lambda r, t: metrics.precision_at(r.long(), 1),
            "relevant must be a boolean tensor of shape (q, k), got torch.int64 of shape (9, 7).",
        ),
    ],
)
def test_rankings_that_are_too_short_or_wrong_are_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(*ranking(0))


def test_the_ndcg_of_a_perfect_order_is_1_at_any_length():
    for k in range(1, 60):
        perfect = torch.ones(1, k, dtype=torch.bool)
        assert 1 - 1e-15 <= float(metrics.ndcg_at(perfect, torch.tensor([k]), k)) <= 1
