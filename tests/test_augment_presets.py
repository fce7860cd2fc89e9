import importlib

import numpy as np
import pytest
import torch

import likewise as lw
from likewise import data, losses
from likewise.augment import Augment, as_batch_change, by_name, presets
from likewise.encoders._torchvision import retried

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_light_is_the_augmentation_of_before_and_the_default():
    assert by_name("light") == Augment()
    assert lw.Recipe().augment_name == "light"
    assert by_name("none") is None
    with pytest.raises(
        ValueError, match="augment must be one of light, none, photos, strong, views, got"
    ):
        by_name("heavy")


@pytest.mark.parametrize("name", ["light", "photos", "strong", "views"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_name_changes_images_and_keeps_their_form(name, channels):
    images = IMAGES[:, :channels]
    torch.manual_seed(0)
    changed = presets.fitted(by_name(name), channels)(images)
    assert changed.shape == images.shape
    assert bool(((changed >= 0) & (changed <= 1)).all())
    assert (changed - images).abs().mean() > 0.01


@pytest.mark.parametrize("name", ["none", "photos"])
def test_train_changes_images_as_its_recipe_says(name, monkeypatch):
    seen = []

    def fit(*_, augment, **__):
        seen.append(augment)
        raise KeyboardInterrupt

    monkeypatch.setattr(lw.training, "fit", fit)
    images = data.load((np.random.default_rng(0).random((20, 16, 16, 3)), [0, 1] * 10))
    with pytest.raises(KeyboardInterrupt):
        lw.train(images, lw.Recipe(augment=name))
    assert seen == [by_name(name)]
    with pytest.raises(KeyboardInterrupt):
        lw.train(images, lw.Recipe(augment=name), augment=torch.flipud)
    assert seen[1] is torch.flipud


def test_a_function_of_a_batch_is_left_as_it_is():
    assert as_batch_change(torch.flipud) is torch.flipud
    made = Augment()
    assert as_batch_change(made) is made


def of(library, **members):
    """An object whose class says that it comes from a library."""
    return type("Transform", (), {"__module__": library, **members})()


def test_albumentations_gets_arrays_one_at_a_time():
    got = []

    def call(self, *, image):
        got.append(image.shape)
        assert image.dtype == np.float32
        return {"image": image[:, ::-1] if self.keep else image[:4]}

    flip = of("albumentations.core.composition", __call__=call, keep=True)
    torch.testing.assert_close(as_batch_change(flip)(IMAGES), IMAGES.flip(-1))
    assert got == [(16, 16, 3)] * 6
    cut = of("albumentations.core.composition", __call__=call, keep=False)
    with pytest.raises(
        ValueError, match=r"augment must keep the shape .* \(3, 16, 16\), got \(3, 4,"
    ):
        as_batch_change(cut)(IMAGES)
    whole = of("albumentations.x", __call__=lambda _, image: {"image": torch.tensor(image[..., 0])})
    with pytest.raises(ValueError, match=r"must keep the shape"):
        as_batch_change(whole)(IMAGES)
    bytes_ = of("albumentations.x", __call__=lambda _, image: {"image": np.uint8(image * 255)})
    torch.testing.assert_close(as_batch_change(bytes_)(IMAGES), IMAGES, atol=1 / 255, rtol=0)


def test_torchvision_changes_each_image_in_its_own_way():
    try:
        v2 = retried(lambda: importlib.import_module("torchvision.transforms.v2"))
    except (ImportError, RuntimeError):
        pytest.skip("torchvision cannot be imported")
    change = v2.RandomHorizontalFlip()
    torch.manual_seed(0)
    changed = as_batch_change(change)(IMAGES)
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(changed, IMAGES, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(changed, IMAGES, strict=True)]
    assert all(a or b for a, b in zip(flipped, kept, strict=True))
    assert 0 < sum(flipped) < 6  # not all alike
    with pytest.raises(ValueError, match="augment must return a tensor for a tensor, got Image"):
        as_batch_change(v2.ToPILImage())(IMAGES)
    pair = data.load((IMAGES, [0, 1] * 3))
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 4))
    lw.fit(encoder, losses.TripletLoss(), pair, epochs=1, batches=1, augment=change, device="cpu")
