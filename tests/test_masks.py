import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.masks import compared, masks

LABELS = torch.tensor([3, 1, 3, 3, 7])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
@settings(deadline=None)
def test_within_a_batch_masks_agree_with_the_loops(labels):
    is_positive, is_negative = masks(torch.tensor(labels))
    for i, a in enumerate(labels):
        for j, b in enumerate(labels):
            assert is_positive[i, j] == (a == b and i != j)
            assert is_negative[i, j] == (a != b)


def test_against_references_equal_labels_are_positives_on_the_diagonal_too():
    is_positive, is_negative = masks(LABELS, torch.tensor([3, 7]))
    assert is_positive.int().tolist() == [[1, 0], [0, 0], [1, 0], [1, 0], [0, 1]]
    assert (is_positive ^ is_negative).all()


def test_an_older_copy_of_the_same_item_is_neither_positive_nor_negative():
    is_positive, is_negative = masks(
        torch.tensor([5, 5]),
        torch.tensor([5, 5, 6]),
        ids=torch.tensor([10, 11]),
        reference_ids=torch.tensor([11, 12, 10]),
    )
    assert is_positive.int().tolist() == [[1, 1, 0], [0, 1, 0]]
    assert is_negative.int().tolist() == [[0, 0, 0], [0, 0, 1]]


def test_a_checked_batch_without_references_compares_with_itself():
    embeddings = torch.randn(5, 2)
    batch = compared(embeddings, LABELS)
    assert batch.references is embeddings
    assert batch.is_positive.shape == (5, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (torch.zeros(5, 2), LABELS[:4]),
            ValueError,
            r"labels must have shape \(5,\), .* got \(4,\)",
        ),
        (
            (torch.zeros(5, 2), LABELS[:, None]),
            ValueError,
            r"labels must have shape .* got \(5, 1\)",
        ),
        (
            (torch.zeros(5, 2), LABELS.float()),
            TypeError,
            "labels must be integers, got torch.float32",
        ),
        ((torch.zeros(5, 2), LABELS > 2), TypeError, "labels must be integers, got torch.bool"),
        ((torch.zeros(5), LABELS), ValueError, r"embeddings must have shape \(n, d\)"),
        (
            (torch.zeros(5, 2), LABELS, torch.zeros(3, 4), LABELS[:3]),
            ValueError,
            "references must have as many dimensions as embeddings, 2, got 4",
        ),
        (
            (torch.zeros(5, 2), LABELS, torch.zeros(3, 2)),
            ValueError,
            "references and reference_labels must be given together",
        ),
    ],
)
def test_what_does_not_fit_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        compared(*arguments)


def test_ids_for_one_side_only_are_refused():
    with pytest.raises(ValueError, match="ids and reference_ids must be given together"):
        masks(LABELS, LABELS, ids=LABELS)
    with pytest.raises(ValueError, match="ids must come with references"):
        masks(LABELS, ids=LABELS)
