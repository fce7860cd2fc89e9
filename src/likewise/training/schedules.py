"""Schedules: the learning rate's factor at a share of the training."""

import math
from collections.abc import Callable

from likewise._checks import check_rate

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """A schedule that leaves the learning rate alone."""
    return 1.0


def cosine(warm_up: float = 0.05) -> Schedule:
    """A schedule: up in a straight line for a share of the training, then a half cosine to zero.

    Source:
        Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
        equation 5, one cycle. Warm-up: Goyal et al., "Accurate, Large Minibatch SGD", 2017.
    """

    check_rate("warm_up", warm_up)

    def factor(progress: float) -> float:
        if progress < warm_up:
            return progress / warm_up
        left = max(1 - warm_up, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / left))

    return factor
