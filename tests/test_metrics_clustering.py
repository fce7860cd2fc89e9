import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from likewise import metrics


def draw(seed, n=40, count=5):
    return torch.randint(count, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_mutual_information_is_that_of_scikit_learn(seed):
    clusters, labels = draw(seed), draw(seed + 9, count=3)
    clusters[:20] = labels[:20]
    found = metrics.mutual_information(clusters, labels)
    truth = labels.numpy(), clusters.numpy()
    assert found.normalized == sklearn_metrics.normalized_mutual_info_score(*truth) > 0.05
    assert found.adjusted == sklearn_metrics.adjusted_mutual_info_score(*truth)
    assert found.adjusted < found.normalized


@given(seed=st.integers(0, 2**16))
@settings(max_examples=20)
def test_the_names_of_clusters_and_classes_do_not_matter(seed):
    clusters, labels = draw(seed), draw(seed + 1)
    one = metrics.mutual_information(clusters, labels)
    other = metrics.mutual_information(2**60 - clusters, 7 * labels - 3)
    assert one == pytest.approx(other)


def test_clusters_are_found_and_the_same_each_time():
    labels = torch.arange(30) % 3
    embeddings = 9 * torch.eye(3)[labels] + torch.randn(30, 3)
    clusters = metrics.cluster(embeddings, 3)
    assert metrics.mutual_information(clusters, labels) == pytest.approx((1, 1))
    assert torch.equal(clusters, metrics.cluster(embeddings, 3))


def test_fewer_points_than_clusters_leave_some_empty():
    clusters = metrics.cluster(torch.eye(2)[draw(0, count=2)], 4)
    assert len(clusters.unique()) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.cluster(torch.ones(3, 2), 4),
            "count must be at most the 3 embeddings, got 4. Ask for fewer clusters.",
        ),
        (lambda: metrics.cluster(torch.ones(3, 2), 0), "count must be at least 1, got 0."),
        (
            lambda: metrics.cluster(torch.full((3, 2), torch.nan), 2),
            "embeddings must be finite, got 6 NaN",
        ),
        (
            lambda: metrics.mutual_information(draw(0)[:3], draw(0)),
            "clusters must have shape (40,), one per item, got (3,).",
        ),
        (
            lambda: metrics.mutual_information(draw(0)[:0], draw(0)[:0]),
            "labels must hold at least one labeled item, got 0 unlabeled ones (-1).",
        ),
    ],
)
def test_what_cannot_be_clustered_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
