"""What the pictures of verification hold: pairs, several data sets, DET, reliability."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from scipy.special import ndtr

from likewise import plots
from likewise.intervals import binomial
from likewise.metrics import Sweep, equal_error_rate, roc_curve, sweep
from likewise.plots.style import NEUTRAL
from test_plots import check_layout, random, texts

LONG = "a very long name of a data set, which goes on and on, and does not end before the axis does"


def some_pairs(
    count: int, *, gap: float = 1.0, scale: float = 1.0, shift: float = 0.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    same = torch.rand(count, generator=rng) < 0.5
    noise = torch.randn(count, generator=rng, dtype=torch.float64)
    return (0.25 * noise + torch.where(same, 0.0, gap)).abs() * scale + shift, same


def some_sweep(count: int = 300, **world: float) -> Sweep:
    return sweep(*some_pairs(count, **world))


# pairs


def worst_by_loops(distances, same, threshold):
    """Every pair's confidence by counting, mistakes first."""
    keys = []
    for distance, truth in zip(distances, same, strict=True):
        said = distance <= threshold
        alike = [other for other in distances if (other <= threshold) == said]
        if said:
            beaten = [other for other in alike if other >= distance]
        else:
            beaten = [other for other in alike if other <= distance]
        confidence = len(beaten) / len(alike)
        keys.append(-confidence if said != truth else confidence)
    mistakes = [i for i in range(len(keys)) if keys[i] < 0]
    return sorted(range(len(keys)), key=lambda i: (i not in mistakes, keys[i], i))


@pytest.mark.parametrize("seed", range(20))
def test_the_worst_pairs_are_those_of_the_loops(seed):
    distances = (random(40, seed=seed) * 12).round() / 12  # with ties
    same = random(40, seed=seed + 50) < 0.5
    threshold = float(distances[seed])
    expected = worst_by_loops(distances.tolist(), same.tolist(), threshold)
    mistakes = int(((distances <= threshold) != same).sum())
    assert 0 < mistakes < 40, "nothing to order would prove nothing"
    assert plots.worst_pairs(distances, same, threshold, 40).tolist() == expected
    assert plots.worst_pairs(distances, same, threshold, 7).tolist() == expected[:7]


@given(seed=st.integers(0, 2**16), count=st.integers(0, 30), k=st.integers(1, 40))
def test_the_worst_pairs_do_not_depend_on_the_unit_and_mistakes_come_first(seed, count, k):
    distances, same = some_pairs(count, gap=0.4, seed=seed)
    worst = plots.worst_pairs(distances, same, 0.3, k)
    assert torch.equal(worst, plots.worst_pairs(distances.exp() - 1, same, np.expm1(0.3), k))
    assert len(worst) == len(set(worst.tolist())) == min(k, count)
    wrong = ((distances <= 0.3) != same)[worst].int()
    assert (wrong.diff() <= 0).all()


def test_the_worst_accept_and_the_worst_reject_lead():
    distances = torch.tensor([0.5, 0.1, 0.2, 90.0, 7.0, 8.0])
    same = torch.tensor([True, False, True, True, False, True])
    assert plots.worst_pairs(distances, same, 0.5, 3).tolist() == [1, 3, 5]


def test_distances_without_an_order_are_refused():
    with pytest.raises(ValueError, match="distances must be finite, got 1 NaN"):
        plots.worst_pairs(torch.tensor([torch.nan]), torch.tensor([True]), 0.1, 1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        plots.worst_pairs(torch.ones(1), torch.tensor([True]), 0.1, 0)


def test_a_single_pair_is_large_and_tells_its_probability():
    few = {
        count: plots.pairs(
            random(count, 1, 9, 9), random(count, 1, 9, 9), random(count), None, 2.0,
            probabilities=torch.full((count,), 0.875),
        )
        for count in (1, 2)
    }  # fmt: skip
    wide = {
        count: figure.axes[0].get_position().width * figure.get_size_inches()[0]
        for count, figure in few.items()
    }
    assert wide[1] > 2 * wide[2]
    words = texts(few[1])
    assert {"verdict same", "probability of same 0.875"} <= set(words)
    assert not [word for word in words if "truth" in word]
    assert {to_hex(axes.spines["left"].get_edgecolor()) for axes in few[1].axes} == {NEUTRAL}


def test_pairs_of_wide_images_leave_no_hole_above_them():
    high, wide = (
        plots.pairs(random(1, *shape), random(1, *shape), random(1)) for shape in ((9, 9), (3, 9))
    )
    saved = high.get_size_inches()[1] - wide.get_size_inches()[1]
    side = high.axes[0].get_position().width * 5
    assert saved == pytest.approx(side * 2 / 3, abs=1e-6)


def test_pairs_have_the_title_they_are_given():
    figure = plots.pairs(random(1, 4), random(1, 4), random(1), title="The worst mistakes")
    assert figure.get_suptitle() == "The worst mistakes"


def test_no_pair_and_probabilities_of_other_pairs_are_refused():
    with pytest.raises(ValueError, match="distances must hold at least one pair, got none"):
        plots.pairs(torch.ones(0, 4), torch.ones(0, 4), torch.ones(0))
    with pytest.raises(ValueError, match="probabilities must have 1 entries, got 2"):
        plots.pairs(random(1, 4), random(1, 4), random(1), probabilities=random(2))


# distances of several data sets


def test_every_data_set_has_its_panel_with_the_same_bars_and_the_same_threshold():
    sets = {"seen": some_pairs(400), "new": some_pairs(90, gap=0.5, seed=3)}
    figure = plots.distance_histogram(sets, threshold=0.4)
    assert len(figure.axes) == 2
    edges = []
    for axes, (name, (distances, same)) in zip(figure.axes, sets.items(), strict=True):
        assert axes.get_title(loc="left") == name
        (line,) = axes.lines
        assert list(line.get_xdata()) == [0.4, 0.4]
        (shares,) = [t.get_text() for t in axes.texts if "accepted" in t.get_text()]
        for kind, members in (("same", same), ("different", ~same)):
            (bars,) = [
                patch
                for patch in axes.patches
                if isinstance(patch, StepPatch) and patch.get_label().startswith(f"{kind} (")
            ]
            values, its_edges, _ = bars.get_data()
            edges.append(its_edges)
            accepted = 100 * float((distances[members] <= 0.4).double().mean())
            assert 0 < accepted < 100, "this threshold would prove nothing"
            assert values[its_edges[1:] <= 0.4 + 1e-9].sum() == pytest.approx(accepted)
            assert f"{accepted:.1f}% of {kind}" in shares
    assert all(np.array_equal(one, edges[0]) for one in edges)
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


def test_no_bar_stands_behind_the_words():
    same = torch.tensor([True, False])
    figure = plots.distance_histogram(
        {"a": (torch.zeros(2), same), "b": (torch.ones(2), same)}, threshold=0.5
    )
    figure.draw_without_rendering()
    for axes in figure.axes:
        (_, top) = axes.transData.transform((0, 100))
        assert len(axes.texts) == 2
        assert all(text.get_window_extent().y0 > top for text in axes.texts)


def test_ticks_far_from_zero_tell_what_they_leave_out():
    distances, same = some_pairs(50, scale=1e-3, shift=1e6)
    assert "+1e6" in [
        word.replace("\N{MINUS SIGN}", "-")
        for word in texts(plots.distance_histogram(distances, same, 1e6 + 4e-4))
    ]


def test_each_data_set_is_judged_in_its_own_precision():
    a = torch.tensor([0.2, 0.3])  # 0.2 in float32 is a little more than 0.2
    same = torch.tensor([True, True])
    figure = plots.distance_histogram({"a": (a, same), "b": (a.double(), same)}, threshold=0.2)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [re.findall(r"accepted\n(.*)%", word)[0] for word in words if "accepted" in word] == [
        "50.0",
        "0.0",
    ]


def test_whole_number_distances_keep_a_threshold_between_them():
    distances = torch.tensor([-1, 0, 1, 2])
    figure = plots.distance_histogram(distances, torch.ones(4, dtype=torch.bool), -0.5)
    assert any("25.0% of same" in word for word in texts(figure))
    assert figure.axes[0].lines[0].get_xdata()[0] == -0.5


def test_data_sets_that_cannot_be_read_are_refused_by_name():
    distances, same = some_pairs(5)
    with pytest.raises(TypeError, match="same must stand beside the distances"):
        plots.distance_histogram({"a": (distances, same)}, same)
    with pytest.raises(TypeError, match=r"must hold \(distances, same\) for 'a', got Tensor"):
        plots.distance_histogram({"a": distances})
    with pytest.raises(ValueError, match="distances must hold at least one data set, got none"):
        plots.distance_histogram({})
    with pytest.raises(ValueError, match="same of 'b' must have shape"):
        plots.distance_histogram({"a": (distances, same), "b": (distances, same[:3])})
    with pytest.raises(TypeError, match="same must be a torch tensor, got list"):
        plots.distance_histogram(distances, same.tolist())
    with pytest.raises(ValueError, match="threshold must be finite"):
        plots.distance_histogram(distances, same, float("inf"))
    with pytest.raises(ValueError, match=r"distances must be a tensor of shape \(p,\), .* \(5, 1"):
        plots.distance_histogram(distances[:, None], same)


# DET


def curves(figure: Figure) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rates of each curve, back from normal deviates."""
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_label() == "_curve"]
    return [(ndtr(line.get_xdata()), ndtr(line.get_ydata())) for line in lines]


def marks(figure: Figure) -> list[tuple[float, float]]:
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_label() == "_mark"]
    return [(float(ndtr(x.get_xdata()[0])), float(ndtr(x.get_ydata()[0]))) for x in lines]


def test_det_holds_every_threshold_and_the_point_of_equal_error():
    counts = some_sweep(gap=0.5)
    figure = plots.det(counts)
    ((x, y),) = curves(figure)
    accepted, true_rate = (rate.numpy() for rate in roc_curve(counts))
    error = equal_error_rate(counts)
    at = int(np.argmin(np.abs(x - error) + np.abs(y - error)))
    assert x[at] == pytest.approx(error) == y[at]
    half = 0.5 / counts.different_total, 0.5 / counts.same_total
    np.testing.assert_allclose(np.delete(x, at), accepted.clip(half[0], 1 - half[0]))
    np.testing.assert_allclose(np.delete(y, at), (1 - true_rate).clip(half[1], 1 - half[1]))
    assert marks(figure) == [pytest.approx((error, error))]
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) <= 0).all()
    assert f"EER {100 * error:.1f}%" in texts(figure)


def test_curves_of_det_differ_without_color():
    names = [f"curve {i}" for i in range(5)]
    figure = plots.det({name: some_sweep(seed=i) for i, name in enumerate(names)})
    handles = figure.axes[0].get_legend_handles_labels()[0]
    assert len({handle.get_linestyle() for handle in handles}) >= 4
    assert len({handle.get_marker() for handle in handles}) == 5
    assert len({handle.get_color() for handle in handles}) == 5


def test_a_million_pairs_leave_few_points_and_the_same_curve():
    distances, same = some_pairs(1_000_000, gap=0.6)
    counts = sweep(distances, same)
    ((x, y),) = curves(plots.det(counts))
    assert 500 < len(x) <= 2100
    accepted, true_rate = (rate.numpy() for rate in roc_curve(counts))
    there = np.interp(accepted, x, y)
    inside = (accepted > 0.001) & (accepted < 0.5)
    assert np.abs(there - (1 - true_rate))[inside].max() < 0.005


def test_ticks_of_det_are_rates_in_order_and_spread():
    figure = plots.det(some_sweep(20_000, gap=1.2))
    (axes,) = figure.axes
    for axis in (axes.xaxis, axes.yaxis):
        figure.draw_without_rendering()
        said = [float(label.get_text()) for label in axis.get_ticklabels()]
        places = axis.get_majorticklocs()
        np.testing.assert_allclose(100 * ndtr(places), said, rtol=1e-6)
        assert said == sorted(said)
        assert {0.1, 1, 10, 50} <= set(said)


def test_perfect_pairs_stand_in_the_corner():
    figure = plots.det(sweep(torch.arange(20.0), torch.arange(20) < 10))
    assert marks(figure) == [pytest.approx((0.05, 0.05))]
    assert "EER 0%" in texts(figure)


def test_what_is_not_a_sweep_is_refused():
    for plot in (plots.det, plots.precision_recall, plots.roc):
        with pytest.raises(ValueError, match="sweeps must hold at least one sweep, got none"):
            plot({})
        with pytest.raises(TypeError, match=r"sweeps must be a Sweep, .* got tuple"):
            plot({"a": some_pairs(5)})


# reliability


def reliability_by_loops(probabilities, same, bins):
    rows = []
    for at in range(bins):
        members = [
            i
            for i, p in enumerate(probabilities)
            if at / bins < p <= (at + 1) / bins or at == p == 0
        ]
        if members:
            mean = sum(probabilities[i] for i in members) / len(members)
            rows.append((at, mean, sum(same[i] for i in members), len(members)))
    return rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bins", [1, 8])
def test_reliability_holds_the_shares_of_the_loops(seed, bins):
    probabilities = (random(60, seed=seed).double() ** 3 * 16).round() / 16  # on edges, 0 and 1
    same = random(60, seed=seed + 9) < probabilities
    rows = reliability_by_loops(probabilities.tolist(), same.tolist(), bins)
    axes, below = plots.reliability(probabilities, same, bins=bins).axes
    (line,) = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(line.get_xdata(), [mean for _, mean, *_ in rows])
    np.testing.assert_allclose(line.get_ydata(), [hits / total for *_, hits, total in rows])
    (segments,) = [c.get_segments() for c in axes.collections]
    for segment, (_, mean, hits, total) in zip(segments, rows, strict=True):
        interval = binomial(hits, total)
        np.testing.assert_allclose(segment, [(mean, interval.low), (mean, interval.high)])
    drawn = [c for c in below.containers if isinstance(c, BarContainer)]
    counted = [[bar.get_height() for bar in bars] for bars in drawn]
    for at, _, hits, total in rows:
        assert [counts[at] for counts in counted] == [hits, total - hits]
    assert sum(map(sum, counted)) == 60


def test_the_calibration_error_is_told_as_it_is_given():
    probabilities, same = random(30), random(30, seed=1) < 0.5
    for given_error, told in ((0.03125, "0.031"), (binomial(3, 40), str(binomial(3, 40)))):
        figure = plots.reliability(probabilities, same, calibration_error=given_error)
        note = " ".join(texts(figure)).replace("\n", " ")
        assert f"Expected calibration error {told}." in note
    assert "alibration error" not in " ".join(texts(plots.reliability(probabilities, same)))


def test_probabilities_that_are_none_are_refused():
    same = torch.tensor([True])
    with pytest.raises(ValueError, match=r"must be between 0 and 1, got 1.5\."):
        plots.reliability(torch.tensor([1.5]), same)
    with pytest.raises(ValueError, match="probabilities must be finite"):
        plots.reliability(torch.tensor([torch.nan]), same)
    with pytest.raises(ValueError, match="pair"):
        plots.reliability(torch.ones(0), same[:0])
    with pytest.raises(ValueError, match=r"of shape \(p,\), one per pair, got \(1, 1\)"):
        plots.reliability(torch.ones(1, 1), same)
    with pytest.raises(ValueError, match="same must have shape"):
        plots.reliability(torch.ones(2), same)


# all of them

PICTURES = {
    "three sets": lambda: plots.distance_histogram(
        {"a": some_pairs(500), LONG: some_pairs(50, gap=0.4), "$c_1$": some_pairs(9)},
        threshold=0.45,
    ),
    "sets without a threshold": lambda: plots.distance_histogram(
        {"a": some_pairs(500), "b": some_pairs(50)}
    ),
    "huge": lambda: plots.distance_histogram(
        {"a": some_pairs(50, scale=1e20), "b": some_pairs(50, scale=1e19)}, threshold=3e19
    ),
    "tiny": lambda: plots.distance_histogram(*some_pairs(50, scale=1e-12), 3e-13),
    "denormal": lambda: plots.distance_histogram(*some_pairs(50, scale=5e-324), 0.0),
    "far from zero": lambda: plots.distance_histogram(
        *some_pairs(50, scale=1e-3, shift=1e6), 1e6 + 4e-4
    ),
    "equal and huge": lambda: plots.distance_histogram(
        torch.full((4,), 1e20), torch.tensor([True, True, False, False]), 1e20
    ),
    "one pair": lambda: plots.distance_histogram(
        {"a": (torch.tensor([0.3]), torch.tensor([True]))}, threshold=0.4
    ),
    "det": lambda: plots.det(some_sweep()),
    "det of many": lambda: plots.det({f"curve {i}": some_sweep(gap=i / 9) for i in range(13)}),
    "det of long names": lambda: plots.det({LONG: some_sweep(9000), f"2{LONG}": some_sweep(90)}),
    "det of a million": lambda: plots.det(some_sweep(1_000_000, gap=1.3)),
    "det of two pairs": lambda: plots.det(
        sweep(torch.tensor([0.1, 0.2]), torch.tensor([True, False]))
    ),
    "det of ties": lambda: plots.det(sweep(torch.zeros(9), torch.arange(9) < 4)),
    "det upside down": lambda: plots.det(sweep(-torch.arange(40.0), torch.arange(40) < 9)),
    "reliability": lambda: plots.reliability(
        random(5000) ** 4, random(5000, seed=1) < 0.2, calibration_error=binomial(3, 40)
    ),
    "reliability of one pair": lambda: plots.reliability(torch.ones(1), torch.tensor([True])),
    "reliability of a million": lambda: plots.reliability(
        (random(1_000_000) > 0.5).float(), random(1_000_000, seed=1) < 0.5, bins=50
    ),
    "one large pair": lambda: plots.pairs(
        random(1, 3, 40, 90), random(1, 3, 40, 90), torch.tensor([1e-30]), torch.tensor([False]),
        1e20, probabilities=torch.ones(1), names=[(f"/a/{LONG}.png", f"/b/{LONG}.png")],
    ),
    "many pairs": lambda: plots.pairs(
        random(9, 8, 9), random(9, 8, 9), 1e9 * random(9), random(9) > 0.5, 4e8,
        probabilities=random(9), names=[(LONG, "b")] * 9, title=LONG * 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_texts_neither_overlap_nor_leave_the_figure(name):
    check_layout(PICTURES[name]())
