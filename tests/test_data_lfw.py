import numpy as np
import pytest
import torch
from PIL import Image

from likewise.data import lfw_pairs
from likewise.data.downloads import unpacked

PEOPLE = [f"P_{letter}" for letter in "abcdefgh"]


def shade(person, number):
    return 20 * PEOPLE.index(person) + number


def make(folder, images=None, suffix=".png", write=True):
    """Four people in each of two folds, three pictures each; the shade tells which one it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for person in PEOPLE:
        for number in (1, 2, 3):
            path = (images or folder) / person / f"{person}_{number:04d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 6), shade(person, number)).save(path)
    if write:
        (folder / "pairs.txt").write_text(PAIRS)
        (folder / "pairsDevTrain.txt").write_text("1\nP_a\t1\t3\nP_a\t2\tP_d\t1\n")
        (folder / "pairsDevTest.txt").write_text("1\r\nP_e\t1\t3\r\nP_g\t2\tP_f\t1\r\n")
    return folder


PAIRS = """2\t2
P_a\t1\t3
P_b\t2\t1
P_c\t1\tP_d\t2
P_a\t3\tP_c\t1
P_e\t2\t3
P_e\t1\t2
P_f\t1\tP_h\t3
P_g\t1\tP_h\t3
"""


def shades(pairs):
    (a, b), same = pairs.__getitems__(range(len(pairs)))[0]
    sides = [(side.mean((1, 2, 3)) * 255).round().int().tolist() for side in (a, b)]
    return list(zip(*sides, strict=True)), same.tolist()


@pytest.mark.parametrize("inside", [None, "lfw_funneled"])
def test_view_2_is_the_folds_of_the_file(tmp_path, inside):
    folder = make(tmp_path / "faces", inside and tmp_path / "faces" / inside)
    first, second = lfw_pairs(folder, "test")
    assert shades(first) == (
        [(1, 3), (22, 21), (41, 62), (3, 41)],
        [True, True, False, False],
    )
    assert shades(second)[0] == [(82, 83), (81, 82), (101, 143), (121, 143)]
    assert first.data is second.data
    assert first.data.class_names == PEOPLE
    assert len(first.data) == 6 + 6  # only those that the pairs name
    for fold in (first, second):
        a, b = first.data.labels[fold.pairs].T
        assert torch.equal(a == b, fold.same)
    people = [set(first.data.labels[fold.pairs].flatten().tolist()) for fold in (first, second)]
    assert people == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_view_1_is_two_sets(tmp_path):
    folder = make(tmp_path)
    train = lfw_pairs(str(folder), image_size=3, channels=3)
    assert shades(train) == ([(1, 3), (2, 61)], [True, False])
    assert train.data.item_shape == (3, 3, 3)
    assert shades(lfw_pairs(folder, "dev_test")) == ([(81, 83), (122, 101)], [True, False])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".pgm", ".bmp"])
def test_images_may_be_of_other_formats(tmp_path, suffix):
    pairs = lfw_pairs(make(tmp_path, suffix=suffix), "dev_test")
    found = np.array(shades(pairs)[0])
    assert abs(found - [(81, 83), (122, 101)]).max() <= 1  # JPEG is not exact


def test_the_name_is_found_where_the_data_is(tmp_path, monkeypatch):
    make(tmp_path / "lfw", tmp_path / "lfw" / "lfw_funneled")
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    assert len(lfw_pairs()) == len(lfw_pairs("lfw", "dev_train")) == 2
    assert len(lfw_pairs("lfw", "test")) == 2
    assert unpacked(tmp_path / "lfw", "lfw") == tmp_path / "lfw" / "lfw_funneled"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "2\t2\n",
            "3\t2\n",
            r"line 9 of .* must hold a person and two numbers, got 'no such line'",
        ),
        ("2\t2\n", "1\t2\n", "line 6 of .* must be the end, after 1 x 4 pairs, got 'P_e 2 3'"),
        ("2\t2\n", "8\n", "line 1 of .* the number of folds and of pairs of each kind, got '8'"),
        ("2\t2\n", "", r"line 1 of .* must hold the number of folds .* got 'P_a 1 3'"),
        ("2\t2\n", "0\t2\n", "must hold the number of folds .* got '0 2'"),
        ("P_b\t2\t1\n", "P_b\t2\tP_a\t1\n", "line 3 of .* a person and two numbers, got 'P_b 2 P"),
        ("P_b\t2\t1\n", "P_b\t2\t2\n", "line 3 of .* a person and two numbers, got 'P_b 2 2'"),
        ("P_b\t2\t1\n", "P_b\t2\tx\n", "line 3 of .* a person and two numbers, got 'P_b 2 x'"),
        ("P_d\t2\n", "P_c\t2\n", "line 4 of .* two people, each with a number, got 'P_c 1 P_c 2'"),
        ("P_f\t1\tP_h", "P_f\t1\tP_b", "must share no person, got 'P_b' in folds 1 and 2"),
        ("P_b\t2\t1\n", "P_a\t3\t1\n", r"pairs must hold no pair twice, .* in rows 0 and 1"),
    ],
)
def test_a_file_of_pairs_that_is_no_protocol_is_refused(tmp_path, old, new, message):
    make(tmp_path)
    assert PAIRS.count(old) == 1
    (tmp_path / "pairs.txt").write_text(PAIRS.replace(old, new))
    with pytest.raises(ValueError, match=message) as info:
        lfw_pairs(tmp_path, "test")
    assert "\n" not in str(info.value)


def test_an_empty_file_of_pairs_is_refused(tmp_path):
    make(tmp_path)
    (tmp_path / "pairsDevTrain.txt").write_text("\n")
    with pytest.raises(ValueError, match="must hold the number of pairs of each kind, got 'noth"):
        lfw_pairs(tmp_path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder must exist, got .*no"):
        lfw_pairs(tmp_path / "no")
    make(tmp_path, write=False)
    with pytest.raises(FileNotFoundError, match=r"file of the view 'test' must exist, .*pairs\.tx"):
        lfw_pairs(tmp_path, "test")
    make(tmp_path)
    (tmp_path / "P_c" / "P_c_0001.png").unlink()
    message = r"must hold the image 'P_c/P_c_0001\.jpg' that 'pairs\.txt' names, got no such file"
    with pytest.raises(FileNotFoundError, match=message):
        lfw_pairs(tmp_path, "test")
    with pytest.raises(ValueError, match="view must be one of dev_test, dev_train, test, got 'all"):
        lfw_pairs(tmp_path, "all")
