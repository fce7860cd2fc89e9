"""Two towers: pairs across two datasets, and the encoders that `fit` trains on them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import likewise as lw
from likewise.data import ArrayDataset, CrossPairs, GivenPairs, PairDataset, TextDataset
from likewise.encoders import SiameseNet, TripletNet, TwoTowers
from likewise.errors import InputError, InputTypeError
from likewise.losses import (
    ContrastiveLoss,
    CrossBatchMemory,
    GivenPairsLoss,
    MultipleNegativesLoss,
    SigmoidPairsLoss,
)
from likewise.training.batches import batch_loss


class Letters(nn.Module):
    """Counts of the letters a to z, through a layer."""

    takes_texts = True

    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(26, width)

    def forward(self, texts):
        """Embeddings (n, width)."""
        counts = [[float(text.count(chr(97 + letter))) for letter in range(26)] for text in texts]
        return self.layer(torch.tensor(counts))


def vectors(count, width, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return ArrayDataset(torch.randn(count, width, generator=rng), [-1] * count, [])


WORDS = ["plum", "fig", "oak", "elm", "jay", "owl", "bee", "cod"]


def named(count=32):
    """Vectors and words, four vectors to each word."""
    words = TextDataset(WORDS)
    codes = torch.arange(count) % len(WORDS)
    means = torch.randn(len(WORDS), 6, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(count, 6, generator=torch.Generator().manual_seed(2))
    items = ArrayDataset(means[codes] + 0.1 * noise, [-1] * count, [])
    return CrossPairs(items, words, torch.stack([torch.arange(count), codes], dim=1))


def towers(seed=0):
    torch.manual_seed(seed)
    return TwoTowers(nn.Linear(6, 4), Letters())


@settings(max_examples=50)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1),
)
def test_items_share_a_code_where_pairs_join_them_over_any_number_of_steps(n, m, drawn):
    pairs = sorted((a % n, b % m) for a, b in drawn)
    pairs = list(dict.fromkeys(pairs))
    data = CrossPairs(vectors(n, 2), vectors(m, 2), pairs)
    groups = [{("a", i)} for i in range(n)] + [{("b", j)} for j in range(m)]
    for a, b in pairs:
        one = next(group for group in groups if ("a", a) in group)
        other = next(group for group in groups if ("b", b) in group)
        if one is not other:
            groups = [g for g in groups if g is not one and g is not other] + [one | other]
    codes = {("a", i): code for i, code in enumerate(data.labels_a.tolist())}
    codes |= {("b", j): code for j, code in enumerate(data.labels_b.tolist())}
    for one in codes:
        for other in codes:
            together = any({one, other} <= group for group in groups)
            assert (codes[one] == codes[other]) is together


def test_only_pairs_that_are_the_same_join():
    data = CrossPairs(vectors(2, 2), vectors(2, 2), [[0, 0], [1, 1], [1, 0]], [True, True, False])
    assert data.labels_a.tolist() == data.labels_b.tolist() != [0, 0]


def test_a_batch_holds_both_sides_with_their_codes_and_truth():
    data = CrossPairs(
        vectors(3, 2), TextDataset(["x", "y"]), [[0, 0], [2, 1], [1, 1]], [True, True, False]
    )
    (items, labels, same) = data.__getitems__([2, 0])[0]
    assert torch.equal(items[0], torch.stack([data.a[1][0], data.a[0][0]]))
    assert items[1] == ["y", "x"]
    assert same.tolist() == [False, True]
    assert labels[0].tolist() == [data.labels_a[1], data.labels_a[0]]
    assert labels[1].tolist() == [data.labels_b[1], data.labels_b[0]]
    assert data[2][0][1] == "y"
    assert data[2][1] is False


def hand_loss(a, b, pairs, temperature=0.05):
    """Multiple negatives both ways, pair by pair; an equal key is no negative."""

    def cosine(x, y):
        return torch.dot(x, y) / x.norm() / y.norm()

    costs = []
    for i, (_, key) in enumerate(pairs):
        for j, (_, other) in enumerate(pairs):
            if other != key:
                continue
            there = [k for k, (_, each) in enumerate(pairs) if each != key]
            back = [k for k, (_, each) in enumerate(pairs) if each != key]
            ways = []
            for near, far in (
                (cosine(a[i], b[j]), [cosine(a[i], b[k]) for k in there]),
                (cosine(a[i], b[j]), [cosine(a[k], b[j]) for k in back]),
            ):
                ways.append(
                    torch.logsumexp(torch.stack([near, *far]) / temperature, 0) - near / temperature
                )
            costs.append(sum(ways) / 2)
    return sum(costs) / len(costs)


def test_the_gradient_of_both_towers_is_that_of_a_loop_over_the_pairs():
    torch.manual_seed(3)
    net = TwoTowers(nn.Linear(6, 3), nn.Linear(5, 3)).double()
    pairs = [(0, 0), (1, 1), (2, 1), (3, 2), (4, 0)]
    data = CrossPairs(vectors(5, 6, 4), vectors(3, 5, 5), pairs)
    batch = data.__getitems__(range(len(pairs)))[0]
    step = batch_loss(
        net, MultipleNegativesLoss(symmetric=True), batch, lambda items, side: items.double()
    )
    step.loss.backward()
    found = [weight.grad.clone() for weight in net.parameters()]
    net.zero_grad()
    x, y = (torch.stack([data[row][0][side] for row in range(5)]).double() for side in (0, 1))
    expected = hand_loss(net.a(x), net.b(y), pairs)
    expected.backward()
    torch.testing.assert_close(step.loss, expected)
    for one, weight in zip(found, net.parameters(), strict=True):
        assert weight.grad.abs().max() > 1e-3
        torch.testing.assert_close(one, weight.grad)


@pytest.mark.parametrize("loss", [MultipleNegativesLoss(symmetric=True), SigmoidPairsLoss()])
def test_both_towers_learn_and_a_query_then_finds_its_word(loss):
    data, net = named(), towers()
    before = [weight.detach().clone() for weight in net.parameters()]
    lw.fit(net, loss, data, epochs=40, learning_rate=0.05, progress=False, device="cpu")
    assert all(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
    index = lw.Index(lw.distances.COSINE)
    index.add(lw.encode(net.b, WORDS), labels=WORDS)
    found = index.lookup(lw.encode(net.a, data.a), k=1).labels.flatten()
    names = [index.class_names[code] for code in found.tolist()]
    right = sum(name == WORDS[row % 8] for row, name in enumerate(names)) / len(names)
    assert right > 0.9
    fresh = lw.Index(lw.distances.COSINE)
    fresh.add(lw.encode(towers().b, WORDS), labels=WORDS)
    untrained = fresh.lookup(lw.encode(towers().a, data.a), k=1).labels.flatten()
    assert float((untrained == torch.arange(32) % 8).float().mean()) < 0.6


def test_given_pairs_train_two_towers_by_their_truth():
    data = named()
    wrong = torch.stack([data.pairs[:, 0], (data.pairs[:, 1] + 3) % 8], dim=1)
    truth = torch.arange(64) < 32
    both = CrossPairs(data.a, data.b, torch.cat([data.pairs, wrong]), truth)
    net = towers()
    loss = GivenPairsLoss(distance=lw.distances.COSINE)
    history = lw.fit(net, loss, both, epochs=30, learning_rate=0.03, progress=False, device="cpu")
    assert history[-1]["positive_distance"] < 0.3 < 0.6 < history[-1]["negative_distance"]


def test_pairs_of_one_dataset_go_to_both_towers():
    items = ArrayDataset(torch.eye(6), torch.arange(6) % 2)
    net = TwoTowers(nn.Linear(6, 2), nn.Linear(6, 2))
    before = [weight.detach().clone() for weight in net.parameters()]
    lw.fit(net, GivenPairsLoss(), PairDataset(items, 2.0), epochs=3, progress=False, device="cpu")
    assert all(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


def test_one_encoder_takes_pairs_of_two_datasets_of_one_kind():
    a = TextDataset(["plum pie", "fig jam", "oak desk"])
    net = Letters()
    pairs = CrossPairs(a, TextDataset(["plum", "fig", "oak"]), [[0, 0], [1, 1], [2, 2]])
    lw.fit(net, MultipleNegativesLoss(), pairs, epochs=1, progress=False, device="cpu")
    batch = pairs.__getitems__([0, 1, 2])[0]
    step = batch_loss(net, MultipleNegativesLoss(), batch, lambda items, side: items)
    x, y = net(a.texts), net(["plum", "fig", "oak"])
    torch.testing.assert_close(
        step.loss, MultipleNegativesLoss()(x, torch.arange(3), y, torch.arange(3))
    )


def test_each_side_is_changed_and_preprocessed_by_its_own_function():
    data = named()
    seen = {"changed": [], "preprocessed": []}

    def changed(items):
        seen["changed"].append(items.shape)
        return items

    def preprocessed(texts):
        seen["preprocessed"].append(type(texts))
        return [text.upper() for text in texts]

    lw.fit(
        towers(),
        MultipleNegativesLoss(),
        data,
        epochs=1,
        augment=(changed, None),
        preprocess=(None, preprocessed),
        progress=False,
        device="cpu",
    )
    assert seen["changed"] == [(32, 6)]
    assert seen["preprocessed"] == [list]
    for name in ("augment", "preprocess"):
        with pytest.raises(InputError, match=f"{name} must be one function for each side"):
            lw.fit(towers(), MultipleNegativesLoss(), data, epochs=1, **{name: changed})
        with pytest.raises(InputError, match=f"{name} must hold a function or None for each side"):
            lw.fit(towers(), MultipleNegativesLoss(), data, epochs=1, **{name: (changed,) * 3})


def test_validation_and_an_interrupted_training_go_as_with_one_encoder(tmp_path):
    def trained(epochs, checkpoint, stop=None):
        net, loss = towers(), MultipleNegativesLoss(symmetric=True)
        stops = [] if stop is None else [lambda record, encoder: _raise(record, stop)]
        history = lw.fit(
            net,
            loss,
            named(),
            epochs=epochs,
            validation=named(16),
            callbacks=stops,
            checkpoint=checkpoint,
            progress=False,
            device="cpu",
        )
        return net, history

    def _raise(record, stop):
        if record["epoch"] == stop:
            raise KeyboardInterrupt

    whole, history = trained(4, None)
    assert all(math.isfinite(record["validation_loss"]) for record in history)
    with pytest.raises(KeyboardInterrupt):
        trained(4, tmp_path / "kept", stop=3)
    again, _ = trained(4, tmp_path / "kept")
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    short = CrossPairs(named().a, named().b, named().pairs[:20])
    with pytest.raises(InputError, match="checkpoint"):
        lw.fit(towers(), SigmoidPairsLoss(), short, epochs=4, checkpoint=tmp_path / "kept")


class Mixed(GivenPairs):
    """Pairs whose second side is another kind than its dataset says."""

    def __getitems__(self, indices):
        (batch,) = super().__getitems__(indices)
        first, second = batch.items
        return [batch._replace(items=(first, ["text"] * len(second)))]


def test_sides_of_two_kinds_are_refused_for_one_encoder_with_what_to_use():
    data = named()
    for net in (nn.Linear(6, 4), SiameseNet(nn.Linear(6, 4))):
        with pytest.raises(
            InputError, match=r"encoder must be two towers for pairs of \(6,\) and texts, got .*"
        ) as told:
            lw.fit(net, MultipleNegativesLoss(), data, epochs=1, device="cpu")
        assert "encoders.TwoTowers(a, b)" in str(told.value)
        mixed = Mixed(vectors(4, 6), [[0, 1], [2, 3]], [True, False])
        with pytest.raises(InputError, match=r"sides of one kind .* got \(6,\) and texts"):
            lw.fit(net, GivenPairsLoss(), mixed, epochs=1, device="cpu")


def test_what_does_not_suit_is_refused_in_a_sentence():
    data, loss = named(), MultipleNegativesLoss()
    swapped = TwoTowers(Letters(), nn.Linear(6, 4))
    with pytest.raises(InputTypeError, match="items of a must be texts"):
        lw.fit(swapped, loss, data, epochs=1)
    with pytest.raises(InputTypeError, match="items of b must be numbers"):
        lw.fit(TwoTowers(nn.Linear(6, 4), nn.Linear(6, 4)), loss, data, epochs=1)
    labeled = ArrayDataset(torch.eye(6), torch.arange(6) % 2)
    for net, wanted in (
        (TwoTowers(nn.Linear(6, 2), nn.Linear(6, 2)), "pairs"),
        (SiameseNet(nn.Linear(6, 2)), "pairs"),
        (TripletNet(nn.Linear(6, 2)), "triplets"),
    ):
        with pytest.raises(InputError, match=f"data must be {wanted} for {type(net).__name__}"):
            lw.fit(net, ContrastiveLoss(), labeled, epochs=1)
    with pytest.raises(InputError, match="data must hold pairs that are different"):
        lw.fit(towers(), GivenPairsLoss(), data, epochs=1)
    with pytest.raises(InputError, match="loss must take no ids"):
        lw.fit(towers(), CrossBatchMemory(ContrastiveLoss(), embedding_dim=4), data, epochs=1)
    with pytest.raises(InputError, match="references must have"):
        lw.fit(TwoTowers(nn.Linear(6, 3), Letters()), loss, data, epochs=1, device="cpu")
    joined = CrossPairs(
        vectors(2, 6),
        TextDataset(["x", "y"]),
        [[0, 0], [0, 1], [1, 1], [1, 0]],
        [True] * 3 + [False],
    )
    with pytest.raises(InputError, match=r"got \[1, 0\] in row 3"):
        lw.fit(towers(), loss, joined, epochs=1)
    lw.fit(towers(), GivenPairsLoss(), joined, epochs=1, progress=False, device="cpu")
    with pytest.raises(InputError, match="encoder must be one for all items to be scored"):
        lw.evaluation.EvaluateEpochs({"seen": labeled})({"epoch": 1}, towers())


@pytest.mark.parametrize(
    ("pairs", "same", "message"),
    [
        ([[0, 2]], None, r"positions below 3 in a and below 2 in b, got \[0, 2\] in row 0"),
        ([[0, 0], [-1, 0]], None, "in row 1"),
        ([[0, 0], [1, 1], [0, 0]], None, "in rows 0 and 2"),
        ([[0, 0]], [False], "same must be True for some pairs"),
        ([[0, 0]], [True, True], "same must"),
        ([[0.0, 1.0]], None, "must be integers"),
        ([[0, 1], [2]], None, "pairs must have rows of one length"),
        ([["a", "b"]], None, "pairs must be numbers"),
        (None, None, "pairs must be rows of 2 positions, got NoneType"),
        ([[0, 0]], ["yes"], "same must be numbers"),
        ([0, 1], None, r"must have shape \(n, 2\)"),
        (torch.empty(0, 2, dtype=torch.int64), None, r"must have shape \(n, 2\)"),
    ],
)
def test_faulty_pairs_are_refused_in_a_sentence(pairs, same, message):
    with pytest.raises(InputError, match=message):
        CrossPairs(vectors(3, 2), vectors(2, 2), pairs, same)
