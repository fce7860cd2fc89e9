import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.encoders import Whitening
from likewise.evaluation import evaluate_retrieval


def drawn(seed, n=40, classes=5, d=4):
    """Embeddings that differ within classes mostly in their first number."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=rng)
    noise = torch.randn(n, d, generator=rng) * torch.tensor([12.0, 1, 1, 1])
    return torch.randn(classes, d, generator=rng)[labels] * 3 + noise + 2, labels * 7 - 3


def cosines_by_loops(embeddings, labels, shrinkage):
    rows = embeddings.double().numpy()
    within = np.zeros((rows.shape[1], rows.shape[1]))
    for label in set(labels.tolist()):
        of_class = rows[labels.numpy() == label]
        for row in of_class:
            within += np.outer(row - of_class.mean(axis=0), row - of_class.mean(axis=0))
    within /= len(rows)
    inverse = np.linalg.inv(
        within + shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    )
    rows = rows - rows.mean(axis=0)
    products = rows @ inverse @ rows.T
    lengths = np.sqrt(np.diag(products))
    return products / np.outer(lengths, lengths)


@given(seed=st.integers(0, 2**16), shrinkage=st.floats(0.01, 10))
@settings(max_examples=25)
def test_cosines_are_those_of_the_shrunk_inverse_covariance(seed, shrinkage):
    embeddings, labels = drawn(seed)
    white = Whitening.fit(embeddings, labels, shrinkage=shrinkage)(embeddings)
    expected = cosines_by_loops(embeddings, labels, shrinkage)
    np.testing.assert_allclose((white @ white.T).numpy(), expected, atol=2e-4)


def test_what_differs_within_classes_no_longer_hides_them():
    embeddings, labels = drawn(0, n=400, classes=20)
    seen = labels < 60  # of the classes 0 to 8
    whitening = Whitening.fit(embeddings[seen], labels[seen])
    before, after = (
        float(evaluate_retrieval(points, labels[~seen]).map_at_r)
        for points in (embeddings[~seen], whitening(embeddings[~seen]))
    )
    assert after > before + 0.1


def test_a_large_shrinkage_leaves_directions_as_they_are():
    embeddings, labels = drawn(1)
    white = Whitening.fit(embeddings, labels, shrinkage=1e6)(embeddings)
    plain = torch.nn.functional.normalize(embeddings - embeddings.mean(dim=0), dim=1)
    torch.testing.assert_close(white @ white.T, plain @ plain.T, atol=1e-4, rtol=0)


def test_fewer_items_than_numbers_and_classes_of_one_item_are_whitened():
    embeddings, _ = drawn(2, n=6, d=4)
    whitening = Whitening.fit(embeddings, torch.tensor([0, 0, 1, 2, 3, 4]))
    assert torch.isfinite(whitening(embeddings)).all()


def test_it_stands_behind_an_encoder_and_is_kept_with_it():
    embeddings, labels = drawn(3)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), Whitening.fit(embeddings, labels))
    other = torch.nn.Sequential(torch.nn.Linear(4, 4), Whitening(torch.zeros(4), torch.zeros(4, 4)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(embeddings), model(embeddings))
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    ("embeddings", "labels", "settings", "message"),
    [
        (torch.randn(3, 2), torch.arange(3), {}, "embeddings must differ within some class"),
        (torch.ones(4, 2) / 3, torch.tensor([0, 0, 0, 1]), {}, "embeddings must differ within"),
        (torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), {}, "embeddings must differ within"),
        (torch.full((4, 2), torch.nan), torch.zeros(4).long(), {}, "embeddings must be finite"),
        (torch.randn(4, 2), torch.zeros(3).long(), {}, r"labels must have shape \(4,\)"),
        (torch.randn(4, 2), torch.zeros(4).long(), {"shrinkage": 0.0}, "shrinkage must be"),
    ],
)
def test_what_cannot_be_whitened_is_refused(embeddings, labels, settings, message):
    with pytest.raises(ValueError, match=message):
        Whitening.fit(embeddings, labels, **settings)


@pytest.mark.parametrize("given", [torch.randn(2, 3), torch.randn(4)])
def test_other_embeddings_are_refused(given):
    whitening = Whitening.fit(*drawn(4))
    with pytest.raises(ValueError, match=r"embeddings must have (4 dimensions, as|shape \(n, d\))"):
        whitening(given)
