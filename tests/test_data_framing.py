"""Framing brings images to one size as timm does, pixel for pixel."""

import importlib
import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise.data import Framing, Preprocess
from likewise.data.images import fit_images, pixels_of, read_image
from likewise.encoders._torchvision import retried
from likewise.errors import InputError

SIZES = [(40, 60), (61, 37), (24, 24), (10, 14)]


def picture(height, width, mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(24, 24), (20, 30)])
@pytest.mark.parametrize("crop", [1.0, 0.875, 0.9])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("mode", ["squash", "center", "border"])
def test_every_pixel_is_that_of_timm(size, target, crop, interpolation, mode):
    if importlib.util.find_spec("timm") is None:
        pytest.skip('needs timm: pip install "likewise[backbones]"')
    timm_data = retried(lambda: importlib.import_module("timm.data"))
    fill = (0.485, 0.456, 0.406)
    by_timm = timm_data.create_transform(
        (3, *target),
        interpolation=interpolation,
        mean=fill,
        crop_pct=crop,
        crop_mode=mode,
        normalize=False,
    )
    framing = Framing(*target, crop=crop, mode=mode, interpolation=interpolation, fill=fill)
    image = picture(*size)
    assert torch.equal(pixels_of(image, image_size=framing), by_timm(image).float() / 255)


def test_a_plain_size_is_both_sides_squashed_bilinearly():
    image = picture(30, 20)
    expected = np.asarray(image.resize((8, 12), Image.Resampling.BILINEAR))
    found = (pixels_of(image, image_size=(12, 8)) * 255).round().byte()
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("mode", ["squash", "center", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_tensors_are_framed_nearly_as_images_are(mode, interpolation):
    framing = Framing(16, 20, crop=0.8, mode=mode, interpolation=interpolation, fill=(0.5,))
    smooth = np.linspace(0, 255, 50 * 41 * 3).reshape(50, 41, 3).astype(np.uint8)
    expected = pixels_of(Image.fromarray(smooth), image_size=framing)
    items = torch.from_numpy(smooth).permute(2, 0, 1)[None].float() / 255
    torch.testing.assert_close(fit_images(items, framing, None)[0], expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_large_photo_read_at_a_smaller_scale_is_nearly_the_same(tmp_path, mode):
    smooth = np.linspace(0, 255, 400 * 900 * 3).reshape(400, 900, 3).astype(np.uint8)
    Image.fromarray(smooth).convert(mode).save(tmp_path / "large.jpg", quality=95)
    framing = Framing(32, 32, crop=0.875, mode="center", interpolation="bicubic")
    channels = 1 if mode == "L" else 3
    with Image.open(tmp_path / "large.jpg") as image:
        whole = pixels_of(image, channels=channels, image_size=framing)
    quick = read_image(tmp_path / "large.jpg", channels=channels, image_size=framing)
    assert quick.shape == (channels, 32, 32)
    torch.testing.assert_close(quick, whole, atol=0.03, rtol=0)


def test_a_border_has_the_color_asked_for_also_in_gray():
    framing = Framing(4, 8, mode="border", fill=(1.0, 0.5, 0.0))
    color = pixels_of(Image.new("RGB", (4, 4)), image_size=framing)
    assert color[:, 0, 0].tolist() == pytest.approx([1.0, 128 / 255, 0.0])
    assert color[:, 0, 3].tolist() == [0.0, 0.0, 0.0]
    gray = pixels_of(Image.new("L", (4, 4)), channels=1, image_size=framing)
    assert float(gray[0, 0, 0]) == pytest.approx(128 / 255)


def test_a_model_reads_files_and_pillow_images_by_its_framing(tmp_path):
    framing = Framing(8, 8, crop=0.5, mode="center", interpolation="bicubic")
    preprocess = Preprocess((3, 8, 8), (0.0,) * 3, (1.0,) * 3, framing)
    model = lw.SimilarityModel(torch.nn.Flatten(), preprocess=preprocess)
    image = picture(30, 44)
    image.save(tmp_path / "a.png")
    expected = pixels_of(image, image_size=framing).flatten()
    again = lw.load(model.save(tmp_path / "model"))
    assert again.preprocess == preprocess
    for each in (model, again):
        assert torch.equal(each.embed([tmp_path / "a.png"])[0], expected)
        assert torch.equal(each.embed(image)[0], expected)


def test_a_framing_of_another_size_than_the_items_is_refused():
    with pytest.raises(InputError, match=r"framing must have the size of items"):
        Preprocess((1, 8, 8), (0.0,), (1.0,), Framing(8, 9))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"crop": 0}, "crop must be above 0"),
        ({"crop": float("nan")}, "crop must be"),
        ({"mode": "stretch"}, "mode must be one of"),
        ({"interpolation": "best"}, "interpolation must be one of"),
        ({"fill": (2.0,)}, "fill must be colors"),
        ({"fill": ()}, "fill must be colors"),
        ({"height": 0}, "height must be"),
    ],
)
def test_what_cannot_be_framed_is_refused(wish, message):
    with pytest.raises(InputError, match=message):
        Framing(**{"height": 8, "width": 8, **wish})
