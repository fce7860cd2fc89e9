import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import likewise as lw
from likewise import plots
from likewise.data import ArrayDataset, GivenPairs, PairDataset
from likewise.intervals import Estimate
from likewise.metrics import sweep

ESTIMATE = Estimate(0.5, 0.4, 0.6, "")
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = ArrayDataset(IMAGES, ["cat", "cat", "dog", "dog", "emu", "emu"])
DISTANCES = torch.tensor([0.1, 0.2, 0.2, 0.4, 0.5, 0.7])
SAME = torch.tensor([True, True, False, True, False, False])


def texts(figure):
    """All words of a figure."""
    found = [text.get_text().replace("\n", " ") for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        found += [label.get_text() for label in axes.get_yticklabels()]
    return found


def gallery(folder, **settings):
    """A gallery with the six images, and their embeddings."""
    model = lw.SimilarityModel(torch.nn.Flatten())
    model.use_gallery(folder / "gallery")
    model.add(DATA, **settings)
    return model


RESULTS = {
    "history": (lw.History([{"epoch": 1, "loss": 0.5}]), "Training, 1 epoch"),
    "records": ([{"epoch": 1, "loss": 0.5}], "Training, 1 epoch"),
    "histories": (
        {"a": lw.History([{"epoch": 1, "loss": 0.5}]), "b": lw.History([{"loss": 0.4}])},
        "Training, 2 runs of up to 1 epoch",
    ),
    "sweep": (sweep(DISTANCES, SAME), "Precision, recall and F1 by threshold"),
    "sweeps": ({"a": sweep(DISTANCES, SAME)}, "True against false accepts (ROC)"),
    "estimates": ({"a": ESTIMATE}, "Numbers with their intervals"),
    "few shots": (
        lw.evaluation.FewShotResult(ESTIMATE, torch.ones(3), classes=9, left_out=1),
        "FewShotResult",
    ),
    "calibration": (
        lw.calibrate(DISTANCES, SAME, keep_sweep=True),
        "Distances of same and of different pairs",
    ),
    "calibration without a sweep": (
        lw.calibrate(DISTANCES, SAME, items=torch.arange(6)),
        "Distances of pairs",
    ),
    "dataset": (DATA, "6 items"),
    "items and labels": ((IMAGES, torch.tensor([0, 0, 1, 1, -1, -1])), "6 items"),
    "tensor": (torch.rand(60, 8, 8), "48 of 60 items"),
    "vectors": (torch.rand(3, 5), "3 items"),
    "given pairs": (GivenPairs(DATA, [[0, 1], [1, 2]], [True, False]), "2 pairs"),
    "drawn pairs": (PairDataset(DATA, per_item=1.0, seed=0), "6 pairs"),
    "comparison": (
        lw.evaluation.Comparison(
            ("new", "old"),
            "6 queries",
            {"map": lw.evaluation.Difference(ESTIMATE, ESTIMATE, ESTIMATE, 0.01, 0.01)},
        ),
        "Differences with their intervals",
    ),
    "verification": (
        lw.evaluation.evaluate_verification(DISTANCES, SAME),
        "Distances of same and of different pairs",
    ),
    "retrieval": (
        lw.evaluation.evaluate_retrieval(torch.rand(12, 3), torch.arange(12) % 3),
        "RetrievalResult",
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_is_shown_in_one_line(name):
    shown, title = RESULTS[name]
    figure = lw.show(shown)
    assert isinstance(figure, Figure)
    assert figure.get_suptitle() == title
    assert figure._repr_png_()[:4] == b"\x89PNG"


def test_a_calibration_is_drawn_as_its_pairs():
    figure = lw.show(RESULTS["calibration"][0])
    by_hand = plots.distance_histogram(
        DISTANCES.double(), SAME, RESULTS["calibration"][0].threshold
    )
    assert texts(figure) == texts(by_hand)
    assert "66.7% of same" not in texts(figure)


def test_a_sheet_tells_classes_and_most_is_a_limit():
    assert texts(lw.show(DATA))[:7] == ["6 items", "cat", "cat", "dog", "dog", "emu", "emu"]
    assert texts(lw.show(DATA, most=2))[:3] == ["2 of 6 items", "cat", "cat"]


def test_an_evaluation_is_drawn_as_its_headline():
    digits = lw.data.load("digits", split="test")
    model = lw.SimilarityModel(lw.encoders.MLPEncoder(digits.item_shape))
    known, asked = lw.data.split_items(digits, [0.5, 0.5], seed=0)
    model.add(known)
    model.calibrate(asked)
    found = model.evaluate(asked)
    figure = lw.show(found)
    assert figure.get_suptitle() == f"Evaluation of {len(asked)} items"
    assert {name.strip() for name, _ in found.headline()} <= set(texts(figure))
    assert lw.show(found.matching).get_suptitle() == "True classes and their matches"


def test_neighbors_are_drawn_from_the_pictures_kept_with_them(tmp_path):
    model = gallery(tmp_path, keep_pictures=True)
    found = model.lookup(IMAGES[:2], k=2)
    kept = [lw.data.decode_picture(each) for each in found.payloads[0]]
    torch.testing.assert_close(kept[0], IMAGES[0], atol=0.003, rtol=0)
    figure = lw.show(found, queries=lw.data.Subset(DATA, [0, 1]))
    assert "2 queries and their 2 nearest neighbors" in texts(figure)
    assert "✓ cat" in texts(figure)
    assert "✓ cat" not in texts(lw.show(found)), "without queries nothing is right or wrong"
    assert "query 1" not in texts(lw.show(found, most=1))


def test_matches_are_drawn_with_their_threshold(tmp_path):
    model = gallery(tmp_path, keep_pictures=True)
    figure = lw.show(model.match(IMAGES[:2], threshold=0.25), queries=IMAGES[:2])
    assert any("0.250" in text for text in texts(figure))


def test_neighbors_may_come_with_their_items_or_from_their_files(tmp_path):
    from PIL import Image

    model = gallery(tmp_path)
    found = model.lookup(IMAGES[:2], k=2)
    with pytest.raises(ValueError, match="neighbors must have pictures to be shown, got none"):
        lw.show(found)
    assert lw.show(found, items=IMAGES[found.ids])
    file = tmp_path / "cat.png"
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(file)
    index = lw.Index()
    index.add(torch.eye(2), labels=["cat", "dog"], metadata=[{"path": str(file)}, {}])
    figure = lw.show(index.lookup(torch.ones(1, 2), k=2))
    pixels = [axes.images[0].get_array() for axes in figure.axes]
    assert pixels[0].shape == (96, 96, 3)
    assert [each.max() for each in pixels] == [0.0, 1.0], "black, and white where there is none"


def test_neighbors_of_image_files_are_read_from_them_while_they_last(tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), (0, 0, 0) if name == "cat" else (200, 200, 200)).save(
            tmp_path / name / "1.png"
        )
    images = lw.data.load(tmp_path, image_size=(4, 4))
    model = lw.SimilarityModel(torch.nn.Flatten(), distance=lw.distances.EUCLIDEAN)
    model.add(images)
    model.add_new(images)
    own = model.add(images, metadata=[{"path": "elsewhere"}, {"year": 1999}])
    found = model.lookup(images, k=1)
    paths = [fact["path"] for (fact,) in found.metadata]
    assert paths == [str((tmp_path / name / "1.png").resolve()) for name in ("cat", "dog")]
    figure = lw.show(found)
    assert [round(float(axes.images[0].get_array().max()), 2) for axes in figure.axes] == [0, 0.78]
    facts = [
        {k: v for k, v in fact.items() if k != "fingerprint"} for fact in model.index.metadata(own)
    ]
    assert facts == [{"path": "elsewhere"}, {"year": 1999}], "those who tell paths are left alone"
    for path in paths:
        Path(path).unlink()
    with pytest.raises(ValueError, match=r"got none\. Give items=, or keep them with add\(.*True"):
        lw.show(found)


def test_verified_pairs_are_drawn_with_their_truth_if_it_is_given():
    model = lw.SimilarityModel(torch.nn.Flatten())
    model.calibrate(DATA, rule="pairs")
    given = GivenPairs(DATA, [[0, 1], [1, 2]], [True, False])
    (a, b), _ = given.__getitems__([0, 1])[0]
    judged = model.verify(a, b)
    assert any("truth same" in text for text in texts(lw.show(judged, items=given)))
    assert not any("truth" in text for text in texts(lw.show(judged, items=(a, b))))
    with pytest.raises(ValueError, match="items must be given to show verified pairs"):
        lw.show(judged)


@pytest.mark.parametrize("shown", [3, None, "x", {}, {"a": 1}, [], [1], object(), int, lw.Recipe()])
def test_what_cannot_be_shown_is_refused(shown):
    with pytest.raises(lw.InputError, match=r"shown must be a History, a Calibration, .*, got"):
        lw.show(shown)


def test_a_calibration_that_kept_no_distance_is_refused():
    made = dataclasses.replace(lw.calibrate(DISTANCES, SAME), sample=())
    with pytest.raises(ValueError, match="calibration must have kept its distances"):
        lw.show(made)


def test_pictures_are_small_and_come_back():
    large = torch.rand(2, 1, 300, 200)
    pictures = lw.data.encode_pictures(large, side=100)
    assert [lw.data.decode_picture(each).shape for each in pictures] == [(1, 100, 67)] * 2
    assert pictures[0][:3] == b"\xff\xd8\xff", "a large one is a JPEG"
    whole = (255 * torch.rand(1, 3, 9, 7)).byte()
    (picture,) = lw.data.encode_pictures(whole)
    assert torch.equal((lw.data.decode_picture(picture) * 255).round().byte(), whole[0])
    assert lw.data.encode_pictures(torch.rand(2, 5)) == [None, None]


@pytest.mark.parametrize("picture", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\x00"])
def test_bytes_that_are_no_picture_are_refused(picture):
    with pytest.raises(lw.InputError, match="picture must be a whole PNG or JPEG"):
        lw.data.decode_picture(picture)


def test_pictures_with_too_many_pixels_are_refused(monkeypatch):
    (picture,) = lw.data.encode_pictures(torch.rand(1, 1, 20, 20))
    monkeypatch.setenv("LIKEWISE_MAX_PIXELS", "100")
    with pytest.raises(lw.InputError, match="pixels"):
        lw.data.decode_picture(picture)


def test_keeping_pictures_reads_each_item_once(tmp_path):
    class Counted(ArrayDataset):
        read = 0

        def __getitems__(self, indices):
            Counted.read += len(indices)
            return super().__getitems__(indices)

    model = lw.SimilarityModel(torch.nn.Flatten())
    model.use_gallery(tmp_path / "gallery")
    plain, kept = Counted(IMAGES, list("aabbcc")), Counted(1 - IMAGES, list("aabbcc"))
    model.add(plain)
    without, Counted.read = Counted.read, 0
    model.add(kept, keep_pictures=True)
    assert Counted.read == without
    assert model.index.payloads(model.index.ids)[:6] == [None] * 6
    assert None not in model.index.payloads(model.index.ids)[6:]
