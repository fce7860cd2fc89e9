import gzip
import io
import os
import resource
import socket
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from likewise._files import open_regular, read_regular
from likewise.data import ImageFiles, items, load, load_pairs
from likewise.data.idx import read_idx
from likewise.data.images import read_image
from likewise.data.limits import max_pixels


def png_of(width, height):
    """A whole PNG of one bit per pixel, all black, packed row by row."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    packer, packed = zlib.compressobj(9), b""
    row = bytes(1 + (width + 7) // 8)
    for _ in range(height):
        packed += packer.compress(row)
    packed += packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_header(shape, descr="<f8"):
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def write_npz(path, x, y=None, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr("x.npy", x)
        packed.writestr("y.npy", npy(np.arange(3)) if y is None else y)
    return path


@pytest.fixture
def less_memory():
    """The test may take 256 MiB more than it has, so that a bomb ends in MemoryError."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**28, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


# pixels


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 20_000])  # Pillow warns of the first, not of the second
def test_an_image_of_too_many_pixels_is_refused_undecoded(tmp_path, less_memory, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(side, side))
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.png' must have at most 89,478,485 pixels, got"):
        ImageFiles([path], ["a"])


def test_the_warning_of_pillow_may_be_an_error_too(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(10_000, 10_000))
    with pytest.raises(ValueError, match="must have at most 89,478,485 pixels, got more"):
        read_image(path, channels=1)


def test_the_limit_of_pixels_is_that_of_pillow_or_of_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(png_of(30, 20))
    assert read_image(path, channels=1).shape == (1, 20, 30)
    monkeypatch.setenv("LIKEWISE_MAX_PIXELS", "599")
    with pytest.raises(
        ValueError, match=r"at most 599 pixels, got 30 x 20\. Resize it, or set LIKE"
    ):
        read_image(path, channels=1)
    monkeypatch.setenv("LIKEWISE_MAX_PIXELS", "600")
    assert read_image(path, channels=1).shape == (1, 20, 30)
    monkeypatch.delenv("LIKEWISE_MAX_PIXELS")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(ValueError, match="must have at most 299 pixels, got more"):
        read_image(path, channels=1)
    monkeypatch.setenv("LIKEWISE_MAX_PIXELS", "600")  # asked for, so Pillow's is raised with it
    assert read_image(path, channels=1).shape == (1, 20, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.delenv("LIKEWISE_MAX_PIXELS")
    assert max_pixels() is None
    assert read_image(path, channels=1).shape == (1, 20, 30)


@pytest.mark.parametrize("value", ["many", "0", "-1", "1e9"])
def test_a_limit_that_is_no_number_is_named(tmp_path, monkeypatch, value):
    path = tmp_path / "a.png"
    path.write_bytes(png_of(3, 2))
    monkeypatch.setenv("LIKEWISE_MAX_PIXELS", value)
    with pytest.raises(
        ValueError, match="LIKEWISE_MAX_PIXELS must be a whole number of at least 1, got"
    ):
        read_image(path, channels=1)


# packed arrays


def test_a_gzip_bomb_is_refused_by_its_header(tmp_path, less_memory):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    shape = (2000, 1000, 1000)  # 2 GB
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(bytes([0, 0, 8, 3]) + struct.pack(">3I", *shape))
        file.write(bytes(1000))
    with pytest.raises(
        ValueError, match=r"gz' must unpack to at most 1,073,741,824 bytes, got 2,0"
    ):
        read_idx(path)


def test_a_gzip_file_that_goes_on_is_read_no_further_than_its_header_says(tmp_path, less_memory):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(bytes([0, 0, 8, 1]) + struct.pack(">I", 5))
        for _ in range(300):
            file.write(bytes(2**20))
    with pytest.raises(
        ValueError, match=r"must have 13 bytes for the shape \(5,\) of its header, got m"
    ):
        read_idx(path)


def test_a_plain_idx_header_of_terabytes_is_compared_with_the_file(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 2**31) + b"abc")
    with pytest.raises(ValueError, match=r"must have \d+ bytes .* got 19\. The file is damaged"):
        read_idx(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
@pytest.mark.parametrize(
    "x",
    [
        npy_header((2**32, 2**10)) + b"abc",  # 32 TiB of float64
        npy_header((3, 2)) + bytes(40),
        npy_header((3, 2)) + bytes(56),
        npy_header((-3, -2)) + bytes(48),
        npy_header((3, 2), "|O") + bytes(48),
        npy_header((3, 2), "nonsense") + bytes(48),
        npy_header(("3", 2)) + bytes(48),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000,
        b"\x93NUMPY\x07\x00\x00\x00",
        b"text",
        b"",
    ],
    ids=[
        *("36 TiB", "too short", "too long", "negative", "objects", "no type", "shape of text"),
        *("nested", "version 7", "text", "empty"),
    ],
)
def test_an_npz_whose_arrays_are_not_what_they_say_is_refused(tmp_path, x, method):
    path = write_npz(tmp_path / "a.npz", x, method=method)
    with pytest.raises(ValueError, match="must hold plain arrays of numbers or strings, got a dam"):
        load(path)


def test_a_zip_bomb_is_refused_unpacked(tmp_path, less_memory, monkeypatch):
    monkeypatch.setenv("LIKEWISE_MAX_UNPACKED", "200000000")
    shape = (3, 100_000_000)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        packed.writestr("y.npy", npy(np.arange(3)))
        with packed.open("x.npy", "w", force_zip64=True) as file:
            file.write(npy_header(shape, "|u1"))
            for _ in range(300):
                file.write(bytes(1_000_000))
    assert path.stat().st_size < 2_000_000
    with pytest.raises(
        ValueError, match=r"'x\.npy' in .* must unpack to at most 200,000,000 bytes"
    ):
        load(path)


def test_the_limit_of_unpacked_bytes_is_that_of_the_environment(tmp_path, monkeypatch):
    x = np.zeros((3, 50), np.float32)
    path = write_npz(tmp_path / "a.npz", npy(x))
    assert torch.equal(items(load(path)), torch.zeros(3, 50))
    monkeypatch.setenv("LIKEWISE_MAX_UNPACKED", "700")
    with pytest.raises(ValueError, match="must unpack to at most 700 bytes, got 728 from"):
        load(path)
    monkeypatch.setenv("LIKEWISE_MAX_UNPACKED", "728")
    assert len(load(path)) == 3


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(3, 2),
        np.asfortranarray(np.arange(6.0).reshape(3, 2)),
        np.arange(6, dtype=">i2").reshape(3, 2),
        np.array([[True, False]] * 3),
    ],
)
def test_honest_arrays_are_read_as_numpy_reads_them(tmp_path, array):
    path = tmp_path / "a.npz"
    np.savez(path, x=array, y=["b", "a", "b"])
    data = load(path)
    np.testing.assert_array_equal(items(data), array.astype(np.float32))
    assert data.labels.tolist() == [1, 0, 1]


# regular files only


@pytest.fixture(params=["pipe", "link to a pipe", "socket", "device"])
def special(request, tmp_path):
    """A file to read, which would never end, or answer an error of its own."""

    def make(name):
        path = tmp_path / name
        match request.param:
            case "pipe":
                os.mkfifo(path)
            case "link to a pipe":
                os.mkfifo(tmp_path / "pipe")
                path.symlink_to("pipe")
            case "socket":
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(str(path))
            case _:
                path.symlink_to("/dev/zero")
        return path

    return make


@pytest.mark.parametrize("name", ["t.csv", "t.npz"])
def test_a_source_that_is_no_regular_file_is_refused(special, name):
    with pytest.raises(ValueError, match=r"must be a regular file, got a (named|socket|device)"):
        load(special(name))


def test_images_pairs_and_idx_files_are_regular_files(special, tmp_path):
    path = special("train-images-idx3-ubyte")
    for read in (
        lambda: read_image(path, channels=1),
        lambda: read_idx(path),
        lambda: load_pairs(path),
    ):
        with pytest.raises(ValueError, match="must be a regular file, got a"):
            read()


def test_a_regular_file_is_opened_and_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert read_regular(path) == read_regular(str(tmp_path / "link"), limit=5) == b"12345"
    with pytest.raises(ValueError, match="must have at most 4 bytes, got more"):
        read_regular(path, limit=4)
    with pytest.raises(ValueError, match="must be a regular file, got a folder"):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "gone")
    with open_regular(path) as file:
        assert not os.get_inheritable(file.fileno())


def test_no_file_stays_open(tmp_path):
    (tmp_path / "a.csv").write_text("label,x\na,1\nb,2\n")
    (tmp_path / "bad.csv").write_text("label,x\na,1\nb,c\n")
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    load(tmp_path / "a.csv")
    load(write_npz(tmp_path / "a.npz", npy(np.zeros((3, 2)))))
    for bad in (tmp_path / "bad.csv", write_npz(tmp_path / "bad.npz", b"")):
        with pytest.raises(ValueError, match="must"):
            load(bad)
    image = read_image(tmp_path / "a.png", channels=1)
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    opened = [os.readlink(link) for link in links if os.path.lexists(link)]
    assert len(opened) > 2
    assert not [name for name in opened if str(tmp_path) in name]
    assert image.shape == (1, 3, 3)
