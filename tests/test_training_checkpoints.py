import functools
import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import likewise as lw
from likewise import losses, miners
from likewise.augment import Augment
from likewise.data import (
    ArrayDataset,
    GivenPairs,
    GivenTriplets,
    PairDataset,
    Preprocess,
    TripletDataset,
    ViewDataset,
)
from likewise.samplers import BalancedBatchSampler
from likewise.training import settings
from likewise.training.settings import described, differences


def points(shift=0.0, swap=False, count=40):
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    if swap:
        labels[:2] = labels[[1, 0]]
    return ArrayDataset(torch.randn(count, 6, generator=rng) + shift, labels)


def network(width=8, dropout=0.2, frozen=False):
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(6, width), nn.BatchNorm1d(width), nn.Dropout(dropout), nn.Linear(width, 3)
    )
    layers[0].requires_grad_(not frozen)
    return layers


def fit(encoder=None, loss=None, data=None, **more):
    encoder = network() if encoder is None else encoder
    loss = losses.TripletLoss() if loss is None else loss
    data = points() if data is None else data
    more = {"epochs": 1, "device": "cpu", "batches": 2} | more
    return encoder, lw.fit(encoder, loss, data, **more)


def triplet(**more):
    return lambda: losses.TripletLoss(**more)


def sgd(**more):
    def make(encoder):
        return torch.optim.SGD(encoder.parameters(), **{"lr": 0.1} | more)

    return make


def noise(size):
    def add(items):
        return items + size * torch.randn_like(items)

    return add


def half(items):
    return items * 0.5


def double(items):
    return items * 2.0


class Scaled:
    def __init__(self, by):
        self.by = by

    def __call__(self, items):
        return items * self.by


PAIRS, OTHER_PAIRS = [[0, 1], [0, 4]], [[0, 2], [0, 4]]


def given_pairs(pairs, same):
    return lambda: GivenPairs(points(), pairs, same)


# What differs, then and now; a function makes a new one for each training.
CHANGES = {
    "loss TripletLoss instead of ContrastiveLoss": (
        {},
        {"loss": losses.ContrastiveLoss},
    ),
    "loss margin 0.2 instead of 5.0": ({}, {"loss": triplet(margin=5.0)}),
    "loss margin 0.2 instead of None": ({}, {"loss": triplet(margin=None)}),
    "loss distance name euclidean instead of cosine": (
        {},
        {"loss": triplet(distance=lw.distances.COSINE)},
    ),
    "loss miner .*margin 0.2 instead of 0.3": (
        {"loss": triplet(miner=miners.random_hard(0.2))},
        {"loss": triplet(miner=miners.random_hard(0.3))},
    ),
    "loss cost margin 1.0 instead of 2.0": (
        {
            "loss": lambda: losses.GivenPairsLoss(
                functools.partial(losses.contrastive_loss, margin=1.0)
            ),
            "data": lambda: PairDataset(points()),
        },
        {
            "loss": lambda: losses.GivenPairsLoss(
                functools.partial(losses.contrastive_loss, margin=2.0)
            ),
            "data": lambda: PairDataset(points()),
        },
    ),
    "loss weights": (
        {"loss": lambda: losses.Sum(losses.TripletLoss(), (0.5, losses.ContrastiveLoss()))},
        {"loss": lambda: losses.Sum(losses.TripletLoss(), (0.25, losses.ContrastiveLoss()))},
    ),
    "loss centers class_count 4 instead of 5": (
        {"loss": lambda: losses.ArcFaceLoss(3, 4)},
        {"loss": lambda: losses.ArcFaceLoss(3, 5)},
    ),
    "learning_rate 0.001 instead of 0.5": ({}, {"learning_rate": 0.5}),
    "loss_learning_rate None instead of 0.1": (
        {"loss": lambda: losses.SoftmaxLoss(3, 4)},
        {"loss": lambda: losses.SoftmaxLoss(3, 4), "loss_learning_rate": 0.1},
    ),
    "weight_decay 0.0 instead of 0.5": ({}, {"weight_decay": 0.5}),
    "optimizer None instead of SGD": ({}, {"optimizer": sgd()}),
    "optimizer group 1 lr 0.1 instead of 0.2": ({"optimizer": sgd()}, {"optimizer": sgd(lr=0.2)}),
    "optimizer group 1 momentum 0 instead of 0.9": (
        {"optimizer": sgd()},
        {"optimizer": sgd(momentum=0.9)},
    ),
    "other schedule": ({}, {"schedule": lw.training.constant}),
    "seed 0 instead of 1": ({}, {"seed": 1}),
    "epochs 1 instead of 2": ({}, {"epochs": 2}),
    "batches 2 instead of 3": ({}, {"batches": 3}),
    "precision float32 instead of bfloat16": ({}, {"precision": "bfloat16"}),
    "other data values": ({}, {"data": lambda: points(1e-6)}),
    "other data labels": ({}, {"data": lambda: points(swap=True)}),
    "data items 40 instead of 44": ({}, {"data": lambda: points(count=44)}),
    "other data sides pairs": (
        {"loss": losses.GivenPairsLoss, "data": given_pairs(PAIRS, [False, True])},
        {"loss": losses.GivenPairsLoss, "data": given_pairs(OTHER_PAIRS, [False, True])},
    ),
    "other data sides same": (
        {"loss": losses.GivenPairsLoss, "data": given_pairs(PAIRS, [False, True])},
        {"loss": losses.GivenPairsLoss, "data": given_pairs(PAIRS, [True, False])},
    ),
    "other data sides triplets": (
        {
            "loss": losses.GivenTripletsLoss,
            "data": lambda: GivenTriplets(points(), [[0, 4, 1], [1, 5, 2]]),
        },
        {
            "loss": losses.GivenTripletsLoss,
            "data": lambda: GivenTriplets(points(), [[0, 4, 1], [1, 5, 3]]),
        },
    ),
    "data sides seed 0 instead of 1": (
        {"loss": losses.GivenPairsLoss, "data": lambda: PairDataset(points(), fresh=True)},
        {"loss": losses.GivenPairsLoss, "data": lambda: PairDataset(points(), seed=1, fresh=True)},
    ),
    "data values": (
        {"loss": losses.GivenTripletsLoss, "data": lambda: TripletDataset(points(), fresh=True)},
        {"loss": losses.GivenTripletsLoss, "data": lambda: TripletDataset(points(3), fresh=True)},
    ),
    "data sides view size 0.1 instead of 0.2": (
        {"data": lambda: ViewDataset(points(), noise(0.1), labels="classes")},
        {"data": lambda: ViewDataset(points(), noise(0.2), labels="classes")},
    ),
    "encoder Sequential instead of Linear": ({}, {"encoder": lambda: nn.Linear(6, 3)}),
    r"encoder 0 weight \(8, 6\) torch.float32 instead of \(9, 6\)": (
        {},
        {"encoder": lambda: network(width=9)},
    ),
    "encoder 2 p 0.2 instead of 0.5": ({}, {"encoder": lambda: network(dropout=0.5)}),
    r"encoder 0 weight .* frozen": ({}, {"encoder": lambda: network(frozen=True)}),
    "preprocess None instead of half": ({}, {"preprocess": half}),
    "preprocess half instead of double": ({"preprocess": half}, {"preprocess": double}),
    "other preprocess code": (
        {"preprocess": lambda items: items * 0.5},
        {"preprocess": lambda items: items * 0.25},
    ),
    "preprocess by 2 instead of 3": ({"preprocess": Scaled(2)}, {"preprocess": Scaled(3)}),
    "preprocess of mean": (
        {"preprocess": Preprocess((6,), (0.0,), (1.0,)).apply},
        {"preprocess": Preprocess((6,), (0.5,), (1.0,)).apply},
    ),
    "augment size 0.1 instead of 0.2": ({"augment": noise(0.1)}, {"augment": noise(0.2)}),
    "augment_after 0 instead of 1": (
        {"augment": noise(0.1)},
        {"augment": noise(0.1), "augment_after": 1},
    ),
    "batch_sampler classes_per_batch 4 instead of 2": ({}, {"classes_per_batch": 2}),
}


def made(choices):
    """The arguments of a training, each made anew."""
    named = {
        name: value() if name in ("encoder", "loss", "data") else value
        for name, value in choices.items()
    }
    named.setdefault("encoder", network())
    if "optimizer" in named:
        named["optimizer"] = named["optimizer"](named["encoder"])
    return named


@pytest.mark.parametrize("difference", CHANGES)
def test_a_checkpoint_of_another_training_is_refused_by_what_differs(difference, tmp_path):
    then, now = CHANGES[difference]
    first, history = fit(**made(then), checkpoint=tmp_path)
    other = made(now)
    before = {name: value.clone() for name, value in other["encoder"].state_dict().items()}
    with pytest.raises(
        lw.InputError,
        match=rf"^checkpoint must be of this training, got '.*' with .*{difference}.*\. Train as "
        r"before; or .* training\.load_weights\(checkpoint, encoder\)\.$",
    ):
        fit(**other, checkpoint=tmp_path)
    for name, value in other["encoder"].state_dict().items():
        assert torch.equal(value, before[name])
    again, read = fit(**made(then), checkpoint=tmp_path)
    assert read.records == history.records
    for name, value in again.state_dict().items():
        assert torch.equal(value, first.state_dict()[name])


def test_where_and_how_a_training_is_watched_may_differ(tmp_path):
    fit(checkpoint=tmp_path)
    _, history = fit(
        checkpoint=tmp_path,
        workers=1,
        device=None,
        progress=lambda *numbers: None,
        callbacks=[lambda record, encoder: None],
    )
    assert len(history) == 1


class Interrupted(Exception):
    pass


def interrupt(*numbers):
    if numbers[0] == 2:
        raise Interrupted


def test_the_same_objects_go_on_though_a_training_changed_them(tmp_path):
    # As in a notebook, where the cell is run again after an interruption.
    encoder = network()
    data = PairDataset(points(), fresh=True)
    loss = losses.GivenPairsLoss(losses.LearnedThreshold(0.5))
    optimizer = torch.optim.SGD([*encoder.parameters(), *loss.parameters()], lr=0.1)
    sampler = BalancedBatchSampler(
        points().labels, classes_per_batch=3, items_per_class=4, batches=2
    )
    calls = 0

    def count(items):
        nonlocal calls
        calls += 1
        return items

    pairs = {"data": data, "loss": loss, "optimizer": optimizer}
    proxies = losses.ArcFaceLoss(3, 200, class_share=0.5)  # draws classes in every call
    memory = losses.CrossBatchMemory(losses.ContrastiveLoss(), embedding_dim=3, size=50)
    for number, given in enumerate(
        (
            pairs,
            {"loss": proxies, "batch_sampler": sampler},
            {"loss": memory},
            {"precision": "bfloat16"},
        )
    ):
        again = {"encoder": encoder, "epochs": 3, "preprocess": count} | given
        again["checkpoint"] = tmp_path / str(number)
        with pytest.raises(Interrupted):
            fit(**again, progress=interrupt)
        _, history = fit(**again)
        assert len(history) == 3


def test_a_checkpoint_of_an_older_release_is_refused(tmp_path):
    fit(checkpoint=tmp_path)
    path = tmp_path / "checkpoint.json"
    manifest = json.loads(path.read_text())
    kept = dict(manifest["state"]["items"])
    kept["settings"] = {"items": [["epochs", 1], ["batches", 2], ["seed", 0]]}
    manifest["state"] = {"items": list(map(list, kept.items()))}
    path.write_text(json.dumps(manifest))
    with pytest.raises(lw.InputError, match="with no word of its loss and data, as an older like"):
        fit(checkpoint=tmp_path)
    lw.training.load_weights(tmp_path, network())


def test_weights_of_a_checkpoint_begin_another_training(tmp_path):
    loss = losses.SoftmaxLoss(3, 4)
    encoder, _ = fit(loss=loss, checkpoint=tmp_path / "first", epochs=2)
    again, loss_again = nn.Sequential(*network(dropout=0.9)), losses.SoftmaxLoss(3, 4)
    lw.training.load_weights(tmp_path / "first", again, loss_again)
    for part, twin in ((encoder, again), (loss, loss_again)):
        for name, value in part.state_dict().items():
            assert torch.equal(value, twin.state_dict()[name])
    fit(again, loss=losses.ContrastiveLoss(), learning_rate=1e-4, checkpoint=tmp_path / "second")


@pytest.mark.parametrize(
    ("encoder", "loss", "message"),
    [
        (lambda: network(width=9), None, r"encoder must have .*got a Sequential with '0.weight'"),
        (lambda: nn.Linear(6, 3), None, "encoder must have .*got a Linear with 'weight'"),
        (network, lambda: losses.SoftmaxLoss(3, 5), "loss must have .*got a SoftmaxLoss with 'cla"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(encoder, loss, message, tmp_path):
    fit(checkpoint=tmp_path)
    encoder, loss = encoder(), loss and loss()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(lw.InputError, match=message):
        lw.training.load_weights(tmp_path, encoder, loss)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_folder_without_a_checkpoint_has_no_weights(tmp_path):
    with pytest.raises(lw.InputError, match=r"checkpoint must be a folder that fit\(checkpoint="):
        lw.training.load_weights(tmp_path / "nowhere", network())
    fit(callbacks=[lw.training.KeepBest("loss", folder=tmp_path)])
    with pytest.raises(lw.InputError, match="KeepBest wrote are read by its restore"):
        lw.training.load_weights(tmp_path, network())


SECOND = """
import sys
import torch
import likewise as lw

try:
    lw.fit(
        torch.nn.Linear(5, 2), lw.losses.TripletLoss(),
        lw.data.load((torch.randn(40, 5), torch.arange(40) % 4)),
        epochs=1, device="cpu", checkpoint=sys.argv[1],
    )
except lw.InputError as error:
    print(error)
"""


def test_two_processes_do_not_write_one_checkpoint(tmp_path):
    told = []

    def meanwhile(record, encoder):
        other = subprocess.run(
            [sys.executable, "-c", SECOND, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        told.append(other.stdout)

    fit(checkpoint=tmp_path, callbacks=[meanwhile])
    assert told[0].startswith("checkpoint must be of one training at a time, got ")
    fit(checkpoint=tmp_path)  # the lock is given back


def test_a_folder_is_not_locked_after_a_training_that_failed(tmp_path):
    with pytest.raises(Interrupted):
        fit(epochs=2, checkpoint=tmp_path, progress=interrupt)
    fit(epochs=2, checkpoint=tmp_path)


def test_equal_settings_are_equal_through_json_and_other_objects():
    def choice():
        return {
            "loss": losses.MultiSimilarityLoss(miner=miners.multi_similarity(0.2)),
            "augment": Augment(degrees=5.0),
            "path": functools.partial(Scaled, by=np.float32(0.5)),
            "limits": (math.inf, math.nan, {"b", "a"}),
            "values": torch.arange(3),
        }

    first, second = described(choice()), described(choice())
    assert first == second == json.loads(json.dumps(first))
    assert list(differences(first, second)) == []
    cyclic = Scaled(2)
    cyclic.by = cyclic
    assert described(cyclic) == {"kind": "Scaled", "by": "Scaled"}


def test_what_a_function_reads_outside_counts_and_what_it_sets_does_not():
    def made(code, **outside):
        exec(code, outside)
        return described(outside["f"])

    reads = "def f(x):\n    return x * size"
    counts = "def f(x):\n    global size\n    size += 1\n    return x"
    assert made(reads, size=1) == made(reads, size=1) != made(reads, size=2)
    assert made(counts, size=1) == made(counts, size=2)
    assert made(reads) != made(reads.replace("*", "+"))


def test_random_items_do_not_count_but_their_labels_do():
    class Noisy(torch.utils.data.Dataset):
        def __init__(self, draw, swap=False):
            self.whole, self.draw = points(swap=swap), draw
            self.labels, self.class_names = self.whole.labels, self.whole.class_names

        def __len__(self):
            return len(self.whole)

        def __getitem__(self, index):
            item, label = self.whole[index]
            return item + self.draw(), label

    for draw in (lambda: torch.randn(1), random.random, lambda: float(np.random.rand())):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        first = settings.dataset(Noisy(draw))
        assert torch.equal(torch.get_rng_state(), state)
        assert first["values"] is None
        assert first == settings.dataset(Noisy(draw))
        assert first != settings.dataset(Noisy(draw, swap=True))
    assert settings.dataset(points())["values"] is not None


def test_of_large_data_only_some_items_are_read():
    read = []

    class Counted(ArrayDataset):
        def __getitems__(self, indices):
            read.append(len(indices))
            return super().__getitems__(indices)

    settings.dataset(Counted(torch.zeros(9000, 2), torch.arange(9000) % 4))
    assert read == [settings.MOST_ITEMS] * 2
    read.clear()
    settings.dataset(Counted(torch.zeros(40, 3, 300, 300), torch.arange(40) % 4))
    assert read == [settings.FEWEST_ITEMS] * 2
