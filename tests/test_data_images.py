import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps
from torch.utils.data import DataLoader

from likewise import _pixels
from likewise.data import ImageFiles, Preprocess, images, items
from likewise.data.images import fit_images, is_image_name, pixels_of, read_image
from likewise.errors import InputError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9), dtype=np.uint16)
ALPHA = np.where(np.arange(9) < 4, 255, 0).astype(np.uint8) * np.ones((6, 1), np.uint8)


def luma(rgb):
    return rgb @ [0.299, 0.587, 0.114]


def save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def save_palette(path, **options):
    image = Image.fromarray(GRAY % 3)
    image = image.convert("P")
    image.putpalette([250, 10, 0, 0, 200, 60, 30, 0, 90])
    image.save(path, **options)
    return path


PALETTE = np.array([[250, 10, 0], [0, 200, 60], [30, 0, 90]])[GRAY % 3]
WHITE = ALPHA[..., None] == 0
KEYED = np.where(DEEP[0, 0] == DEEP, 65535, DEEP)

# How to write a file; the pixels (h, w) or (h, w, 3) in 0..255 it must read as.
KINDS = {
    "gray.png": (lambda p: save(p, GRAY), GRAY),
    "gray.bmp": (lambda p: save(p, GRAY), GRAY),
    "gray.pgm": (lambda p: save(p, GRAY), GRAY),
    "color.png": (lambda p: save(p, RGB), RGB),
    "color.bmp": (lambda p: save(p, RGB), RGB),
    "color.ppm": (lambda p: save(p, RGB), RGB),
    "bits.png": (lambda p: save(p, GRAY > 99), (GRAY > 99) * 255),
    "bits.pbm": (lambda p: save(p, GRAY > 99), (GRAY > 99) * 255),
    "deep.png": (lambda p: save(p, DEEP), DEEP / 257),
    "deep.pgm": (lambda p: save(p, DEEP), DEEP / 257),
    "deep-keyed.png": (
        lambda p: save(p, DEEP, transparency=int(DEEP[0, 0])),
        KEYED / 257,
    ),
    "gray-alpha.png": (
        lambda p: save(p, np.dstack([GRAY, ALPHA])),
        np.where(WHITE[..., 0], 255, GRAY),
    ),
    "color-alpha.png": (
        lambda p: save(p, np.dstack([RGB, ALPHA])),
        np.where(WHITE, 255, RGB),
    ),
    "half-alpha.png": (
        lambda p: save(p, np.dstack([RGB, np.full_like(GRAY, 51)])),  # a fifth
        255 + (RGB - 255.0) / 5,
    ),
    "palette.png": (save_palette, PALETTE),
    "palette.bmp": (save_palette, PALETTE),
    "palette-key.png": (
        lambda p: save_palette(p, transparency=1),
        np.where((GRAY % 3 == 1)[..., None], 255, PALETTE),
    ),
    "palette-alpha.png": (
        lambda p: save_palette(p, transparency=bytes([255, 255, 0])),
        np.where((GRAY % 3 == 2)[..., None], 255, PALETTE),
    ),
    "flat.jpg": (
        lambda p: save(p, np.full((6, 9, 3), (200, 100, 50), np.uint8)),
        [[[200, 100, 50]]],
    ),
    "cmyk.jpeg": (
        lambda p: save(p, np.full((6, 9, 3), (200, 100, 50), np.uint8), "CMYK"),
        [[[200, 100, 50]]],
    ),
    "GRAY.JPG": (lambda p: save(p, np.full((6, 9), 77, np.uint8)), [[77]]),
    "color.webp": (lambda p: save(p, RGB, lossless=True), RGB),
    "alpha.webp": (
        lambda p: save(p, np.dstack([RGB, ALPHA]), lossless=True, exact=True),
        np.where(WHITE, 255, RGB),
    ),
    "gray.tif": (lambda p: save(p, GRAY), GRAY),
    "color.tiff": (lambda p: save(p, RGB, compression="tiff_lzw"), RGB),
    "deep.tif": (lambda p: save(p, DEEP), DEEP / 257),
    "palette.gif": (save_palette, PALETTE),
    "key.gif": (
        lambda p: save_palette(p, transparency=1),
        np.where((GRAY % 3 == 1)[..., None], 255, PALETTE),
    ),
    "two.gif": (
        lambda p: save(p, GRAY, save_all=True, append_images=[Image.fromarray(255 - GRAY)]),
        GRAY,
    ),
    "color.jp2": (lambda p: save(p, RGB, irreversible=False), RGB),
    "color.qoi": (lambda p: save(p, RGB), RGB),
    "color.tga": (lambda p: save(p, RGB), RGB),
    "gray.sgi": (lambda p: save(p, GRAY), GRAY),
}


def test_every_suffix_is_known_to_pillow_too():
    Image.init()
    known = Image.registered_extensions()
    for formats in (_pixels.FORMATS, _pixels.UNSIGNED):
        for kind, suffixes in formats.items():
            assert {known[suffix] for suffix in suffixes} <= {kind, "MPO"}
    assert is_image_name("a/b.WEBP")
    assert not is_image_name("a.eps")  # Pillow would have another program read it


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_image_reads_as_the_pixels_it_shows(tmp_path, name):
    write, pixels = KINDS[name]
    path = write(tmp_path / name)
    pixels = np.broadcast_to(pixels, (6, 9, *np.shape(pixels)[2:]))
    files = ImageFiles([path], ["a"])
    tolerance = 2 if name.lower().endswith(("jpg", "jpeg")) else 1e-3 if "deep" in name else 0.51

    assert files.item_shape == ((1 if pixels.ndim == 2 else 3), 6, 9)
    expected = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    np.testing.assert_allclose(files[0][0] * 255, expected, atol=tolerance)
    assert files[0][0].std() > 0 or tolerance == 2

    color = read_image(path, channels=3) * 255
    np.testing.assert_allclose(color, np.broadcast_to(expected, (3, 6, 9)), atol=tolerance)
    gray = read_image(path, channels=1)[0] * 255
    expected_gray = pixels if pixels.ndim == 2 else luma(pixels)
    np.testing.assert_allclose(gray, expected_gray, atol=tolerance + 0.5)


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_lies_as_its_exif_orientation_says(tmp_path, orientation, suffix):
    upright = np.kron(RNG.integers(0, 2, (3, 2), dtype=np.uint8) * 200, np.ones((8, 8), np.uint8))
    upright[:8, :8] = 100  # so that no turn looks like another
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    save(path, np.ascontiguousarray(stored), exif=exif, quality=100)
    files = ImageFiles([path], ["a"], channels=1)
    assert files.item_shape == (1, 24, 16)
    np.testing.assert_allclose(files[0][0][0] * 255, upright, atol=3)


def test_image_size_resizes_and_antialiases(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))
    paths = [save(tmp_path / "stripes.png", stripes), save(tmp_path / "rgb.png", RGB)]
    files = ImageFiles(paths, [0, 1], image_size=(4, 8), channels=1)
    assert files.item_shape == (1, 4, 8)
    batch = items(files)
    assert batch.shape == (2, 1, 4, 8)
    assert (batch[0] - 0.5).abs().max() < 0.15  # picking pixels would give 0 or 1
    assert ImageFiles(paths, [0, 1], image_size=5, channels=3).item_shape == (3, 5, 5)


@pytest.mark.parametrize("channels", [1, 3])
def test_deep_images_are_resized_too(tmp_path, channels):
    path = save(tmp_path / "deep.png", np.full((6, 9), 12345, np.uint16))
    image = read_image(path, channels=channels, image_size=(3, 3))
    torch.testing.assert_close(image, torch.full((channels, 3, 3), 12345 / 65535))


def test_memory_and_files_are_resized_alike(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    from_file = read_image(path, channels=3, image_size=(4, 5)) * 255
    in_memory = fit_images(torch.from_numpy(RGB).permute(2, 0, 1)[None], (4, 5), None)
    assert in_memory.dtype == torch.uint8
    np.testing.assert_allclose(from_file, in_memory[0], atol=1)
    gray = fit_images(torch.from_numpy(RGB).permute(2, 0, 1)[None], None, 1)
    np.testing.assert_allclose(gray[0, 0], luma(RGB), atol=0.51)
    assert torch.equal(fit_images(gray, None, 3)[0, 2], gray[0, 0])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_decodes_in_its_workers(tmp_path, workers):
    paths = [save(tmp_path / f"{i}.png", np.full((4, 4), 40 * i, np.uint8)) for i in range(5)]
    files = ImageFiles(paths, ["x", "y", "x", "y", "x"])
    loader = DataLoader(files, batch_size=2, num_workers=workers)
    values = [value for batch in loader for value in (batch.items.mean((1, 2, 3)) * 255).tolist()]
    np.testing.assert_allclose(values, [0, 40, 80, 120, 160], atol=1e-3)
    assert torch.equal(torch.cat([batch.labels for batch in loader]), files.labels)


def test_preprocess_reads_files_as_the_dataset_does(tmp_path):
    paths = [save(tmp_path / "a.png", RGB), save(tmp_path / "b.png", GRAY)]
    read = Preprocess((3, 5, 4), (0.0,) * 3, (1.0,) * 3).read(paths)
    assert torch.equal(read, items(ImageFiles(paths, [0, 1], image_size=(5, 4), channels=3)))
    assert 0.1 < read.std() < 1


def test_images_of_several_sizes_become_one_with_a_word(tmp_path):
    paths = [save(tmp_path / "a.png", GRAY), save(tmp_path / "b.png", GRAY[:4])]
    with pytest.warns(UserWarning, match=r"sizes, from 4x9 to 6x9: all are resized to 64x64"):
        files = ImageFiles(paths, [0, 1])
    assert files.item_shape == (1, 64, 64)
    assert items(files).shape == (2, 1, 64, 64)
    assert ImageFiles(paths[:1], [0]).item_shape == (1, 6, 9)


def test_a_file_that_changes_its_size_is_named(tmp_path):
    files = ImageFiles([save(tmp_path / "a.png", GRAY)], [0])
    save(tmp_path / "a.png", GRAY[:4])
    with pytest.raises(ValueError, match=r"a\.png' must have the size .* opened, 6x9, got 4x9"):
        items(files)


def test_one_image_in_color_makes_all_of_them_color(tmp_path, monkeypatch):
    names = ["gray.png", "palette.gif", "color.bmp", "color.webp"]
    gray, palette, color, web = (tmp_path / name for name in names)
    save(gray, GRAY)
    save_palette(palette)
    save(color, RGB)
    save(web, RGB, lossless=True)
    for other in (palette, color, web):
        for paths in ([gray, other], [other, gray]):
            files = ImageFiles(paths, [0, 1])
            assert files.item_shape == (3, 6, 9), other
    stripes = items(ImageFiles([gray, color], [0, 1]))
    np.testing.assert_allclose(stripes[0].numpy() * 255, np.stack([GRAY] * 3), atol=1e-3)
    np.testing.assert_allclose(stripes[1].permute(1, 2, 0).numpy() * 255, RGB, atol=1e-3)
    monkeypatch.setattr("likewise.data.images.LOOKED_AT", 2)
    assert ImageFiles([gray] * 3 + [color], [0] * 4).item_shape[0] == 1  # rows 0 and 2 are seen
    assert ImageFiles([gray, gray, color, gray], [0] * 4).item_shape[0] == 3


@pytest.mark.parametrize("threads", [1, 3])
def test_several_threads_decode_the_same(tmp_path, threads):
    shades = RNG.integers(0, 256, (50, 6, 9), dtype=np.uint8)
    paths = [save(tmp_path / f"{i}.png", shade) for i, shade in enumerate(shades)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        files = ImageFiles(paths, range(50))
        rows = [*range(49, -1, -1), 7, 7]
        np.testing.assert_allclose(items(files, rows)[:, 0] * 255, shades[rows], atol=1e-3)
        paths[3].write_bytes(b"x")
        with pytest.raises(ValueError, match=r"3\.png' must be a whole"):
            items(ImageFiles(paths, range(50), image_size=4, channels=1))
    finally:
        torch.set_num_threads(before)


def test_files_that_cannot_be_read_are_left_out_if_asked(tmp_path):
    good, cut, text = tmp_path / "good.png", tmp_path / "cut.png", tmp_path / "text.jpg"
    save(good, GRAY)
    save(cut, RNG.integers(0, 256, (64, 64), dtype=np.uint8))
    cut.write_bytes(cut.read_bytes()[:-1500])
    text.write_text("hello")
    paths = [text, good, cut, tmp_path / "gone.png"]
    for size in ((6, 9), 5):
        message = (
            r"left out 3 of 4 files that cannot be read as images: '.*text\.jpg', .*gone\.png'"
        )
        with pytest.warns(UserWarning, match=message):
            files = ImageFiles(paths, list("abca"), image_size=size, skip_unreadable=True)
        assert files.skipped == [str(text), str(cut), str(tmp_path / "gone.png")]
        assert (files.paths, files.labels.tolist()) == ([str(good)], [1])
        assert files.class_names == ["a", "b", "c"]
        assert len(items(files)) == 1
    with pytest.raises(ValueError, match=r"an image that can be read, got 1 that cannot: .*text"):
        ImageFiles([text], [0], image_size=4, skip_unreadable=True)


@pytest.mark.parametrize(
    "contents",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"P5\n9 6\n255\n123"],
    ids=["empty", "text", "cut header", "cut pixels"],
)
def test_a_broken_image_is_named_in_one_sentence(tmp_path, contents):
    good, broken = save(tmp_path / "a.png", GRAY), tmp_path / "broken.pgm"
    broken.write_bytes(contents)
    for sized in ({}, {"image_size": (6, 9), "channels": 1}):  # met at opening, or when fetched
        with pytest.raises(
            ValueError, match=r"broken\.pgm' must be a whole PNG, .* got a file"
        ) as info:
            ImageFiles([good, broken], [0, 1], **sized)[1]
        assert "\n" not in str(info.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_a_truncated_image_is_named(tmp_path, suffix):
    big = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
    path = save(tmp_path / f"cut.{suffix}", big)
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(ValueError, match=rf"cut\.{suffix}' must be a whole PNG"):
        read_image(path, channels=1)


def test_a_file_that_has_gone_is_named(tmp_path):
    files = ImageFiles([tmp_path / "gone.png"], [0], image_size=4, channels=1)
    with pytest.raises(FileNotFoundError, match=r"image '.*gone\.png' must exist"):
        files[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (1, 2, 3)}, r"image_size must be one number or \(height, width\), got"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"channels": 2}, r"channels must be 1 \(gray\) or 3 \(color\), got 2"),
        ({"labels": [0, 1]}, "labels must be one per path .* got 2 for 1 paths"),
        ({"paths": [], "labels": []}, "at least one, got 0 for 0 paths"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    path = save(tmp_path / "a.png", GRAY)
    with pytest.raises(ValueError, match=message):
        ImageFiles(**{"paths": [path], "labels": [0], **arguments})


def test_vectors_have_no_image_size():
    with pytest.raises(ValueError, match=r"must be left out unless .* got items of shape \(4,\)"):
        fit_images(torch.zeros(2, 4), (2, 2), None)


@pytest.mark.parametrize(
    ("name", "array"),
    [("float.tif", RGB[..., 0] / np.float32(255)), ("long.tif", DEEP.astype(np.int32))],
)
def test_pixels_of_32_bits_are_refused_rather_than_guessed(tmp_path, name, array):
    path = save(tmp_path / name, array)
    with pytest.raises(ValueError, match=r"must have pixels of 8 or 16 bits, got mode '[FI]'"):
        read_image(path, channels=1)


@pytest.mark.parametrize("name", ["gray.png", "color.png", "deep.png", "palette-key.png"])
def test_an_open_image_is_read_as_its_file_is(tmp_path, name):
    path = KINDS[name][0](tmp_path / name)
    for channels in (1, 3):
        with Image.open(path) as image:
            pixels = pixels_of(image, channels=channels, image_size=(3, 4))
        assert torch.equal(pixels, read_image(path, channels=channels, image_size=(3, 4)))
    with Image.open(path) as image:
        assert torch.equal(pixels_of(image), ImageFiles([path], ["a"])[0][0])


def test_text_is_no_image_whatever_its_name(tmp_path):
    for suffix in (*_pixels.SUFFIXES, ".txt"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"\x00\x01 text that is no image, though it is long enough to be one" * 9)
        with pytest.raises(ValueError, match="must be a whole PNG, JPEG, WebP, TIFF, GIF, BMP"):
            read_image(path, channels=1)


def photo(path, width, height, **options):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height)).save(path, quality=90, **options)
    return path


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_jpeg_made_smaller_is_decoded_at_a_scale_near_its_size(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = photo(tmp_path / "a.jpg", 640, 320, exif=exif)
    lying = orientation in (6, 8)
    size = (40, 20) if lying else (20, 40)  # (height, width), as seen
    with Image.open(path) as image:
        image.draft("RGB", (40, 20))
        assert image.size == (80, 40), "an eighth of the whole"
        turned = ImageOps.exif_transpose(image)
        expected = np.asarray(turned.resize(size[::-1], Image.Resampling.BILINEAR))
    found = read_image(path, channels=3, image_size=size)
    assert torch.equal((found * 255).round().byte().permute(1, 2, 0), torch.tensor(expected))
    with Image.open(path) as image:
        whole = ImageOps.exif_transpose(image).resize(size[::-1], Image.Resampling.BILINEAR)
    assert (found * 255 - torch.tensor(np.asarray(whole)).permute(2, 0, 1)).abs().mean() < 6, (
        "of 255, where neighbors differ by 85"
    )


def test_a_jpeg_of_the_size_asked_for_or_larger_is_decoded_whole(tmp_path):
    path = photo(tmp_path / "a.jpg", 64, 48)
    with Image.open(path) as image:
        whole = torch.tensor(np.asarray(image)).permute(2, 0, 1)
    for size in (None, (48, 64)):
        assert torch.equal((read_image(path, channels=3, image_size=size) * 255).byte(), whole)


@pytest.fixture
def decoded(monkeypatch):
    """The paths of the files that are decoded, one entry each time."""

    paths, real = [], images._open

    def counted(path, *options):
        paths.append(str(path))
        return real(path, *options)

    monkeypatch.setattr(images, "_open", counted)
    return paths


def test_a_second_pass_decodes_nothing_and_gives_the_same(tmp_path, decoded):
    paths = [photo(tmp_path / f"{i}.jpg", 32 + 16 * i, 48) for i in range(4)]
    files = ImageFiles(paths, list("abab"), image_size=16, channels=3)
    first = items(files)
    assert sorted(decoded) == sorted(map(str, paths))
    assert torch.equal(items(files), first)
    assert torch.equal(files[-1][0], first[3])
    assert len(decoded) == 4
    assert torch.equal(items(pickle.loads(pickle.dumps(files))), first)
    assert len(decoded) == 8, "what goes to a worker is decoded there"


def test_no_more_is_kept_than_the_limit_allows(tmp_path, decoded, monkeypatch):
    paths = [photo(tmp_path / f"{i}.jpg", 32, 32) for i in range(4)]
    monkeypatch.setenv("LIKEWISE_MAX_KEPT", str(2 * 3 * 16 * 16))
    files = ImageFiles(paths, list("abab"), image_size=16, channels=3)
    first = items(files)
    assert torch.equal(items(files), first)
    assert len(decoded) == 4 + 2
    monkeypatch.setenv("LIKEWISE_MAX_KEPT", "0")
    files = ImageFiles(paths, list("abab"), image_size=16, channels=3)
    assert torch.equal(items(files), first)
    assert torch.equal(items(files), first)
    assert len(decoded) == 6 + 8
    monkeypatch.setenv("LIKEWISE_MAX_KEPT", "-1")
    with pytest.raises(InputError, match="LIKEWISE_MAX_KEPT must be a whole number of at least 0"):
        ImageFiles(paths, list("abab"))


@pytest.mark.parametrize("late", [None, "exif", "text"])
def test_the_header_of_a_png_is_read_without_its_pixels(tmp_path, monkeypatch, late):
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    if late is not None:  # behind the pixels, where some cameras and editors put it
        content = path.read_bytes()
        body = exif.tobytes().removeprefix(b"Exif\0\0") if late == "exif" else b"Comment\0x"
        name = b"eXIf" if late == "exif" else b"tEXt"
        chunk = name + body
        added = struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        path.write_bytes(content[:-12] + added + content[-12:])
    decoded = []
    real = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: decoded.append(path) or real(self)
    )
    found = ImageFiles([path], [0])
    assert found.item_shape == ((3, 30, 20) if late == "exif" else (3, 20, 30))
    assert bool(decoded) == (late is not None)
    assert found[0][0].shape == found.item_shape
