"""Batches that are encoded in chunks train as batches that are encoded whole."""

import random

import pytest
import torch
from torch import nn

import likewise as lw
from likewise import losses
from likewise.augment import Augment
from likewise.data import (
    ArrayDataset,
    CrossPairs,
    PairDataset,
    TextDataset,
    TripletDataset,
    ViewDataset,
)
from likewise.encoders import ConvEncoder, SiameseNet, TripletNet, TwoTowers
from likewise.training.batches import batch_loss
from likewise.training.chunks import Chunks

LABELS = torch.arange(5).repeat_interleave(6)


def images(count=30, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 8, generator=rng, dtype=torch.float64)


def network(seed=0, **settings):
    torch.manual_seed(seed)
    settings = {"layers": (4, "pool", 6), "embedding_dim": 5, "norm": None} | settings
    return ConvEncoder((1, 8, 8), **settings).double()


def gradients(*modules):
    return [weight.grad for module in modules for weight in module.parameters()]


def weights(*modules):
    return [value for module in modules for value in module.state_dict().values()]


def close(found, expected, rtol=1e-6, atol=1e-9):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


class Drawing(losses.NTXentLoss):
    """Draws random numbers itself, between both encodings."""

    def forward(self, *batch, **ids):
        return super().forward(*batch, **ids) * (1 + torch.rand(()))


@pytest.mark.parametrize("settings", [{"dropout": 0.3}, {"dropout": 0.3, "norm": "batch"}])
def test_the_gradient_is_that_of_all_chunks_in_one_graph(settings):
    augment, loss, items = Augment(noise=0.1), Drawing(), images()
    rows = list(torch.arange(30).tensor_split(3))
    if "norm" in settings:  # spread, so that a chunk's statistics do not give a class away
        rows = list(torch.randperm(30, generator=torch.Generator().manual_seed(30)).tensor_split(3))

    expected = network(**settings)
    torch.manual_seed(1)
    changed = augment(items)
    embeddings = torch.cat([expected(changed[part]) for part in rows])
    value = loss(embeddings, LABELS[torch.cat(rows)])
    value.backward()
    after = torch.rand(2)
    assert max(float(each.norm()) for each in gradients(expected)) > 0.1

    encoder = network(**settings)
    torch.manual_seed(1)
    step = batch_loss(encoder, loss, (items, LABELS), lambda x, _: augment(x), Chunks(10, encoder))
    step.loss.backward()
    torch.testing.assert_close(step.loss, value)
    close(gradients(encoder), gradients(expected))
    assert torch.equal(torch.rand(2), after), "random numbers go on as in one graph"


class Letters(nn.Module):
    """Counts of the letters a to z, through a layer; how many texts came at once is noted."""

    takes_texts = True

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(26, 5).double()
        self.seen = []

    def forward(self, texts):
        self.seen.append(texts)
        counts = [[text.count(chr(97 + letter)) for letter in range(26)] for text in texts]
        return self.layer(torch.tensor(counts, dtype=torch.float64))


def pictures():
    return ArrayDataset(images().float(), LABELS)


def captioned():
    texts = ["abc" * (1 + row % 7) + chr(97 + row % 26) * row for row in range(30)]
    return CrossPairs(pictures(), TextDataset(texts), torch.arange(30)[:, None].expand(30, 2))


def towers():
    return TwoTowers(network(), Letters())


def learned_threshold():
    return losses.GivenPairsLoss(losses.LearnedThreshold(0.5))


KINDS = {
    "items": (network, losses.MultiSimilarityLoss, pictures),
    "memory": (
        network,
        lambda: losses.CrossBatchMemory(losses.ContrastiveLoss(), size=40, embedding_dim=5),
        pictures,
    ),
    "sum": (
        network,
        lambda: losses.Sum(losses.TripletLoss(margin=0.3), losses.NTXentLoss()),
        pictures,
    ),
    "class weights": (network, lambda: losses.ArcFaceLoss(5, 5), pictures),
    "pairs": (network, learned_threshold, lambda: PairDataset(pictures())),
    "pairs of a net": (
        lambda: SiameseNet(network()),
        learned_threshold,
        lambda: PairDataset(pictures()),
    ),
    "triplets": (network, losses.GivenTripletsLoss, lambda: TripletDataset(pictures())),
    "triplets of a net": (
        lambda: TripletNet(network()),
        losses.GivenTripletsLoss,
        lambda: TripletDataset(pictures()),
    ),
    "views": (
        network,
        lambda: losses.OnViews(losses.VICRegLoss(), projector=nn.Linear(5, 5)),
        lambda: ViewDataset(pictures()),
    ),
    "towers": (towers, losses.MultipleNegativesLoss, captioned),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_a_training_in_chunks_is_a_training(name):
    def trained(chunk):
        torch.manual_seed(0)
        encoder, loss, data = (make() for make in KINDS[name])
        loss = loss.double()
        seen = []
        first = next(each for each in encoder.modules() if isinstance(each, ConvEncoder))
        first.features[0].register_forward_hook(lambda _, items, __: seen.append(len(items[0])))
        augment, widen = Augment(noise=0.05), torch.Tensor.double
        is_cross = isinstance(data, CrossPairs)
        history = lw.fit(
            encoder,
            loss,
            data,
            epochs=2,
            augment=(augment, None) if is_cross else augment,
            preprocess=(widen, None) if is_cross else widen,
            clip_gradients=0.5,
            validation=data,
            device="cpu",
            chunk=chunk,
        )
        return encoder, loss, history, max(seen)

    *whole, largest = trained(None)
    *parts, most = trained(8)
    assert largest > 8 >= most
    torch.manual_seed(0)
    before = KINDS[name][0]()
    assert not all(map(torch.equal, weights(whole[0]), weights(before)))
    close(weights(*parts[:2]), weights(*whole[:2]))
    for one, other in zip(parts[2].records, whole[2].records, strict=True):
        del one["seconds"], other["seconds"]
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


def test_texts_of_like_length_go_together():
    encoder = Letters()
    texts = ["a" * (1 + 7 * row % 12) for row in range(12)]
    made = Chunks(4, encoder)(encoder, texts)
    assert torch.equal(made, Letters()(texts))
    assert [[len(text) for text in part] for part in encoder.seen] == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10, 11, 12],
    ]


def test_a_dict_of_tensors_is_taken_apart_too():
    class Masked(nn.Linear):
        def forward(self, given):
            return super().forward(given["x"] * given["mask"])

    items = torch.rand(10, 3)
    given = {"x": items, "mask": (items > 0.5).float()}
    encoder = Masked(3, 2)
    torch.testing.assert_close(Chunks(4, encoder)(encoder, given), encoder(given))


def test_a_batch_that_is_no_larger_than_a_chunk_is_encoded_whole():
    def trained(chunk):
        encoder = network(dropout=0.2, norm="batch")
        lw.fit(
            encoder,
            losses.TripletLoss(),
            pictures(),
            epochs=2,
            preprocess=torch.Tensor.double,
            device="cpu",
            chunk=chunk,
        )
        return weights(encoder)

    assert all(map(torch.equal, trained(30), trained(None)))
    assert not all(map(torch.equal, trained(15), trained(None)))


def test_running_statistics_move_once_by_the_mean_over_chunks():
    norm = nn.BatchNorm1d(3, momentum=0.1)
    encoder = nn.Sequential(norm, nn.Linear(3, 2))
    items = torch.randn(21, 3, generator=torch.Generator().manual_seed(0)) * 2 + 5
    rows = torch.randperm(21, generator=torch.Generator().manual_seed(21)).tensor_split(3)
    Chunks(8, encoder)(encoder, items).square().sum().backward()
    torch.testing.assert_close(norm.running_mean, 0.1 * items.mean(dim=0))
    spread = torch.stack([items[part].var(dim=0) for part in rows]).mean(dim=0)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * spread)
    assert int(norm.num_batches_tracked) == 1
    assert norm.momentum == 0.1

    norm.momentum = None  # the mean over all batches
    Chunks(8, encoder)(encoder, items).square().sum().backward()
    torch.testing.assert_close(norm.running_mean, 0.55 * items.mean(dim=0))
    assert int(norm.num_batches_tracked) == 2
    assert norm.momentum is None


def test_frozen_weights_are_left_and_other_weights_learn():
    def trained(chunk):
        encoder, loss = network(dropout=0.2).requires_grad_(False), losses.SoftmaxLoss(5, 5)
        calls = []
        encoder.register_forward_hook(lambda *_: calls.append(1))
        lw.fit(
            encoder,
            loss.double(),
            pictures(),
            epochs=1,
            batches=1,
            preprocess=torch.Tensor.double,
            device="cpu",
            chunk=chunk,
        )
        return loss, len(calls)

    loss, calls = trained(8)
    fresh = losses.SoftmaxLoss(5, 5)
    assert calls == 5, "four chunks, and one again that shows that nothing learns"
    assert not torch.equal(loss.classify.weight, fresh.double().classify.weight)


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_mixed_precision_goes_with_chunks(precision):
    def trained(chunk):
        encoder = network().float()
        dtypes = set()
        encoder.head[0].register_forward_hook(lambda _, __, out: dtypes.add(out.dtype))
        sgd = torch.optim.SGD(encoder.parameters(), lr=0.1)
        history = lw.fit(
            encoder,
            losses.MultiSimilarityLoss(),
            pictures(),
            epochs=2,
            optimizer=sgd,
            precision=precision,
            device="cpu",
            chunk=chunk,
        )
        assert dtypes == {torch.bfloat16}
        return weights(encoder), history[-1]["loss"]

    parts, loss = trained(8)
    whole, expected = trained(None)
    close(parts, whole, rtol=0.02, atol=1e-3)
    assert loss == pytest.approx(expected, rel=1e-3)


def test_both_encodings_are_in_the_precision_of_the_first():
    def gradient(chunk):
        encoder, dtypes = nn.Linear(6, 4), []
        nn.init.constant_(encoder.weight, 0.1)
        nn.init.zeros_(encoder.bias)
        encoder.register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))
        encoded = lw.training.Chunks(chunk, encoder)
        items = torch.rand(12, 6, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16):
            made = encoded(encoder, items)
            value = made.float().square().sum() + encoder(items[:1]).float().sum()
        value.backward()
        assert set(dtypes) == {torch.bfloat16}
        return encoder.weight.grad

    torch.testing.assert_close(gradient(4), gradient(12), rtol=0.02, atol=1e-3)


def test_a_second_backward_is_refused():
    encoder = nn.Linear(3, 2)
    value = Chunks(4, encoder)(encoder, torch.rand(10, 3)).square().sum()
    value.backward(retain_graph=True)
    with pytest.raises(lw.errors.InputError, match="must be gone back through once"):
        value.backward()


class Moody(nn.Module):
    """Draws from Python's random numbers, which are not brought back."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 5)

    def forward(self, items):
        return self.layer(items.flatten(1)) * (1 + random.random())


def test_an_encoder_that_cannot_encode_alike_twice_is_refused_before_it_learns():
    encoder = Moody()
    before = [weight.clone() for weight in weights(encoder)]
    with pytest.raises(lw.errors.InputError, match=r"the same embeddings twice .* from Moody"):
        lw.fit(encoder, losses.TripletLoss(), pictures(), epochs=1, device="cpu", chunk=8)
    assert all(map(torch.equal, weights(encoder), before))


@pytest.mark.parametrize("chunk", [0, -1, 2.5, True, "8"])
def test_a_chunk_that_is_no_count_is_refused(chunk):
    with pytest.raises(lw.errors.InputError, match="chunk must be a"):
        lw.fit(network(), losses.TripletLoss(), pictures(), epochs=1, chunk=chunk)
    with pytest.raises(lw.errors.InputError, match="chunk must be a"):
        lw.Recipe(chunk=chunk)


def test_a_batch_norm_over_a_handful_is_refused():
    with pytest.raises(lw.errors.InputError, match=r"chunk must be at least 8 .* got 7"):
        lw.fit(network(norm="batch"), losses.TripletLoss(), pictures(), epochs=1, chunk=7)
    lw.fit(
        network(),
        losses.TripletLoss(),
        pictures(),
        epochs=1,
        batches=1,
        chunk=1,
        preprocess=torch.Tensor.double,
        device="cpu",
    )


def test_what_cannot_be_taken_apart_is_refused():
    with pytest.raises(lw.errors.InputTypeError, match=r"preprocess must give .* got set"):
        Chunks(2, nn.Identity())(nn.Identity(), {1, 2})
    pooled = nn.Flatten(0)
    with pytest.raises(lw.errors.InputError, match="each of 2 items with chunk, got 6 rows"):
        Chunks(2, pooled)(pooled, torch.rand(4, 3))


def test_a_checkpoint_knows_the_chunk(tmp_path):
    def trained(chunk, folder, epochs=2, callbacks=()):
        encoder = network(dropout=0.2, norm="batch")
        lw.fit(
            encoder,
            losses.TripletLoss(),
            pictures(),
            epochs=epochs,
            preprocess=torch.Tensor.double,
            device="cpu",
            chunk=chunk,
            checkpoint=folder,
            callbacks=callbacks,
        )
        return weights(encoder)

    def interrupt(record, encoder):
        raise KeyboardInterrupt

    whole = trained(8, tmp_path / "whole")
    stops = [lambda record, encoder: interrupt(record, encoder) if record["epoch"] == 2 else None]
    with pytest.raises(KeyboardInterrupt):
        trained(8, tmp_path / "parts", callbacks=stops)
    resumed = trained(8, tmp_path / "parts")
    assert all(map(torch.equal, resumed, whole))
    with pytest.raises(lw.errors.InputError, match=r"of this training, .*chunk"):
        trained(10, tmp_path / "parts")
