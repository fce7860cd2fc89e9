import math

import pytest
from matplotlib.colors import to_hex

from likewise.intervals import Estimate
from likewise.plots.comparison import differences
from likewise.plots.style import DIFFERENT, SAME
from test_plots import check_layout, texts

GAPS = {
    "map at r": Estimate(0.02, 0.01, 0.03, "t"),
    "equal error rate": Estimate(0.01, 0.004, 0.016, "t"),
    "accuracy": Estimate(-0.01, -0.03, 0.01, "t"),
    "a name that is much too long for the room that there is": Estimate(0, math.nan, math.nan, ""),
}


def marks(figure):
    lines = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "")]
    return {int(line.get_ydata()[0]): line for line in lines}


def spans(figure):
    drawn = [line for line in figure.axes[0].lines if line.get_label() == "_interval"]
    return {int(line.get_ydata()[0]): tuple(line.get_xdata()) for line in drawn}


def test_each_difference_has_a_row_with_its_interval():
    figure = differences(GAPS, names=("new", "old"), smaller_is_better={"equal error rate"})
    places = list(enumerate(GAPS.values()))
    assert {at: line.get_xdata()[0] for at, line in marks(figure).items()} == {
        at: gap.value for at, gap in places
    }
    assert spans(figure) == {at: (gap.low, gap.high) for at, gap in places[:3]}
    assert figure.axes[0].get_xlabel() == "new − old"
    check_layout(figure)


def test_filled_marks_have_the_color_of_the_model_that_is_ahead():
    figure = differences(GAPS, names=("new", "old"), smaller_is_better={"equal error rate"})
    faces = [to_hex(line.get_markerfacecolor()) for _, line in sorted(marks(figure).items())]
    assert faces == [SAME, DIFFERENT, "#ffffff", "#ffffff"]
    names = [label.get_text() for label in figure.axes[0].get_legend().get_texts()]
    assert names == ["new is ahead", "old is ahead"]
    assert any("equal error rate ↓" in text for text in texts(figure))
    told = differences(GAPS, ahead={"accuracy": 1})
    faces = [to_hex(line.get_markerfacecolor()) for _, line in sorted(marks(told).items())]
    assert faces == ["#ffffff", "#ffffff", DIFFERENT, "#ffffff"]


def test_of_many_differences_the_largest_either_way_are_drawn():
    many = {f"class {i}": Estimate(i / 10 - 2, i / 10 - 3, i / 10 - 1, "t") for i in range(40)}
    figure = differences(many, most=5)
    drawn = sorted(line.get_xdata()[0] for line in marks(figure).values())
    assert drawn == pytest.approx([-2.0, -1.9, 1.7, 1.8, 1.9])
    assert any("35 smaller differences are left out" in " ".join(t.split()) for t in texts(figure))
    check_layout(figure)
    check_layout(differences({"one": GAPS["accuracy"]}))


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="estimates must hold finite differences, at least one"):
        differences({})
    with pytest.raises(ValueError, match="estimates must hold finite differences"):
        differences({"x": Estimate(math.nan, 0, 1, "t")})
