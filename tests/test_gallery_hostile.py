"""Galleries that somebody else made or changed: one sentence, no hang, no room made for nothing."""

import json
import os
import random
import re
import socket
import sqlite3
import sys
import tracemalloc
import zlib
from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch

from likewise.distances import EUCLIDEAN
from likewise.errors import InputError
from likewise.index import Gallery, GalleryError, check_gallery, repair_gallery
from likewise.index._durable import mapped
from likewise.index._durable.contract import Facts, create_acknowledged, last_acknowledged
from likewise.index._durable.damage import sentence

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import fuzz_gallery


@pytest.fixture
def gallery(tmp_path, monkeypatch):
    """A folder of a closed gallery, with the file that is mapped."""
    monkeypatch.setattr(mapped, "LEAST", 1)
    with Gallery(tmp_path / "g", distance=EUCLIDEAN) as made:
        made.add(
            torch.randn(20, 3, generator=torch.Generator().manual_seed(0)),
            ids=[f"é{n}" for n in range(20)],
            labels=["a", "b"] * 10,
            metadata=[{"n": n} for n in range(20)],
        )
    return tmp_path / "g"


def rewritten(folder, **changes):
    """Facts with other values, sealed as a gallery seals its own, in every place."""
    database = sqlite3.connect(folder / "gallery.sqlite")
    ((text,),) = database.execute("SELECT value FROM facts").fetchall()
    new = json.dumps({**json.loads(text), **changes})
    with database:
        database.execute(
            "UPDATE facts SET value = ?, checksum = ?", (new, zlib.crc32(new.encode()))
        )
    database.close()
    (folder / "gallery.vectors").unlink()
    return new


WRONG = [
    {"names": 10**12},
    {"names": 2**62},
    {"next_position": 2**62},
    {"items": 10**12, "next_position": 10**12},
    {"dimension": 2**24},
    {"dimension": 10**15},
    {"dimension": 0},
    {"dimension": None},
    {"dimension": 3.5},
    {"kind": "floats"},
    {"kind": "integers"},
    {"kind": None},
    {"storage": "float8"},
    {"storage": "int8"},
    {"distance": "own"},
    {"distance": ["euclidean"]},
    {"batches": "x"},
    {"batches": -1},
    {"total": 2**64},
    {"total": None},
    {"encoder": 5},
    {"key": None},
    {"items": True},
    {"more": 1},
    {"next_id": 2**64},
]


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_facts_that_are_rewritten_with_a_right_checksum_are_refused(gallery, changes):
    rewritten(gallery, **changes)
    tracemalloc.start()
    try:
        if changes != {"next_position": 2**62}:  # which may be so
            for read_only in (True, False):
                with pytest.raises(GalleryError, match="gallery must be whole"):
                    Gallery(gallery, read_only=read_only)
            assert not check_gallery(gallery).is_whole
        repair_gallery(gallery)
        with Gallery(gallery) as again:
            assert len(again) in (0, 20)
        assert tracemalloc.get_traced_memory()[1] < 5e7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", [b"[]", b"null", b"\xff", b"[" * 3000, b"{}", b'{"key": 1}', b""])
def test_facts_that_are_none_are_refused(text):
    with pytest.raises(InputError):
        Facts.of_text(text, Path("g"))


@pytest.mark.parametrize("written", [1, 3])
def test_a_gallery_of_another_version_is_refused_as_such_and_left_alone(gallery, written):
    facts = msgspec.structs.replace(last_acknowledged(gallery), format=written)
    rewritten(gallery, format=written)
    create_acknowledged(gallery, facts)
    before = (gallery / "gallery.sqlite").read_bytes()
    sentence = f"'{gallery}' must be of format 2, got format {written}, which another version of"
    for look in (Gallery, partial(Gallery, read_only=True), check_gallery, repair_gallery):
        with pytest.raises(GalleryError, match=f"^gallery {re.escape(sentence)}"):
            look(gallery)
    assert Gallery.is_at(gallery)
    assert (gallery / "gallery.sqlite").read_bytes() == before
    assert not [*gallery.glob("damaged-*")]


def test_the_file_of_what_was_acknowledged_may_hold_anything(gallery):
    facts = last_acknowledged(gallery)
    for wrong in ({"batches": "x"}, {"items": -1}, {"names": None}):
        create_acknowledged(gallery, Facts(**{**msgspec.structs.asdict(facts), **wrong}))
        assert last_acknowledged(gallery) is None
        with pytest.raises(GalleryError, match="record of what was acknowledged is missing"):
            Gallery(gallery)


def odd_file(file, kind):
    """Put something at `file` that is no file."""
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "socket":
        os.chdir(file.parent)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(file.name)
    else:
        file.symlink_to({"device": "/dev/zero", "nowhere": file.parent / "none"}[kind])


@pytest.mark.skipif(os.name == "nt", reason="has no pipes in folders")
@pytest.mark.parametrize("kind", ["pipe", "device", "nowhere", "socket"])
@pytest.mark.parametrize(
    "name",
    ["sqlite", "sqlite-wal", "sqlite-shm", "sqlite-journal", "lock", "acknowledged", "vectors"],
)
def test_what_is_no_regular_file_is_not_opened(gallery, name, kind, monkeypatch):
    monkeypatch.chdir(gallery)
    file = gallery / f"gallery.{name}"
    file.unlink(missing_ok=True)
    odd_file(file, kind)
    for use in (
        lambda: Gallery(gallery),
        lambda: Gallery(gallery, read_only=True),
        lambda: check_gallery(gallery),
        lambda: repair_gallery(gallery),
    ):
        with pytest.raises(GalleryError, match=f"gallery.{name} must be a regular file, got"):
            use()


def test_a_link_to_a_regular_file_is_one(gallery, tmp_path):
    (gallery / "gallery.sqlite").rename(tmp_path / "elsewhere.sqlite")
    (gallery / "gallery.sqlite").symlink_to(tmp_path / "elsewhere.sqlite")
    with Gallery(gallery, read_only=True) as reader:
        assert len(reader) == 20


@pytest.mark.parametrize("part", ["[1]", "none", "[" * 5000, b"\xff"])
def test_metadata_that_is_none_is_refused(gallery, part):
    content = part if isinstance(part, bytes) else part.encode()
    with Gallery(gallery) as made:
        made._store.database._connection.execute(
            "UPDATE items SET metadata = ?, metadata_checksum = ? WHERE position = 4",
            (part, zlib.crc32(content)),
        )
        with pytest.raises(GalleryError, match="values are not what was written"):
            made.metadata(["é4"])


CODES = [
    (sqlite3.SQLITE_BUSY, False, "one writer at a time"),
    (sqlite3.SQLITE_LOCKED, True, "one writer at a time"),
    (sqlite3.SQLITE_FULL, True, "room on its disk"),
    (sqlite3.SQLITE_READONLY, True, "can be written"),
    (sqlite3.SQLITE_CANTOPEN_ISDIR, False, "can be read"),
    (sqlite3.SQLITE_IOERR_WRITE, True, "can be written"),
    (sqlite3.SQLITE_IOERR_SHORT_READ, False, "gallery must be whole"),
    (sqlite3.SQLITE_CORRUPT, False, "gallery must be whole"),
    (sqlite3.SQLITE_NOTADB, False, "gallery must be whole"),
]


@pytest.mark.parametrize(("code", "writing", "message"), CODES)
def test_the_code_of_a_failure_decides_and_not_its_text(code, writing, message):
    error = sqlite3.DatabaseError("unable to say: disk full, locked, readonly, denied")
    error.sqlite_errorcode = code
    assert message in str(sentence(Path("g"), error, writing=writing))


def test_a_repair_of_a_table_that_cannot_be_read_ends(gallery):
    with Gallery(gallery) as made:
        made.remove(made.ids)
        made.add(torch.zeros(1, 3), ids=["x"])
    rewritten(gallery, next_position=2**62)
    content = bytearray((gallery / "gallery.sqlite").read_bytes())
    database = sqlite3.connect(gallery / "gallery.sqlite")
    (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'items'").fetchone()
    database.close()
    content[(page - 1) * 4096 : page * 4096] = random.Random(0).randbytes(4096)
    (gallery / "gallery.sqlite").write_bytes(content)
    report = check_gallery(gallery)
    assert (report.is_whole, report.items) == (False, 0)
    assert repair_gallery(gallery).lost == 1
    with Gallery(gallery) as again:
        assert len(again) == 0


def test_every_item_but_those_of_a_broken_page_survives_a_repair(tmp_path):
    with Gallery(tmp_path / "g") as made:
        made.add(torch.randn(9000, 8, generator=torch.Generator().manual_seed(0)))
        made.remove(range(0, 9000, 3))
    file = tmp_path / "g" / "gallery.sqlite"
    content = bytearray(file.read_bytes())
    content[40 * 4096 : 41 * 4096] = bytes(4096)
    file.write_bytes(content)
    report = repair_gallery(tmp_path / "g")
    assert 0 < report.lost < 100
    with Gallery(tmp_path / "g") as again:
        assert len(again) == report.items == 6000 - report.lost


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_changed_galleries_end_in_a_sentence_or_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LEAST", 1)
    counts, bad = fuzz_gallery.fuzzed(tmp_path, tries=32, seed=1)
    assert not bad, "\n".join(bad)
    assert sum(n for (_, verdict), n in counts.items() if verdict == "refused") > 8
    assert sum(n for (_, verdict), n in counts.items() if verdict == "the same") > 3
