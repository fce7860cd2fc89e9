"""A trained search that is kept beside a gallery: opened without training, or not at all."""

import os
import shutil
import time

import numpy as np
import pytest
import torch

import likewise as lw
from likewise.distances import EUCLIDEAN
from likewise.index import Gallery, check_gallery
from likewise.index._durable import kept
from likewise.index._searching import approximate as _approximate
from likewise.index._searching.inside import KINDS
from likewise.journeys.answers import lookup_parts

every_kind = pytest.mark.parametrize("kind", KINDS)


def clustered(count, seed):
    centers = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(seed)
    some = centers[torch.randint(0, 40, (count,), generator=rng)]
    return some + 0.4 * torch.randn(count, 16, generator=rng)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Lists from 2,000 rows on."""
    monkeypatch.setattr(_approximate, "EXACT_UP_TO", 2000)
    monkeypatch.setattr(_approximate, "SAMPLE", 100)


@pytest.fixture
def no_training(monkeypatch):
    """A function after which nothing is trained any more."""

    def refuse():
        def trains(*args):
            raise AssertionError("it was trained again")

        monkeypatch.setattr(_approximate.Trained, "of", trains)

    return refuse


def opened(path, **options):
    return Gallery(path, **{"distance": EUCLIDEAN, "recall": 0.95, **options})


def made(path, kind="IVF", count=3000):
    with opened(path, approximate=kind) as one:
        one.add(clustered(count, 1))
        one.wait()
        return one.lookup(clustered(40, 2), k=10), one.searched_by


@every_kind
def test_opening_finds_what_was_trained_and_answers_alike(tmp_path, no_training, kind):
    before, by = made(tmp_path / "g", kind)
    assert by.kind.startswith(kind)
    assert by.recall >= 0.95
    no_training()
    for read_only in (True, False):
        with opened(tmp_path / "g", approximate=kind, read_only=read_only) as one:
            assert one.searched_by == by
            found = one.lookup(clustered(40, 2), k=10)
            assert found.ids.tolist() == before.ids.tolist()
            assert found.distances.tolist() == before.distances.tolist()


@every_kind
@pytest.mark.parametrize("at_once", [False, True])
def test_items_that_went_and_came_since_are_known(
    tmp_path, no_training, monkeypatch, kind, at_once
):
    made(tmp_path / "g", kind)
    no_training()
    with opened(tmp_path / "g", recall=None) as one:  # which keeps no search
        one.remove(range(0, 3000, 3))
        one.add(clustered(50, 7))
    if at_once:
        monkeypatch.setattr(_approximate, "STEP", 10)
    with opened(tmp_path / "g", approximate=kind) as one:
        assert one.searched_by.kind.startswith(kind)
        found = one.lookup(clustered(50, 7), k=3)
        assert (found.ids[:, 0] == np.arange(3000, 3050)).mean() > 0.95
        assert ((found.ids % 3 != 0) | (found.ids >= 3000)).all()
        with Gallery(tmp_path / "g", read_only=True) as exact:
            truth = exact.lookup(clustered(50, 7), k=3)
        assert (found.distances <= truth.distances[:, -1:]).float().mean() > 0.9


def test_a_file_with_an_altered_byte_is_trained_anew(tmp_path):
    _, by = made(tmp_path / "g")
    file = tmp_path / "g" / kept.KEPT
    whole = file.read_bytes()
    for at in (0, 100, len(whole) // 3, len(whole) // 2, len(whole) - 5000, len(whole) - 1):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with opened(tmp_path / "g", read_only=True) as one:
            assert one.searched_by.kind == "exact", at
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with opened(tmp_path / "g", read_only=True) as one:
            assert one.searched_by.kind == "exact", size
    with opened(tmp_path / "g") as one:
        one.wait()
        assert one.searched_by == by
    assert file.read_bytes() == whole


def test_the_search_of_another_gallery_is_left_alone(tmp_path):
    made(tmp_path / "a")
    with opened(tmp_path / "b") as other:
        other.add(clustered(3000, 9))
    shutil.copy(tmp_path / "a" / kept.KEPT, tmp_path / "b" / kept.KEPT)
    with opened(tmp_path / "b", read_only=True) as one:
        assert one.searched_by.kind == "exact"


def test_items_that_are_not_what_they_were_are_trained_anew(tmp_path, monkeypatch):
    made(tmp_path / "g")
    monkeypatch.setattr(kept, "_checksums", lambda now, rows: np.full(len(rows), 7))
    with opened(tmp_path / "g", read_only=True) as one:
        assert one.searched_by.kind == "exact"


def test_another_recall_is_measured_without_training(tmp_path, no_training):
    _, by = made(tmp_path / "g")
    no_training()
    with opened(tmp_path / "g", recall=0.999) as one:
        assert one.searched_by.kind == "exact" or one.searched_by.recall >= 0.999
        assert one.searched_by != by
    with opened(tmp_path / "g", recall=0.6) as one:
        assert 0.6 <= one.searched_by.recall < by.recall


def test_another_kind_and_no_recall_leave_it_alone(tmp_path):
    made(tmp_path / "g")
    for options in ({"recall": None}, {"approximate": "HNSW"}):
        with opened(tmp_path / "g", read_only=True, **options) as one:
            assert one.searched_by.kind == "exact"


def test_a_reader_writes_nothing_and_a_writer_once(tmp_path):
    with opened(tmp_path / "g") as one:
        one.add(clustered(3000, 1))
    assert kept.KEPT not in os.listdir(tmp_path / "g")
    with opened(tmp_path / "g", read_only=True) as one:
        one.wait()
        assert one.searched_by.kind != "exact"
    assert kept.KEPT not in os.listdir(tmp_path / "g")
    made(tmp_path / "h")
    before = (tmp_path / "h" / kept.KEPT).stat().st_ino
    with opened(tmp_path / "h") as one:
        one.add(clustered(5, 8))
        one.lookup(clustered(1, 2), k=1)
    assert (tmp_path / "h" / kept.KEPT).stat().st_ino == before, "few are searched exactly"


def test_a_folder_that_cannot_be_written_loses_only_the_search(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with opened(tmp_path / "g") as one:
        one.add(clustered(3000, 1))
        monkeypatch.setattr(kept.os, "replace", full)
        one.wait()
        monkeypatch.undo()
    assert not [name for name in os.listdir(tmp_path / "g") if "search" in name and "part" in name]
    assert check_gallery(tmp_path / "g").is_whole


@every_kind
def test_a_saved_model_searches_as_it_was_told_to(tmp_path, no_training, kind):
    made(tmp_path / "g", kind)
    no_training()
    model = lw.SimilarityModel(None, distance=EUCLIDEAN)
    model.use_gallery(tmp_path / "g", recall=0.95, approximate=kind)
    by = model.index.searched_by
    assert by.kind.startswith(kind)
    model.save(tmp_path / "model")
    model.index.close()
    for options in ({}, {"read_only": False}, {"gallery": tmp_path / "g"}):
        again = lw.load(tmp_path / "model", **options)
        assert again.index.searched_by == by
        again.index.close()
    again = lw.load(tmp_path / "model")
    again.add(clustered(1, 8))  # which opens the gallery for writing
    assert again.index.searched_by.kind == by.kind
    again.use_gallery(tmp_path / "g", recall=1)
    assert again.index.searched_by.kind == "exact"
    again.save(tmp_path / "model")
    again.index.close()
    with lw.load(tmp_path / "model").index as exact:
        assert exact.searched_by.kind == "exact"


def test_all_parts_of_answers_are_searched_alike(tmp_path, monkeypatch):
    made(tmp_path / "g")
    model = lw.SimilarityModel(None, distance=EUCLIDEAN)
    model.use_gallery(tmp_path / "g", recall=0.95)
    model.save(tmp_path / "model")
    model.index.close()
    (tmp_path / "g" / kept.KEPT).unlink()
    train, lookup, kinds = _approximate.Trained.of, lw.Index.lookup, []

    def slowly(*args):
        time.sleep(0.3)
        return train(*args)

    def noted(index, *args, **options):
        kinds.append(index.searched_by.kind)
        return lookup(index, *args, **options)

    monkeypatch.setattr(_approximate.Trained, "of", slowly)
    monkeypatch.setattr(lw.Index, "lookup", noted)
    model = lw.load(tmp_path / "model")
    with model.index:
        lookup_parts(model, clustered(60, 2), tmp_path / "out", k=3, part_rows=20)
    first, *others = kinds
    assert first == "exact", "one vector was asked about before"
    assert len(others) == 3
    assert all(kind.startswith("IVF") for kind in others)


def test_opening_draws_no_random_numbers(tmp_path):
    made(tmp_path / "g")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    opened(tmp_path / "g", recall=0.9).close()
    assert torch.equal(torch.rand(3), expected)


def test_what_was_put_in_place_of_the_file_meanwhile_is_not_taken(tmp_path, monkeypatch):
    made(tmp_path / "g")
    made(tmp_path / "other")
    read, others = kept.read_inside, (tmp_path / "other" / kept.KEPT).read_bytes()

    def replaced(kind, path):
        kept.Path(path).unlink()
        kept.Path(path).write_bytes(others)
        return read(kind, path)

    monkeypatch.setattr(kept, "read_inside", replaced)
    with opened(tmp_path / "g", read_only=True) as one:
        assert one.searched_by.kind == "exact"


def test_nothing_is_looked_up_while_lists_are_written(tmp_path, monkeypatch):
    made(tmp_path / "g")
    (tmp_path / "g" / kept.KEPT).unlink()
    write, held = kept.written, []

    def looked(inside):
        held.append(one._store.current.searching._lock.locked())
        return write(inside)

    monkeypatch.setattr(kept, "written", looked)
    with opened(tmp_path / "g") as one:
        one.wait()
    assert held[:1] == [True]


def test_what_no_kind_is_called_is_refused(tmp_path):
    with pytest.raises(ValueError, match="approximate must be one of HNSW, IVF, RaBitQ, got 'lsh'"):
        opened(tmp_path / "g", approximate="lsh")
