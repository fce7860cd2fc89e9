"""Results in, matplotlib figures out; nothing is judged here.

Every function returns a `matplotlib.figure.Figure` that knows no window, no global state and
none of the caller's rcParams. `save` writes it; in a notebook it shows itself.
"""

from likewise.plots.comparison import differences, estimates
from likewise.plots.confusions import confusion
from likewise.plots.contact_sheet import augmented_views, contact_sheet, neighbors
from likewise.plots.curves import det, precision_recall, roc, threshold_curves
from likewise.plots.embedding_maps import embedding_map, embedding_maps
from likewise.plots.figure_files import save
from likewise.plots.histograms import distance_histogram
from likewise.plots.identification import fnir_curve
from likewise.plots.mistake_sheets import confused_classes, labeled_pairs
from likewise.plots.pair_sheet import pairs, worst_pairs
from likewise.plots.points import embedding_points
from likewise.plots.reliability_curves import reliability
from likewise.plots.showing import show
from likewise.plots.training_curves import items_per_class, training_curves

__all__ = [
    "augmented_views",
    "confused_classes",
    "confusion",
    "contact_sheet",
    "det",
    "differences",
    "distance_histogram",
    "embedding_map",
    "embedding_maps",
    "embedding_points",
    "estimates",
    "fnir_curve",
    "items_per_class",
    "labeled_pairs",
    "neighbors",
    "pairs",
    "precision_recall",
    "reliability",
    "roc",
    "save",
    "show",
    "threshold_curves",
    "training_curves",
    "worst_pairs",
]
