import csv
import importlib.util
import json
import multiprocessing
import pickle
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import likewise as lw
from likewise import _dlib
from likewise.data.aligned_faces import NO_FACE
from likewise.data.faces import EYES_APART, EYES_DOWN, DlibFaces, Face, largest
from likewise.encoders import FaceEncoder, face_encoder

try:
    DlibFaces()
except lw.errors.MissingExtra:
    is_installed = False
else:
    is_installed = True
needs_dlib = pytest.mark.skipif(not is_installed, reason='pip install "likewise[faces]"')


@dataclass(frozen=True)
class BrightEyes:
    """Two bright spots on dark ground are the eyes of a face; a stand-in for a real detector."""

    name: str = "bright eyes"

    def __call__(self, image):
        pixels = np.asarray(image.convert("L"))
        if pixels.max() < 200:
            return []
        found = []
        for half in (slice(0, pixels.shape[1] // 2), slice(pixels.shape[1] // 2, None)):
            rows, columns = np.nonzero(pixels[:, half] > 200)
            found.append((columns.mean() + 0.5 + (half.start or 0), rows.mean() + 0.5))
        return [Face((0, 0, *image.size), *found)]


class Fails:
    name = "bright eyes"

    def __call__(self, image):
        raise AssertionError("nothing is to be detected")


def portrait(path, eyes=((30, 40), (70, 50)), size=(100, 110), mode="L"):
    pixels = np.full(size[::-1], 40, np.uint8)
    for x, y in eyes:
        pixels[y - 2 : y + 3, x - 2 : x + 3] = 250
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for person in ("anna", "ben"):
        for number in range(3):
            portrait(folder / person / f"{number}.png", ((30, 40 + number), (70, 50)))
    return folder


def align(source, out, detector=None, **options):
    return lw.data.align_faces(source, out, detector=detector or BrightEyes(), **options)


def spots(image):
    """The centers of the bright spots in the left and the right half, in shares of the side."""
    pixels = np.asarray(image, dtype=float) - 40
    pixels[pixels < 20] = 0
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    half = pixels.shape[1] // 2
    return [
        [(w * c).sum() / w.sum() / len(pixels) for c in (columns[:, part], rows[:, part])]
        for part in (slice(0, half), slice(half, None))
        for w in [pixels[:, part]]
    ]


@settings(max_examples=30)
@given(
    st.tuples(st.integers(60, 120), st.integers(60, 140)),
    st.floats(40, 110),
    st.floats(-0.7, 0.7),
    st.integers(48, 160),
    st.floats(0, 0.5),
)
def test_the_eyes_are_always_at_the_same_two_points(left, apart, turned, size, padding):
    right = (left[0] + apart * np.cos(turned), left[1] + apart * np.sin(turned))
    assume(all(apart / 4 < place < 240 - apart / 4 for place in right))  # no spot is cut off
    rows, columns = np.mgrid[:240, :240] + 0.5
    pixels = np.full((240, 240), 40.0)
    for x, y in (left, right):  # smooth spots, whose center no resampling moves
        pixels += 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (apart / 14) ** 2))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    cut = Face((0, 0, 240, 240), left, right).aligned(image, size=size, padding=padding)
    assert cut.size == (size, size)
    whole = 1 + 2 * padding
    across, down = EYES_APART / whole / 2, (EYES_DOWN + padding) / whole
    expected = [[0.5 - across, down], [0.5 + across, down]]
    np.testing.assert_allclose(spots(cut), expected, atol=0.6 / size)


def test_beyond_the_image_its_border_is_repeated():
    image = Image.new("RGB", (60, 60), (10, 20, 30))
    face = Face((0, 0, 60, 60), (5, 5), (55, 5))
    assert (
        np.asarray(face.aligned(image, size=32, padding=1.0)).reshape(-1, 3).std(axis=0).max() == 0
    )
    halves = Image.fromarray(np.repeat([[0] * 30 + [200] * 30], 60, axis=0).astype(np.uint8))
    cut = np.asarray(face.aligned(halves, size=64, padding=1.0))
    assert (cut[:, 0] == 0).all()
    assert (cut[:, -1] == 200).all()


def test_a_face_that_becomes_smaller_is_averaged():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (900, 900)).astype(np.uint8))
    face = Face((0, 0, 900, 900), (250, 400), (650, 400))
    small = np.asarray(face.aligned(noise, size=32), dtype=float)
    assert small.std() < 8  # of single pixels it would be 74
    assert abs(small.mean() - 127.5) < 4


def test_images_of_any_mode_are_cut():
    face = Face((0, 0, 100, 110), (30, 40), (70, 50))
    for mode, expected in (("L", "L"), ("RGB", "RGB"), ("F", "F"), ("RGBA", "RGB"), ("P", "RGB")):
        assert face.aligned(Image.new(mode, (100, 110)), size=8).mode == expected


def test_wrong_faces_and_sizes_end_in_one_sentence():
    face = Face((0, 0, 9, 9), (2, 4), (7, 4))
    image = Image.new("L", (9, 9))
    with pytest.raises(lw.InputError, match="right_eye must be apart from left_eye"):
        Face((0, 0, 9, 9), (2, 4), (2, 4))
    with pytest.raises(lw.InputError, match="left_eye must be a finite number"):
        Face((0, 0, 9, 9), (float("nan"), 4), (7, 4))
    with pytest.raises(lw.InputError, match="size must be at least 1, got 0"):
        face.aligned(image, size=0)
    with pytest.raises(lw.InputError, match=r"padding must be between 0 and 2, got -0\.1"):
        face.aligned(image, padding=-0.1)


def test_the_largest_face_is_taken():
    small, large = Face((0, 0, 20, 20), (5, 8), (15, 8)), Face((30, 0, 90, 60), (45, 20), (75, 20))
    assert largest([small, large, small]) is large
    assert largest([]) is None
    assert Face((20, 20, 0, 0), (5, 8), (15, 8)).area == 0


def test_a_folder_becomes_one_of_the_same_classes(photos, tmp_path):
    seen = []
    found = align(photos, tmp_path / "faces", size=48, progress=lambda *at: seen.append(at))
    assert (found.made, found.kept, found.failures) == (6, 0, [])
    assert seen[-1] == (6, 6)
    faces = lw.data.load(found.folder)
    assert faces.class_names == ["anna", "ben"]
    assert lw.data.items(faces).shape == (6, 1, 48, 48)
    assert (tmp_path / "faces" / "anna" / "0.png.png").is_file()
    assert repr(found).splitlines()[1].split() == ["made", "6"]


def test_what_did_not_change_is_not_done_again(photos, tmp_path):
    out = tmp_path / "faces"
    align(photos, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    again = align(photos, out, detector=Fails())
    assert (again.made, again.kept) == (0, 6)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}

    portrait(photos / "ben" / "1.png", ((35, 40), (65, 40)))
    found = align(photos, out)
    assert (found.made, found.kept) == (1, 5)
    for changed in ({"size": 64}, {"padding": 0.25}, {"detector": BrightEyes("others")}):
        found = align(photos, out, **changed)
        assert (found.made, found.kept) == (6, 0)


def test_the_same_photograph_elsewhere_is_found_by_its_content(photos, tmp_path):
    align(photos, tmp_path / "faces")
    photos.rename(tmp_path / "moved")
    assert align(tmp_path / "moved", tmp_path / "faces", detector=Fails()).kept == 6


def test_failures_are_rows_and_no_end(photos, tmp_path):
    Image.new("L", (50, 50)).save(photos / "anna" / "dark.png")
    (photos / "ben" / "broken.jpg").write_bytes(b"no image")
    out = tmp_path / "faces"
    found = align(photos, out)
    assert (found.made, [each.path for each in found.failures]) == (
        6,
        [str(photos / "anna" / "dark.png"), str(photos / "ben" / "broken.jpg")],
    )
    assert found.failures[0].reason == NO_FACE
    assert "must be a whole PNG" in found.failures[1].reason
    with (out / "failures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["reason"]) for row in rows] == [tuple(f) for f in found.failures]
    # Where no face was found none is searched again, but a file may become readable.
    assert align(photos, out, detector=Fails()).failures == found.failures
    portrait(photos / "ben" / "broken.jpg")
    repaired = align(photos, out)
    assert (repaired.made, repaired.kept) == (1, 6)
    assert [each.path for each in repaired.failures] == [str(photos / "anna" / "dark.png")]
    assert align(photos, out, detector=BrightEyes("others")).failures == repaired.failures


def test_the_face_of_a_photograph_that_lost_it_goes(photos, tmp_path):
    out = tmp_path / "faces"
    align(photos, out)
    Image.new("L", (50, 50)).save(photos / "anna" / "0.png")
    assert len(align(photos, out).failures) == 1
    assert not (out / "anna" / "0.png.png").exists()
    assert len(lw.data.load(out)) == 5


def test_failures_of_other_sources_stay_listed(photos, tmp_path):
    out = tmp_path / "faces"
    others = tmp_path / "others"
    portrait(others / "carl" / "0.png")
    for folder in (photos / "anna", others / "carl"):
        Image.new("L", (50, 50)).save(folder / "dark.png")
    align(photos, out)
    align(others, out)
    with (out / "failures.csv").open(newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == {
            str(photos / "anna" / "dark.png"),
            str(others / "carl" / "dark.png"),
        }


def test_one_photograph_gray_color_and_sixteen_bits(tmp_path):
    for mode, suffix in (("L", "png"), ("RGB", "jpg"), ("I;16", "png")):
        path = portrait(tmp_path / f"one-{mode[0]}.{suffix}", mode="RGB" if mode == "RGB" else "L")
        if mode == "I;16":
            Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 257).save(path)
        found = align(path, tmp_path / "faces", size=32)
        assert (found.made, found.failures) == (1, [])
        with Image.open(tmp_path / "faces" / f"{path.name}.png") as image:
            assert image.mode == ("RGB" if mode == "RGB" else "L")
            assert image.size == (32, 32)


def test_workers_make_the_same(photos, tmp_path):
    Image.new("L", (50, 50)).save(photos / "anna" / "dark.png")
    here = align(photos, tmp_path / "here", size=32)
    there = align(photos, tmp_path / "there", size=32, workers=2)
    assert (here.made, here.failures) == (there.made, there.failures)
    for path in (tmp_path / "here").rglob("*.png"):
        assert (
            path.read_bytes()
            == (tmp_path / "there" / path.relative_to(tmp_path / "here")).read_bytes()
        )


def test_several_processes_may_work_on_one_folder(photos, tmp_path):
    for person in range(8):
        Image.new("L", (50, 50)).save(photos / "anna" / f"dark{person}.png")
        portrait(photos / "carl" / f"{person}.png", ((30, 30 + person), (70, 50)))
    out = tmp_path / "faces"
    context = multiprocessing.get_context("fork")
    racing = [context.Process(target=align, args=(photos, out)) for _ in range(4)]
    for each in racing:
        each.start()
    for each in racing:
        each.join(60)
    assert [each.exitcode for each in racing] == [0] * 4
    last = align(photos, out, detector=Fails())
    assert (last.made, last.kept, len(last.failures)) == (0, 14, 8)
    assert not list(out.rglob("*.part"))


def test_what_was_not_made_here_is_left_alone(photos, tmp_path):
    out = tmp_path / "faces"
    (out / "anna").mkdir(parents=True)
    for content in (b"mine", None):
        if content is None:
            Image.new("L", (5, 5)).save(out / "anna" / "1.png.png")
        else:
            (out / "anna" / "1.png.png").write_bytes(content)
        before = (out / "anna" / "1.png.png").read_bytes()
        for workers in (0, 1):
            with pytest.raises(lw.InputError, match=r"out must hold faces that were made here"):
                align(photos, out, workers=workers)
        assert (out / "anna" / "1.png.png").read_bytes() == before


def test_a_list_that_is_none_is_refused_and_stays(photos, tmp_path):
    out = tmp_path / "faces"
    out.mkdir()
    (out / "failures.csv").write_text("mine,too\n1,2\n")
    with pytest.raises(lw.InputError, match=r"must have the columns path, reason, key"):
        align(photos, out)
    assert (out / "failures.csv").read_text() == "mine,too\n1,2\n"


def test_wrong_wishes_end_in_one_sentence(photos, tmp_path):
    with pytest.raises(lw.InputError, match="out must lie outside of source"):
        align(photos, photos / "faces")
    with pytest.raises(FileNotFoundError, match="source must exist"):
        align(tmp_path / "none", tmp_path / "faces")
    with pytest.raises(lw.InputError, match="out must be a folder, got the file"):
        align(photos, photos / "anna" / "0.png")
    (tmp_path / "note.txt").write_text("text")
    with pytest.raises(lw.InputError, match="source must be a folder of images or an image"):
        align(tmp_path / "note.txt", tmp_path / "faces")
    with pytest.raises(lw.InputError, match="workers must be at least 0"):
        align(photos, tmp_path / "faces", workers=-1)
    for wrong in (lambda image: [], "dlib"):
        with pytest.raises(lw.errors.InputTypeError, match="must be a callable with a name"):
            align(photos, tmp_path / "faces", detector=wrong)
    assert not (tmp_path / "faces").exists()


def test_without_the_extra_one_sentence_names_it(photos, tmp_path, monkeypatch, run):
    DlibFaces._load.cache_clear()
    _dlib.dlib.cache_clear()
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(lw.errors.MissingExtra, match=r"must be installed for faces"):
        DlibFaces()
    status, out, err = run("faces", photos, "--out", tmp_path / "faces")
    assert (status, out) == (2, "")
    assert 'Use pip install "likewise[faces]".' in err
    assert err.strip().count("\n") == 0
    assert not (tmp_path / "faces").exists()


def test_the_command_tells_what_it_made(photos, tmp_path, monkeypatch, run):
    monkeypatch.setattr("likewise.data.aligned_faces.DlibFaces", BrightEyes)
    for number in range(7):
        Image.new("L", (50, 50)).save(photos / "anna" / f"dark{number}.png")
    status, out, _ = run("faces", photos, "--out", tmp_path / "faces", "--size", 40)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == f"6 faces in {tmp_path / 'faces'}"
    assert lines[1].startswith("7 photographs without a face, listed in ")
    assert lines[2] == f"  {photos / 'anna' / 'dark0.png'}: {NO_FACE}"
    assert (len(lines), lines[-1]) == (8, "  and 2 more")
    status, out, _ = run("faces", photos, "--out", tmp_path / "faces", "--size", 40, "--json")
    told = json.loads(out)
    assert (status, told["made"], told["kept"], len(told["failures"])) == (0, 0, 6, 7)
    status, out, err = run("faces", photos, "--out", tmp_path / "faces", "--padding", 3)
    assert (status, out) == (2, "")
    assert "padding must be between 0 and 2, got 3.0" in err


@needs_dlib
def test_dlib_is_pickled_as_a_name_and_names_its_version():
    import dlib

    found = pickle.loads(pickle.dumps(DlibFaces()))
    assert found.name.startswith(f"dlib {dlib.__version__}, ")
    assert len(pickle.dumps(found)) < 200
    for image in (Image.new("L", (1, 1)), Image.new("RGB", (3000, 20)), Image.new("F", (40, 40))):
        assert found(image) == []


class Descriptors:
    """Stands in for dlib's network: the mean color of the four quarters of each chip."""

    def compute_face_descriptor(self, chips):
        assert all(chip.shape == (150, 150, 3) and chip.dtype == np.uint8 for chip in chips)
        quarters = [np.reshape(chip, (2, 75, 2, 75, 3)).mean(axis=(1, 3)).ravel() for chip in chips]
        return [np.pad(each / 255, (0, 116)) for each in quarters]


@pytest.fixture
def stands_in(monkeypatch):
    monkeypatch.setattr(face_encoder, "_network", lambda: (Descriptors(), "f" * 64))


def test_the_network_sees_eyes_where_it_was_trained_to(stands_in, monkeypatch):
    seen = []
    monkeypatch.setattr(
        Descriptors, "compute_face_descriptor", lambda _, chips: seen.extend(chips) or [[0] * 128]
    )
    rows, columns = np.mgrid[:240, :240] + 0.5
    pixels = np.full((240, 240), 40.0)
    for x in (90, 150):
        pixels += 200 * np.exp(-((columns - x) ** 2 + (rows - 120) ** 2) / 32)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    for size in (200, 331):
        seen.clear()
        cut = Face((0, 0, 240, 240), (90, 120), (150, 120)).aligned(image, size=size, padding=0.1)
        FaceEncoder()(torch.from_numpy(np.array(cut))[None, None] / 255)
        # dlib's get_face_chip with its padding of 0.25 puts the middle of the eyes there.
        expected = [[0.3249, 0.3141], [0.6751, 0.3141]]
        np.testing.assert_allclose(spots(seen[0][..., 0]), expected, atol=0.006)


def test_faces_gray_or_in_color_become_embeddings(stands_in):
    faces = torch.rand(3, 1, 200, 200)
    encoder = FaceEncoder()
    found = encoder(faces)
    assert found.shape == (3, 128)
    assert torch.equal(found, encoder(faces.expand(-1, 3, -1, -1)))
    assert encoder(faces[:0]).shape == (0, 128)
    for wrong in (faces[0], faces.expand(-1, 2, -1, -1), faces[..., :0]):
        with pytest.raises(lw.InputError, match=r"images must have shape \(n, 1 or 3, h, w\)"):
            encoder(wrong)


def test_a_model_of_faces_is_saved_loaded_and_asked(stands_in, photos, tmp_path, run, monkeypatch):
    align(photos, tmp_path / "faces", size=200, padding=0.1)
    encoder = FaceEncoder()
    reading = lw.data.Preprocess(**encoder.preprocess_settings)
    model = lw.SimilarityModel(encoder, distance=lw.distances.EUCLIDEAN, preprocess=reading)
    people = lw.data.load(tmp_path / "faces", image_size=200, channels=3)
    model.calibrate(people, rule="pairs")
    model.save(tmp_path / "model")

    again = lw.load(tmp_path / "model")
    assert again.fingerprint == model.fingerprint
    assert torch.equal(again.embed(people), model.embed(people))
    asked = [tmp_path / "faces" / "anna" / f"{number}.png.png" for number in range(2)]
    status, out, _ = run("verify", tmp_path / "model", *asked, "--json")
    (told,) = json.loads(out)["pairs"]
    assert status == 0
    assert told["distance"] == float(model.verify([asked[0]], [asked[1]]).distances)

    monkeypatch.setattr(face_encoder, "_network", lambda: (Descriptors(), "e" * 64))
    with pytest.raises(lw.errors.ArtifactError, match="weights must be those that are installed"):
        lw.load(tmp_path / "model")


def test_a_model_of_faces_names_the_extra_where_it_is_missing(
    stands_in, tmp_path, run, monkeypatch
):
    lw.SimilarityModel(FaceEncoder()).save(tmp_path / "model")
    monkeypatch.undo()
    face_encoder._network.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(lw.errors.ArtifactError, match=r'Use pip install "likewise\[faces\]"'):
        lw.load(tmp_path / "model")


@needs_dlib
def test_dlib_gives_equal_faces_equal_embeddings():
    face = torch.rand(1, 1, 200, 200)
    found = FaceEncoder()(torch.cat([face, face, 1 - face]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
