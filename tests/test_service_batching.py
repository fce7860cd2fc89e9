"""Batches: who is answered together, and that none harms another."""

import asyncio
import threading

import pytest

from likewise.service.batching import Batcher


def asked_together(batcher, jobs, sizes=None):
    async def ask():
        asked = [batcher.ask(job, sizes[at] if sizes else 1) for at, job in enumerate(jobs)]
        # A batch that waits in vain does so for 30 seconds.
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)

    try:
        return asyncio.run(ask())
    finally:
        batcher.close()


def nothing(job):
    """Such jobs need no preparing."""


def test_a_job_that_comes_alone_is_answered_alone():
    seen = []

    def told(*batch):
        seen.append(batch)

    batcher = Batcher(nothing, lambda jobs: [job + 1 for job in jobs], most=8, wait=30, told=told)
    assert asked_together(batcher, [41]) == [42]
    assert seen == [(1, 1)]


def test_jobs_that_come_together_are_answered_together_up_to_the_most():
    batches, prepared = [], []

    def answer(jobs):
        batches.append(list(jobs))
        return [job * 10 for job in jobs]

    batcher = Batcher(prepared.append, answer, most=8, wait=30)
    found = asked_together(batcher, list(range(10)), [2] * 10)
    assert found == [job * 10 for job in range(10)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert prepared == list(range(10))


def test_jobs_that_come_while_a_batch_is_answered_make_the_next():
    batches, gate = [], threading.Event()

    def answer(jobs):
        batches.append(list(jobs))
        gate.wait(30)
        return list(jobs)

    batcher = Batcher(nothing, answer, most=8, wait=30)

    async def ask():
        first = asyncio.ensure_future(batcher.ask(0, 1))
        while not batches:
            await asyncio.sleep(0.001)
        later = [asyncio.ensure_future(batcher.ask(job, 1)) for job in (1, 2, 3)]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(first, *later)

    try:
        assert asyncio.run(ask()) == [0, 1, 2, 3]
    finally:
        batcher.close()
    assert batches == [[0], [1, 2, 3]]


def test_a_job_larger_than_a_batch_makes_one_alone():
    batches = []

    def answer(jobs):
        batches.append(list(jobs))
        return list(jobs)

    batcher = Batcher(nothing, answer, most=4, wait=30)
    assert asked_together(batcher, [1, 9, 2], [1, 9, 2]) == [1, 9, 2]
    assert batches == [[1], [9], [2]]


@pytest.mark.parametrize("most", [2, 3])
def test_a_batch_waits_for_jobs_that_others_prepare(most):
    batches, inside = [], threading.Barrier(2)

    def prepare(job):
        inside.wait(30)
        if job == "late":
            threading.Event().wait(0.05)

    def answer(jobs):
        batches.append(sorted(jobs))
        return list(jobs)

    batcher = Batcher(prepare, answer, most=most, wait=30, is_slow=lambda job: True)
    assert asked_together(batcher, ["early", "late"]) == ["early", "late"]
    assert batches == [["early", "late"]]


@pytest.mark.parametrize(("most", "wait"), [(8, 0), (1, 30)])
def test_a_job_that_takes_long_to_prepare_holds_up_no_other(most, wait):
    gate = threading.Event()

    def prepare(job):
        if job == "slow":
            assert gate.wait(30)

    batcher = Batcher(prepare, list, most=most, wait=wait, is_slow=lambda job: job == "slow")

    async def ask():
        slow = asyncio.ensure_future(batcher.ask("slow", 1))
        await asyncio.sleep(0)
        quick = await asyncio.wait_for(batcher.ask("quick", 1), 10)
        gate.set()
        return quick, await slow

    try:
        assert asyncio.run(ask()) == ("quick", "slow")
    finally:
        batcher.close()


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_job_that_fails_harms_no_other(is_slow):
    def prepare(job):
        if job == "odd":
            raise ValueError("cannot be prepared")

    def answer(jobs):
        if "bad" in jobs:
            raise KeyError("bad")
        return [job.upper() for job in jobs]

    batcher = Batcher(prepare, answer, most=16, wait=0.05, is_slow=lambda job: is_slow)
    found = asked_together(batcher, ["a", "bad", "b", "odd", "c"])
    assert [found[0], found[2], found[4]] == ["A", "B", "C"]
    assert isinstance(found[1], KeyError)
    assert isinstance(found[3], ValueError)


def test_a_request_that_was_given_up_is_no_harm():
    gate = threading.Event()

    def answer(jobs):
        gate.wait(30)
        return list(jobs)

    batcher = Batcher(nothing, answer, most=4, wait=0)

    async def ask():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.ask(1, 1), 0.05)
        gate.set()
        return await batcher.ask(2, 1)

    try:
        assert asyncio.run(ask()) == 2
    finally:
        batcher.close()
