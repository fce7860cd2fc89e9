"""Pickles and deep copies in memory, for joblib and its like; nothing that is saved is one."""

import copy
import inspect
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import likewise as lw
from likewise import distances, losses, miners
from likewise.index import MilvusGallery
from likewise.masks import masks
from likewise.normalization import AdaptiveNorm

CLASSES, DIM = 3, 4


def pickled(something):
    return pickle.loads(pickle.dumps(something))


COPIES = [pickled, copy.deepcopy]


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def points(count=12, seed=0):
    return torch.nn.functional.normalize(torch.randn(count, DIM, generator=chance(seed)), dim=1)


LABELS = torch.arange(12) % CLASSES


# Distances


@pytest.mark.parametrize("take", [*COPIES, copy.copy])
@pytest.mark.parametrize("name", distances.NAMED)
def test_a_distance_of_ours_comes_back_as_itself(name, take):
    assert take(distances.NAMED[name]) is distances.NAMED[name]


@pytest.mark.parametrize("take", COPIES)
def test_another_distance_is_compared_by_its_own_functions(take):
    theirs = distances.Distance("cosine", torch.cdist, torch.dist)
    assert take(theirs) == theirs
    assert take(theirs) is not distances.COSINE
    norm = AdaptiveNorm(points(9, seed=1), nearest=3)
    ours, again = norm.as_distance(), take(norm.as_distance())
    assert again.name == ours.name
    assert torch.equal(again.matrix(points(), points(5)), ours.matrix(points(), points(5)))
    assert torch.equal(again.paired(points(), points()), ours.paired(points(), points()))


# Losses


def of_classes(kind):
    takes = inspect.signature(kind).parameters
    return kind(DIM, CLASSES) if "class_count" in takes else kind()


MADE = {
    "ClassWeighted": lambda: losses.ClassWeighted(losses.TripletLoss(), [1.0, 2.0, 3.0]),
    "DistillationLoss": lambda: losses.DistillationLoss(points(seed=7)),
    "MarginLoss": lambda: losses.MarginLoss(class_count=CLASSES),
    "MatryoshkaLoss": lambda: losses.MatryoshkaLoss(losses.NTXentLoss(), dims=(4, 2)),
    "CrossBatchMemory": lambda: losses.CrossBatchMemory(
        losses.TripletLoss(), embedding_dim=DIM, copies=True
    ),
    "LearnedThreshold": lambda: losses.LearnedThreshold(1.0),
    "OnViews": lambda: losses.OnViews(losses.SimCLRLoss()),
    "SimSiamLoss": lambda: losses.SimSiamLoss(nn.Linear(DIM, DIM)),
    "Sum": lambda: losses.Sum((0.5, losses.TripletLoss()), losses.ProxyNCALoss(DIM, CLASSES)),
}
EVERY_LOSS = [
    name
    for name in losses.__all__
    if inspect.isclass(kind := getattr(losses, name)) and issubclass(kind, nn.Module)
]


def called(name, loss):
    """The value and the gradients of a step."""
    embeddings = points().requires_grad_()
    if name == "LearnedThreshold":
        sides = torch.split(embeddings, 6)
        value = loss(distances.COSINE.paired(*sides), torch.arange(6) % 2 == 0).sum()
    elif name == "GradedPairsLoss":
        value = loss(*torch.split(embeddings, 6), torch.arange(6.0))
    elif name == "DistillationLoss":
        value = loss(embeddings, LABELS, ids=torch.arange(12))
    elif name.startswith("Given"):
        sides = torch.split(embeddings, 6 if name == "GivenPairsLoss" else 4)
        told = (torch.arange(6) % 2 == 0,) if len(sides) == 2 else ()
        value = loss(*sides, *told)
    elif name in ("BarlowTwinsLoss", "SimCLRLoss", "SimSiamLoss", "VICRegLoss"):
        value = loss(*torch.split(embeddings, 6))
    elif name == "OnViews":
        value = loss(embeddings, torch.arange(6).repeat(2))
    else:
        value = loss(embeddings, LABELS)
    weights = [embeddings, *(each for each in loss.parameters() if each.requires_grad)]
    return value, torch.autograd.grad(value, weights, allow_unused=True)


@pytest.mark.parametrize("take", COPIES)
@pytest.mark.parametrize("name", EVERY_LOSS)
def test_every_loss_goes_on_bit_for_bit_where_it_stood(name, take):
    torch.manual_seed(0)
    loss = MADE[name]() if name in MADE else of_classes(getattr(losses, name))
    called(name, loss)  # leaves facts, and fills what remembers
    again = take(loss)
    assert {**again.facts}.keys() == {**loss.facts}.keys()
    (value, slopes), (expected, all_expected) = called(name, again), called(name, loss)
    assert torch.equal(value, expected)
    assert float(value.detach()) != 0
    for slope, wanted in zip(slopes, all_expected, strict=True):
        assert (slope is None) == (wanted is None)
        assert slope is None or torch.equal(slope, wanted)


# Miners and goals

SETTINGS = {
    "all_semi_hard": [0.5],
    "angular": [30.0],
    "balanced_positive_pairs": [chance(3)],
    "batch_easy_hard": ["easy", "semi_hard"],
    "distance_weighted": [DIM],
    "multi_similarity": [0.2],
    "pair_margin": [0.3, 1.5],
    "random_hard": [0.5, chance(3)],
    "random_semi_hard": [0.5, chance(3)],
    "within_range": [miners.batch_hard],
}
EVERY_MINER = [
    name
    for name in miners.__all__
    if inspect.isfunction(getattr(miners, name)) and name != "works_by_rows"
]


@pytest.mark.parametrize("take", COPIES)
@pytest.mark.parametrize("name", EVERY_MINER)
def test_every_miner_selects_the_same(name, take):
    mine = getattr(miners, name)
    if name in SETTINGS:
        mine = mine(*SETTINGS[name])
    again = take(mine)
    matrix = distances.EUCLIDEAN.matrix(points(), points())
    mined = []
    for each in (mine, again):
        torch.manual_seed(0)
        mined.append(each(matrix, *masks(LABELS)))
    for ours, theirs in zip(*mined, strict=True):
        if not isinstance(ours, torch.Tensor) and callable(ours):
            ours, theirs = (
                rule(matrix[:4], matrix[4:8], matrix[8:]) for rule in (ours, take(theirs))
            )
        assert (
            torch.equal(*map(torch.as_tensor, (ours, theirs))) if ours is not None else not theirs
        )


GOALS = [
    lw.best_f1,
    lw.best_accuracy,
    lw.equal_error,
    lw.calibration.balanced(0.3),
    lw.at_most_false_accepts(0.3),
    lw.at_most_false_accepts(0.4, cautious=True),
    lw.at_most_false_accepts(0.4, confidence=0.8),
    lw.at_least_precision(0.6),
    lw.at_least_recall(0.7),
    lw.least_cost(prior=0.2, miss_cost=2.0, false_accept_cost=3.0),
]


@pytest.mark.parametrize("take", COPIES)
@pytest.mark.parametrize("goal", GOALS, ids=lw.calibration.goal_name)
def test_every_goal_chooses_the_same(goal, take):
    rng = chance()
    same = torch.arange(60) < 30
    found = torch.rand(60, generator=rng) + ~same * 0.4
    made = [
        lw.calibrate(found, same, goal=each, items=torch.arange(60)) for each in (goal, take(goal))
    ]
    assert made[0] == made[1] == pickled(made[0])
    for name in ("of_mix", "rate"):
        assert getattr(take(goal), name, None) == getattr(goal, name, None)


# Indexes


def filled(index):
    index.add(
        points(40),
        ids=[f"item {n}" for n in range(40)],
        labels=[["cat", "dog", None][n % 3] for n in range(40)],
        metadata=[{"n": n, "fingerprint": n} if n % 2 else {} for n in range(40)],
        payloads=[b"picture" if n == 3 else None for n in range(40)],
    )
    index.remove(["item 0"])
    index.relabel(["item 1"], ["owl"])
    return index


def is_alike(one, other):
    queries = points(9, seed=5)
    for where in (None, {"n": {">": 20}}):
        ours, theirs = (each.lookup(queries, k=5, where=where) for each in (one, other))
        assert (ours.ids == theirs.ids).all()
        assert torch.equal(ours.distances, theirs.distances)
        assert torch.equal(ours.labels, theirs.labels)
    then, now = one.state(), other.state()
    assert all(np.array_equal(then.pop(name), now.pop(name)) for name in ("ids", "labels"))
    assert torch.equal(then.pop("embeddings"), now.pop("embeddings"))
    assert then == now
    assert (
        one.get(["item 7"]).metadata
        == other.get(["item 7"]).metadata
        == [{"n": 7, "fingerprint": 7}]
    )


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_an_index_answers_bit_for_bit_and_changes_alone(storage):
    index = filled(lw.Index(distances.EUCLIDEAN, storage=storage, recall=0.9))
    again = pickled(index)
    is_alike(index, again)
    again.add(points(1), ids=["new"], labels=["emu"])
    again.remove(["item 5"])
    assert (len(index), len(again)) == (39, 39)
    assert index.class_names == ["cat", "dog", "owl"]
    with pytest.raises(ValueError, match="ids must be new"):
        again.add(points(1), ids=["item 7"])
    assert again.recall == 0.9


def test_an_index_of_numbers_goes_on_with_its_ids():
    index = lw.Index()
    index.add(points(3))
    index.remove([2])
    assert pickled(index).add(points(1)).tolist() == [3] == index.add(points(1)).tolist()
    assert len(pickled(lw.Index(class_names=["cat"]))) == 0


def test_arrays_that_cannot_be_written_to_are_copied(tmp_path):
    import joblib

    index = filled(lw.Index())
    joblib.dump(index, tmp_path / "index")
    mapped = joblib.load(tmp_path / "index", mmap_mode="r")
    is_alike(index, mapped)
    mapped.add(points(1), ids=["new"])
    assert len(mapped) == 40


def test_a_gallery_is_opened_again_to_be_read(tmp_path):
    with lw.Gallery(tmp_path / "gallery", distance=distances.EUCLIDEAN) as gallery:
        filled(gallery)
        with pickled(gallery) as again:
            is_alike(gallery, again)
            with pytest.raises(lw.GalleryError, match="must be opened for writing"):
                again.remove(["item 3"])
            gallery.remove(["item 3"])
            assert len(again) == len(gallery) == 38
        left = pickle.dumps(gallery)
        with pytest.raises(lw.InputError, match="must be in memory to be copied"):
            copy.deepcopy(gallery)
    with pytest.raises(lw.GalleryError, match="gallery must be open"):
        pickle.dumps(gallery)
    (tmp_path / "gallery").rename(tmp_path / "moved")
    with pytest.raises(lw.GalleryError, match="must be the folder of a gallery"):
        pickle.loads(left)


def test_an_open_connection_is_refused_in_one_sentence(tmp_path):
    pytest.importorskip("milvus_lite")
    with MilvusGallery(tmp_path / "lite.db", collection="mine") as gallery:
        for dump in (pickle.dumps, pickled):
            with pytest.raises(lw.InputError, match="pickled, got the collection 'mine', an open"):
                dump(gallery)


# Models


def a_model(distance=distances.COSINE):
    digits = lw.data.load("digits", split="train")
    test = lw.data.load("digits", split="test")
    torch.manual_seed(0)
    encoder = lw.encoders.MLPEncoder(digits.item_shape, embedding_dim=8)
    model = lw.SimilarityModel(
        encoder,
        distance=distance,
        preprocess=lw.data.Preprocess.fit(digits),
        trained=lw.data.Subset(digits, range(100)),
    )
    known = lw.data.choose_classes(digits, list("01234567"))
    model.add(lw.data.sample_items(known, per_class=5), keep_pictures=True)
    model.calibrate(lw.data.Subset(test, range(200)))
    model.calibrate(lw.data.Subset(test, range(200)), rule="pairs")
    return model, lw.data.Subset(test, range(200, 260))


@pytest.mark.parametrize("take", COPIES)
def test_a_model_decides_bit_for_bit(take, tmp_path):
    model, queries = a_model()
    model.use_cohort(lw.data.Subset(queries, range(30)), nearest=10)
    model.calibrate(queries)
    again = take(model)
    ours, theirs = (each.match(queries) for each in (model, again))
    assert 0 < int(ours.accepted.sum()) < len(queries)
    for name in ("labels", "distances", "probabilities"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert torch.equal(pickled(ours).labels, ours.labels)
    assert str(again.calibrations) == str(model.calibrations)  # some numbers in it are NaN
    again.index.clear()
    assert len(model.index) == 40
    model.save(tmp_path / "model")  # as always, which is no pickle
    taken = take(lw.load(tmp_path / "model"))
    assert torch.equal(taken.match(queries).labels, ours.labels)
    taken.save(tmp_path / "model")


def test_a_model_takes_its_gallery_along_by_its_folder(tmp_path):
    model, queries = a_model()
    embedded = model.embedded(queries)
    with model.use_gallery(tmp_path / "gallery"):
        model.add(queries)
        again = pickled(model)
        assert torch.equal(again.lookup(embedded).distances, model.lookup(embedded).distances)
        again.index.close()


ELSEWHERE = """
import pickle, sys
import torch
import likewise as lw

model, index, embedded = pickle.load(sys.stdin.buffer)
matches = model.match(embedded)
found = index.lookup(torch.eye(4), k=3)
gotten = index.get(["item 7"]).metadata
sys.stdout.buffer.write(pickle.dumps((matches, found, gotten, lw.distances.COSINE)))
"""


def test_another_process_decides_bit_for_bit():
    model, queries = a_model()
    index, embedded = filled(lw.Index()), model.embedded(queries)
    source = os.path.dirname(os.path.dirname(lw.__file__))
    # Strings have other hashes there.
    env = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": source}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=pickle.dumps((model, index, embedded)),
        stdout=subprocess.PIPE,
        env=env,
        check=True,
    )
    matches, found, gotten, cosine = pickle.loads(done.stdout)
    assert torch.equal(matches.labels, model.match(embedded).labels)
    assert torch.equal(matches.distances, model.match(embedded).distances)
    assert (found.ids == index.lookup(torch.eye(4), k=3).ids).all()
    assert gotten == [{"n": 7, "fingerprint": 7}]
    assert cosine is distances.COSINE
