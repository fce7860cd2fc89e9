import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import likewise as lw
from likewise import losses
from likewise.data import ArrayDataset, GivenPairs, PairDataset, Subset
from likewise.evaluation.during import EvaluateEpochs, _at_most, seen_and_unseen


def blobs(classes=6, per_class=20, seed=0, names=None):
    rng = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(classes, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(classes).repeat(per_class)
    items = centers[labels] + 1.5 * torch.randn(classes * per_class, 6, generator=rng)
    return ArrayDataset(items, labels, names)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def fit(callbacks, encoder=None, **settings):
    encoder = network() if encoder is None else encoder
    settings = {"epochs": 4, "device": "cpu", "batches": 3} | settings
    return encoder, lw.fit(encoder, losses.TripletLoss(), blobs(), callbacks=callbacks, **settings)


def double(items):
    return 2 * items + 1


def test_numbers_are_those_of_the_evaluations_of_the_same_embeddings():
    seen, unseen = blobs(5, seed=1), blobs(3, 11, seed=2)
    encoder = network().eval()
    scores = EvaluateEpochs({"seen": seen, "unseen": unseen}, preprocess=double, per_item=3.0)
    record = {"epoch": 1}
    scores(record, encoder)
    expected = {"epoch": 1}
    for name, part in (("seen", seen), ("unseen", unseen)):
        embeddings = lw.encode(encoder, part, preprocess=double)
        retrieval = lw.evaluation.evaluate_retrieval(embeddings, part.labels, ks=(1,))
        for number in ("precision_at_1", "r_precision", "map_at_r"):
            expected[f"{name}_{number}"] = float(getattr(retrieval, number))
        pairs = PairDataset(part, per_item=3.0, seed=0)
        a, b = pairs.pairs.T
        distances = lw.distances.COSINE.paired(embeddings[a], embeddings[b])
        expected[f"{name}_roc_auc"] = roc_auc_score(pairs.same, -distances.double())
        judged = lw.evaluation.evaluate_verification(distances, pairs.same)
        expected[f"{name}_equal_error_rate"] = float(judged.equal_error_rate)
    assert record == pytest.approx(expected, abs=1e-6)
    assert list(record)[1:] == scores.names
    assert 0.2 < record["unseen_map_at_r"] < 0.95


def test_queries_are_looked_up_in_the_gallery_by_the_names_of_classes():
    gallery = blobs(5, 8, seed=1, names=["e", "d", "c", "b", "a"])
    queries = blobs(4, 9, seed=2, names=["e", "d", "unknown", "b"])
    encoder = network().eval()
    scores = EvaluateEpochs(
        {"all": queries}, gallery=gallery, distance=lw.distances.EUCLIDEAN, per_item=2.0
    )
    record = {"epoch": 1}
    scores(record, encoder)
    nearest = KNeighborsClassifier(1).fit(
        lw.encode(encoder, gallery), [gallery.class_names[code] for code in gallery.labels]
    )
    named = nearest.predict(lw.encode(encoder, queries))
    truth = np.array([queries.class_names[code] for code in queries.labels])
    known = truth != "unknown"
    assert record["all_precision_at_1"] == pytest.approx((named == truth)[known].mean())
    assert 0 < record["all_precision_at_1"] < 1


def test_given_pairs_have_the_numbers_of_pairs_only():
    data, encoder = blobs(seed=3), network().eval()
    pairs = PairDataset(data, 2.0, seed=5)
    given_pairs = GivenPairs(data, pairs.pairs, pairs.same)
    record, few = {"epoch": 1}, {"epoch": 1}
    EvaluateEpochs({"pairs": given_pairs})(record, encoder)
    distances = lw.distances.COSINE.paired(
        *lw.encode(encoder, data)[pairs.pairs.T.flatten()].chunk(2)
    )
    assert set(record) == {"epoch", "pairs_roc_auc", "pairs_equal_error_rate"}
    assert record["pairs_roc_auc"] == pytest.approx(
        roc_auc_score(pairs.same, -distances.double()), abs=1e-6
    )
    part = EvaluateEpochs({"pairs": given_pairs}, most=40).parts["pairs"]
    assert (len(part.pairs), len(part.items)) == (20, len(torch.unique(part.pairs)))
    EvaluateEpochs({"pairs": given_pairs}, most=40)(few, encoder)
    assert few["pairs_roc_auc"] != record["pairs_roc_auc"]


def test_the_first_epoch_and_each_so_many_are_scored_and_the_others_have_no_numbers():
    scores = EvaluateEpochs({"unseen": blobs(seed=4)}, every=3, most=30)
    _, history = fit([scores], epochs=7)
    scored = [r["epoch"] for r in history.records if set(scores.names) <= set(r)]
    without = [r["epoch"] for r in history.records if not set(scores.names) & set(r)]
    assert scored == [1, 3, 6]
    assert without == [2, 4, 5, 7]


def test_scoring_changes_nothing_about_the_training():
    plain, _ = fit([])
    scored, history = fit([EvaluateEpochs({"unseen": blobs(seed=4)})])
    for before, after in zip(plain.parameters(), scored.parameters(), strict=True):
        assert torch.equal(before, after)
    assert history[3]["unseen_map_at_r"] != history[0]["unseen_map_at_r"]


def test_the_same_seed_scores_the_same_items_and_pairs_and_another_seed_others():
    first, again, other = (
        EvaluateEpochs({"x": blobs(seed=4)}, most=50, seed=seed).parts["x"] for seed in (3, 3, 4)
    )
    assert torch.equal(first.items.source_indices, again.items.source_indices)
    assert torch.equal(first.pairs, again.pairs)
    assert not torch.equal(first.items.source_indices, other.items.source_indices)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=12),
    st.integers(4, 60),
    st.integers(0, 5),
)
def test_of_large_parts_each_class_gives_a_few_items_in_turn(sizes, most, seed):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    data = ArrayDataset(torch.rand(len(labels), 1), labels)
    chosen = _at_most(data, most, seed)
    assert len(chosen) == min(most, len(data))
    if len(data) <= most:
        return
    assert len(set(chosen.source_indices.tolist())) == most
    counts = chosen.labels.bincount(minlength=len(sizes)).tolist()
    # In the round that cut them off, classes differ by one round, but for those that ran out.
    rounds = [-(-count // 4) for count, size in zip(counts, sizes, strict=True) if count < size]
    assert max(rounds) - min(rounds) <= 1
    assert max(-(-count // 4) for count in counts) <= max(rounds) + 1
    partial = [c for c, size in zip(counts, sizes, strict=True) if c % 4 and c < size]
    assert len(partial) <= 1


def test_siamese_nets_are_scored_by_their_encoder():
    inner = network().eval()
    scores, plain, wrapped = EvaluateEpochs({"x": blobs()}), {"epoch": 1}, {"epoch": 1}
    scores(plain, inner)
    scores(wrapped, lw.encoders.SiameseNet(inner))
    assert plain == wrapped


def test_seen_and_unseen_classes_are_told_apart_and_trained_items_left_out():
    data = blobs(4, 5)
    trained = Subset(data, (data.labels < 2).nonzero().flatten()[3:])
    parts = seen_and_unseen(data, trained)
    rows = {name: set(part.source_indices.tolist()) for name, part in parts.items()}
    assert rows["seen"] == {row for row in range(20) if int(data.labels[row]) < 2} - set(
        trained.source_indices.tolist()
    )
    assert rows["unseen"] == {row for row in range(20) if int(data.labels[row]) >= 2}
    assert set(seen_and_unseen(trained, data)) == set()
    renamed = ArrayDataset(torch.rand(4, 6), [0, 1, 0, 1], ["0", "x"])
    parts = seen_and_unseen(renamed, trained)
    assert {name: part.labels.tolist() for name, part in parts.items()} == {
        "seen": [0, 0],
        "unseen": [1, 1],
    }


@pytest.mark.parametrize(
    ("parts", "settings", "message"),
    [
        ({}, {}, "parts must hold at least one, got none"),
        (
            {"one": Subset(blobs(), range(0, 120, 6))},
            {},
            "parts must each hold 2 classes, one of them with 2 items, got 'one' with 20 items of",
        ),
        ({"few": Subset(blobs(), range(6))}, {}, "got 'few' with 6 items of 6. Keep more items"),
        ({"x": blobs()}, {"every": 0}, "every must be at least 1"),
        ({"x": blobs()}, {"most": 4}, "most must be at least 5"),
        (
            {"x": GivenPairs(blobs(), [[0, 1], [2, 3]], [True, True])},
            {},
            "parts must each hold pairs of both kinds, got 'x' with 2 same and 0 different",
        ),
        (
            {"x": blobs()},
            {"gallery": blobs(names=list("abcdef"))},
            "gallery must hold some class of every part, got none of those of 'x'",
        ),
        (
            {"x": blobs()},
            {"gallery": Subset(blobs(), range(10))},
            "gallery must not hold queries, got 10 of 'x', which would find themselves",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_before_the_training(parts, settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluateEpochs(parts, **settings)


@pytest.mark.parametrize(
    ("parts", "settings", "message"),
    [
        ([blobs()], {}, "parts must be datasets or pairs by name, got list. Give e.g."),
        ({"x": torch.eye(3)}, {}, "parts must be datasets or pairs by name, got Tensor as 'x'."),
        ({"x": blobs()}, {"distance": "cosine"}, "distance must be a Distance, got 'cosine'."),
    ],
)
def test_what_is_of_another_kind_is_refused_before_the_training(parts, settings, message):
    with pytest.raises(TypeError, match=message):
        EvaluateEpochs(parts, **settings)


def test_embeddings_that_are_all_one_point_are_scored_by_chance():
    class Constant(nn.Module):
        def forward(self, items):
            return torch.ones(len(items), 2)

    record = {"epoch": 1}
    EvaluateEpochs({"x": blobs(4, 25)})(record, Constant())
    assert record["x_roc_auc"] == 0.5
    assert record["x_equal_error_rate"] == 0.5


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_scores_on_cuda_are_those_of_the_cpu(precision):
    scores = EvaluateEpochs({"unseen": blobs(seed=4)}, preprocess=double)
    encoder, history = fit([scores], device="cuda", precision=precision, preprocess=double)
    record = {"epoch": 1}
    scores(record, encoder)
    tolerance = 1e-3 if precision == "float32" else 0.03
    for name in scores.names:
        assert history[3][name] == pytest.approx(record[name], abs=tolerance)


class Partly(torch.utils.data.Dataset):
    """The items of a dataset with every `every`-th one unlabeled, as another program may give."""

    def __init__(self, whole, every):
        self.whole = whole
        self.labels = whole.labels.clone()
        self.labels[::every] = -1
        self.class_names, self.item_shape = whole.class_names, whole.item_shape

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        return self.whole[index][0], int(self.labels[index])


def test_unlabeled_items_are_left_out_of_parts_and_gallery():
    queries, known = blobs(5, seed=1), blobs(5, seed=2)
    encoder = network().eval()
    labeled = [torch.arange(100) % 7 > 0, torch.arange(100) % 3 > 0]
    plain, record = {"epoch": 1}, {"epoch": 1}
    parts = [
        Subset(data, rows.nonzero().flatten())
        for data, rows in zip((queries, known), labeled, strict=True)
    ]
    EvaluateEpochs({"seen": parts[0]}, gallery=parts[1])(plain, encoder)
    EvaluateEpochs({"seen": Partly(queries, 7)}, gallery=Partly(known, 3))(record, encoder)
    assert record == plain


def test_an_unlabeled_item_is_neither_of_a_seen_class_nor_of_an_unseen_one():
    # The last class has no items of its own: a code of -1 must not stand for it.
    names = ["a", "b", "c", "never"]
    data = Partly(ArrayDataset(torch.eye(9), torch.arange(9) % 3, names), 4)
    parts = seen_and_unseen(data, Partly(ArrayDataset(torch.ones(2, 9), [0, 3], names), 1))
    assert list(parts) == ["unseen"]
    assert parts["unseen"].labels.tolist() == data.labels[data.labels >= 0].tolist()
    parts = seen_and_unseen(data, ArrayDataset(torch.ones(2, 9), [0, 3], names))
    assert sorted(set(parts["seen"].labels.tolist())) == [0]
