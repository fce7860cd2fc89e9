"""Encoders made of encoders, against their definition, saved and used from the command line."""

import json

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from torch import nn

import likewise as lw
from likewise.encoders import ConvEncoder, OverViews, SideBySide
from likewise.model import rebuilding

CHANGES_NOTHING = nn.Identity()
IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


def test_encoders_side_by_side_are_their_weighted_unit_embeddings():
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Flatten(), nn.Linear(64, size)) for size in (3, 4))
    both = SideBySide([first, second], weights=[1.0, 2.0])
    expected = torch.cat([unit(first(IMAGES)), 2 * unit(second(IMAGES))], dim=1)
    torch.testing.assert_close(both(IMAGES), expected)
    plain = SideBySide([first, second])
    torch.testing.assert_close(plain(IMAGES)[:, 3:], unit(second(IMAGES)))
    assert len(list(both.parameters())) == 4


@pytest.mark.parametrize(("mirrored", "count"), [(False, 5), (True, 10)])
def test_views_are_the_image_moved_each_way_with_its_border_repeated(mirrored, count):
    seen = []

    class Looks(nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.flatten(1)

    embeddings = OverViews(Looks(), pixels=1, mirrored=mirrored)(IMAGES)
    assert len(seen) == count
    expected = []
    for source in (IMAGES, IMAGES.flip(-1))[: 1 + mirrored]:
        for down, right in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
            rows = [min(max(row + down, 0), 7) for row in range(8)]
            columns = [min(max(column + right, 0), 7) for column in range(8)]
            expected.append(source[..., rows, :][..., columns])
    for view, wanted in zip(seen, expected, strict=True):
        assert torch.equal(view, wanted)
    torch.testing.assert_close(embeddings, unit(torch.stack(expected).sum(dim=0).flatten(1)))
    if mirrored:
        whole = OverViews(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
        torch.testing.assert_close(whole(IMAGES), whole(IMAGES.flip(-1)))


def test_without_moved_copies_the_image_and_its_mirror_count():
    flat = nn.Flatten()
    expected = unit(flat(IMAGES) + flat(IMAGES.flip(-1)))
    both = OverViews(flat, pixels=0)
    torch.testing.assert_close(both(IMAGES), expected)
    again = rebuilding.rebuild(rebuilding.describe(both))
    assert torch.equal(again(IMAGES), both(IMAGES))


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("encoders must hold at least one encoder", lambda: SideBySide([])),
        (
            "weights must be one for each of 1 encoders, got 2",
            lambda: SideBySide([nn.Flatten()], weights=[1, 2]),
        ),
        ("encoders must be different, got one twice", lambda: SideBySide([CHANGES_NOTHING] * 2)),
        ("weights must be .* above 0", lambda: SideBySide([nn.Flatten()], weights=[0.0])),
        ("encoders must be torch modules, got str", lambda: SideBySide(["small"])),
        ("encoder must be a torch module, got str", lambda: OverViews("small")),
        ("pixels must be at least 0, got -1", lambda: OverViews(nn.Flatten(), pixels=-1)),
        (
            "pixels must be at least 1, got 0",
            lambda: OverViews(nn.Flatten(), pixels=0, mirrored=False),
        ),
        (
            r"images must have shape \(n, c, h, w\), got \(2, 3\)",
            lambda: OverViews(nn.Flatten())(torch.ones(2, 3)),
        ),
    ],
)
def test_what_cannot_be_is_refused(message, make):
    with pytest.raises(lw.InputError, match=message):
        make()


@pytest.fixture
def faces(tmp_path):
    """Small gray images of six classes, in folders."""
    rng = np.random.default_rng(0)
    for person in range(6):
        face = rng.integers(0, 255, (16, 12))
        place = tmp_path / "faces" / f"person {person}"
        place.mkdir(parents=True)
        for shot in range(6):
            noisy = np.clip(face + rng.normal(0, 25, face.shape), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(place / f"{shot}.png")
    return tmp_path / "faces"


def test_a_recipe_of_encoders_views_pixels_and_a_cohort_is_one_saved_model(faces, tmp_path, run):
    data = lw.data.load(faces, image_size=(16, 12), channels=1)
    train, others = lw.data.split_by_class(data, [3, 3], seed=0)
    preprocess = lw.data.Preprocess.fit(train)
    torch.manual_seed(0)
    made = [ConvEncoder((1, 16, 12), layers=(4, "pool"), embedding_dim=4) for _ in range(2)]
    pixels = nn.Sequential(nn.LayerNorm((1, 16, 12), elementwise_affine=False), nn.Flatten())
    encoder = SideBySide([*map(OverViews, made), pixels], weights=[1.0, 1.0, 2.0])
    model = lw.SimilarityModel(encoder, preprocess=preprocess, trained=train)
    model.use_cohort(train, nearest=8)
    model.calibrate(others, rule="pairs")
    model.save(tmp_path / "model")

    again = lw.load(tmp_path / "model")  # without a word of the encoder
    assert repr(again.encoder) == repr(model.encoder)
    assert again.fingerprint == model.fingerprint
    assert torch.equal(again.embed(others), model.embed(others))
    files = [
        str(faces / f"person {person}" / f"{shot}.png") for person, shot in ((0, 0), (0, 1), (5, 2))
    ]
    for a, b in (files[:2], files[1:]):
        said, then = again.verify([a], [b]), model.verify([a], [b])
        assert torch.equal(said.distances, then.distances)
        status, out, _ = run("verify", tmp_path / "model", a, b, "--json")
        (told,) = json.loads(out)["pairs"]
        assert status == 0
        left, right = model.embed([a, b]).split(1)  # the command reads both in one batch
        assert told["distance"] == float(model.compared_by.paired(left, right))
        assert told["same"] is bool(then.same[0])


def test_a_description_with_other_parts_is_refused():
    described = rebuilding.describe(SideBySide([OverViews(nn.Flatten()), nn.Flatten()]))
    assert repr(rebuilding.rebuild(described)) == repr(
        SideBySide([OverViews(nn.Flatten()), nn.Flatten()])
    )
    (_, views), (_, flat) = described.parts
    for changed in (
        replace(described, config={"weights": [1.0]}),
        replace(described, parts=[("0", views), ("2", flat)]),
        replace(described, parts=[]),
        replace(views, parts=[("other", flat)]),
        replace(views, parts=[]),
        replace(views, config={"pixels": -1, "mirrored": True}),
        replace(views, config={"pixels": 0, "mirrored": False}),
    ):
        with pytest.raises((lw.InputError, msgspec.ValidationError)):
            rebuilding.rebuild(changed)
