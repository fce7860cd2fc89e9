"""What may be given to every home: number types, ids and labels of any kind."""

import uuid

import numpy as np
import pytest
import torch

from likewise._checks import as_embeddings
from likewise.distances import EUCLIDEAN
from likewise.errors import InputError, InputTypeError
from likewise.index import Gallery, Index

ROWS = [[0.5, -1.0], [2.0, 0.25], [3.5, 8.0]]  # every type holds these exactly


@pytest.fixture(params=["index", "gallery"])
def one(request, tmp_path):
    if request.param == "index":
        yield Index(EUCLIDEAN)
        return
    with Gallery(tmp_path / "g", distance=EUCLIDEAN) as gallery:
        yield gallery


def mapped(folder):
    np.save(folder / "rows.npy", np.array(ROWS, dtype=np.float32))
    return np.load(folder / "rows.npy", mmap_mode="r")


def frozen(array):
    array.flags.writeable = False
    return array


KINDS = {
    "lists": lambda folder: ROWS,
    "tuples": lambda folder: tuple(tuple(row) for row in ROWS),
    "rows as arrays": lambda folder: [np.array(row) for row in ROWS],
    "rows as tensors": lambda folder: [torch.tensor(row) for row in ROWS],
    "lists of NumPy numbers": lambda folder: [[np.float32(n) for n in row] for row in ROWS],
    "float32": lambda folder: np.array(ROWS, dtype=np.float32),
    "float64": lambda folder: np.array(ROWS),
    "float16": lambda folder: np.array(ROWS, dtype=np.float16),
    "long double": lambda folder: np.array(ROWS, dtype=np.longdouble),
    "other byte order": lambda folder: np.array(ROWS, dtype=">f4"),
    "memory-mapped": mapped,
    "read-only": lambda folder: frozen(np.array(ROWS, dtype=np.float32)),
    "columns first": lambda folder: np.asfortranarray(np.array(ROWS)),
    "backwards": lambda folder: np.array(ROWS[::-1])[::-1],
    "every other": lambda folder: np.repeat(np.array(ROWS), 2, axis=0)[::2],
    "half": lambda folder: torch.tensor(ROWS).half(),
    "bfloat16": lambda folder: torch.tensor(ROWS).bfloat16(),
    "double with gradient": lambda folder: torch.tensor(ROWS).double().requires_grad_(),
    "transposed": lambda folder: torch.tensor(ROWS).T.contiguous().T,
}


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_of_every_kind_are_the_same_rows(one, tmp_path, kind):
    rows = KINDS[kind](tmp_path)
    one.add(rows)
    one.upsert(rows, ids=[2, 0, 7])
    assert one.embeddings.tolist() == [ROWS[1], *ROWS]
    found = one.lookup(rows, k=1)
    assert found.distances.tolist() == [[0.0]] * 3
    assert found.ids.tolist() == [[2], [1], [7]]
    one.add(np.zeros((1, 2)))
    assert one.embeddings[:4].tolist() == [ROWS[1], *ROWS], "nothing is shared with the caller"


@pytest.mark.parametrize(
    "row", [[1, 2], (1.0, 2.0), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])], ids=str
)
def test_a_single_vector_is_one_item_and_one_query(one, row):
    assert one.add(row).tolist() == [0]
    assert one.upsert(row, ids=[0]).tolist() == [0]
    found = one.lookup(row, k=1)
    assert found.ids.tolist() == [[0]]
    assert found.distances.tolist() == [[0.0]]


REFUSED = [
    (InputTypeError, r"must be floating point, got torch.int64", torch.ones(1, 2).long()),
    (InputTypeError, r"must be floating point, got uint8", np.ones((1, 2), dtype=np.uint8)),
    (InputTypeError, r"must be floating point, got bool", np.ones((1, 2), dtype=bool)),
    (InputTypeError, r"must be floating point, got object", np.array([[1, "x"]], dtype=object)),
    (InputTypeError, r"must be floating point, got complex", np.ones((1, 2), dtype=complex)),
    (InputTypeError, r"must hold numbers, got bool", [[True, False]]),
    (InputTypeError, r"must hold numbers, got str", [["1", "2"]]),
    (InputTypeError, r"must hold numbers, got NoneType", [None, 1.0]),
    (InputTypeError, r"must hold numbers, got list", [[[1.0, 2.0]]]),
    (InputTypeError, r"must be a tensor, an array or lists of numbers, got set", {1.0}),
    (InputTypeError, r"must be a tensor, an array or lists of numbers, got str", "12"),
    (InputTypeError, r"must be dense, got torch.sparse_coo", torch.ones(1, 2).to_sparse()),
    (InputError, r"must have rows of one length, got 1 and 2", [[1.0], [1.0, 2.0]]),
    (InputError, r"must have rows of one length, got 1 and 2", [np.ones(1), np.ones(2)]),
    (InputError, r"must have shape \(n, d\)", []),
    (InputError, r"must have shape \(n, d\)", [[]]),
    (InputError, r"must have shape \(n, d\)", torch.ones(1, 1, 2)),
    (InputError, r"must have shape \(n, d\)", torch.tensor(1.0)),
    (InputError, r"must be finite, got 1 NaN", [[float("nan"), 1.0]]),
    (InputError, r"must be finite, got 1 NaN", np.array([[np.inf, 1.0]])),
    (InputError, r"must be finite as float32, got 1e\+300", [[1e300, 1.0]]),
    (InputError, r"must be finite, got an integer beyond", [[10**400, 1]]),
]


@pytest.mark.parametrize(("error", "message", "rows"), REFUSED)
@pytest.mark.parametrize("name", ["embeddings", "queries"])
def test_what_is_no_embedding_is_refused_in_one_sentence(one, name, error, message, rows):
    one.add(torch.zeros(1, 2))
    use = one.add if name == "embeddings" else one.lookup
    with pytest.raises(error, match=f"^{name} {message}"):
        use(rows, **({"k": 1} if name == "queries" else {}))
    assert len(one) == 1


def test_a_tensor_that_is_right_is_taken_as_it_is():
    rows = torch.ones(3, 2)
    assert as_embeddings(rows) is rows
    array = np.ones((3, 2), dtype=np.float32)
    assert np.shares_memory(as_embeddings(array).numpy(), array)


BIG = uuid.UUID(int=2**127 + 5).int
IDS = [
    (InputError, r"ids must be between 0 and \d+, got 1701.*Use strings .* str\(uuid\)", [BIG]),
    (InputError, r"ids must be between .* got a number of 3322 bits", [10**1000]),
    (InputError, r"ids must be between .* got -", [-BIG]),
    (
        InputError,
        r"ids must be between .* got 18446744073709551615",
        np.array([2**64 - 1], np.uint64),
    ),
    (InputTypeError, r"ids must be all integers or all strings, got float", [float("nan")]),
    (InputTypeError, r"ids must be all .* got float", np.array([1.0])),
    (InputTypeError, r"ids must be all .* got bool", [True]),
    (InputTypeError, r"ids must be all .* got bool", np.array([True])),
    (InputTypeError, r"ids must be all .* got bytes", [b"x"]),
    (InputTypeError, r"ids must be all .* got NoneType", [None]),
    (InputTypeError, r"ids must be all .* got UUID", [uuid.UUID(int=5)]),
    (InputTypeError, r"ids must be a list, array or tensor", {5}),
    (InputTypeError, r"ids must be a list, array or tensor", 5),
    (InputError, r"text must be valid Unicode", ["\ud800"]),
]


@pytest.mark.parametrize(("error", "message", "ids"), IDS)
def test_ids_that_no_home_can_keep_are_refused_in_one_sentence(one, error, message, ids):
    for verb in (one.add, one.upsert):
        with pytest.raises(error, match=message):
            verb(torch.zeros(1, 2), ids=ids)
    assert len(one) == 0
    assert one.add(torch.zeros(1, 2), ids=[str(BIG)]).tolist() == [str(BIG)]


LABELS = [
    (InputError, r"labels must be at most \d+, got 1701", [BIG]),
    (InputError, r"labels must be at most .* got a number of 3322 bits", [10**1000]),
    (InputError, r"labels must be at least 0.* got a number of 3322 bits", [-(10**1000)]),
    (
        InputError,
        r"labels must be at most .* got 18446744073709551615",
        np.array([2**64 - 1], np.uint64),
    ),
    (InputTypeError, r"labels must be all .* got float", [float("nan")]),
    (InputTypeError, r"labels must be all .* got bool", [True]),
    (InputTypeError, r"labels must be all .* got bool", torch.tensor([True])),
    (InputTypeError, r"labels must be all .* got NoneType", [None]),
]


@pytest.mark.parametrize(("error", "message", "labels"), LABELS)
def test_labels_that_no_home_can_keep_are_refused_in_one_sentence(one, error, message, labels):
    one.add(torch.zeros(1, 2), ids=[3], labels=[2**63 - 1])
    for verb in (
        lambda: one.add(torch.zeros(1, 2), labels=labels),
        lambda: one.upsert(torch.zeros(1, 2), ids=[3], labels=labels),
        lambda: one.relabel([3], labels),
    ):
        with pytest.raises(error, match=message):
            verb()
    assert one.labels.tolist() == [2**63 - 1]


def test_a_code_of_zero_is_a_code_too(one):
    one.add(torch.zeros(2, 2), labels=[0, -1])
    for verb in (
        lambda: one.add(torch.zeros(1, 2), labels=["cat"]),
        lambda: one.upsert(torch.zeros(1, 2), ids=[1], labels=["cat"]),
        lambda: one.relabel([1], ["cat"]),
    ):
        with pytest.raises(InputTypeError, match="labels must be integers, as those in the index"):
            verb()
    one.relabel([0], [-1])
    assert one.add(torch.zeros(1, 2), labels=["cat"]).tolist() == [2]  # now no item has a code
    assert one.class_names == ["cat"]


@pytest.mark.parametrize(
    "ids",
    [
        np.array(["x", "yé"]),
        np.array(["x", "yé"], dtype=object),
        [np.str_("x"), np.str_("yé")],
        ("x", "yé"),
    ],
    ids=["array", "objects", "NumPy strings", "tuple"],
)
def test_string_ids_of_every_kind_are_the_same(one, ids):
    assert one.add(torch.zeros(2, 2), ids=ids).tolist() == ["x", "yé"]
    assert one.get(ids).ids.tolist() == ["x", "yé"]


@pytest.mark.parametrize(
    "ids",
    [np.array([4, 7], np.uint8), [np.int32(4), 7], torch.tensor([4, 7], dtype=torch.int32)],
    ids=["uint8", "mixed", "int32"],
)
def test_integer_ids_and_labels_of_every_kind_are_the_same(one, ids):
    assert one.add(torch.zeros(2, 2), ids=ids, labels=ids).tolist() == [4, 7]
    assert one.labels.tolist() == [4, 7]


def test_no_id_comes_after_the_largest(one):
    one.add(torch.zeros(1, 2), ids=[2**63 - 1])
    with pytest.raises(InputError, match="ids must be given where those above"):
        one.add(torch.zeros(1, 2))
    assert one.add(torch.zeros(1, 2), ids=[4]).tolist() == [4]


def test_none_among_class_names_is_an_unlabeled_item(one):
    one.remove(one.ids)
    one.add(torch.zeros(3, 2), ids=[5, 6, 7], labels=["a", None, "b"])
    assert [one.get([i]).labels.tolist() for i in (5, 6, 7)] == [[0], [-1], [1]]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(2**128 - 1, str(2**128 - 1)), (2**128, "a number of 129 bits")],
)
def test_a_number_too_long_to_read_is_told_by_its_length(value, shown):
    for name in ("ids", "labels"):
        with pytest.raises(InputError, match=f"{name} must be .* got {shown}\\."):
            Index(EUCLIDEAN).add(torch.ones(1, 2), **{name: [value]})
