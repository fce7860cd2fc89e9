"""What every home of labeled embeddings does, in memory, on disk or elsewhere, in one list."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from likewise.distances import EUCLIDEAN, NAMED
from likewise.index import Gallery, Index

HOMES = ["index", "gallery", "gallery seen by a reader"]


class Reader:
    """A gallery that is written by one opening and read by another."""

    def __init__(self, path, **options):
        self.writer = Gallery(path, **options)
        self.reader = Gallery(path, read_only=True)

    def __getattr__(self, name):
        writes = (
            "add",
            "upsert",
            "remove",
            "relabel",
            "clear",
            "name_classes",
            "replace",
            "reserve",
            "backup",
        )
        return getattr(self.writer if name in writes else self.reader, name)

    def __len__(self):
        return len(self.reader)

    def close(self):
        self.reader.close()
        self.writer.close()


@pytest.fixture(params=HOMES)
def home(request, tmp_path):
    """A function that makes an empty home; each call another."""
    made = []

    def make(**options):
        options = {"distance": EUCLIDEAN, **options}
        if request.param == "index":
            made.append(Index(**options))
        else:
            kind = Gallery if request.param == "gallery" else Reader
            made.append(kind(tmp_path / str(len(made)), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(home, **options):
    one = home()
    one.add(torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]), **options)
    return one


def test_room_made_beforehand_changes_no_item(home):
    one, parts = home(), gaussian(3, 10, 4)
    one.reserve(25)
    for part in parts:
        one.add(part)
    one.reserve(5)
    assert one.ids.tolist() == list(range(30))
    torch.testing.assert_close(one.embeddings, parts.flatten(0, 1), rtol=0, atol=0)


def test_all_homes_answer_alike(home):
    stored, queries = gaussian(300, 8).round(decimals=1), gaussian(20, 8, seed=1)
    stored[100:120] = stored[:20]  # ties
    one, plain = home(), Index(EUCLIDEAN)
    for rows, labels in zip(stored.split(70), (torch.arange(300) % 7).split(70), strict=True):
        for each in (one, plain):
            each.add(rows, labels=labels)
            each.lookup(queries[:1], k=1)
    for each in (one, plain):
        each.remove(range(0, 300, 5))
        each.upsert(stored[:4] + 1, ids=[7, 900, 3, 901], labels=[1, 2, 3, 4])
        each.relabel([900, 11], [5, 6])
    found, expected = one.lookup(queries, k=30), plain.lookup(queries, k=30)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.distances.tolist() == expected.distances.tolist()
    assert found.labels.tolist() == expected.labels.tolist()
    assert one.ids.tolist() == plain.ids.tolist()
    assert one.labels.tolist() == plain.labels.tolist()
    assert (one.embeddings == plain.embeddings).all()


@pytest.mark.parametrize("name", NAMED)
def test_every_distance_is_that_of_its_definition(home, name):
    one, distance = home(distance=NAMED[name]), NAMED[name]
    stored, queries = gaussian(90, 5), gaussian(6, 5, seed=1)
    one.add(stored)
    found = one.lookup(queries, k=9)
    for query, row in zip(queries, range(6), strict=True):
        exact = distance.paired(query.expand(90, -1).contiguous(), stored)
        order = exact.sort(stable=True)
        assert found.ids[row].tolist() == order.indices[:9].tolist()
        assert found.distances[row].tolist() == order.values[:9].tolist()
    assert one.distance is distance


def test_string_ids_come_back(home):
    one = filled(home, ids=["a", "bcd", "é"], labels=["x", "y", "x"])
    assert one.lookup(torch.tensor([[3.0, 4.1]]), k=2).ids.tolist() == [["bcd", "é"]]
    assert one.add(torch.ones(1, 2), ids=["a longer one"]).tolist() == ["a longer one"]
    assert one.remove(["bcd", "a", "bcd"]) == 2
    assert one.ids.tolist() == ["é", "a longer one"]
    assert one.lookup(torch.ones(1, 2), k=2).ids.tolist() == [["a longer one", "é"]]
    assert one.class_names == ["x", "y"]


def test_new_ids_go_on_above_all_ever_used(home):
    one = filled(home, ids=[7, 3, 9])
    assert one.add(torch.ones(2, 2)).tolist() == [10, 11]
    one.remove([11])
    assert one.clear() == 4
    assert len(one) == 0
    assert one.dimension == 2
    assert one.add(torch.ones(1, 2)).tolist() == [12]
    one.clear()
    assert one.add(torch.ones(1, 2), ids=["of another kind"]).tolist() == ["of another kind"]
    assert one.lookup(torch.ones(1, 2), k=1).ids.tolist() == [["of another kind"]]


def test_an_upserted_item_keeps_nothing_and_stands_at_the_end(home):
    one = filled(home, labels=[0, 1, 2], metadata=[{"a": 1}, {"a": 2}, {"a": 3}])
    assert one.upsert(torch.ones(2, 2), ids=[1, 8], labels=[5, 6]).tolist() == [1, 8]
    assert one.ids.tolist() == [0, 2, 1, 8]
    assert one.labels.tolist() == [0, 2, 5, 6]
    assert one.metadata([1, 0]) == [{}, {"a": 1}]
    assert one.embeddings[2].tolist() == [1, 1]


def test_the_last_of_an_id_that_was_stored_often_is_found(home):
    one = home()
    one.add(gaussian(40, 2))
    for times in range(4):  # each time the id goes behind the others, in a batch of few
        one.upsert(torch.full((1, 2), float(times)), ids=[3])
        assert one.get([3]).embeddings.tolist() == [[times, times]]
        one.relabel([3], [times])
    assert one.labels.tolist() == [-1] * 39 + [3]
    assert one.remove([3]) == 1
    assert 3 not in one.ids


def test_relabeling_moves_nothing(home):
    one = filled(home, labels=["a", "b", "a"])
    assert one.relabel([2, 0], ["b", "c"]) == 2
    assert one.labels.tolist() == [2, 1, 1]
    assert one.class_names == ["a", "b", "c"]
    assert one.ids.tolist() == [0, 1, 2]
    one.relabel([1], [-1])
    assert one.lookup(torch.tensor([[3.0, 4.0]]), k=1).labels.tolist() == [[-1]]


def test_get_gives_back_what_was_added_in_the_order_asked_for(home):
    one = filled(home, labels=[4, 5, 6], ids=["a", "b", "c"], metadata=[{"n": [n]} for n in "xyz"])
    items = one.get(["c", "a", "c"])
    assert items.ids.tolist() == ["c", "a", "c"]
    assert items.embeddings.tolist() == [[6, 8], [0, 0], [6, 8]]
    assert items.labels.tolist() == [6, 4, 6]
    assert items.metadata == [{"n": ["z"]}, {"n": ["x"]}, {"n": ["z"]}]


def test_where_leaves_only_what_it_asks_for_and_pads(home):
    one = filled(home, labels=[4, 5, 6], metadata=[{"a": 1, "b": "x"}, {"a": 2}, {"a": True}])
    query = torch.tensor([[6.0, 8.0]])
    found = one.lookup(query, k=3, where={"a": [1, 2]})
    assert found.ids.tolist() == [[1, 0, -1]]
    assert found.labels.tolist() == [[5, 4, -1]]
    assert found.distances.tolist() == [[5, 10, torch.inf]]
    assert one.lookup(query, k=1, where={"a": 1.0, "b": "x"}).ids.tolist() == [[0]]
    assert one.lookup(query, k=1, where={"b": "x", "a": [1, 2]}).ids.tolist() == [[0]]
    assert one.lookup(query, k=1, where={"b": "y", "a": [1, 2]}).ids.tolist() == [[-1]]
    assert one.lookup(query, k=2, where={"a": True}).ids.tolist() == [[2, -1]]
    assert one.lookup(query, k=1, where={}).ids.tolist() == [[2]]
    one.upsert(torch.zeros(1, 2), ids=[1], metadata=[{"a": 7}])
    assert one.lookup(query, k=2, where={"a": [2, 7]}).ids.tolist() == [[1, -1]]
    with pytest.raises(TypeError, match="where must be a dict"):
        one.lookup(query, k=1, where=["a"])


def test_where_pads_string_ids_with_nothing(home):
    one = filled(home, ids=["a", "b", "c"], metadata=[{}, {"n": 1}, {}])
    assert one.lookup(torch.ones(1, 2), k=2, where={"n": 1}).ids.tolist() == [["b", ""]]


def test_class_names_known_beforehand_keep_their_codes(home):
    one = home(class_names=["ant", "bee", "cat"])
    one.add(torch.eye(3), labels=["cat", "dog", "ant"])
    assert one.labels.tolist() == [2, 3, 0]
    assert one.class_names == ["ant", "bee", "cat", "dog"]


def test_classes_are_named_anew_while_there_is_no_item(home):
    one = home(class_names=["x", "y"])
    assert one.name_classes(["b", "a"])
    assert one.name_classes(["b", "a"])
    assert one.class_names == ["b", "a"]
    assert one.name_classes(["b"])
    one.add(torch.eye(2), labels=["a", "b"])
    assert one.class_names == ["b", "a"]
    assert one.labels.tolist() == [1, 0]
    assert not one.name_classes(["c"])
    assert one.class_names == ["b", "a"]
    one.clear()
    assert one.name_classes(["c", "a"])
    one.add(torch.eye(2), labels=["a", "d"])
    assert (one.class_names, one.labels.tolist()) == (["c", "a", "d"], [1, 2])
    with pytest.raises(ValueError, match="class_names must all differ"):
        one.name_classes(["c", "c"])


def test_of_labels_for_one_id_the_last_counts(home):
    one = filled(home, labels=["a", "b", "a"])
    assert one.relabel([1, 0, 1], ["c", "b", "a"]) == 3
    assert one.labels.tolist() == [1, 0, 0]
    assert one.relabel([2, 0], None) == 2
    assert one.labels.tolist() == [-1, 0, -1]


def test_replacing_all_leaves_the_new_ones_alone(home):
    one = filled(home, labels=["a", "b", "a"], metadata=[{"n": n} for n in range(3)])
    rows = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert one.replace(rows, labels=["c", "b"], class_names=["b"]).tolist() == [3, 4]
    assert (one.ids.tolist(), one.labels.tolist()) == ([3, 4], [1, 0])
    assert (one.class_names, one.embeddings.tolist()) == (["b", "c"], rows.tolist())
    assert one.metadata([3, 4]) == [{}, {}]
    assert one.lookup(torch.zeros(1, 2), k=2).ids.tolist() == [[3, 4]]
    assert one.replace(rows, ids=["x", "y"], payloads=[b"1", None]).tolist() == ["x", "y"]
    assert one.replace(rows.flip(0), ids=["y", "z"], labels=[5, -1]).tolist() == ["y", "z"]
    assert (one.ids.tolist(), one.labels.tolist(), one.class_names) == (["y", "z"], [5, -1], [])
    assert one.payloads(["y", "z"]) == [None, None]
    assert one.get(["y"]).embeddings.tolist() == [[2, 2]]
    for wrong in ({"ids": ["y", "y"]}, {"labels": [1]}, {"labels": [1, 2], "class_names": ["a"]}):
        with pytest.raises(ValueError, match=r"ids must all differ|labels must"):
            one.replace(rows, **wrong)
    with pytest.raises(ValueError, match=r"must have dimension 2"):
        one.replace(torch.ones(1, 3))
    assert one.ids.tolist() == ["y", "z"]
    assert one.replace(torch.empty(0, 2), class_names=["q"]).tolist() == []
    assert (len(one), one.class_names, one.dimension) == (0, ["q"], 2)
    assert one.replace(rows).tolist() == [5, 6]


def test_payloads_come_back(home):
    one = filled(home, payloads=[b"", None, bytes(range(256))])
    one.add(torch.ones(1, 2))
    assert one.payloads([2, 0, 3, 1]) == [bytes(range(256)), b"", None, None]
    one.relabel([2], [5])
    one.upsert(torch.ones(1, 2), ids=[0], payloads=[b"new"])
    one.remove([1])
    assert one.payloads([0, 2, 3]) == [b"new", bytes(range(256)), None]
    with pytest.raises(TypeError, match="payloads must be bytes or None, got str"):
        one.add(torch.ones(1, 2), payloads=["x"])


@given(prints=st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=1, max_size=4))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fingerprints_are_those_of_the_metadata_bit_by_bit(home, prints):
    one = home()

    def check():
        values, there, labels = one.fingerprints()
        told = [value if has else None for value, has in zip(values.tolist(), there, strict=True)]
        assert told == one.column("fingerprint")[0]
        assert labels.tolist() == one.labels.tolist()

    facts = [{} if each is None else {"fingerprint": each, "n": 1} for each in prints]
    one.add(torch.ones(len(facts), 2), metadata=facts, labels=range(len(facts)))
    check()
    one.add(torch.ones(1, 2))
    one.upsert(torch.zeros(2, 2), ids=[0, 99], metadata=[{"fingerprint": -1}, {}], labels=[7, 8])
    check()
    one.relabel([99], [3])
    one.remove([0])
    check()


def test_only_integers_of_64_bits_are_fingerprints(home):
    odd = ["7", 1.0, True, None, [7], 2**63, -(2**63) - 1]
    one = home()
    one.add(torch.ones(8, 2), metadata=[{"fingerprint": each} for each in [*odd, 7]])
    values, there, _ = one.fingerprints()
    assert there.tolist() == [False] * 7 + [True]
    assert values.tolist() == [0] * 7 + [7]
    assert one.column("fingerprint")[0] == [*odd, 7]


def test_a_summary_counts(home):
    one = filled(home, labels=["a", "b", "a"])
    assert one.summary().lookup_seconds == {}
    one.lookup(torch.ones(1, 2), k=1)
    summary = one.summary()
    assert (summary.items, summary.classes, summary.dimension) == (3, 2, 2)
    assert summary.items_per_class == {"a": 2, "b": 1}
    assert (summary.distance, summary.search, summary.storage) == ("euclidean", "exact", "float32")
    seconds = summary.lookup_seconds
    assert 0 < seconds["p50"] <= seconds["p95"] <= seconds["p99"] < 10
    assert summary.bytes >= 3 * 2 * 4
    assert summary.to_dict()["items_per_class"] == {"a": 2, "b": 1}


ROW, ROWS, NAN = torch.ones(1, 2), torch.ones(2, 2), torch.tensor([[1.0, torch.nan]])
REFUSED = [
    (ValueError, r"embeddings must have shape \(n, d\)", {"embeddings": torch.ones(1, 1, 2)}),
    (TypeError, r"embeddings must be floating point", {"embeddings": ROW.long()}),
    (ValueError, r"embeddings must be finite, got 1 NaN", {"embeddings": NAN}),
    (ValueError, r"must have dimension 2, .* got 3", {"embeddings": torch.ones(1, 3)}),
    (ValueError, r"ids must hold one entry per item, 2, got 1", {"embeddings": ROWS, "ids": [9]}),
    (ValueError, r"ids must all differ, got 9 more", {"embeddings": ROWS, "ids": [9, 9]}),
    (ValueError, r"ids must be between 0 and \d+, got -1", {"embeddings": ROW, "ids": [-1]}),
    (ValueError, r"ids must be between 0 and \d+, got 9\d+", {"embeddings": ROW, "ids": [2**63]}),
    (TypeError, r"ids must be integers, as those in the", {"embeddings": ROW, "ids": ["x"]}),
    (ValueError, r"labels must hold one .* 2, got 3", {"embeddings": ROWS, "labels": [1, 2, 3]}),
    (TypeError, r"labels must be integers, as those", {"embeddings": ROW, "labels": ["cat"]}),
    (ValueError, r"metadata must hold one .* 1, got 2", {"embeddings": ROW, "metadata": [{}, {}]}),
    (TypeError, r"metadata must be what JSON", {"embeddings": ROW, "metadata": [{"a": {1}}]}),
]


@pytest.mark.parametrize("verb", ["add", "upsert"])
@pytest.mark.parametrize(("error", "message", "options"), REFUSED)
def test_what_is_refused_changes_nothing(home, verb, error, message, options):
    one = filled(home, labels=[0, 1, 2])
    if verb == "upsert":
        options = {"ids": [1, 9][: len(options["embeddings"])], **options}
    with pytest.raises(error, match=message):
        getattr(one, verb)(**options)
    assert one.ids.tolist() == [0, 1, 2]
    assert one.labels.tolist() == [0, 1, 2]
    assert one.embeddings.tolist() == [[0, 0], [3, 4], [6, 8]]
    assert one.add(ROW, labels=[0]).tolist() == [3]


def test_ids_that_are_there_or_are_not_there_are_refused(home):
    one = filled(home)
    with pytest.raises(ValueError, match="ids must be new, got 1 and 1 more already in"):
        one.add(ROWS, ids=[1, 2])
    for verb in (one.remove, one.get, one.metadata, lambda ids: one.relabel(ids, [1, 2, 3])):
        with pytest.raises(ValueError, match=r"ids must all be in .*, got unknown 5 and 1 more"):
            verb([0, 5, 6])
    with pytest.raises(ValueError, match="got unknown 'x'"):
        one.remove(["x"])
    assert len(one) == 3


def test_lookups_that_cannot_be_are_refused(home):
    with pytest.raises(ValueError, match=r"must hold at least one item .* got 0"):
        home().lookup(ROW, k=1)
    one = filled(home)
    with pytest.raises(ValueError, match=r"k must be at most 3, .* got 4"):
        one.lookup(ROW, k=4)
    with pytest.raises(ValueError, match=r"queries must have dimension 2, .* got 1"):
        one.lookup(torch.ones(1, 1), k=1)
    assert one.lookup(torch.empty(0, 2), k=2).ids.shape == (0, 2)


def test_adding_nothing_changes_nothing(home):
    one = home()
    assert one.add(torch.empty(0, 3), labels=[], ids=[]).tolist() == []
    assert one.dimension is None
    assert one.embeddings.shape[0] == 0
    assert one.add(torch.ones(1, 2)).tolist() == [0]


def test_arrays_taken_earlier_stay_as_they_were(home):
    one = filled(home, labels=[1, 2, 3])
    embeddings, labels, ids = one.embeddings, one.labels, one.ids
    one.add(torch.ones(1, 2))
    one.relabel([1], [9])
    one.remove([0])
    one.add(torch.full((5, 2), 9.0))
    assert embeddings.tolist() == [[0, 0], [3, 4], [6, 8]]
    assert labels.tolist() == [1, 2, 3]
    assert ids.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        one.ids[0] = 5


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_smaller_storage_gives_back_what_it_compares(home, storage):
    one = home(storage=storage)
    rows = gaussian(50, 7)
    one.add(rows)
    assert one.dimension == 7
    assert 0 < (one.embeddings - rows).abs().max() < 0.02 * rows.abs().max()
    found = one.lookup(one.embeddings[:5], k=1)
    assert found.ids.tolist() == [[0], [1], [2], [3], [4]]
    assert found.distances.tolist() == [[0.0]] * 5
    assert (one.get([3]).embeddings == one.embeddings[3]).all()


numbers = st.integers(0, 30)
steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "upsert", "remove", "relabel", "lookup"]),
        st.lists(numbers, max_size=6, unique=True),
        st.integers(0, 2**16),
    ),
    max_size=10,
)


@given(steps=steps, text=st.booleans())
@settings(
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_home_behaves_like_a_dict(home, steps, text):
    one, model = home(), {}  # id -> (vector, label, metadata); in order of insertion
    for verb, ids, seed in steps:
        ids = [f"n{i}" if text else i for i in ids]
        if verb == "add":
            ids = [i for i in ids if i not in model]
        elif verb != "upsert":
            ids = [i for i in ids if i in model]
        rows = torch.randint(-3, 4, (len(ids), 2), generator=torch.Generator().manual_seed(seed))
        labels = [(seed + i) % 5 - 1 for i in range(len(ids))]
        metadata = [{"n": (seed + i) % 3} for i in range(len(ids))]
        if verb in ("add", "upsert"):
            getattr(one, verb)(rows.float(), ids=ids, labels=labels, metadata=metadata)
            for i in ids:
                model.pop(i, None)
            model |= zip(
                ids, zip(rows.float().tolist(), labels, metadata, strict=True), strict=True
            )
        elif verb == "remove":
            assert one.remove(ids) == len(ids)
            for i in ids:
                del model[i]
        elif verb == "relabel":
            assert one.relabel(ids, labels) == len(ids)
            model |= {i: (model[i][0], n, model[i][2]) for i, n in zip(ids, labels, strict=True)}
        elif model:
            query = torch.tensor([[0.5, -0.25]])
            kept = {i: v for i, v in model.items() if v[2]["n"] in (0, 2)}
            far = {i: EUCLIDEAN.paired(query, torch.tensor([v[0]])).item() for i, v in kept.items()}
            nearest = sorted(far, key=far.get)
            found = one.lookup(query, k=len(model), where={"n": [0, 2]})
            assert found.ids[0][: len(kept)].tolist() == nearest
            assert found.distances[0][: len(kept)].tolist() == [far[i] for i in nearest]
            assert (found.distances[0][len(kept) :] == torch.inf).all()
        assert one.ids.tolist() == list(model)
        assert one.labels.tolist() == [v[1] for v in model.values()]
        assert one.embeddings.tolist() == [v[0] for v in model.values()] or not model
        assert one.metadata(list(model)) == [v[2] for v in model.values()]
    assert isinstance(one.ids, np.ndarray)
