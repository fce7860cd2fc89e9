"""The gallery in Milvus against a real server: every verb, every index type, refusals and kills.

The server is started here, on loopback, where LIKEWISE_MILVUS_PYTHON names a Python that has the
package `milvus`; see `milvus_servers`.
"""

import itertools
import subprocess
import time
from contextlib import suppress

import pytest
import torch

import likewise as lw
import milvus_partitions
import milvus_servers
from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT, SQUARED_EUCLIDEAN
from likewise.index import GalleryError, Index, MilvusGallery

pytest.importorskip("pymilvus", reason="needs pip install likewise[milvus]")
if (why := milvus_servers.why_not()) is not None:
    pytest.skip(why, allow_module_level=True)

numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One for all tests here."""
    one = milvus_servers.Server(tmp_path_factory.mktemp("milvus"))
    one.start()
    yield one
    one.stop()


def gallery(server, collection=None, **options):
    options = {"distance": EUCLIDEAN, "timeout": 20.0, **options}
    return MilvusGallery(server.uri, collection=collection or f"c{next(numbers)}", **options)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ids", [None, "texts"])
def test_every_verb_does_what_it_does_in_memory(server, ids):
    stored, queries = gaussian(90, 6).round(decimals=1), gaussian(7, 6, seed=1)
    stored[50:60] = stored[:10]  # ties
    names = None if ids is None else [f"i{n}" for n in range(90)]
    some = range(0, 90, 9) if ids is None else names[::9]
    new = [3, 900] if ids is None else ["i3", "x'\"\\"]
    plain = Index(EUCLIDEAN)
    with gallery(server) as one:
        for each in (one, plain):
            each.add(
                stored,
                ids=names,
                labels=["a", "b", "c"] * 30,
                metadata=[{"n": n, "side": "lr"[n % 2]} for n in range(90)],
                payloads=[b"x", None] * 45,
            )
            each.remove(some)
            each.upsert(stored[:2] + 1, ids=new, labels=["d", "a"], metadata=[{"n": 5}, {}])
            each.relabel(new[:1], ["b"])
        with gallery(server, one._store.name) as again:
            for seen in (one, again):
                found, expected = seen.lookup(queries, k=20), plain.lookup(queries, k=20)
                assert found.ids.tolist() == expected.ids.tolist()
                assert found.distances.tolist() == expected.distances.tolist()
                assert found.names == expected.names
                assert seen.ids.tolist() == plain.ids.tolist()
                assert (seen.embeddings == plain.embeddings).all()
                for where in ({"side": "l"}, {"n": {">=": 70}, "side": "r"}, {"not": {"n": 5}}):
                    found = seen.lookup(queries, k=50, where=where)
                    expected = plain.lookup(queries, k=50, where=where)
                    assert found.ids.tolist() == expected.ids.tolist(), where
                kept = plain.get(new)
                assert seen.get(new).labels.tolist() == kept.labels.tolist()
                assert seen.metadata(new) == plain.metadata(new)
                assert seen.payloads(new) == plain.payloads(new)
                told, of_plain = seen.summary(), plain.summary()
                assert told.items_per_class == of_plain.items_per_class
                assert (told.items, told.search, told.batches) == (len(plain), "exact", 4)
        assert one.clear() == len(plain)
        assert (len(one), one.dimension) == (0, 6)


def test_partitions_change_no_answer(server):
    plain = Index(EUCLIDEAN)
    with gallery(server, partition_by="tenant") as one:
        for each in (one, plain):
            milvus_partitions.fill(each)
        for where in (
            *({"tenant": {"==": value}} for value in milvus_partitions.TENANTS),
            {"tenant": "new"},
            {"tenant": ["a", 1, True]},
            {"tenant": "a", "n": [0, 1]},
            {"n": 9},
            {"not": {"tenant": ["a", 1]}},
            {"or": [{"tenant": "1"}, {"tenant": "a", "not": {"n": 1}}]},
            {"or": [{"tenant": "1"}, {"n": 2}]},
            {"tenant": {">": 0}},
        ):
            expected = milvus_partitions.answers(plain, where)
            assert milvus_partitions.answers(one, where) == expected, where


@pytest.mark.parametrize(
    "distance", [COSINE, SQUARED_EUCLIDEAN, INNER_PRODUCT], ids=lambda d: d.name
)
def test_every_distance_ranks_as_its_definition(server, distance):
    stored, queries, plain = gaussian(60, 3), gaussian(5, 3, seed=1), Index(distance)
    with gallery(server, distance=distance) as one:
        for each in (one, plain):
            each.add(stored)
        found, expected = one.lookup(queries, k=9), plain.lookup(queries, k=9)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.distances.tolist() == expected.distances.tolist()


TYPES = [
    ("HNSW", {"M": 4, "efConstruction": 8}, "ef"),
    ("IVF_FLAT", {"nlist": 64}, "nprobe"),
    ("IVF_SQ8", {"nlist": 64}, "nprobe"),
]


@pytest.mark.parametrize(("kind", "params", "effort"), TYPES, ids=lambda each: str(each)[:8])
def test_an_approximate_index_is_searched_as_hard_as_the_recall_takes(server, kind, params, effort):
    stored, queries, plain = gaussian(4000, 16), gaussian(50, 16, seed=1), Index(EUCLIDEAN)
    plain.add(stored)
    with gallery(server, index_type=kind, index_params=params, recall=0.9) as one:
        one.add(stored)
        assert "not measured" in one.summary().search
        one.wait()
        by, told = one.searched_by, one._store._tuned
        assert by.kind == f"{kind} of Milvus, {effort} {told.params[effort]}"
        assert by.recall >= 0.9
        found, expected = one.lookup(queries, k=10), plain.lookup(queries, k=10)
        share = (found.distances <= expected.distances[:, -1:]).float().mean()
        assert share > 0.85
        if kind != "HNSW":  # what is kept is the same for every type
            return
        with gallery(server, one._store.name) as again:
            assert (again.searched_by, again.recall) == (by, 0.9)
        with gallery(server, one._store.name, recall=0.5) as again:
            again.wait()
            assert again._store._tuned.params[effort] < told.params[effort]
            assert again.searched_by.recall >= 0.5
        with gallery(server, one._store.name, search_params={effort: 64}) as again:
            again.wait()
            assert again.searched_by.kind.endswith(f"{effort} 64")
            assert again.recall is None


def test_another_index_of_the_same_items_is_built_in_place(server):
    stored, plain = gaussian(2000, 8), Index(EUCLIDEAN)
    plain.add(stored)
    with gallery(server, index_type="HNSW") as one:
        one.add(stored)
        one.reindex("FLAT")
        assert one.searched_by.kind == "exact"
        expected = plain.lookup(stored[:9] + 0.1, k=5)
        assert one.lookup(stored[:9] + 0.1, k=5).ids.tolist() == expected.ids.tolist()
        with pytest.raises(GalleryError, match="uri must lead to a Milvus server that does what"):
            one.reindex("NO_SUCH_INDEX")
        assert one.lookup(stored[:9] + 0.1, k=5).ids.tolist() == expected.ids.tolist()
        with pytest.raises(GalleryError, match=r"index_type must be 'FLAT', .* reindex it"):
            gallery(server, one._store.name, index_type="HNSW")


@pytest.mark.parametrize(
    "options",
    [{"index_type": "NO_SUCH_INDEX"}, {"index_type": "HNSW", "index_params": {"M": 100000}}],
)
def test_what_the_server_refuses_is_one_sentence_and_leaves_nothing(server, options):
    name = f"c{next(numbers)}"
    with pytest.raises(GalleryError, match="uri must lead to a Milvus server that does what") as e:
        gallery(server, name, dimension=3, **options)
    assert "\n" not in str(e.value)
    with gallery(server, name, dimension=3) as one:  # the name is free
        one.add(torch.eye(3))
        assert len(one) == 3


@pytest.mark.parametrize("consistency", ["Bounded", "Session", "Eventually"])
def test_a_weaker_consistency_is_seen_in_the_end(server, consistency):
    with gallery(server, consistency=consistency, shards=2) as one:
        one.add(torch.eye(4), labels=["a"] * 4)
        one.upsert(torch.ones(1, 4), ids=[2], labels=["b"])  # which sees the first
        end = time.monotonic() + 30
        found = None
        while found != [2] and time.monotonic() < end:
            with suppress(ValueError):  # that there is none
                found = one.lookup(torch.ones(1, 4), k=1).ids[0].tolist()
        assert found == [2]
        with pytest.raises(GalleryError, match="consistency must be"):
            gallery(server, one._store.name, consistency="Strong")


def test_calibration_counts_what_the_server_misses(server):
    labels = torch.arange(40).repeat_interleave(30)
    centers = gaussian(40, 8)

    def data(seed, count):
        rng = torch.Generator().manual_seed(seed)
        some = labels[torch.randperm(len(labels), generator=rng)[:count]]
        rows = centers[some] + 0.6 * torch.randn(count, 8, generator=rng)
        return lw.data.load((rows, [f"c{code}" for code in some.tolist()]))

    model, aside = lw.SimilarityModel(torch.nn.Identity(), distance=EUCLIDEAN), data(2, 200)
    with model.use_milvus(
        server.uri,
        collection=f"c{next(numbers)}",
        index_type="IVF_FLAT",
        index_params={"nlist": 256},
        search_params={"nprobe": 1},
    ) as one:
        model.add(data(1, 1100))
        made = model.calibrate(aside)
        assert made.search == "IVF_FLAT of Milvus, nprobe 1"
        assert made.search_recall == one.searched_by.recall
        assert made.search_recall < 0.99
        found = model.match(aside)
        told = zip(found.names, aside.labels.tolist(), strict=True)
        right = sum(name == aside.class_names[code] for name, code in told) / len(aside)
        assert made.identification_rate.value == pytest.approx(right, abs=0.02)


def test_a_killed_server_is_one_sentence_and_what_it_acknowledged_is_there(server):
    name = f"c{next(numbers)}"
    with gallery(server, name, timeout=3.0) as one:
        one.add(gaussian(50, 4), labels=["a", "b"] * 25)
        server.kill()
        for verb in (
            lambda: len(one),
            lambda: one.lookup(torch.ones(1, 4), k=1),
            lambda: one.add(torch.ones(1, 4)),
            lambda: one.remove([1]),
        ):
            started = time.monotonic()
            with pytest.raises(GalleryError, match="uri must lead to a Milvus server") as error:
                verb()
            assert "\n" not in str(error.value)
            assert time.monotonic() - started < 30
        server.start()
    again = opened_in_the_end(server, name)
    with again:
        assert again.labels.tolist() == [0, 1] * 25
        assert (again.embeddings == gaussian(50, 4)).all()
        assert again.add(torch.ones(1, 4)).tolist()[0] >= 50


def opened_in_the_end(server, name, seconds=90):
    """The gallery, once the server has read what it kept."""
    end = time.monotonic() + seconds
    while True:
        try:
            one = gallery(server, name)
            len(one)
            return one
        except GalleryError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def test_a_server_that_asks_for_a_token_and_speaks_tls(server, tmp_path):
    server.stop()  # only one can run at a time; no test comes after this one
    pem = {name: tmp_path / f"{name}.pem" for name in ("server", "key")}
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    asked = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext {names}"
    made = subprocess.run(
        ["openssl", *asked.split(), "-keyout", pem["key"], "-out", pem["server"]],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("needs openssl")
    one = milvus_servers.Server(
        tmp_path / "data",
        authorization_enabled=True,
        tls_mode=1,
        server_pem_path=str(pem["server"]),
        server_key_path=str(pem["key"]),
    )
    try:
        one.start()
        uri, found = f"https://localhost:{one.port}", {"server_pem_path": str(pem["server"])}
        with MilvusGallery(
            uri, collection="a", token="root:Milvus", connection=found, timeout=10
        ) as known:
            known.add(torch.eye(3))
            assert known.lookup(torch.eye(3)[:1], k=1).ids.tolist() == [[0]]
        for token, where in (("root:wrong", uri), ("root:Milvus", one.uri)):
            with pytest.raises(GalleryError, match="uri must lead to a Milvus server"):
                MilvusGallery(where, collection="a", token=token, connection=found, timeout=3)
    finally:
        one.stop()
