import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.distances import COSINE, EUCLIDEAN, NAMED, SNR
from likewise.metrics import equal_error_rate, sweep
from likewise.normalization import AdaptiveNorm, CohortFacts, normalize


def drawn(seed, *shape):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def by_loops(a, b, cohort, distance, nearest):
    """One pair after the other, with the facts of the nearest of each side."""

    def apart(x, y):
        return float(distance.paired(x[None], y[None]))

    values = []
    for x, y in zip(a, b, strict=True):
        d, normalized = apart(x, y), []
        for near in (
            sorted(apart(x, c) for c in cohort)[:nearest],
            sorted(apart(c, y) for c in cohort)[:nearest],
        ):
            mean = sum(near) / nearest
            spread = math.sqrt(sum((value - mean) ** 2 for value in near) / nearest)
            normalized.append((d - mean) / spread)
        values.append(sum(normalized) / 2)
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("distance", NAMED.values(), ids=NAMED.get)
def test_pairs_and_matrix_are_those_of_the_loops(distance):
    a, b, cohort = drawn(0, 6, 4), drawn(1, 6, 4), drawn(2, 15, 4)
    normalized = AdaptiveNorm(cohort, distance, nearest=5).as_distance()
    expected = by_loops(a, b, cohort, distance, 5)
    assert expected.std() > 0.1
    torch.testing.assert_close(normalized.paired(a, b), expected)
    torch.testing.assert_close(normalized.matrix(a, b).diagonal(), expected)
    assert normalized.name == f"as_norm({distance.name})"
    assert (normalized.matrix(a, b).T - normalized.matrix(b, a)).abs().max() < 1e-9 or (
        distance is SNR
    )


@given(seed=st.integers(0, 999), shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
@settings(max_examples=30)
def test_unit_and_zero_of_the_distance_do_not_matter(seed, shift, scale):
    d, mean_a, mean_b = drawn(seed, 3, 7)
    spread_a, spread_b = drawn(seed + 1, 2, 7).abs() + 0.1
    before = normalize(d, CohortFacts(mean_a, spread_a), CohortFacts(mean_b, spread_b))
    after = normalize(
        scale * d + shift,
        CohortFacts(scale * mean_a + shift, scale * spread_a),
        CohortFacts(scale * mean_b + shift, scale * spread_b),
    )
    torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-8)


def test_sides_that_are_near_to_everything_are_told_apart():
    # Items of either half of the world are noisy to another degree, as of two cameras.
    rng = torch.Generator().manual_seed(3)

    def seen(points, crowded):
        size = torch.where(crowded, 0.5, 3.0)[:, None]
        return points * size, size

    centers = torch.randn(400, 8, generator=rng)
    crowded = torch.arange(400) % 2 == 0
    views = [centers + 0.4 * torch.randn(400, 8, generator=rng) for _ in range(2)]
    a, b = (seen(view, crowded)[0] for view in views)
    cohort = seen(torch.randn(300, 8, generator=rng), torch.arange(300) % 2 == 0)[0]
    pairs = (
        torch.cat([torch.arange(400)] * 2),
        torch.cat([torch.arange(400), (torch.arange(400) + 2) % 400]),
    )
    same = torch.arange(800) < 400
    plain = EUCLIDEAN.paired(a[pairs[0]], b[pairs[1]])
    norm = AdaptiveNorm(cohort, EUCLIDEAN, nearest=100).as_distance()
    ours = norm.paired(a[pairs[0]], b[pairs[1]])
    before = equal_error_rate(sweep(plain, same))
    assert equal_error_rate(sweep(ours, same)) < before - 0.05


def test_facts_do_not_depend_on_the_chunk(monkeypatch):
    norm, rows = AdaptiveNorm(drawn(4, 30, 3), COSINE, nearest=7), drawn(5, 20, 3)
    before = norm.facts(rows)
    monkeypatch.setattr("likewise.normalization.MOST", 90)
    for ours, expected in zip(norm.facts(rows), before, strict=True):
        torch.testing.assert_close(ours, expected)
    assert [len(part) for part in norm.facts(rows[:0])] == [0, 0]


def test_a_gradient_flows_and_is_the_slope():
    b, cohort = drawn(6, 4, 3), drawn(7, 12, 3)
    normalized = AdaptiveNorm(cohort, EUCLIDEAN, nearest=4).as_distance()
    a = drawn(8, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: normalized.paired(x, b), a)
    assert torch.autograd.gradcheck(lambda x: normalized.paired(b, x), a)


def test_a_cohort_that_is_all_alike_gives_finite_numbers():
    cohort = torch.ones(5, 3)
    normalized = AdaptiveNorm(cohort, EUCLIDEAN, nearest=3).as_distance()
    points = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert normalized.matrix(points, points).isfinite().all()
    assert normalized.matrix(cohort, points).isfinite().all()


@pytest.mark.parametrize(
    ("cohort", "nearest", "message"),
    [
        (torch.ones(5, 3), 6, "cohort must hold at least nearest=6 items, got 5. Give more items"),
        (torch.ones(5, 3), 1, "nearest must be at least 2, got 1."),
        (torch.full((5, 3), math.nan), 3, "cohort must be finite, got 15 NaN"),
        (torch.ones(5), 3, "cohort must have shape (n, d) with d >= 1, got (5,)."),
    ],
)
def test_refused_cohorts_say_why(cohort, nearest, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        AdaptiveNorm(cohort, nearest=nearest)


def test_embeddings_of_another_width_are_refused():
    norm = AdaptiveNorm(torch.ones(5, 3), nearest=2)
    with pytest.raises(ValueError, match="embeddings must have as many dimensions as cohort, 3"):
        norm.facts(torch.ones(2, 4))
