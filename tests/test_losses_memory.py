import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import likewise.masks
from likewise.distances import EUCLIDEAN
from likewise.errors import InputError
from likewise.losses import ContrastiveLoss, CrossBatchMemory, TripletLoss, _shown
from likewise.masks import masks

DIM = 3


def stream(count, size=6, classes=3, items=20, seed=0):
    """Batches of embeddings that drift, with the labels and ids of items drawn again and again."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (items,), generator=rng)
    for _ in range(count):
        ids = torch.randperm(items, generator=rng)[:size]
        points = torch.randn(size, DIM, generator=rng, dtype=torch.float64)
        yield points.requires_grad_(), labels[ids], ids


def memory(loss=None, **settings):
    loss = ContrastiveLoss(margin=2.0) if loss is None else loss
    return CrossBatchMemory(loss, **{"embedding_dim": DIM, "size": 10} | settings).double()


def pair_cost(a, b, same, margin=2.0):
    distance = float((a - b).detach().norm())
    return distance**2 if same else max(0.0, margin - distance) ** 2


def by_the_loops(batches, size, warm_up=0, weight=1.0, copies=False):
    """Values of every batch, with a plain list of (embedding, label, id) as memory."""
    held, values = [], []
    for number, (points, labels, ids) in enumerate(batches):
        n = len(labels)
        within = [
            pair_cost(points[i], points[j], labels[i] == labels[j])
            for i in range(n)
            for j in range(n)
            if i != j
        ]
        across = [
            pair_cost(points[i], old, labels[i] == label)
            for i in range(n)
            for old, label, copy in held
            if copies or copy != ids[i]
        ]
        values.append(
            sum(within) / len(within) + weight * (sum(across) / len(across) if across else 0.0)
        )
        if number >= warm_up:
            held += [(points[i].detach(), labels[i], ids[i]) for i in range(n)]
            held = held[-size:]
    return values


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize(("size", "warm_up"), [(10, 0), (16, 3), (4, 0), (100, 1)])
def test_values_are_those_of_a_list_as_memory(size, warm_up, copies):
    expected = by_the_loops(stream(9), size, warm_up, weight=0.5, copies=copies)
    loss = memory(size=size, warm_up=warm_up, weight=0.5, copies=copies)
    found = [float(loss(points, labels, ids=ids).detach()) for points, labels, ids in stream(9)]
    assert found == pytest.approx(expected, rel=1e-9)
    alone = [float(ContrastiveLoss(margin=2.0)(*batch[:2]).detach()) for batch in stream(9)]
    assert found[: warm_up + 1] == pytest.approx(alone[: warm_up + 1])
    assert found[-1] > alone[-1] + 0.01


def test_older_copies_make_a_difference():
    different = zip(
        by_the_loops(stream(9), 100), by_the_loops(stream(9), 100, copies=True), strict=True
    )
    assert sum(abs(a - b) > 1e-3 for a, b in different) > 5


@pytest.mark.parametrize("together", [False, True])
def test_gradients_reach_the_batch_only_and_are_those_of_both_losses(together):
    loss, plain = memory(together=together), ContrastiveLoss(margin=2.0)
    first, second = stream(2)
    loss(first[0], first[1], ids=first[2]).backward()
    before = first[0].grad.clone()
    points, labels, ids = second
    loss(points, labels, ids=ids).backward()  # the memory changed in between
    assert torch.equal(first[0].grad, before)
    twin = points.detach().clone().requires_grad_()
    old, old_labels, old_ids = first[0].detach(), first[1], first[2]
    if together:
        value = plain(
            twin,
            labels,
            torch.cat([twin, old]),
            torch.cat([labels, old_labels]),
            ids=ids,
            reference_ids=torch.cat([ids, old_ids]),
        )
    else:
        value = plain(twin, labels)
        value = value + plain(twin, labels, old, old_labels, ids=ids, reference_ids=old_ids)
    value.backward()
    torch.testing.assert_close(points.grad, twin.grad)


def test_together_a_triplet_may_reach_into_the_memory():
    loss = memory(TripletLoss(margin=1.0), together=True)
    first = torch.tensor([[0.0, 0, 0]]).double()
    second = torch.tensor([[0.0, 0, 0], [0.5, 0, 0]]).double()
    loss(first, torch.tensor([0]), ids=torch.tensor([0]))
    # Anchor 0 of the batch: its positive is in the memory only, its negative in the batch only.
    value = loss(second, torch.tensor([0, 1]), ids=torch.tensor([1, 2]))
    assert float(value) == pytest.approx(0.5)
    apart = memory(TripletLoss(margin=1.0))
    apart(first, torch.tensor([0]), ids=torch.tensor([0]))
    assert apart(second, torch.tensor([0, 1]), ids=torch.tensor([1, 2])) == 0


def test_together_with_copies_an_item_is_still_not_its_own_pair_within_the_batch():
    points, labels, _ = next(stream(1))
    loss = memory(together=True, copies=True)
    expected = ContrastiveLoss(margin=2.0)(points, labels)
    torch.testing.assert_close(loss(points, labels), expected)


def test_slots_not_yet_filled_are_in_neither_mask():
    positive, negative = masks(torch.tensor([0, 1]), torch.tensor([-1, 0, -1]))
    assert positive.tolist() == [[False, True, False], [False, False, False]]
    assert negative.tolist() == [[False, False, False], [False, True, False]]
    ids = torch.tensor([5, 6])
    positive, negative = masks(
        torch.tensor([0, 1]),
        torch.tensor([-1, 0, -1]),
        ids=ids,
        reference_ids=torch.tensor([7, 5, -1]),
    )
    assert not positive.any()
    assert negative.tolist() == [[False, False, False], [False, True, False]]


def test_a_state_brings_back_contents_position_and_warm_up():
    batches = list(stream(8))
    loss, whole = memory(warm_up=2), memory(warm_up=2)
    for points, labels, ids in batches[:4]:
        loss(points, labels, ids=ids)
    resumed = memory(warm_up=2)
    resumed.load_state_dict(load(save(loss.state_dict())))
    expected = [float(whole(points, labels, ids=ids).detach()) for points, labels, ids in batches]
    found = [
        float(resumed(points, labels, ids=ids).detach()) for points, labels, ids in batches[4:]
    ]
    assert found == expected[4:]
    assert int(loss.position) == 2 * 6 % 10


def test_evaluating_remembers_nothing():
    loss = memory().eval()
    points, labels, ids = next(stream(1))
    loss(points, labels, ids=ids)
    assert (loss.labels == -1).all()
    loss.train()(points, labels, ids=ids)
    assert (loss.labels[:6] == labels).all()


def test_facts_tell_of_batch_and_memory():
    loss = memory(size=12)
    for points, labels, ids in stream(2):
        value = loss(points, labels, ids=ids)
    facts = {name: float(fact) for name, fact in loss.facts.items()}
    assert facts["memory/filled"] == 0.5
    batch = ContrastiveLoss(margin=2.0)(points, labels)
    assert float(value.detach()) == pytest.approx(float(batch.detach()) + facts["memory/loss"])
    assert {"active", "positive_distance", "spread", "memory/active"} <= set(facts)
    assert "memory/spread" not in facts


class NothingWaits(TorchDispatchMode):
    """Refuses the operations for which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in {
            *("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "equal")
        }
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(monkeypatch):
    monkeypatch.setattr(_shown, "free_to_look", lambda _: False)
    monkeypatch.setattr(likewise.masks, "free_to_look", lambda _: False)
    with pytest.raises(AssertionError), NothingWaits():
        torch.ones(3)[torch.ones(3).bool()].sum().item()
    for together in (False, True):
        loss = memory(warm_up=1, together=together)
        for points, labels, ids in stream(3):
            with NothingWaits():
                loss(points, labels, ids=ids).backward()
            assert points.grad.abs().sum() > 0


def test_duplicates_and_half_precision_are_finite():
    loss = CrossBatchMemory(ContrastiveLoss(distance=EUCLIDEAN), embedding_dim=DIM, size=8)
    for scale in (0.0, 1.0, 1e4, 1.0):
        points = (scale * torch.eye(3)[[0, 0, 1, 2]]).half().requires_grad_()
        value = loss(points, torch.tensor([0, 0, 1, 1]), ids=torch.arange(4))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(points.grad).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda loss, p, y, i: loss(p, y), "ids must be given, so that no item is paired"),
        (lambda loss, p, y, i: loss(p, y, p, y, ids=i), "references must be left out"),
        (lambda loss, p, y, i: loss(p[:, :2], y, ids=i), "embeddings must have 3 dimensions"),
        (lambda loss, p, y, i: loss(p, y[:4], ids=i), r"labels must have shape \(6,\)"),
        (lambda loss, p, y, i: loss(p, y, ids=i[:4]), r"ids must have shape \(6,\)"),
        (lambda *_: memory(size=0), "size must be at least 1, got 0"),
        (lambda *_: memory(warm_up=-1), "warm_up must be at least 0, got -1"),
        (lambda *_: memory(weight=0.0), "weight must be a finite number above 0, got 0.0"),
    ],
)
def test_what_cannot_work_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(memory(), *next(stream(1)))


def test_a_loss_with_weights_trains_behind_a_memory():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, points, labels, references=None, *_, **__):
            return (self.scale * points).square().mean()

    loss = memory(Weighted())
    points, labels, ids = next(stream(1))
    loss(points, labels, ids=ids).backward()
    assert loss.loss.scale.grad > 0


@pytest.mark.parametrize("dim", [0, -1, 2.5])
def test_a_memory_of_no_width_is_refused(dim):
    with pytest.raises(InputError, match=f"embedding_dim must be .*, got {dim}"):
        CrossBatchMemory(TripletLoss(), embedding_dim=dim)
