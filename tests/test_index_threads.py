"""Homes of known items under threads, copies and forks."""

import copy
import os
import sys
import threading
import traceback

import numpy as np
import pytest
import torch

from likewise.distances import EUCLIDEAN
from likewise.errors import GalleryError
from likewise.index import Gallery, Index
from likewise.index._searching import approximate
from likewise.index._snapshots import Columns
from likewise.index._where import parsed


@pytest.fixture
def fast_switching():
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["index", "gallery"])
def one(request, tmp_path):
    if request.param == "index":
        yield Index(EUCLIDEAN)
        return
    with Gallery(tmp_path / "g", distance=EUCLIDEAN) as gallery:
        yield gallery


def all_at_once(*calls):
    """Run each in a thread of its own; raises what any of them raised."""
    errors, start = [], threading.Barrier(len(calls))

    def run(call):
        start.wait()
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def row(number):
    """The embedding of the item with this number, from which every answer can be told."""
    return torch.tensor([[float(number), 1.0]])


@pytest.mark.usefixtures("fast_switching")
def test_threads_that_add_lose_nothing(one):
    one.add(torch.cat([row(n) for n in range(20)]), ids=[f"s{n}" for n in range(20)])

    def add(name):
        for n in range(10):
            one.add(torch.zeros(5, 2), ids=[f"{name}-{n}-{m}" for m in range(5)])

    def look():
        for _ in range(20):
            one.lookup(torch.zeros(2, 2), k=3)

    all_at_once(*[lambda name=name: add(name) for name in "abcd"], look, look)
    assert len(one) == len(set(one.ids.tolist())) == 220
    assert len(one.labels) == len(one.embeddings) == len(one.metadata(one.ids)) == 220


@pytest.mark.usefixtures("fast_switching")
def test_what_a_thread_reads_belongs_together_while_others_write(one):
    numbers, last = range(40), 60 if isinstance(one, Gallery) else 100
    one.add(
        torch.cat([row(n) for n in numbers]),
        ids=[f"i{n}" for n in numbers],
        labels=[n % 7 for n in numbers],
        metadata=[{"n": n, "odd": n % 2} for n in numbers],
    )
    done = threading.Event()

    def write():
        try:
            for n in range(40, last):
                one.add(row(n), ids=[f"i{n}"], labels=[n % 7], metadata=[{"n": n, "odd": n % 2}])
                one.remove([f"i{n - 20}"])
                one.upsert(row(n), ids=[f"i{n}"], labels=[n % 7], metadata=[{"n": n, "odd": n % 2}])
                one.relabel([f"i{n}"], [n % 7])
        finally:
            done.set()

    def look(seed):
        where = {"odd": 1} if seed % 2 else None
        while not done.is_set():
            found = one.lookup(torch.cat([row(seed % 90), row(50)]), k=4, where=where)
            for query, ids, distances, labels in zip(
                (seed % 90, 50),
                found.ids.tolist(),
                found.distances.tolist(),
                found.labels.tolist(),
                strict=True,
            ):
                for id_, distance, label in zip(ids, distances, labels, strict=True):
                    number = int(id_[1:])
                    assert distance == abs(query - number)
                    assert label == number % 7
                    assert where is None or number % 2
            summary = one.summary()
            assert summary.items == sum(summary.items_per_class.values())
            seed += 1
        if not isinstance(one, Gallery):
            state = copy.copy(one).state()
            told = [int(id_[1:]) for id_ in state["ids"].tolist()]
            assert [m["n"] for m in state["metadata"]] == told
            assert state["embeddings"][:, 0].tolist() == told
            assert state["labels"].tolist() == [n % 7 for n in told]

    all_at_once(write, lambda: look(0), lambda: look(1), lambda: look(2))
    assert sorted(one.ids.tolist()) == sorted(
        f"i{n}" for n in [*range(20), *range(last - 20, last)]
    )


def test_a_search_that_began_before_a_removal_answers_of_what_was_there():
    index = Index(EUCLIDEAN)
    index.add(torch.cat([row(n) for n in range(200)]))
    index.lookup(row(7), k=1)
    before = index._store.newest()
    index.remove(range(0, 200, 2))
    index.lookup(row(7), k=1)
    distances, rows = before.searching.nearest(row(8), before.packed, 3)
    assert before.ids_at(rows.numpy()).tolist() == [[8, 7, 9]]
    assert distances.tolist() == [[0, 1, 1]]
    assert index.lookup(row(8), k=2).ids.tolist() == [[7, 9]]


def test_an_approximate_search_that_gave_its_lists_away_is_exact(monkeypatch):
    monkeypatch.setattr(approximate, "EXACT_UP_TO", 1000)
    rows = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    index = Index(EUCLIDEAN, recall=0.9)
    index.add(rows)
    index.lookup(rows[:1], k=1)
    index.wait()
    index.lookup(rows[:1], k=1)
    before = index._store.newest()
    assert before.search[0].startswith("IVF")
    index.remove([0, 5])
    assert index.summary().search.startswith("IVF")
    distances, found = before.searching.nearest(rows[:9], before.packed, 1)
    assert found.flatten().tolist() == list(range(9))
    assert distances.flatten().tolist() == [0] * 9
    assert index.lookup(rows[1:2], k=1).ids.tolist() == [[1]]
    assert not {0, 5} & set(index.lookup(rows[:9], k=9).ids.flatten().tolist())


def test_a_filter_of_older_items_is_not_misled_by_what_was_read_of_newer_ones():
    index = Index(EUCLIDEAN)
    index.add(torch.cat([row(n) for n in range(6)]), metadata=[{"n": n} for n in range(6)])
    before = index._store.newest()
    index.remove([2])
    index.lookup(row(0), k=1, where={"n": 3})  # reads all but item 2
    allowed = index._store.allowed(before, parsed({"n": [2, 3]}))
    assert allowed.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("verb", ["add", "upsert", "remove", "relabel", "replace"])
def test_what_is_interrupted_leaves_all_as_it_was(monkeypatch, verb):
    index = Index(EUCLIDEAN)
    index.add(
        torch.cat([row(n) for n in range(3)]),
        ids=["a", "b", "c"],
        labels=[0, 1, 2],
        metadata=[{"n": n} for n in range(3)],
    )
    calls = {
        "add": lambda: index.add(row(9), ids=["d"], labels=[4], metadata=[{"n": 9}]),
        "upsert": lambda: index.upsert(row(9), ids=["b"], labels=[4], metadata=[{"n": 9}]),
        "remove": lambda: index.remove(["a"]),
        "relabel": lambda: index.relabel(["a"], [5]),
        "replace": lambda: index.replace(row(2), ids=["c"], labels=[3]),
    }

    def state():
        told = index.state()
        return {
            key: value.tolist() if hasattr(value, "tolist") else value
            for key, value in told.items()
        }

    before = state()
    with monkeypatch.context() as patch:

        def interrupted(*args):
            raise KeyboardInterrupt

        patch.setattr(Columns, "snapshot", _once(Columns.snapshot, interrupted))
        with pytest.raises(KeyboardInterrupt):
            calls[verb]()
    assert state() == before
    assert index.lookup(row(2), k=1).ids.tolist() == [["c"]]
    calls[verb]()
    assert state() != before
    index.add(row(7), ids=["e"], labels=[1], metadata=[{"n": 7}])
    assert index.lookup(row(7), k=1).ids.tolist() == [["e"]]
    assert index.metadata(["e"]) == [{"n": 7}]


def _once(function, first):
    """`first` at the first call, `function` at all others."""
    called = []

    def call(*args):
        called.append(1)
        return (first if len(called) == 1 else function)(*args)

    return call


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy])
def test_a_copy_changes_alone(take):
    index = Index(EUCLIDEAN, class_names=["x"], storage="float16", recall=0.9)
    index.add(
        torch.cat([row(1), row(2)]), ids=["a", "b"], labels=["x", "y"], metadata=[{"n": 1}, {}]
    )
    index.relabel(["a"], ["y"])
    copied = take(index)
    for each, other in ((index, copied), (copied, index)):
        before = other.ids.tolist()
        each.add(row(5), ids=["own"], labels=["own"], metadata=[{"m": 3}])
        each.remove(["a"])
        assert other.ids.tolist() == before
        assert other.labels.tolist() == [1, 1] or "a" not in before
    for each in (index, copied):
        assert each.ids.tolist() == ["b", "own"]
        assert each.class_names == ["x", "y", "own"]
        assert each.metadata(["own", "b"]) == [{"m": 3}, {}]
        assert each.lookup(row(5), k=2).ids.tolist() == [["own", "b"]]
        assert (each.storage, each.recall, each.summary().search) == ("float16", 0.9, "exact")
    shares = np.shares_memory(copy.copy(index).embeddings.numpy(), index.embeddings.numpy())
    assert not shares, "float16 is unpacked anew"


def test_a_shallow_copy_shares_memory_and_a_deep_one_does_not():
    index = Index(EUCLIDEAN)
    index.add(row(1))
    address = index.embeddings.data_ptr()
    assert copy.copy(index).embeddings.data_ptr() == address
    assert copy.deepcopy(index).embeddings.data_ptr() != address


def test_clearing_is_one_step(one, monkeypatch):
    one.add(torch.zeros(3, 2))
    monkeypatch.setattr(type(one), "remove", None)  # which would look at the ids a second time
    assert one.clear() == 3
    assert one.clear() == 0
    assert len(one) == 0


# Forks


def in_child(work):
    """What `work` returns in a fork of this process, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(work())
        except BaseException:
            said = traceback.format_exc()
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_may_not_use_an_open_gallery_but_open_it(tmp_path):
    path = tmp_path / "g"
    with Gallery(path, distance=EUCLIDEAN) as gallery:
        gallery.add(torch.cat([row(1), row(2)]), metadata=[{"n": 1}, {}])

        def child():
            said = []
            for use in (
                lambda: gallery.add(row(3)),
                lambda: gallery.remove([0]),
                lambda: gallery.lookup(row(1), k=1),
                lambda: gallery.metadata([0]),
                lambda: len(gallery),
            ):
                try:
                    use()
                except GalleryError as error:
                    said.append(str(error))
            gallery.close()
            right = ["Open the gallery in the child" in sentence for sentence in said]
            with Gallery(path, read_only=True) as own:
                return sum(right), len(own), own.lookup(row(2), k=1).ids.tolist()

        assert in_child(child) == "(5, 2, [[1]])"
        assert gallery.add(row(3)).tolist() == [2]  # the child took nothing away

        def write():
            try:
                Gallery(path)
            except GalleryError as error:
                return str(error)

        assert "one writer at a time" in in_child(write)
    with Gallery(path) as again:
        assert again.ids.tolist() == [0, 1, 2]


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_index_is_each_processs_own_after_a_fork():
    index = Index(EUCLIDEAN)
    index.add(torch.cat([row(1), row(2)]))

    def child():
        index.add(row(3))
        index.remove([0])
        return index.lookup(row(3), k=2).ids.tolist()

    assert in_child(child) == "[[2, 1]]"
    assert index.ids.tolist() == [0, 1]
