"""Thresholds and curves of 1,000,000 pairs: beside a grid, beside a loop, beside scikit-learn.

    python benchmarks/verification.py

The threshold: `calibrate` tries every distinct distance. The grid tries 400 thresholds from 0 to 4
in steps of 0.01 with NumPy, the loop does so by 400 passes over batches of 64 pairs, as the
pair-matching notebook does (which also encodes every pair anew in each pass; not so here).
All goals: one `calibrate_all` with eight of them; time and memory of 1,000,000
and of 4,000,000 pairs, in a process each.
The curves: every curve and number of `likewise.metrics` for pairs, and those of them that
scikit-learn has, whose values must agree to 1e-12. All in turn; medians.
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn import metrics as peer

import likewise as lw

PAIRS = 1_000_000
BATCH = 64
GRID = np.arange(0, 4, 0.01)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def drawn_pairs(pairs: int = PAIRS) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances of unit vectors, half same, half different."""
    rng = torch.Generator().manual_seed(0)
    same = torch.rand(pairs, generator=rng) < 0.5
    spread = torch.randn(pairs, generator=rng)
    return torch.where(same, 0.7 + 0.3 * spread, 1.5 + 0.4 * spread).clamp(0, 4), same


def grid(distances: np.ndarray[Any, Any], same: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The most accurate of 400 thresholds, and its accuracy."""
    accuracy = [((distances <= threshold) == same).mean() for threshold in GRID]
    best = int(np.argmax(accuracy))
    return GRID[best], accuracy[best]


def loop(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    """The same, one pass over all batches for each threshold."""
    best = (0.0, 0.0)
    for threshold in GRID:
        right = 0
        for distances, same in batches:
            right += int(((distances <= threshold) == same).sum())
        best = max(best, (right / PAIRS, float(threshold)))
    return best[1], best[0]


def ours(distances: torch.Tensor, same: torch.Tensor) -> dict[str, Any]:
    """Every curve and number that needs no item twice."""
    metrics = lw.metrics
    counts = metrics.sweep(distances, same)
    probability = torch.sigmoid(4.4 - 4 * distances.double())
    ratios = 4.4 - 4 * distances.double()
    return {
        "roc_curve": metrics.roc_curve(counts),
        "det_curve": metrics.det_curve(counts),
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "accuracy": counts.accuracy,
        "roc_auc": metrics.roc_auc(counts),
        "average_precision": metrics.average_precision(counts),
        "equal_error_rate": metrics.equal_error_rate(counts),
        "tar": [metrics.true_accept_rate_at(counts, far) for far in (1e-1, 1e-2, 1e-3, 1e-4)],
        "min_detection_cost": metrics.min_detection_cost(counts),
        "brier_score": metrics.brier_score(probability, same),
        "calibration_error": metrics.expected_calibration_error(probability, same),
        "cllr": metrics.cllr(ratios, same),
    }


def theirs(distances: np.ndarray[Any, Any], same: np.ndarray[Any, Any]) -> dict[str, Any]:
    """What scikit-learn has of the same."""
    score = -distances
    probability = 1 / (1 + np.exp(-(4.4 - 4 * distances)))
    return {
        "roc_curve": peer.roc_curve(same, score, drop_intermediate=False)[:2],
        "det_curve": peer.det_curve(same, score)[:2],
        "precision_recall": peer.precision_recall_curve(same, score)[:2],
        "roc_auc": peer.roc_auc_score(same, score),
        "average_precision": peer.average_precision_score(same, score),
        "brier_score": peer.brier_score_loss(same, probability),
    }


def check_equal(mine: dict[str, Any], peers: dict[str, Any]) -> float:
    """The largest difference between what both have."""
    false, true = (rate.numpy() for rate in mine["roc_curve"])
    apart = [
        np.abs(false - peers["roc_curve"][0]).max(),
        np.abs(true - peers["roc_curve"][1]).max(),
    ]
    precision, recall = (side[:-1][::-1] for side in peers["precision_recall"])
    apart.append(np.abs(mine["precision"].numpy() - precision).max())
    apart.append(np.abs(mine["recall"].numpy() - recall).max())
    for name in ("roc_auc", "average_precision", "brier_score"):
        apart.append(abs(mine[name] - peers[name]))
    return float(max(apart))


GOALS = {
    "best f1": lw.best_f1,
    "best accuracy": lw.best_accuracy,
    "equal error": lw.equal_error,
    "false accepts 1%": lw.at_most_false_accepts(0.01),
    "false accepts 0.1%": lw.at_most_false_accepts(0.001),
    "precision 99%": lw.at_least_precision(0.99),
    "recall 95%": lw.at_least_recall(0.95),
    "least cost": lw.least_cost(prior=0.01),
}


def all_goals(pairs: int) -> None:
    """Print median seconds of all goals, and peak MB above the pairs."""
    distances, same = drawn_pairs(pairs)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def run() -> Any:
        return lw.calibration.calibrate_all(distances, same, GOALS)

    times = [seconds(run)[0] for _ in range(5)]
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{pairs:9,d} pairs, {len(GOALS)} goals: {statistics.median(times):.2f} s, "
        f"{peak:.0f} MB above the pairs"
    )


def main() -> None:
    """Both tables."""
    distances, same = drawn_pairs()
    array, truth = distances.numpy(), same.numpy()
    batches = list(zip(distances.split(BATCH), same.split(BATCH), strict=True))

    def fitted() -> tuple[float, float]:
        chosen = lw.calibrate(distances, same, goal=lw.best_accuracy)
        return chosen.threshold, chosen.accuracy.value

    fits: dict[str, tuple[int, Callable[[], tuple[float, float]]]] = {
        "calibrate, every distance": (7, fitted),
        "NumPy, 400 thresholds": (3, lambda: grid(array, truth)),
        "loop over batches, 400 thresholds": (1, lambda: loop(batches)),
    }
    taken: dict[str, list[float]] = {name: [] for name in fits}
    answers = {}
    for round_ in range(7):
        for name, (rounds, run) in fits.items():
            if round_ < rounds:
                once, answers[name] = seconds(run)
                taken[name].append(once)
    first = statistics.median(taken["calibrate, every distance"])
    print(f"{PAIRS:,} pairs, {torch.get_num_threads()} threads")
    print(f"{'':36s}{'seconds':>9s}{'times ours':>12s}{'threshold':>11s}{'accuracy':>10s}")
    for name in fits:
        median = statistics.median(taken[name])
        threshold, accuracy = answers[name]
        print(f"{name:36s}{median:9.3f}{median / first:11.1f}x{threshold:11.4f}{accuracy:10.6f}")

    both: dict[str, list[float]] = {"ours": [], "scikit-learn": []}
    for _ in range(5):
        once, mine = seconds(lambda: ours(distances, same))
        both["ours"].append(once)
        once, peers = seconds(lambda: theirs(array.astype(np.float64), truth))
        both["scikit-learn"].append(once)
    middle = {name: statistics.median(times) for name, times in both.items()}
    print(f"\nall {len(mine)} curves and numbers, ours: {middle['ours']:.2f} s")
    print(f"the {len(peers)} that scikit-learn has: {middle['scikit-learn']:.2f} s")
    print(f"largest difference: {check_equal(mine, peers):.1e}\n")
    for pairs in (PAIRS, 4 * PAIRS):  # a process each, as a process keeps its peak
        subprocess.run([sys.executable, __file__, str(pairs)], check=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        all_goals(int(sys.argv[1]))
    else:
        main()
