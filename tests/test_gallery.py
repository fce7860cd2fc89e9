import gc
import json
import os
import shutil
import sqlite3
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from likewise.distances import COSINE, EUCLIDEAN, MANHATTAN, Distance
from likewise.errors import InputError
from likewise.index import Gallery, GalleryError, Index, check_gallery, repair_gallery
from likewise.index._durable import folder, mapped
from likewise.index._durable.checksums import relabeled, row_checksums, total
from likewise.index._durable.contract import (
    Facts,
    acknowledge,
    create_acknowledged,
    last_acknowledged,
)
from likewise.index._snapshots import Held


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(path, **options):
    gallery = Gallery(path, distance=EUCLIDEAN, **options)
    gallery.add(
        gaussian(30, 4),
        labels=["a", "b", "c"] * 10,
        metadata=[{"n": n} for n in range(30)],
        payloads=[b"thumbnail %d" % n if n % 2 else None for n in range(30)],
    )
    return gallery


def content(gallery):
    ids = gallery.ids.tolist()
    return (
        ids,
        gallery.embeddings.tolist(),
        gallery.labels.tolist(),
        gallery.class_names,
        gallery.metadata(ids),
        gallery.payloads(ids),
    )


# What lasts


def test_a_gallery_that_is_forgotten_gives_its_folder_back(tmp_path):
    gc.disable()
    try:
        gallery = Gallery(tmp_path / "known", distance=EUCLIDEAN, dimension=2)
        gallery.add(torch.zeros(1, 2), labels=[0])
        del gallery
        with Gallery(tmp_path / "known") as again:
            assert len(again) == 1
    finally:
        gc.enable()


def test_a_gallery_opened_again_is_the_same(tmp_path):
    with filled(tmp_path / "g", encoder="e1") as gallery:
        gallery.remove([3, 4])
        gallery.upsert(torch.ones(2, 4), ids=[5, 99], labels=["d", "a"], payloads=[b"", None])
        gallery.relabel([0], ["d"])
        before, found = content(gallery), gallery.lookup(gaussian(9, 4, seed=1), k=7)
    with Gallery(tmp_path / "g") as gallery:
        assert content(gallery) == before
        again = gallery.lookup(gaussian(9, 4, seed=1), k=7)
        assert (again.ids == found.ids).all()
        assert (again.distances == found.distances).all()
        assert gallery.add(torch.ones(1, 4)).tolist() == [100]
        assert (gallery.distance, gallery.encoder, gallery.dimension) == (EUCLIDEAN, "e1", 4)
        assert gallery.summary().batches == 5
        assert repr(gallery) == f"Gallery('{tmp_path}/g', euclidean, 30 items, dimension 4)"


def test_ids_of_removed_items_are_not_handed_out_again_after_opening(tmp_path):
    with filled(tmp_path / "g") as gallery:
        gallery.clear()
    with Gallery(tmp_path / "g") as gallery:
        assert len(gallery) == 0
        assert gallery.dimension == 4
        assert gallery.add(torch.ones(1, 4)).tolist() == [30]


def test_string_ids_are_found_after_opening(tmp_path):
    ids = [f"größe {n * 7919 % 1000}" for n in range(500)]
    with Gallery(tmp_path / "g") as gallery:
        for start in range(0, 500, 50):
            gallery.add(gaussian(50, 3, seed=start), ids=ids[start : start + 50])
        gallery.remove(ids[10:300])
    with Gallery(tmp_path / "g") as gallery:
        assert gallery.ids.tolist() == ids[:10] + ids[300:]
        assert gallery.get([ids[400], ids[3]]).embeddings.tolist() == [
            gaussian(50, 3, seed=400)[0].tolist(),
            gaussian(50, 3, seed=0)[3].tolist(),
        ]
        with pytest.raises(ValueError, match="got unknown"):
            gallery.get([ids[10]])


# The contract

OTHERS = [
    ({"distance": MANHATTAN}, r"distance must be 'euclidean', .* got 'manhattan'"),
    ({"encoder": "e2"}, r"encoder must be 'e1', .* got 'e2'"),
    ({"dimension": 5}, r"dimension must be 4, .* got 5"),
    ({"storage": "int8"}, r"storage must be 'float32', .* got 'int8'"),
    ({"class_names": ["b"]}, r"class_names must be \['a'\], .* got \['b'\]"),
]


@pytest.mark.parametrize("dimension", [0, -1, 2.5, "3"])
def test_a_gallery_of_no_dimension_is_refused_before_it_is_made(tmp_path, dimension):
    with pytest.raises(InputError, match=f"dimension must be .*, got {dimension!r}"):
        Gallery(tmp_path / "g", distance=EUCLIDEAN, dimension=dimension)
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(("options", "message"), OTHERS)
def test_a_gallery_refuses_what_it_was_not_made_for(tmp_path, options, message):
    with filled(tmp_path / "g", encoder="e1") as gallery:
        before = content(gallery)
    with pytest.raises(GalleryError, match=message):
        Gallery(tmp_path / "g", **options)
    same = {"distance": EUCLIDEAN, "encoder": "e1", "dimension": 4, "class_names": ["a", "b"]}
    with Gallery(tmp_path / "g", **same) as gallery:
        assert content(gallery) == before


def test_arguments_that_no_gallery_can_be_made_for(tmp_path):
    own = Distance("cosine", COSINE.matrix, lambda a, b: COSINE.paired(a, b))
    with pytest.raises(TypeError, match=r"distance must be one of likewise\.distances"):
        Gallery(tmp_path / "g", distance=own)
    with pytest.raises(TypeError, match="encoder must be text, got 5"):
        Gallery(tmp_path / "g", encoder=5)
    with pytest.raises(ValueError, match="encoder must have at most 500"):
        Gallery(tmp_path / "g", encoder="x" * 501)
    with pytest.raises(ValueError, match="class_names must all differ"):
        Gallery(tmp_path / "g", class_names=["a", "a"])
    with pytest.raises(ValueError, match="storage must be one of float16, float32, int8"):
        Gallery(tmp_path / "g", storage="float8")
    with pytest.raises(GalleryError, match="path must be the folder of a gallery"):
        Gallery(tmp_path / "g", read_only=True)
    assert not (tmp_path / "g").exists()
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(GalleryError, match=r"path must be a new folder or a gallery"):
            Gallery(path)


def test_text_that_no_file_can_hold_is_refused(tmp_path):
    with Gallery(tmp_path / "g") as gallery:
        with pytest.raises(ValueError, match="text must be valid Unicode"):
            gallery.add(torch.ones(1, 2), ids=["\ud800"])
        with pytest.raises(ValueError, match="text must be valid Unicode"):
            gallery.add(torch.ones(1, 2), labels=["\ud800"])
        assert len(gallery) == 0


@pytest.mark.parametrize("payloads", [["x"], b"x", [1], "x"])
def test_payloads_are_bytes(tmp_path, payloads):
    with Gallery(tmp_path / "g") as gallery:
        with pytest.raises(TypeError, match="payloads must be"):
            gallery.add(torch.ones(1, 2), payloads=payloads)
        with pytest.raises(ValueError, match="payloads must hold one entry per item, 1, got 2"):
            gallery.add(torch.ones(1, 2), payloads=[b"", b""])
        assert len(gallery) == 0


# Several threads and processes


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path):
    with filled(tmp_path / "g") as gallery:
        with pytest.raises(GalleryError, match="gallery must have one writer at a time"):
            Gallery(tmp_path / "g")
        with Gallery(tmp_path / "g", read_only=True) as reader:
            assert content(reader) == content(gallery)
            with pytest.raises(GalleryError, match="must be opened for writing"):
                reader.add(torch.ones(1, 4))
    Gallery(tmp_path / "g").close()


def test_a_closed_gallery_says_so(tmp_path):
    gallery = filled(tmp_path / "g")
    gallery.close()
    gallery.close()
    for use in (
        lambda: gallery.lookup(torch.ones(1, 4), k=1),
        lambda: gallery.add(torch.ones(1, 4)),
        lambda: gallery.metadata([1]),
        lambda: len(gallery),
        lambda: gallery.backup(tmp_path / "b"),
    ):
        with pytest.raises(GalleryError, match="gallery must be open"):
            use()


def test_a_reader_takes_in_only_what_changed(tmp_path, monkeypatch):
    with filled(tmp_path / "g") as gallery, Gallery(tmp_path / "g", read_only=True) as reader:
        monkeypatch.setattr(folder.InFolder, "_load", None)  # to read everything would fail
        steps = [
            lambda: gallery.add(torch.ones(3, 4), labels=["x", "a", "y"]),
            lambda: gallery.remove([5, 6, 31]),
            lambda: gallery.relabel([7, 8], ["x", "c"]),
            lambda: (gallery.relabel([7], ["y"]), gallery.upsert(torch.ones(1, 4), ids=[7])),
            lambda: (gallery.add(torch.zeros(2, 4), ids=[5, 77]), gallery.remove([77, 0])),
        ]
        for step in steps:
            step()
            assert content(reader) == content(gallery)


def test_a_reader_follows_a_gallery_that_was_compacted_or_changed_its_ids(tmp_path):
    with filled(tmp_path / "g") as gallery, Gallery(tmp_path / "g", read_only=True) as reader:
        gallery.remove(range(20))
        gallery.compact()
        gallery.add(torch.ones(3, 4))
        assert content(reader) == content(gallery)
        gallery.clear()
        gallery.add(torch.ones(2, 4), ids=["x", "y"])
        assert content(reader) == content(gallery)


def test_threads_see_whole_batches_while_one_writes(tmp_path):
    size, wrong, seen, done = 20, [], [], threading.Event()
    with Gallery(tmp_path / "g", distance=EUCLIDEAN) as gallery:
        gallery.add(torch.zeros(size, 4))

        def look():
            while not done.is_set():
                found = gallery.lookup(torch.full((1, 4), float(len(seen) % 15)), k=size)
                seen.append(int((found.distances == 0).sum()))
                if seen[-1] not in (0, size):
                    wrong.append(seen[-1])

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for batch in range(1, 15):
            ids = gallery.add(torch.full((size, 4), float(batch)), metadata=[{"b": batch}] * size)
            if batch % 3 == 0:
                gallery.remove(ids)
            assert gallery.lookup(torch.zeros(1, 4), k=1, where={"b": 1}).labels.shape == (1, 1)
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert seen


def test_an_interrupted_batch_is_there_whole(tmp_path, monkeypatch):
    with filled(tmp_path / "g") as gallery:
        take_in = Held.take_in
        monkeypatch.setattr(Held, "take_in", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gallery.add(torch.ones(2, 4), ids=[40, 41])
        monkeypatch.setattr(Held, "take_in", take_in)
        assert gallery.add(torch.ones(1, 4)).tolist() == [42]
        assert gallery.ids.tolist() == [*range(30), 40, 41, 42]


# Opening by mapping


def test_a_gallery_is_opened_without_reading_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LEAST", 1)
    for name, ids in (("g", None), ("h", [f"é{n * 7919 % 1000}" for n in range(30)])):
        for storage in ("float32", "float16", "int8"):
            path = tmp_path / name / storage
            with Gallery(path, storage=storage) as gallery:
                gallery.add(gaussian(30, 5), ids=ids, labels=["a", "b", "c"] * 10)
                gallery.remove(gallery.ids[3:5])
                gallery.relabel(gallery.ids[:1], ["c"])
                before = content(gallery)
            with monkeypatch.context() as patch:
                patch.setattr(folder.InFolder, "_load", None)  # to read everything would fail
                with Gallery(path) as gallery, Gallery(path, read_only=True) as reader:
                    for each in (gallery, reader):
                        assert content(each) == before
                    gallery.relabel(gallery.ids[2:3], ["new"])
                    gallery.upsert(torch.ones(2, 5), ids=[gallery.ids[1], gallery.ids[-1]])
                    gallery.remove(gallery.ids[:9])
                    before = content(gallery)
                    assert content(reader) == before
                with Gallery(path, read_only=True) as reader:
                    assert content(reader) == before


def test_a_mapped_file_that_is_old_or_altered_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LEAST", 1)
    filled(tmp_path / "g").close()
    file = tmp_path / "g" / mapped.MAPPED
    with Gallery(tmp_path / "g") as gallery:
        gallery.relabel([3], ["c"])
        before, old = content(gallery), file.read_bytes()
    new = file.read_bytes()
    assert old != new
    monkeypatch.setattr(mapped, "write_mapped", lambda folder, snapshot: None)
    for at in [*range(0, len(new), 397), 1, 6]:
        flipped = bytearray(new)
        flipped[at] ^= 16
        file.write_bytes(flipped)
        with Gallery(tmp_path / "g", read_only=at % 2 == 0) as gallery:
            assert content(gallery) == before
    for wrong in (old, b"", new[:9000], b"not one of ours"):
        file.write_bytes(wrong)
        with Gallery(tmp_path / "g") as gallery:
            assert content(gallery) == before
    with filled(tmp_path / "h") as other:  # the same number of batches, another gallery
        other.relabel([4], ["c"])
    file.write_bytes(new)
    shutil.copy(file, tmp_path / "h")
    with Gallery(tmp_path / "h") as gallery:
        assert content(gallery) != before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("positions", lambda part: part + 1),  # the last is none that was given out
        ("positions", lambda part: part - 1),
        ("positions", lambda part: part[::-1].copy()),
        ("positions", lambda part: part[[0, 2, 1, *range(3, len(part))]]),
        ("positions", lambda part: part[[0, 1, 1, *range(3, len(part))]]),
        ("labels", lambda part: part - 2),
        ("labels", lambda part: part + 2),
        ("keys", lambda part: part - 1),
        ("prints", lambda part: part + 2),
    ],
)
def test_a_mapped_file_of_numbers_that_cannot_be_is_not_used(tmp_path, monkeypatch, name, change):
    monkeypatch.setattr(mapped, "LEAST", 1)
    with filled(tmp_path / "g") as gallery:
        gallery.upsert(torch.ones(1, 4), ids=[3], metadata=[{"fingerprint": 7}])
        snapshot = gallery._store.current
    assert mapped.read_mapped(tmp_path / "g", snapshot.facts) is not None
    (tmp_path / "g" / mapped.MAPPED).unlink()
    arrays = snapshot.arrays._replace(**{name: change(getattr(snapshot.arrays, name))})
    mapped.write_mapped(tmp_path / "g", SimpleNamespace(facts=snapshot.facts, arrays=arrays))
    assert mapped.read_mapped(tmp_path / "g", snapshot.facts) is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ends", lambda part: part[[0, 2, 1, *range(3, len(part))]]),
        ("ends", lambda part: part[[0, 1, 1, *range(3, len(part))]]),  # an empty id
        ("ends", lambda part: part - [0, 1, *[0] * (len(part) - 2)]),  # in the midst of a letter
        ("ends", lambda part: part + (np.arange(len(part)) == len(part) - 1)),
        ("text", lambda part: part | 0x80),
    ],
)
def test_a_mapped_file_of_strings_that_cannot_be_is_not_used(tmp_path, monkeypatch, name, change):
    monkeypatch.setattr(mapped, "LEAST", 1)
    with Gallery(tmp_path / "g") as gallery:
        gallery.add(gaussian(5, 4), ids=["aé", "bé", "cé", "dé", "e"])
        snapshot = gallery._store.current
    assert mapped.read_mapped(tmp_path / "g", snapshot.facts) is not None
    (tmp_path / "g" / mapped.MAPPED).unlink()
    arrays = snapshot.arrays._replace(**{name: change(getattr(snapshot.arrays, name))})
    mapped.write_mapped(tmp_path / "g", SimpleNamespace(facts=snapshot.facts, arrays=arrays))
    assert mapped.read_mapped(tmp_path / "g", snapshot.facts) is None


@pytest.mark.parametrize("least", [1, 2**16])
def test_fingerprints_are_there_after_opening_merging_and_repairing(tmp_path, monkeypatch, least):
    monkeypatch.setattr(mapped, "LEAST", least)
    prints = [5, None, -(2**63), 0, 2**63 - 1]
    facts = [{} if each is None else {"fingerprint": each} for each in prints]

    def told(gallery):
        values, there, _ = gallery.fingerprints()
        return [value if has else None for value, has in zip(values.tolist(), there, strict=True)]

    with Gallery(tmp_path / "g") as gallery, Gallery(tmp_path / "g", read_only=True) as reader:
        gallery.add(gaussian(2, 3))
        assert told(reader) == [None, None]
        gallery.add(gaussian(5, 3), metadata=facts)
        assert told(gallery) == told(reader) == [None, None, *prints]
    with Gallery(tmp_path / "g") as gallery, Gallery(tmp_path / "h") as other:
        assert told(gallery) == [None, None, *prints]
        other.merge(gallery)
        assert told(other) == [None, None, *prints]
    with sqlite3.connect(tmp_path / "h" / "gallery.sqlite") as database:
        database.execute("UPDATE items SET fingerprint = 6 WHERE fingerprint = 5")
    database.close()
    assert check_gallery(tmp_path / "h").lost == 1
    repair_gallery(tmp_path / "h")
    with Gallery(tmp_path / "h") as other:
        assert told(other) == [None, None, *prints[1:]]


def test_only_a_writer_leaves_a_file_to_map(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LEAST", 1)
    with filled(tmp_path / "g"):
        Gallery(tmp_path / "g", read_only=True).close()
        assert not (tmp_path / "g" / mapped.MAPPED).exists()
    assert (tmp_path / "g" / mapped.MAPPED).exists()


def test_closing_twice_maps_once(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LEAST", 1)
    gallery = filled(tmp_path / "g")
    gallery.close()
    (tmp_path / "g" / mapped.MAPPED).unlink()
    gallery.close()
    assert not (tmp_path / "g" / mapped.MAPPED).exists()


def test_a_check_reads_the_rows_and_not_the_mapped_file(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LEAST", 1)
    with filled(tmp_path / "g") as gallery:
        before = gallery.embeddings.clone()
    with sqlite3.connect(tmp_path / "g" / "gallery.sqlite") as database:
        database.execute("DELETE FROM items WHERE id = 7")
    database.close()
    with Gallery(tmp_path / "g") as gallery:
        assert torch.equal(gallery.embeddings, before)  # from the mapped file, which is whole
    report = check_gallery(tmp_path / "g")
    assert (report.is_whole, report.lost) == (False, 1)
    repair_gallery(tmp_path / "g")
    with Gallery(tmp_path / "g") as gallery:
        assert len(gallery) == 29


def test_where_the_mapped_file_cannot_be_written_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LEAST", 1)
    gallery = filled(tmp_path / "g")
    before = content(gallery)
    (tmp_path / "g" / f"{mapped.MAPPED}.part").mkdir()
    gallery.close()
    assert not (tmp_path / "g" / mapped.MAPPED).exists()
    with Gallery(tmp_path / "g") as gallery:
        assert content(gallery) == before


# Copies


def test_a_backup_is_the_gallery_as_of_then(tmp_path):
    with filled(tmp_path / "g") as gallery:
        before = content(gallery)
        assert gallery.backup(tmp_path / "b") == tmp_path / "b"
        gallery.remove([1, 2])
        with Gallery(tmp_path / "b") as copy:
            assert content(copy) == before
        with pytest.raises(GalleryError, match="path must be a new folder"):
            gallery.backup(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "g"]
    assert check_gallery(tmp_path / "b").is_whole


def test_compacting_frees_space_and_loses_nothing(tmp_path):
    with Gallery(tmp_path / "g") as gallery:
        gallery.add(gaussian(3000, 16), payloads=[b"x" * 500] * 3000)
        gallery.remove(range(100, 3000))
        before, size = content(gallery), gallery.summary().bytes
        gallery.compact()
        assert gallery.summary().bytes < size / 5
        assert content(gallery) == before
    with Gallery(tmp_path / "g") as gallery:
        assert content(gallery) == before


def test_merging_takes_items_in_by_class_name(tmp_path):
    with filled(tmp_path / "g") as one, Gallery(tmp_path / "h", distance=EUCLIDEAN) as other:
        other.add(
            torch.ones(3, 4),
            ids=[29, 50, 51],
            labels=["c", "new", "a"],
            metadata=[{"from": "h"}, {}, {}],
            payloads=[b"1", b"2", None],
        )
        other.relabel([51], [-1])
        before = content(one)
        with pytest.raises(ValueError, match=r"got 29 in both\. Use on_conflict"):
            one.merge(other)
        assert content(one) == before
        assert one.merge(other, on_conflict="keep") == 2
        assert one.ids.tolist() == [*range(30), 50, 51]
        assert one.labels.tolist()[-2:] == [3, -1]
        assert one.class_names == ["a", "b", "c", "new"]
        assert one.metadata([29, 50]) == [{"n": 29}, {}]
        assert one.merge(other, on_conflict="replace") == 3
        assert one.metadata([29]) == [{"from": "h"}]
        assert one.payloads([29, 50, 51]) == [b"1", b"2", None]
        with pytest.raises(ValueError, match="on_conflict must be one of keep, replace"):
            one.merge(other, on_conflict="both")


def test_galleries_that_do_not_fit_together_are_not_merged(tmp_path):
    with filled(tmp_path / "g", encoder="e") as one:
        others = [
            ({"distance": COSINE, "encoder": "e"}, {}, "distance"),
            ({"distance": EUCLIDEAN, "encoder": "f"}, {}, "encoder"),
            ({"distance": EUCLIDEAN, "encoder": "e"}, {"ids": ["x"]}, "ids"),
        ]
        for number, (options, given, word) in enumerate(others):
            with Gallery(tmp_path / str(number), **options) as other:
                other.add(torch.ones(1, 4), **given)
                with pytest.raises(ValueError, match=f"other must have the {word} of this"):
                    one.merge(other)
        assert len(one) == 30


# Damage


def test_a_database_without_its_log_is_refused_and_repaired(tmp_path):
    gallery = filled(tmp_path / "g")
    gallery.remove([0])
    shutil.copytree(tmp_path / "g", tmp_path / "h")
    gallery.close()
    for file in (tmp_path / "h").glob("*.sqlite-*"):
        file.write_bytes(b"")
    with pytest.raises(GalleryError, match=r"in which .*likewise gallery repair") as caught:
        Gallery(tmp_path / "h")
    assert str(caught.value).count("\n") == 0
    report = repair_gallery(tmp_path / "h")
    assert not report.is_whole
    assert report.items == 0
    assert report.lost == 29
    with Gallery(tmp_path / "h") as repaired:
        assert len(repaired) == 0
        assert repaired.distance is EUCLIDEAN
        assert repaired.add(torch.ones(1, 4)).tolist() == [30]


def test_batches_that_a_checkpointed_database_lost_are_told(tmp_path):
    filled(tmp_path / "g").close()
    with Gallery(tmp_path / "g") as gallery:
        gallery.add(torch.ones(2, 4))
        gallery.remove([0])
        shutil.copytree(tmp_path / "g", tmp_path / "h")
    (tmp_path / "h" / "gallery.sqlite-wal").write_bytes(b"")
    for read_only in (True, False):
        with pytest.raises(GalleryError, match="the last 2 of 3 batches are missing"):
            Gallery(tmp_path / "h", read_only=read_only)
    report = repair_gallery(tmp_path / "h")
    assert (report.items, report.lost) == (30, 1)
    with Gallery(tmp_path / "h") as repaired:
        assert repaired.ids.tolist() == list(range(30))
        assert repaired.add(torch.ones(1, 4)).tolist() == [32]


def test_a_row_in_place_of_another_is_told(tmp_path):
    for name, value in (("g", 1.0), ("h", 2.0)):
        with Gallery(tmp_path / name) as gallery:
            gallery.add(torch.full((3, 4), value))
    with sqlite3.connect(tmp_path / "g" / "gallery.sqlite") as database:
        database.execute("ATTACH ? AS other", [str(tmp_path / "h" / "gallery.sqlite")])
        database.execute("DELETE FROM items WHERE id = 1")
        database.execute("INSERT INTO items SELECT * FROM other.items WHERE id = 1")
    database.close()
    with pytest.raises(GalleryError, match="there are 3 rows in place of 3, or others"):
        Gallery(tmp_path / "g")


def test_a_row_that_was_altered_is_told_and_left_out(tmp_path):
    with filled(tmp_path / "g") as gallery:
        before = content(gallery)
    with sqlite3.connect(tmp_path / "g" / "gallery.sqlite") as database:
        database.execute("UPDATE items SET label = 2 WHERE id = 7")
        database.execute("UPDATE items SET metadata = '{\"n\": 1}' WHERE id = 9")
    database.close()
    with pytest.raises(GalleryError, match="1 rows are not what was written"):
        Gallery(tmp_path / "g")
    report = check_gallery(tmp_path / "g")
    assert (report.items, report.lost, report.stripped) == (29, 1, 1)
    report = repair_gallery(tmp_path / "g")
    assert json.loads(json.dumps(report.to_dict()))["lost"] == 1
    assert (tmp_path / "g" / "damaged-1" / "gallery.sqlite").exists()
    with Gallery(tmp_path / "g") as gallery:
        ids = [n for n in range(30) if n != 7]
        assert gallery.ids.tolist() == ids
        assert gallery.metadata([9, 10]) == [{}, {"n": 10}]
        assert gallery.payloads(ids) == [part for n, part in enumerate(before[5]) if n != 7]
        assert gallery.labels.tolist() == [n % 3 for n in ids]
        assert gallery.class_names == ["a", "b", "c"]
    assert check_gallery(tmp_path / "g").is_whole
    assert repair_gallery(tmp_path / "g").damaged_copy is None


def test_altered_metadata_is_told_when_it_is_read(tmp_path):
    filled(tmp_path / "g").close()
    with sqlite3.connect(tmp_path / "g" / "gallery.sqlite") as database:
        database.execute("UPDATE items SET metadata = '{\"n\": 1}' WHERE id = 9")
    database.close()
    with Gallery(tmp_path / "g") as gallery:
        assert gallery.metadata([8]) == [{"n": 8}]
        for use in (
            lambda: gallery.metadata([8, 9]),
            lambda: gallery.get([9]),
            lambda: gallery.lookup(torch.ones(1, 4), k=1, where={"n": 9}),
        ):
            with pytest.raises(GalleryError, match="metadata of some items is not what was"):
                use()


@pytest.mark.parametrize("change", ["DELETE FROM items WHERE id = 3", "DELETE FROM names"])
def test_what_is_missing_is_told(tmp_path, change):
    filled(tmp_path / "g").close()
    with sqlite3.connect(tmp_path / "g" / "gallery.sqlite") as database:
        database.execute(change)
    database.close()
    with pytest.raises(GalleryError, match="gallery must be whole"):
        Gallery(tmp_path / "g")
    repair_gallery(tmp_path / "g")
    with Gallery(tmp_path / "g") as gallery:
        assert len(gallery) == 30 - ("items" in change)
        assert gallery.class_names[0] == ("a" if "items" in change else "class 0")


def test_files_of_two_galleries_do_not_mix(tmp_path):
    filled(tmp_path / "g").close()
    filled(tmp_path / "h").close()
    name = "gallery.acknowledged"
    shutil.copy(tmp_path / "g" / name, tmp_path / "h" / name)
    with pytest.raises(GalleryError, match="files of two galleries are mixed"):
        Gallery(tmp_path / "h")
    with pytest.raises(GalleryError, match=r"without gallery\.sqlite"):
        check_gallery(tmp_path)


def test_a_full_database_loses_nothing_and_goes_on(tmp_path):
    with filled(tmp_path / "g") as gallery:
        before = content(gallery)
        connection = gallery._store.database._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(GalleryError, match="path must have room on its disk"):
            gallery.add(gaussian(1000, 4))
        assert content(gallery) == before
        connection.execute("PRAGMA max_page_count = 100000")
        assert gallery.add(gaussian(2, 4)).tolist() == [30, 31]
    with Gallery(tmp_path / "g") as gallery:
        assert len(gallery) == 32


# Checksums


def test_every_flipped_bit_changes_the_checksum_of_its_row():
    generator = np.random.default_rng(0)
    numbers = [generator.integers(-(2**62), 2**62, size=1) for _ in range(5)]
    numbers.append(generator.integers(-(2**62), 2**62, size=(1, 2)))
    vector = generator.normal(size=(1, 5)).astype(np.float16)  # 10 bytes, no multiple of 4
    before = row_checksums(*numbers, vector)
    seen = {int(before[0])}
    for part in [*numbers, vector]:
        content = part.view(np.uint8).reshape(-1)
        for bit in range(8 * len(content)):
            content[bit // 8] ^= 1 << bit % 8
            seen.add(int(row_checksums(*numbers, vector)[0]))
            content[bit // 8] ^= 1 << bit % 8
    assert row_checksums(*numbers, vector) == before
    assert len(seen) == 1 + 7 * 64 + 80


def test_relabeling_changes_checksums_as_writing_anew_does():
    generator = np.random.default_rng(0)
    numbers = generator.integers(-1, 2**62, size=(5, 40))
    more = generator.integers(0, 2, size=(40, 2)), generator.normal(size=(40, 8)).astype(np.float32)
    before, labels = row_checksums(*numbers, *more), generator.integers(-1, 9, size=40)
    after = row_checksums(*numbers[:2], labels, *numbers[3:], *more)
    assert (relabeled(before, numbers[2], labels) == after).all()
    assert (before != after).all()
    assert total(before) == sum(map(int, before)) % 2**64


def test_the_checksum_is_the_same_for_ever():
    row = [np.array([n]) for n in (1, 2, 3, 4, 5)] + [np.array([[6, 1]])]
    assert row_checksums(*row, np.array([[1.0, -2.0]], dtype=np.float32)).tolist() == [
        -4936016099518873310
    ]


def test_one_of_two_acknowledgements_survives_a_torn_write(tmp_path):
    facts = [Facts("key", "cosine", None, batches=n) for n in range(4)]
    create_acknowledged(tmp_path, facts[0])
    for each in facts[1:]:
        acknowledge(tmp_path, each)
        assert last_acknowledged(tmp_path) == each
    file = tmp_path / "gallery.acknowledged"
    file.write_bytes(file.read_bytes()[:4100])
    assert last_acknowledged(tmp_path) == facts[2]
    file.write_bytes(b"nothing")
    assert last_acknowledged(tmp_path) is None


def test_memory_and_disk_agree_for_every_search(tmp_path):
    rows = gaussian(2000, 16)
    index = Index(COSINE, recall=0.9)
    with Gallery(tmp_path / "g", recall=0.9) as gallery:
        for one in (index, gallery):
            one.add(rows)
            one.wait()
        found, expected = gallery.lookup(rows[:50], k=5), index.lookup(rows[:50], k=5)
        assert (found.ids == expected.ids).all()
        assert gallery.summary().search == index.summary().search
    assert os.listdir(tmp_path) == ["g"]


def test_of_a_file_that_is_no_database_all_items_are_lost(tmp_path):
    with Gallery(tmp_path / "g", distance=EUCLIDEAN) as gallery:
        gallery.add(torch.rand(5, 2))
    (tmp_path / "g" / "gallery.sqlite").write_bytes(b"no database" * 100)
    report = check_gallery(tmp_path / "g")
    assert (report.is_whole, report.items, report.lost, report.stripped) == (False, 0, 5, 0)
