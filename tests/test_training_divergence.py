import math

import pytest
import torch
from torch import nn

import likewise as lw
from likewise import losses
from likewise.data import ArrayDataset, PairDataset, TripletDataset, ViewDataset
from likewise.encoders import MLPEncoder, SiameseNet, TripletNet
from likewise.training.divergence import Guard


def points():
    rng = torch.Generator().manual_seed(0)
    return ArrayDataset(torch.randn(80, 6, generator=rng), torch.arange(80) % 8)


class Swallowing(nn.Module):
    """A loss that is an ordinary number whatever the embeddings are, as one that selects is."""

    def __init__(self, embedding_dim=3):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(embedding_dim))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, *given):
        self.calls += 1
        sides = [each for each in given if each.is_floating_point()]
        # Its value is 1 and its gradient that of the sum.
        total = sum((side * self.scale).sum() for side in sides)
        return total.nan_to_num() - total.nan_to_num().detach() + 1


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def state(*modules):
    return [value.clone() for module in modules for value in module.state_dict().values()]


def broken_in(batch):
    """An augmentation that makes one value NaN in the n-th of all calls."""
    calls = iter(range(1, 10_000))

    def change(items):
        if next(calls) == batch:
            items = items.clone()
            items[0, 0] = torch.nan
        return items

    return change


SIDES = {
    "items": (points, network, 1),
    "views": (lambda: ViewDataset(points(), labels="classes"), network, 2),
    "pairs": (lambda: PairDataset(points(), 3.0), network, 2),
    "siamese": (lambda: PairDataset(points(), 3.0), lambda: SiameseNet(network()), 2),
    "triplets": (lambda: TripletDataset(points(), 3.0), network, 3),
    "triplet net": (lambda: TripletDataset(points(), 3.0), lambda: TripletNet(network()), 3),
}


@pytest.mark.parametrize("kind", SIDES)
def test_one_nan_that_the_loss_hides_ends_the_training_with_the_weights_from_before(kind):
    make, encode_with, sides = SIDES[kind]
    encoder, loss, before = encode_with(), Swallowing(), []

    def watch(epoch, batch, batches):
        if (epoch, batch) == (1, batches):
            before.extend(state(encoder, loss))

    with pytest.raises(
        lw.InputError,
        match=r"^embeddings must stay finite, got NaN or infinity in batch 2 of epoch 2.*from "
        r"before epoch 2\.$",
    ):
        lw.fit(
            encoder,
            loss,
            make(),
            epochs=3,
            batches=3,
            device="cpu",
            # Every side of a batch is augmented by itself; views and items of one are changed.
            augment=broken_in(sides * 4 + 1),
            progress=watch,
        )
    for value, twin in zip(before, state(encoder, loss), strict=True):
        assert torch.equal(value, twin)
    assert not encoder.training


def test_nothing_of_a_broken_epoch_comes_to_callbacks_or_a_checkpoint(tmp_path):
    best, seen = lw.training.KeepBest("loss"), []
    callbacks = [best, lambda record, encoder: seen.append(record["epoch"])]
    encoder = network()
    with pytest.raises(lw.InputError, match="batch 1 of epoch 3"):
        lw.fit(
            encoder,
            losses.MultiSimilarityLoss(),
            points(),
            epochs=5,
            batches=2,
            device="cpu",
            augment=broken_in(5),
            callbacks=callbacks,
            checkpoint=tmp_path,
        )
    assert seen == [1, 2]
    assert best.epoch in (1, 2)
    again = network()
    lw.training.load_weights(tmp_path, again)
    for value, twin in zip(state(encoder), state(again), strict=True):
        assert torch.equal(value, twin)


class Rooted(nn.Module):
    """A finite loss whose gradient is infinite in its first call."""

    def forward(self, embeddings, labels):
        zero = (embeddings[0] - embeddings[0].detach()).abs().sum()
        return zero.sqrt() + embeddings.square().mean()


def test_gradients_that_are_not_finite_are_named_where_all_else_is():
    encoder = network()
    before = state(encoder)
    with pytest.raises(lw.InputError, match=r"^gradients must stay finite.* in batch 1 of epoch 1"):
        lw.fit(encoder, Rooted(), points(), epochs=1, device="cpu")
    for value, twin in zip(before, state(encoder), strict=True):
        assert torch.equal(value, twin)


def test_a_loss_that_is_not_finite_is_named_where_embeddings_are():
    class Broken(nn.Module):
        def forward(self, embeddings, labels):
            return embeddings.mean() / 0

    with pytest.raises(
        lw.InputError,
        match=r"^loss must stay finite, got NaN or infinity in batch 1 of epoch 1, the first of "
        "4 such batches",
    ):
        lw.fit(network(), Broken(), points(), epochs=1, batches=4, device="cpu")


@pytest.mark.parametrize("loss", [losses.MultiSimilarityLoss, losses.TripletLoss])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_wild_learning_rate_ends_in_a_sentence_or_in_finite_weights(loss, epochs):
    encoder = MLPEncoder((6,), hidden=(16,), embedding_dim=4)
    with pytest.raises(lw.InputError, match="must stay finite"):
        lw.fit(encoder, loss(), points(), epochs=epochs, batches=4, learning_rate=1e30)
    assert all(value.isfinite().all() for value in state(encoder))


def test_weights_that_the_last_step_broke_are_found_and_masks_of_infinity_are_not():
    encoder, mask = nn.Linear(2, 2), nn.Module()
    mask.register_buffer("future", torch.full((3, 3), -math.inf))
    guard = Guard(encoder, mask)
    guard.see([torch.ones(2)], torch.ones(()))
    guard.check(1)
    before = encoder.weight.detach().clone()
    with torch.no_grad():
        encoder.weight[0, 0] = math.inf
    with pytest.raises(lw.InputError, match=r"^weights must stay finite, got .* in epoch 1"):
        guard.check(1)
    assert torch.equal(encoder.weight, before)


def test_skipped_steps_count_only_where_all_were_skipped():
    fine, bad = (torch.ones(2), torch.ones(())), (torch.full((2,), torch.nan), torch.ones(()))

    def told(*steps):
        guard = Guard(nn.Linear(2, 2))
        for (points, loss), skipped in steps:
            guard.see([points], loss)
            if skipped:
                guard.skip()
        try:
            guard.check(1)
        except lw.InputError as error:
            return str(error)

    assert told((bad, True), (fine, False)) is None
    assert "batch 2 of" in told((bad, True), (bad, False))
    assert "batch 1 of epoch 1, the first of 2" in told((bad, True), (bad, True))
    assert told((fine, True)) is None


def test_frozen_weights_and_sparse_gradients_do_not_disturb():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Embedding(8, 3, sparse=True)
            self.frozen = nn.Linear(6, 3).requires_grad_(False)

        def forward(self, items):
            return self.rows(items.argmax(dim=1)) + self.frozen(items)

    encoder = Table()
    optimizer = torch.optim.SGD(encoder.rows.parameters(), lr=0.1)
    history = lw.fit(
        encoder, losses.TripletLoss(), points(), epochs=2, optimizer=optimizer, device="cpu"
    )
    assert len(history) == 2
