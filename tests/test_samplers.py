import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from likewise.data import ArrayDataset
from likewise.errors import InputError, InputTypeError
from likewise.samplers import (
    BalancedBatchSampler,
    HierarchicalBatchSampler,
    ShuffledBatchSampler,
    SimilarLengthBatchSampler,
)


def make_labels(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes)  # codes need not be consecutive
    return np.random.default_rng(seed).permutation(labels)


@st.composite
def samplers(draw):
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    sampler = BalancedBatchSampler(
        make_labels(sizes),
        classes_per_batch=draw(st.integers(1, len(sizes))),
        items_per_class=draw(st.integers(1, 5)),
        batches=draw(st.integers(1, 40)),
        seed=draw(st.integers(0, 99)),
    )
    return sizes, sampler


@given(samplers())
def test_a_batch_has_the_classes_and_the_items_asked_for_and_none_twice(drawn):
    sizes, sampler = drawn
    labels = make_labels(sizes)
    for batch in sampler:
        assert len(set(batch)) == len(batch)
        classes, counts = np.unique(labels[batch], return_counts=True)
        assert len(classes) == sampler.classes_per_batch
        expected = [min(sampler.items_per_class, sizes[code // 3]) for code in classes]
        assert counts.tolist() == expected


@given(samplers())
def test_classes_and_items_within_a_class_are_used_equally_up_to_one_round(drawn):
    sizes, sampler = drawn
    labels = make_labels(sizes)
    class_uses, item_uses = np.zeros(len(sizes), int), np.zeros(len(labels), int)
    for batch in sampler:
        class_uses[np.unique(labels[batch]) // 3] += 1
        item_uses[batch] += 1
        assert np.ptp(class_uses) <= 1
        for code in range(len(sizes)):
            assert np.ptp(item_uses[labels == code * 3]) <= 1


@given(samplers(), st.integers(0, 5))
def test_a_sampler_goes_on_exactly_from_a_saved_state(drawn, drawn_before):
    sizes, sampler = drawn
    for _ in range(drawn_before):
        list(sampler)
    state = json.loads(json.dumps(sampler.state_dict()))
    resumed = BalancedBatchSampler(
        make_labels(sizes),
        classes_per_batch=sampler.classes_per_batch,
        items_per_class=sampler.items_per_class,
        batches=sampler.batches,
        seed=sampler.seed,
    )
    resumed.load_state_dict(state)
    for _ in range(3):
        assert list(resumed) == list(sampler)


def test_the_seed_alone_decides_and_the_stream_goes_on():
    def make(seed):
        return BalancedBatchSampler(
            make_labels([9, 9, 9]), classes_per_batch=2, items_per_class=3, seed=seed
        )

    first, twin, other = make(1), make(1), make(2)
    epoch = list(first)
    assert epoch == list(twin)
    assert epoch != list(other)
    assert epoch != list(first)
    assert next(iter(first)) != epoch[0]


def test_the_seed_decides_about_items_not_only_about_classes():
    orders = [
        next(iter(BalancedBatchSampler([4] * 9, classes_per_batch=1, items_per_class=9, seed=seed)))
        for seed in range(3)
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] != sorted(orders[0])


def test_items_keep_different_company_from_round_to_round():
    sampler = BalancedBatchSampler(
        [0] * 6, classes_per_batch=1, items_per_class=2, batches=300, seed=5
    )
    pairs = {tuple(sorted(batch)) for batch in sampler}
    assert len(pairs) == 15  # all of them


def test_one_iteration_is_about_one_pass_over_the_items():
    labels = make_labels([10, 11])
    sampler = BalancedBatchSampler(labels, classes_per_batch=2, items_per_class=4)
    assert len(sampler) == len(list(sampler)) == 3  # ceil(21 / 8)
    assert len(BalancedBatchSampler([0, 1], classes_per_batch=2, items_per_class=9)) == 1


@pytest.mark.parametrize("kind", [list, np.asarray, torch.tensor])
def test_labels_may_be_a_list_an_array_or_a_tensor(kind):
    labels = make_labels([4, 5, 6]).tolist()
    sampler = BalancedBatchSampler(kind(labels), classes_per_batch=2, items_per_class=2)
    expected = BalancedBatchSampler(labels, classes_per_batch=2, items_per_class=2)
    assert list(sampler) == list(expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_yields_its_batches(workers):
    labels = make_labels([5, 6, 7])
    data = ArrayDataset(np.arange(18.0)[:, None], labels)
    sampler, twin = (
        BalancedBatchSampler(data.labels, classes_per_batch=2, items_per_class=3) for _ in "ab"
    )
    loader = DataLoader(data, batch_sampler=sampler, num_workers=workers)
    assert [batch.items[:, 0].int().tolist() for batch in loader] == list(twin)


def test_a_state_of_another_sampler_is_refused():
    labels = make_labels([4, 4])
    state = BalancedBatchSampler(labels, classes_per_batch=2, items_per_class=2).state_dict()
    other = BalancedBatchSampler(labels, classes_per_batch=2, items_per_class=3)
    with pytest.raises(ValueError, match=r"state must come from a sampler with settings"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("labels", "arguments", "error", "message"),
    [
        ([0, 1], {"classes_per_batch": 3}, ValueError, "classes_per_batch must be at most 2, the"),
        ([0, 1], {"classes_per_batch": 0}, ValueError, "classes_per_batch must be at least 1, got"),
        ([0, 1], {"items_per_class": 0}, ValueError, "items_per_class must be at least 1, got 0"),
        ([0, 1], {"batches": 0}, ValueError, "batches must be at least 1, got 0"),
        ([0, 1], {"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ([], {}, ValueError, r"labels must have shape \(n,\) with n >= 1, got \(0,\)"),
        ([[0], [1]], {}, ValueError, r"labels must have shape \(n,\) with n >= 1, got \(2, 1\)"),
        ([0.0, 1.0], {}, TypeError, "labels must be integers, got float32"),
        ([0, -2], {}, ValueError, "labels must be at least 0, or -1 for an item without a class, "),
        ([-1, -1], {}, ValueError, r"labels must hold a class, got -1 \(unlabeled\) for all 2 i"),
    ],
)
def test_bad_arguments_are_named(labels, arguments, error, message):
    usual = {"classes_per_batch": 2, "items_per_class": 2}
    with pytest.raises(error, match=message):
        BalancedBatchSampler(labels, **{**usual, **arguments})


def test_with_replacement_every_class_gives_its_share_and_items_repeat():
    sampler = BalancedBatchSampler(
        [0, 1, 1, 1, 2], classes_per_batch=3, items_per_class=4, batches=200, replacement=True
    )
    batches = list(sampler)
    assert all(np.bincount(batch, minlength=5)[[0, 4]].tolist() == [4, 4] for batch in batches)
    uses = np.bincount(np.concatenate(batches), minlength=5)[1:4]
    assert uses.sum() == 800
    assert uses.min() > 220
    assert any(np.bincount(batch, minlength=5)[1:4].max() == 4 for batch in batches)


@given(samplers())
def test_filled_batches_repeat_items_of_small_classes_only_and_these_evenly(drawn):
    sizes, plain = drawn
    labels, each = make_labels(sizes), plain.items_per_class
    sampler = BalancedBatchSampler(
        labels,
        classes_per_batch=plain.classes_per_batch,
        items_per_class=each,
        batches=plain.batches,
        fill=True,
        seed=plain.seed,
    )
    uses = np.zeros(len(labels), int)
    for batch in sampler:
        assert len(batch) == plain.classes_per_batch * each
        items, times = np.unique(batch, return_counts=True)
        uses[items] += times
        for code in np.unique(labels[items]):
            of_class = times[labels[items] == code]
            size = sizes[code // 3]
            assert of_class.sum() == each
            assert len(of_class) == min(size, each)
            assert np.ptp(of_class) <= 1
    assert max(np.ptp(uses[labels == 3 * code]) for code in range(len(sizes))) <= 1


def test_hierarchical_batches_are_filled_too():
    sampler = HierarchicalBatchSampler(
        make_labels([1, 2, 7]),
        make_labels([1, 2, 7]) // 6,
        super_classes_per_batch=2,
        classes_per_super_class=1,
        items_per_class=5,
        batches=20,
        fill=True,
    )
    assert [len(batch) for batch in sampler] == [10] * 20


def test_a_state_of_a_sampler_that_does_not_fill_is_refused():
    for kind, filled in (("balanced", "filled"), ("hierarchical", "hierarchical, filled")):
        state = of_every_kind()[filled].state_dict()
        assert state["settings"]["fill"]
        with pytest.raises(ValueError, match="state must come from a sampler with settings"):
            of_every_kind()[kind].load_state_dict(state)


def test_replacement_and_fill_exclude_each_other():
    with pytest.raises(ValueError, match="fill must be False with replacement, got both"):
        BalancedBatchSampler(
            [0, 1], classes_per_batch=2, items_per_class=2, replacement=True, fill=True
        )


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_come_as_often_as_the_power_of_their_size_says(power):
    sizes = [1, 4, 16]
    labels = make_labels(sizes)
    sampler = BalancedBatchSampler(
        labels, classes_per_batch=1, items_per_class=1, batches=6000, class_weights=power
    )
    found = np.bincount(labels[np.concatenate(list(sampler))] // 3) / 6000
    expected = np.array(sizes, dtype=float) ** power
    assert found == pytest.approx(expected / expected.sum(), abs=0.025)


def test_given_weights_decide_one_after_the_other_without_replacement():
    weights = {0: 1.0, 3: 2.0, 6: 5.0, 9: 0.0}  # by code; codes between have no items
    labels = make_labels([3, 3, 3, 3])
    sampler = BalancedBatchSampler(
        labels,
        classes_per_batch=2,
        items_per_class=1,
        batches=6000,
        class_weights=[weights.get(code, 0.0) for code in range(10)],
    )
    pairs = [tuple(labels[batch].tolist()) for batch in sampler]
    assert all(a != b for a, b in pairs)
    total = sum(weights.values())
    for first, second in [(6, 3), (3, 6), (0, 6), (0, 3)]:
        share = weights[first] / total * weights[second] / (total - weights[first])
        assert np.mean([pair == (first, second) for pair in pairs]) == pytest.approx(
            share, abs=0.025
        )


@pytest.mark.parametrize("weights", [[1.0, 0.0, 0.0], [1.0, -1.0, 1.0], [1.0, np.nan, 1.0]])
def test_weights_that_cannot_be_drawn_by_are_named(weights):
    with pytest.raises(ValueError, match=r"class_weights must be finite, at least 0, and above 0"):
        BalancedBatchSampler(
            [0, 1, 2], classes_per_batch=2, items_per_class=1, class_weights=weights
        )
    with pytest.raises(ValueError, match="class_weights must have a weight for every code up to 2"):
        BalancedBatchSampler(
            [0, 1, 2], classes_per_batch=2, items_per_class=1, class_weights=weights[:2]
        )


def of_every_kind(seed=0):
    labels = make_labels([5, 6, 7, 2, 9])
    usual = {"classes_per_batch": 2, "items_per_class": 3, "batches": 7, "seed": seed}
    return {
        "balanced": BalancedBatchSampler(labels, **usual),
        "replacement": BalancedBatchSampler(labels, **usual, replacement=True),
        "filled": BalancedBatchSampler(labels, **usual, fill=True),
        "weighted": BalancedBatchSampler(labels, **usual, class_weights=0.5),
        "hierarchical": HierarchicalBatchSampler(
            labels,
            labels // 6,
            super_classes_per_batch=2,
            classes_per_super_class=2,
            items_per_class=2,
            seed=seed,
        ),
        "hierarchical, filled": HierarchicalBatchSampler(
            labels,
            labels // 6,
            super_classes_per_batch=2,
            classes_per_super_class=2,
            items_per_class=4,
            fill=True,
            seed=seed,
        ),
        "shuffled": ShuffledBatchSampler(29, batch_size=4, seed=seed),
        "similar lengths": SimilarLengthBatchSampler(
            BalancedBatchSampler(labels, **usual), range(29), together=3, seed=seed
        ),
    }


@pytest.mark.parametrize("kind", of_every_kind())
def test_every_kind_is_seeded_and_goes_on_from_its_state(kind):
    sampler, twin = of_every_kind()[kind], of_every_kind()[kind]
    first = list(sampler)
    assert first == list(twin)
    assert first != list(of_every_kind(1)[kind])
    state = json.loads(json.dumps(sampler.state_dict()))
    resumed = of_every_kind()[kind]
    resumed.load_state_dict(state)
    for _ in range(2):
        following = list(sampler)
        assert following == list(resumed) != first
    assert len(sampler) == len(first)
    with pytest.raises(ValueError, match="state must come from a sampler with settings"):
        of_every_kind(1)[kind].load_state_dict(state)


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_hierarchical_batches_are_classes_within_super_classes(seed):
    labels = make_labels([3, 4, 5, 1, 2, 6])
    above = np.array([0, 0, 0, 1, 1, 2])[labels // 3]
    sampler = HierarchicalBatchSampler(
        labels,
        above,
        super_classes_per_batch=2,
        classes_per_super_class=2,
        items_per_class=3,
        batches=12,
        seed=seed,
    )
    uses = np.zeros(3, int)
    for batch in sampler:
        assert len(set(batch)) == len(batch)
        supers = np.unique(above[batch])
        assert len(supers) == 2
        uses[supers] += 1
        for code in supers:
            classes, counts = np.unique(labels[batch][above[batch] == code], return_counts=True)
            assert len(classes) == min(2, len(np.unique(labels[above == code])))
            assert counts.tolist() == [min(3, (labels == one).sum()) for one in classes]
    assert np.ptp(uses) <= 1
    assert (
        len(
            HierarchicalBatchSampler(
                labels,
                above,
                super_classes_per_batch=1,
                classes_per_super_class=2,
                items_per_class=3,
            )
        )
        == 4
    )  # ceil(21 / 6)


@pytest.mark.parametrize(
    ("labels", "above", "most", "message"),
    [
        ([0, 0, 1], [0, 1, 1], 1, "super_labels must be one per class, got several for class 0"),
        ([0, 0, 1], [0, 0], 1, "super_labels must be one per item, 3, got 2"),
        ([0, 0, 1], [0, 0, 1], 3, "super_classes_per_batch must be at most 2"),
        ([0, 0, 1], [0, 0, -1], 1, "super_labels must be at least 0, got -1"),
    ],
)
def test_bad_super_classes_are_named(labels, above, most, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalBatchSampler(
            labels,
            above,
            super_classes_per_batch=most,
            classes_per_super_class=1,
            items_per_class=1,
        )


def test_shuffled_batches_use_every_item_alike_and_none_twice():
    sampler = ShuffledBatchSampler(7, batch_size=3, batches=14)
    uses = np.bincount(np.concatenate(list(sampler)), minlength=7)
    assert uses.tolist() == [6] * 7
    assert all(len(set(batch)) == 3 for batch in sampler)
    assert len(ShuffledBatchSampler(7, batch_size=3)) == 2
    with pytest.raises(ValueError, match="batch_size must be at most 7, the number of items"):
        ShuffledBatchSampler(7, batch_size=8)


def test_unlabeled_items_come_into_no_batch_and_are_told_of():
    labels = [0, 0, -1, 1, 1, -1, 2, 2, 2]
    with pytest.warns(UserWarning, match=r"2 of 9 items are unlabeled \(-1\)"):
        sampler = BalancedBatchSampler(
            labels, classes_per_batch=3, items_per_class=2, class_weights=[1.0, 2.0, 3.0]
        )
    assert len(sampler) == 2  # ceil(7 / 6)
    for batch in sampler:
        drawn = [labels[i] for i in batch]
        assert sorted(drawn) == [0, 0, 1, 1, 2, 2]
    with pytest.warns(UserWarning, match="2 of 9 items"):
        sampler = HierarchicalBatchSampler(
            labels,
            [0, 0, -1, 0, 0, 5, 1, 1, 1],
            super_classes_per_batch=2,
            classes_per_super_class=2,
            items_per_class=2,
        )
    assert [sorted(labels[i] for i in batch) for batch in sampler] == [[0, 0, 1, 1, 2, 2]]


@given(
    st.lists(st.integers(0, 20), min_size=12, max_size=60),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 9),
)
@settings(max_examples=50)
def test_similar_lengths_come_together_and_what_is_drawn_stays(lengths, together, size, batches):
    def other():
        return ShuffledBatchSampler(len(lengths), batch_size=size, batches=batches, seed=3)

    expected, sampler = (
        list(other()),
        SimilarLengthBatchSampler(other(), lengths, together=together, seed=1),
    )
    given_out = list(sampler)
    assert len(sampler) == len(given_out) == batches
    for start in range(0, batches, together):
        those, these = (some[start : start + together] for some in (expected, given_out))
        assert sorted(itertools.chain(*those)) == sorted(itertools.chain(*these))
        assert [len(batch) for batch in these] == [size] * len(those)
        spans = sorted((lengths[batch[0]], lengths[batch[-1]]) for batch in these)
        assert all(low <= high for low, high in spans)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))


def test_batches_of_similar_lengths_come_in_random_order():
    other = ShuffledBatchSampler(400, batch_size=4, batches=100)
    first = [batch[0] for batch in SimilarLengthBatchSampler(other, range(400), together=100)]
    assert first != sorted(first)
    assert sorted(first) == list(range(0, 400, 4))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sampler": [[0, 1]]}, InputTypeError, "sampler must be one of likewise.samplers, got li"),
        ({"lengths": [1.5, 2.5]}, InputError, "lengths must be one whole number per item, got flo"),
        ({"lengths": [[1], [2]]}, InputError, r"lengths must be .*of shape \(2, 1\)"),
        ({"together": 0}, InputError, "together must be at least 1, got 0"),
        ({"seed": -1}, InputError, "seed must be at least 0, got -1"),
        ({"lengths": [1]}, InputError, "got 1 for a sampler that draws item 1"),
    ],
)
def test_lengths_that_fit_no_sampler_are_named(change, error, message):
    usual = {"sampler": ShuffledBatchSampler(2, batch_size=2), "lengths": [1, 2]}
    with pytest.raises(error, match=message):
        list(SimilarLengthBatchSampler(**{**usual, **change}))
