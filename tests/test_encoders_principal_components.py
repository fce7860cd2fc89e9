import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.encoders import PrincipalComponents


def drawn(seed, n=30, d=5):
    rng = torch.Generator().manual_seed(seed)
    spread = torch.tensor([3.0, 1, 8, 0.5, 2])[:d]
    return torch.randn(n, d, generator=rng) * spread + 4


@given(seed=st.integers(0, 2**16), dim=st.integers(1, 5))
@settings(max_examples=25)
def test_what_is_kept_is_the_most_that_so_many_directions_can_keep(seed, dim):
    embeddings = drawn(seed)
    points = PrincipalComponents.fit(embeddings, dim)(embeddings)
    variances = np.linalg.eigvalsh(np.cov(embeddings.double().numpy().T))[::-1][:dim]
    np.testing.assert_allclose(np.cov(points.T).reshape(dim, dim), np.diag(variances), atol=1e-3)
    np.testing.assert_allclose(points.mean(dim=0), np.zeros(dim), atol=1e-4)


def test_as_many_directions_as_numbers_keep_all_distances():
    embeddings = drawn(0)
    points = PrincipalComponents.fit(embeddings[:10], 5)(embeddings)
    torch.testing.assert_close(torch.pdist(points), torch.pdist(embeddings))


def test_fewer_items_than_numbers_are_enough():
    embeddings = drawn(1, n=3)
    points = PrincipalComponents.fit(embeddings, 2)(embeddings)
    torch.testing.assert_close(torch.pdist(points), torch.pdist(embeddings))


@pytest.mark.parametrize("seed", range(20))
def test_the_same_embeddings_give_the_same_directions_in_any_order(seed):
    embeddings = drawn(seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    there = PrincipalComponents.fit(embeddings, 5)
    back = PrincipalComponents.fit(embeddings[order], 5)
    torch.testing.assert_close(there.directions, back.directions, atol=1e-5, rtol=0)
    assert bool((there.directions.amax(dim=0) > -there.directions.amin(dim=0)).all())


def test_they_stand_behind_an_encoder_and_are_kept_with_it():
    embeddings = drawn(3)
    fitted = PrincipalComponents.fit(embeddings, 2)
    model = torch.nn.Sequential(torch.nn.Linear(5, 5), fitted)
    empty = PrincipalComponents(torch.zeros(5), torch.zeros(5, 2))
    other = torch.nn.Sequential(torch.nn.Linear(5, 5), empty)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(embeddings), model(embeddings))
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    ("embeddings", "dim", "message"),
    [
        (
            drawn(4),
            6,
            "dim must be at most 5, the directions in which these 30 embeddings vary, got",
        ),
        (drawn(4, n=3), 3, "dim must be at most 2, the directions"),
        (torch.arange(9.0)[:, None].repeat(1, 3), 2, "dim must be at most 1, the directions"),
        (torch.ones(4, 3) / 3, 1, "dim must be at most 0, the directions"),
        (drawn(4), 0, "dim must be at least 1, got 0"),
        (torch.full((4, 2), torch.nan), 1, "embeddings must be finite"),
        (torch.zeros(0, 2), 1, "embeddings must be at least 2, got 0. Give those of more items"),
        (drawn(4, n=1), 1, "embeddings must be at least 2, got 1"),
        (torch.rand(4), 1, r"embeddings must have shape \(n, d\)"),
    ],
)
def test_what_has_no_components_is_refused(embeddings, dim, message):
    with pytest.raises(ValueError, match=message):
        PrincipalComponents.fit(embeddings, dim)


@pytest.mark.parametrize("given", [torch.randn(2, 3), torch.randn(5)])
def test_other_embeddings_are_refused(given):
    components = PrincipalComponents.fit(drawn(4), 2)
    with pytest.raises(ValueError, match=r"embeddings must have (5 dimensions, as|shape \(n, d\))"):
        components(given)
