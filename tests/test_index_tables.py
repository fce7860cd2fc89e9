import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.distances import COSINE, EUCLIDEAN
from likewise.index import Gallery, Index
from likewise.index.arrow import (
    from_table,
    read_parquet,
    read_parquet_batches,
    to_frame,
    to_table,
    write_parquet,
)

pyarrow = pytest.importorskip("pyarrow", reason='needs pip install "likewise[tables]"')

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda t: not t.endswith("\0"))
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def indexes(draw):
    """Any index: integer or string ids, with or without names, labels and metadata."""
    count = draw(st.integers(0, 6))
    ids = st.lists(st.integers(0, 2**63 - 2) if draw(st.booleans()) else TEXT, unique=True)
    ids = draw(ids.filter(lambda i: len(i) >= count))[:count]
    names = draw(st.lists(TEXT, unique=True, max_size=4))
    labels = st.integers(-1, len(names) - 1 if names else 9)
    rows = draw(st.lists(st.tuples(FLOATS, FLOATS), min_size=count, max_size=count))
    metadata = st.lists(
        st.dictionaries(st.text(), JSON, max_size=2), min_size=count, max_size=count
    )
    index = Index(draw(st.sampled_from([COSINE, EUCLIDEAN])), class_names=names)
    if count:
        index.add(
            torch.tensor(rows, dtype=torch.float32),
            ids=ids,
            labels=draw(st.lists(labels, min_size=count, max_size=count)),
            metadata=draw(metadata),
        )
    return index


def some_index(count=10, names=("cat", "dog", "owl")):
    rng = torch.Generator().manual_seed(count)
    index = Index(EUCLIDEAN, class_names=names)
    index.add(
        torch.randn(count, 4, generator=rng),
        labels=[n % 4 - 1 for n in range(count)],
        ids=[f"item {n}" for n in range(count)],
        metadata=[{"n": n} for n in range(count)],
    )
    return index


def check_equal(index, columns):
    assert columns.ids.dtype.kind == index.ids.dtype.kind
    assert columns.ids.tolist() == index.ids.tolist()
    assert torch.equal(columns.embeddings, index.embeddings)
    # -0.0 equals 0.0, and is another one.
    assert columns.embeddings.numpy().tobytes() == index.embeddings.numpy().tobytes()
    assert torch.equal(columns.labels, index.labels)
    if len(index):
        assert columns.metadata == index.metadata(index.ids)
    assert columns.class_names == index.class_names
    assert columns.distance == index.distance.name


@settings(max_examples=30)
@given(index=indexes(), batch_size=st.integers(1, 7))
def test_what_goes_into_a_table_comes_back(index, batch_size):
    table = to_table(index, batch_size=batch_size)
    columns = from_table(table)
    check_equal(index, columns)
    again = Index(index.distance, class_names=columns.class_names)
    if len(columns):
        columns.add_to(again)
        check_equal(again, columns)


@settings(max_examples=25)
@given(index=indexes())
def test_what_goes_into_a_pandas_table_comes_back(index):
    pytest.importorskip("pandas", reason='needs pip install "likewise[tables]"')
    check_equal(index, from_table(to_frame(index)))


@settings(max_examples=25)
@given(index=indexes(), batch_size=st.integers(1, 7))
def test_what_goes_into_a_file_comes_back(tmp_path_factory, index, batch_size):
    path = tmp_path_factory.mktemp("tables") / "items.parquet"
    assert write_parquet(index, path, batch_size=batch_size) == path
    check_equal(index, read_parquet(path))
    assert [file.name for file in path.parent.iterdir()] == ["items.parquet"]


def test_a_file_is_read_a_batch_at_a_time(tmp_path):
    index = some_index(10)
    path = write_parquet(index, tmp_path / "items.parquet", batch_size=4)
    batches = list(read_parquet_batches(path, batch_size=3))
    assert max(map(len, batches)) == 3
    again = Index(EUCLIDEAN, class_names=batches[0].class_names)
    for batch in batches:
        batch.add_to(again)
    check_equal(again, read_parquet(path))


def test_the_columns_say_what_they_are():
    table = to_table(some_index(4))
    assert table["class"].to_pylist() == [None, "cat", "dog", "owl"]
    assert table["label"].to_pylist() == [-1, 0, 1, 2]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<item: float>[4]"
    assert table["metadata"].to_pylist()[3] == '{"n": 3}'


def test_a_table_from_elsewhere_needs_ids_labels_and_embeddings_alone():
    plain = pyarrow.table({"id": [5, 3], "label": [9, -1], "embedding": [[1.0, 2.0], [3.0, 4.0]]})
    columns = from_table(plain)
    assert columns.embeddings.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert (columns.labels.tolist(), columns.metadata) == ([9, -1], [{}, {}])
    assert (columns.class_names, columns.distance, columns.payloads) == ([], None, None)


def test_codes_without_names_told_are_numbered_by_the_names_that_occur():
    plain = pyarrow.table(
        {
            "id": [1, 2, 3, 4],
            "label": [7, -1, 2, 7],
            "class": ["owl", None, "cat", "owl"],
            "embedding": [[1.0]] * 4,
        }
    )
    columns = from_table(plain)
    assert columns.labels.tolist() == [1, -1, 0, 1]
    assert columns.class_names == ["cat", "owl"]


def test_a_part_of_a_pandas_table_can_be_added_to_another_index():
    pytest.importorskip("pandas", reason='needs pip install "likewise[tables]"')
    frame = to_frame(some_index(8))
    part = frame[frame["class"] == "owl"]
    other = Index(EUCLIDEAN, class_names=["ant"])
    from_table(part).add_to(other)
    assert other.ids.tolist() == ["item 3", "item 7"]
    assert other.labels.tolist() == [1, 1]
    assert other.class_names == ["ant", "owl"]


@pytest.mark.parametrize("ids", [["a", "bé", "c"], [7, 1, 4]])
def test_a_gallery_gives_its_payloads_and_its_encoder_too(tmp_path, ids):
    with Gallery(tmp_path / "one", distance=EUCLIDEAN, encoder="e1", dimension=2) as gallery:
        gallery.add(
            torch.tensor([[1.0, -0.0], [2.0, 3.0], [4.0, 5.0]]),
            labels=["x", "y", "x"],
            ids=ids,
            metadata=[{"a": 1}, {}, {"b": [None]}],
            payloads=[b"", None, b"\0\xff"],
        )
        columns = read_parquet(write_parquet(gallery, tmp_path / "items.parquet", batch_size=2))
        check_equal(gallery, columns)
    assert columns.payloads == [b"", None, b"\0\xff"]
    assert columns.encoder == "e1"
    with Gallery(tmp_path / "two", distance=EUCLIDEAN, encoder="e1") as again:
        columns.add_to(again)
        check_equal(again, columns)
        assert again.payloads(ids) == columns.payloads
    with Gallery(tmp_path / "three", distance=EUCLIDEAN, encoder="e2") as other:
        with pytest.raises(ValueError, match="must have the encoder of the table, 'e1', got 'e2'"):
            columns.add_to(other)


# add_to


def test_classes_meet_by_name_and_unlabeled_items_stay_so():
    columns = from_table(to_table(some_index(4)))
    other = Index(EUCLIDEAN, class_names=["owl", "ant", "cat", "dog"])
    columns.add_to(other)
    assert other.labels.tolist() == [-1, 2, 3, 0]
    assert other.class_names == ["owl", "ant", "cat", "dog"]


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (Index(COSINE, class_names=["a"]), "must have the distance of the table, 'euclidean', got"),
        (Index(EUCLIDEAN, class_names=["cat"]), "must know the classes .* got new 'dog'"),
        (Index(EUCLIDEAN), "index must know the classes of a table with unlabeled items"),
    ],
)
def test_an_index_that_does_not_fit_is_refused_and_stays_empty(index, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_table(to_table(some_index(8))).add_to(index)
    assert len(index) == 0


def test_names_and_plain_codes_do_not_mix():
    index = Index(EUCLIDEAN)
    index.add(torch.ones(1, 4), labels=[3], ids=["x"])
    with pytest.raises(ValueError, match="class names exactly where the table has, got 0 and 3"):
        from_table(to_table(some_index(8))).add_to(index)
    with pytest.raises(ValueError, match="class names exactly where the table has, got 3 and 0"):
        from_table(to_table(index)).add_to(some_index(3))


# what cannot be read


def table_with(**change):
    columns = {"id": [1, 2], "label": [0, 1], "class": ["a", "b"], "embedding": [[1.0], [2.0]]}
    columns = {**columns, "metadata": ["{}", "{}"], **change}
    return pyarrow.table({name: values for name, values in columns.items() if values is not None})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"id": None}, "table must have columns id, label and embedding, got no id"),
        ({"id": [1.5, 2.0]}, "id of the table must be integers or strings throughout, got 1.5"),
        ({"id": ["1", None]}, "id of the table must be integers or strings throughout, got '1'"),
        ({"id": [1, None]}, "id of the table must be integers or strings throughout, got None"),
        ({"label": ["a", "b"]}, "label of the table must be integers, -1 for unlabeled"),
        ({"embedding": [[1.0], [1.0, 2.0]]}, "embedding of the table must have one length"),
        ({"embedding": [[1.0], None]}, "embedding of the table must have one length"),
        ({"metadata": ["{}", "[]"]}, r"metadata of the table must hold JSON objects, got '\[\]'"),
        ({"metadata": ["{}", None]}, "metadata of the table must hold JSON objects, got None"),
        ({"label": [0, 0]}, "class of the table must be the name of label .* got 'a' beside 0"),
        ({"class": ["a", "a"]}, "class of the table must name each label differently"),
        ({"class": ["a", None]}, "class of the table must be the name of label .* got None"),
        ({"label": [0, -1]}, "class of the table must be the name of label .* got 'b' beside"),
    ],
)
def test_columns_that_do_not_fit_are_refused(change, sentence):
    assert len(from_table(table_with())) == 2
    with pytest.raises(ValueError, match=sentence):
        from_table(table_with(**change))


def test_a_label_changed_without_its_class_is_noticed():
    table = to_table(some_index(4))
    changed = table.set_column(1, "label", pyarrow.array([-1, 0, 2, 2]))
    with pytest.raises(ValueError, match=r"class of the table must be .* got 'dog' beside 2"):
        from_table(changed)


def test_what_is_no_table_and_a_later_format_are_refused():
    with pytest.raises(TypeError, match="table must be a pyarrow or pandas table, got dict"):
        from_table({})
    later = to_table(some_index(4)).replace_schema_metadata({b"likewise": b'{"format": 99}'})
    with pytest.raises(ValueError, match="table must be of format 1, got 99"):
        from_table(later)


def test_class_names_that_no_file_can_hold_are_refused():
    with pytest.raises(ValueError, match=r"text must be valid Unicode, got '.ud800'"):
        Index().add(torch.ones(1, 2), labels=["\ud800"])
    with pytest.raises(ValueError, match=r"text must be valid Unicode, got '.ud800'"):
        Index(class_names=["\ud800"])


def test_a_file_that_is_missing_foreign_or_cut_short_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="path must exist"):
        read_parquet(tmp_path / "none.parquet")
    with pytest.raises(FileNotFoundError, match="folder of path must exist"):
        write_parquet(some_index(), tmp_path / "none" / "items.parquet")
    with pytest.raises(OSError, match="path must be a file that can be written"):
        write_parquet(some_index(), tmp_path)
    path = write_parquet(some_index(), tmp_path / "items.parquet")
    whole = path.read_bytes()
    for content in (b"", b"nothing", whole[:-9], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="path must be a whole Parquet file"):
            read_parquet(path)


def test_a_flipped_byte_of_the_items_is_noticed_or_changes_nothing(tmp_path):
    index = some_index(200)
    path = write_parquet(index, tmp_path / "items.parquet")
    whole = path.read_bytes()
    end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")  # where the footer begins
    noticed = 0
    for place in np.random.default_rng(0).choice(end, 60, replace=False).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            check_equal(index, read_parquet(path))
        except ValueError:
            noticed += 1
    assert noticed > 50


def test_without_pyarrow_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pyarrow must be installed.*"likewise\[tables\]"'):
        to_table(some_index())
