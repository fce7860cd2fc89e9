"""What the pictures hold: marks, lines, numbers, and texts that stay clear of each other."""

import importlib.util
import re
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Text

from likewise import plots
from likewise.index import Neighbors
from likewise.intervals import binomial
from likewise.metrics import Sweep, sweep
from likewise.plots.embedding_maps import embedding_maps
from likewise.plots.style import RIGHT, WRONG, fit, fit_middle, measure, number

NAMES = ["ant", "bee", "cat"]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def texts(figure: Figure) -> list[str]:
    """Every word that can be read in the figure, in drawing order."""
    return [text.get_text() for text in visible_texts(figure)]


def visible_texts(figure: Figure) -> list[Text]:
    """The texts that drawing draws; ticks beyond the limits exist as well, but are not drawn."""
    drawn = []
    draw = Text.draw

    def recorded(text, renderer):
        drawn.append(text)
        draw(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        figure.draw_without_rendering()  # settles the layout
        patch.setattr(Text, "draw", recorded)
        figure.draw_without_rendering()
    return [text for text in drawn if text.get_visible() and text.get_text().strip()]


def check_layout(figure: Figure) -> None:
    """No text over another text, none cut by the border."""
    shown = visible_texts(figure)
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    width, height = figure.bbox.width, figure.bbox.height
    for position, (words, box) in enumerate(boxes):
        # Line boxes hold room for accents; two pixels of it at 200 dpi hide nothing.
        inner = box.padded(-2)
        whole = inner.x0 >= 0 and inner.y0 >= 0 and inner.x1 <= width and inner.y1 <= height
        assert whole, f"{words!r} leaves the figure"
        for others, other in boxes[position + 1 :]:
            assert not inner.overlaps(other.padded(-2)), f"{words!r} over {others!r}"


def found(labels: list[list[int]], distances: list[list[float]]) -> Neighbors:
    return Neighbors(
        ids=np.arange(np.size(labels)).reshape(np.shape(labels)),
        distances=torch.tensor(distances),
        labels=torch.tensor(labels),
    )


def frames(figure: Figure) -> list[tuple[str, str]]:
    """Color and line style of the frame of each item."""
    return [
        (
            to_hex(axes.spines["left"].get_edgecolor()),
            "dashed" if axes.spines["left"].get_linestyle() not in ("-", "solid") else "whole",
        )
        for axes in figure.axes
    ]


def some_sweep(seed: int = 0) -> Sweep:
    distances = random(300, seed=seed)
    return sweep(distances, random(300, seed=seed + 1) > distances)


def vertical_lines(figure: Figure) -> list[float]:
    (axes,) = figure.axes
    return [
        float(line.get_xdata()[0])
        for line in axes.lines
        if len(line.get_xdata()) == 2 and line.get_xdata()[0] == line.get_xdata()[1]
    ]


def matching(counts: torch.Tensor, names: list[str]) -> SimpleNamespace:
    return SimpleNamespace(confusion=counts, class_names=names, accuracy=binomial(3, 4))


# neighbors


def test_right_and_wrong_neighbors_differ_in_color_and_in_mark():
    figure = plots.neighbors(
        random(1, 1, 4, 4),
        random(1, 3, 1, 4, 4),
        found([[2, 0, 2]], [[0.11, 0.22, 0.33]]),
        NAMES,
        query_labels=torch.tensor([2]),
        threshold=0.25,
    )
    query, *others = frames(figure)
    assert query[0] not in (RIGHT, WRONG)
    assert others == [(RIGHT, "whole"), (WRONG, "whole"), (RIGHT, "dashed")]
    assert [word for word in texts(figure) if word[0] in "✓✗" and len(word) < 9] == [
        "✓ cat",
        "✗ ant",
        "✓ cat",
    ]
    assert {"0.110", "0.220", "0.330"} <= set(texts(figure))
    alphas = [axes.images[0].get_alpha() for axes in figure.axes]
    assert alphas[:3] == [1.0, 1.0, 1.0]
    assert alphas[3] < 0.5


def test_a_neighbor_exactly_at_the_threshold_is_accepted():
    # 0.2 in float32, as an index gives it, is a little more than 0.2.
    figure = plots.neighbors(
        random(1, 4), random(1, 2, 4), found([[0, 0]], [[0.2, 0.21]]), NAMES, threshold=0.2
    )
    assert [style for _, style in frames(figure)] == ["whole", "whole", "dashed"]


def test_without_a_known_label_nothing_is_right_or_wrong():
    for labels in (None, torch.tensor([-1])):
        figure = plots.neighbors(
            random(1, 4),
            random(1, 2, 4),
            found([[0, -1]], [[0.1, 0.2]]),
            NAMES,
            query_labels=labels,
        )
        assert not {color for color, _ in frames(figure)} & {RIGHT, WRONG}
        assert {"ant", "no label"} <= set(texts(figure))


def test_missing_neighbors_are_left_blank():
    figure = plots.neighbors(
        random(2, 4), random(2, 2, 4), found([[0, 1], [2, -1]], [[0.1, 0.2], [0.3, np.inf]]), NAMES
    )
    assert len(figure.axes) == 2 + 3


def test_vectors_are_lines_on_a_common_scale_and_images_are_images():
    vectors = plots.neighbors(random(1, 9), 5 * random(1, 1, 9), found([[0]], [[0.1]]), NAMES)
    assert [len(axes.lines) for axes in vectors.axes] == [1, 1]
    assert vectors.axes[0].get_ylim() == vectors.axes[1].get_ylim()
    images = plots.neighbors(
        random(1, 3, 5, 5), random(1, 1, 3, 5, 5), found([[0]], [[0.1]]), NAMES
    )
    assert [axes.images[0].get_array().shape for axes in images.axes] == [(5, 5, 3)] * 2


def test_values_beyond_the_range_are_clipped_not_rescaled():
    item = torch.tensor([[[-3.0, 0.25], [0.5, 7.0]]])
    figure = plots.augmented_views(item[None], item[None, None])
    assert figure.axes[0].images[0].get_array().tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert figure.axes[0].images[0].get_clim() == (0, 1)


def test_bytes_are_read_as_0_to_255():
    item = torch.tensor([[[0, 255], [51, 102]]], dtype=torch.uint8)
    figure = plots.augmented_views(item[None], item[None, None])
    np.testing.assert_allclose(
        figure.axes[0].images[0].get_array(), [[0, 1], [0.2, 0.4]], rtol=1e-6
    )


def test_only_the_first_queries_are_drawn_and_the_title_says_so():
    many = found([[0]] * 30, [[0.1]] * 30)
    figure = plots.neighbors(random(30, 4), random(30, 1, 4), many, NAMES, most=5)
    assert len(figure.axes) == 10
    assert figure.get_suptitle().replace("\n", " ") == "5 of 30 queries and their nearest neighbor"


def test_items_that_do_not_fit_the_neighbors_are_refused():
    with pytest.raises(ValueError, match=r"must hold 1 queries and 2 neighbors each, .* got 1 and"):
        plots.neighbors(random(1, 4), random(1, 3, 4), found([[0, 1]], [[0.1, 0.2]]), NAMES)


def test_channels_last_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"got shape \(2, 28, 28, 3\). Move channels first"):
        plots.augmented_views(random(2, 28, 28, 3), random(2, 1, 28, 28, 3))


def test_too_few_class_names_are_named():
    with pytest.raises(ValueError, match="class_names must name every label, got 3 names and la"):
        plots.neighbors(random(1, 4), random(1, 1, 4), found([[3]], [[0.1]]), NAMES)


# pairs and views


def test_pairs_tell_verdict_and_truth():
    figure = plots.pairs(
        random(4, 1, 4, 4),
        random(4, 1, 4, 4, seed=1),
        torch.tensor([0.1, 0.2, 0.3, 0.4]),
        torch.tensor([True, False, True, False]),
        0.2,
    )
    colors = [color for color, _ in frames(figure)]
    assert colors == [RIGHT] * 2 + [WRONG] * 4 + [RIGHT] * 2
    words = texts(figure)
    assert [word for word in words if word.startswith("verdict")] == [
        "verdict same, truth same",
        "verdict same, truth different",
        "verdict different, truth same",
        "verdict different, truth different",
    ]
    assert [word[0] for word in words if "distance 0." in word] == ["✓", "✗", "✗", "✓"]


def test_pairs_without_truth_or_threshold_judge_nothing():
    for same, threshold in ((None, 0.2), (torch.tensor([True]), None), (None, None)):
        figure = plots.pairs(random(1, 4), random(1, 4), torch.tensor([0.1]), same, threshold)
        assert not {color for color, _ in frames(figure)} & {RIGHT, WRONG}


def test_views_stand_in_the_row_of_their_original():
    views = random(2, 3, 1, 4, 4)
    figure = plots.augmented_views(views[:, 0], views)
    assert len(figure.axes) == 2 * 4
    for row in range(2):
        for column in range(3):
            axes = figure.axes[row * 4 + 1 + column]
            np.testing.assert_allclose(axes.images[0].get_array(), views[row, column, 0])
            assert axes.get_position().y0 == figure.axes[row * 4].get_position().y0


# curves


@pytest.mark.parametrize("threshold", [None, 0.3, -5.0, 7.0])
@pytest.mark.parametrize("seed", range(3))
def test_histogram_bars_add_to_a_hundred_for_each_kind(seed, threshold):
    distances = random(200, seed=seed) ** 3
    same = random(200, seed=seed + 9) < 0.3
    figure = plots.distance_histogram(distances, same, threshold)
    (axes,) = figure.axes
    kinds = {p.get_label().split(" ")[0]: p for p in axes.patches if isinstance(p, StepPatch)}
    for kind in ("same", "different"):
        assert kinds[kind].get_data().values.sum() == pytest.approx(100)


def test_the_bars_left_of_the_threshold_are_what_is_accepted():
    distances = (random(500) * 100).round() / 100
    same = random(500, seed=1) > distances
    # One that occurs, as calibrated ones do, and is a little more than 0.4 in float32.
    threshold = 0.4
    assert 0.4 < distances[distances <= 0.4].max().double() < 0.41
    figure = plots.distance_histogram(distances, same, threshold)
    (axes,) = figure.axes
    assert vertical_lines(figure) == pytest.approx([threshold])
    for kind, members in (("same", same), ("different", ~same)):
        (bars,) = [p for p in axes.patches if p.get_label().startswith(f"{kind} (")]
        values, edges, _ = bars.get_data()
        accepted = 100 * float((distances[members] <= threshold).double().mean())
        assert 5 < accepted < 95, "this threshold would prove nothing"
        drawn = values[edges[1:] <= threshold + 1e-6].sum()
        assert drawn == pytest.approx(accepted)
        (left, right) = [t for t in texts(figure) if "accepted" in t or "rejected" in t]
        assert f"{accepted:.1f}% of {kind}" in left
        assert f"{100 - accepted:.1f}% of {kind}" in right


def test_equal_distances_and_a_single_kind_are_drawn():
    figure = plots.distance_histogram(torch.full((5,), 0.5), torch.ones(5, dtype=torch.bool), 0.5)
    check_layout(figure)
    assert "same (5 pairs)" in texts(figure)
    assert not [words for words in texts(figure) if words.startswith("different (")]


def test_a_histogram_of_nothing_or_of_nan_is_refused():
    with pytest.raises(ValueError, match="distances must hold at least one pair, got none"):
        plots.distance_histogram(torch.empty(0), torch.empty(0, dtype=torch.bool))
    with pytest.raises(ValueError, match="distances must be finite, got 1 NaN"):
        plots.distance_histogram(torch.tensor([0.1, torch.nan]), torch.tensor([True, False]))


def test_threshold_curves_hold_the_sweep_and_its_values_at_the_threshold():
    counts = some_sweep()
    at = 120
    threshold = float(counts.thresholds[at])
    figure = plots.threshold_curves(counts, threshold)
    assert vertical_lines(figure) == [threshold]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for name in ("precision", "recall", "f1"):
        line = lines["F1" if name == "f1" else name]
        np.testing.assert_array_equal(line.get_xdata(), counts.thresholds)
        np.testing.assert_array_equal(line.get_ydata(), getattr(counts, name))
    note = texts(figure)[1] if "At the line" in texts(figure)[1] else " ".join(texts(figure))
    for value in (counts.precision[at], counts.recall[at], counts.f1[at]):
        assert f"{value:.3f}" in note


def test_a_threshold_below_all_distances_accepts_nothing():
    words = " ".join(texts(plots.threshold_curves(some_sweep(), -1.0)))
    assert "nothing is accepted" in words


def test_long_sweeps_are_thinned_but_keep_both_ends():
    distances = random(20_000).double()
    counts = sweep(distances, random(20_000, seed=1) > distances)
    line = plots.threshold_curves(counts).axes[0].lines[0]
    assert len(line.get_xdata()) <= 2000
    assert line.get_xdata()[[0, -1]].tolist() == [distances.min(), distances.max()]
    for log_x in (False, True):
        curve = plots.roc(counts, log_x=log_x).axes[0].lines[-1]
        assert 100 < len(curve.get_xdata()) <= 2002
        assert (curve.get_xdata()[-1], curve.get_ydata()[-1]) == (1, 1)


def test_precision_against_recall_holds_the_sweep():
    one, two = some_sweep(), some_sweep(5)
    lines = plots.precision_recall({"one": one, "two": two}).axes[0].lines
    for line, counts in zip(lines, (one, two), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), counts.recall)
        np.testing.assert_array_equal(line.get_ydata(), counts.precision)
    assert lines[0].get_color() != lines[1].get_color()
    assert plots.precision_recall(one).axes[0].get_legend() is None


def test_roc_starts_at_the_corner_and_ends_at_the_other():
    figure = plots.roc({"one": some_sweep(), "two": some_sweep(5)})
    _, one, two = figure.axes[0].lines
    for line in (one, two):
        assert (line.get_xdata()[0], line.get_ydata()[0]) == (0, 0)
        assert (line.get_xdata()[-1], line.get_ydata()[-1]) == (1, 1)
    assert one.get_color() != two.get_color()
    assert one.get_linestyle() != two.get_linestyle()
    assert {"one", "two", "by chance"} <= set(texts(figure))


def test_a_logarithmic_roc_shows_what_costs_no_false_accept_at_its_left_end():
    distances = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    counts = sweep(distances, torch.tensor([True, True, False, True, False]))
    figure = plots.roc(counts, log_x=True)
    line = figure.axes[0].lines[-1]
    assert figure.axes[0].get_xscale() == "log"
    assert line.get_xdata()[0] == 0.5
    assert line.get_ydata()[0] == pytest.approx(2 / 3)


def test_training_curves_leave_gaps_out_and_show_the_last_value():
    records = [
        {"epoch": 1, "loss": 2.0, "recall": 0.5, "note": "text"},
        {"epoch": 2, "loss": float("nan"), "note": "text"},
        {"epoch": 3, "loss": 0.25, "note": "text"},
    ]
    figure = plots.training_curves(records)
    loss, recall = figure.axes
    assert loss.get_title(loc="left") == "loss"
    assert loss.lines[0].get_xdata().tolist() == [1, 3]
    assert loss.lines[0].get_ydata().tolist() == [2.0, 0.25]
    assert recall.lines[0].get_xdata().tolist() == [1]
    assert {"0.250", "0.500"} <= set(texts(figure))
    assert loss.get_xlim() == recall.get_xlim()


@pytest.mark.parametrize(("facts", "size", "columns"), [(6, (5, 6.5), 2), (13, (10, 8.5), 4)])
def test_many_training_curves_fit_a_screen(facts, size, columns):
    figure = plots.training_curves([{f"number {i}": 1.0 for i in range(facts)}])
    assert len(figure.axes) == facts
    assert len({round(axes.get_position().x0, 1) for axes in figure.axes}) == columns
    assert (figure.get_size_inches() <= size).all()
    runs = plots.training_curves({"one": [{f"number {i}": 1.0 for i in range(facts)}]})
    assert runs.get_size_inches()[0] == size[0]


def test_training_curves_of_nothing_are_refused():
    with pytest.raises(ValueError, match="records must hold at least one epoch, got none"):
        plots.training_curves([])
    with pytest.raises(ValueError, match=r"must hold numbers beside the epoch, got \['epoch'\]"):
        plots.training_curves([{"epoch": 1}])


def test_runs_share_their_panels_and_differ_in_color_and_line():
    runs = {
        "one": [{"loss": 2.0, "recall": 0.5}, {"loss": 1.0, "recall": 0.75}],
        "two": [{"epoch": 3, "loss": 4.0}],
    }
    figure = plots.training_curves(runs)
    loss, recall = figure.axes
    one, two = loss.lines
    assert one.get_xydata().tolist() == [[1, 2.0], [2, 1.0]]
    assert two.get_xydata().tolist() == [[3, 4.0]]
    assert recall.lines[0].get_xydata().tolist() == [[1, 0.5], [2, 0.75]]
    assert len(recall.lines[1].get_xydata()) == 0
    assert one.get_color() == recall.lines[0].get_color() != two.get_color()
    assert one.get_linestyle() != two.get_linestyle()
    assert loss.get_xlim() == recall.get_xlim()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    assert figure.get_suptitle() == "Training, 2 runs of up to 2 epochs"


def test_a_run_without_records_is_named():
    with pytest.raises(ValueError, match="records must hold at least one run, got none"):
        plots.training_curves({})
    with pytest.raises(ValueError, match="records of 'two' must hold at least one epoch, got none"):
        plots.training_curves({"one": [{"loss": 1.0}], "two": []})


def test_bars_are_sorted_and_a_cut_list_says_what_it_leaves_out():
    counts = {f"c{i}": (i * 7) % 101 for i in range(100)}  # all different
    figure = plots.items_per_class(counts, most=9)
    (bars,) = [c for c in figure.axes[0].containers if isinstance(c, BarContainer)]
    widths = [bar.get_width() for bar in bars]
    ranked = sorted(counts.values(), reverse=True)
    assert widths == ranked[:6] + ranked[-3:]
    assert f"… 91 more, {ranked[-4]} to {ranked[6]} items each" in texts(figure)
    first, *_ = figure.axes[0].get_yticklabels()
    assert first.get_text() == max(counts, key=counts.__getitem__)


# maps


def test_confusion_cells_hold_the_percent_of_their_row():
    counts = torch.tensor([[3, 0, 0, 1], [0, 0, 0, 0], [1, 0, 1, 198]])
    figure = plots.confusion(matching(counts, NAMES))
    words = texts(figure)
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert cells == ["75", "25", "0", "0", "99"]
    assert {"ant", "bee", "cat", "unknown"} <= set(words)
    assert any("Accuracy 0.750 [" in word for word in words)
    known, unknown = (mesh.get_array() for mesh in figure.axes[0].collections)
    np.testing.assert_allclose(known[0], [75, 0, 0])
    np.testing.assert_allclose(unknown.ravel(), [25, 0, 99])


def test_numbers_stand_in_the_cells_up_to_twenty_classes():
    for c, numbered in ((20, True), (21, False)):
        counts = torch.eye(c, c + 1, dtype=torch.int64)
        figure = plots.confusion(matching(counts, [str(i) for i in range(c)]))
        assert len(figure.axes[0].texts) == (c if numbered else 0)


def test_a_confusion_of_the_wrong_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"must have shape \(c, c \+ 1\) for c = 3 .* got \(3, 3\)"
    ):
        plots.confusion(matching(torch.eye(3), NAMES))


def test_two_dimensions_are_shown_as_they_are():
    embeddings = random(60, 2)
    points, axis = plots.embedding_points(embeddings, "t-sne")
    assert torch.equal(points, embeddings)
    assert axis == "embedding dimension"


@pytest.mark.parametrize("seed", range(5))
def test_principal_components_agree_with_scikit_learn(seed):
    from sklearn.decomposition import PCA

    embeddings = random(40, 6, seed=seed) * torch.arange(1, 7)
    points, axis = plots.embedding_points(embeddings, "pca")
    expected = torch.from_numpy(PCA(2).fit_transform(embeddings.numpy())).float()
    signs = (points * expected).sum(dim=0).sign()
    assert expected.abs().max() > 1
    torch.testing.assert_close(points * signs, expected, rtol=1e-4, atol=1e-4)
    assert axis == "principal component"


@pytest.mark.parametrize("shape", [(2, 5), (3, 1), (70, 1)])
def test_few_items_or_one_dimension_still_give_points(shape):
    points, _ = plots.embedding_points(random(*shape))
    assert points.shape == (shape[0], 2)
    assert torch.isfinite(points).all()


def test_tsne_is_chosen_for_some_items_and_repeats_with_its_seed():
    embeddings = random(60, 5)
    first, axis = plots.embedding_points(embeddings)
    again, _ = plots.embedding_points(embeddings)
    assert axis == "t-SNE dimension"
    assert torch.equal(first, again)
    assert plots.embedding_points(embeddings[:49])[1] == "principal component"


@pytest.mark.parametrize("n", [30, 80])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_rows_that_are_all_equal_lie_at_one_point(n, value):
    points, axis = plots.embedding_points(torch.full((n, 16), value), "t-sne")
    assert torch.equal(points, torch.zeros(n, 2))
    assert axis == "principal component"


@pytest.mark.parametrize("apart", [1e-16, 1e-25])
def test_rows_that_are_nearly_equal_do_not_crash(apart):
    embeddings = torch.zeros(80, 16)
    embeddings[3, 2] = apart
    points, axis = plots.embedding_points(embeddings, "t-sne")
    assert axis == "principal component"
    assert float(points[3].norm()) == pytest.approx(apart, rel=0.02)


@pytest.mark.parametrize(("seed", "rule"), [(-1, "at least 0"), (2**32, "at most 4294967295")])
def test_a_seed_that_scikit_learn_does_not_take_is_refused(seed, rule):
    with pytest.raises(ValueError, match=f"seed must be {rule}, got {seed}. Use e.g. seed=0."):
        plots.embedding_points(random(9, 3), seed=seed)


def test_a_method_is_refused_if_unknown_or_without_its_package(monkeypatch):
    with pytest.raises(ValueError, match="method must be one of auto, pca, t-sne, umap, got 'ica'"):
        plots.embedding_points(random(9, 3), "ica")
    with pytest.raises(ValueError, match="embeddings must hold at least 4 rows, got 3"):
        plots.embedding_points(random(3, 3), "umap")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"umap-learn must be installed .*likewise\[umap\]"):
        plots.embedding_points(random(9, 3), "umap")


def test_umap_keeps_neighbors_together_and_repeats_with_its_seed():
    if importlib.util.find_spec("umap") is None:
        pytest.skip("umap-learn is not installed: pip install 'likewise[umap]'")
    embeddings = 0.1 * random(40, 5)
    embeddings[20:] += 3
    points, axis = plots.embedding_points(embeddings, "umap", seed=3)
    assert axis == "UMAP dimension"
    near = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(dim=1)
    assert ((near < 20) == (torch.arange(40) < 20)).all()
    assert torch.equal(plots.embedding_points(embeddings, "umap", seed=3)[0], points)
    for values in (random(4, 3), random(9, 1), torch.zeros(20, 4)):
        points, _ = plots.embedding_points(values, "umap")
        assert points.shape == (len(values), 2)
        assert torch.isfinite(points).all()


def test_maps_side_by_side_share_their_axes_and_the_look_of_a_class():
    near, far = random(30, 2), random(20, 2, seed=1) + 4
    parts = {"train": (near, torch.arange(30) % 2), "test": (far, torch.arange(20) % 2 + 1)}
    figure = embedding_maps(parts, NAMES, unseen={2})
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()
    both = torch.cat([near, far])
    for axis, (low, high) in enumerate((left.get_xlim(), left.get_ylim())):
        assert low < both[:, axis].min() < both[:, axis].max() < high
    bees = [next(line for line in axes.lines if line.get_label() == "bee") for axes in figure.axes]
    assert [len(line.get_xdata()) for line in bees] == [15, 10]
    assert len({(line.get_color(), line.get_marker()) for line in bees}) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == NAMES
    assert {"train (30 items)", "test (20 items)"} <= set(texts(figure))


def test_rows_of_maps_may_have_axes_of_their_own():
    labels = torch.arange(9) % 3
    parts = {f"{k}": (random(9, 2, seed=k) * 10 ** (k // 2), labels) for k in range(4)}
    limits = [axes.get_xlim() for axes in embedding_maps(parts, NAMES, shared="row").axes]
    assert limits[0] == limits[1] != limits[2] == limits[3]
    assert len({axes.get_xlim() for axes in embedding_maps(parts, NAMES).axes}) == 1
    with pytest.raises(ValueError, match="parts must hold at least one map, got none"):
        embedding_maps({}, NAMES)


def test_titles_of_maps_side_by_side_stay_over_their_own_map():
    name = "online contrastive, for long"
    part = random(9, 2), torch.arange(9) % 3
    figure = embedding_maps({f"{name}, {k}": part for k in ("train", "test")}, NAMES)
    left = figure.axes[0].get_title(loc="left")
    assert left.replace("\n", " ") == f"{name}, train (9 items)"  # on two lines, and whole
    renderer = figure.canvas.get_renderer()
    boxes = [axes._left_title.get_window_extent(renderer) for axes in figure.axes]
    assert boxes[0].x1 < boxes[1].x0
    assert boxes[1].x1 <= figure.bbox.x1


def test_the_map_draws_each_class_where_its_points_are():
    points, labels = random(30, 2), torch.arange(30) % 3
    figure = plots.embedding_map(points, labels, NAMES, unseen={1})
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for code, name in enumerate(NAMES):
        drawn = torch.tensor(np.array(lines[name].get_data())).T
        torch.testing.assert_close(drawn, points[labels == code])
    hollow = [name for name in NAMES if lines[name].get_markerfacecolor() == "none"]
    assert hollow == ["bee"]
    assert len({lines[name].get_marker() for name in NAMES}) == 3
    assert set(NAMES) <= set(texts(figure))


def test_the_map_thins_many_points_and_says_so():
    figure = plots.embedding_map(random(500, 2), torch.arange(500) % 3, NAMES, most=100)
    assert sum(len(line.get_xdata()) for line in figure.axes[0].lines) == 100
    assert any("100 of 500 items" in word for word in texts(figure))


def test_points_that_are_not_on_a_plane_are_refused():
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\) .* got \(5, 3\)"):
        plots.embedding_map(random(5, 3), torch.zeros(5, dtype=torch.int64), NAMES)


# all of them

AWKWARD = ["a name that is far too long for any axis", "$x_1$ & <b>", "two\nlines", "ÄÖÜ ß", ""]


def pictures() -> dict[str, Figure]:
    names = [f"{AWKWARD[i % 5]}{i}" for i in range(60)]
    labels = torch.arange(300) % 60
    points = random(300, 2)
    few = plots.neighbors(
        random(3, 1, 8, 8),
        random(3, 4, 1, 8, 8),
        found([[0, 1, 2, 3]] * 3, [[12.3, 1234.5, 1e-7, 2.5e8]] * 3),
        names,
        query_labels=torch.tensor([0, 1, 2]),
        threshold=50.0,
        query_names=["/a/very/long/path/to/IMG_0001_of_many.jpeg"] * 3,
    )
    counts = (100 * random(60, 61)).long()
    cut = [torch.cat([counts[:c, :c], counts[:c, -1:]], dim=1) for c in (1, 2, 12, 20, 60)]
    records = [
        {"epoch": e, "loss": 1e6 / e, "validation_precision_at_1_of_seen": 1e-9 * e, "x": 0.0}
        for e in range(1, 200)
    ]
    return {
        "neighbors": few,
        "one neighbor": plots.neighbors(
            random(1, 9), random(1, 1, 9), found([[0]], [[0.1]]), names, threshold=0.2
        ),
        "pairs": plots.pairs(
            random(3, 9, 4), random(3, 9, 4), random(3), random(3) > 0.5, 0.4,
            names=[("/some/where/a_long_name_1.png", "other")] * 3,
        ),
        "views": plots.augmented_views(random(2, 3, 5, 9), random(2, 4, 3, 5, 9), names=names[:2]),
        "histogram": plots.distance_histogram(1e4 * random(99), random(99) > 0.5, 2e3),
        "curves": plots.threshold_curves(some_sweep(), 0.4),
        "roc": plots.roc(some_sweep()),
        "precision": plots.precision_recall(some_sweep()),
        "log roc": plots.roc({name: some_sweep(i) for i, name in enumerate(names[:5])}, log_x=True),
        "training": plots.training_curves(records),
        "training once": plots.training_curves(records[:1]),
        "items": plots.items_per_class({name: 10**6 // (i + 1) for i, name in enumerate(names)}),
        "map": plots.embedding_map(points, labels % 5, names, unseen={1}),
        "maps": embedding_maps(
            dict.fromkeys(names[:3], (points, labels % 5)), names, axis_title="t-SNE dimension"
        ),
        "maps of many": embedding_maps({"a": (points, labels), "b": (points, labels)}, names),
        "runs": plots.training_curves(dict.fromkeys(names[:7], records[:9])),
        "map of many": plots.embedding_map(points, labels, names, axis_title="t-SNE dimension"),
        **{f"confusion {len(c)}": plots.confusion(matching(c, names[: len(c)])) for c in cut},
    }  # fmt: skip


@pytest.fixture(scope="module")
def gallery() -> dict[str, Figure]:
    return pictures()


@pytest.mark.parametrize(
    "name",
    [
        *("neighbors", "one neighbor", "pairs", "views", "histogram", "curves", "roc", "log roc"),
        *("training", "training once", "items", "map", "map of many"),
        *("maps", "maps of many", "runs"),
        *(f"confusion {c}" for c in (1, 2, 12, 20, 60)),
    ],
)
def test_texts_neither_overlap_nor_leave_the_figure(gallery, name):
    figure = gallery[name]
    assert isinstance(figure, Figure)
    assert figure.get_suptitle()
    check_layout(figure)


def test_the_layout_check_itself_can_fail():
    figure = plots.items_per_class({"a": 1, "b": 2})
    figure.text(0.4, 0.5, "one word")
    figure.text(0.42, 0.5, "another")
    with pytest.raises(AssertionError, match="'one word' over 'another'"):
        check_layout(figure)


def test_every_axis_with_ticks_is_labeled(gallery):
    checked = 0
    for name, figure in gallery.items():
        for axes in figure.axes:
            if len(axes.get_xticks()) and not name.startswith(
                ("confusion", "training", "items", "runs", "maps")
            ):
                assert axes.get_xlabel(), name
                assert axes.get_ylabel(), name
                checked += 1
    assert checked >= 6


def test_the_callers_settings_neither_matter_nor_change():
    plain = plots.items_per_class({"a": 1, "b": 2})
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        odd = plots.items_per_class({"a": 1, "b": 2})
        assert dict(matplotlib.rcParams) == before
        assert odd.axes[0].get_facecolor() == plain.axes[0].get_facecolor()
        assert odd.axes[0].xaxis.label.get_size() == plain.axes[0].xaxis.label.get_size()


# text that fits


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("text", [*AWKWARD, "W" * 500, "one two three four five six " * 9])
def test_fitted_text_keeps_to_its_width_and_lines(text, lines):
    fitted = fit(text, 0.9, 10.0, lines=lines)
    assert fitted.count("\n") < lines
    assert all(measure(line, 10.0) <= 0.9 for line in fitted.split("\n"))
    assert fitted.endswith("…") or fitted.split() == text.split() or lines > 1


def test_text_that_fits_is_left_alone():
    assert fit("short", 2.0, 10.0) == "short"
    assert fit_middle("short.png", 2.0, 10.0) == "short.png"


def test_a_long_name_keeps_both_ends():
    cut = fit_middle("IMG_20260101_120000_0042", 1.0, 10.0)
    assert re.fullmatch(r"IMG.*…\d*0042", cut) or (cut[0] == "I" and cut.endswith("42"))
    assert measure(cut, 10.0) <= 1.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (0.3, "0.300"), (12.345, "12.3"), (99.96, "100"), (1234.5, "1,234"),
     (-0.25, "-0.250"), (1e-7, "1.00e-07"), (2.5e8, "2.50e+08")],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


# files


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")]
)
def test_figures_are_saved_as_their_suffix_says_and_repeat_exactly(tmp_path, suffix, start):
    contents = []
    for name in ("a", "b"):
        path = plots.save(plots.items_per_class({"$a$": 1, "b": 2}), tmp_path / f"{name}{suffix}")
        contents.append(path.read_bytes())
    assert contents[0].startswith(start)
    assert contents[0] == contents[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_other_suffixes_and_missing_folders_are_refused(tmp_path):
    figure = plots.items_per_class({"a": 1})
    with pytest.raises(ValueError, match=r"suffix of path must be one of .*, got '.txt'"):
        plots.save(figure, tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match=r"folder of path must exist, got '.*nowhere'"):
        plots.save(figure, tmp_path / "nowhere" / "a.png")


def test_a_full_disk_leaves_the_old_picture_and_says_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"path must be a file that can be written, .*No space left"):
        plots.save(plots.items_per_class({"a": 1}), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
