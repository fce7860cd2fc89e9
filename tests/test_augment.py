import dataclasses
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from likewise.augment import (
    Augment,
    MadeClasses,
    make_flipped_classes,
    make_rotated_classes,
    views,
)
from likewise.data import ArrayDataset
from likewise.samplers import BalancedBatchSampler

OFF = {"degrees": 0, "translate": 0, "scale": (1, 1)}
EVERYTHING = Augment(
    degrees=20,
    shear=5,
    crop=(0.7, 1),
    flip=True,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    hue=0.1,
    blur=1,
    noise=0.1,
    erase=0.2,
)


def photos(n=16, channels=3, height=12, width=10):
    rng = torch.Generator().manual_seed(7)
    return torch.rand(n, channels, height, width, generator=rng)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blob(height, width, x, y):
    """One soft dot, centered `x` pixels right of and `y` pixels below the middle."""
    rows = torch.arange(height) + 0.5 - height / 2
    columns = torch.arange(width) + 0.5 - width / 2
    return torch.exp(-((rows[:, None] - y) ** 2 + (columns - x) ** 2) / 8)


def centers(images):
    """Where the mass of each image is, (n, 2): pixels right of and below the middle."""
    height, width = images.shape[-2:]
    mass = images[:, 0] / images[:, 0].sum(dim=(1, 2), keepdim=True)
    rows = torch.arange(height) + 0.5 - height / 2
    columns = torch.arange(width) + 0.5 - width / 2
    return torch.stack([(mass.sum(1) * columns).sum(1), (mass.sum(2) * rows).sum(1)], dim=1)


# Geometry, measured on where a dot goes


def test_turning_keeps_the_distance_from_the_middle_and_stays_within_the_limit():
    images = blob(41, 61, 12, 0).expand(300, 1, 41, 61)  # not square
    moved = centers(Augment(degrees=40, translate=0, scale=(1, 1))(images, seeded()))
    torch.testing.assert_close(moved.norm(dim=1), torch.full((300,), 12.0), atol=0.05, rtol=0)
    angles = torch.atan2(moved[:, 1], moved[:, 0]).rad2deg()
    assert 35 < angles.max() < 40.1
    assert -40.1 < angles.min() < -35


def test_shifts_stay_within_their_share_of_each_side():
    images = blob(40, 80, 0, 0).expand(300, 1, 40, 80)
    moved = centers(Augment(degrees=0, translate=0.1, scale=(1, 1))(images, seeded()))
    for axis, most in ((0, 8), (1, 4)):
        assert 0.9 * most < moved[:, axis].max() < most + 0.05
        assert -most - 0.05 < moved[:, axis].min() < -0.9 * most


def test_magnification_stays_within_its_limits():
    images = blob(61, 41, 8, 10).expand(300, 1, 61, 41)
    moved = centers(Augment(degrees=0, translate=0, scale=(0.5, 1.5))(images, seeded()))
    factors = moved / torch.tensor([8.0, 10.0])
    torch.testing.assert_close(factors[:, 0], factors[:, 1], atol=0.02, rtol=0)
    assert 0.49 < factors.min() < 0.55
    assert 1.45 < factors.max() < 1.51


def test_shear_moves_rows_sideways_only():
    images = blob(61, 81, 0, 10).expand(300, 1, 61, 81)
    moved = centers(Augment(**OFF, shear=45)(images, seeded()))
    torch.testing.assert_close(moved[:, 1], torch.full((300,), 10.0), atol=0.05, rtol=0)
    assert 9 < moved[:, 0].max() < 10.1
    assert -10.1 < moved[:, 0].min() < -9


def test_a_crop_is_a_window_inside_the_image():
    # Brightness is the position, so the corners of a result tell which window was taken.
    ramp = (torch.arange(50) + 0.5) / 50
    images = torch.stack([ramp.expand(50, 50), ramp[:, None].expand(50, 50)])[:, None]
    windows = Augment(**OFF, crop=(0.25, 0.81), fill=1)(images.repeat(150, 1, 1, 1), seeded())
    across = windows[0::2, 0, 0, :]
    shares = (across[:, -1] - across[:, 0]) / (ramp[-1] - ramp[0])
    assert 0.5 - 0.02 < shares.min() < 0.55
    assert 0.85 < shares.max() < 0.9 + 0.02
    assert across[:, 0].min() < 0.05  # some windows start at the left edge, none outside:
    assert (across.diff(dim=1) > 0).all()
    down = windows[1::2, 0, :, 0]
    assert (down.diff(dim=1) > 0).all()


def test_half_of_the_images_are_mirrored_exactly():
    images = photos(400)
    flipped = Augment(**OFF, flip=True)(images, seeded())
    mirrored = (flipped == images.flip(-1)).flatten(1).all(dim=1)
    unchanged = (flipped == images).flatten(1).all(dim=1)
    assert (mirrored ^ unchanged).all()
    assert 160 < mirrored.sum() < 240


@pytest.mark.parametrize(
    ("fill", "low", "high"), [(0.0, 0.0, 0.01), (0.25, 0.25, 0.26), ("border", 0.5, 1)]
)
def test_what_lies_outside_is_filled(fill, low, high):
    images = 0.5 + photos(50) / 2
    moved = Augment(degrees=0, translate=0.5, scale=(0.4, 0.5), fill=fill)(images, seeded())
    assert low <= moved.min() + 1e-6
    assert moved.min() < high


def test_reflection_repeats_the_image():
    images = blob(21, 21, 6, 0).expand(20, 1, 21, 21)
    small = {"degrees": 0, "translate": 0, "scale": (0.5, 0.5)}
    black, mirrored = (Augment(**small, fill=fill)(images) for fill in (0.0, "reflection"))
    assert (mirrored.sum(dim=(1, 2, 3)) > 1.5 * black.sum(dim=(1, 2, 3))).all()


# Color, blur, noise, erasing


def test_brightness_multiplies_each_image_by_its_own_factor():
    images = photos(300, 1) / 2
    factors = (Augment(**OFF, brightness=0.4)(images, seeded()) / images).flatten(1)
    torch.testing.assert_close(factors.std(dim=1), torch.zeros(300), atol=1e-5, rtol=0)
    assert 0.6 <= factors.min() < 0.62
    assert 1.38 < factors.max() <= 1.4001


def test_contrast_keeps_the_mean_and_saturation_keeps_the_gray():
    images = 0.4 + photos(300) / 5
    weights = torch.tensor([0.299, 0.587, 0.114])
    contrast = Augment(**OFF, contrast=0.5)(images, seeded())
    means = images.mean(dim=(1, 2, 3), keepdim=True)
    spread = contrast.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    torch.testing.assert_close(contrast, means + spread.view(-1, 1, 1, 1) * (images - means))
    spread = spread.sort().values
    assert 0.49 < spread[0] < 0.52 < 1.48 < spread[-1] < 1.51

    def gray(batch):
        return torch.einsum("nchw,c->nhw", batch, weights)

    saturated = Augment(**OFF, saturation=0.5)(images, seeded())
    torch.testing.assert_close(gray(saturated), gray(images))
    factors = (saturated[:, 0] - gray(images)) / (images[:, 0] - gray(images))
    middle = factors.flatten(1).median(dim=1).values.sort().values
    assert 0.49 < middle[0] < 0.52 < 1.48 < middle[-1] < 1.51


def test_hue_turns_colors_and_leaves_gray_alone():
    red = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1).expand(200, 3, 4, 4)
    turned = Augment(**OFF, hue=1 / 3)(red, seeded())[:, :, 0, 0]
    torch.testing.assert_close(turned.amax(dim=1), torch.full((200,), 0.8))
    torch.testing.assert_close(turned.amin(dim=1), torch.full((200,), 0.2))
    # A third of the wheel leads to green, the other way to blue, and no farther.
    assert (turned - torch.tensor([0.2, 0.8, 0.2])).abs().amax(dim=1).min() < 0.02
    assert (turned - torch.tensor([0.2, 0.2, 0.8])).abs().amax(dim=1).min() < 0.02
    assert torch.minimum(turned[:, 1], turned[:, 2]).max() < 0.2001
    gray = torch.full((5, 3, 4, 4), 0.3)
    torch.testing.assert_close(Augment(**OFF, hue=0.5)(gray), gray)


def test_blur_has_the_width_it_draws():
    images = torch.zeros(300, 1, 41, 41)
    images[:, :, 20, 20] = 1
    blurred = Augment(**OFF, blur=3)(images, seeded())
    torch.testing.assert_close(blurred.sum(dim=(1, 2, 3)), torch.ones(300))
    squares = (torch.arange(41) - 20.0) ** 2
    widths = (blurred[:, 0].sum(dim=1) * squares).sum(dim=1).sqrt().sort().values
    assert widths[0] < 0.1
    assert 2.8 < widths[-1] < 3.01
    torch.testing.assert_close(Augment(**OFF, blur=1e-30)(images), images)
    # A kernel wider than the image is no problem.
    torch.testing.assert_close(
        Augment(**OFF, blur=3)(torch.ones(2, 1, 5, 5)), torch.ones(2, 1, 5, 5)
    )


def test_noise_has_its_own_strength_in_every_image_and_is_clipped():
    images = torch.full((200, 1, 30, 30), 0.5)
    strengths = Augment(**OFF, noise=0.1)(images, seeded()).std(dim=(1, 2, 3)).sort().values
    assert strengths[0] < 0.01
    assert 0.095 < strengths[-1] < 0.105
    noisy = Augment(**OFF, noise=0.5)(images, seeded())
    assert (noisy.min(), noisy.max()) == (0, 1)


@pytest.mark.parametrize(("fill", "painted"), [(0.0, 0.0), (0.3, 0.3), ("border", 0.0)])
def test_a_rectangle_of_at_most_the_given_share_is_erased(fill, painted):
    images = torch.ones(300, 2, 50, 40)
    erased = Augment(**OFF, erase=0.3, fill=fill)(images, seeded())
    mask = erased != 1
    assert (erased[mask] == painted).all()
    assert torch.equal(mask[:, 0], mask[:, 1])
    shares = mask.float().mean(dim=(1, 2, 3))
    assert 0.25 < shares.max() < 0.32  # pixels are whole
    rows, columns = mask[:, 0].any(dim=2).sum(dim=1), mask[:, 0].any(dim=1).sum(dim=1)
    assert torch.equal(rows * columns, mask[:, 0].sum(dim=(1, 2)))  # all of a rectangle


# Guarantees of every augmentation


@given(
    n=st.integers(0, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    fill=st.sampled_from([0.0, 1.0, "border", "reflection"]),
)
@settings(max_examples=50)
def test_shape_and_dtype_are_kept_and_values_stay_in_range(n, height, width, dtype, fill):
    images = torch.rand(n, 3, height, width).to(dtype)
    before = images.clone()
    changed = dataclasses.replace(EVERYTHING, fill=fill)(images)
    assert (changed.shape, changed.dtype) == (images.shape, dtype)
    assert changed.isfinite().all()
    assert ((changed >= 0) & (changed <= 1)).all()
    assert torch.equal(images, before)


def test_half_precision_is_rounded_only_at_the_end():
    images = photos(4, height=50, width=300).half()
    expected = Augment()(images.float(), seeded()).half()
    assert torch.equal(Augment()(images, seeded()), expected)


def test_nothing_asked_for_is_nothing_changed():
    images = photos()
    assert torch.equal(Augment(**OFF)(images), images)
    # The resampling itself does not move anything either.
    torch.testing.assert_close(Augment(**{**OFF, "degrees": 1e-9})(images), images)


def test_every_image_is_changed_differently():
    images = photos(1).expand(20, -1, -1, -1)
    for name in ("degrees", "translate", "shear", "brightness", "contrast", "saturation"):
        changed = Augment(**{**OFF, name: 0.5})(images, seeded())
        assert len(changed.flatten(1).unique(dim=0)) == 20, name
    for name in ("hue", "blur", "noise", "erase"):
        changed = Augment(**{**OFF, name: 0.5})(images, seeded())
        assert len(changed.flatten(1).unique(dim=0)) > 10, name


def test_a_seed_repeats_the_changes_and_a_generator_leaves_the_global_one_alone():
    images = photos()
    torch.manual_seed(3)
    first, second = EVERYTHING(images), EVERYTHING(images)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(EVERYTHING(images), first)

    state = torch.get_rng_state()
    own = EVERYTHING(images, seeded(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(own, first)


def test_turning_one_change_on_leaves_the_others_as_they_were():
    images = photos()
    for extra in ({"blur": 1e-6}, {"noise": 1e-9}, {"flip": True}):
        rng, other = seeded(), seeded()
        for _ in range(2):  # the second batch too
            plain = Augment(brightness=0.2)(images, rng)
            more = Augment(brightness=0.2, **extra)(images, other)
            same = (plain - more).abs().flatten(1).amax(dim=1) < 1e-5
            assert same.float().mean() > 0.2 if "flip" in extra else same.all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_another_device_draws_the_same_changes():
    images = photos()
    augmentation = dataclasses.replace(EVERYTHING, noise=0)  # pixels of noise are drawn there
    found = augmentation(images.cuda(), seeded())
    assert found.device.type == "cuda"
    close = (found.cpu() - augmentation(images, seeded())).abs() < 1e-3
    assert close.float().mean() > 0.99  # an edge of a rectangle may round to another pixel
    again = [EVERYTHING(images.cuda(), seeded()) for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degrees": 181}, "degrees must be at most 180, got 181"),
        ({"degrees": -1}, "degrees must be at least 0, got -1"),
        ({"shear": 90}, "shear must be at most 80, got 90"),
        ({"hue": 0.6}, "hue must be at most 0.5, got 0.6"),
        ({"translate": 2}, "translate must be between 0 and 1, got 2"),
        ({"brightness": -0.1}, "brightness must be between 0 and 1, got -0.1"),
        ({"blur": -1}, "blur must be at least 0, got -1"),
        ({"scale": (0, 1)}, r"scale must be a smallest and a largest number .* got \(0, 1\)"),
        ({"scale": (1.2, 1.1)}, r"scale must be .* got \(1.2, 1.1\)"),
        ({"crop": (0.5, 1.5)}, r"crop must be .* at most 1, got \(0.5, 1.5\)"),
        ({"crop": (0.5,)}, "crop must be a smallest and a largest"),
        ({"fill": "zeros"}, "fill must be one of border, reflection, got 'zeros'"),
        ({"fill": 255}, "fill must be between 0 and 1, got 255"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augment(**arguments)


@pytest.mark.parametrize(
    ("augmentation", "images", "error", "message"),
    [
        (Augment(), torch.rand(4, 8, 8), ValueError, r"shape \(n, c, h, w\), got \(4, 8, 8\)"),
        (Augment(), torch.ones(4, 1, 8, 8).byte(), TypeError, r"got torch.uint8\. Use .* / 255"),
        (Augment(hue=0.1), torch.rand(4, 1, 8, 8), ValueError, "must have 3 channels .* got 1"),
        (Augment(saturation=0.1), torch.rand(4, 1, 8, 8), ValueError, "Use brightness and contr"),
    ],
)
def test_images_of_another_kind_are_refused(augmentation, images, error, message):
    with pytest.raises(error, match=message):
        augmentation(images)


def test_views_are_different_copies_of_the_batch():
    images = photos(4)
    torch.manual_seed(0)
    stacked = views(Augment(), images, count=3)
    torch.manual_seed(0)
    assert torch.equal(stacked, torch.stack([Augment()(images) for _ in range(3)]))
    assert not torch.equal(stacked[0], stacked[1])
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        views(Augment(), images, count=0)


# Classes that are made


def digits(height=6, width=6, n=12):
    names = ["0", "1", "6"]
    items = torch.rand(n, 1, height, width, generator=seeded())
    return ArrayDataset(items, torch.arange(n) % 3, names)


@pytest.mark.parametrize("turns", [(0, 1, 2, 3), (0, 2), (0, 3, 1), (0,)])
def test_turned_images_are_classes_of_their_own(turns):
    data = digits()
    made = make_rotated_classes(data, turns)
    assert len(made) == len(turns) * len(data)
    assert made.item_shape == data.item_shape
    position = 0
    for number, turn in enumerate(turns):
        for item, code in (data[i] for i in range(len(data))):
            found, label = made[position]
            expected = item
            for _ in range(turn):  # counter-clockwise: the last column becomes the first row
                expected = expected.transpose(-1, -2).flip(-2)
            assert torch.equal(found, expected)
            assert label == made.labels[position] == code + number * 3
            old, name = data.class_names[code], made.class_names[label]
            assert name == (f"{old} turned {90 * turn}°" if turn else old)
            position += 1
    assert position == len(made)


@given(st.lists(st.integers(0, 47), min_size=1, max_size=20))
def test_a_batch_holds_what_single_items_are(indices):
    made = make_rotated_classes(digits())
    (batch,) = made.__getitems__(indices)
    items, labels = zip(*(made[i] for i in indices), strict=True)
    assert torch.equal(batch.items, torch.stack(items))
    assert batch.labels.tolist() == list(labels)


def test_made_classes_go_through_a_balanced_sampler_and_a_loader():
    made = make_rotated_classes(digits())
    sampler = BalancedBatchSampler(
        made.labels, classes_per_batch=5, items_per_class=2, batches=3, seed=0
    )
    batches = list(DataLoader(made, batch_sampler=sampler))
    assert len(batches) == 3
    for batch in batches:
        assert batch.items.shape == (10, 1, 6, 6)
        assert (torch.bincount(batch.labels)[batch.labels] == 2).all()
    assert max(int(batch.labels.max()) for batch in batches) >= 3  # turned ones among them


def test_classes_left_out_are_not_turned():
    data = digits()
    made = make_rotated_classes(data, (0, 1, 2), except_classes=["0", "1"])
    assert len(made) == 12 + 2 * 4
    assert torch.bincount(made.labels, minlength=9).tolist() == [4, 4, 4, 0, 0, 4, 0, 0, 4]
    assert len(made.class_names) == 9
    six = next(i for i in range(12) if data.labels[i] == 2)
    where = 12  # the first of the turned sixes
    assert torch.equal(made[where][0], data[six][0].rot90(1, (-2, -1)))


def test_mirrored_images_are_classes_of_their_own():
    data = digits(height=4, width=7)
    made = make_flipped_classes(data, except_classes=["0"])
    assert made.class_names == ["0", "1", "6", "0 mirrored", "1 mirrored", "6 mirrored"]
    assert len(made) == 12 + 8
    item, label = made[12]
    assert label == 4
    assert torch.equal(item, data[1][0].flip(-1))
    assert torch.equal(made[0][0], data[0][0])


def test_made_classes_can_be_made_again_and_sent_to_a_worker():
    data = digits()
    both = make_rotated_classes(make_flipped_classes(data), (0, 2))
    assert len(both) == 48
    assert both.class_names[-1] == "6 mirrored turned 180°"
    expected = data[0][0].flip(-1).rot90(2, (-2, -1))
    assert torch.equal(both[36][0], expected)
    assert torch.equal(pickle.loads(pickle.dumps(both))[36][0], expected)


def test_positions_count_from_the_end_too_and_end():
    made = make_flipped_classes(digits())
    assert torch.equal(made[-1][0], made[23][0])
    with pytest.raises(IndexError):
        made[24]
    assert sum(1 for _ in made) == 24  # iterating stops at the end


def test_images_that_are_not_square_turn_by_halves_only():
    data = digits(height=4, width=7)
    made = make_rotated_classes(data, (0, 2))
    assert torch.equal(made[12][0], data[0][0].flip(-1).flip(-2))
    for turn in (1, 3):
        message = rf"not square, got \(0, {turn}\) for 4 x 7\. Load them with a square"
        with pytest.raises(ValueError, match=message):
            make_rotated_classes(data, (0, turn))


@pytest.mark.parametrize("turns", [(), (1, 0), (0, 1, 1), (0, 4)])
def test_turns_that_make_no_classes_are_refused(turns):
    with pytest.raises(ValueError, match="turns must be 0 and then others of 1, 2, 3"):
        make_rotated_classes(digits(), turns)


def test_vectors_cannot_be_turned_and_unknown_classes_not_left_out():
    vectors = ArrayDataset(torch.rand(4, 5), torch.tensor([0, 0, 1, 1]))
    for make in (make_rotated_classes, make_flipped_classes):
        with pytest.raises(ValueError, match=r"images \(c, h, w\), got items of shape \(5,\)"):
            make(vectors)
        with pytest.raises(ValueError, match="except_classes must be one of 0, 1, 6, got '7'"):
            make(digits(), except_classes=["7"])


def test_own_transforms_make_classes_of_any_items():
    vectors = ArrayDataset(torch.rand(4, 5), torch.tensor([0, 0, 1, 1]), ["a", "b"])
    made = MadeClasses(vectors, [torch.clone, torch.neg], ["{}", "minus {}"])
    assert made.class_names == ["a", "b", "minus a", "minus b"]
    assert torch.equal(made[5][0], -vectors[1][0])
    with pytest.raises(ValueError, match=r"one name for each of the 2 transforms.* got 1"):
        MadeClasses(vectors, [torch.clone, torch.neg], ["{}"])
    with pytest.raises(
        ValueError, match=r"shape of an item, \(5,\), got \(2,\) from transforms\[1\]"
    ):
        MadeClasses(vectors, [torch.clone, lambda x: x[:, :2]], ["{}", "{} cut"])[4]
