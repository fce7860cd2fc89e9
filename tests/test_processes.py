"""Training on two processes: the same as on one, and no process is left waiting."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import likewise as lw
import two_processes
from likewise import losses
from likewise.training import batch_norm
from likewise.training.processes import Processes
from two_processes import WIDTH, every_loss, points, trained

SCRIPT = Path(two_processes.__file__)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes told, and the folder that they shared."""
    folder = tmp_path_factory.mktemp("processes")
    running = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder, str(rank)], stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=900)[1] for process in running]
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert [process.returncode for process in running] == [0, 0], errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)], folder


def test_parts_of_every_loss_add_up_to_it_with_its_gradients_and_memory(ranks):
    told, _ = ranks
    assert told[0]["parts"].keys() >= every_loss().keys()
    for each in told:
        assert {name: apart for name, apart in each["parts"].items() if not apart < 1e-12} == {}


@pytest.mark.parametrize("name", ["memory", "proxies", "views", "chunks", "stream"])
def test_two_processes_train_what_one_trains(ranks, name):
    told, _ = ranks
    state, records = two_processes.trainings()[name]()
    for each in told:
        theirs, records_there = each["trainings"][name]
        assert theirs.keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(
                torch.tensor(theirs[key]), torch.tensor(value), rtol=1e-6, atol=1e-8
            )
        for ours, there in zip(records, records_there, strict=True):
            assert there["loss"] == pytest.approx(ours["loss"], rel=1e-5)
            assert there.keys() == ours.keys()
    assert told[0]["trainings"][name] == told[1]["trainings"][name]


def outcomes(ranks, name):
    told, _ = ranks
    return [each["outcomes"][name] for each in told]


def test_the_first_process_calls_back_and_its_word_ends_all(ranks):
    first, second = outcomes(ranks, "stopped early")
    assert first == [2, 2, 0.5, True]
    assert second == [0, 2, 0.5, True]
    _, folder = ranks
    assert len(list((folder / "best").glob("*.safetensors"))) == 1


def test_what_the_first_process_refuses_all_refuse(ranks):
    assert outcomes(ranks, "refused") == ["InputError: by must be better."] * 2
    assert outcomes(ranks, "interrupted") == ["KeyboardInterrupt: "] * 2


def test_processes_that_differ_are_refused_by_name(ranks):
    for told in outcomes(ranks, "other seeds"):
        assert told.startswith("InputError: seed must be the same in every process, got 0 in")
    for told in outcomes(ranks, "other batches"):
        assert told.startswith("InputError: batch_sampler must draw the same batches in every")
    for told in outcomes(ranks, "other streams"):
        assert told.startswith("InputError: data must be the same stream in every process, got")
    for told in outcomes(ranks, "small batches"):
        assert told.startswith("InputError: batches must hold at least one item for each of 2 pro")


def test_no_process_waits_for_one_that_failed(ranks):
    first, second = outcomes(ranks, "unread")
    assert first.startswith("ConnectionError: process 1 of this training could not load its share")
    assert second == "OSError: item 20 is gone"
    for told in outcomes(ranks, "overflowed"):
        assert told.startswith("InputError: weights must stay finite, got NaN or infinity in epoch")
    first, second = outcomes(ranks, "gone")
    assert first.startswith("ConnectionError: another process of this training ended")
    assert second == "MemoryError: no memory left here"
    for told in outcomes(ranks, "again"):
        assert told.startswith("InputError: fit must be called in processes that reach each other")


def test_dropout_differs_but_weights_do_not(ranks):
    first, second = outcomes(ranks, "dropout")
    assert first == second


def test_one_process_goes_on_where_two_were_interrupted(ranks, tmp_path):
    _, folder = ranks
    memory = {"embedding_dim": WIDTH, "size": 20}

    def run(**told):
        loss = losses.CrossBatchMemory(losses.ContrastiveLoss(), **memory)
        return trained(loss, points(), epochs=2, **told)[0]

    whole = run()
    calls = []
    resumed = run(
        checkpoint=folder / "checkpoint", callbacks=[lambda record, _: calls.append(record)]
    )
    assert [record["epoch"] for record in calls] == [2]
    for key, value in whole.items():
        torch.testing.assert_close(
            torch.tensor(resumed[key]), torch.tensor(value), rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE must come with RANK, MASTER_ADDR, MASTER_PORT, got 2"),
        ({"PMI_SIZE": "3"}, "PMI_SIZE must come with PMI_RANK, MASTER_ADDR, got 3"),
    ],
)
def test_processes_that_cannot_reach_each_other_are_refused(variables, sentence, monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(lw.InputError, match=sentence):
        trained(losses.TripletLoss(), points())
    for name in variables:
        monkeypatch.setenv(name, "1")
    trained(losses.TripletLoss(), points())


class Twice:
    """Two processes that have the same rows."""

    def stacked(self, values):
        return torch.stack([values, values])

    def add(self, values):
        return 2 * values


@pytest.mark.parametrize("is_affine", [True, False])
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 7), (5, 4, 6, 6), (3, 2, 2, 2, 2)])
def test_batch_norm_over_processes_is_that_of_torch_on_all_rows(shape, is_affine):
    values = torch.randn(shape, dtype=torch.float64) * 2 + 30
    slopes = torch.randn(shape, dtype=torch.float64)
    found = []
    for times, normalize in (
        (1, partial(batch_norm._batch_norm, Twice())),
        (2, F.batch_norm),
    ):
        copies = [times, *[1] * (len(shape) - 1)]
        rows = values.repeat(copies).requires_grad_()
        weights = [torch.linspace(at, 2, shape[1]).double().requires_grad_() for at in (1, -1)]
        running = [torch.zeros(shape[1]).double(), torch.ones(shape[1]).double()]
        given = weights if is_affine else [None, None]
        normalized = normalize(rows, *running, *given, True, 0.3, 1e-3)
        normalized.backward(slopes.repeat(copies))
        of_weights = [each.grad / times for each in given if each is not None]
        found.append([normalized, *running, rows.grad, *of_weights])
    for ours, torchs in zip(*found, strict=True):
        assert torch.allclose(ours, torchs[: len(ours)], rtol=1e-9, atol=1e-10)


def test_sums_of_few_numbers_keep_their_type(monkeypatch):
    processes = Processes()
    processes.count = 2
    monkeypatch.setattr(processes, "stacked", lambda values: torch.stack([values, values]))
    for values in (torch.tensor([1, 2], dtype=torch.uint8), torch.tensor(1.5).bfloat16()):
        assert torch.equal(processes.add(values), 2 * values)
        assert processes.add(values).dtype == values.dtype


def test_batch_norm_over_processes_takes_no_rows_and_bfloat16():
    for shape in ((0, 5), (0, 3, 4, 4), (8, 3, 4, 4)):
        rows = torch.randn(shape, dtype=torch.bfloat16).requires_grad_()
        running = torch.zeros(shape[1]), torch.ones(shape[1])
        normalized = batch_norm._batch_norm(Twice(), rows, *running, training=True)
        normalized.sum().backward()
        assert normalized.shape == rows.grad.shape == shape
        assert normalized.dtype == rows.grad.dtype == torch.bfloat16
    assert normalized.detach().float().std() == pytest.approx(1, abs=0.02)
