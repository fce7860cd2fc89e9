import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

import oracles
from likewise.distances import COSINE, EUCLIDEAN
from likewise.evaluation.few_shot import evaluate_few_shot, evaluate_one_shot_runs
from likewise.evaluation.retrieval import evaluate_retrieval, nearest
from likewise.intervals import binomial


def bounds(estimate):
    return estimate.value, estimate.low, estimate.high


def directions(seed, n, levels=True, d=4):
    """Vectors of ±1, whose cosine distances are exact in float32 and tie often; or any."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=rng)
    return rows.sign() if levels else rows


def labels_of(seed, n, classes):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def by_loops(embeddings, labels, references, reference_labels, ks, distance=COSINE, hidden=None):
    """Scores by name (q,) of the counted queries, and which these are."""
    distances = distance.matrix(embeddings, references).tolist()
    found, counted = {}, []
    for q, label in enumerate(labels.tolist()):
        seen = [i for i in range(len(references)) if hidden is None or not hidden[q, i]]
        order = sorted(seen, key=lambda i: (distances[q][i], i))
        scores = oracles.ranking_scores([int(reference_labels[i]) == label for i in order], ks)
        if scores:
            counted.append(q)
            for name, score in scores.items():
                found.setdefault(name, []).append(score)
    return found, counted


def assert_agrees(result, expected):
    scores, counted = expected
    assert len(counted) > 3, "the loops found nothing"
    assert result.counted.tolist() == counted
    assert set(result.per_query) == set(scores)
    for name, values in scores.items():
        assert result.per_query[name].dtype == torch.float64
        np.testing.assert_allclose(result.per_query[name], values, err_msg=name)


@pytest.mark.parametrize("levels", [True, False], ids=["ties", "no ties"])
@pytest.mark.parametrize("n", [40, 204], ids=["all sorted", "few looked for"])
@pytest.mark.parametrize("distance", [COSINE, EUCLIDEAN], ids=lambda d: d.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_every_score_agrees_with_loops(levels, n, distance, dtype):
    embeddings = directions(n, n, levels, d=16).to(dtype)
    labels = torch.arange(n) % (n // 3)
    labels[7] = 999
    ks = (1, 2, 5)
    alone = torch.eye(n, dtype=torch.bool)
    expected = by_loops(embeddings, labels, embeddings, labels, ks, distance, alone)
    assert (max(ks) * nearest.DENSE < n) == (n == 204)
    result = evaluate_retrieval(embeddings, labels, distance=distance, ks=ks, chunk_size=33)
    assert_agrees(result, expected)
    assert result.left_out == n - len(expected[1])
    for name, estimate in (
        ("precision_at_1", result.precision_at_1),
        ("r_precision", result.r_precision),
        ("map_at_r", result.map_at_r),
        ("reciprocal_rank", result.mean_reciprocal_rank),
        ("map_at_5", result.map_at_k[5]),
        ("ndcg_at_5", result.ndcg_at_k[5]),
        ("recall_at_2", result.recall_at_k[2]),
        ("precision_at_2", result.precision_at_k[2]),
        ("rank", result.rank["mean"]),
    ):
        assert float(estimate) == pytest.approx(np.mean(expected[0][name]))
    assert float(result.rank["median"]) == np.median(expected[0]["rank"])
    assert float(result.rank["worst"]) == max(expected[0]["rank"]) > 5


@pytest.mark.parametrize("m", [30, 500])
@pytest.mark.parametrize("seed", range(3))
def test_among_references_with_ties_and_unlabeled_ones(m, seed):
    embeddings, references = directions(seed, 25), directions(seed + 9, m)
    labels, reference_labels = labels_of(seed, 25, 8), labels_of(seed + 1, m, m // 3) - 1
    assert int(reference_labels.min()) == -1
    result = evaluate_retrieval(
        embeddings, labels, references=references, reference_labels=reference_labels, ks=(1, 3)
    )
    some = reference_labels >= 0
    expected = by_loops(embeddings, labels, references[some], reference_labels[some], (1, 3))
    assert_agrees(result, expected)
    assert result.unlabeled == int((~some).sum()) > 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("m", [45, 300])
def test_references_of_the_own_group_are_neither_hits_nor_misses(seed, own, m):
    references, reference_labels = directions(seed, m, seed > 0), labels_of(seed, m, m // 4)
    reference_groups = labels_of(seed + 5, m, 6) - 3
    n = m if own else 20
    embeddings = references if own else directions(seed + 7, n)
    labels = reference_labels if own else labels_of(seed + 8, n, m // 4)
    groups = reference_groups if own else labels_of(seed + 9, n, 7) - 3
    labels[0] = 999
    hidden = groups[:, None] == reference_groups
    expected = by_loops(embeddings, labels, references, reference_labels, (1, 4), hidden=hidden)
    apart = {
        "references": references,
        "reference_labels": reference_labels,
        "reference_groups": reference_groups,
    }
    result = evaluate_retrieval(
        embeddings, labels, groups=groups, ks=(1, 4), chunk_size=17, **({} if own else apart)
    )
    assert_agrees(result, expected)
    assert 0 < result.left_out == n - len(expected[1])


def test_a_group_of_one_item_each_only_hides_the_item_itself():
    embeddings, labels = directions(0, 60, levels=False), labels_of(0, 60, 20)
    one = evaluate_retrieval(embeddings, labels, groups=torch.arange(60))
    assert one.to_dict() == evaluate_retrieval(embeddings, labels).to_dict()


@pytest.mark.parametrize("n", [12, 300])
def test_where_all_are_at_one_point_the_order_given_decides(n):
    labels = torch.arange(n) % (n // 3)
    result = evaluate_retrieval(torch.ones(n, 3), labels, ks=(1,))
    assert_agrees(
        result,
        by_loops(
            torch.ones(n, 3), labels, torch.ones(n, 3), labels, (1,), hidden=torch.eye(n).bool()
        ),
    )


@given(seed=st.integers(0, 2**16), tile=st.sampled_from([1, 600, 2**21]))
@settings(max_examples=8)
def test_neither_pieces_nor_class_codes_matter(seed, tile):
    embeddings, labels = directions(seed, 150, d=16), labels_of(seed, 150, 40)
    whole = evaluate_retrieval(embeddings, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "TILE", tile)
        patch.setattr(nearest, "PIECE", tile)
        patch.setattr(nearest, "FEWEST_ROWS", 1)
        pieces = evaluate_retrieval(embeddings, labels + 2**60, chunk_size=1 + seed % 200)
    for name, score in whole.per_query.items():
        assert torch.equal(score, pieces.per_query[name]), name
    assert (pieces.query_labels - 2**60).equal(whole.query_labels)


def test_macro_means_weigh_classes_alike():
    embeddings, labels = directions(3, 90, levels=False), (torch.rand(90) ** 2 * 20).long()
    result = evaluate_retrieval(embeddings, labels)
    classes = result.query_labels.unique()
    for name, score in result.per_query.items():
        means = [score[result.query_labels == c].mean() for c in classes]
        assert float(result.macro[name]) == pytest.approx(float(np.mean(means)))
    assert float(result.macro["r_precision"]) != pytest.approx(float(result.r_precision), abs=1e-3)


def test_with_classes_of_one_size_macro_is_micro_and_so_is_its_interval():
    labels = torch.arange(80) % 16
    result = evaluate_retrieval(directions(1, 80, levels=False), labels)
    for name, micro in (("map_at_r", result.map_at_r), ("rank", result.rank["mean"])):
        np.testing.assert_allclose(bounds(result.macro[name]), bounds(micro))
    perfect = evaluate_retrieval(torch.eye(16)[labels], labels)
    assert str(perfect.macro["map_at_r"]) == "1.000 (no interval)"


def test_the_interval_of_an_unequal_macro_mean():
    embeddings, labels = directions(3, 90, levels=False), (torch.arange(90) ** 0.7 / 2).long()
    result = evaluate_retrieval(embeddings, labels)
    score, own = result.per_query["ndcg_at_10"].numpy(), result.query_labels.numpy()
    weight = np.array([1 / (own == c).sum() for c in own]) / len(set(own))
    value, worth = (weight * score).sum(), 1 / (weight**2).sum()
    error = math.sqrt((weight**2 * (score - value) ** 2).sum() * worth / (worth - 1))
    assert worth < 80
    reach = stats.t.ppf(0.975, worth - 1) * error
    expected = (value, value - reach, value + reach)
    np.testing.assert_allclose(bounds(result.macro["ndcg_at_10"]), expected)


def test_per_class_means_have_intervals():
    embeddings, labels = directions(3, 60, levels=False), labels_of(1, 60, 12) + 5
    result = evaluate_retrieval(embeddings, labels)
    table = result.per_class()
    assert list(table) == sorted(set(result.query_labels.tolist()))
    of_class = result.query_labels == 7
    hits = int(result.per_query["recall_at_5"][of_class].sum())
    assert bounds(table[7]["recall_at_5"]) == bounds(binomial(hits, int(of_class.sum())))
    assert float(table[7]["rank"]) == pytest.approx(
        float(result.per_query["rank"][of_class].mean())
    )
    some = result.per_class("map_at_r", "rank")
    assert some == {c: {n: row[n] for n in ("map_at_r", "rank")} for c, row in table.items()}


def test_the_median_rank_has_an_exact_interval_and_the_worst_none():
    result = evaluate_retrieval(directions(2, 120, levels=False), labels_of(2, 120, 30))
    rank = np.sort(result.per_query["rank"].numpy())
    n = len(rank)
    below = max(k for k in range(n) if stats.binom.cdf(k, n, 0.5) <= 0.025)
    expected = (np.median(rank), rank[below], rank[n - 1 - below])
    assert expected[1] < expected[0] < expected[2]
    assert bounds(result.rank["median"]) == expected
    assert "exact" in result.rank["median"].method
    assert result.rank["worst"].method.startswith("no interval: the worst")
    few = evaluate_retrieval(directions(2, 5), torch.zeros(5).long(), ks=(1,))
    assert few.rank["median"].method == "no interval: there are too few values"


@pytest.mark.parametrize("own", [True, False])
def test_new_classes_change_ranks_and_macro_means_too(own):
    m, classes = 90, 12
    references, reference_labels = directions(4, m, levels=False, d=3), labels_of(4, m, classes)
    embeddings, labels = (references, reference_labels)
    if not own:
        embeddings, labels = directions(5, 50, levels=False, d=3), labels_of(5, 50, classes)
        reference_labels = reference_labels.clone()
        reference_labels[:5] = -1
    apart = {} if own else {"references": references, "reference_labels": reference_labels}

    def means(gone):
        kept, left = labels != gone, (reference_labels != gone) & (reference_labels >= 0)
        hidden = torch.eye(m).bool()[kept][:, left] if own else None
        scores, counted = by_loops(
            embeddings[kept],
            labels[kept],
            references[left],
            reference_labels[left],
            (3,),
            hidden=hidden,
        )
        of = labels[kept][counted]
        macro = {
            name: np.mean([np.array(score)[of == c].mean() for c in of.unique()])
            for name, score in scores.items()
        }
        return {name: (np.mean(score), macro[name]) for name, score in scores.items()}

    whole, without = means(-9), [means(c) for c in range(classes)]
    result = evaluate_retrieval(
        embeddings, labels, ks=(3,), classes_as_sample=True, chunk_size=40, **apart
    )
    assert max(result.per_query["rank"]) > 20, "no rank lies beyond those that are kept"
    t = stats.t.ppf(0.975, classes - 1)
    micro = {"ndcg_at_3": result.ndcg_at_k[3], "reciprocal_rank": result.mean_reciprocal_rank}
    for which, estimates in ((0, micro), (1, result.macro)):
        for name in ("ndcg_at_3", "reciprocal_rank"):
            left_out = special.logit([one[name][which] for one in without])
            reach = t * left_out.std() * math.sqrt(classes - 1)
            value = whole[name][which]
            ends = special.expit(special.logit(value) + reach * np.array([-1, 1]))
            np.testing.assert_allclose(bounds(estimates[name]), (value, *ends))
    for which, estimate in ((0, result.rank["mean"]), (1, result.macro["rank"])):
        reach = t * np.std([one["rank"][which] for one in without]) * math.sqrt(classes - 1)
        value = whole["rank"][which]
        expected = (value, max(1, value - reach), value + reach)
        np.testing.assert_allclose(bounds(estimate), expected)
    assert result.rank["median"].method.startswith("no interval: leaving out classes")


def test_more_classes_than_parts_are_left_out_together():
    labels = torch.arange(240) // 2
    result = evaluate_retrieval(
        directions(0, 240, levels=False), labels, ks=(1,), classes_as_sample=True
    )
    assert "100 groups in turn, 120 groups merged into 100" in result.map_at_r.method
    assert result.map_at_r.low < result.map_at_r.value < result.map_at_r.high


def test_clusters_are_compared_with_classes_on_request():
    labels = torch.arange(60) % 4
    embeddings = torch.eye(4)[labels] * (1 + torch.rand(60, 1)) + 0.01 * torch.randn(60, 4)
    assert evaluate_retrieval(embeddings, labels).clustering is None
    found = evaluate_retrieval(embeddings, labels, clustering=True).clustering
    assert {name: float(estimate) for name, estimate in found.items()} == {"nmi": 1, "ami": 1}
    random = evaluate_retrieval(embeddings, labels_of(0, 60, 4), clustering=True).clustering
    assert float(random["ami"]) < 0.2
    assert random["nmi"].method.startswith("no interval: all queries are clustered together")


def test_the_result_is_ready_for_json_without_what_is_per_query():
    result = evaluate_retrieval(directions(0, 50), labels_of(0, 50, 10), ks=(5,))
    fields = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert fields["ndcg_at_k"]["5"]["value"] == result.ndcg_at_k[5].value
    assert fields["rank"]["worst"]["low"] is None
    assert fields["macro"]["map_at_5"]["value"] == result.macro["map_at_5"].value
    assert not {"per_query", "counted", "query_labels"} & set(fields)


def test_embeddings_that_overflow_a_distance_are_named():
    with pytest.raises(ValueError, match="distances must be finite"):
        evaluate_retrieval(1e30 * directions(0, 20), labels_of(0, 20, 4), distance=EUCLIDEAN)


def test_ranks_may_come_from_a_generator():
    given = directions(0, 20), labels_of(0, 20, 2)
    found = evaluate_retrieval(*given, ks=(k for k in (1, 3)))
    assert found.to_dict() == evaluate_retrieval(*given, ks=(1, 3)).to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": 5}, "ks must be ranks, got 5. Use e.g. ks=(1, 5)."),
        (
            {"distance": "cosine"},
            "distance must be a Distance, got 'cosine'. Use e.g. likewise.distances.COSINE.",
        ),
    ],
)
def test_what_is_of_another_kind_is_named(arguments, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        evaluate_retrieval(directions(0, 20), labels_of(0, 20, 2), **arguments)


def test_few_shot_names_what_is_no_distance():
    for evaluate in (
        lambda: evaluate_few_shot(directions(0, 20), labels_of(0, 20, 2), ways=2, distance="snr"),
        lambda: evaluate_one_shot_runs(
            torch.eye(3)[None], torch.eye(3)[None], torch.arange(3)[None], distance="snr"
        ),
    ):
        with pytest.raises(TypeError, match="distance must be a Distance, got 'snr'"):
            evaluate()


GROUPS = torch.arange(20) % 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"reference_groups": GROUPS},
            "reference_groups must be left out where references are, got some.",
        ),
        (
            {"references": torch.ones(3, 4), "reference_labels": GROUPS[:3], "groups": GROUPS},
            "groups and reference_groups must be given together, got only one of them.",
        ),
        ({"groups": GROUPS[:4]}, "groups must have shape (20,), one per item, got (4,)."),
        (
            {"groups": torch.zeros(20).long()},
            "groups must leave some query a reference of its own class, got 20 queries whose match",
        ),
        (
            {"groups": GROUPS, "ks": (14,)},
            "ks must be at most 13, the references that a query is compared with, got 14.",
        ),
    ],
)
def test_groups_that_cannot_be_used_are_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_retrieval(directions(0, 20), labels_of(0, 20, 2), **arguments)


@pytest.mark.parametrize("distance", [COSINE, EUCLIDEAN], ids=lambda d: d.name)
def test_embeddings_that_require_a_gradient_are_taken_as_numbers(distance):
    embeddings, labels = directions(0, 40, levels=False), labels_of(1, 40, 5)
    plain = evaluate_retrieval(embeddings, labels, distance=distance)
    given = evaluate_retrieval(embeddings.requires_grad_(), labels, distance=distance)
    assert given.map_at_r == plain.map_at_r
    assert not any(scores.requires_grad for scores in given.per_query.values())
