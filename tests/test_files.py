import os
import threading
import time

import pytest
import torch

from likewise._files import Lock, open_regular, read_regular, write_whole
from likewise.errors import GalleryError, InputError
from likewise.index import Gallery


def in_child(function):
    """The exit status of a process forked from here that calls `function`."""
    child = os.fork()
    if not child:
        status = 99
        try:
            status = function()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "link") == b"content"
    assert read_regular(tmp_path / "file", limit=7) == b"content"
    with open_regular(str(tmp_path / "file")) as file:
        assert file.read(3) == b"con"


@pytest.mark.parametrize("kind", ["a named pipe", "a folder", "a device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "odd"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=f"odd' must be a regular file, got {kind}"):
        read_regular(path)


def test_a_file_over_the_limit_is_refused_unread(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)  # takes no room on disk
    with pytest.raises(InputError, match="must have at most 100 bytes, got more"):
        read_regular(tmp_path / "huge", limit=100)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nothing")


def test_a_high_limit_takes_no_more_memory_than_the_file(tmp_path):
    (tmp_path / "small").write_bytes(b"content")
    assert read_regular(tmp_path / "small", limit=2**60) == b"content"
    (tmp_path / "empty").touch()
    assert read_regular(tmp_path / "empty", limit=2**60) == b""


@pytest.mark.parametrize("said", [0, 3])
def test_a_file_longer_than_the_system_said_is_read_whole(tmp_path, monkeypatch, said):
    content = bytes(range(256)) * 1000
    (tmp_path / "growing").write_bytes(content)
    fstat = os.fstat

    def before_it_grew(handle):
        told = fstat(handle)
        return os.stat_result([*told[:6], said, *told[7:10]])

    monkeypatch.setattr(os, "fstat", before_it_grew)
    assert read_regular(tmp_path / "growing", limit=len(content)) == content
    with pytest.raises(InputError, match="must have at most 255,999 bytes, got more"):
        read_regular(tmp_path / "growing", limit=len(content) - 1)


def test_threads_that_write_one_path_leave_one_of_their_contents(tmp_path):
    contents = [bytes([letter]) * 100_000 for letter in range(8)]

    def write(content):
        for _ in range(5):
            write_whole(tmp_path / "file", content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


def test_a_lock_keeps_threads_and_processes_apart_and_ends_with_its_process(tmp_path):
    path = tmp_path / "lock"

    def is_free():
        try:
            Lock(path).release()
        except BlockingIOError:
            return 1
        return 0

    with Lock(path):
        assert is_free() == 1  # another handle of this very thread stands for another thread
        assert in_child(is_free) == 1
    assert is_free() == 0

    def hold():
        Lock(path)
        os.kill(os.getpid(), 9)

    assert in_child(hold) == -9
    assert is_free() == 0


def test_a_lock_is_not_inherited_by_a_fork(tmp_path):
    lock = Lock(tmp_path / "lock")
    assert in_child(lambda: int(lock.is_held)) == 0
    assert lock.is_held
    child = os.fork()
    if not child:
        time.sleep(30)
        os._exit(0)
    lock.release()
    Lock(tmp_path / "lock").release()  # though the child lives, with a copy of all handles
    os.kill(child, 9)
    os.waitpid(child, 0)


def test_waiting_for_a_lock_ends_when_it_is_released(tmp_path):
    lock = Lock(tmp_path / "lock")
    threading.Timer(0.05, lock.release).start()
    with Lock(tmp_path / "lock", patience=30) as second:
        assert second.is_held


def test_a_gallery_opened_before_a_fork_is_not_written_after_it(tmp_path):
    gallery = Gallery(tmp_path / "gallery")
    gallery.add(torch.eye(3), labels=["a", "b", "c"])

    def add():
        try:
            gallery.add(torch.eye(3), labels=["a", "b", "c"])
        except GalleryError as error:
            return int("Open the gallery in the child" not in str(error))
        return 2

    assert in_child(add) == 0
    gallery.add(torch.eye(3), labels=["d", "e", "f"])
    gallery.close()
    assert len(Gallery(tmp_path / "gallery", read_only=True)) == 6
