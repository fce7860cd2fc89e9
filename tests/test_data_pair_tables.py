import os

import numpy as np
import pytest
import torch
from PIL import Image

from likewise.data import items, load_pairs, load_triplets
from likewise.data.pair_tables import read_pair_table


@pytest.fixture
def table(tmp_path):
    """A folder of gray images 10, 20, 30, 40, and what writes a table beside them."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for i, name in enumerate(["a", "b", "c", "sub/d"], start=1):
        Image.new("L", (4, 5), 10 * i).save(tmp_path / "in" / f"{name}.png")

    def write(text):
        path = tmp_path / "in" / "pairs.csv"
        path.write_text(text)
        return path

    return write


def shades(side):
    return (side.mean((1, 2, 3)) * 255).round().int().tolist()


@pytest.mark.parametrize(
    "text",
    [
        "a,b,same\na.png,b.png,1\nc.png,a.png,0\nsub/d.png,b.png,0\n",
        "path_a,path_b,same\na.png,b.png,true\nc.png,a.png,false\nsub/d.png,b.png,False\n",
        "who, Same ,B,A\nx,YES,b.png,a.png\ny,no, a.png ,c.png\n\nz,No,b.png,sub/d.png\n",
        "a,b,different\na.png,b.png,0\nc.png,a.png,1\nsub/d.png,b.png,1\n",
        "a,path_b,same,label\na.png,./b.png,1,7\nc.png,sub/../a.png,0,7\nsub/d.png,b.png,0,8\n",
        '\ufeffa,b,same\r\n"a.png",b.png,1\r\nc.png,a.png,0\r\nsub/d.png,b.png,0',
        "a;b;same\na.png;b.png;1.0\n ; ;\nc.png;a.png;0.0\nsub/d.png;b.png;0\n",
        "a\tb\tsame\na.png\tb.png\t1\nc.png\ta.png\t0\n\t\t\nsub/d.png\tb.png\t0\n",
    ],
    ids=[
        *("plain", "path_a", "any order", "different", "one file, two spellings", "quoted"),
        *("semicolons and floats", "tabs and blank cells"),
    ],
)
def test_pairs_are_read_relative_to_the_table_each_file_once(table, text):
    pairs = load_pairs(table(text))
    (a, b), same = pairs.__getitems__([0, 1, 2])[0]
    assert (shades(a), shades(b)) == ([10, 30, 40], [20, 10, 20])
    assert same.tolist() == [True, False, False]
    assert len(pairs.data) == 4
    assert pairs.data.labels.tolist() == [0, 1, 2, 3]
    assert [os.path.basename(name) for name in pairs.data.class_names] == [
        os.path.basename(pairs.data.paths[i]) for i in range(4)
    ]


def test_a_link_is_the_file_it_leads_to(table, tmp_path):
    path = table("a,b,same\na.png,b.png,1\nlink.png,c.png,0\n")
    (tmp_path / "in" / "link.png").symlink_to("a.png")
    assert len(load_pairs(path).data) == 3
    path = table("a,b,same\na.png,b.png,1\nlink.png,a.png,0\n")
    with pytest.raises(ValueError, match=r"row 3 of .* different files, got 'a\.png' twice"):
        load_pairs(path)


def test_a_pair_that_comes_again_counts_once_with_a_warning(table):
    path = table("a,b,same\na.png,b.png,1\nc.png,a.png,0\nb.png,a.png,true\na.png,c.png,0\n")
    with pytest.warns(UserWarning, match=r"pairs\.csv' holds 2 rows with a pair of an earlier row"):
        pairs = load_pairs(path)
    assert (pairs.pairs.tolist(), pairs.same.tolist()) == ([[0, 1], [2, 0]], [True, False])


def test_contradictions_are_named_but_not_without_end(table):
    rows = "".join(f"a.png,b.png,{i % 2}\n" for i in range(40))
    with pytest.raises(ValueError, match=r"got 20 contradictions: .*, \.\.\.\. Correct") as info:
        load_pairs(table("a,b,same\n" + rows))
    assert str(info.value).count("says otherwise") == 5


def test_images_are_resized_and_given_channels(table):
    text = "a,b,same\na.png,b.png,1\nc.png,a.png,0\n"
    assert load_pairs(table(text)).data.item_shape == (1, 5, 4)
    assert load_pairs(str(table(text)), image_size=8, channels=3).data.item_shape == (3, 8, 8)


def test_triplets_are_read_in_their_order(table):
    text = "negative,positive,anchor\nc.png,b.png,a.png\na.png,b.png,sub/d.png\nc.png,b.png,a.png"
    triplets = load_triplets(table(text), image_size=2)
    anchor, positive, negative = triplets.__getitems__([0, 1, 2])[0].items
    assert shades(anchor) == [10, 40, 10]
    assert shades(positive) == [20, 20, 20]
    assert shades(negative) == [30, 10, 30]
    assert len(triplets.data) == 4
    assert torch.equal(triplets.labels, triplets.triplets)  # a class per file
    assert items(triplets.data).shape == (4, 1, 2, 2)


def test_a_table_without_truth_is_read_as_such(table):
    path = table("a,b\na.png,b.png\nb.png,c.png\n")
    unlabeled = read_pair_table(path)
    assert unlabeled.same is None
    assert unlabeled.pairs == [(0, 1), (1, 2)]
    assert [os.path.basename(file) for file in unlabeled.sides] == unlabeled.names
    with pytest.raises(ValueError, match=r"must have the column same .* got neither\. Add one"):
        load_pairs(path)
    assert read_pair_table(table("a,b,same\na.png,b.png,1\n")).same == [True]


GOOD = "a.png,b.png,1\n"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a,b,label\n" + GOOD, ValueError, "got label, which may mean either. Rename it to what"),
        ("a,b,same,different\n", ValueError, "must tell the truth in .* got both. Remove one"),
        ("a,same\na.png,1\n", ValueError, "columns a, b, same, each once, got a, same. Name them"),
        ("a,b,same,same\n", ValueError, "each once, got a, b, same, same"),
        ("a,path_a,b,same\n", ValueError, "each once, got a, a, b, same"),
        ("", ValueError, "must have the columns a, b, each once, got none"),
        ("a,b,same\n\n", ValueError, "must have a row after its header, got none"),
        ("a,b,same\n" + GOOD, ValueError, "pairs of both kinds, got 1 same and 0 different. Add"),
        ("a,b,different\n" + GOOD, ValueError, "of both kinds, got 0 same and 1 different"),
        ("a,b,same\n" + GOOD + "x.png,a.png,0\n", FileNotFoundError, r"row 3 .* got 'x\.png'\. Pa"),
        ("a,b,same\n" + GOOD + ",a.png,0\n", FileNotFoundError, "row 3 .* exists, got ''"),
        ("a,b,same\npairs.csv,a.png,0\n", ValueError, "row 2 .* PNG, JPEG, .* got 'pairs.csv'"),
        ("a,b,same\n" + GOOD + "c.png,a.png\n", ValueError, "row 3 .* must have 3 columns"),
        ("a,b,same\na.png,a.png,1\n", ValueError, "row 2 .* different files, got 'a.png' twice"),
        (
            "a,b,same\n" + GOOD + "c.png,a.png,0\n\nb.png,a.png,0\nc.png,./a.png,yes\n",
            ValueError,
            "tell one truth of each pair, got 2 contradictions: row 5 says otherwise than row 2, "
            "row 6 says otherwise than row 3. Correct or remove these rows",
        ),
        ("a,b,same,who,who\na.png,b.png,1,x,y\n", ValueError, "name each column once, got who tw"),
        ("a,b,same\na.png,b.png,2\n", ValueError, "row 2 .* 1 or 0, true or false, .* got '2'"),
        ("a,b,different\na.png,b.png,\n", ValueError, "yes or no as different, got ''"),
    ],
)
def test_a_faulty_table_of_pairs_is_refused_in_one_sentence(table, text, error, message):
    with pytest.raises(error, match=message) as info:
        load_pairs(table(text))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("anchor,positive\n", ValueError, "columns anchor, positive, negative, each once, got an"),
        ("anchor,positive,negative\n", ValueError, "must have a row after its header"),
        (
            "anchor,positive,negative\na.png,b.png,a.png\n",
            ValueError,
            "row 2 of .* must name different files, got 'a.png' twice",
        ),
        (
            "anchor,positive,negative\na.png,b.png,x.png\n",
            FileNotFoundError,
            r"row 2 of .* got 'x\.png'",
        ),
    ],
)
def test_a_faulty_table_of_triplets_is_refused(table, text, error, message):
    with pytest.raises(error, match=message):
        load_triplets(table(text))


@pytest.mark.parametrize("read", [load_pairs, load_triplets])
def test_a_table_that_is_not_there_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"csv_path must exist, got '.*no\.csv'"):
        read(tmp_path / "no.csv")


def test_an_image_that_cannot_be_read_is_named(table, tmp_path):
    path = table("a,b,same\na.png,b.png,1\nc.png,a.png,0\n")
    (tmp_path / "in" / "c.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"c\.png' must be a whole PNG"):
        load_pairs(path)
    pairs = load_pairs(path, image_size=4, channels=1)
    assert np.isfinite(pairs[0][0][0].numpy()).all()
    with pytest.raises(ValueError, match=r"c\.png' must be a whole PNG"):
        pairs[1]
