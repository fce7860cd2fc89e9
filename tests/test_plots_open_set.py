import numpy as np
import pytest
import torch

from likewise.evaluation.open_set import evaluate_open_set
from likewise.metrics import sweep
from likewise.plots.identification import fnir_curve
from test_plots import check_layout, texts


def some_sweep(seed=0, count=400):
    rng = np.random.default_rng(seed)
    truth = torch.from_numpy(rng.integers(0, 8, count))
    known = truth < 5
    labels = torch.where(known & torch.from_numpy(rng.random(count) < 0.9), truth, (truth + 1) % 5)
    distances = torch.from_numpy(rng.normal(np.where(known, 0.3, 1.0), 0.2))
    return evaluate_open_set(distances, labels, truth, known, threshold=0.6).sweep


def curves(figure):
    return [line for line in figure.axes[0].lines if line.get_label() != "_mark"]


def marks(figure):
    return [line for line in figure.axes[0].lines if line.get_label() == "_mark"]


@pytest.mark.parametrize("seed", range(4))
def test_every_point_of_the_curve_is_a_threshold(seed):
    counts = some_sweep(seed)
    (line,) = curves(fnir_curve(counts))
    x, y = line.get_data()
    least = 0.5 / counts.to_be_found
    rates = {
        (float(a), max(1 - float(b), least))
        for a, b in zip(counts.false_accept_rate, counts.recall, strict=True)
    }
    assert len(x) > 10
    assert x[0] == pytest.approx(1 / counts.different_total)
    assert y[0] == pytest.approx(min(b for a, b in rates if a == 0))
    for point in zip(x[1:], y[1:], strict=True):
        assert any(point == pytest.approx(rate) for rate in rates)
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) <= 0).all()


def test_the_threshold_is_marked_and_its_rates_are_told():
    counts = some_sweep()
    figure = fnir_curve(counts, threshold=0.6)
    at = int((counts.thresholds <= 0.6).sum()) - 1
    (mark,) = marks(figure)
    x, y = float(counts.false_accept_rate[at]), 1 - float(counts.recall[at])
    assert 0 < x < 1
    assert (*mark.get_xdata(), *mark.get_ydata()) == (x, pytest.approx(y))
    (told,) = (t for t in texts(figure) if "threshold" in t)
    assert " ".join(told.split()).endswith(
        f"{100 * x:.3g}% of unknowns accepted, {100 * y:.3g}% of known queries missed."
    )
    check_layout(figure)


def test_several_curves_have_their_names_and_lie_within_the_axes():
    figure = fnir_curve({"pixels": some_sweep(1), "trained": some_sweep(2, 4000)}, threshold=-9.0)
    assert [line.get_label() for line in curves(figure)] == ["pixels", "trained"]
    (low_x, high_x), (low_y, high_y) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    for line in figure.axes[0].lines:
        x, y = line.get_data()
        assert low_x < min(x) <= max(x) < high_x
        assert low_y < min(y) <= max(y) < high_y
    check_layout(figure)


def test_perfect_and_hopeless_queries_are_drawn():
    distances = torch.tensor([0.1, 0.2, 0.8, 0.9])
    same = torch.tensor([True, True, False, False])
    for counts in (sweep(distances, same), sweep(-distances, same)):
        figure = fnir_curve(counts, threshold=0.5)
        assert np.isfinite(curves(figure)[0].get_ydata()).all()
        check_layout(figure)


def test_what_is_no_sweep_is_refused():
    with pytest.raises(ValueError, match="sweeps must hold at least one sweep, got none"):
        fnir_curve({})
    with pytest.raises(TypeError, match="sweeps must be a Sweep, or Sweeps by name, got int"):
        fnir_curve({"a": 3})
