import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import likewise.masks
from likewise.masks import compared, masks

LABELS = torch.tensor([3, 1, 3, 3, 7])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_within_a_batch_masks_agree_with_the_loops(labels):
    is_positive, is_negative = masks(torch.tensor(labels))
    for i, a in enumerate(labels):
        for j, b in enumerate(labels):
            assert is_positive[i, j] == (a == b != -1 and i != j)
            assert is_negative[i, j] == (a != b and -1 not in (a, b))


@pytest.mark.parametrize("looks", [True, False], ids=["CPU", "as on a GPU"])
def test_an_unlabeled_item_is_in_neither_mask_as_anchor_and_as_reference(looks, monkeypatch):
    monkeypatch.setattr(likewise.masks, "free_to_look", lambda _: looks)
    labels, others = torch.tensor([-1, -1, 0, -2]), torch.tensor([0, -1, -2])
    is_positive, is_negative = masks(labels)
    assert is_positive.sum() == 0
    assert is_negative.nonzero().tolist() == [[2, 3], [3, 2]]
    is_positive, is_negative = masks(labels, others)
    assert is_positive.nonzero().tolist() == [[2, 0], [3, 2]]
    assert is_negative.nonzero().tolist() == [[2, 2], [3, 0]]
    is_positive, is_negative = masks(
        labels, others, ids=torch.arange(4), reference_ids=torch.tensor([2, 7, 8])
    )
    assert is_positive.nonzero().tolist() == [[3, 2]]
    assert is_negative.nonzero().tolist() == [[2, 2], [3, 0]]
    assert compared(torch.zeros(4, 2), labels).labeled.tolist() == [False, False, True, True]


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
