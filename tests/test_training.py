import warnings

import pytest
import torch
from torch import nn

import likewise as lw
from likewise import losses, training
from likewise.data import ArrayDataset


def blobs(classes=4, per_class=20, seed=0):
    rng = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(classes, 6, generator=rng)
    items = centres.repeat_interleave(per_class, dim=0)
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
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


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


def test_a_loss_that_is_not_finite_stops_with_a_sentence():
    with pytest.raises(ValueError, match=r"loss must stay finite, got (nan|inf) in epoch 1"):
        fit(preprocess=lambda items: items * torch.nan, epochs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"precision": "float8"}, "precision must be one of bfloat16, float16, float32"),
        ({"precision": "float16"}, "precision must not be float16 on a CPU"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"data": ArrayDataset(torch.rand(4, 6), [0, 0, 0, 0])}, "class"),
        ({"data": ArrayDataset(torch.rand(4, 6), [0, 1, 2, 3])}, "class"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fit(**settings)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_brings_the_encoder_home():
    encoder, history = fit(device="cuda")
    assert next(encoder.parameters()).device.type == "cpu"
    assert history[2]["loss"] > 0
