"""`where`: one grammar for every home, against plain Python over the metadata."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from likewise.distances import EUCLIDEAN
from likewise.errors import InputError, InputTypeError
from likewise.index import Gallery, Index
from likewise.index._where import parsed
from likewise.model import SimilarityModel

KEYS = ["a", "b", "or", "not"]
OPERATORS = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


@pytest.fixture(params=["index", "gallery"])
def home(request, tmp_path):
    """A function that makes an empty home; each call another."""
    made = []

    def make():
        is_gallery = request.param == "gallery"
        path = tmp_path / str(len(made))
        made.append(Gallery(path, distance=EUCLIDEAN) if is_gallery else Index(EUCLIDEAN))
        return made[-1]

    yield make
    for one in made:
        if isinstance(one, Gallery):
            one.close()


def same(a, b):
    """Equal as JSON values: 1 is 1.0 but not true."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return type(a) is type(b) and a == b if isinstance(a, (str, list)) else a == b


def passes(facts, where):
    """The definition, written once more: `where` of the metadata of one item."""
    return all(part(facts, key, value) for key, value in where.items())


def is_negation(key, value):
    if key != "not" or not isinstance(value, dict):
        return False
    return not value or not set(value) <= {*OPERATORS, "==", "in"}


def part(facts, key, value):
    if key in ("and", "or") and isinstance(value, list) and all(isinstance(v, dict) for v in value):
        return (all if key == "and" else any)(passes(facts, each) for each in value)
    if is_negation(key, value):
        return not passes(facts, value)
    if key not in facts:
        return False
    if isinstance(value, dict):
        return all(compared(facts[key], name, bound) for name, bound in value.items())
    return any(same(facts[key], v) for v in (value if isinstance(value, list) else [value]))


def compared(value, name, bound):
    if name in ("==", "in"):
        return any(same(value, v) for v in ([bound] if name == "==" else bound))
    number = (int, float)
    comparable = (isinstance(value, str) and isinstance(bound, str)) or (
        isinstance(value, number)
        and isinstance(bound, number)
        and not isinstance(value, bool)
        and not isinstance(bound, bool)
    )
    return comparable and OPERATORS[name](value, bound)


scalars = st.one_of(
    st.integers(-2, 2),
    st.sampled_from([0.5, 1.0, -1.5, 2**53, 2**53 + 1, float(2**53)]),
    st.sampled_from(["", "a", "b", "ab", "2024-01-02"]),
    st.booleans(),
    st.none(),
)
ordered = scalars.filter(lambda value: value is not None and not isinstance(value, bool))
values = st.one_of(scalars, st.lists(st.integers(0, 2), max_size=2))
metadata = st.lists(
    st.dictionaries(st.sampled_from(KEYS), values, max_size=4), min_size=1, max_size=8
)
operators = st.dictionaries(st.sampled_from(list(OPERATORS)), ordered, min_size=1, max_size=2)
comparisons = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    operators,
    st.fixed_dictionaries({"==": values}),
    st.fixed_dictionaries({"in": st.lists(values, max_size=3)}),
)
wheres = st.recursive(
    st.dictionaries(st.sampled_from(KEYS), comparisons, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"or": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"and": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=4,
)


def keys_of(where):
    """The keys that `where` asks for."""
    found = set()
    for key, value in where.items():
        if (
            key in ("and", "or")
            and isinstance(value, list)
            and all(isinstance(v, dict) for v in value)
        ):
            found |= set().union(*map(keys_of, value))
        elif is_negation(key, value):
            found |= keys_of(value)
        else:
            found.add(key)
    return found


def check_against_the_definition(one, facts, where):
    there = set().union(*facts)
    if missing := keys_of(where) - there:
        with pytest.raises(InputError, match="where must name keys of the metadata") as refused:
            one.lookup(torch.zeros(1, 1), k=len(facts), where=where)
        assert any(repr(key) in str(refused.value) for key in missing)
        return None
    expected = [at for at, each in enumerate(facts) if passes(each, where)]
    found = one.lookup(torch.zeros(1, 1), k=len(facts), where=where)
    assert found.ids[0].tolist() == expected + [-1] * (len(facts) - len(expected))
    return len(expected)


@given(facts=metadata, where=wheres)
@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_an_index_finds_what_the_definition_says(facts, where):
    index = Index(EUCLIDEAN)
    index.add(torch.arange(len(facts)).float()[:, None], metadata=facts)
    check_against_the_definition(index, facts, where)


def test_every_home_finds_what_the_definition_says(home):
    one = home()
    facts = [
        {"year": 1999, "camera": "front", "at": "2024-01-02"},
        {"year": 2000, "camera": "rear", "at": "2024-02-01", "tags": ["x", 1]},
        {"year": 2010.0, "camera": "front", "tags": []},
        {"year": "2005", "camera": None, "place": {"city": "Ulm"}},
        {"or": 3, "not": 5, "year": True},
        {},
    ]
    one.add(torch.arange(len(facts)).float()[:, None], metadata=facts)
    counts = [
        check_against_the_definition(one, facts, where)
        for where in [
            {"year": {">=": 2000, "<": 2010}},
            {"year": {">=": 2000, "<=": 2010}, "camera": ["front", "rear"]},
            {"at": {"<": "2024-02"}},
            {"or": [{"camera": "rear"}, {"year": {"<": 2000}}]},
            {"not": {"camera": ["front", "rear"]}},
            {"not": {"or": [{"year": 1999}, {"not": {"camera": {"in": ["front"]}}}]}},
            {"and": [{"camera": "front"}, {"year": {">": 2000.5}}]},
            {"tags": {"==": ["x", 1]}},
            {"tags": [["x", 1], []]},
            {"place": {"==": {"city": "Ulm"}}},
            {"or": {">": 2}},
            {"or": 3, "not": 5},
            {"not": {">=": 5}},
            {"year": True},
            {"camera": None},
            {"and": []},
            {"or": []},
            {"camera": []},
            {},
        ]
    ]
    assert counts == [1, 2, 1, 2, 3, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 6, 0, 0, 6]


def test_what_was_read_of_removed_items_says_nothing_of_others(home):
    one = home()
    one.add(torch.arange(6.0)[:, None], metadata=[{"n": n % 3} for n in range(6)])
    query = torch.zeros(1, 1)
    assert one.lookup(query, k=6, where={"n": 1}).ids[0].tolist() == [1, 4, -1, -1, -1, -1]
    one.remove([1, 3])
    one.add(torch.tensor([[9.0]]), metadata=[{"n": 1, "new": 2}])
    assert one.lookup(query, k=5, where={"n": [1, 2]}).ids[0].tolist() == [2, 4, 5, 6, -1]
    assert one.lookup(query, k=1, where={"new": {">": 1}}).ids[0].tolist() == [6]
    one.remove([6])
    with pytest.raises(InputError, match="got 'new', which no item has"):
        one.lookup(query, k=1, where={"new": 2})


REFUSED = [
    (InputError, r"got 'camra', which no item has\. Check .* keys are 'camera'", {"camra": "x"}),
    (InputError, r"got 'x', which no item has", {"not": {"x": 1}}),
    (InputError, r"operators ==, in, <, .* under 'camera', got '=>'", {"camera": {"=>": 3}}),
    (InputError, r"under 'camera', got 'none'", {"camera": {}}),
    (InputTypeError, r"must give a list for 'in' under 'camera', got 'x'", {"camera": {"in": "x"}}),
    (InputTypeError, r"a number or a string for '<' .* got None", {"camera": {"<": None}}),
    (InputTypeError, r"a number or a string for '<' .* got True", {"camera": {"<": True}}),
    (InputTypeError, r"must be what JSON can hold, got nan", {"camera": {"<": float("nan")}}),
    (InputTypeError, r"must be what JSON can hold", {"camera": {1, 2}}),
    (InputTypeError, r"where must be a dict", [1]),
    (InputTypeError, r"where must be a dict", {1: 2}),
    (InputTypeError, r"where must be a dict", {"and": [{"a": 1}, {1: 2}]}),
]


@pytest.mark.parametrize(("error", "message", "where"), REFUSED)
def test_what_cannot_be_asked_for_is_refused(home, error, message, where):
    one = home()
    one.add(torch.zeros(2, 1), metadata=[{"camera": "x"}, {}])
    with pytest.raises(error, match=message):
        one.lookup(torch.zeros(1, 1), k=1, where=where)


def test_parts_without_end_are_refused():
    where = {"a": 1}
    for _ in range(3000):
        where = {"not": where}
    with pytest.raises(InputError, match="parts at most 20 deep"):
        parsed(where)


def test_a_filter_reads_each_item_once(monkeypatch):
    index = Index(EUCLIDEAN)
    index.add(torch.zeros(50, 1), metadata=[{"n": n} for n in range(50)])
    read = []
    loads = json.loads
    monkeypatch.setattr("likewise.index._where.json.loads", lambda t: read.append(t) or loads(t))
    for low in range(5):
        index.lookup(torch.zeros(1, 1), k=1, where={"n": {">": low}})
    index.add(torch.zeros(1, 1), metadata=[{"n": 99}])
    index.lookup(torch.zeros(1, 1), k=1, where={"n": 99})
    assert len(read) == 51


def test_a_model_looks_up_and_matches_among_what_passes():
    model = SimilarityModel(torch.nn.Identity(), distance=EUCLIDEAN)
    model.add(torch.arange(4.0)[:, None], metadata=[{"n": n} for n in range(4)])
    model.index.relabel(range(4), ["a", "b", "c", "d"])
    query = torch.tensor([[0.2]])
    assert model.lookup(query, k=2, where={"n": {">": 1}}).ids.tolist() == [[2, 3]]
    for where, code in ((None, 0), ({"n": {">": 0}}, 1), ({"not": {"n": [0, 1]}}, 2)):
        assert model.match(query, threshold=9.0, where=where).labels.tolist() == [code]
    assert model.match(query, threshold=0.5, where={"n": 3}).labels.tolist() == [-1]
    with pytest.raises(InputError, match="got 'm', which no item has"):
        model.match(query, threshold=9.0, where={"m": 3})
    with pytest.raises(InputError, match="where must be None for center"):
        model.match(query, threshold=9.0, rule="center", where={"n": 3})
