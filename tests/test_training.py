import json
import warnings

import pytest
import torch
from torch import nn

import likewise as lw
from likewise import losses, training
from likewise.data import ArrayDataset, PairDataset, Subset, TripletDataset, ViewDataset
from likewise.encoders import ConvEncoder, SiameseNet, TripletNet
from likewise.samplers import BalancedBatchSampler, ShuffledBatchSampler
from likewise.training.batches import label_facts
from likewise.training.history import check_healthy


def blobs(classes=4, per_class=20, seed=0):
    rng = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(classes, 6, generator=rng)
    items = centers.repeat_interleave(per_class, dim=0)
    items = items + torch.randn(classes * per_class, 6, generator=rng)
    return ArrayDataset(items, torch.arange(classes).repeat_interleave(per_class))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def fit(encoder=None, loss=None, data=None, **settings):
    settings = {
        "epochs": 3,
        "device": "cpu",
        "classes_per_batch": 3,
        "items_per_class": 5,
    } | settings
    encoder = network() if encoder is None else encoder
    loss = losses.TripletLoss(margin=0.5) if loss is None else loss
    return encoder, lw.fit(encoder, loss, blobs() if data is None else data, **settings)


def weights(module):
    return torch.cat([weight.detach().flatten() for weight in module.state_dict().values()])


def test_training_brings_classes_together():
    data = blobs()
    encoder = network()
    before = lw.evaluation.evaluate_retrieval(lw.encode(encoder, data), data.labels)
    fit(encoder, data=data, epochs=15, learning_rate=1e-2)
    after = lw.evaluation.evaluate_retrieval(lw.encode(encoder, data), data.labels)
    assert float(after.map_at_r) > float(before.map_at_r) + 0.1


def test_one_record_per_epoch_with_the_facts_of_the_loss():
    _, history = fit(epochs=4)
    assert [record["epoch"] for record in history.records] == [1, 2, 3, 4]
    assert {"loss", "active", "positive_distance", "spread", "seconds", "learning_rate"} <= set(
        history[0]
    )
    assert len(history) == 4


def test_the_same_seed_gives_the_same_encoder_and_another_seed_another():
    first, _ = fit(seed=3)
    again, _ = fit(seed=3)
    other, _ = fit(seed=4)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_the_global_random_state_is_left_as_it_was():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    encoder = nn.Linear(6, 2)  # uses some of the state, as the expectation below does
    torch.manual_seed(7)
    fit(encoder)
    assert torch.equal(torch.rand(3), expected)


def test_weights_of_the_loss_are_trained_too():
    loss = losses.SoftmaxLoss(3, 4)
    before = loss.classify.weight.detach().clone()
    fit(loss=loss)
    assert not torch.equal(loss.classify.weight, before)


def test_an_optimizer_that_forgets_the_weights_of_the_loss_is_refused():
    encoder, loss = network(), losses.SoftmaxLoss(3, 4)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match=r"optimizer must hold the weights of SoftmaxLoss, .* 16 of"
    ):
        fit(encoder, loss, optimizer=optimizer)


def test_an_optimizer_of_the_users_is_used():
    encoder = network()
    before = weights(encoder)
    fit(encoder, optimizer=torch.optim.SGD(encoder.parameters(), lr=0.0))
    assert torch.equal(weights(encoder), before)


def test_augmentation_waits_for_its_epoch_and_comes_before_preprocessing():
    seen = []

    def augment(items):
        seen.append("augment")
        return items

    def preprocess(items):
        seen.append("preprocess")
        return items

    fit(epochs=3, augment=augment, preprocess=preprocess, augment_after=2, batches=2)
    assert seen == ["preprocess"] * 4 + ["augment", "preprocess"] * 2


def test_callbacks_see_the_encoder_evaluating_may_add_numbers_and_stop():
    modes = []

    def watch(record, encoder):
        modes.append(encoder.training)
        record["mine"] = 2.0 * record["epoch"]
        return record["epoch"] == 2

    _, history = fit(epochs=5, callbacks=[watch, lambda record, encoder: None])
    assert modes == [False, False]
    assert [record["mine"] for record in history.records] == [2.0, 4.0]


def test_progress_counts_batches():
    calls = []
    fit(epochs=2, batches=3, progress=lambda *numbers: calls.append(numbers))
    assert calls == [(1, 1, 3), (1, 2, 3), (1, 3, 3), (2, 1, 3), (2, 2, 3), (2, 3, 3)]


def test_the_learning_rate_follows_the_schedule():
    cosine = training.cosine(warm_up=0.2)
    assert cosine(0.1) == pytest.approx(0.5)
    assert cosine(0.2) == pytest.approx(1.0)
    assert cosine(0.6) == pytest.approx(0.5)
    assert cosine(1.0) == pytest.approx(0.0)
    _, history = fit(epochs=2, batches=2, learning_rate=0.5, schedule=lambda progress: progress)
    assert [record["learning_rate"] for record in history.records] == [0.125, 0.375]


def test_encoder_and_loss_come_back_evaluating():
    loss = losses.SoftmaxLoss(3, 4)
    encoder, _ = fit(loss=loss)
    assert not encoder.training
    assert not loss.training


def test_bfloat16_trains_to_finite_weights():
    encoder, history = fit(precision="bfloat16")
    assert torch.isfinite(weights(encoder)).all()
    assert history[2]["loss"] < 10


def test_after_mixed_precision_the_encoder_computes_as_before():
    encoder, _ = fit(precision="bfloat16")
    plain = network()
    plain.load_state_dict(encoder.state_dict())
    items = torch.randn(5, 6)
    assert torch.equal(encoder(items), plain.eval()(items))


def test_an_interrupted_training_leaves_the_encoder_evaluating():
    encoder = network()

    def stop(*numbers):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(encoder, progress=stop)
    assert not encoder.training


def test_a_batch_sampler_of_the_users_is_used():
    class First(torch.utils.data.Sampler):
        def __iter__(self):
            yield from ([0, 1, 20, 21] for _ in range(2))

        def __len__(self):
            return 2

    seen = []

    def watch(items):
        seen.append(len(items))
        return items

    fit(epochs=1, batch_sampler=First(), preprocess=watch)
    assert seen == [4, 4]


def test_a_plain_torch_dataset_with_labels_trains():
    class Plain(torch.utils.data.Dataset):
        def __init__(self):
            self.whole = blobs()
            self.labels, self.class_names = self.whole.labels, self.whole.class_names

        def __len__(self):
            return len(self.whole)

        def __getitem__(self, index):
            return self.whole[index]

    _, history = fit(data=Plain())
    assert len(history) == 3


def test_collapse_is_told():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.point = nn.Parameter(torch.ones(3))

        def forward(self, items):
            return self.point.expand(len(items), 3)

    with pytest.warns(UserWarning, match="All embeddings have become nearly one point") as told:
        fit(Constant(), epochs=3)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(epochs=1)


def test_a_training_that_learns_nothing_about_sameness_is_told_of_once():
    class Shuffled(PairDataset):
        """Another truth in each epoch, as where labels do not belong to their pairs."""

        def set_epoch(self, epoch):
            rng = torch.Generator().manual_seed(epoch)
            self.same = self.same[torch.randperm(len(self.same), generator=rng)]

    rng = torch.Generator().manual_seed(0)
    points = ArrayDataset(torch.randn(2000, 6, generator=rng), torch.arange(2000) % 4)
    with pytest.warns(UserWarning, match=r"For 5 epochs same pairs are no closer than dif") as told:
        lw.fit(network(), losses.GivenPairsLoss(), Shuffled(points), epochs=9, device="cpu")
    assert len(told) == 1


def test_a_training_is_told_of_only_after_five_epochs_without_a_difference():
    def records(gaps, distance=1.0):
        return [
            {
                "epoch": epoch,
                "loss": 1.0,
                "spread": 0.5,
                "positive_distance": distance,
                "negative_distance": distance + gap,
            }
            for epoch, gap in enumerate(gaps, start=1)
        ]

    def told(told_of):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for at, record in enumerate(told_of):
                check_healthy(record, told_of[:at])
        return [str(warning.message) for warning in caught]

    (said,) = told(records([0.01, -0.04, 0.0, 0.04, 0.03, 0.0, 0.0]))
    assert "(mean distance 1 and 1.03 in epoch 5): nothing is learned. Check that labels" in said
    assert told(records([0.01] * 4 + [0.06] + [0.01] * 4)) == []
    assert told(records([0.01] * 7, distance=0.1)) == []
    assert told(records([0.01] * 7, distance=-5.0)) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"precision": "float8"}, "precision must be one of bfloat16, float16, float32"),
        ({"precision": "float16"}, "precision must not be float16 on a CPU"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, got -1"),
        ({"device": "tpu"}, "device must be cpu, cuda, cuda:N or mps, got 'tpu'"),
        ({"data": ArrayDataset(torch.rand(4, 6), [0, 0, 0, 0])}, "class"),
        ({"data": ArrayDataset(torch.rand(4, 6), [0, 1, 2, 3])}, "class"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fit(**settings)


def test_the_weights_of_the_loss_may_have_a_learning_rate_of_their_own():
    moved = []
    for rate in (None, 1e-6, 1e-2):
        loss = losses.SoftmaxLoss(3, 4)
        torch.nn.init.zeros_(loss.classify.weight)
        _, history = fit(loss=loss, loss_learning_rate=rate, epochs=2)
        moved.append(float(loss.classify.weight.detach().abs().max()))
        assert history[0]["learning_rate"] <= 1e-3
    assert moved[1] < 1e-4 < moved[0] < moved[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_learning_rate": 0.1}, "loss_learning_rate must be for a loss with weights"),
        (
            {"loss": losses.SoftmaxLoss(3, 4), "loss_learning_rate": 0.0},
            "loss_learning_rate must be a finite number above 0",
        ),
    ],
)
def test_a_learning_rate_for_nothing_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fit(**settings)
    encoder, loss = network(), losses.SoftmaxLoss(3, 4)
    optimizer = torch.optim.SGD([*encoder.parameters(), *loss.parameters()], lr=0.1)
    with pytest.raises(ValueError, match="loss_learning_rate must be left out with an optimizer"):
        fit(encoder, loss, optimizer=optimizer, loss_learning_rate=0.1)


def test_records_tell_classes_and_items_per_class():
    _, history = fit(epochs=1)
    assert history[0]["classes"] == 3
    assert history[0]["items_per_class"] == 5


def test_parts_of_a_sum_are_in_the_record_and_trained():
    loss = losses.Sum(losses.TripletLoss(margin=0.5), (0.5, losses.SoftmaxLoss(3, 4)))
    before = weights(loss)
    _, history = fit(loss=loss)
    record = history[2]
    assert record["loss"] == pytest.approx(
        record["triplet/loss"] + 0.5 * record["softmax/loss"], rel=1e-4
    )
    assert {"triplet/active", "softmax/accuracy", "spread"} <= set(record)
    assert not torch.equal(weights(loss), before)


def memory(size=40, **settings):
    loss = losses.ContrastiveLoss(margin=1.0)
    return losses.CrossBatchMemory(loss, embedding_dim=3, size=size, **settings)


def test_a_memory_gets_the_positions_of_the_items_as_ids():
    data, loss = blobs(), memory()
    _, history = fit(loss=loss, data=data, epochs=3)
    assert history[2]["memory/filled"] == 1
    assert torch.equal(data.labels[loss.ids], loss.labels)
    assert len(set(loss.ids[:15].tolist())) == 15


def test_a_memory_within_a_sum_gets_ids_too():
    loss = losses.Sum(losses.TripletLoss(), (0.5, memory()))
    fit(loss=loss, epochs=1)
    assert (loss.parts[1].ids >= 0).any()


def accuracy_of_pairs(encoder, data):
    pairs = PairDataset(data, 4.0, seed=9)
    embeddings = lw.encode(encoder, data)
    distances = (embeddings[pairs.pairs[:, 0]] - embeddings[pairs.pairs[:, 1]]).norm(dim=1)
    return float(lw.evaluation.evaluate_verification(distances, pairs.same).roc_auc)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("sides", "loss", "net"),
    [
        (PairDataset, losses.GivenPairsLoss, SiameseNet),
        (TripletDataset, losses.GivenTripletsLoss, TripletNet),
    ],
)
def test_pairs_and_triplets_train_a_plain_encoder_and_one_for_sides(sides, loss, net, wrapped):
    data, encoder = blobs(), network()
    before = accuracy_of_pairs(encoder.eval(), data)
    _, history = fit(
        net(encoder) if wrapped else encoder,
        loss(),
        sides(data, 2.0, fresh=True),
        epochs=12,
        learning_rate=1e-2,
        classes_per_batch=None,
        items_per_class=None,
    )
    assert accuracy_of_pairs(encoder, data) > before + 0.03
    assert history[11]["loss"] < history[0]["loss"]
    assert history[11]["positive_distance"] < history[11]["negative_distance"]
    other = network()
    unwrapped = {"classes_per_batch": None, "items_per_class": None}
    fit(other, loss(), sides(data, 2.0, fresh=True), epochs=12, learning_rate=1e-2, **unwrapped)
    assert torch.equal(weights(other), weights(encoder))


@pytest.mark.parametrize("workers", [0, 1])
def test_pairs_are_fresh_each_epoch_with_workers_too(workers):
    seen = []

    def watch(items):
        seen.append(items.sum().item())
        return items

    for fresh in (True, False):
        fit(
            loss=losses.GivenPairsLoss(),
            data=PairDataset(blobs(), 0.2, seed=1, fresh=fresh),  # one batch of 16 pairs
            epochs=2,
            classes_per_batch=None,
            items_per_class=None,
            preprocess=watch,
            workers=workers,
        )
    fresh, fixed = sorted(seen[:4]), seen[4:]
    assert sum(seen[:2]) != pytest.approx(sum(seen[2:4]))
    assert len(set(fresh)) == 4
    assert sum(fixed[:2]) == pytest.approx(sum(fixed[2:]), rel=1e-4)


def test_classes_asked_for_among_pairs_are_refused():
    with pytest.raises(ValueError, match="must be left out for PairDataset, got 3 and 5"):
        fit(loss=losses.GivenPairsLoss(), data=PairDataset(blobs()))


@pytest.mark.parametrize("labels", ["items", "classes"])
def test_views_train_without_labels_and_with_a_memory(labels):
    data = ViewDataset(blobs(), labels=labels)
    loss = memory()
    settings = {} if labels == "classes" else {"classes_per_batch": None, "items_per_class": None}
    _, history = fit(
        loss=loss, data=data, augment=lambda items: items + torch.randn_like(items), **settings
    )
    assert history[0]["classes"] == (64 if labels == "items" else 3)
    assert history[0]["items_per_class"] == (2 if labels == "items" else 10)
    assert history[2]["positive_distance"] > 0
    assert torch.equal(data.labels[loss.ids], loss.labels)


class Partly(torch.utils.data.Dataset):
    """Every fourth item unlabeled."""

    def __init__(self):
        self.whole = blobs()
        self.labels = self.whole.labels.clone()
        self.labels[::4] = -1
        self.class_names, self.item_shape = self.whole.class_names, self.whole.item_shape

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        return self.whole[index][0], int(self.labels[index])


@pytest.mark.parametrize("loss", [losses.TripletLoss, lambda: losses.SoftmaxLoss(3, 4)])
def test_unlabeled_items_are_left_out_of_balanced_batches_and_told_of(loss):
    data, seen = Partly(), []
    with pytest.warns(UserWarning, match=r"20 of 80 items are unlabeled \(-1\)") as told:
        _, history = fit(
            loss=loss(), data=data, preprocess=lambda items: seen.append(items) or items
        )
    assert len(told) == 1
    assert history[0]["classes"] == 3
    assert history[0]["items_per_class"] == 5
    drawn = {tuple(item.tolist()) for batch in seen for item in batch}
    assert drawn <= {tuple(data[i][0].tolist()) for i in range(80) if i % 4}


def test_unlabeled_items_learn_from_their_own_views():
    seen = []
    fit(
        data=ViewDataset(Partly(), noisy),
        epochs=1,
        classes_per_batch=None,
        items_per_class=None,
        batch_sampler=ShuffledBatchSampler(80, batch_size=40),
        preprocess=lambda items: seen.append(len(items)) or items,
    )
    assert seen == [40, 40, 40, 40]


def test_a_batch_with_unlabeled_items_counts_classes_without_them():
    facts = label_facts(torch.tensor([-1, 2, -1, 5, 2, -1]))
    assert (facts["classes"], facts["items_per_class"]) == (2, 1.5)
    facts = label_facts(torch.tensor([-1, -1]))
    assert (facts["classes"], facts["items_per_class"]) == (0, 0)


class Interrupted(Exception):
    pass


def interrupt(epoch):
    def stop(*numbers):
        if numbers[:2] == (epoch, 2):
            raise Interrupted

    return stop


def noisy(items):
    return items + 0.1 * torch.randn_like(items)


def norm_network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3))


CASES = {
    "triplet": (lambda: losses.TripletLoss(margin=0.5), blobs, {}),
    "softmax": (lambda: losses.SoftmaxLoss(3, 4), blobs, {"loss_learning_rate": 0.1}),
    "memory": (lambda: losses.Sum(memory(warm_up=7), (0.5, losses.TripletLoss())), blobs, {}),
    "pairs": (
        losses.GivenPairsLoss,
        lambda: PairDataset(blobs(), 3.0, fresh=True),
        {"classes_per_batch": None, "items_per_class": None},
    ),
    "workers": (
        losses.TripletLoss,
        lambda: ViewDataset(blobs(), noisy, labels="classes"),
        {"workers": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_training_goes_on_to_the_same_encoder(case, tmp_path):
    make, data, settings = CASES[case]
    settings = {"epochs": 5, "augment": noisy, "augment_after": 1, "seed": 5} | settings

    def train(folder, **watching):
        encoder = norm_network()
        loss = make()
        return encoder, loss, fit(encoder, loss, data(), checkpoint=folder, **settings, **watching)

    whole, loss, (_, history) = train(tmp_path / "whole")
    for epoch in (1, 3, 4):  # three interruptions, one before there is a checkpoint
        with pytest.raises(Interrupted):
            train(tmp_path / "run", progress=interrupt(epoch))
        torch.randn(epoch)  # a new process would have another global random state
    seen = []
    watch = [lambda record, _: seen.append(record["epoch"])]
    again, loss_again, (_, resumed) = train(tmp_path / "run", callbacks=watch)
    assert torch.equal(weights(whole), weights(again))
    for name, value in loss.state_dict().items():
        assert torch.equal(value, loss_again.state_dict()[name])
    assert seen == [4, 5]
    for record, twin in zip(history.records, resumed.records, strict=True):
        assert {**record, "seconds": 0} == {**twin, "seconds": 0}


def test_an_interrupted_training_on_images_goes_on_to_the_same_encoder(tmp_path):
    # Weights of convolutions lie in memory in another order than in a file.
    images = ArrayDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 4)

    def train(folder, **watching):
        torch.manual_seed(1)
        encoder = ConvEncoder((1, 8, 8), layers=(4, "pool", 4), embedding_dim=3)
        loss = losses.TripletLoss(margin=0.5)
        settings = {"epochs": 4, "batches": 3, "checkpoint": folder}
        return fit(encoder, loss, images, **settings, **watching)

    whole, _ = train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "run", progress=interrupt(3))
    again, _ = train(tmp_path / "run")
    assert torch.equal(weights(whole), weights(again))


def test_a_checkpoint_changes_nothing(tmp_path):
    plain, _ = fit(norm_network(), augment=noisy)
    kept, _ = fit(norm_network(), augment=noisy, checkpoint=tmp_path)
    assert torch.equal(weights(plain), weights(kept))


def test_a_finished_training_is_read_and_not_repeated(tmp_path):
    calls = []
    encoder, history = fit(checkpoint=tmp_path / "run")
    again, read = fit(checkpoint=tmp_path / "run", progress=lambda *numbers: calls.append(numbers))
    assert not calls
    assert read.records == history.records
    assert torch.equal(weights(encoder), weights(again))
    assert not again.training


def test_a_training_that_a_callback_stopped_stays_stopped(tmp_path):
    stop = [lambda record, encoder: record["epoch"] == 2]
    fit(epochs=4, checkpoint=tmp_path, callbacks=stop)
    _, history = fit(epochs=4, checkpoint=tmp_path)
    assert len(history) == 2


def test_a_checkpoint_is_safetensors_and_json_and_one_at_a_time(tmp_path):
    fit(checkpoint=tmp_path / "a" / "b")
    files = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert len(files) == 3
    assert files[0].endswith(".safetensors")
    assert (tmp_path / "a" / "b" / "checkpoint.lock").stat().st_size == 0
    manifest = json.loads((tmp_path / "a" / "b" / "checkpoint.json").read_text())
    assert manifest["file"] == files[0]
    assert manifest["format"] == 1


def test_a_crash_while_writing_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    from likewise.training import checkpoints

    fit(epochs=2, checkpoint=tmp_path)
    older = checkpoints.load_checkpoint(tmp_path)
    real = checkpoints.write_whole

    def full(path, content):
        if path.suffix == ".json":
            raise OSError("disk full")
        real(path, content)

    monkeypatch.setattr(checkpoints, "write_whole", full)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save_checkpoint(tmp_path, {"x": torch.ones(3)})
    assert checkpoints.load_checkpoint(tmp_path)["records"] == older["records"]


def test_a_file_is_no_folder_for_checkpoints(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "to nowhere").symlink_to(tmp_path / "gone")
    calls = []
    for name in ("file", "file/run", "to nowhere"):
        with pytest.raises(ValueError, match=rf"checkpoint must be a folder, got .*{name}'"):
            fit(checkpoint=tmp_path / name, progress=lambda *numbers: calls.append(numbers))
    assert not calls


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(tmp_path):
    fit(checkpoint=tmp_path)
    with pytest.raises(
        lw.InputError, match=r"checkpoint must be of this training, .* with epochs 3 instead of 4"
    ):
        fit(checkpoint=tmp_path, epochs=4)
    with pytest.raises(lw.InputError, match=r"encoder Sequential instead of Linear"):
        fit(nn.Linear(6, 3), checkpoint=tmp_path)
    with pytest.raises(lw.InputError, match="batch_sampler classes_per_batch 3 instead of 4"):
        fit(checkpoint=tmp_path, classes_per_batch=4, items_per_class=5, batches=6)
    tensors = next(tmp_path.glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(ValueError, match="checkpoint must be a whole folder"):
        fit(checkpoint=tmp_path)


def test_a_sampler_that_cannot_be_resumed_is_refused_with_a_checkpoint(tmp_path):
    class Forgetful(torch.utils.data.Sampler):
        def __iter__(self):
            yield [0, 1, 20, 21]

        def __len__(self):
            return 1

    with pytest.raises(ValueError, match="batch_sampler must have state_dict"):
        fit(batch_sampler=Forgetful(), checkpoint=tmp_path)
    sampler = BalancedBatchSampler(blobs().labels, classes_per_batch=2, items_per_class=4)
    fit(batch_sampler=sampler, checkpoint=tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        ArrayDataset(torch.rand(1, 6), [0]),
        Subset(ArrayDataset(torch.rand(1, 6), [0]), []),
        ViewDataset(Subset(ArrayDataset(torch.rand(1, 6), [0]), [])),
    ],
)
def test_hardly_any_data_is_refused_in_one_sentence(data, tmp_path):
    with pytest.raises(lw.InputError, match=r"^[^\n]+ must [^\n]+, got [^\n]+$"):
        lw.fit(network(), losses.TripletLoss(), data, epochs=1, checkpoint=tmp_path / "run")


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_sampler_without_batches_is_refused(rounds):
    class Once(torch.utils.data.Sampler):
        left = rounds

        def __iter__(self):
            self.left -= 1
            return iter([[0, 1, 20, 21]] if self.left >= 0 else [])

        def __len__(self):
            return rounds

    with pytest.raises(
        lw.InputError, match=f"batch_sampler must give .* got none in epoch {rounds + 1}"
    ):
        fit(batch_sampler=Once())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_brings_the_encoder_home():
    encoder, history = fit(device="cuda")
    assert next(encoder.parameters()).device.type == "cpu"
    assert history[2]["loss"] > 0


@pytest.mark.parametrize(
    "encoder", [torch.nn.Identity(), torch.nn.Linear(5, 2).requires_grad_(False)]
)
def test_an_encoder_that_cannot_learn_is_refused(encoder):
    points = ArrayDataset(torch.randn(40, 5), torch.arange(40) % 4)
    with pytest.raises(ValueError, match="encoder must have weights that can be trained, got "):
        lw.fit(encoder, losses.TripletLoss(), points, epochs=1)


def test_validation_loss_is_the_loss_of_the_encoder_evaluating():
    held = blobs(per_class=6, seed=1)
    items = torch.stack([held[row][0] for row in range(len(held))])
    loss = losses.TripletLoss(margin=0.5)
    told = []

    def by_hand(record, encoder):
        with torch.no_grad():
            told.append(float(loss(encoder(items), held.labels)))

    # All four classes and all of their items are one batch.
    _, history = fit(
        loss=loss, validation=held, classes_per_batch=4, items_per_class=6, callbacks=[by_hand]
    )
    assert [record["validation_loss"] for record in history.records] == pytest.approx(told)
    assert len(set(told)) == 3, "the encoder learns, so the loss changes"


@pytest.mark.parametrize("kind", ["items", "memory", "pairs", "triplets", "views", "proxies"])
def test_validation_changes_nothing_of_the_training(kind):
    def trained(validation):
        torch.manual_seed(0)
        loss = {
            "items": lambda: losses.TripletLoss(),
            "memory": lambda: losses.CrossBatchMemory(
                losses.ContrastiveLoss(), embedding_dim=3, size=64
            ),
            "pairs": lambda: losses.GivenPairsLoss(),
            "triplets": lambda: losses.GivenTripletsLoss(),
            "views": lambda: losses.OnViews(losses.SimCLRLoss()),
            "proxies": lambda: losses.SoftmaxLoss(3, 4),
        }[kind]()
        encoder = nn.Sequential(network(), nn.BatchNorm1d(3))
        pairs = {"pairs": PairDataset, "triplets": TripletDataset}.get(kind)
        views = {"views": lambda data: ViewDataset(data, lambda item: item + torch.randn(6))}
        wrap = pairs or views.get(kind) or (lambda data: data)
        options = {} if pairs or views.get(kind) else {"classes_per_batch": 3, "items_per_class": 5}
        held = wrap(blobs(per_class=6, seed=1)) if validation else None
        settings = {"epochs": 3, "device": "cpu", "progress": False} | options
        history = lw.fit(encoder, loss, wrap(blobs()), validation=held, **settings)
        return encoder.state_dict(), loss.state_dict(), loss, history

    without, with_it = trained(False), trained(True)
    for before, after in zip(without[:2], with_it[:2], strict=True):
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert dict(without[2].facts) == dict(with_it[2].facts)
    for before, after in zip(without[3].records, with_it[3].records, strict=True):
        assert after["validation_loss"] > 0
        told = {name for name in after if name.startswith("validation_")}
        facts = set(with_it[2].facts)  # but memory has none of its own before it is warm
        assert told == {f"validation_{name}" for name in ("loss", *facts)}
        assert before.keys() == after.keys() - told
        assert before["loss"] == after["loss"]


@pytest.mark.parametrize("make", [losses.SoftmaxLoss, losses.ArcFaceLoss])
def test_the_accuracy_on_validation_is_that_of_a_loop_over_its_items(make):
    held = blobs(per_class=6)
    items = torch.stack([held[row][0] for row in range(len(held))])
    torch.manual_seed(0)
    loss = make(3, 4)
    told = []

    def by_hand(record, encoder):
        with torch.no_grad():
            logits = loss.logits(encoder(items))
        right = sum(int(row.argmax()) == int(y) for row, y in zip(logits, held.labels, strict=True))
        told.append(right / len(items))

    best = training.KeepBest("validation_accuracy")
    options = {"classes_per_batch": 4, "items_per_class": 6, "callbacks": [by_hand, best]}
    _, history = fit(loss=loss, validation=held, epochs=6, learning_rate=0.05, **options)
    assert [record["validation_accuracy"] for record in history.records] == pytest.approx(told)
    assert told != [record["accuracy"] for record in history.records]
    assert best.value == pytest.approx(max(told))
    assert max(told) > 0.6  # and 0.25 by chance


def test_facts_on_validation_are_means_over_its_batches():
    held = blobs(per_class=6, seed=1)
    loss = losses.TripletLoss(margin=0.5)
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.facts = {}

        def forward(self, *batch, **options):
            value = loss(*batch, **options)
            self.facts = loss.facts
            if not self.training:
                seen.append({"loss": float(value), **{k: float(v) for k, v in loss.facts.items()}})
            return value

    options = {"classes_per_batch": 2, "items_per_class": 3}  # several batches
    _, history = fit(loss=Watched(), validation=held, epochs=1, **options)
    assert len(seen) > 2
    for name in seen[0]:
        mean = sum(each[name] for each in seen) / len(seen)
        assert history[0][f"validation_{name}"] == pytest.approx(mean, abs=1e-6)
    assert "negative_distance" in seen[0]


def test_ids_of_validation_are_none_of_the_training():
    seen = {True: set(), False: set()}

    class Remembering(losses.ContrastiveLoss):
        takes_ids = True

        def forward(self, *args, ids, **options):
            seen[self.training] |= set(ids.tolist())
            return super().forward(*args, **options)

    fit(loss=Remembering(), validation=blobs(per_class=6))
    assert seen[True] <= set(range(80))
    assert seen[False]
    assert seen[False] <= set(range(80, 104))


def test_the_best_epoch_may_be_chosen_by_the_validation_loss():
    best = training.KeepBest("validation_loss")
    stop = training.StopEarly("validation_loss", patience=1)
    _, history = fit(epochs=30, learning_rate=0.1, validation=blobs(seed=5), callbacks=[best, stop])
    values = [record["validation_loss"] for record in history.records]
    assert len(values) < 30
    assert best.value == min(values)


def test_validation_without_classes_to_compare_is_refused():
    one = ArrayDataset(torch.randn(5, 6), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="validation: data must have at least 2 classes"):
        fit(validation=one)
    with pytest.raises(TypeError, match="validation: data must be a map-style dataset"):
        fit(validation=[1])


def test_gradients_are_clipped_to_a_norm():
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
            seen.append(float(torch.cat(grads).norm()))
            return super().step(closure)

    def norms(clip):
        seen.clear()
        encoder, loss = network(), losses.SoftmaxLoss(3, 4)
        optimizer = Watched([*encoder.parameters(), *loss.parameters()], lr=0.1)
        _, history = fit(encoder, loss, optimizer=optimizer, epochs=1, clip_gradients=clip)
        return list(seen), history[0].get("gradient_norm")

    free, untold = norms(None)
    assert untold is None
    clipped, told = norms(0.5)
    assert free[0] > 0.6, "or nothing would be clipped"
    assert max(clipped) <= 0.5 + 1e-5
    assert told > 0.5
    assert norms(1e6)[0] == pytest.approx(free)


@pytest.mark.parametrize("clip", [0, -1.0, float("inf"), float("nan"), True, "1"])
def test_a_norm_that_is_no_number_above_0_is_refused(clip):
    with pytest.raises(ValueError, match="clip_gradients must be a"):
        fit(clip_gradients=clip)


@pytest.mark.parametrize(
    "changed", [{"clip_gradients": 2.0}, {"validation": blobs(seed=2)}, {"validation": None}]
)
def test_a_checkpoint_knows_clipping_and_validation(tmp_path, changed):
    settings = {"checkpoint": tmp_path / "run", "clip_gradients": 1.0, "validation": blobs(seed=1)}
    _, history = fit(**settings)
    _, again = fit(**settings)
    assert again == history
    (name,) = changed
    with pytest.raises(ValueError, match=f"checkpoint must be of this training, .*{name}"):
        fit(**(settings | changed))


def test_a_loss_without_a_gradient_is_refused():
    signs = lw.distances.Distance(
        "signs",
        lambda a, b: ((a[:, None] > 0) != (b[None] > 0)).sum(dim=-1),
        lambda a, b: ((a > 0) != (b > 0)).sum(dim=-1),
    )
    with pytest.raises(lw.InputError, match="a gradient, got ContrastiveLoss without one"):
        fit(loss=losses.ContrastiveLoss(distance=signs))


def test_progress_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match="progress must be True, False or a function, got int"):
        fit(progress=3)
