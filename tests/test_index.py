import copy
import subprocess
import sys

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.distances import (
    COSINE,
    EUCLIDEAN,
    INNER_PRODUCT,
    MANHATTAN,
    NAMED,
    SQUARED_EUCLIDEAN,
    Distance,
)
from likewise.errors import InputTypeError
from likewise.index import Gallery, Index
from likewise.index._searching import exact as _search
from likewise.index._snapshots import _run

CHEBYSHEV = Distance(
    "cosine",  # on purpose: only the functions may count, not the name
    lambda a, b: torch.cdist(a, b, p=torch.inf),
    lambda a, b: (a - b).abs().amax(dim=1),
)
DISTANCES = [*NAMED.values(), CHEBYSHEV]
NAMES = [*NAMED, "own"]
every_distance = pytest.mark.parametrize("distance", DISTANCES, ids=NAMES)


def full_sort(distance, queries, stored, k):
    """Every pair by the definition, one query at a time; equals in the order they are stored."""
    positions, distances = [], []
    for query in queries:
        row = distance.paired(query.expand(len(stored), -1).contiguous(), stored).tolist()
        order = sorted(range(len(row)), key=lambda position: (row[position], position))[:k]
        positions.append(order)
        distances.append([row[position] for position in order])
    return positions, distances


def assert_is_the_full_sort(distance, queries, stored, k):
    index = Index(distance)
    index.add(stored)
    found = index.lookup(queries, k=k)
    positions, distances = full_sort(distance, queries, stored, k)
    assert found.ids.tolist() == positions
    assert found.distances.tolist() == distances
    assert found.distances.dtype == torch.float32


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", autouse=True)
def proposed():
    """Few rows are searched as many are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_search, "AT_ONCE", 0)
        yield


@pytest.fixture(params=[1, 10**9], ids=["expanded", "direct"])
def road_of_faiss(request, monkeypatch):
    """FAISS expands |a - b|² into matrix products from so many queries on, which rounds more."""
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", request.param)


# Oracle


@every_distance
@pytest.mark.parametrize("d", [2, 7, 64])
@pytest.mark.usefixtures("road_of_faiss")
def test_lookup_is_a_full_sort(distance, d):
    assert_is_the_full_sort(distance, gaussian(30, d, seed=1), gaussian(500, d), k=10)


@every_distance
def test_lookup_is_a_full_sort_among_ties(distance):
    grid = torch.randint(-2, 3, (400, 3), generator=torch.Generator().manual_seed(0)).float()
    queries = grid[:25]
    _, distances = full_sort(distance, queries, grid, 60)
    tied_at_the_end = sum(row[-1] == row[-2] for row in distances)
    assert tied_at_the_end > 5, "without ties this would prove little"
    assert_is_the_full_sort(distance, queries, grid, k=59)


@every_distance
@pytest.mark.parametrize("k", [1, 5, 150])
def test_lookup_is_a_full_sort_when_copies_outnumber_the_candidates(distance, k):
    few = torch.nn.functional.normalize(gaussian(3, 16), dim=1)
    stored = few[torch.arange(600) % 3]
    assert k + _search.SPARE < 200, "more copies of each than candidates asked for first"
    assert_is_the_full_sort(distance, torch.cat([few, gaussian(2, 16, seed=1)]), stored, k)


@every_distance
@pytest.mark.parametrize(
    ("offset", "spread"), [(1, 1e-4), (1, 1e-3), (10, 3e-3), (10, 1e-2), (1000, 1)]
)
@pytest.mark.usefixtures("road_of_faiss")
def test_lookup_is_a_full_sort_where_rounding_is_as_large_as_the_distances(
    distance, offset, spread
):
    stored = offset + spread * gaussian(300, 16)
    assert_is_the_full_sort(distance, stored[::8].clone(), stored, k=5)


@pytest.mark.parametrize("distance", [EUCLIDEAN, INNER_PRODUCT], ids=lambda d: d.name)
@pytest.mark.usefixtures("road_of_faiss")
def test_rounding_of_long_rows_counts_when_short_ones_follow(distance, monkeypatch):
    monkeypatch.setattr(_search, "SPARE", 1)  # less to fall back on
    long, short = 10 + 1e-5 * gaussian(300, 16), 0.01 * gaussian(3, 16, seed=1)
    index = Index(distance)
    for rows in (long, short):
        index.add(rows)
        index.lookup(short, k=1)
    positions, _ = full_sort(distance, short, index.embeddings, k=10)
    assert index.lookup(short, k=10).ids.tolist() == positions


def test_rounding_of_faiss_alone_would_give_a_wrong_answer(monkeypatch):
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 1)
    stored = 10 + 1e-3 * gaussian(700, 16)
    queries = stored[::30].clone()
    _, by_faiss = faiss.knn(queries.numpy(), stored.numpy(), 5)
    assert by_faiss.tolist() != full_sort(EUCLIDEAN, queries, stored, 5)[0]


@every_distance
def test_zero_vectors_are_ranked_by_the_definition(distance):
    stored = gaussian(60, 4)
    stored[::7] = 0
    assert_is_the_full_sort(distance, torch.cat([torch.zeros(1, 4), stored[:5]]), stored, k=30)


@pytest.mark.parametrize("distance", [EUCLIDEAN, SQUARED_EUCLIDEAN, MANHATTAN, CHEBYSHEV])
def test_equal_vectors_are_exactly_zero_apart(distance):
    stored = torch.nn.functional.normalize(gaussian(300, 32), dim=1)
    index = Index(distance)
    index.add(stored)
    found = index.lookup(stored, k=2)
    assert found.ids[:, 0].tolist() == list(range(300))
    assert (found.distances[:, 0] == 0).all()
    assert (found.distances[:, 1] > 0).all()


@pytest.mark.parametrize("distance", [EUCLIDEAN, SQUARED_EUCLIDEAN, MANHATTAN, CHEBYSHEV])
@pytest.mark.usefixtures("road_of_faiss")
def test_lookup_is_a_full_sort_where_squares_overflow(distance):
    stored = torch.tensor([[3e19, 0.0], [2e19, 0.0], [1.0, 0.0]]).repeat(20, 1)
    assert_is_the_full_sort(distance, stored[:3].repeat(10, 1), stored, k=25)


def test_infinite_distances_come_last_in_the_order_of_insertion():
    def within_one(distances):
        return torch.where(distances <= 1, distances, torch.inf)

    limited = Distance(
        "limited",
        lambda a, b: within_one(EUCLIDEAN.matrix(a, b)),
        lambda a, b: within_one(EUCLIDEAN.paired(a, b)),
    )
    stored = gaussian(100, 3)
    assert_is_the_full_sort(limited, stored[:10].clone(), stored, k=60)


def test_each_distance_is_searched_in_its_own_way(monkeypatch):
    asked, knn, product = [], faiss.knn, _search.best_products
    monkeypatch.setattr(
        faiss, "knn", lambda *args, metric: asked.append(metric) or knn(*args, metric=metric)
    )
    monkeypatch.setattr(
        _search, "best_products", lambda *a, **k: asked.append("product") or product(*a, **k)
    )
    for distance in DISTANCES:
        index = Index(distance)
        index.add(gaussian(60, 4))
        index.lookup(gaussian(2, 4, seed=1), k=1)
        asked.append(distance)
    product, l1 = "product", faiss.METRIC_L1
    assert asked[:8] == [
        *(product, COSINE, product, EUCLIDEAN, product, SQUARED_EUCLIDEAN, l1, MANHATTAN),
    ]
    assert asked[8:] == [product, INNER_PRODUCT, NAMED["snr"], CHEBYSHEV]


@every_distance
def test_distances_are_those_of_the_matrix(distance):
    queries, stored = gaussian(6, 5, seed=1), gaussian(80, 5)
    index = Index(distance)
    index.add(stored)
    found = index.lookup(queries, k=80)
    expected = distance.matrix(queries, stored).sort(dim=1).values
    torch.testing.assert_close(found.distances, expected, rtol=1e-5, atol=1e-5)


# Properties


@every_distance
def test_chunk_size_is_irrelevant(distance, monkeypatch):
    queries, stored = gaussian(30, 6, seed=1), gaussian(200, 6).round(decimals=1)
    index = Index(distance)
    index.add(stored)
    at_once = index.lookup(queries, k=7)
    monkeypatch.setattr(_search, "BLOCK", 500)
    assert len(queries) * len(stored) > 500
    in_chunks = index.lookup(queries, k=7)
    assert (in_chunks.ids == at_once.ids).all()
    assert (in_chunks.distances == at_once.distances).all()


@every_distance
def test_adding_in_pieces_with_lookups_between_is_adding_at_once(distance):
    stored, queries = gaussian(300, 5), gaussian(9, 5, seed=1)
    stored[200] *= 50  # a late outlier, on which the bound of the rounding depends
    pieces, whole = Index(distance), Index(distance)
    whole.add(stored)
    for piece in stored.split([1, 2, 97, 150, 50]):
        pieces.add(piece)
        pieces.lookup(queries, k=1)
    assert (pieces.lookup(queries, k=40).ids == whole.lookup(queries, k=40).ids).all()
    assert (pieces.embeddings == whole.embeddings).all()


@every_distance
def test_what_was_removed_might_never_have_been_added(distance):
    stored, queries = gaussian(200, 5), gaussian(9, 5, seed=1)
    labels = torch.arange(200) % 7
    index, never = Index(distance), Index(distance)
    index.add(stored, labels=labels, ids=range(200))
    index.lookup(queries, k=3)
    assert index.remove(range(0, 200, 3)) == 67
    kept = torch.arange(200) % 3 != 0
    never.add(stored[kept], labels=labels[kept], ids=torch.arange(200)[kept])
    for one, other in [(index, never), (Index.from_state(distance, index.state()), never)]:
        found, expected = one.lookup(queries, k=50), other.lookup(queries, k=50)
        assert (found.ids == expected.ids).all()
        assert (found.distances == expected.distances).all()
        assert (found.labels == expected.labels).all()


numbers = st.integers(-3, 3).map(float)
vectors = st.lists(st.tuples(numbers, numbers), max_size=6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), vectors, st.randoms(use_true_random=False)),
        st.tuples(st.just("add with ids"), vectors, st.randoms(use_true_random=False)),
        st.tuples(st.just("remove"), st.just([]), st.randoms(use_true_random=False)),
        st.tuples(st.just("lookup"), vectors, st.randoms(use_true_random=False)),
        st.tuples(st.just("reload"), st.just([]), st.just(None)),
    ),
    max_size=12,
)


@given(steps=steps, distance=st.sampled_from([EUCLIDEAN, COSINE, NAMED["snr"]]))
@settings(max_examples=80)
def test_the_index_behaves_like_a_dict(steps, distance):
    index, model, ever = Index(distance), {}, -1  # model: id -> (vector, label, metadata)
    for verb, rows, random in steps:
        if verb in ("add", "add with ids"):
            ids = None
            if verb == "add with ids":
                free = [i for i in range(40) if i not in model]
                ids = random.sample(free, min(len(rows), len(free)))
                rows = rows[: len(ids)]
            labels = [random.randint(-1, 3) for _ in rows]
            metadata = [{"n": random.random()} for _ in rows]
            given_ids = index.add(
                torch.tensor(rows).reshape(-1, 2), labels=labels, ids=ids, metadata=metadata
            ).tolist()
            assert given_ids == (
                list(range(ever + 1, ever + 1 + len(rows))) if ids is None else ids
            )
            model |= zip(given_ids, zip(rows, labels, metadata, strict=True), strict=True)
            ever = max([ever, *given_ids])
        elif verb == "remove":
            gone = [i for i in model if random.random() < 0.4]
            random.shuffle(gone)
            assert index.remove(gone) == len(gone)
            for id_ in gone:
                del model[id_]
        elif verb == "reload":
            index = Index.from_state(distance, index.state())
        elif model:
            k = random.randint(1, len(model))
            queries = torch.tensor(rows).reshape(-1, 2)
            found = index.lookup(queries, k=k)
            stored = torch.tensor([vector for vector, _, _ in model.values()])
            positions, distances = full_sort(distance, queries, stored, k)
            expected = [[list(model)[p] for p in row] for row in positions]
            assert found.ids.tolist() == expected
            assert found.ids.shape == found.labels.shape == found.distances.shape == (len(rows), k)
            assert found.distances.tolist() == distances
            assert found.labels.tolist() == [[model[i][1] for i in row] for row in expected]
        assert len(index) == len(model)
        assert index.ids.tolist() == list(model)
        assert index.labels.tolist() == [label for _, label, _ in model.values()]
        assert index.metadata(list(model)) == [metadata for _, _, metadata in model.values()]
        assert [tuple(row) for row in index.embeddings.tolist()] == [
            v for v, _, _ in model.values()
        ]


# Ids, labels, metadata


def filled(**options):
    index = Index(EUCLIDEAN)
    index.add(torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]), **options)
    return index


def test_string_ids_come_back():
    index = filled(ids=["a", "bcd", "e"])
    assert index.lookup(torch.tensor([[3.0, 4.1]]), k=2).ids.tolist() == [["bcd", "e"]]
    assert index.add(torch.ones(1, 2), ids=["a much longer one"]).tolist() == ["a much longer one"]
    assert index.ids.tolist() == ["a", "bcd", "e", "a much longer one"]
    assert index.remove(["bcd", "a", "bcd"]) == 2
    assert index.ids.tolist() == ["e", "a much longer one"]


@pytest.mark.parametrize("make", [list, np.array, torch.tensor, tuple])
def test_integer_ids_and_labels_may_come_in_any_container(make):
    index = filled(ids=make([7, 3, 9]), labels=make([2, -1, 0]))
    assert index.ids.tolist() == [7, 3, 9]
    assert index.ids.dtype == np.int64
    assert index.labels.tolist() == [2, -1, 0]
    assert index.remove(make([3])) == 1


def test_new_ids_go_on_above_all_ever_used():
    index = filled(ids=[7, 3, 9])
    assert index.add(torch.ones(2, 2)).tolist() == [10, 11]
    index.remove([11])
    assert index.clear() == 4
    assert len(index) == 0
    assert index.dimension == 2
    index = Index.from_state(EUCLIDEAN, index.state())
    assert index.dimension == 2
    assert index.add(torch.ones(1, 2)).tolist() == [12]


def test_items_without_labels_are_unlabeled():
    assert filled().lookup(torch.zeros(1, 2), k=3).labels.tolist() == [[-1, -1, -1]]


def test_class_names_become_codes_in_the_order_they_are_seen():
    index = filled(labels=["dog", "cat", "dog"])
    index.add(torch.ones(2, 2), labels=np.array(["emu", "cat"]))
    index.add(torch.ones(2, 2), labels=[2, -1])
    assert index.labels.tolist() == [0, 1, 0, 2, 1, 2, -1]
    assert index.class_names == ["dog", "cat", "emu"]
    assert Index.from_state(EUCLIDEAN, index.state()).class_names == ["dog", "cat", "emu"]


def test_class_names_known_beforehand_keep_their_codes():
    index = Index(class_names=["ant", "bee", "cat"])
    index.add(torch.eye(3), labels=["cat", "dog", "ant"])
    assert index.labels.tolist() == [2, 3, 0]
    assert index.class_names == ["ant", "bee", "cat", "dog"]


def test_get_gives_back_what_was_added_in_the_order_asked_for():
    index = filled(labels=[4, 5, 6], ids=["a", "b", "c"], metadata=[{"n": n} for n in range(3)])
    items = index.get(["c", "a", "c"])
    assert items.ids.tolist() == ["c", "a", "c"]
    assert items.embeddings.tolist() == [[6, 8], [0, 0], [6, 8]]
    assert items.labels.tolist() == [6, 4, 6]
    assert items.metadata == [{"n": 2}, {"n": 0}, {"n": 2}]


def test_nothing_the_caller_keeps_reaches_into_the_index():
    embeddings, labels, metadata = torch.eye(2), torch.tensor([1, 2]), [{"tags": ["x"]}, {}]
    index = Index(EUCLIDEAN)
    index.add(embeddings, labels=labels, metadata=metadata)
    before = copy.deepcopy(index.state())
    embeddings += 1
    labels += 1
    metadata[0]["tags"].append("y")
    index.metadata([0])[0]["tags"].append("z")
    index.class_names.append("new")
    assert index.state()["metadata"] == before["metadata"] == [{"tags": ["x"]}, {}]
    assert (index.embeddings == before["embeddings"]).all()
    assert (index.labels == before["labels"]).all()
    assert index.class_names == []
    with pytest.raises(ValueError, match="read-only"):
        index.ids[0] = 5


def test_arrays_taken_earlier_stay_as_they_were():
    index = filled()
    embeddings, ids = index.embeddings, index.ids
    before = embeddings.clone()
    index.add(torch.ones(1, 2))
    index.remove([0])
    index.add(torch.full((5, 2), 9.0))
    assert (embeddings == before).all()
    assert ids.tolist() == [0, 1, 2]


def test_other_precisions_and_gradients_are_kept_as_plain_float32():
    index = Index(EUCLIDEAN)
    index.add(torch.ones(2, 3, dtype=torch.float64, requires_grad=True))
    index.add(torch.ones(2, 3, dtype=torch.bfloat16))
    assert index.embeddings.dtype == torch.float32
    assert not index.embeddings.requires_grad
    queries = torch.ones(1, 3, dtype=torch.float16, requires_grad=True)
    assert index.lookup(queries, k=1).distances.tolist() == [[0.0]]


def test_no_queries_give_no_rows():
    found = filled().lookup(torch.empty(0, 2), k=2)
    assert found.ids.shape == found.labels.shape == found.distances.shape == (0, 2)


def test_many_small_adds_copy_little():
    index = Index(EUCLIDEAN)
    moves, last = 0, 0
    for _ in range(1000):
        index.add(torch.ones(1, 4))
        moves += index.embeddings.data_ptr() != last
        last = index.embeddings.data_ptr()
    assert moves < 20


def test_importing_the_index_leaves_faiss_for_the_first_lookup():
    code = (
        "import sys, torch, likewise.index as i; from likewise.distances import MANHATTAN;"
        "index = i.Index(MANHATTAN); before = 'faiss' in sys.modules;"
        "index.add(torch.eye(3)); index.lookup(torch.rand(99, 3), k=1);"
        "index.add(torch.rand(999, 3)); index.lookup(torch.rand(99, 3), k=1);"
        "torch.rand(500, 500) @ torch.rand(500, 500); print(before, 'faiss' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["False", "True"]


# Edges

ROW = torch.ones(1, 2)
ROWS = torch.ones(2, 2)
NAN = torch.tensor([[1.0, torch.nan]])
REFUSED_ADDS = [
    (ValueError, r"embeddings must have shape \(n, d\)", {"embeddings": torch.ones(1, 1, 2)}),
    (TypeError, r"embeddings must be a tensor, an array", {"embeddings": "x"}),
    (TypeError, r"embeddings must be floating point", {"embeddings": ROW.long()}),
    (ValueError, r"embeddings must be finite, got 1 NaN", {"embeddings": NAN}),
    (ValueError, r"embeddings must be finite as float32", {"embeddings": ROW.double() * 1e300}),
    (ValueError, r"must have dimension 2, .* got 3", {"embeddings": torch.ones(1, 3)}),
    (ValueError, r"ids must hold one entry per item, 2, got 1", {"embeddings": ROWS, "ids": [9]}),
    (ValueError, r"ids must all differ, got 9 more", {"embeddings": ROWS, "ids": [9, 9]}),
    (ValueError, r"ids must be new, got 1 and 1 more al", {"embeddings": ROWS, "ids": [1, 2]}),
    (ValueError, r"ids must be new, got 0 already", {"embeddings": ROWS, "ids": [8, 0]}),
    (ValueError, r"ids must be between 0 and \d+, got -1", {"embeddings": ROW, "ids": [-1]}),
    (ValueError, r"ids must be between 0 and \d+, got 9\d+", {"embeddings": ROW, "ids": [2**63]}),
    (ValueError, r"ids must be non-empty .* got ''", {"embeddings": ROW, "ids": [""]}),
    (ValueError, r"ids must have one dim.* \(1, 1\)", {"embeddings": ROW, "ids": np.array([[9]])}),
    (TypeError, r"ids must be integers, as those in the", {"embeddings": ROW, "ids": ["x"]}),
    (TypeError, r"ids must be all .* int and str", {"embeddings": ROWS, "ids": [9, "x"]}),
    (TypeError, r"ids must be all .* got float", {"embeddings": ROW, "ids": [1.5]}),
    (TypeError, r"ids must be all .* got bool", {"embeddings": ROW, "ids": [True]}),
    (TypeError, r"ids must be a list, array or tensor", {"embeddings": ROW, "ids": "x"}),
    (TypeError, r"ids must be a list, array or tensor", {"embeddings": ROW, "ids": 9}),
    (ValueError, r"labels must hold one .* 2, got 3", {"embeddings": ROWS, "labels": [1, 2, 3]}),
    (ValueError, r"labels must be at least 0.* got -2", {"embeddings": ROW, "labels": [-2]}),
    (TypeError, r"labels must be integers, as those", {"embeddings": ROW, "labels": ["cat"]}),
    (TypeError, r"labels must be all .* float", {"embeddings": ROW, "labels": torch.ones(1)}),
    (TypeError, r"labels must be all .* int and str", {"embeddings": ROWS, "labels": [1, "x"]}),
    (ValueError, r"metadata must hold one .* 1, got 2", {"embeddings": ROW, "metadata": [{}, {}]}),
    (TypeError, r"metadata must be a list", {"embeddings": ROW, "metadata": {"a": 1}}),
    (TypeError, r"metadata must hold dicts", {"embeddings": ROW, "metadata": ["a"]}),
    (TypeError, r"metadata must hold dicts", {"embeddings": ROW, "metadata": [{1: "a"}]}),
    (TypeError, r"metadata must be what JSON", {"embeddings": ROW, "metadata": [{"a": {1}}]}),
    (TypeError, r"metadata must be what JSON", {"embeddings": ROW, "metadata": [{"a": np.nan}]}),
]


@pytest.mark.parametrize(("error", "message", "options"), REFUSED_ADDS)
def test_a_refused_add_says_why_and_adds_nothing(error, message, options):
    index = filled(labels=[0, 1, 2])
    before = copy.deepcopy(index.state())
    with pytest.raises(error, match=message):
        index.add(**options)
    for name, value in index.state().items():
        assert np.array_equal(value, before[name]), name
    assert index.add(ROW, labels=[0]).tolist() == [3]


def test_ids_must_be_given_where_they_are_strings():
    index = filled(ids=["a", "b", "c"])
    with pytest.raises(ValueError, match="ids must be given"):
        index.add(ROW)
    with pytest.raises(TypeError, match="ids must be strings, as those in the index are, got 4"):
        index.add(ROW, ids=[4])


def test_a_code_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"labels must be below 2, .* got 2\. Give names"):
        filled(labels=["a", "b", "a"]).add(ROW, labels=[2])
    with pytest.raises(ValueError, match="class_names must all differ"):
        Index(class_names=["a", "a"])


def test_adding_nothing_changes_nothing():
    index = Index()
    assert index.add(torch.empty(0, 3), labels=[], ids=[]).tolist() == []
    assert index.dimension is None
    assert index.embeddings.shape == (0, 0)
    assert index.ids.tolist() == []
    assert index.add(torch.ones(1, 2)).tolist() == [0]


@pytest.mark.parametrize("verb", ["remove", "get", "metadata"])
def test_unknown_ids_are_refused_and_nothing_is_removed(verb):
    index = filled()
    with pytest.raises(ValueError, match="ids must all be in the index, got unknown 5 and 1 more"):
        getattr(index, verb)([0, 5, 6])
    with pytest.raises(ValueError, match="got unknown 'x'"):
        getattr(index, verb)(["x"])
    assert len(index) == 3


REFUSED_LOOKUPS = [
    (ValueError, r"k must be at most 3, .* got 4\. Ask for fewer", {"queries": ROW, "k": 4}),
    (ValueError, r"k must be at least 1, got 0", {"queries": ROW, "k": 0}),
    (TypeError, r"k must be a whole number, got 1.0", {"queries": ROW, "k": 1.0}),
    (ValueError, r"queries must have dimension 2, .* got 1", {"queries": torch.ones(1, 1), "k": 1}),
    (ValueError, r"queries must be finite", {"queries": NAN, "k": 1}),
    (ValueError, r"queries must have shape \(n, d\)", {"queries": torch.ones(1, 1, 2), "k": 1}),
]


@pytest.mark.parametrize(("error", "message", "options"), REFUSED_LOOKUPS)
def test_a_refused_lookup_says_why(error, message, options):
    with pytest.raises(error, match=message):
        filled().lookup(**options)


def test_an_empty_index_has_no_neighbors():
    index = filled()
    index.clear()
    for empty in (Index(), index):
        with pytest.raises(ValueError, match=r"index must hold at least one item .* got 0"):
            empty.lookup(ROW, k=1)


def test_a_distance_that_gives_nan_is_refused():
    broken = Distance("broken", lambda a, b: a @ b.T * torch.nan, lambda a, b: a[:, 0] * torch.nan)
    index = Index(broken)
    index.add(torch.ones(40, 2))
    with pytest.raises(ValueError, match="got NaN from broken"):
        index.lookup(ROW, k=1)


def test_only_a_distance_is_a_distance():
    with pytest.raises(TypeError, match="distance must be a Distance, got 'cosine'"):
        Index("cosine")


def test_a_state_that_does_not_fit_together_is_refused():
    state = filled(labels=[0, 1, 2]).state()
    with pytest.raises(ValueError, match="got no labels"):
        Index.from_state(EUCLIDEAN, {name: state[name] for name in state if name != "labels"})
    with pytest.raises(ValueError, match="labels must hold one entry per item, 3, got 2"):
        Index.from_state(EUCLIDEAN, state | {"labels": [0, 1]})
    with pytest.raises(ValueError, match="next_id must be at least 3, got 2"):
        Index.from_state(EUCLIDEAN, state | {"next_id": 2})


def test_the_inner_product_of_the_index_favors_long_vectors():
    index = Index(INNER_PRODUCT)
    index.add(torch.tensor([[1.0, 0.0], [5.0, 5.0]]))
    assert index.lookup(torch.tensor([[1.0, 0.0]]), k=2).distances.tolist() == [[-5.0, -1.0]]


def test_an_index_says_what_it_holds():
    assert repr(filled()) == "Index(euclidean, 3 items, dimension 2)"


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_column_holds_what_the_metadata_has_under_a_key(in_folder, tmp_path):
    one = Gallery(tmp_path / "g") if in_folder else Index()
    given = [
        {"k": 1},
        {},
        {"k": [1, 2]},
        {"other": "\ud800", "k": "é"},
        {"k": 10**30},
        {"k": "\ud800"},
    ]
    one.add(torch.eye(6), metadata=given, labels=[0, 1, 2, 3, 4, 5])

    def check():
        values, labels = one.column("k")
        assert values == [each.get("k") for each in one.metadata(one.ids)]
        assert labels.tolist() == one.labels.tolist()

    check()
    one.remove([1, 2])
    one.upsert(torch.eye(6)[:2], ids=[0, 9], metadata=[{"k": "new"}, {"k": None}])
    one.relabel([9], [7])
    check()
    one.clear()
    check()


def test_classes_are_named_anew_only_while_there_is_no_item():
    index = Index(class_names=["x"])
    assert index.name_classes(["b", "a"])
    assert index.class_names == ["b", "a"]
    index.add(torch.eye(2), labels=["a", "b"])
    assert not index.name_classes(["c"])
    assert index.class_names == ["b", "a"]


@pytest.mark.parametrize("names", [[f"n{i}" for i in range(700)], [f"é{i}" for i in range(700)]])
def test_string_ids_are_found_however_many_came_one_by_one(names):
    index = Index(EUCLIDEAN)
    rows = torch.arange(700.0)[:, None]
    index.add(rows[:300], ids=names[:300])
    for row in range(300, 700):
        index.add(rows[row], ids=[names[row]])
    gone = names[::7]
    index.remove(gone)
    left = [name for name in names if name not in set(gone)]
    assert index.ids.tolist() == left
    assert index.get(left).ids.tolist() == left
    found = index.lookup(index.embeddings, k=1)
    assert found.ids[:, 0].tolist() == left
    with pytest.raises(ValueError, match="already in the index"):
        index.add(torch.zeros(1, 1), ids=[names[-1]])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40))
def test_of_equal_keys_a_run_knows_the_last(keys):
    last = {key: position for position, key in enumerate(keys)}
    known, positions = _run(np.array(keys), np.arange(len(keys)))
    assert known.tolist() == sorted(last)
    assert dict(zip(known.tolist(), positions.tolist(), strict=True)) == last


@pytest.mark.parametrize("kind", [Index, Gallery])
def test_within_the_room_made_beforehand_nothing_is_copied(kind, tmp_path):
    index = Index() if kind is Index else Gallery(tmp_path / "g")
    for count in (50, 100):  # before there is a dimension, and after
        index.reserve(count)
        index.add(torch.ones(1, 4))
        first = index.embeddings.data_ptr()
        while len(index) < count:
            index.add(torch.ones(7, 4)[: count - len(index)])
        assert index.embeddings.data_ptr() == first
    index.add(torch.ones(1, 4))
    assert index.embeddings.data_ptr() != first
    index.close()


@pytest.mark.parametrize("count", [10**15, 2**70])
def test_room_that_there_is_not_is_told(count):
    index = Index()
    index.add(torch.ones(2, 3))
    with pytest.raises(MemoryError):
        index.reserve(count)
    assert index.add(torch.ones(1, 3)).tolist() == [2]


def test_memory_of_rows_begins_where_products_are_fast():
    index = Index()
    for count in (1, 70, 700):
        index.add(torch.ones(count, 3))
        assert index.embeddings.data_ptr() % 64 == 0


@pytest.mark.parametrize("names", [None, 5, "abc", [1, 2], ["a", None]])
def test_class_names_are_a_list_of_strings(names):
    index = Index(class_names=["a"])
    for give in (
        lambda: Index(class_names=names),
        lambda: index.name_classes(names),
        lambda: index.replace(torch.ones(1, 2), class_names=names),
        lambda: Index.from_state(COSINE, {**index.state(), "class_names": names}),
    ):
        with pytest.raises(InputTypeError, match="class_names must be a list of strings, got"):
            give()
    assert index.class_names == ["a"]


def test_a_state_is_checked_as_what_is_added():
    index = Index()
    index.add(torch.eye(2))
    state = index.state()
    assert (
        Index.from_state(COSINE, {**state, "embeddings": [[1.0, 0.0], [0.0, 1.0]]}).dimension == 2
    )
    with pytest.raises(InputTypeError, match="embeddings must be"):
        Index.from_state(COSINE, {**state, "embeddings": None})
    with pytest.raises(InputTypeError, match="key must be text, got 5"):
        index.column(5)


def test_an_emptied_index_keeps_its_dimension_through_its_state():
    index = Index(EUCLIDEAN)
    index.remove(index.add(torch.ones(2, 3)))
    again = Index.from_state(EUCLIDEAN, index.state())
    assert again.dimension == index.dimension == 3
    with pytest.raises(ValueError, match="must have dimension 3"):
        again.add(torch.ones(1, 4))
