"""Is a guaranteed false accept rate kept? Simulated calibrations, whose true rates are known.

    python examples/guaranteed_rates.py

Independent pairs: a different pair's distance is uniform, so the true false accept rate of a
threshold is the threshold. 1,000 calibrations per rate. "At hand" is `at_most_false_accepts(rate)`,
"guaranteed" the same with a confidence of 0.95.

Pairs that share items: 320 items, each odd in its own way, which all of its pairs show; some 12,000
different pairs. 1,000 calibrations. "All pairs" is the same exact bound over all of them, as if
none shared an item.
"""

import math

import numpy as np
import torch
from scipy.special import ndtr

import likewise as lw
from likewise.calibration import Guarantee, disjoint_rows

TRIALS = 1000
SAME = 40  # same pairs, of which no bound speaks


def independent(rate: float, negatives: int) -> tuple[float, float]:
    """Shares of calibrations whose true rate is above `rate`: at hand, guaranteed."""
    broken = np.zeros(2)
    for trial in range(TRIALS):
        rng = np.random.default_rng(trial)
        distances = torch.from_numpy(
            np.concatenate([rng.random(negatives), 3 * rate * rng.random(SAME)])
        )
        distances[negatives] = -1.0  # so that every rate can be kept
        same = torch.arange(len(distances)) >= negatives
        items = torch.arange(len(distances))
        goals = lw.at_most_false_accepts(rate), lw.at_most_false_accepts(rate, confidence=0.95)
        chosen = [lw.calibrate(distances, same, goal=goal, items=items) for goal in goals]
        broken += [calibration.threshold > rate for calibration in chosen]
    return broken[0] / TRIALS, broken[1] / TRIALS


def sharing(rate: float, odd: float = 0.7, noise: float = 0.2) -> tuple[float, float]:
    """Shares of calibrations whose true rate is above `rate`: all pairs, guaranteed."""
    guarantee, broken = Guarantee(rate, 0.95), np.zeros(2)
    rng = np.random.default_rng(0)
    for _ in range(TRIALS):
        items = rng.integers(0, 320, (12_000, 2))
        items = items[items[:, 0] != items[:, 1]]
        effect = rng.normal(scale=odd, size=320)
        negatives = effect[items].sum(axis=1) + rng.normal(scale=noise, size=len(items))
        distances = torch.from_numpy(np.append(negatives, -9.0))
        counts = lw.metrics.sweep(distances, torch.arange(len(distances)) == len(items))
        for place, rows in enumerate((slice(-1), disjoint_rows(torch.from_numpy(items)))):
            threshold = float(counts.thresholds[guarantee.position(counts, distances[rows])])
            broken[place] += ndtr(threshold / math.sqrt(2 * odd**2 + noise**2)) > rate
    return broken[0] / TRIALS, broken[1] / TRIALS


def main() -> None:
    """Both tables."""
    print(f"share of {TRIALS:,} calibrations whose true false accept rate is above the target")
    header = "| target | different pairs | without confidence | guaranteed |"
    print(f"\nindependent pairs\n{header}\n|---|---|---|---|")
    for rate, negatives in ((0.01, 473), (0.01, 5000), (0.001, 2995), (0.001, 20_000)):
        plain, guaranteed = independent(rate, negatives)
        print(f"| {rate:g} | {negatives:,} | {plain:.3f} | {guaranteed:.3f} |")
    print("\npairs that share 320 items\n| target | all pairs | guaranteed |\n|---|---|---|")
    for rate in (0.02, 0.05):
        every, guaranteed = sharing(rate)
        print(f"| {rate:g} | {every:.3f} | {guaranteed:.3f} |")


if __name__ == "__main__":
    main()
