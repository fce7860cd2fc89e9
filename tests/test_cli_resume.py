import pytest
import torch

import likewise as lw
from likewise.cli import training

OPTIONS = ("--epochs", "3", "--batches", "4", "--embedding-dim", "8", "--cross-fit", "off")


def weights(folder):
    return lw.load(folder).encoder.state_dict()


@pytest.fixture
def stopped_in(monkeypatch):
    """Let Ctrl-C be pressed at the end of an epoch, before that is kept."""

    def stop(epoch):
        tell = training.tell_epoch

        def told(record, encoder):
            tell(record, encoder)
            if record["epoch"] == epoch:
                raise KeyboardInterrupt

        monkeypatch.setattr(training, "tell_epoch", told)
        return lambda: monkeypatch.setattr(training, "tell_epoch", tell)

    return stop


def test_an_interrupted_training_goes_on_to_the_same_model(run, tmp_path, monkeypatch, stopped_in):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("train", "digits", "--out", "whole", *OPTIONS)
    assert status == 0, err
    assert not (tmp_path / "whole.checkpoint").exists()
    go_on = stopped_in(3)
    status, _, err = run("train", "digits", "--out", "m", *OPTIONS)
    assert status == 130
    assert "2 of 3 epochs are kept in m.checkpoint; go on with --resume" in err
    assert not (tmp_path / "m").exists()
    go_on()
    status, _, err = run("train", "digits", "--out", "m", *OPTIONS)
    assert (status, "--resume must go on with the training" in err) == (2, True), err
    status, _, err = run("train", "digits", "--out", "m", *OPTIONS, "--seed", "9", "--resume")
    assert (status, "must be of this training" in err) == (2, True), err
    assert (tmp_path / "m.checkpoint").exists()
    status, out, err = run("train", "digits", "--out", "m", *OPTIONS, "--resume")
    assert status == 0, err
    assert "epoch 3" in err
    assert "epoch 2" not in err
    assert "3 epochs" in out
    assert not (tmp_path / "m.checkpoint").exists()
    for name, value in weights("whole").items():
        assert torch.equal(value, weights("m")[name]), name


def test_what_was_not_interrupted_is_not_resumed(run, tmp_path, monkeypatch, stopped_in):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("train", "digits", "--out", "m", *OPTIONS, "--resume")
    assert (status, "--resume must be left out unless a training was inter" in err) == (2, True), (
        err
    )
    stopped_in(1)
    status, _, err = run("train", "digits", "--out", "m", *OPTIONS)
    assert (status, "no epoch was finished, so nothing is kept" in err) == (130, True), err
    assert not (tmp_path / "m.checkpoint").exists()


def test_what_is_refused_leaves_nothing_to_resume(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("train", "digits", "--out", "m", *OPTIONS, "--learning-rate", "1e30")
    assert status == 2, err
    assert not (tmp_path / "m.checkpoint").exists()
