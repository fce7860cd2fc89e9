"""The five retrieval benchmarks: miniature copies of their layouts, their splits and protocols."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

import likewise as lw
from likewise.data import has_splits, load
from likewise.data.benchmarks import BENCHMARKS
from likewise.evaluation import evaluate_benchmark, evaluate_retrieval


def picture(path, shade):
    """An image whose mean is its shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)


def cub(folder):
    """Classes 1, 2 and 100 to train on, 101, 102 and 200 to test, two images each."""
    images, classes = [], []
    for row, number in enumerate(n for n in (1, 2, 100, 101, 102, 200) for _ in range(2)):
        file = f"{number:03d}.Bird_{number}/Bird_{row}.png"
        picture(folder / "images" / file, 10 * row)
        images.append(f"{row + 1} {file}")
        classes.append(f"{row + 1} {number}")
    write(folder, "images.txt", images)
    write(folder, "image_class_labels.txt", classes[::-1])  # the ids tell which is which
    names = [f"{n:03d}.Bird_{n}" for n in (1, 2, 100, 101, 102, 200)]
    return {"train": (names[:3], range(0, 60, 10)), "test": (names[3:], range(60, 120, 10))}


def cars(folder, *, kit=False):
    """Classes 1 and 98 to train on, 99 and 196 to test; the lists by halves mix them."""
    numbers = [1, 98, 99, 196, 1, 98, 99, 196]
    names = np.array([f"Car {n}" for n in range(1, 197)], dtype=object)
    rows = [(f"{row + 1:05d}.png", number) for row, number in enumerate(numbers)]
    if kit:
        for half, part in (("train", rows[:4]), ("test", rows[4:])):
            table = np.array(part, dtype=[("fname", "O"), ("class", "O")])
            with_labels = "_withlabels" if half == "test" else ""
            file = folder / "devkit" / f"cars_{half}_annos{with_labels}.mat"
            file.parent.mkdir(parents=True, exist_ok=True)
            savemat(file, {"annotations": table})
            for file, _ in part:
                picture(folder / f"cars_{half}" / file, 10 * int(file[:5]))
        savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    else:
        table = np.array(
            [(f"car_ims/{file}", number) for file, number in rows],
            dtype=[("relative_im_path", "O"), ("class", "O")],
        )
        folder.mkdir(parents=True, exist_ok=True)
        savemat(folder / "cars_annos.mat", {"annotations": table, "class_names": names})
        for file, _ in rows:
            picture(folder / "car_ims" / file, 10 * int(file[:5]))
    return {
        "train": (["Car 1", "Car 98"], [10, 20, 50, 60]),
        "test": (["Car 99", "Car 196"], [30, 40, 70, 80]),
    }


def products(folder):
    for part, first in (("train", 1), ("test", 3)):
        lines = ["image_id class_id super_class_id path"]
        for row in range(4):
            file = f"{'bicycle' if row < 2 else 'chair'}_final/{first + row // 2}_{row}.png"
            picture(folder / file, 10 * first + row)
            lines.append(f"{row + 1} {first + row // 2} {row // 2 + 1} {file}")
        write(folder, f"Ebay_{part}.txt", lines)
    return {
        "train": (["bicycle/1", "chair/2"], range(10, 14)),
        "test": (["bicycle/3", "chair/4"], range(30, 34)),
    }


def in_shop(folder, *, images="", lists="Eval"):
    rows = [("train", 1), ("train", 1), ("train", 4), ("query", 2), ("gallery", 2), ("query", 3)]
    rows += [("gallery", 3), ("gallery", 3)]
    lines = [str(len(rows)), "image_name item_id evaluation_status"]
    for row, (part, item) in enumerate(rows):
        file = f"img/WOMEN/Dresses/id_{item:08d}/{row:02d}_1_front.png"
        picture(folder / images / file, 10 * row)
        lines.append(f"{file}      id_{item:08d} {part}      ")
    write(folder / lists, "list_eval_partition.txt", lines)
    names = [f"id_{item:08d}" for item in (1, 2, 3, 4)]
    return {
        "train": ([names[0], names[3]], [0, 10, 20]),
        "query": (names[1:3], [30, 50]),
        "gallery": (names[1:3], [40, 60, 70]),
        "test": (names[1:3], [30, 50, 40, 60, 70]),
    }


def naturalist(folder):
    for part, first in (("train", 100), ("test", 8000)):
        lines = []
        for row in range(4):
            file = f"train_val2018/Plantae/{first + row // 2}/{row}.png"
            picture(folder / file, first // 100 + row)
            lines.append(file)
        write(folder / "Inat_dataset_splits", f"Inaturalist_{part}_set1.txt", lines)
    return {
        "train": (["Plantae/100", "Plantae/101"], range(1, 5)),
        "test": (["Plantae/8000", "Plantae/8001"], range(80, 84)),
    }


def write(folder, name, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n")


LAYOUTS = {
    "cub-200-2011": cub,
    "cars196": cars,
    "cars196, halves": lambda folder: cars(folder, kit=True),
    "stanford-online-products": products,
    "in-shop": in_shop,
    "in-shop, unpacked in place": lambda folder: in_shop(folder, images="Img", lists=""),
    "inaturalist-2018": naturalist,
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@every_layout
@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "by folder"])
def test_every_part_has_its_images_and_classes(tmp_path, monkeypatch, layout, by_name):
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    name = layout.partition(",")[0]
    expected = LAYOUTS[layout](tmp_path / name)
    source = name if by_name else tmp_path / name
    assert has_splits(source)
    whole = load(source)
    known = {each for classes, _ in expected.values() for each in classes}
    assert set(whole.class_names) >= known
    for part, (classes, shades) in expected.items():
        data = load(source, split=part)
        assert data.class_names == whole.class_names
        present = {data.class_names[code] for code in data.labels.tolist()}
        assert present == set(classes), part
        assert [round(float(item.mean() * 255)) for item, _ in data] == list(shades), part
    in_all = sum(len(shades) for part, (_, shades) in expected.items() if part != "test")
    assert len(whole) == in_all + len(expected["test"][1]) * ("query" not in expected)
    with pytest.raises(ValueError, match="split must be left out, as"):
        load(source, split="val")


def test_labels_follow_their_images(tmp_path):
    cub(tmp_path)
    test = load(tmp_path, split="test")
    names = [test.class_names[code] for code in test.labels.tolist()]
    assert names == [f"{n}.Bird_{n}" for n in (101, 101, 102, 102, 200, 200)]
    cars(tmp_path / "cars", kit=True)
    train = load(tmp_path / "cars", split="train")
    assert [train.class_names[code] for code in train.labels] == ["Car 1", "Car 98"] * 2


KS = {
    "cub-200-2011": (1, 2, 4, 8),
    "cars196": (1, 2, 4, 8),
    "stanford-online-products": (1, 10, 100, 1000),
    "in-shop": (1, 10, 20, 30),
    "inaturalist-2018": (1, 4, 16, 32),
}


class Shades(torch.nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :2] * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, 0.3])


@every_layout
def test_each_is_judged_by_its_own_protocol(tmp_path, monkeypatch, layout):
    name = layout.partition(",")[0]
    assert {each: BENCHMARKS[each].ks for each in KS} == KS
    LAYOUTS[layout](tmp_path / name)
    found = evaluate_benchmark(Shades(), tmp_path / name)
    parts = ("query", "gallery") if name == "in-shop" else ("test",)
    queries, *gallery = (load(tmp_path / name, split=part) for part in parts)
    given = {}
    if gallery:
        given["references"] = lw.encode(Shades(), gallery[0])
        given["reference_labels"] = gallery[0].labels
    seen = len(gallery[0]) if gallery else len(queries) - 1
    ks = [k for k in KS[name] if k <= seen]
    expected = evaluate_retrieval(lw.encode(Shades(), queries), queries.labels, ks=ks, **given)
    assert found.to_dict() == expected.to_dict()
    assert (found.queries, list(found.recall_at_k)) == (len(queries), ks)
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    model = lw.SimilarityModel(
        Shades(), preprocess=lw.data.Preprocess((1, 2, 2), mean=(0.0,), std=(0.5,))
    )
    of_model = evaluate_benchmark(model.embed, name, preprocess=model.preprocess)
    by_encoder = evaluate_benchmark(Shades(), name, preprocess=model.preprocess)
    assert of_model.to_dict() == by_encoder.to_dict()


def test_lists_that_are_damaged_are_named(tmp_path):
    def refused(source, message, error=ValueError):
        with pytest.raises(error, match=re.escape(message)):
            load(source)

    cub(tmp_path / "cub")
    write(tmp_path / "cub", "image_class_labels.txt", ["1 1", "2 one"])
    refused(tmp_path / "cub", "must hold the class number of image 2, got 'one'. Fetch it again.")
    write(tmp_path / "cub", "images.txt", ["1 a b.png"])
    refused(tmp_path / "cub", "line 1 of")
    write(tmp_path / "cub", "images.txt", [])
    refused(tmp_path / "cub", "must list images of cub-200-2011, got none.")
    products(tmp_path / "sop")
    (tmp_path / "sop" / "Ebay_test.txt").unlink()
    refused(tmp_path / "sop", "list of images must exist, got", FileNotFoundError)
    in_shop(tmp_path / "shop")
    lists = tmp_path / "shop" / "Eval" / "list_eval_partition.txt"
    lists.write_text(lists.read_text().replace(" gallery", " galery", 1))
    refused(tmp_path / "shop", "must call parts train, query or gallery, got 'galery'.")
    naturalist(tmp_path / "inat")
    (tmp_path / "inat" / "train_val2018").rename(tmp_path / "inat" / "elsewhere")
    refused(tmp_path / "inat", "must hold the image 'train_val2018/Plantae/100/0.png'", OSError)
    cars(tmp_path / "cars")
    (tmp_path / "cars" / "cars_annos.mat").write_bytes(b"MATLAB 5.0" * 40)
    refused(tmp_path / "cars", "must be a whole MATLAB file, got a damaged one.")
    savemat(tmp_path / "cars" / "cars_annos.mat", {"annotations": 1})
    refused(tmp_path / "cars", "must hold class_names, got none.")
    savemat(tmp_path / "cars" / "cars_annos.mat", {"annotations": 1, "class_names": 1})
    refused(tmp_path / "cars", "must have the field 'relative_im_path', got none.")
    table = np.array([("a.png", 3)], dtype=[("relative_im_path", "O"), ("class", "O")])
    savemat(tmp_path / "cars" / "cars_annos.mat", {"annotations": table, "class_names": ["a"]})
    refused(tmp_path / "cars", "must name the class of every image, got 3 where 1 are named.")


def test_a_list_of_another_kind_is_no_benchmark(tmp_path):
    for name in ("cat", "dog"):
        picture(tmp_path / name / "a.png", 9)
    write(tmp_path, "list_eval_partition.txt", ["000001.jpg 0", "000002.jpg 1"])  # as CelebA has it
    assert load(tmp_path).class_names == ["cat", "dog"]
    assert not has_splits(tmp_path)
    with pytest.raises(ValueError, match="source must be one of cub-200-2011, cars196, "):
        evaluate_benchmark(Shades(), tmp_path)
    with pytest.raises(ValueError, match="or a folder with the lists of one, got 'digits'"):
        evaluate_benchmark(Shades(), "digits")
    with pytest.raises(TypeError, match="encoder must be a torch module, or a function"):
        evaluate_benchmark("small", tmp_path)
    cub(tmp_path)
    of_vectors = lw.data.Preprocess((4,), (0.0,), (1.0,))
    with pytest.raises(ValueError, match=r"preprocess must be one of images, got one of items \(4"):
        evaluate_benchmark(Shades(), tmp_path, preprocess=of_vectors)


def test_a_name_needs_its_own_lists_and_some_are_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    for name in ("cars196", "in-shop", "inaturalist-2018"):
        with pytest.raises(FileNotFoundError, match=f"must be a folder for '{name}', which is not"):
            load(name)
    picture(tmp_path / "cars196" / "train" / "Audi" / "a.png", 9)
    with pytest.raises(ValueError, match="source must have the lists of 'cars196' in its folder"):
        load("cars196")


def test_the_command_line_indexes_a_gallery_and_looks_up_queries(run, tmp_path):
    in_shop(tmp_path / "shop")
    preprocess = lw.data.Preprocess((1, 4, 4), (0.0,), (1.0,))
    model = lw.SimilarityModel(lw.encoders.MLPEncoder((1, 4, 4)), preprocess=preprocess)
    model.save(tmp_path / "model")
    options = ["--split", "gallery", "--json"]
    status, out, err = run("index", tmp_path / "model", tmp_path / "shop", *options)
    assert (status, json.loads(out)["added"]) == (0, 3), err
    status, out, _ = run(
        "lookup", tmp_path / "model", tmp_path / "shop", "--split", "query", "-k", 1, "--json"
    )
    assert (status, len(json.loads(out)["queries"])) == (0, 2)


def test_the_command_line_tells_what_the_protocol_gives(run, tmp_path):
    products(tmp_path / "sop")
    train = load(tmp_path / "sop", split="train")
    preprocess = lw.data.Preprocess((1, 4, 4), (0.0,), (1.0,))
    encoder = lw.encoders.MLPEncoder((1, 4, 4))
    lw.SimilarityModel(encoder, preprocess=preprocess, trained=train).save(tmp_path / "model")
    expected = evaluate_benchmark(encoder, tmp_path / "sop", preprocess=preprocess)
    command = ["evaluate", tmp_path / "model", tmp_path / "sop", "--protocol"]
    status, out, err = run(*command, "--json")
    assert status == 0, err
    assert json.loads(out) == {**expected.to_dict(), "test_classes_trained_on": 0}
    status, out, _ = run(*command)
    assert f"recall at 1  {expected.recall_at_k[1]}" in out
    assert "4 queries; 0 without an item to find" in out
    tested = load(tmp_path / "sop", split="test")
    lw.SimilarityModel(encoder, preprocess=preprocess, trained=tested).save(tmp_path / "model")
    assert "2 of its test classes were trained on, as no paper does" in run(*command)[1]
    for options, sentence in (
        (["--split", "train"], "--protocol must be given without --split, got both."),
        (["--relevance", "r.csv"], "--protocol must be given without --relevance, got both."),
    ):
        status, _, err = run(*command, *options)
        assert (status, sentence in err) == (2, True)
    status, _, err = run("evaluate", tmp_path / "model", "digits", "--protocol")
    assert (status, "DATA must be one of cub-200-2011, " in err) == (2, True)
