"""A short form of every round of benchmarks/gallery_crashes.py."""

import importlib.util
import os
import resource
import tempfile
from pathlib import Path

import pytest
import torch

from likewise.distances import EUCLIDEAN
from likewise.index import Gallery

SOURCE = Path(__file__).parents[1] / "benchmarks" / "gallery_crashes.py"

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="rounds are run in forked processes"
)


@pytest.fixture(scope="module")
def crashes():
    spec = importlib.util.spec_from_file_location("gallery_crashes", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process has none but its first
    yield module
    torch.set_num_threads(threads)


def bad(counts):
    return {
        name: counts[name] for name in ("wrong", "repaired wrong", "tracebacks") if counts[name]
    }


def test_kill_loses_nothing_acknowledged_and_leaves_nothing_half(crashes, tmp_path):
    counts = crashes.kill_rounds(8, tmp_path / "g")
    assert not bad(counts)
    assert counts["acknowledged steps"] > 0


def test_the_rounds_would_see_a_lost_item(crashes, tmp_path):
    model = crashes.Model(3)
    with Gallery(tmp_path / "g", distance=EUCLIDEAN) as gallery:
        for _ in range(5):
            model.step(gallery)
        assert not model.differs(gallery)
        gallery.relabel(gallery.ids[:1], [77])
        assert model.differs(gallery) == "labels"
        gallery.remove(gallery.ids[:1])
        assert model.differs(gallery).startswith("ids")


@pytest.mark.parametrize("is_torn", [False, True], ids=["flipped", "torn"])
def test_damage_is_harmless_or_told_in_one_sentence(crashes, tmp_path, is_torn):
    table = crashes.damage_rounds(2, tmp_path / "g", is_torn=is_torn)
    assert len(table) >= 8
    assert not any(bad(counts) for counts in table.values()), table
    rows = [counts for name, counts in table.items() if "mapped" not in name]
    told = sum(counts["sentence"] for counts in rows)
    assert told > 1
    assert sum(counts["repaired"] for counts in rows) >= told
    assert [c["exact"] for name, c in table.items() if "vectors, mapped" in name] == [2]


def test_a_full_disk_loses_nothing(crashes, tmp_path):
    table = crashes.full_rounds(3, tmp_path)
    assert not any(bad(counts) for counts in table.values()), table
    assert table["full: file size"]["exact"] == 3
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.skipif(os.geteuid() != 0, reason="without root the folder above cannot be entered")
def test_a_read_only_folder_is_read(crashes):
    # Not in tmp_path: any pytest that starts meanwhile shuts others out of it.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        table = crashes.read_only_rounds(2, Path(folder))
        Path(folder).chmod(0o700)
        child = crashes.forked(lambda: crashes._without_rights(Path(folder) / "g", None))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == 3  # one sentence where not even the folder around it may be entered
    assert not any(bad(counts) for counts in table.values()), table
    assert table["read-only: closed"]["exact"] == 2


def test_readers_see_whole_batches_only(crashes, tmp_path):
    counts = crashes.readers_round(1, tmp_path / "g", readers=2)
    assert not bad(counts)
    assert counts["lookups"] > 0
    assert counts["batches"] > 1
