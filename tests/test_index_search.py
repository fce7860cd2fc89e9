"""Approximate search, filters, storage and the life cycle of the index in memory."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT, MANHATTAN, NAMED
from likewise.index import Index
from likewise.index._searching import approximate as _approximate
from likewise.index._searching import exact as _exact
from likewise.index._searching import inside as _inside
from likewise.index._searching.approximate import Search
from likewise.index._searching.exact import ExactSearch, checked_paired
from likewise.index._searching.scan import best_products
from likewise.index._searching.storage import pack, unpack
from likewise.index.changes import changed_decisions

every_distance = pytest.mark.parametrize("distance", NAMED.values(), ids=NAMED)
by_product = pytest.mark.parametrize("distance", [COSINE, EUCLIDEAN], ids=lambda d: d.name)
by_any_product = pytest.mark.parametrize(
    "distance", [COSINE, EUCLIDEAN, INNER_PRODUCT], ids=lambda d: d.name
)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clustered(count, seed):
    centers = gaussian(40, 16)
    rng = torch.Generator().manual_seed(seed)
    return centers[torch.randint(0, 40, (count,), generator=rng)] + 0.4 * torch.randn(
        count, 16, generator=rng
    )


@pytest.fixture
def small(monkeypatch):
    """Lists from 2,000 rows on."""
    monkeypatch.setattr(_approximate, "EXACT_UP_TO", 2000)
    monkeypatch.setattr(_approximate, "SAMPLE", 100)


def trained(distance, stored, recall=0.95, kind="IVF"):
    search = Search(distance, recall=recall, approximate=kind)
    search.nearest(stored[:1].clone(), stored, 1)
    search.wait()
    search.nearest(stored[:1].clone(), stored, 1)
    return search


def share_found(search, queries, stored, k=10, allowed=None):
    truth, _ = ExactSearch(search._distance).nearest(queries, stored, k, allowed)
    found, _ = search.nearest(queries, stored, k, allowed)
    return float((found <= truth[:, -1:]).float().mean())


@pytest.fixture(scope="module", autouse=True)
def proposed():
    """Few rows are searched as many are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_exact, "AT_ONCE", 0)
        yield


@every_distance
@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_few_pairs_are_all_ranked_with_the_answers_of_a_search(distance, storage, monkeypatch):
    stored = pack(gaussian(200, 6).round(decimals=1), storage)
    queries, allowed = gaussian(5, 6, seed=1).round(decimals=1), torch.arange(200) % 2 == 0
    monkeypatch.setattr(_exact, "AT_ONCE", 5 * 6 * 200 - 1)
    searched = [ExactSearch(distance).nearest(queries, stored, 9, may) for may in (None, allowed)]
    monkeypatch.setattr(_exact, "AT_ONCE", 5 * 6 * 200)
    calls = []
    propose = _exact._Part._propose
    monkeypatch.setattr(
        _exact._Part,
        "_propose",
        lambda part, asked, count, may: calls.append(may) or propose(part, asked, count, may),
    )
    ranked = [ExactSearch(distance).nearest(queries, stored, 9, may) for may in (None, allowed)]
    for (distances, positions), (expected, places) in zip(ranked, searched, strict=True):
        assert (distances == expected).all()
        assert (positions == places).all()
    assert all(may is not None for may in calls), "only among some"


# The best of a product


@given(
    seed=st.integers(0, 2**16),
    queries=st.integers(1, 6),
    rows=st.integers(1, 70),
    tile=st.integers(1, 90),
    count=st.integers(1, 70),
)
@settings(max_examples=80)
def test_tiles_have_the_best_of_the_whole_product(seed, queries, rows, tile, count):
    count = min(count, rows)
    a = gaussian(queries, 3, seed=seed).round()
    b, offsets = gaussian(rows, 3, seed=seed + 1).round(), gaussian(rows, seed=seed + 2).round()
    expected = (a @ b.T * 2 + offsets).topk(count, dim=1).values
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("likewise.index._searching.scan.TILE", tile)
        values, at = best_products(a, b, count, offsets=offsets, scales=torch.full((rows,), 2.0))
    assert (values.sort(dim=1, descending=True).values == expected).all()
    assert (values == (a @ b.T * 2 + offsets).gather(1, at)).all()
    assert all(len(set(row)) == count for row in at.tolist())


def test_values_that_grow_along_a_row_have_the_best_of_every_tile(monkeypatch):
    # Each tile of 12 columns is better than all before it, and more than the room for 3.
    monkeypatch.setattr("likewise.index._searching.scan.TILE", 12)
    rows = torch.arange(60.0)[:, None]
    values, at = best_products(torch.ones(1, 1), rows, 3)
    assert sorted(at[0].tolist()) == [57, 58, 59]
    assert sorted(values[0].tolist()) == [57, 58, 59]
    # While one row grows, the other shrinks, and has its best in the first tile.
    monkeypatch.setattr("likewise.index._searching.scan.TILE", 24)
    values, at = best_products(torch.tensor([[1.0], [-1.0]]), rows, 3)
    assert [sorted(row) for row in at.tolist()] == [[57, 58, 59], [0, 1, 2]]
    assert [sorted(row) for row in values.tolist()] == [[57, 58, 59], [-2, -1, 0]]


# Exact


@every_distance
@pytest.mark.parametrize("share", [0.002, 0.1, 0.6, 1.0])
def test_only_allowed_rows_are_found_and_the_rest_is_padding(distance, share):
    stored, queries = gaussian(900, 6), gaussian(7, 6, seed=1)
    allowed = torch.rand(900, generator=torch.Generator().manual_seed(2)) < share
    some = allowed.nonzero().squeeze(1)
    k = 9
    distances, at = ExactSearch(distance).nearest(queries, stored, k, allowed)
    expected, order = ExactSearch(distance).nearest(queries, stored[some], k)
    found = min(k, len(some))
    assert (distances == expected).all()
    assert (at[:, :found] == some[order[:, :found]]).all()
    assert (at[:, found:] == -1).all()
    assert distances[:, found:].isinf().all()


@every_distance
def test_nothing_allowed_gives_padding_only(distance):
    none = torch.zeros(50, dtype=torch.bool)
    distances, at = ExactSearch(distance).nearest(gaussian(2, 4), gaussian(50, 4), 3, none)
    assert distances.isinf().all()
    assert (at == -1).all()


@pytest.mark.parametrize("precision", ["high", "medium"])
@by_any_product
def test_products_of_lower_precision_do_not_change_the_answer(distance, precision):
    stored, queries = gaussian(3000, 32), gaussian(20, 32, seed=1)
    expected = ExactSearch(distance).nearest(queries, stored, 5)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cpu"):
            found = ExactSearch(distance).nearest(queries, stored, 5)
    finally:
        torch.set_float32_matmul_precision(before)
    assert (found[0] == expected[0]).all()
    assert (found[1] == expected[1]).all()


def cut(rows, bits):
    """float32 rows as a product reads them that keeps `bits` digits after the first."""
    dropped = 23 - bits
    return ((rows.view(torch.int32) + 2 ** (dropped - 1)) >> dropped << dropped).view(torch.float32)


# bfloat16 and TF32
@pytest.mark.parametrize(("precision", "bits", "gap"), [("medium", 7, 5e-4), ("high", 10, 6e-5)])
@by_any_product
def test_what_a_product_of_lower_precision_mixes_up_is_set_right(
    distance, precision, bits, gap, monkeypatch
):
    # Not every processor computes so, hence by hand.
    # On a circle, 20 rows beside each query, farther by more than float32 mixes up.
    angles = torch.linspace(0, 2 * torch.pi, 41)[:40, None]
    beside = (1 - gap * torch.arange(1, 21, dtype=torch.float64)).acos().float()
    queries, stored = (
        torch.cat([part.cos(), part.sin()], dim=1)
        for part in (angles, (angles + beside).view(-1, 1))
    )
    expected = ExactSearch(distance).nearest(queries, stored, 5)
    monkeypatch.setattr(
        "likewise.index._searching.exact.best_products",
        lambda a, b, *rest, **named: best_products(cut(a, bits), cut(b, bits), *rest, **named),
    )
    monkeypatch.setattr("likewise.index._searching.exact.SPARE", 1)
    before = torch.get_float32_matmul_precision()
    try:
        found = ExactSearch(distance).nearest(queries, stored, 5)
        assert not (found[1] == expected[1]).all(), "rounded too little to prove anything"
        torch.set_float32_matmul_precision(precision)
        found = ExactSearch(distance).nearest(queries, stored, 5)
    finally:
        torch.set_float32_matmul_precision(before)
    assert (found[0] == expected[0]).all()
    assert (found[1] == expected[1]).all()


@pytest.mark.parametrize("k", [1, 40])
def test_among_equal_rows_few_are_ranked(k, monkeypatch):
    ranked = []

    def counted(distance, a, b):
        ranked.append(len(a))
        return checked_paired(distance, a, b)

    monkeypatch.setattr("likewise.index._searching.exact.checked_paired", counted)
    queries, stored = torch.ones(3, 64), torch.ones(50_000, 64)
    distances, at = ExactSearch(EUCLIDEAN).nearest(queries, stored, k)
    assert (distances == 0).all()
    assert (at == torch.arange(k)).all()
    assert sum(ranked) < 3 * 10_000


# Approximate


@pytest.mark.usefixtures("small")
@by_any_product
def test_lists_reach_the_recall_asked_for_with_distances_of_the_definition(distance):
    stored, queries = clustered(5000, 1), clustered(200, 2)
    search = trained(distance, stored)
    assert search.kind.startswith("IVF")
    assert search.measured_recall >= 0.95
    assert search.trained == 5000
    assert share_found(search, queries, stored) >= 0.93
    distances, at = search.nearest(queries, stored, 4)
    expected = distance.paired(queries.repeat_interleave(4, 0), stored[at.flatten()])
    assert (distances.flatten() == expected).all()


@pytest.mark.usefixtures("small")
def test_fewer_lists_than_needed_would_miss_some():
    stored, queries = clustered(5000, 1), clustered(200, 2)
    search = trained(EUCLIDEAN, stored, recall=0.98)
    assert search._lists.effort > 1
    search._lists.effort = 1
    assert share_found(search, queries, stored) < 0.9


def test_centers_are_those_of_five_rounds_of_k_means():
    rows, count = gaussian(300, 3).numpy(), 8
    centers = rows[:count].copy()
    for _ in range(5):
        nearest = ((rows[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
        centers = np.stack([rows[nearest == each].mean(axis=0) for each in range(count)])
    found = _inside._centers(torch.from_numpy(rows), count).numpy()
    assert np.allclose(found, centers, atol=1e-5)
    again = ((rows[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    assert (again != nearest).any(), "a sixth round would give others"


@pytest.mark.usefixtures("small")
def test_later_rows_stand_among_the_earlier_ones_query_by_query():
    stored = clustered(5000, 1)
    search = trained(EUCLIDEAN, stored[:4000])
    lists, queries = search._lists, clustered(40, 5)
    lists.add = lambda stored: None  # so that the rows behind 4,000 are late
    lists.effort = len(lists.inside.centers)  # and nothing is missed
    distances, at = search.nearest(queries, stored, 6)
    expected, order = ExactSearch(EUCLIDEAN).nearest(queries, stored, 6)
    assert (at >= 4000).any(dim=1).sum() > 3
    assert (distances == expected).all()
    assert (at == order).all()


@pytest.mark.usefixtures("small")
def test_rows_added_later_are_found_at_once():
    stored = clustered(4000, 1)
    search = trained(EUCLIDEAN, stored)
    late = torch.cat([stored, clustered(300, 3)])
    _, at = search.nearest(late[4000:].clone(), late, 1)
    assert (at[:, 0] == torch.arange(4000, 4300)).float().mean() > 0.95
    _, at = search.nearest(late[4000:].clone(), stored, 5)  # a reader with an older view
    assert (at < 4000).all()


@pytest.mark.usefixtures("small")
def test_lookups_while_lists_are_trained_are_exact(monkeypatch):
    stored, queries = clustered(4000, 1), clustered(50, 2)
    go, make = threading.Event(), _approximate.Trained.of

    def held(*args):
        go.wait(20)
        return make(*args)

    monkeypatch.setattr(_approximate.Trained, "of", held)
    search = Search(EUCLIDEAN, recall=0.9)
    assert share_found(search, queries, stored) == 1
    assert search.kind == "exact"
    go.set()
    search.wait()
    search.nearest(queries, stored, 1)
    assert search.kind.startswith("IVF")


@pytest.mark.usefixtures("small")
def test_a_failed_training_is_told_by_the_next_lookup(monkeypatch):
    def broken(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(_approximate.Trained, "of", broken)
    stored = clustered(4000, 1)
    search = Search(EUCLIDEAN, recall=0.9)
    search.nearest(stored[:1].clone(), stored, 1)
    with pytest.raises(MemoryError, match="no room"):
        search.wait()


@pytest.mark.usefixtures("small")
@by_any_product
@pytest.mark.parametrize("kind", ["RaBitQ", "HNSW"])
def test_every_kind_finds_the_share_that_was_asked_for(distance, kind):
    stored, queries = clustered(4000, 1), clustered(100, 2)
    search = trained(distance, stored, kind=kind)
    assert search.kind.startswith(kind)
    assert search.measured_recall >= 0.95
    assert share_found(search, queries, stored) > 0.93
    search._lists.effort = 1 if kind == "RaBitQ" else 17
    assert share_found(search, queries, stored) < 1
    allowed = torch.arange(4000) % 2 == 0
    _, at = search.nearest(queries, stored, 5, allowed)
    assert (at % 2 == 0).all()


@pytest.mark.usefixtures("small")
@by_product
@pytest.mark.parametrize("kind", _inside.KINDS)
def test_removed_rows_are_never_found_again(distance, kind):
    stored = clustered(5000, 1)
    search = trained(distance, stored, kind=kind)
    kept = torch.arange(5000) % 3 != 0
    search = search.kept(kept)
    assert search.trained == int(kept.sum())
    queries = stored[~kept][:100]
    distances, at = search.nearest(queries, stored[kept], 5)
    expected = distance.paired(queries.repeat_interleave(5, 0), stored[kept][at.flatten()])
    assert (distances.flatten() == expected).all()
    assert share_found(search, queries, stored[kept]) >= 0.93
    more = torch.cat([stored[kept], clustered(50, 7)])
    _, at = search.nearest(more[-50:].clone(), more, 1)
    assert (at[:, 0] >= len(more) - 50).float().mean() > 0.9


@pytest.mark.usefixtures("small")
def test_lists_find_allowed_rows_only_and_no_fewer_than_there_are():
    stored, queries = clustered(9000, 1), clustered(60, 2)
    search = trained(EUCLIDEAN, stored)
    allowed = torch.arange(9000) % 2 == 0
    assert share_found(search, queries, stored, allowed=allowed) > 0.9
    _, at = search.nearest(queries, stored, 20, allowed)
    assert (at % 2 == 0).all()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("left", [0, 2])
def test_lists_that_hold_too_few_that_are_allowed_do_not_hide_the_others(left):
    stored, query = clustered(9000, 1), clustered(1, 2)
    search = trained(EUCLIDEAN, stored)
    held = search._lists.propose(query, 9000, None, 9000)[0]
    held = held[held >= 0]
    allowed = torch.ones(9000, dtype=torch.bool)
    allowed[held[left:]] = False
    assert allowed.sum() > 2000, "else the search is exact anyway"
    assert (search._lists.propose(query, 5, allowed, 9000) >= 0).sum() == left
    distances, at = search.nearest(query, stored, 5, allowed)
    expected = ExactSearch(EUCLIDEAN).nearest(query, stored, 5, allowed)
    assert (distances == expected[0]).all()
    assert (at == expected[1]).all()


@pytest.mark.usefixtures("small")
def test_the_same_rows_give_the_same_answers():
    stored, queries = clustered(4000, 1), clustered(50, 2)
    one, other = trained(COSINE, stored), trained(COSINE, stored)
    assert one.kind == other.kind
    for a, b in zip(
        one.nearest(queries, stored, 10), other.nearest(queries, stored, 10), strict=True
    ):
        assert (a == b).all()


@pytest.mark.usefixtures("small")
def test_where_lists_do_not_pay_search_stays_exact():
    noise = gaussian(3000, 64)  # no list holds the neighbors of anything
    assert trained(EUCLIDEAN, noise, recall=0.999).kind == "exact"
    assert trained(MANHATTAN, clustered(3000, 1)).kind == "exact"
    with pytest.raises(ValueError, match="recall must be between 0 and 1, got 2"):
        Search(COSINE, recall=2)


@pytest.mark.usefixtures("small")
def test_several_threads_get_the_answers_of_one():
    stored, queries = clustered(4000, 1), clustered(200, 2)
    search = trained(EUCLIDEAN, stored)
    expected = search.nearest(queries, stored, 5)[1]
    wrong = []

    def ask():
        for _ in range(5):
            if not (search.nearest(queries, stored, 5)[1] == expected).all():
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Storage


@pytest.mark.parametrize(("storage", "error"), [("float32", 0), ("float16", 2e-3), ("int8", 2e-2)])
def test_storage_comes_back_nearly_as_it_was(storage, error):
    rows = gaussian(50, 24)
    rows[3] = 0
    packed = pack(rows, storage)
    assert packed.nbytes <= {"float32": 96, "float16": 48, "int8": 28}[storage] * 50
    assert (unpack(packed) - rows).abs().max() <= error
    assert (unpack(pack(unpack(packed), storage)) - unpack(packed)).abs().max() < 1e-6


@every_distance
@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_packed_rows_are_searched_as_what_they_stand_for(distance, storage):
    packed, queries = pack(gaussian(400, 8), storage), gaussian(9, 8, seed=1)
    found = ExactSearch(distance).nearest(queries, packed, 7)
    expected = ExactSearch(distance).nearest(queries, unpack(packed), 7)
    assert (found[0] == expected[0]).all()
    assert (found[1] == expected[1]).all()


def test_what_storage_changes_is_counted():
    stored = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.003, 1.0]])
    labels = torch.tensor([0, 1, 2])
    queries = torch.tensor([[1.0, 0.1], [0.0, 1.0], [0.003, 1.0]])
    options = {"stored": stored, "labels": labels, "threshold": 0.5}
    assert changed_decisions(EUCLIDEAN, queries, **options, storage="float32") == 0
    assert changed_decisions(EUCLIDEAN, queries, **options, storage="int8") == pytest.approx(1 / 3)


def test_numbers_that_float16_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="embeddings must be at most 65504 in float16"):
        Index(EUCLIDEAN, storage="float16").add(torch.full((1, 2), 1e6))
    with pytest.raises(ValueError, match="storage must be one of float16, float32, int8"):
        Index(storage="int4")


# Verbs of the index


def filled(**options):
    index = Index(EUCLIDEAN, **options)
    index.add(
        torch.arange(6).float()[:, None],
        labels=["a", "b", "a", "b", "a", "b"],
        metadata=[{"even": n % 2 == 0, "n": n} for n in range(6)],
    )
    return index


def test_where_leaves_only_items_that_hold_all_it_asks_for():
    index, query = filled(), torch.zeros(1, 1)
    assert index.lookup(query, k=3, where={"even": True}).ids.tolist() == [[0, 2, 4]]
    assert index.lookup(query, k=2, where={"n": [5, 3]}).ids.tolist() == [[3, 5]]
    found = index.lookup(query, k=3, where={"even": False, "n": [1, 2]})
    assert found.ids.tolist() == [[1, -1, -1]]
    assert found.labels.tolist() == [[1, -1, -1]]
    assert found.distances.tolist() == [[1, torch.inf, torch.inf]]
    assert index.lookup(query, k=1, where={"even": 1}).ids.tolist() == [[-1]]
    with pytest.raises(TypeError, match="where must be a dict"):
        index.lookup(query, k=1, where=["even"])
    names = Index(EUCLIDEAN)
    names.add(torch.ones(2, 1), ids=["x", "y"], metadata=[{"n": 2}, {}])
    assert names.lookup(query, k=1, where={"n": 1}).ids.tolist() == [[""]]
    assert names.ids.tolist() == ["x", "y"]


def test_upsert_replaces_what_is_there_and_adds_what_is_not():
    index = filled()
    index.upsert(torch.tensor([[9.0], [8.0]]), ids=[1, 7], labels=["c", "a"], metadata=[{}, {}])
    assert index.ids.tolist() == [0, 2, 3, 4, 5, 1, 7]
    assert index.get([1]).embeddings.tolist() == [[9]]
    assert index.metadata([1]) == [{}]
    assert index.class_names == ["a", "b", "c"]
    assert index.lookup(torch.tensor([[9.0]]), k=1).ids.tolist() == [[1]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"embeddings": torch.ones(2, 3), "ids": [0, 1]},
        {"embeddings": torch.ones(2, 1), "ids": [0, 0]},
        {"embeddings": torch.ones(2, 1), "ids": [0, 1], "labels": [0, 9]},
        {"embeddings": torch.ones(1, 1), "ids": [0], "metadata": [{}, {}]},
    ],
)
def test_a_refused_upsert_removes_nothing(wrong):
    index = filled()
    with pytest.raises(ValueError, match="must"):
        index.upsert(**wrong)
    assert index.ids.tolist() == list(range(6))


def test_relabel_changes_labels_and_what_was_taken_earlier_stays():
    index = filled()
    before = index.labels
    assert index.relabel([0, 3], ["new", "a"]) == 2
    assert index.labels.tolist() == [2, 1, 0, 0, 0, 1]
    assert before.tolist() == [0, 1, 0, 1, 0, 1]
    assert index.class_names == ["a", "b", "new"]
    with pytest.raises(ValueError, match="ids must all be in the index"):
        index.relabel([0, 99], ["a", "a"])
    with pytest.raises(ValueError, match="labels must hold one entry per item"):
        index.relabel([0, 1], ["a"])
    assert index.labels.tolist() == [2, 1, 0, 0, 0, 1]


def test_the_summary_counts():
    index = filled(storage="int8")
    assert index.summary().lookup_seconds == {}
    index.lookup(torch.zeros(3, 1), k=1)
    told = index.summary().to_dict()
    times = told.pop("lookup_seconds")
    assert set(times) == {"p50", "p95", "p99"}
    assert told == {
        "items": 6,
        "classes": 2,
        "items_per_class": {"a": 3, "b": 3},
        "dimension": 1,
        "distance": "euclidean",
        "encoder": None,
        "search": "exact",
        "measured_recall": None,
        "bytes": 6 * (5 + 8 + 8 + 8),
        "storage": "int8",
        "batches": 1,
    }


@pytest.mark.usefixtures("small")
def test_an_index_with_recall_keeps_its_life_cycle():
    index = Index(EUCLIDEAN, recall=0.95)
    stored = clustered(4000, 1)
    index.add(stored)
    index.lookup(stored[:1], k=1)
    index.wait()
    index.remove(range(0, 2000, 2))
    index.add(stored[:10] + 0.001)
    found = index.lookup(stored[:10], k=3)
    assert index.summary().search.startswith("IVF")
    assert index.summary().measured_recall >= 0.95
    assert not np.isin(found.ids, range(0, 2000, 2)).any()
    assert (found.ids == np.arange(4000, 4010)[:, None]).any(axis=1).all()


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_queries_that_take_several_parts_are_all_answered(monkeypatch, parts):
    rng = torch.Generator().manual_seed(0)
    stored, queries = torch.randn(500, 4, generator=rng), torch.randn(60, 4, generator=rng)
    count = 3 + _exact.SPARE
    monkeypatch.setattr(_exact, "AT_ONCE", 0)
    monkeypatch.setattr(_exact, "BLOCK", 60 // parts * count * 4)
    found, at = ExactSearch(EUCLIDEAN).nearest(queries, stored, 3)
    expected, order = torch.cdist(queries, stored).sort(dim=1)
    torch.testing.assert_close(found, expected[:, :3])
    assert torch.equal(at, order[:, :3])
