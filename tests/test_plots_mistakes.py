"""What the sheets of mistakes hold: every pair with its classes, names, distance and verdict."""

import pytest
import torch
from matplotlib.colors import to_hex

from likewise.evaluation.mistakes import ConfusedClasses, confused_classes
from likewise.plots import mistake_sheets as mistakes
from likewise.plots.style import RIGHT, WRONG
from test_plots import AWKWARD, check_layout, random, texts

NAMES = ["ant", "bee", "cat"]


def frames(figure):
    return [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes]


def four_pairs(**options):
    labels = torch.tensor([[0, 0], [0, 1], [2, 2], [1, 2]])
    distances = torch.tensor([0.1, 0.2, 0.3, 0.4])
    return mistakes.labeled_pairs(
        random(4, 1, 6, 6), random(4, 1, 6, 6, seed=1), distances, labels, NAMES, **options
    )


def test_each_pair_has_its_classes_names_and_distance():
    figure = four_pairs(names=[(f"/x/left{i}.png", f"right{i}") for i in range(4)])
    words = texts(figure)
    assert [word for word in words if word in NAMES] == [
        *("ant", "ant"), *("ant", "bee"), *("cat", "cat"), *("bee", "cat")
    ]  # fmt: skip
    assert [word for word in words if word.startswith(("left", "right"))] == [
        f"{side}{i}" for i in range(4) for side in ("left", "right")
    ]
    assert {f"distance 0.{i}00" for i in range(1, 5)} <= set(words)
    assert not {*frames(figure)} & {RIGHT, WRONG}, "without a threshold nothing is judged"


def test_a_threshold_tells_right_from_wrong():
    figure = four_pairs(threshold=0.2)  # in float32 a little more, and accepted
    assert frames(figure) == [RIGHT] * 2 + [WRONG] * 4 + [RIGHT] * 2
    assert [word[0] for word in texts(figure) if "distance 0." in word] == ["✓", "✗", "✗", "✓"]


def test_only_the_first_pairs_are_drawn_and_the_title_says_so():
    figure = four_pairs(most=3)
    assert len(figure.axes) == 6
    assert figure.get_suptitle() == "3 of 4 pairs with their distances"


def test_items_stand_in_the_row_of_their_pair():
    items = random(4, 1, 6, 6)
    figure = four_pairs()
    torch.testing.assert_close(
        torch.tensor(figure.axes[6].images[0].get_array()), items[3, 0], check_dtype=False
    )
    assert figure.axes[0].get_position().y0 == figure.axes[4].get_position().y0
    assert figure.axes[6].get_position().y0 < figure.axes[0].get_position().y0


def some_confused(names=NAMES):
    truth = torch.tensor([0, 0, 0, 0, 1, 2])
    answers = torch.tensor([1, 1, 1, 0, 1, 0])
    found = confused_classes(answers, truth)
    count = sum(len(each.examples) for each in found)
    distances = torch.arange(count) / 10
    return mistakes.confused_classes(
        found, random(count, 5, 7), random(count, 5, 7, seed=1), distances, names,
        names=[("/p/query.png", "found")] * count,
    )  # fmt: skip


def test_confused_classes_are_told_with_their_share_and_examples():
    figure = some_confused()
    words = texts(figure)
    assert [word for word in words if "taken for" in word and word[0] != "C"] == [
        "ant taken for bee: 3 of 4 (75%)",
        "cat taken for ant: 1 of 1 (100%)",
    ]
    assert [word for word in words if word.startswith("distance")] == [
        "distance 0.00", "distance 0.100", "distance 0.200", "distance 0.300"
    ]  # fmt: skip
    assert words.count("query") == words.count("found") == 4
    assert len(figure.axes) == 8
    assert figure.axes[0].get_position().y0 > figure.axes[6].get_position().y0


def test_texts_neither_overlap_nor_leave_the_sheet():
    names = [name * 3 for name in AWKWARD[:3]]
    labels = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 0]])
    for shape in ((1, 9, 4), (3, 4, 9), (11,)):
        check_layout(
            mistakes.labeled_pairs(
                random(4, *shape), random(4, *shape), 1e5 * random(4), labels, names,
                threshold=3.0, names=[("/some/where/a_long_name_1.png", "other")] * 4,
            )
        )  # fmt: skip
    check_layout(some_confused(names))


def test_what_does_not_fit_is_named():
    one, two = random(1, 4), random(2, 4)
    both = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="items_a and items_b must hold 1 items, as distances"):
        mistakes.labeled_pairs(one, two, random(1), both, NAMES)
    with pytest.raises(ValueError, match=r"labels must have shape \(1, 2\), .* got \(2,\)"):
        mistakes.labeled_pairs(one, one, random(1), both[0], NAMES)
    with pytest.raises(ValueError, match="distances must hold at least one pair, got none"):
        mistakes.labeled_pairs(one[:0], one[:0], random(0), both[:0], NAMES)
    lone = ConfusedClasses(0, 1, 5, 9, torch.tensor([3]))
    with pytest.raises(ValueError, match=r"confused must have 2 examples, .* got \[1\]"):
        mistakes.confused_classes([lone], two, two, random(2), NAMES)
