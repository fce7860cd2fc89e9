"""Folders of parts: what is in them after kills, damage and second runs."""

import json
import os
import signal

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from likewise import _parts
from likewise._parts import Parts, Plan, Writer, is_parts, read_plan, rows_for
from likewise.errors import InputError

PLAN = Plan("match", 10, 3, 1, {"known_items": "7", "k": 2})


def rows(numbers):
    return pa.table({"row": list(numbers)})


def fill(folder, plan=PLAN, shard=0, most=99, **options):
    with Writer(folder, plan, shard=shard, **options) as writer:
        for number in writer.missing[:most]:
            writer.put(number, rows(plan.rows(number)))
        return writer


def held(folder):
    return [row for table in Parts(folder, ["match"]).tables() for row in table["row"].to_pylist()]


def part(folder, number):
    (found,) = folder.glob(f"part-{number:08d}-*.parquet")
    return found


def test_parts_hold_each_row_once_and_any_reader_takes_the_folder(tmp_path):
    folder = tmp_path / "new" / "parts"
    fill(folder)
    assert held(folder) == list(range(10))
    assert [len(table) for table in Parts(folder, ["match"]).tables()] == [3, 3, 3, 1]
    assert parquet.read_table(folder)["row"].to_pylist() == list(range(10))
    assert is_parts(folder)
    assert not is_parts(tmp_path)


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_shards_share_the_parts_in_one_folder_in_any_order(tmp_path, shards):
    plan = Plan("match", 10, 3, shards)
    for shard in reversed(range(shards)):
        if shard == 0:
            with pytest.raises(InputError, match=f"missing are some of shard 0/{shards}"):
                Parts(tmp_path, ["match"])
        fill(tmp_path, plan, shard)
    assert held(tmp_path) == list(range(10))


def test_folders_of_several_machines_are_copied_together(tmp_path):
    plan = Plan("match", 10, 3, 2)
    for shard in (0, 1):
        fill(tmp_path / str(shard), plan, shard)
    for file in (tmp_path / "1").glob("*.parquet"):
        file.rename(tmp_path / "0" / file.name)
    assert held(tmp_path / "0") == list(range(10))


def test_a_run_goes_on_where_it_was_interrupted_and_only_when_asked(tmp_path):
    fill(tmp_path, most=2)
    with pytest.raises(InputError, match=r"holds 2 of 4 parts\. Go on with resume=True"):
        fill(tmp_path)
    with Writer(tmp_path, PLAN, resume=True) as writer:
        assert writer.missing == [2, 3]
    fill(tmp_path, resume=True)
    assert held(tmp_path) == list(range(10))
    with Writer(tmp_path, PLAN, resume=True) as writer:
        assert writer.missing == []


def test_a_kill_in_the_middle_of_writing_leaves_the_part_out(tmp_path):
    written = _parts.write_whole
    for place in ("before", "after"):  # the file has its name
        folder = tmp_path / place
        child = os.fork()
        if not child:  # pragma: no cover

            def killed(path, content, place=place):
                if path.name.startswith("part-00000001"):
                    if place == "after":
                        written(path, content)
                    else:
                        (path.parent / f".{path.name}.{'0' * 32}.part").write_bytes(content[:50])
                    os.kill(os.getpid(), signal.SIGKILL)
                written(path, content)

            _parts.write_whole = killed
            fill(folder)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        with Writer(folder, PLAN, resume=True) as writer:
            assert writer.missing == ([1, 2, 3] if place == "before" else [2, 3])
        fill(folder, resume=True)
        assert held(folder) == list(range(10))
        assert not list(folder.glob(".*.part")), "what was half written is gone"


def test_the_half_written_file_of_another_shard_is_left_alone(tmp_path):
    plan = Plan("match", 10, 3, 2)
    fill(tmp_path, plan, 0, most=0)
    others = tmp_path / f".part-00000001-{'a' * 64}.parquet.{'b' * 32}.part"
    others.write_bytes(b"being written")
    fill(tmp_path, plan, 0)
    assert others.exists()
    fill(tmp_path, plan, 1)
    assert not others.exists()


@pytest.mark.parametrize("change", ["flip", "cut", "empty"])
def test_a_damaged_part_is_refused_by_readers_and_written_again(tmp_path, change):
    fill(tmp_path)
    file = part(tmp_path, 1)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"flip": content, "cut": content[:-9], "empty": b""}[change])
    with pytest.raises(InputError, match="must have the bytes that were written"):
        held(tmp_path)
    writer = fill(tmp_path, resume=True)
    assert writer.damaged == 1
    assert held(tmp_path) == list(range(10))


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_second_copy_of_a_part_is_taken_away(tmp_path, is_whole):
    fill(tmp_path / "a")
    with Writer(tmp_path / "b", PLAN) as writer:  # as another version of Parquet would write it
        other = writer.put(1, rows(PLAN.rows(1)), compression="none")
    name = other.name if is_whole else f"part-00000001-{'0' * 64}.parquet"
    other.rename(tmp_path / "a" / name)
    assert len(list((tmp_path / "a").glob("part-00000001-*"))) == 2
    assert fill(tmp_path / "a", resume=True).damaged == 1
    assert held(tmp_path / "a") == list(range(10))
    assert len(list((tmp_path / "a").glob("part-00000001-*"))) == 1


def test_two_processes_do_not_write_one_shard(tmp_path):
    with Writer(tmp_path, PLAN):
        with pytest.raises(InputError, match="one process for each shard"):
            Writer(tmp_path, PLAN, resume=True)
    fill(tmp_path)
    assert held(tmp_path) == list(range(10))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Plan("lookup", 10, 3, 1, PLAN.facts), 'the same kind.* "match" where this has "lookup"'),
        (Plan("match", 11, 3, 1, PLAN.facts), "the same items.* 10 where this has 11"),
        (Plan("match", 10, 4, 1, PLAN.facts), "the same part rows"),
        (Plan("match", 10, 3, 2, PLAN.facts), "the same shards"),
        (Plan("match", 10, 3, 1, {**PLAN.facts, "known_items": "8"}), "the same known items"),
        (Plan("match", 10, 3, 1, {"known_items": "7"}), "the same k,"),
    ],
)
def test_a_folder_is_resumed_with_the_same_plan_only(tmp_path, other, told):
    fill(tmp_path, most=1)
    with pytest.raises(InputError, match=told):
        Writer(tmp_path, other, resume=True)
    assert read_plan(tmp_path) == PLAN


def test_what_is_no_folder_of_parts_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match=r"an empty folder, got .* holds 'mine\.txt'"):
        Writer(tmp_path, PLAN)
    with pytest.raises(InputError, match="must be a folder, got the file"):
        Writer(tmp_path / "mine.txt", PLAN)
    with pytest.raises(InputError, match="folder of parts that likewise wrote"):
        Parts(tmp_path, ["match"])
    with pytest.raises(FileNotFoundError, match="parts must exist"):
        Parts(tmp_path / "none", ["match"])
    with pytest.raises(InputError, match="below 1, the number of shards, got 1"):
        Writer(tmp_path / "new", PLAN, shard=1)
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_parts_of_another_kind_are_refused(tmp_path):
    fill(tmp_path)
    with pytest.raises(InputError, match=r"must hold parts of embed, .* those of match"):
        Parts(tmp_path, ["embed"])


def changed(told, **fields):
    told = {**{name: value for name, value in told.items() if name != "sha256"}, **fields}
    return json.dumps({**told, "sha256": _parts._digest(told)})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text.replace("10", "12", 1), "as likewise wrote it"),
        (lambda text: text[:-20], "as likewise wrote it"),
        (lambda text: "[1]", "as likewise wrote it"),
        (lambda text: "[" * 9999, "as likewise wrote it"),
        (lambda text: changed(json.loads(text), items="10"), "as likewise wrote it"),
        (lambda text: changed(json.loads(text), format=2), "format 1, got 2"),
    ],
)
def test_a_damaged_plan_ends_in_a_sentence(tmp_path, change, match):
    fill(tmp_path)
    plan = tmp_path / "_plan.json"
    plan.write_text(change(plan.read_text()))
    with pytest.raises(InputError, match=match):
        Parts(tmp_path, ["match"])
    with pytest.raises(InputError, match=match):
        Writer(tmp_path, PLAN, resume=True)


def test_there_are_never_more_than_ten_thousand_parts_by_default():
    assert rows_for(5) == rows_for(10**6) == 4096
    assert Plan("match", 10**9, rows_for(10**9)).count <= 10_000
    plan = Plan("match", 10, 3, 4)
    assert sorted(row for n in range(4) for p in plan.numbers(n) for row in plan.rows(p)) == [
        *range(10)
    ]
