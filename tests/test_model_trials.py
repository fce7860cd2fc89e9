"""Calibrating and evaluating a model: few items, other names, unlabeled items, wrong causes."""

import re
import threading
import warnings

import pytest
import torch

import likewise as lw
from likewise.data import ArrayDataset, Subset


class Same(torch.nn.Module):
    def forward(self, items):
        return items


def some(count, seed=0, classes=3, names="class {}", noise=0.6):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    items = 3 * torch.eye(4)[labels] + noise * torch.randn(count, 4, generator=rng)
    return lw.data.load((items, [names.format(code) for code in labels.tolist()]))


def indexed(data=None, noise=0.6):
    model = lw.SimilarityModel(Same(), distance=lw.distances.EUCLIDEAN)
    model.add(some(30, 1, noise=noise) if data is None else data)
    return model


def with_unlabeled(*arguments, **options):
    """A dataset of which some items have no label, the same without these, and how many."""
    whole, bare = some(*arguments, **options), some(*arguments, **options)
    hidden = torch.arange(len(whole)) % 4 == 1
    bare.labels = bare.labels.masked_fill(hidden, -1)
    return bare, Subset(whole, (~hidden).nonzero().flatten()), int(hidden.sum())


@pytest.mark.parametrize("count", range(4, 12))
def test_a_model_is_evaluated_on_any_number_of_items(count):
    model = indexed()
    model.calibrate(some(60, 2), point="nearest")
    model.calibrate(some(60, 2), rule="pairs")
    found = model.evaluate(some(count, 3))
    assert found.items == found.matching.queries == count
    assert list(found.retrieval.recall_at_k) == [k for k in (1, 5, 10) if k < count]
    said = found.verification.roc_auc.method
    assert said.endswith(f"needs 10, there are {count}") == (count < 10)
    found.to_dict()


def test_a_model_is_calibrated_on_few_items_without_an_interval():
    model = indexed()
    of_pairs = model.calibrate(some(6, 2), rule="pairs")
    assert of_pairs.accuracy.method.startswith("no interval: an interval for other items or class")
    model.calibrate(some(6, 2))
    by_class = model.calibrate(some(60, 2), leave_out="classes")
    assert by_class.accuracy.method.startswith("no interval: an interval for other items or class")


@pytest.mark.parametrize(
    ("few", "verified", "retrieved"),
    [
        ({"count": 1}, False, False),
        ({"count": 2}, False, False),
        ({"count": 3}, False, False),
        ({"count": 4, "classes": 1, "names": "class 2"}, False, True),
        ({"count": 4}, True, True),
        ({"count": 4, "classes": 2}, True, True),
    ],
)
def test_items_too_few_for_pairs_or_queries_are_judged_on_the_rest(few, verified, retrieved):
    model = indexed()
    model.calibrate(some(60, 2))
    found = model.evaluate(some(**few))
    assert found.items == found.matching.queries == few["count"]
    assert (found.verification is not None, found.retrieval is not None) == (verified, retrieved)
    told = found.to_dict()
    assert (told["verification"] is not None, told["retrieval"] is not None) == (
        verified,
        retrieved,
    )


def test_unlabeled_items_are_left_out_and_counted():
    bare, labeled, count = with_unlabeled(60, 2)
    model, other = indexed(), indexed()
    for rule in ("nearest", "pairs"):
        assert model.calibrate(bare, rule=rule) == other.calibrate(labeled, rule=rule)
    bare, labeled, count = with_unlabeled(40, 3, classes=4)
    found, expected = model.evaluate(bare).to_dict(), other.evaluate(labeled).to_dict()
    assert found.pop("unlabeled") == count == 10
    assert expected.pop("unlabeled") == 0
    assert found == expected
    unlabeled = Subset(bare, (bare.labels < 0).nonzero().flatten())
    with pytest.raises(ValueError, match="data must hold labeled items, got 10 unlabeled ones"):
        model.evaluate(unlabeled)


def test_unknown_classes_count_as_unknown():
    model = indexed()
    model.calibrate(some(60, 2))
    found = model.evaluate(some(40, 3, classes=4)).matching
    assert found.accuracy_unknown is not None
    assert (found.queries, found.unlabeled) == (40, 0)
    assert int((found.truth >= 3).sum()) == 10


def test_names_that_are_not_indexed_are_told_with_those_that_are():
    model = indexed(some(30, 1, names="Cat {}"))
    message = (
        "data must hold a class of the index, 'Cat 0', 'Cat 1', 'Cat 2', got 'cat0', 'cat1', "
        "'cat2'. Only case or spaces differ in 'cat0' and 'Cat 0', 'cat1' and 'Cat 1', 'cat2' and "
        "'Cat 2': rename them alike."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.calibrate(some(60, 2, names="cat{}"))
    with pytest.raises(ValueError, match=r"'b5' and 2 more\. Add items of these classes to the"):
        model.calibrate(many("b", 7))
    model.calibrate(some(60, 2, names="Cat {}"))
    with pytest.warns(UserWarning, match="No class of the data is in the index, so all items c"):
        model.evaluate(some(60, 3, names="cat{}"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.evaluate(some(60, 3, names="dog{}"))  # unknowns, as they may be


def many(letter, count):
    items = torch.randn(2 * count, 4, generator=torch.Generator().manual_seed(0))
    return ArrayDataset(items.numpy(), [f"{letter}{1 + i % count}" for i in range(2 * count)])


def test_calibrating_without_a_labeled_item_in_the_index_says_so():
    model = lw.SimilarityModel(Same())
    model.add(torch.randn(5, 4))
    with pytest.raises(ValueError, match="index must hold items of the data's classes, 'class 0'"):
        model.calibrate(some(60, 2))


@pytest.mark.parametrize("rule", ["majority", "nearest", "center"])
def test_more_neighbors_than_there_are_are_refused_as_by_lookup(rule):
    model = indexed()
    most = 3 if rule == "center" else 30
    with pytest.raises(
        ValueError, match=f"k must be at most .*{most}.*, got {most + 1}"
    ) as refused:
        model.calibrate(some(60, 2), rule=rule, k=most + 1)
    if rule != "center":
        with pytest.raises(ValueError, match="k must be at most") as looked_up:
            model.lookup(some(3, 2), k=most + 1)
        assert str(refused.value) == str(looked_up.value)
    model.calibrate(some(60, 2), rule=rule, k=most)


def test_a_guarantee_of_few_unknown_classes_is_named_for_their_items_or_refused():
    model = indexed(noise=0.2)
    data = some(800, 2, classes=3, noise=0.2)
    goal = lw.at_most_false_accepts(0.05, confidence=0.95)
    # Each is also judged as if its class were not indexed.
    kept = model.calibrate(data, goal=goal, leave_out="items").guarantee
    assert (kept.holds_for, kept.classes, kept.negatives) == ("unknown items", 3, 800)
    assert "for new items of these 3 classes, with" in str(kept)
    # 60 and not 59, as each has met one class less than there is.
    message = "unknown classes must be at least 60 .* got 3: 57 more would do, or a rate of 0.948"
    for leave_out in (None, "classes"):
        with pytest.raises(ValueError, match=message):
            model.calibrate(data, goal=goal, leave_out=leave_out)
    goal = lw.at_most_false_accepts(0.05, on_average=True)
    with pytest.raises(ValueError, match=r"unknown classes must be at least 21 .* got 3: 18 more"):
        model.calibrate(data, goal=goal)


def test_centers_are_made_once_for_the_items_there_are(monkeypatch):
    made = []
    make = lw.model.trials.class_centers

    def counted(*arguments, **options):
        made.append(len(arguments[0]))
        return make(*arguments, **options)

    monkeypatch.setattr("likewise.model.trials.class_centers", counted)
    model = indexed()
    for _ in range(3):
        model.match(some(5, 2), threshold=1.0, rule="center")
    assert made == [30]
    model.add(some(6, 3))
    model.match(some(5, 2), threshold=1.0, rule="center")
    model.index.remove(model.index.ids[:3])
    model.match(some(5, 2), threshold=1.0, rule="center")
    assert made == [30, 36, 33]


def test_first_adds_of_several_threads_lose_nothing():
    for seed in range(20):
        model = lw.SimilarityModel(Same(), distance=lw.distances.EUCLIDEAN)
        parts = [some(6, seed, names=f"{part} {{}}") for part in range(4)]
        gate = threading.Barrier(4)

        def add(part, gate=gate, model=model):
            gate.wait()
            model.add(part)

        threads = [threading.Thread(target=add, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(model.index) == 24
        given = {name for part in parts for name in part.class_names}
        assert {model.class_names[code] for code in model.index.labels.tolist()} == given
        assert not model.is_new(parts[2]).any()
