"""Results print as short tables."""

import copy
import dataclasses
import importlib
import math
import pickle
import pkgutil
import re
import typing
from collections.abc import Mapping

import numpy as np
import pytest
import torch

import likewise as lw
from likewise import _tables
from likewise.intervals import Estimate

NOT_RESULTS = {  # settings, and what is passed on between steps
    *("Benchmark", "ViewAugment"),
    *(
        "Augment",
        "Distance",
        "Guarantee",
        "MeanGuarantee",
        "Nearest",
        "PairTable",
        "Pairs",
        "PathTable",
    ),
    *("CrossFit", "GivenUnknowns", "Preprocess", "Section", "Trials"),
    *("Contents", "Folder", "Fresh", "Kinds", "Reading", "Records"),
    *("Face", "Features", "Framing", "Read", "SearchedBy", "Trial"),
}


def result_classes():
    """Every public dataclass of the package but those that are no results."""
    found = {}
    for module in pkgutil.walk_packages(lw.__path__, "likewise."):
        if re.search(r"\._|\.(cli|runtime|service)\b", module.name):
            continue
        loaded = importlib.import_module(module.name)
        for name, each in vars(loaded).items():
            is_public = each.__module__ == module.name if isinstance(each, type) else False
            is_public |= name in getattr(loaded, "__all__", ())
            is_class = isinstance(each, type) and dataclasses.is_dataclass(each)
            if is_public and is_class and not name.startswith("_"):
                found[name] = each
    for name in NOT_RESULTS:
        found.pop(name, None)
    return found


CLASSES = result_classes()
LONG = "x\x1b[2J" + 2000 * "y"
ESTIMATE = Estimate(0.5, 0.4, 0.6, "jackknife " * 30)


def large(kind, name=""):
    """A large value of an annotated type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if hasattr(kind, "dim_str"):  # jaxtyping's
        dims = kind.dim_str.split()
        dtype = {"Bool": torch.bool, "Int": torch.int64}.get(kind.__name__.split("[")[0])
        many = 10 if len(dims) > 2 else 300
        sizes = [int(dim) if dim.isdigit() else many for dim in dims]
        values = torch.zeros(sizes, dtype=dtype or torch.float32)
        return values.numpy() if kind.array_type is np.ndarray else values
    if inner and type(None) in inner:
        return large(next(each for each in inner if each is not type(None)), name)
    if origin is tuple and len(inner) == 2 and inner[1] is not ...:
        return tuple(large(each, name) for each in inner)
    if origin in (list, tuple) or kind in (list, tuple):
        return origin([large(inner[0], name)] * 1000)
    if origin in (dict, Mapping):
        if inner[0] == tuple[str, str]:
            return {(str(i), "b"): large(inner[1], name) for i in range(1000)}
        keys = [inner[0](i) for i in range(1000)]
        return dict.fromkeys(keys, large(inner[1], name))
    if origin is np.ndarray or kind is np.ndarray:
        return np.zeros((300, 300))
    if kind in (int, float, bool):
        return kind(123456789.123456789)
    if kind is str:
        return "given" if name == "kind" else LONG
    if dataclasses.is_dataclass(kind):
        return filled(kind)
    return LONG if kind is not typing.Any else None


def filled(cls):
    if cls is Estimate:
        return ESTIMATE
    made = object.__new__(cls)  # whatever the checks of the class
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        value = large(hints[field.name], field.name) if field.repr else None
        object.__setattr__(made, field.name, value)
    if cls.__name__ == "Repeated":
        object.__setattr__(made, "means", dict.fromkeys(made.least, ESTIMATE))
    return made


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_no_result_prints_much_or_steers_a_terminal(name):
    made = filled(CLASSES[name])
    text, markup = repr(made), made._repr_html_()
    assert 0 < len(text) <= 3000
    assert text.count("\n") <= 25
    assert len(markup) <= 9000
    assert "\x1b" not in text + markup


def test_an_evaluation_prints_its_headline():
    digits = lw.data.load("digits", split="train")
    model = lw.SimilarityModel(lw.encoders.MLPEncoder(digits.item_shape))
    known, asked = lw.data.split_items(digits, [0.5, 0.5], seed=0)
    model.add(known)
    model.calibrate(asked)
    found = model.evaluate(asked)
    lines = repr(found).splitlines()
    assert len(lines) < 25
    assert lines[0] == f"Evaluation of {len(asked)} items"
    assert lines[1].split(maxsplit=2) == ["matching", "accuracy", str(found.matching.accuracy)]
    assert len(repr(found.matching)) + len(repr(found.retrieval)) < 6000
    decided = repr(found.matches).splitlines()
    assert decided[0].startswith("Matches by nearest up to ")
    assert len(decided) == 23, "a title, the headings, 20 queries, and how many more there are"
    assert decided[-1].strip() == f"… and {len(asked) - 20} more"


def test_the_table_of_a_comparison_is_aligned():
    found = lw.evaluation.Comparison(
        ("a", "b"),
        "9 queries",
        {
            "map_at_r": lw.evaluation.Difference(
                *(Estimate(v, v - 0.1, v + 0.1, "") for v in (0.5, 0.25, 0.25)), 0.01, 0.02
            )
        },
    )
    headings, numbers = repr(found).splitlines()[1:]
    assert headings.split() == ["measure", "a", "b", "difference", "p", "(adjusted)"]
    assert headings.index(" b") == numbers.index(" 0.250 [0.150")
    assert numbers.split("  ")[1:] == [
        *("map_at_r", "0.500 [0.400, 0.600]", "0.250 [0.150, 0.350]", "0.250 [0.150, 0.350]"),
        "0.02",
    ]


def test_fields_that_are_none_are_left_out_and_values_are_short():
    @dataclasses.dataclass(frozen=True)
    class Found:
        count: int
        share: float
        rates: dict
        names: list
        absent: object = None
        vectors: object = None
        hidden: int = dataclasses.field(default=1, repr=False)
        __repr__ = _tables.as_text
        _repr_html_ = _tables.as_html

    found = Found(
        12345, 1 / 3, {1: Estimate(0.5, math.nan, math.nan, "")}, [], None, torch.ones(2, 3)
    )
    assert repr(found) == (
        "Found\n"
        "  count    12,345\n"
        "  share    0.3333\n"
        "  rates    1: 0.500 (no interval)\n"
        "  names    none\n"
        "  vectors  (2, 3) float32"
    )


def test_markup_is_escaped():
    found = lw.History([{"epoch": 1, "<script>": 1.0}])
    assert "<script>" not in found._repr_html_()
    assert '<th style="text-align:left">&lt;script&gt;</th>' in found._repr_html_()


def test_a_history_prints_its_ends():
    records = [{"epoch": n, "seconds": 1.0, "loss": 1 / n} for n in range(1, 101)]
    lines = repr(lw.History(records)).splitlines()
    assert lines[0] == "History of 100 epochs"
    assert lines[1].split() == ["epoch", "loss", "seconds"]
    assert [line.split()[0] for line in lines[2:]] == [
        *map(str, range(1, 10)), "…", *map(str, range(91, 101)),
    ]  # fmt: skip
    assert repr(lw.History([])) == "History of 0 epochs"


def test_an_estimate_prints_as_a_number_with_its_interval():
    assert repr(Estimate(0.91, 0.88, 0.94, "jackknife")) == "0.910 [0.880, 0.940] (jackknife)"


@pytest.fixture
def index():
    index = lw.Index(lw.distances.EUCLIDEAN)
    index.add(
        torch.tensor([[0.0], [1.0], [2.0]]),
        labels=["cat", None, "dog"],
        metadata=[{"at": 0}, {}, {"at": 2}],
    )
    return index


def test_neighbors_know_names_and_metadata(index):
    found = index.lookup(torch.tensor([[0.1], [2.0]]), k=3, where={"at": [0, 2]})
    assert found.names == [["cat", "dog", ""], ["dog", "cat", ""]]
    assert found.metadata == [[{"at": 0}, {"at": 2}, {}], [{"at": 2}, {"at": 0}, {}]]
    assert index.lookup(torch.tensor([[1.0]]), k=1).names == [["unlabeled"]]
    assert repr(found) == (
        "3 neighbors of 2 queries\n"
        "  query  neighbor 1  neighbor 2  neighbor 3\n"
        "  0      cat 0.1     dog 1.9\n"
        "  1      dog 0       cat 2"
    )


def test_codes_without_names_are_their_own():
    index = lw.Index()
    index.add(torch.eye(2), labels=[7, 3])
    assert index.lookup(torch.tensor([[1.0, 0.1]]), k=2).names == [["7", "3"]]


def test_names_are_those_of_the_lookup_whatever_came_since(index):
    found = index.lookup(torch.tensor([[0.1]]), k=1)
    index.add(torch.ones(1, 1), labels=["emu"])
    assert found.names == [["cat"]]
    assert found.class_names == ("cat", "dog")
    index.remove([0])
    with pytest.raises(ValueError, match="ids"):
        _ = found.metadata


@pytest.mark.parametrize(
    "through", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copied_neighbors_leave_the_index_behind(index, through):
    found = through(index.lookup(torch.tensor([[0.1]]), k=1))
    assert found.names == [["cat"]]
    with pytest.raises(ValueError, match="neighbors must know their index to read metadata"):
        _ = found.metadata


def test_matches_name_the_unknown(index):
    decided = lw.match(index.lookup(torch.tensor([[0.1], [50.0]]), k=1), 1.0)
    assert decided.names == ["cat", "unknown"]
    assert repr(decided) == (
        "Matches by nearest up to 1: 2 queries, 1 unknown\n"
        "  query  answer   distance  probability\n"
        "  0      cat      0.1\n"
        "  1      unknown  48"
    )
