import csv
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from likewise.data import has_splits, items, load
from likewise.data.tables import LABEL_NAMES, PATH_NAMES, find_columns, read_number_table, read_rows

SEPARATORS = (",", ";", "\t", "|")
# No lone surrogates, no NUL, no BOM, and no \r, which the csv writer of Python 3.11 does not quote.
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff\r"), max_size=6
)
CELL = TEXT.map(str.strip)
LABEL = CELL.filter(bool)
NAME = st.text(st.sampled_from("ABCdefÄ;,| \"'\n-"), min_size=1, max_size=5).map(str.strip)
STYLE = st.tuples(
    st.sampled_from(SEPARATORS),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff"]),
)


def write(path, rows, style):
    separator, quoting, end, mark = style
    text = io.StringIO()
    csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end).writerows(rows)
    path.write_bytes((mark + text.getvalue()).encode())
    return path


def table(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for i, name in enumerate("abc"):
        Image.new("L", (3, 2), 80 * i).save(folder / f"{name}.png")
    return folder


@given(st.data(), STYLE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_back(place, data, style):
    others = st.lists(NAME.filter(bool), max_size=3, unique_by=str.lower)
    header = data.draw(st.permutations(["path", "label", *data.draw(others)]))
    row = st.lists(CELL, min_size=len(header), max_size=len(header)).filter(any)
    rows = data.draw(st.lists(row, max_size=5))
    read = [cells for _, cells in read_rows(write(place / "t.csv", [header, *rows], style))]
    expected = [dict(zip([n.lower() for n in header], cells, strict=True)) for cells in rows]
    assert read == expected


@given(st.data(), STYLE, st.sampled_from(LABEL_NAMES), st.sampled_from(PATH_NAMES), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_of_files_is_read_whatever_its_layout(place, data, style, label, path, named):
    usual = {"split", *LABEL_NAMES, *PATH_NAMES}
    others = st.lists(
        NAME.filter(lambda name: name.lower() not in usual and name),
        max_size=2,
        unique_by=str.lower,
    )
    columns = {}
    if named:  # the caller says which, whatever the other columns are called
        label, path = "L-" + label, "P-" + path
        columns = {"label": label.upper(), "path_column": path}
    rows = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from("abc"),
                LABEL,
                st.sampled_from(["train", "Test", "val", "valid", "Validation"]),
            ),
            min_size=1,
            max_size=6,
        )
    )
    header = data.draw(st.permutations([label.title(), path, "split", *data.draw(others)]))
    cells = [
        [{label.title(): kind, path: f"{file}.png", "split": part}.get(n, "7") for n in header]
        for file, kind, part in rows
    ]
    source = write(place / "t.csv", [header, *cells], style)
    whole = load(source, channels=1, **columns)
    assert [whole.class_names[code] for code in whole.labels] == [kind for _, kind, _ in rows]
    assert [file[-5] for file in whole.paths] == [file for file, _, _ in rows]
    assert has_splits(source, **columns)
    words = {"train": ("train",), "val": ("val", "valid", "Validation"), "test": ("Test",)}
    for split, meant in words.items():
        expected = [file for file, _, part in rows if part in meant]
        if expected:
            part = load(source, split=split, channels=1, **columns)
            assert [file[-5] for file in part.paths] == expected


NUMBER = st.floats(-1e6, 1e6, width=32).map(lambda x: np.float32(x).item())


@given(st.data(), STYLE, st.sampled_from(LABEL_NAMES))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_of_numbers_is_read_wherever_its_label_stands(place, data, style, label):
    width = data.draw(st.integers(1, 3))
    numbers = st.lists(NUMBER, min_size=width, max_size=width)
    rows = data.draw(st.lists(st.tuples(LABEL, numbers), min_size=1, max_size=6))
    at = data.draw(st.integers(0, width))
    plain = data.draw(st.booleans())  # numbers as the names of columns, as for pixels
    header = [str(i) if plain else f"x{i}" for i in range(width)]
    lines = [[*header[:at], label, *header[at:]]]
    lines += [[*map(repr, row[:at]), kind, *map(repr, row[at:])] for kind, row in rows]
    read = read_number_table(write(place / "t.csv", lines, style))
    assert read.labels == [kind for kind, _ in rows]
    np.testing.assert_array_equal(read.items, np.array([row for _, row in rows], np.float32))


@given(st.data(), st.sampled_from(SEPARATORS), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_without_a_header_the_label_comes_first(place, data, separator, end):
    label = st.sampled_from(["cat", "dog", "7", "b c", "ü"])
    rows = data.draw(
        st.lists(st.tuples(label, st.lists(NUMBER, min_size=2, max_size=2)), min_size=1, max_size=5)
    )
    text = "\n".join(separator.join([kind, *map(repr, row)]) for kind, row in rows)
    read = read_number_table(table(place, text + ("\n \n" if end else "")))
    assert read.labels == [kind for kind, _ in rows]
    np.testing.assert_array_equal(read.items, np.array([row for _, row in rows], np.float32))


@pytest.mark.parametrize(
    ("text", "names", "labels", "shape"),
    [
        ("length,width,label\n.5,1,0\n2.5,3,1\n1.5,1,0\n.5,2,1\n", "01", [0, 1, 0, 1], (2,)),
        ("sepal;species;petal\n1;a;2\n3;b;4\n", "ab", [0, 1], (2,)),
        (",x,y,class\n0,1.5,2,b\n1,3,4,a\n", "ab", [1, 0], (2,)),  # as pandas writes its index
        ("Unnamed: 0,x,y,class\n0,1.5,2,b\n1,3,4,a\n", "ab", [1, 0], (2,)),
        ("y,x,z\na,1,-2\nb,3,4\n", "ab", [0, 1], (2,)),  # y in front is the label,
        ("x,y,target\n1,-2,a\n3,4,b\n", "ab", [0, 1], (2,)),  # elsewhere a number
        ("class,label,x\n1,a,2.5\n2,b,3\n", "ab", [0, 1], (2,)),  # the word label wins
        ("0,1,2,3,target\n5,0,1,255,b\n0,0,0,9,a\n", "ab", [1, 0], (1, 2, 2)),
        ("label\tx\ty\na\t1.5\t2\n\t\t\nb\t3\t4\n  \n", "ab", [0, 1], (2,)),
        ("x|y|category\n1.5|2|a,b\n3|4|c\n", ["a,b", "c"], [0, 1], (2,)),
    ],
)
def test_tables_as_they_are_found(tmp_path, text, names, labels, shape):
    data = load(table(tmp_path, text))
    assert data.class_names == list(names)
    assert data.labels.tolist() == labels
    assert data.item_shape == shape


def test_a_column_split_gives_the_parts_of_a_table_of_numbers(tmp_path):
    path = table(tmp_path, "x,split,y,label\n1,train,2,a\n3,val,4,b\n5,train,6,c\n7,valid,8,a\n")
    assert has_splits(path)
    assert items(load(path, split="train")).tolist() == [[1, 2], [5, 6]]
    for split in ("val", "validation", "test"):
        part = load(path, split=split)
        assert items(part).tolist() == [[3, 4], [7, 8]]
        assert (part.class_names, part.labels.tolist()) == (["a", "b", "c"], [1, 0])
    assert len(load(path)) == 4


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (
            "id,length,kind\n1,2,a\n",
            {},
            "must have a column of labels named label, class, target, category, species, got the "
            r"columns id, length, kind\. Name it so in the first row, or give label=\.",
        ),
        ("a.png,cat\nb.png,dog\n", {}, r"got the columns a\.png, cat\. Name it"),
        (
            "class,species,x\na,b,1\n",
            {},
            r"label must say which column of .* class or species, got none\. Give label",
        ),
        ("file,image,label\na,b,1\n", {}, "path_column must say which .* file or image, got none"),
        ("path,label,LABEL\na,b,1\n", {}, "must name each column once, got label twice. Rename"),
        ("x,x,label\n1,2,a\n", {}, "must name each column once, got x twice"),
        ("label,split\na,train\n", {}, "must have a column of image files named .* got label, spl"),
        ("photo,label\na.png,b\n", {}, "number, got 'a.png'. Give path_column='photo' if it names"),
        ("x,kind\n1,a\n", {"label": "sort"}, r"must be a column of .* \(x, kind\), got 'so"),
        ("x,y,label\n1,2,a\n3,b\n", {}, "row 3 of .* must have 3 columns as the header has, got 2"),
        ("label,x,y\na,1,2,3\nb,1,2,3\n", {}, "row 2 of .* must have 3 columns as the header has"),
        ("x,label,y\n1,a,2\n3,,4\n", {}, "row 3 of .* must have a label, got an empty cell"),
        ("x,label,y\n1,a,2\n3,b,q\n", {}, "column 3 of row 3 of .* a finite number, got 'q'"),
        ("x;y;label\n0,5;1;a\n", {}, "column 1 of row 2 of .* must be a finite number, got '0,5'"),
        ("x,split,label\n1,dev,a\n", {}, "row 2 of .* must have the split train, val or test, got"),
    ],
)
def test_a_table_that_cannot_be_known_is_refused_by_its_columns(tmp_path, text, arguments, message):
    with pytest.raises(ValueError, match=message) as info:
        load(table(tmp_path, text), **arguments)
    assert "\n" not in str(info.value)


def test_the_caller_may_name_the_columns(tmp_path):
    Image.new("L", (2, 2), 7).save(tmp_path / "a.png")
    path = table(tmp_path, "photo\tkind\tlabel\na.png\tcat\t1\na.png\tdog\t1\n", "t.tsv")
    data = load(path, path_column="Photo", label="kind")
    assert (data.class_names, len(data)) == (["cat", "dog"], 2)
    assert load(path, path_column="photo").class_names == ["1"]
    numbers = table(tmp_path, "1,2,3\n4,5,cat\n")  # the first row is a header if one is named
    assert find_columns(numbers, label="3").numbers == [0, 1]
    assert load(numbers, label="3").class_names == ["cat"]


def test_a_row_of_many_numbers_is_no_cell_that_is_too_long(tmp_path):
    wide = "\n".join(f"{name}," + ",".join(["0.5"] * 50_000) for name in "ab")
    assert load(table(tmp_path, wide)).item_shape == (50_000,)
