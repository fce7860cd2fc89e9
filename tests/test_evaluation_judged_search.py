"""Search judged by a table of relevance, against trec_eval's values, loops and edges."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import likewise as lw
from likewise import intervals
from likewise.data import Relevance, relevance_of_labels
from likewise.evaluation import compare, evaluate_retrieval, evaluate_search

TABLES = json.loads((Path(__file__).parent / "trec_eval.json").read_text())["tables"]
THEIRS = {  # our names of the measures of trec_eval
    "map": "average_precision",
    "recip_rank": "reciprocal_rank",
    **{
        f"{theirs}_{k}": f"{ours}_at_{k}"
        for k in (1, 3, 5, 10)
        for theirs, ours in (
            ("ndcg_cut", "ndcg"),
            ("recall", "share_found"),
            ("success", "hit_rate"),
            ("P", "precision"),
        )
    },
}


def relevance_in(table):
    return Relevance(*zip(*table["relevance"], strict=True))


def looked_up(table):
    """What an index finds: scores as inner products, which tie often."""
    index = lw.Index(lw.distances.INNER_PRODUCT)
    scores = torch.tensor(table["scores"], dtype=torch.float32)
    # trec_eval ranks what ties by its name, last first; an index in the order of insertion.
    order = sorted(range(len(table["items"])), key=lambda i: table["items"][i], reverse=True)
    index.add(scores.T[order].contiguous(), ids=[table["items"][i] for i in order])
    return index.lookup(torch.eye(len(scores)), k=table["depth"])


@pytest.mark.parametrize("table", TABLES, ids=range(len(TABLES)))
def test_every_score_is_that_of_trec_eval(table):
    result = evaluate_search(
        looked_up(table),
        relevance_in(table),
        queries=table["queries"],
        ks=(1, 3, 5, 10),
        relevant_from=table["relevant_from"],
    )
    asked = [table["queries"][row] for row in result.counted.tolist()]
    assert len(asked) > 3
    assert set(THEIRS.values()) == set(result.per_query)
    for theirs, ours in THEIRS.items():
        expected = [table["values"][query][theirs] for query in asked]
        assert sum(expected) > 0 or theirs.endswith("_1")
        np.testing.assert_allclose(result.per_query[ours], expected, atol=2e-12, err_msg=ours)
    relevant = {q for q, _, grade in table["relevance"] if grade >= table["relevant_from"]}
    assert set(asked) == relevant & set(table["queries"])
    for query in set(table["queries"]) - relevant:  # theirs is 0, ours counts it apart
        assert table["values"].get(query, {"map": 0})["map"] == 0
    assert result.left_out == len(table["queries"]) - len(asked)


def by_loops(found, grades, k):
    """nDCG with gains of 2**grade - 1, share found and average precision of one query."""
    gains = [2 ** grades.get(item, 0) - 1 for item in found[:k]]
    ideal = sorted((2**grade - 1 for grade in grades.values()), reverse=True)[:k]
    gained, possible = (
        sum(gain / math.log2(rank + 2) for rank, gain in enumerate(row)) for row in (gains, ideal)
    )
    hits = [grades.get(item, 0) > 0 for item in found]
    total = sum(grade > 0 for grade in grades.values())
    precision = sum(sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit)
    return gained / possible, sum(hits[:k]) / total, precision / total


@given(seed=st.integers(0, 2**16), k=st.integers(1, 4))
@settings(max_examples=25)
def test_scores_agree_with_loops_on_rows_of_any_length(seed, k):
    rng = np.random.default_rng(seed)
    grades = [
        {int(i): float(rng.choice([0, 0.5, 1, 3])) for i in rng.permutation(12)[:6]}
        for _ in range(5)
    ]
    grades[2][99] = 1.0  # not to be found
    grades[3] = dict.fromkeys(grades[3], 0.0)
    found = [rng.permutation(12)[: rng.integers(0, 9)].tolist() for _ in range(4)]
    found.append(rng.permutation(12)[:8].tolist())
    rows = [(q, item, grade) for q, of in enumerate(grades) for item, grade in of.items()]
    result = evaluate_search(found, Relevance(*zip(*rows, strict=True)), ks=[k], gain="exponential")
    assert 3 not in result.counted.tolist()
    for place, q in enumerate(result.counted.tolist()):
        names = (f"ndcg_at_{k}", f"share_found_at_{k}", "average_precision")
        ours = [float(result.per_query[name][place]) for name in names]
        assert ours == pytest.approx(by_loops(found[q], grades[q], k))


def test_of_one_class_it_is_what_evaluate_retrieval_gives():
    rng = torch.Generator().manual_seed(3)
    x, labels = torch.randn(60, 4, generator=rng), torch.randint(0, 9, (60,), generator=rng)
    index = lw.Index()
    index.add(x)
    relevance = relevance_of_labels([[c] for c in labels.tolist()], [[c] for c in labels.tolist()])
    ours = evaluate_search(index.lookup(x, k=60), relevance, ks=(1, 5), skip_own=True)
    theirs = evaluate_retrieval(x, labels, ks=(1, 5))
    assert (ours.ranks, ours.queries, ours.left_out) == (59, theirs.queries, theirs.left_out)
    assert 0.1 < float(theirs.share_found_at_k[5]) < float(theirs.recall_at_k[5]) < 1
    names = {"hit_rate_at_5": "recall_at_5"}
    for name in ("ndcg_at_5", "share_found_at_5", "hit_rate_at_5", "precision_at_5"):
        other = theirs.per_query[names.get(name, name)]
        torch.testing.assert_close(ours.per_query[name], other)
    torch.testing.assert_close(ours.per_query["reciprocal_rank"], 1 / theirs.per_query["rank"])
    assert str(ours.hit_rate_at_k[5]) == str(theirs.recall_at_k[5])


def test_intervals_are_over_queries_and_the_result_is_a_table_and_json():
    table = TABLES[0]
    result = evaluate_search(looked_up(table), relevance_in(table), queries=table["queries"])
    assert list(result.ndcg_at_k) == [1, 5, 10]
    expected = intervals.mean(result.per_query["ndcg_at_5"], within=(0.0, 1.0))
    assert result.ndcg_at_k[5] == expected
    assert expected.low < expected.value < expected.high
    hits = result.per_query["hit_rate_at_1"]
    assert result.hit_rate_at_k[1] == intervals.binomial(int(hits.sum()), len(hits))
    fields = json.loads(json.dumps(result.to_dict()))
    assert fields["ndcg_at_k"]["5"] == expected.to_dict()
    assert (fields["queries"], fields["left_out"], fields["ranks"]) == (5, 1, 14)
    for shown in (repr(result), result._repr_html_()):
        assert "share found at 10" in shown
        assert str(expected) in shown


def test_two_searches_are_compared_query_by_query():
    relevance = Relevance([f"q{i}" for i in range(20)], [f"d{i}" for i in range(20)])
    good, bad = ([[f"d{i + off}", "x"] for i in range(20)] for off in (0, 1))
    names = [f"q{i}" for i in range(20)]
    a, b = (evaluate_search(found, relevance, queries=names, ks=[2]) for found in (good, bad))
    found = compare(a, b, measures=["hit_rate_at_2"])
    assert "A is ahead on hit_rate_at_2 by 1.000" in found.verdict
    other = evaluate_search(good[1:], relevance, queries=names[1:], ks=[2])
    with pytest.raises(ValueError, match="b must be of the same queries as a, 20, got 19"):
        compare(a, other)


def test_ranks_without_an_item_and_queries_that_are_not_asked():
    relevance = Relevance(["q", "r", "s", "t"], ["a", "b", "c", "d"], [1, 1, 0, -1])
    found = lw.Neighbors(
        np.array([["x", ""], ["a", ""]]), torch.tensor([[0.1, math.inf]] * 2), torch.zeros(2, 2)
    )
    result = evaluate_search(found, relevance, queries=["other", "q"], ks=[1, 2])
    assert (result.queries, result.left_out, result.not_asked) == (1, 1, 1)
    assert result.counted.tolist() == [1]
    assert result.precision_at_k[2].value == 0.5
    assert result.share_found_at_k[1].value == 1
    index = lw.Index()
    index.add(torch.eye(4), ids=[7, 8, 9, 10], metadata=[{"kept": 1}, {}, {}, {}])
    padded = index.lookup(torch.eye(4)[:1], k=4, where={"kept": 1})
    assert padded.ids.tolist() == [[7, -1, -1, -1]], "padding is no item that was found twice"
    judged = evaluate_search(padded, Relevance([0, 0], ["-1", "7"]), ks=[4])
    assert (judged.share_found_at_k[4].value, judged.precision_at_k[4].value) == (0.5, 0.25)


def test_numbers_and_text_are_one_id_and_padding_is_none():
    relevance = Relevance([0, 1], ["7", "8"])
    for found in ([[7], [8]], torch.tensor([[7, -1], [8, -1]]), np.array([["7", ""], ["8", ""]])):
        result = evaluate_search(found, relevance, ks=[1])
        assert result.hit_rate_at_k[1].value == 1
    named_so = Relevance([0, 0], ["-1", "7"])
    assert evaluate_search([[-1, 7]], named_so, ks=[1]).hit_rate_at_k[1].value == 0


def test_relevant_from_counts_higher_grades_only_but_ndcg_all():
    relevance = Relevance(["q", "q"], ["a", "b"], [1, 2])
    found = [["a", "c", "b"]]
    all_, high = (
        evaluate_search(found, relevance, queries=["q"], ks=[1, 3], relevant_from=least)
        for least in (None, 2)
    )
    assert (all_.hit_rate_at_k[1].value, high.hit_rate_at_k[1].value) == (1, 0)
    assert (all_.share_found_at_k[1].value, high.share_found_at_k[3].value) == (0.5, 1)
    assert high.mean_reciprocal_rank.value == pytest.approx(1 / 3)
    assert high.ndcg_at_k[3].value == all_.ndcg_at_k[3].value < 1
    with pytest.raises(ValueError, match="relevance must hold a relevant item for some query"):
        evaluate_search(found, relevance, queries=["q"], relevant_from=3)


def test_an_item_with_the_id_of_its_query_is_passed_over():
    relevance = Relevance(["a", "a", "b"], ["a", "b", "a"])
    found = [["a", "c", "b"], ["c", "b", "a"], ["a", "b", "c"]]
    result = evaluate_search(found, relevance, queries=["a", "b", "c"], ks=[2], skip_own=True)
    assert result.per_query["reciprocal_rank"].tolist() == [1 / 2, 1 / 2]
    assert result.per_query["share_found_at_2"].tolist() == [1, 1]
    kept = evaluate_search(found, relevance, queries=["a", "b", "c"], ks=[2])
    assert kept.per_query["reciprocal_rank"].tolist() == [1, 1 / 3]


Q = Relevance(["q"], ["a"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: evaluate_search([["a"]], {"q": "a"}),
            TypeError,
            "relevance must be a data.Relevance, got dict. Use data.Relevance(",
        ),
        (
            lambda: evaluate_search([["a"]], Q),
            ValueError,
            "for some query, got 1 queries such as '0' where the table has 'q'. Use the same ids",
        ),
        (
            lambda: evaluate_search([["a"]], Q, queries=["q", "r"]),
            ValueError,
            "queries must be one per row found, 1, got 2.",
        ),
        (
            lambda: evaluate_search([["a"], ["b"]], Q, queries=["q", "q"]),
            ValueError,
            "queries must be different ids, got 'q' several times.",
        ),
        (
            lambda: evaluate_search([["b", "a", "a"]], Q, queries=["q"]),
            ValueError,
            "found must hold an item once for each query, got one twice for 'q'.",
        ),
        (
            lambda: evaluate_search([["a"]], Q, queries=["q"], ks=[2]),
            ValueError,
            "ks must be at most 1, the ranks that were found, got 2. Look up more neighbors.",
        ),
        (
            lambda: evaluate_search([["a"]], Q, queries=["q"], ks=[]),
            ValueError,
            "ks must hold at least one rank, got none.",
        ),
        (
            lambda: evaluate_search([["a"]], Q, queries=["q"], ks=5),
            TypeError,
            "ks must be ranks, got 5.",
        ),
        (
            lambda: evaluate_search([[]], Q, queries=["q"]),
            ValueError,
            "found must hold an item for some query, got none.",
        ),
        (
            lambda: evaluate_search("abc", Q, queries=["q"]),
            TypeError,
            "found must be the neighbors of an index, or a row of ids for each query, got str.",
        ),
        (
            lambda: evaluate_search([[0.5]], Q, queries=["q"]),
            TypeError,
            "found must be text or whole numbers, got float.",
        ),
        (
            lambda: evaluate_search(np.array(["a"]), Q, queries=["q"]),
            ValueError,
            "found must be ids of shape (q, k), got shape (1,).",
        ),
        (
            lambda: evaluate_search([["a"]], Q, queries=["q"], gain="log"),
            ValueError,
            "gain must be one of exponential, linear, got 'log'.",
        ),
        (
            lambda: evaluate_search([["a"]], Q, queries=["q"], relevant_from=0),
            ValueError,
            "relevant_from must be a grade above 0, got 0.",
        ),
        (
            lambda: evaluate_search([["a"]], Q, queries=["q"], skip_own=True),
            ValueError,
            "found must hold at least 2 ranks with skip_own, got 1.",
        ),
    ],
)
def test_what_cannot_be_judged_is_named(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
