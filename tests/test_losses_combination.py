import pytest
import torch
from torch import nn

from likewise.losses import ContrastiveLoss, CrossBatchMemory, SoftmaxLoss, Sum, TripletLoss

LABELS = torch.tensor([0, 0, 1, 1, 1, 2])


def embeddings(size=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, generator=rng, dtype=torch.float64, requires_grad=True)


class Plain(nn.Module):
    """A loss of one's own that knows neither references nor facts."""

    def forward(self, points, labels):
        return points.square().mean()


def test_value_and_gradient_are_the_weighted_sums():
    a, b = TripletLoss(margin=0.5), ContrastiveLoss(margin=1.5)
    points = embeddings()
    value = Sum(a, (0.25, b))(points, LABELS)
    expected = a(points, LABELS) + 0.25 * b(points, LABELS)
    assert expected > 0.1
    torch.testing.assert_close(value, expected)
    (found,) = torch.autograd.grad(value, points)
    (right,) = torch.autograd.grad(expected, points)
    torch.testing.assert_close(found, right)


def test_references_and_ids_reach_every_part():
    a, b = TripletLoss(margin=0.5), ContrastiveLoss(margin=1.5)
    points, others = embeddings(), embeddings(seed=1)
    ids, other_ids = torch.arange(6), torch.arange(3, 9)
    options = {"ids": ids, "reference_ids": other_ids}
    value = Sum(a, b)(points, LABELS, others, LABELS.flip(0), **options)
    parts = [part(points, LABELS, others, LABELS.flip(0), **options) for part in (a, b)]
    torch.testing.assert_close(value, sum(parts))
    assert not torch.isclose(value, Sum(a, b)(points, LABELS, others, LABELS.flip(0)))


def test_facts_name_their_part_and_the_spread_stands_once():
    loss = Sum(TripletLoss(), (2.0, ContrastiveLoss()), ContrastiveLoss(margin=3.0), Plain())
    loss(embeddings(), LABELS)
    facts = loss.facts
    assert {"triplet/loss", "triplet/active", "contrastive/loss", "plain/loss", "spread"} <= set(
        facts
    )
    assert not any(name.endswith("/spread") for name in facts)
    assert facts["contrastive/loss"] != facts["contrastive_2/loss"]
    torch.testing.assert_close(facts["contrastive/loss"], loss.parts[1](embeddings(), LABELS))
    assert not any(fact.requires_grad for fact in facts.values())


def test_weights_of_parts_are_weights_of_the_sum():
    loss = Sum(SoftmaxLoss(3, 3), TripletLoss())
    assert sum(weight.numel() for weight in loss.parameters()) == 12
    assert set(loss.state_dict()) == {"parts.0.classify.weight", "parts.0.classify.bias"}


def test_ids_are_wanted_where_a_part_wants_them():
    memory = CrossBatchMemory(ContrastiveLoss(), embedding_dim=3, size=8).double()
    loss = Sum(Plain(), memory)
    assert loss.takes_ids
    assert not Sum(Plain(), TripletLoss()).takes_ids
    loss(embeddings(), LABELS, ids=torch.arange(6))
    loss(embeddings(), LABELS, ids=torch.arange(6))
    assert memory.ids.tolist() == [2, 3, 4, 5, 4, 5, 0, 1]
    assert float(loss.facts["cross_batch_memory/memory/filled"]) == 6 / 8


def test_half_precision_is_added_in_float32():
    points = embeddings().detach().to(torch.float16).requires_grad_()
    value = Sum(TripletLoss(margin=0.5), (0.5, Plain()))(points, LABELS)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(points.grad).all()


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ((), ValueError, "parts must have at least one loss, got none"),
        (((0.0, TripletLoss()),), ValueError, "weight must be a finite number above 0, got 0.0"),
        ((torch.sum,), TypeError, r"parts must be losses or \(weight, loss\), got builtin"),
    ],
)
def test_what_cannot_be_added_is_named(parts, error, message):
    with pytest.raises(error, match=message):
        Sum(*parts)
