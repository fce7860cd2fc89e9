"""Is a guarantee for new unknown classes kept, and how much of the allowed rate does it use?

    python benchmarks/guarantees.py

In a simulated world, a class lies near the gallery (8% of classes look like a known one) or far
from it, with all of its items. So items of one class tell little about another. Each world draws
the unknown classes it is calibrated on; the true rate at the threshold is known exactly. At most
5% of worlds may break a guarantee of 95%; chance in 1,000 worlds allows 6.5%.
"""

import argparse
import re

import numpy as np
import torch
from scipy.special import ndtr

from likewise.calibration import at_most_false_accepts, calibrate_matching
from likewise.calibration.guarantee import Guarantee, MeanGuarantee, Unknowns, keep, keep_mean
from likewise.errors import InputError
from likewise.metrics import sweep

RATE, CONFIDENCE = 0.05, 0.95
ALIKE = 0.08  # share of classes that look like a known one
NEAR, FAR, NOISE = (1.0, 0.5), (4.0, 0.8), 0.2
KNOWN = np.linspace(-3, 5, 1000)  # known queries, so close that any threshold can be had
KINDS = {
    "classes": Guarantee(RATE, CONFIDENCE),
    "items as if independent": Guarantee(RATE, CONFIDENCE),
    "on average": MeanGuarantee(RATE),
}


def world(rng: np.random.Generator, classes: int, items: int) -> np.ndarray:
    """Distances to the gallery of the items of unknown classes, (classes * items,)."""
    near = rng.random(classes) < ALIKE
    place = np.where(near, rng.normal(*NEAR, classes), rng.normal(*FAR, classes))
    return (place[:, None] + rng.normal(0, NOISE, (classes, items))).ravel()


def true_rate(threshold: float) -> float:
    """The share of new unknowns, of new classes, at or below the threshold."""
    (a, b), (c, d) = NEAR, FAR
    near, far = (ndtr((threshold - m) / np.hypot(s, NOISE)) for m, s in ((a, b), (c, d)))
    return float(ALIKE * near + (1 - ALIKE) * far)


def limits(drawn: np.ndarray, items: int) -> dict[str, float]:
    """The threshold by each kind of guarantee; none where it is refused."""
    distances = torch.from_numpy(np.concatenate([drawn, KNOWN]))
    rows = torch.arange(len(distances))
    known = rows >= len(drawn)
    classes = torch.where(known, -1, rows // items)
    counts, unknown = sweep(distances, known, known=known), ~known
    found = {}
    for name, goal in KINDS.items():
        try:
            if isinstance(goal, MeanGuarantee):
                at, _ = keep_mean(goal, counts, distances[unknown], classes[unknown])
            else:
                by = "classes" if name == "classes" else "items"
                counted = Unknowns.of(unknown, rows[:, None], classes, by=by)
                at, _ = keep(goal, counts, distances, known, rows[:, None], counted)
        except InputError:
            continue
        found[name] = float(counts.thresholds[at])
    return found


def missing(classes: int) -> str:
    """What is said where there are too few classes."""
    distances = torch.from_numpy(np.concatenate([world(np.random.default_rng(0), classes, 5)]))
    distances = torch.cat([distances, torch.from_numpy(KNOWN)])
    known = torch.arange(len(distances)) >= 5 * classes
    try:
        calibrate_matching(
            distances,
            known,
            known,
            gallery_size=100,
            goal=at_most_false_accepts(RATE, confidence=CONFIDENCE),
            classes=torch.where(known, 0, 1 + torch.arange(len(distances)) // 5),
        )
    except InputError as error:
        return re.sub(r"\. Give.*", "", str(error))
    return "given"


def main() -> None:
    """The table, and the refusals."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=1000)
    worlds = parser.parse_args().worlds
    torch.set_num_threads(1)
    print(f"{worlds:,} worlds each; broken (mean true rate / rate asked for); - is refused")
    print("| unknown classes | items each | " + " | ".join(KINDS) + " |")
    print("|---|---|" + "---|" * len(KINDS))
    for classes in (20, 60, 100, 400):
        for items in (1, 5, 30):
            rng = np.random.default_rng([classes, items])
            came_out: dict[str, list[float]] = {name: [] for name in KINDS}
            for _ in range(worlds):
                for name, limit in limits(world(rng, classes, items), items).items():
                    came_out[name].append(true_rate(limit))
            cells = [
                f"{np.mean(np.array(rates) > RATE):.1%} ({np.mean(rates) / RATE:.2f})"
                if len(rates) == worlds
                else f"- ({len(rates)} given)"
                for rates in came_out.values()
            ]
            print(f"| {classes} | {items} | " + " | ".join(cells) + " |", flush=True)
    for classes in (20, 58, 59):
        print(f"{classes} classes: {missing(classes)}")


if __name__ == "__main__":
    main()
