"""The raw input beside a model, wherever numbers on held-out classes are told."""

import pytest
import torch
from torch import nn

import likewise as lw
from likewise.encoders import BesideRawInput, RawInput, tf_idf
from likewise.evaluation import EvaluateEpochs, baseline, compare_with_baseline, evaluate_retrieval
from likewise.evaluation.verifying import evaluate_verification

DIGITS = lw.data.load("digits", split="train")


def clustered(items=120, classes=12, width=16, seed=0):
    """Rows of noise, and of the classes alone."""
    noise = torch.randn(items, width, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(items) % classes
    return noise, torch.eye(classes)[labels] + 0.01 * noise[:, :classes], labels


def test_large_images_are_averaged_and_lose_their_mean():
    images = torch.rand(2, 3, 64, 48)
    rows = RawInput(images.shape[1:])(images)
    blocks = images.unflatten(2, (32, 2)).mean(3)  # of two rows each
    columns = nn.functional.adaptive_avg_pool1d(blocks.flatten(0, 2), 32).view(2, -1)
    torch.testing.assert_close(rows, columns - columns.mean(1, keepdim=True))
    small = torch.rand(2, 1, 8, 5)
    expected = small.flatten(1) - small.flatten(1).mean(1, keepdim=True)
    torch.testing.assert_close(RawInput((1, 8, 5))(small), expected)
    vectors = torch.rand(4, 7)
    assert torch.equal(RawInput((7,))(vectors), vectors)


def test_words_are_weighted_by_how_few_texts_have_them():
    sklearn = pytest.importorskip("sklearn.feature_extraction.text")
    texts = ["the cat sat", "the dog sat on the cat", "a bird", "the bird flew"]
    found = tf_idf(RawInput(())(texts))
    vectorizer = sklearn.TfidfVectorizer(token_pattern=r"\w+")
    expected = torch.from_numpy(vectorizer.fit_transform(texts).toarray()).float()
    torch.testing.assert_close(found @ found.T, expected @ expected.T)


def test_both_come_from_one_reading():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    both = lw.embed(encoder, DIGITS, keep_raw=True)
    alone = lw.embed(encoder, DIGITS)
    assert alone.raw is None
    assert torch.equal(both.embeddings, alone.embeddings)
    assert torch.equal(both.fingerprints, alone.fingerprints)
    assert torch.equal(both.raw, lw.encode(RawInput(DIGITS.item_shape), DIGITS))
    some = both.take([5, 2])
    assert torch.equal(some.raw, both.raw[[5, 2]])


def test_a_cache_keeps_raw_input_too(tmp_path):
    encoder = BesideRawInput(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), DIGITS.item_shape)
    first, again = (
        lw.embed(encoder.encoder, DIGITS, keep_raw=True, cache=tmp_path) for _ in range(2)
    )
    assert torch.equal(first.raw, again.raw)
    assert torch.equal(first.embeddings, again.embeddings)


def test_the_numbers_are_those_of_the_evaluations():
    noise, learned, labels = clustered()
    found = compare_with_baseline(learned, noise, labels)
    for rows, side in [(learned, "a"), (noise, "b")]:
        judged = evaluate_retrieval(rows, labels, ks=(1,))
        for name in ("map_at_r", "precision_at_1", "r_precision"):
            one = getattr(found.comparison.measures[f"retrieval {name}"], side)
            assert one.value == pytest.approx(getattr(judged, name).value)
    auc = found.comparison.measures["verification roc_auc"]
    left, right = torch.triu_indices(len(labels), len(labels), 1)
    everything = evaluate_verification(
        lw.distances.COSINE.paired(noise[left], noise[right]), labels[left] == labels[right]
    )
    assert auc.b.value == pytest.approx(everything.roc_auc.value, abs=0.05)
    assert (found.items, found.classes, found.are_new) == (120, 12, True)


def test_of_many_items_some_of_each_class_are_compared_in_parts(monkeypatch):
    noise, learned, labels = clustered()
    whole = compare_with_baseline(learned, noise, labels)
    monkeypatch.setattr(baseline, "NUMBERS", 50)
    parted = compare_with_baseline(learned, noise, labels)
    for name, one in whole.comparison.measures.items():
        assert parted.comparison.measures[name].b.value == pytest.approx(one.b.value)
    monkeypatch.setattr(baseline, "MOST_COMPARED", 48)
    rare = labels.where(labels > 0, torch.arange(120))  # classes 0 and 12, 24, ... have one item
    some = compare_with_baseline(learned, noise, rare.where((rare < 12) | (rare > 96), -1))
    assert (some.items, some.classes) == (48, 13)


def test_the_verdict_says_who_is_ahead():
    noise, learned, labels = clustered()
    ahead = compare_with_baseline(learned, noise, labels)
    behind = compare_with_baseline(noise, learned, labels)
    level = compare_with_baseline(noise, noise, labels)
    assert (ahead.helped, behind.helped, level.helped) == (True, False, None)
    assert ahead.verdict.startswith("ahead of raw input: the difference of MAP@R is ")
    said = "training did not help here: "
    assert behind.verdict.startswith(f"{said}raw input is ahead, as ")
    assert level.verdict.startswith(f"{said}level with raw input, as ")
    assert "on 120 items of 12 classes never trained on" in level.verdict


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [-1, -1, 0]])
def test_nothing_to_compare_is_none(labels):
    rows = torch.rand(3, 2)
    assert compare_with_baseline(rows, rows, torch.tensor(labels)) is None


def test_an_evaluation_compares_on_classes_never_trained_on():
    recipe = lw.Recipe(
        hold_out_classes=("7", "8", "9"), keep_aside=0.3, epochs=1, batches=2, cross_fit="off"
    )
    model = lw.train(DIGITS, recipe)
    found = model.evaluate(DIGITS, per_item=1)
    held = sum(lw.data.items_per_class(DIGITS)[name] for name in ("7", "8", "9"))
    assert (found.baseline.items, found.baseline.classes) == (held, 3)
    assert found.baseline.are_new
    rows = lw.encode(
        RawInput(DIGITS.item_shape),
        lw.data.choose_classes(DIGITS, ["7", "8", "9"]),
        preprocess=model.preprocess.apply,
    )
    labels = lw.data.choose_classes(DIGITS, ["7", "8", "9"]).labels
    expected = evaluate_retrieval(rows, labels, ks=(1,)).map_at_r.value
    measured = found.baseline.comparison.measures["retrieval map_at_r"].b.value
    assert measured == pytest.approx(expected)
    assert found.to_dict()["baseline"]["verdict"] == found.baseline.verdict
    trained = lw.data.choose_classes(DIGITS, ["0", "1"])
    assert not model.evaluate(trained, per_item=1).baseline.are_new


def test_vectors_without_an_encoder_have_no_baseline():
    _, learned, labels = clustered()
    model = lw.SimilarityModel(nn.Identity())
    assert model.evaluate(lw.data.ArrayDataset(learned, labels)).baseline is None


def test_a_training_tells_whether_it_helped():
    told = []
    recipe = lw.Recipe(
        hold_out_classes=("7", "8", "9"), epochs=1, batches=1, evaluate_every=1, cross_fit="off"
    )
    model = lw.train(DIGITS, recipe, tell=told.append)
    (kept,) = model.origin["baselines"]
    assert kept["name"] == "raw input"
    assert kept["classes"] == 3
    assert told == [kept["verdict"]]


def test_epochs_are_scored_beside_raw_input():
    train, unseen = lw.data.split_by_class(DIGITS, [7, 3], seed=0)
    scores = EvaluateEpochs({"unseen": unseen}, raw=True)
    encoder = lw.encoders.MLPEncoder(DIGITS.item_shape)
    history = lw.fit(
        encoder, lw.losses.TripletLoss(), train, epochs=2, batches=2, callbacks=[scores]
    )
    rows = lw.encode(RawInput(DIGITS.item_shape), scores.parts["unseen"].items)
    labels = scores.parts["unseen"].items.labels
    expected = evaluate_retrieval(rows, labels, ks=(1,)).map_at_r.value
    for record in history.records:
        assert record["unseen_raw_map_at_r"] == pytest.approx(expected)
