"""The gallery in Milvus: the contract of all homes, and what is its own. Served by Milvus Lite."""

import inspect
import itertools
import json
import re
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import likewise as lw
import milvus_partitions
import test_index_contract
import test_index_where
from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT, MANHATTAN, SQUARED_EUCLIDEAN
from likewise.index import GalleryError, Index
from likewise.index._where import parsed

pytest.importorskip("pymilvus", reason="needs pip install likewise[milvus]")
server_manager = pytest.importorskip(
    "milvus_lite.server_manager", reason="needs milvus-lite, which serves on loopback"
)

from likewise.index._milvus.collections import (  # noqa: E402
    METRICS,
    CollectionFacts,
    Collections,
)
from likewise.index._milvus.options import Connection  # noqa: E402
from likewise.index.galleries import MilvusGallery  # noqa: E402

numbers = itertools.count()


@pytest.fixture(scope="session")
def uri(tmp_path_factory):
    """Where a real server answers, on loopback."""
    path = str(tmp_path_factory.mktemp("milvus") / "lite.db")
    return server_manager.server_manager_instance.start_and_get_uri(path)  # ends at exit


@pytest.fixture
def home(uri):
    """A function that makes an empty home; each call another."""
    made = []

    def make(**options):
        options = {"distance": EUCLIDEAN, **options}
        if "storage" in options:
            pytest.skip("Milvus has its own ways to make vectors smaller")
        if options["distance"] not in METRICS:
            pytest.skip(f"Milvus knows no {options['distance'].name} distance")
        made.append(MilvusGallery(uri, collection=f"home_{next(numbers)}", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


# The tests of every store, with this home: pytest finds them here by their names.
of_every_store = [
    *(test for _, test in inspect.getmembers(test_index_contract, inspect.isfunction)),
    test_index_where.test_every_home_finds_what_the_definition_says,
    test_index_where.test_what_was_read_of_removed_items_says_nothing_of_others,
]
globals().update(
    {test.__name__: test for test in of_every_store if test.__name__.startswith("test_")}
)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def again(one, **options):
    """A second opening of the same gallery, as another process has it."""
    return MilvusGallery(one._store.collections.uri, collection=one._store.name, **options)


@pytest.mark.parametrize(
    ("where", "asked"),
    [
        ("known.db", 0),
        ("C:\\data\\known.db", 0),
        ("http://host:19530", 1),
        ("HTTPS://host", 1),
        ("unix:/run/milvus.sock", 1),
    ],
)
def test_only_a_server_is_asked_to_load_what_it_built(where, asked):
    calls = []

    class Client:
        def list_indexes(self, *args, **named):
            return []

        def __getattr__(self, name):
            return lambda *args, **named: calls.append(name)

    one = object.__new__(Collections)
    one.connection, one.name, one._client, one._errors = Connection(where), "c", Client(), ()
    one.settle()
    assert calls.count("refresh_load") == asked
    assert MilvusGallery.is_file(where) == (not asked)


@pytest.mark.parametrize(
    "distance", [COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN, INNER_PRODUCT], ids=lambda d: d.name
)
@pytest.mark.parametrize("dimension", [1, 3])
def test_answers_are_those_of_a_full_sort_where_nearly_all_ties(home, distance, dimension):
    generator = torch.Generator().manual_seed(dimension)
    stored = torch.randint(-1, 2, (300, dimension), generator=generator).float()
    queries = torch.randint(-2, 3, (9, dimension), generator=generator).float()
    one, plain = home(distance=distance), Index(distance)
    for each in (one, plain):
        each.add(stored)
    found, expected = one.lookup(queries, k=12), plain.lookup(queries, k=12)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.distances.tolist() == expected.distances.tolist()
    assert (one.embeddings == stored).all()


def test_what_was_measured_is_forgotten_with_the_index_it_was_measured_of(home):
    one = home()
    one.add(gaussian(30, 4))
    one._store.collections.put_tuned({"recall": 0.9})
    one.reindex("FLAT")
    assert one._store.collections.tuned() == {}
    assert one.lookup(gaussian(1, 4), k=3).ids.shape == (1, 3)


def test_near_equal_embeddings_far_from_the_origin_are_told_apart(home):
    stored = 1000 + gaussian(400, 6) * 1e-3
    one, plain = home(), Index(EUCLIDEAN)
    for each in (one, plain):
        each.add(stored)
    queries = stored[:5] + 1e-3
    assert one.lookup(queries, k=7).ids.tolist() == plain.lookup(queries, k=7).ids.tolist()


def test_another_opening_sees_what_was_written_at_once(home):
    one = home()
    with again(one) as other:
        one.add(torch.eye(3), labels=["a", "b", "a"], ids=["x", "y", "z"])
        assert other.dimension == 3
        assert other.get(["y"]).labels.tolist() == [1]
        assert other.lookup(torch.eye(3)[:1], k=1).ids.tolist() == [["x"]]
        assert other.class_names == ["a", "b"]
        other.remove(["x"])
        assert one.ids.tolist() == ["y", "z"]
        assert one.add(torch.ones(1, 3), labels=["c"], ids=["x"]).tolist() == ["x"]
        assert other.summary().items_per_class == {"a": 1, "b": 1, "c": 1}
        assert other.summary().batches == 3


ELSEWHERE = """
import sys, torch, likewise.index
assert "pymilvus" not in sys.modules, "what nobody asked for was imported"
_, uri, name, file = sys.argv
with likewise.index.MilvusGallery(uri, collection=name) as one:
    assert one.lookup(torch.ones(1, 4), k=20).ids[0].tolist() == list(range(19, -1, -1))
    one.add(torch.zeros(1, 4), labels=["new"])
with likewise.index.MilvusGallery(file, collection="a", class_names=["u"]) as one:
    one.add(torch.eye(2), labels=["u", "v"], metadata=[{"n": 1}, {}], payloads=[None, b"x"])
"""


def test_another_process_finds_the_same_and_what_it_writes_lasts(home, uri, tmp_path):
    one, file = home(), tmp_path / "a.db"
    one.add(torch.arange(20)[:, None].expand(-1, 4) / 20, labels=["old"] * 20)
    subprocess.run([sys.executable, "-c", ELSEWHERE, uri, one._store.name, str(file)], check=True)
    assert one.ids.tolist() == list(range(21))
    assert one.class_names == ["old", "new"]
    with MilvusGallery(file, collection="a") as left:  # served by Milvus Lite for this process
        assert left.embeddings.tolist() == torch.eye(2).tolist()
        assert left.class_names == ["u", "v"]
        assert left.metadata([0, 1]) == [{"n": 1}, {}]
        assert left.payloads([0, 1]) == [None, b"x"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": COSINE}, "distance must be 'euclidean', .* got 'cosine'"),
        ({"encoder": "b"}, "encoder must be 'a', .* got 'b'"),
        ({"dimension": 3}, "dimension must be 2, .* got 3"),
        ({"class_names": ["y"]}, r"class_names must be \['x'\], .* got \['y'\]"),
    ],
)
def test_a_gallery_that_was_made_for_something_else_is_refused(home, options, message):
    one = home(encoder="a", dimension=2, class_names=["x"])
    with pytest.raises(GalleryError, match=message):
        again(one, **options)
    with again(one) as other:
        assert (other.distance, other.encoder, other.dimension) == (EUCLIDEAN, "a", 2)
        assert other.class_names == ["x"]


def test_what_no_gallery_can_be_made_for_is_refused(uri):
    with pytest.raises(ValueError, match=r"distance must be one that Milvus knows, .* manhattan"):
        MilvusGallery(uri, collection="a", distance=MANHATTAN)
    for name in ("", "1a", "a-b", None):
        with pytest.raises(ValueError, match="collection must be letters, digits"):
            MilvusGallery(uri, collection=name)


def test_nothing_that_answers_is_one_sentence(home, uri):
    one = home()
    one.close()
    one.close()
    with pytest.raises(GalleryError, match="gallery must be open"):
        len(one)
    with pytest.raises(GalleryError, match=r"uri must lead to a Milvus server .* got 'http"):
        MilvusGallery("http://127.0.0.1:9", collection="a")


def test_without_pymilvus_it_says_what_to_install(uri, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(ImportError, match=r"pip install .likewise\[milvus\]"):
        MilvusGallery(uri, collection="a")


def test_a_collection_of_something_else_is_left_alone(home):
    one = home(dimension=2)
    client = one._store.collections._client
    client.drop_collection(one._store.name + "_facts")
    with pytest.raises(GalleryError, match="collection must be new or a gallery"):
        again(one)
    assert client.has_collection(one._store.name)
    with pytest.raises(GalleryError, match="uri must lead to a Milvus server that does"):
        one.add(torch.ones(1, 2))


def test_a_collection_of_another_version_is_refused_as_such(home):
    one = home(dimension=2)
    one._store.collections.put_facts(replace(one._store.facts, format=1))
    with pytest.raises(GalleryError, match="must be of format 3, got format 1, which another"):
        again(one)


def test_a_beginning_that_was_interrupted_is_begun_again(home):
    one = home(dimension=2, class_names=["x"])
    client = one._store.collections._client
    client.delete(one._store.name + "_facts", filter="key == 0")
    with again(one, class_names=["y"]) as other:
        other.add(torch.ones(1, 3), labels=["y"])
        assert other.class_names == ["y"]


def test_items_that_are_gone_without_their_facts_are_told(home):
    one = home(dimension=2)
    one._store.collections._client.drop_collection(one._store.name)
    with pytest.raises(GalleryError, match="collection must be whole"):
        again(one)


def test_payloads_come_back(home):
    one = home()
    payloads = [b"", None, bytes(range(256)), b"x" * 49149]
    one.add(gaussian(4, 2), payloads=payloads)
    assert one.payloads([0, 1, 2, 3]) == payloads
    one.relabel([2], [5])
    assert one.payloads([2, 1]) == [payloads[2], None]
    with pytest.raises(ValueError, match="payloads must have at most 65535 bytes in Milvus"):
        one.add(torch.ones(1, 2), payloads=[b"x" * 49150])
    with pytest.raises(ValueError, match="metadata must have at most 65535 bytes in Milvus"):
        one.add(torch.ones(1, 2), metadata=[{"a": "é" * 33000}])
    with pytest.raises(ValueError, match="metadata must have at most 4096 keys in Milvus"):
        one.add(torch.ones(1, 2), metadata=[{str(n): 1 for n in range(4097)}])
    assert len(one) == 4


def test_ids_names_and_metadata_are_any_text(home):
    one = home()
    texts = ["a'b", 'c"d', "e\\f", "g\nh", "\x01", "ü€", "id in [1]"]
    one.add(gaussian(7, 2), ids=texts, labels=texts, metadata=[{text: text} for text in texts])
    assert one.ids.tolist() == texts
    assert one.class_names == texts
    for text in texts:
        found = one.lookup(torch.ones(1, 2), k=2, where={text: text})
        assert found.ids.tolist() == [[text, ""]]
    assert one.remove(texts[:6]) == 6
    assert one.ids.tolist() == texts[6:]


def test_metadata_is_found_by_any_value_that_json_has(home):
    one = home()
    values = [1, 1.5, True, None, "1", [1, 2], {"b": 1, "a": [None]}, 10**30]
    one.add(gaussian(8, 2), metadata=[{"v": value} for value in values])
    assert one.metadata(range(8)) == [{"v": value} for value in values]
    for at, value in enumerate(values):
        found = one.lookup(torch.ones(1, 2), k=8, where={"v": [value]})
        assert found.ids[0, :2].tolist() == [at, -1]
    assert one.lookup(torch.ones(1, 2), k=1, where={"v": []}).ids.tolist() == [[-1]]


def test_an_add_that_breaks_off_takes_back_what_it_stored(home, monkeypatch):
    one = home()
    one.add(torch.zeros(1, 2))
    collections = one._store.collections
    error = collections._milvus.MilvusException(message="the line broke")
    insert, sent = collections._client.insert, []

    def breaks(name, rows, **more):
        if sent:
            raise error
        sent.append(insert(name, rows, **more))

    monkeypatch.setattr("likewise.index._milvus.collections._AT_ONCE", 500)
    monkeypatch.setattr(collections._client, "insert", breaks)
    with pytest.raises(GalleryError, match="the line broke"):
        one.add(gaussian(20, 2), labels=["a"] * 20)
    assert sent
    assert one.ids.tolist() == [0]
    monkeypatch.undo()
    assert one.add(gaussian(2, 2), labels=["b", "a"]).tolist() == [21, 22]
    assert one.labels.tolist() == [-1, 1, 0]


def test_messages_of_any_size_store_all(home, monkeypatch):
    monkeypatch.setattr("likewise.index._milvus.collections._AT_ONCE", 700)
    one, rows = home(), gaussian(50, 3)
    one.add(rows)
    one.relabel(range(50), list(range(50)))
    assert (one.embeddings == rows).all()
    assert one.labels.tolist() == list(range(50))


def test_positions_that_several_writers_gave_out_lose_nothing(home, monkeypatch):
    one = home()
    with again(one) as other:
        one.add(gaussian(9, 2))
        facts = one._store.facts
        other.add(gaussian(9, 2), ids=range(100, 109))
        other._store._remember(facts, [])  # as if both had begun at once
        other.add(gaussian(9, 2), ids=range(200, 209))
    monkeypatch.setattr("likewise.index._milvus.collections.MOST", 5)
    expected = [id_ for pair in zip(range(100, 109), range(200, 209), strict=True) for id_ in pair]
    assert one.ids.tolist() == [*range(9), *expected]


def test_strings_whose_hashes_are_equal_are_refused(home, monkeypatch):
    one = home()
    one.add(torch.ones(1, 2), ids=["a"])
    hashes = torch.zeros(1, dtype=torch.int64).numpy()
    key = one._store.collections.everything(["text"], one._store.facts)[0]["key"]
    module = "likewise.index._milvus.collection"
    monkeypatch.setattr(f"{module}.lasting_keys", lambda ids: hashes + key)
    for verb in (one.add, one.upsert):
        with pytest.raises(ValueError, match="ids must differ in their 64-bit hashes, got 'b'"):
            verb(torch.ones(1, 2), ids=["b"])


def test_lookups_while_another_thread_writes_see_whole_batches(home):
    one, batch, done, seen = home(dimension=2), 50, threading.Event(), []

    def look():
        while not done.is_set():
            seen.append(len(one))
            if seen[-1]:
                assert one.lookup(torch.ones(3, 2), k=min(seen[-1], 60)).ids.min() >= 0

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(6):
        one.add(gaussian(batch, 2))
    done.set()
    for reader in readers:
        reader.join()
    assert len(one) == 6 * batch
    assert seen
    assert all(count % batch == 0 for count in seen)


def test_more_than_milvus_finds_at_once_is_refused(home):
    one = home()
    one.add(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"k must be at most 16384, .* got 16385"):
        one.lookup(torch.ones(1, 2), k=16385)


def test_filters_that_cannot_be_are_refused(home):
    one = home()
    one.add(torch.zeros(2, 1), metadata=[{"camera": "x"}, {}])
    for error, message, where in test_index_where.REFUSED:
        with pytest.raises(error, match=message):
            one.lookup(torch.zeros(1, 1), k=1, where=where)


def test_embeddings_may_be_arrays_and_lists(home):
    one = home()
    one.add(np.array([[0.5, 1.0], [3.0, 4.0]]))
    one.add([9, 9])
    one.upsert(np.array([[3.0, 4.5]], dtype=np.float16), ids=[1])
    assert one.lookup([3, 4.5], k=1).distances.tolist() == [[0.0]]
    assert one.embeddings.tolist() == [[0.5, 1.0], [9.0, 9.0], [3.0, 4.5]]


# Partitions


@pytest.fixture(scope="module")
def partitioned(uri):
    """A gallery with partitions, and an index in memory with the same items."""
    plain = Index(EUCLIDEAN)
    with MilvusGallery(
        uri, collection="partitioned", distance=EUCLIDEAN, partition_by="tenant"
    ) as one:
        for each in (one, plain):
            milvus_partitions.fill(each)
        yield one, plain


@given(where=milvus_partitions.WHERES)
@settings(deadline=None, max_examples=60)
def test_partitions_change_no_answer(partitioned, where):
    one, plain = partitioned
    assert milvus_partitions.answers(one, where) == milvus_partitions.answers(plain, where)


def test_items_in_partitions_are_what_they_are_without(partitioned):
    one, plain = partitioned
    assert one.ids.tolist() == plain.ids.tolist()
    assert one.metadata(one.ids) == plain.metadata(plain.ids)
    assert one.payloads(one.ids) == plain.payloads(plain.ids)
    with again(one) as other:
        assert other._store.facts.partition_by == "tenant"


@pytest.mark.parametrize(
    ("where", "tenants"),
    [
        ({"tenant": "a"}, ["a"]),
        ({"tenant": ["a", 1]}, ["a", 1]),
        ({"tenant": {"==": [1]}}, [[1]]),
        ({"n": 1, "tenant": {"in": ["a", None]}}, ["a", None]),
        ({"tenant": ["a", 1], "and": [{"tenant": [1, 2.5]}, {"n": 0}]}, [1]),
        ({"or": [{"tenant": "a"}, {"tenant": 1, "n": 2}]}, ["a", 1]),
        ({"or": [{"tenant": "a"}, {"n": 2}]}, None),
        ({"or": [{"tenant": "a"}, {"tenant": {">": 0}}]}, None),
        ({"not": {"tenant": "a"}}, None),
        ({"n": 1}, None),
        ({"tenant": {">": 0}}, None),
        ({"tenant": "a", "and": [{"tenant": 1}]}, None),
    ],
)
def test_a_lookup_names_the_partitions_that_its_items_are_in(partitioned, where, tenants):
    one, _ = partitioned
    stored = {
        json.dumps(json.loads(row["metadata"]).get("tenant", "none")): row["partition"]
        for row in one._store.collections.everything(["metadata", "partition"], one._store.facts)
    }
    assert stored["1"] == stored["1.0"], "the same number"
    assert (len(stored), len({*stored.values()})) == (12, 11)
    _, expression = one._store.chosen(parsed(where))
    named = re.match(r"\(partition in \[([-\d, ]+)\]\) and ", expression)
    expected = None if tenants is None else sorted(stored[json.dumps(each)] for each in tenants)
    assert (named and sorted(map(int, named[1].split(",")))) == expected
    assert expression.count("partition") == (expected is not None)


def test_partitions_are_those_of_the_server_and_last(home):
    one = home(partition_by="tenant", dimension=2)
    client = one._store.collections._client

    def keys():
        fields = client.describe_collection(one._store.name)["fields"]
        return [each["name"] for each in fields if each.get("is_partition_key")]

    assert keys() == ["partition"]
    one.add(torch.eye(2), metadata=[{"tenant": "a"}, {}])
    one.clear()
    assert keys() == ["partition"]
    one.add(torch.eye(2), metadata=[{"tenant": "a"}, {}])
    with again(one, partition_by="tenant") as other:
        found = other.lookup(torch.eye(2)[:1], k=2, where={"tenant": "a"})
        assert found.ids.tolist() == [[2, -1]]
    with pytest.raises(GalleryError, match=r"partition_by must be 'tenant', .* got 'n'\. Leave"):
        again(one, partition_by="n")
    with pytest.raises(GalleryError, match=r"partition_by must be None, .* got 'n'\. Leave"):
        again(home(), partition_by="n")
    with pytest.raises(TypeError, match=r"partition_by must be a key of the metadata, .* got 3"):
        home(partition_by=3)


def test_a_gallery_whose_facts_are_older_than_partitions_opens(home):
    one = home(dimension=2)
    one.add(torch.eye(2))
    facts = asdict(one._store.facts)
    del facts["partition_by"]
    assert CollectionFacts(**facts) == one._store.facts
    one._store.collections._put_values(0, [json.dumps({**facts, "batches": 9})])
    with again(one) as other:
        assert (len(other), other._store.facts.batches) == (2, 9)


@pytest.mark.parametrize(
    ("version", "by", "is_apart"),
    [
        ("v2.3.5-lite", "tenant", True),
        ("", "tenant", True),
        ("v2.4.0", "tenant", False),
        ("2.10.1", "tenant", False),
        ("v2.3.5-lite", None, False),
    ],
)
def test_a_server_that_misplaces_what_is_upserted_gets_it_in_two_steps(
    home, monkeypatch, version, by, is_apart
):
    one = home(partition_by=by)
    one.add(torch.eye(2), metadata=[{"tenant": "a"}, {}])
    client, calls = one._store.collections._client, []
    monkeypatch.setattr(client, "get_server_version", lambda **_: version)

    def counted(name, method):
        def called(collection, *given, **more):
            if collection == one._store.name:
                calls.append(name)
            return method(collection, *given, **more)

        return called

    for name in ("insert", "upsert", "delete"):
        monkeypatch.setattr(client, name, counted(name, getattr(client, name)))
    one.upsert(torch.ones(1, 2), ids=[0], metadata=[{"tenant": "b"}])
    one.relabel([1], [4])
    assert calls == (["delete", "insert"] if is_apart else ["upsert"]) * 2
    assert one.labels.tolist() == [4, -1]


# Inside a model


def a_model():
    return lw.SimilarityModel(torch.nn.Identity(), distance=EUCLIDEAN)


def test_a_model_keeps_its_items_in_milvus_and_remembers_where(uri, tmp_path):
    data = lw.data.load((torch.tensor([[0.0, 0], [3, 4], [0, 1], [3, 5]]), ["b", "a", "b", "a"]))
    model, name = a_model(), f"model_{next(numbers)}"
    with model.use_milvus(uri, collection=name):
        model.add_new(data)
        assert (model.gallery, model.collection) == (uri, name)
        assert (model.class_names, len(model.add_new(data))) == (["a", "b"], 0)
        assert not model.is_new(data).any()
        distances, same = torch.tensor([0.5, 9]), torch.tensor([True, False])
        model.calibrations["nearest"] = lw.calibrate(distances, same, rule="nearest")
        matched = model.match([[0.0, 0.9], [50, 50]], threshold=1.0)
        assert matched.labels.tolist() == [1, lw.UNKNOWN]
        model.save(tmp_path / "m")
    again = lw.load(tmp_path / "m", encoder=torch.nn.Identity())
    with again.index as index:
        assert (again.gallery, again.collection, len(index)) == (uri, name, 4)
        assert again.match([[0.0, 0.9], [50, 50]], threshold=1.0).labels.tolist() == [1, -1]
        again.add(torch.tensor([[50.0, 50]]))
        assert set(again.calibrations) == {"nearest"}
        again.use_milvus(uri, collection=name)
        assert set(again.calibrations) == {"nearest"}, "the same items"
        again.index.close()
        again.use_milvus(uri, collection=f"model_{next(numbers)}")
        assert again.calibrations == {}, "a threshold chosen on other items"
        again.index.close()


def test_a_model_finds_a_file_of_milvus_that_was_moved_with_it(tmp_path):
    (tmp_path / "home").mkdir()
    model = a_model()
    with model.use_milvus(tmp_path / "home" / "known.db", collection="items"):
        model.index.add(torch.eye(2))
        model.save(tmp_path / "home" / "m")
    server_manager.server_manager_instance.release_server(str(tmp_path / "home" / "known.db"))
    (tmp_path / "home").rename(tmp_path / "moved")
    again = lw.load(tmp_path / "moved" / "m", encoder=torch.nn.Identity())
    with again.index as index:
        assert index.embeddings.tolist() == [[1, 0], [0, 1]]
    (tmp_path / "moved" / "known.db").rename(tmp_path / "away.db")
    with pytest.raises(lw.ArtifactError, match="gallery must be there for the model"):
        lw.load(tmp_path / "moved" / "m", encoder=torch.nn.Identity())


def test_an_encoder_other_than_that_of_the_collection_is_refused(uri):
    model, name = a_model(), f"model_{next(numbers)}"
    model.use_milvus(uri, collection=name).close()
    other = lw.SimilarityModel(torch.nn.Linear(2, 2), distance=EUCLIDEAN)
    with pytest.raises(GalleryError, match="encoder must be"):
        other.use_milvus(uri, collection=name)


def test_a_model_with_an_encoder_takes_no_collection_without_one_and_the_other_way_around(uri):
    encoded = lw.SimilarityModel(torch.nn.Linear(2, 2), distance=EUCLIDEAN)
    bare, name = f"bare_{next(numbers)}", f"made_{next(numbers)}"
    MilvusGallery(uri, collection=bare, distance=EUCLIDEAN).close()
    with pytest.raises(GalleryError, match=r"encoder must be None, .* Use the model that made"):
        encoded.use_milvus(uri, collection=bare)
    encoded.use_milvus(uri, collection=name).close()
    with pytest.raises(GalleryError, match="must hold embeddings made elsewhere for a model witho"):
        a_model().use_milvus(uri, collection=name)
    with a_model().use_milvus(uri, collection=bare) as index:
        assert len(index) == 0


def test_a_model_is_read_without_its_encoder_where_its_items_are_in_milvus(uri, tmp_path):
    model = lw.SimilarityModel(torch.nn.Linear(2, 2), distance=EUCLIDEAN)
    with model.use_milvus(uri, collection=f"model_{next(numbers)}"):
        model.add((torch.eye(2), ["a", "b"]))
        model.save(tmp_path / "m")
    left_out = lw.load(tmp_path / "m", without_encoder=True)
    with left_out.index as index:
        assert (len(index), left_out.class_names) == (2, ["a", "b"])
        assert left_out.collection == model.collection


def test_the_command_line_keeps_known_items_in_milvus(uri, tmp_path, run):
    a_model().save(tmp_path / "m")
    np.savez(tmp_path / "v.npz", x=np.eye(2), y=["a", "b"])
    name = f"cli_{next(numbers)}"
    index = ("index", tmp_path / "m", tmp_path / "v.npz", "--milvus", uri)
    status, out, err = run(*index, "--collection", name)
    assert status == 0, err
    assert out == f"added 2 items; {name} of Milvus at {uri} holds 2\n"
    status, out, err = run("lookup", tmp_path / "m", tmp_path / "v.npz", "-k", 1)
    assert status == 0, err
    assert out.splitlines()[1].split()[:2] == ["a", "0.0000"]
    for more, message in (
        ([], "--milvus must come with --collection"),
        (["--collection", name, "--gallery", tmp_path / "g"], "left out with --gallery"),
    ):
        status, _, err = run(*index, *more)
        assert (status, message in err) == (2, True), err


def test_the_command_line_asks_milvus_for_a_recall(uri, tmp_path, run, monkeypatch):
    asked = []
    use_milvus = lw.SimilarityModel.use_milvus

    def used(model, *given, **named):
        asked.append(named.get("recall"))
        return use_milvus(model, *given, **named)

    monkeypatch.setattr(lw.SimilarityModel, "use_milvus", used)
    a_model().save(tmp_path / "m")
    np.savez(tmp_path / "v.npz", x=np.eye(2), y=["a", "b"])
    index = ("index", tmp_path / "m", tmp_path / "v.npz")
    status, _, err = run(
        *index, "--milvus", uri, "--collection", f"cli_{next(numbers)}", "--recall", 0.9
    )
    assert (status, asked) == (0, [0.9]), err
    status, out, err = run(*index, "--recall", 0.8)
    assert (status, asked[-1]) == (0, 0.8), err
    assert "lookups by exact search" in out


def test_the_command_line_keeps_items_in_partitions(uri, tmp_path, run):
    a_model().save(tmp_path / "m")
    np.savez(tmp_path / "v.npz", x=np.eye(2), y=["a", "b"])
    index = ("index", tmp_path / "m", tmp_path / "v.npz", "--milvus-partition-by", "source")
    status, _, err = run(*index)
    assert (status, "--milvus-partition-by must come with --milvus" in err) == (2, True), err
    name = f"cli_{next(numbers)}"
    status, _, err = run(*index, "--milvus", uri, "--collection", name)
    assert status == 0, err
    with MilvusGallery(uri, collection=name, partition_by="source") as one:
        source = one.metadata([0])[0]["source"]
        found = one.lookup(torch.eye(2), k=2, where={"source": source})
        assert found.ids.tolist() == [[0, 1], [1, 0]]
