import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import likewise as lw
from likewise import losses
from likewise.data import ArrayDataset
from likewise.training import checkpoints
from likewise.training.following import KeepBest, StopEarly
from likewise.training.tracking import Track


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))


def fit(encoder=None, **settings):
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 4
    items = 2 * torch.eye(6)[labels] + torch.randn(40, 6, generator=rng)
    data = ArrayDataset(items, labels)
    encoder = network() if encoder is None else encoder
    settings = {"epochs": 6, "device": "cpu", "learning_rate": 1e-2} | settings
    return encoder, lw.fit(encoder, losses.TripletLoss(margin=0.5), data, **settings)


def weights(module):
    return torch.cat([weight.detach().flatten() for weight in module.state_dict().values()])


def played(callback, values, name="score"):
    """What the callback answers to epochs with these values; None is a missing one."""
    answers = []
    for epoch, value in enumerate(values, start=1):
        encoder = nn.Linear(1, 1)
        nn.init.constant_(encoder.weight, epoch)
        record = {"epoch": epoch, "loss": 1.0} | ({} if value is None else {name: value})
        answers.append(callback(record, encoder))
        if answers[-1]:
            break
    return answers


def scores(values):
    """A callback that gives epochs these numbers, in the place of an evaluation."""

    def add(record, encoder):
        value = values[int(record["epoch"]) - 1]
        if value is not None:
            record["score"] = value

    return add


NUMBERS = st.lists(
    st.one_of(st.none(), st.sampled_from([0.1, 0.2, 0.3, -1.0, math.nan, math.inf])), max_size=12
)


@given(NUMBERS, st.booleans())
def test_the_best_is_the_earliest_of_the_best_finite_numbers(values, higher):
    values = [0.2, *values]
    best = KeepBest("score", higher_is_better=higher)
    played(best, values)
    candidates = [value for value in values if value is not None and math.isfinite(value)]
    expected = max(candidates) if higher else min(candidates)
    assert best.value == expected
    assert best.epoch == values.index(expected) + 1
    encoder = nn.Linear(1, 1)
    best.restore(encoder)
    assert encoder.weight.item() == best.epoch


@given(NUMBERS, st.booleans(), st.integers(1, 3), st.sampled_from([0.0, 0.1, 0.5]))
def test_a_training_stops_after_so_many_numbers_without_a_gain(values, higher, patience, least):
    values = [0.2, *values]
    stop = StopEarly("score", patience=patience, least_gain=least, higher_is_better=higher)
    told = played(stop, values)
    best, waited, expected = None, 0, []
    for value in values:
        if value is not None:
            gain = math.inf if best is None else (value - best) * (1 if higher else -1)
            if math.isfinite(value) and gain > least:
                best, waited = value, 0
            else:
                waited += 1
        expected.append(value is not None and waited >= patience)
        if expected[-1]:
            break
    assert told == expected


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("unseen_map_at_r", True),
        ("seen_precision_at_1", True),
        ("x_recall_at_10", True),
        ("r_precision", True),
        ("softmax/accuracy", True),
        ("pairs_roc_auc", True),
        ("loss", False),
        ("triplet/loss", False),
        ("seen_equal_error_rate", False),
        ("x_ndcg_at_5", True),
        ("reciprocal_rank", True),
        ("median_rank", False),
        ("error_rate", False),
    ],
)
def test_the_direction_of_known_numbers_is_known(name, higher):
    best = KeepBest(name)
    played(best, [0.2, 0.3, 0.1], name)
    assert best.epoch == (2 if higher else 3)


@pytest.mark.parametrize("name", ["active", "closs", "spread", "map_of_it", "positive_distance"])
def test_the_direction_of_other_numbers_must_be_given(name):
    with pytest.raises(ValueError, match=f"higher_is_better must be given for '{name}'"):
        KeepBest(name)
    with pytest.raises(ValueError, match="higher_is_better must be given"):
        StopEarly(name, patience=1)
    assert KeepBest(name, higher_is_better=True).epoch is None


@pytest.mark.parametrize(
    "callback", [KeepBest("mpa_accuracy"), StopEarly("mpa_accuracy", patience=3)]
)
def test_a_number_that_does_not_come_up_ends_the_training_after_the_first_epoch(callback):
    seen = []
    with pytest.raises(
        ValueError,
        match=r"by must be a number that came up by epoch 1, got 'mpa_accuracy'. There were "
        r"active, .*, loss, .*spread; one that comes up later needs first_epoch=.",
    ):
        fit(callbacks=[lambda record, _: seen.append(record["epoch"]), callback])
    assert seen == [1]


def test_numbers_may_come_up_later_where_that_is_said_and_earlier_ones_do_not_count():
    late = KeepBest("score", higher_is_better=True, first_epoch=3)
    played(late, [None, None, 0.1, None, 0.2])
    assert (late.epoch, late.value) == (5, 0.2)
    late = KeepBest("score", higher_is_better=True, first_epoch=3)
    played(late, [0.9, 0.8, None, 0.2])
    assert late.epoch == 4
    with pytest.raises(ValueError, match=r"came up by epoch 3, got 'score'. There were loss;"):
        played(late, [None, None, None])


def test_nothing_to_restore_is_told_with_the_numbers_that_there_were():
    best = KeepBest("score", higher_is_better=True)
    played(best, [math.nan, None])
    with pytest.raises(
        ValueError,
        match=r"by must be a number that was finite after some epoch, got 'score', "
        "which never was. There were loss, score.",
    ):
        best.restore(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="There were none"):
        KeepBest("loss").restore(nn.Linear(1, 1))


def test_an_epoch_whose_loss_is_not_finite_is_never_better():
    best, stop = KeepBest("x_accuracy"), StopEarly("x_accuracy", patience=2)
    epochs = [(0.5, 0.1), (math.nan, 0.9), (math.inf, 0.8), (0.4, 0.1)]
    answers = []
    for epoch, (loss, score) in enumerate(epochs, start=1):
        record = {"epoch": epoch, "loss": loss, "x_accuracy": score}
        best(record, nn.Linear(1, 1))
        answers.append(stop(record, nn.Linear(1, 1)))
    assert (best.epoch, best.value) == (1, 0.1)
    assert answers[:3] == [False, False, True]


def test_patience_with_a_number_that_never_is_finite_ends_in_a_sentence():
    stop = StopEarly("score", patience=2, higher_is_better=True)
    with pytest.raises(
        lw.InputError,
        match=r"by must be a number that is finite after some epoch, got 'score', which was NaN "
        r"or infinite 2 times in a row. There were loss, score\.",
    ):
        played(stop, [math.nan, None, math.inf, 0.1])


def test_the_weights_kept_are_those_of_the_best_epoch_and_are_no_views():
    seen = []
    watch = [
        lambda record, encoder: seen.append(weights(encoder).clone()),
        scores([0.1, 0.3, 0.3, 0.2, None, math.nan]),
        best := KeepBest("score", higher_is_better=True),
    ]
    encoder, _ = fit(callbacks=watch)
    assert not torch.equal(weights(encoder), seen[1])
    best.restore(encoder)
    assert torch.equal(weights(encoder), seen[1])
    with torch.no_grad():
        encoder[0].weight.zero_()
    best.restore(encoder)
    assert torch.equal(weights(encoder), seen[1])
    with pytest.raises(ValueError, match="encoder must be the one that was trained, got a Linear"):
        best.restore(nn.Linear(6, 3))


def test_a_new_training_begins_anew():
    best, stop = KeepBest("loss"), StopEarly("loss", patience=2)
    assert played(best, [0.1, 0.2], "loss") == [None, None]
    assert played(stop, [0.1, 0.2], "loss") == [False, False]
    played(best, [0.5, 0.4], "loss")
    assert (best.epoch, best.value) == (2, 0.4)
    assert played(stop, [0.5, 0.6, 0.4], "loss") == [False, False, False]


def test_the_best_weights_are_in_the_folder_as_safetensors_and_json(tmp_path):
    best = KeepBest("score", higher_is_better=True, folder=tmp_path / "a" / "best")
    encoder, _ = fit(callbacks=[scores([0.1, 0.5, 0.2, 0.3, 0.4, 0.1]), best])
    files = sorted(path.name for path in (tmp_path / "a" / "best").iterdir())
    assert len(files) == 2
    assert [name.rpartition(".")[2] for name in files] == ["safetensors", "json"]
    json.loads((tmp_path / "a" / "best" / "checkpoint.json").read_text())
    best.restore(encoder)
    other = KeepBest("score", higher_is_better=True, folder=tmp_path / "a" / "best")
    again = network(seed=1)
    other.restore(again)
    assert torch.equal(weights(again), weights(encoder))
    assert (other.epoch, other.value) == (2, 0.5)
    with pytest.raises(ValueError, match="it followed the highest score"):
        KeepBest("loss", folder=tmp_path / "a" / "best").restore(again)


class Interrupted(Exception):
    pass


def interrupt(epoch):
    def stop(*numbers):
        if numbers[:2] == (epoch, 1):
            raise Interrupted

    return stop


# The best comes early, is equalled, and patience is over only if counted through interruptions.
VALUES = [0.1, 0.4, None, 0.4, 0.3, 0.2, 0.9, 0.9]


@pytest.mark.parametrize("interruptions", [(1, 2), (3,), (3, 4, 5), (6,)])
def test_best_and_patience_are_the_same_after_interruptions(interruptions, tmp_path):
    def train(folder, **settings):
        best = KeepBest("score", higher_is_better=True, folder=tmp_path / f"{folder}_best")
        stop = StopEarly("score", patience=3, higher_is_better=True)
        callbacks = [scores(VALUES), stop, best]
        encoder, history = fit(
            epochs=8, callbacks=callbacks, checkpoint=tmp_path / folder, **settings
        )
        best.restore(encoder)
        return encoder, history, best

    whole, history, best = train("whole")
    assert (best.epoch, len(history)) == (2, 6)
    for epoch in interruptions:
        with pytest.raises(Interrupted):
            train("run", progress=interrupt(epoch))
    again, resumed, best_again = train("run")
    read, finished, best_read = train("run")
    for encoder, records, kept in ((again, resumed, best_again), (read, finished, best_read)):
        assert (kept.epoch, kept.value, len(records)) == (2, 0.4, 6)
        assert torch.equal(weights(encoder), weights(whole))
    written = network(seed=3)
    KeepBest("score", higher_is_better=True, folder=tmp_path / "run_best").restore(written)
    assert torch.equal(weights(written), weights(whole))


def test_a_crash_between_the_best_weights_and_the_checkpoint_is_made_good(tmp_path, monkeypatch):
    def train():
        best = KeepBest("score", higher_is_better=True, folder=tmp_path / "best")
        fit(callbacks=[scores([0.1, 0.2, 0.9, 0.1, 0.1, 0.1]), best], checkpoint=tmp_path / "run")

    real = checkpoints.Checkpoint.save

    def crash(self, records, *, stopped):
        if len(records) == 3:
            raise Interrupted
        real(self, records, stopped=stopped)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.Checkpoint, "save", crash)
        with pytest.raises(Interrupted):
            train()
    assert checkpoints.load_checkpoint(tmp_path / "best")["epoch"] == 3
    best = KeepBest("score", higher_is_better=True, folder=tmp_path / "best")
    with pytest.raises(Interrupted):
        fit(callbacks=[best], checkpoint=tmp_path / "run", progress=interrupt(3))
    assert checkpoints.load_checkpoint(tmp_path / "best")["epoch"] == 2


def test_a_checkpoint_of_other_callbacks_is_refused(tmp_path):
    fit(checkpoint=tmp_path, callbacks=[KeepBest("loss")])
    with pytest.raises(ValueError, match=r"with callback 1 \(KeepBest\) on one side only"):
        fit(checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"another callback 1 \(KeepBest\) \(it followed the low"):
        fit(checkpoint=tmp_path, callbacks=[KeepBest("x_accuracy")])
    with pytest.raises(ValueError, match=r"callback 1 \(KeepBest\), callback 1 \(StopEarly\) on o"):
        fit(checkpoint=tmp_path, callbacks=[StopEarly("loss", patience=1)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"patience": 1, "least_gain": -0.1}, "least_gain must be at least 0"),
        ({"patience": 1, "first_epoch": 0}, "first_epoch must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        StopEarly("loss", **settings)


@pytest.mark.parametrize("by", [None, "", 3])
def test_a_number_without_a_name_is_refused(by):
    with pytest.raises(ValueError, match=rf"by must be the name of a number, got {by!r}"):
        KeepBest(by)


def test_a_file_is_no_folder_for_the_best_weights():
    with pytest.raises(ValueError, match="folder must be a folder, got the file"):
        KeepBest("loss", folder=__file__)
    with pytest.raises(ValueError, match=r"folder must be a folder, got '.*' in the file"):
        Track("tensorboard", folder=f"{__file__}/runs")


@pytest.fixture
def tracker():
    from accelerate.tracking import GeneralTracker

    class Recorder(GeneralTracker):
        name = "recorder"
        requires_logging_directory = False
        tracker = None

        def __init__(self):
            super().__init__()
            self.calls = []

        def start(self):
            self.calls.append("start")

        def log(self, values, step=None, **others):
            self.calls.append((step, values))

        def finish(self):
            self.calls.append("finish")

    return Recorder()


def test_a_tracker_gets_every_record_from_start_to_finish(tracker):
    watch = [scores([0.5, None, 0.25]), Track(tracker)]
    _, history = fit(epochs=3, callbacks=watch)
    first, *logged, last = tracker.calls
    assert (first, last) == ("start", "finish")
    assert [step for step, _ in logged] == [1, 2, 3]
    for (step, values), record in zip(logged, history.records, strict=True):
        assert values | {"epoch": step} == record
    assert "score" in logged[0][1]
    assert "score" not in logged[1][1]


def test_a_tracker_is_finished_when_a_training_is_interrupted_and_starts_again(tracker, tmp_path):
    track = Track(tracker)
    with pytest.raises(Interrupted):
        fit(epochs=3, callbacks=[track], checkpoint=tmp_path, progress=interrupt(3))
    fit(epochs=3, callbacks=[track], checkpoint=tmp_path)
    track.finish()
    told = [call if isinstance(call, str) else call[0] for call in tracker.calls]
    assert told == ["start", 1, 2, "finish", "start", 3, "finish"]


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track = Track("tensorboard", folder=tmp_path, run="mine")
    with pytest.raises(Interrupted):
        fit(callbacks=[track], checkpoint=tmp_path / "run", progress=interrupt(4))
    _, history = fit(callbacks=[track], checkpoint=tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "mine")).Reload()
    assert set(events.Tags()["scalars"]) == set(history[0]) - {"epoch"}
    for name in ("loss", "spread", "seconds"):
        logged = events.Scalars(name)
        assert [event.step for event in logged] == [1, 2, 3, 4, 5, 6]
        assert [event.value for event in logged] == pytest.approx(
            [record[name] for record in history.records]
        )


def test_a_tracker_without_its_package_names_what_to_install(monkeypatch, tmp_path, tracker):
    from accelerate import tracking

    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(
        ImportError,
        match=r"tracker must be one whose package is installed, got 'tensorboard' without it. "
        r'Use pip install "likewise\[trackers\]".',
    ):
        Track("tensorboard", folder=tmp_path)
    with pytest.raises(ImportError, match=r"got 'wandb' without it. Use pip install wandb."):
        Track("wandb", folder=tmp_path)
    with pytest.raises(ValueError, match="tracker must be one of mlflow, tensorboard, wandb, got"):
        Track("tensorbord", folder=tmp_path)
    with pytest.raises(ValueError, match="settings must be left out for a tracker that is made"):
        Track(tracker, settings={"mode": "online"})
    assert not list(tmp_path.iterdir())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_best_of_a_training_on_cuda_comes_home():
    best = KeepBest("score", higher_is_better=True)
    encoder, _ = fit(device="cuda", callbacks=[scores([0.1, 0.9, 0.3, 0.2, 0.1, 0.1]), best])
    last = weights(encoder).clone()
    best.restore(encoder)
    assert weights(encoder).device.type == "cpu"
    assert not torch.equal(weights(encoder), last)
