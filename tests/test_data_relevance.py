"""Tables of relevance: columns, files, labels in common."""

import re

import numpy as np
import pytest
import torch

from likewise.data import Relevance, load_relevance, relevance_of_labels

ROWS = [("q1", "a", 2.0), ("q1", "b", 0.0), ("q2", "a", 1.0), ("q2", "c", -1.0)]


def asked(relevance, queries=("q1", "q2"), items=("a", "b", "c")):
    found = np.array([items] * len(queries))
    return relevance.grades_of(queries, found).tolist()


def test_grades_are_found_by_ids_and_what_has_no_row_is_not_relevant():
    relevance = Relevance(*zip(*ROWS, strict=True))
    assert asked(relevance) == [[2, 0, 0], [1, 0, 0]]
    assert asked(relevance, ["nobody"], ["a", "z"]) == [[0, 0]]
    assert len(relevance) == 2
    assert relevance.best(["q1", "nobody"], 3).tolist() == [[2, 0, 0], [0, 0, 0]]
    assert relevance.total(["q1", "q2"], 2).tolist() == [1, 0]
    assert (relevance.queries, relevance.items) == (["q1", "q2"], ["a", "b", "c"])
    only_zero = Relevance(["q"], ["a"], [0])
    assert asked(only_zero, ["q"]) == [[0, 0, 0]]


def test_a_pair_may_come_again_with_the_same_grade_only():
    again = Relevance(["q", "q", "q"], ["a", "b", "a"], [2, 1, 2])
    assert again.best(["q"], 3).tolist() == [[2, 1, 0]]
    with pytest.raises(ValueError, match=r"grades must be one per pair, got 2 and 3 for query 'q'"):
        Relevance(["q", "q"], ["a", "a"], [2, 3])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "item,query,grade,note\na,q1,2,x\nb,q1,0,\na,q2,1,\nc,q2,-1,\n"),
        ("a.tsv", "query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t0\nq2\ta\t1\nq2\tc\t-1\n"),
        ("a.qrels", "q1 0 a 2\nq1\t0\tb\t0\n\nq2 0 a 1\nq2 0 c -1\n"),
        ("qrels.txt", "q1 Q0 a 2\r\nq1 Q0 b 0\r\nq2 Q0 a 1\r\nq2 Q0 c -1\r\n"),
        (
            "a.jsonl",
            '{"query": "q1", "item": "a", "relevance": 2}\n'
            '{"query": "q1", "item": "b", "relevance": 0}\n'
            '{"query": "q2", "item": "a", "relevance": 1.0}\n'
            '{"query": "q2", "item": "c", "relevance": -1}\n',
        ),
    ],
)
def test_files_of_every_kind_hold_the_same(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    relevance = load_relevance(tmp_path / name)
    assert asked(relevance) == [[2, 0, 0], [1, 0, 0]]
    assert relevance.items == ["a", "b", "c"]


def test_without_a_column_of_grades_all_are_relevant(tmp_path):
    (tmp_path / "a.csv").write_text("query,item\n1,10\n1,12\n2,10\n")
    assert asked(load_relevance(tmp_path / "a.csv"), ["1"], [10, 11, 12]) == [[1, 0, 1]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "q,item\n1,2\n", "must have the columns query, item and perhaps grade, got q"),
        ("a.csv", "query,item,grade\n", "must have a row after its header, got none."),
        ("a.csv", "query,item,grade\nq,a,high\n", "must have a grade of at least 0, or -1"),
        ("a.csv", "query,item,grade\nq,a,nan\n", "or -1 for a pair that nobody judged, got 'nan'"),
        ("a.csv", "query,item,grade\nq,,1\n", "must have a text or a whole number as item"),
        ("a.csv", "query,item,grade\nq,a,1\nq,a,2\n", "a.csv': grades must be one per pair"),
        ("a.jsonl", '{"query": null, "item": "a"}\n', "must have a query, got none."),
        ("a.txt", "q1 a 2\n", "must hold a query, a number, an item and a grade, got 'q1 a 2'."),
        ("a.txt", "q1 0 a -2\n", "line 1 of"),
        ("a.txt", "\n", "must hold a line, got none."),
        ("a.txt", b"\xff\xfe\x00", "must be a table in UTF-8 text"),
    ],
)
def test_files_that_hold_something_else_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=re.escape(message)):
        load_relevance(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="path must exist, got"):
        load_relevance(tmp_path / "a.csv")


def test_labels_in_common_agree_with_loops_as_sets_and_as_columns():
    rng = np.random.default_rng(0)
    tables = [rng.random((size, 7)) < 0.3 for size in (5, 9)]
    sets = [[{f"t{c}" for c in np.flatnonzero(row)} for row in table] for table in tables]
    assert any(not one for one in sets[1]), "no item without a label"
    for given in (sets, [torch.tensor(table) for table in tables], tables):
        for graded in (False, True):
            made = relevance_of_labels(*given, graded=graded)
            expected = [
                [len(a & b) if graded else int(bool(a & b)) for b in sets[1]] for a in sets[0]
            ]
            queries = [str(row) for row in range(5)]
            assert asked(made, queries, range(9)) == expected
    assert max(map(max, expected)) > 1
    named = relevance_of_labels(*sets, queries=list("abcde"), items=range(10, 19))
    assert asked(named, ["a"], [10, 11])[0] == [min(1, grade) for grade in expected[0][:2]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Relevance([], []), ValueError, "must have the same length, at least 1, got 0, 0"),
        (lambda: Relevance(["q"], ["a", "b"]), ValueError, "same length, at least 1, got 1, 2"),
        (lambda: Relevance("q", ["a"]), TypeError, "queries must be a list of ids, got str."),
        (lambda: Relevance([0.5], ["a"]), TypeError, "queries must be text or whole numbers, got"),
        (lambda: Relevance([True], ["a"]), TypeError, "queries must be text or whole numbers, got"),
        (lambda: Relevance(["q"], ["a"], ["x"]), TypeError, "grades must be numbers, got"),
        (lambda: Relevance(["q"], ["a"], [-2]), ValueError, "or -1 for pairs that nobody judged"),
        (lambda: Relevance(["q"], ["a"], [float("inf")]), ValueError, "grades must be finite"),
        (lambda: relevance_of_labels("ab", ["a"]), TypeError, "must be a list of sets of labels"),
        (lambda: relevance_of_labels(["ab"], [["a"]]), TypeError, "Put one label into a list"),
        (lambda: relevance_of_labels([["b"]], [["a"]]), ValueError, "hold a label of some query"),
        (
            lambda: relevance_of_labels(torch.eye(2), torch.eye(3)),
            ValueError,
            "item_labels must have a column for each of the 2 labels of query_labels, got 3.",
        ),
        (lambda: relevance_of_labels(torch.eye(2), [[0]]), TypeError, "of the kind of query_label"),
        (
            lambda: relevance_of_labels(torch.eye(2) * 2, torch.eye(2)),
            ValueError,
            "query_labels must be 0 or 1 for each item and label, (n, c), got",
        ),
        (
            lambda: relevance_of_labels([["a"]], [["a"], ["b"]], items=["x", "x"]),
            ValueError,
            "items must be 2 different ids, got 2, 1 of them different.",
        ),
    ],
)
def test_what_is_no_relevance_is_named(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
