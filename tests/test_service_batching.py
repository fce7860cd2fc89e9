"""Batches: who is answered together, and that none harms another."""

import asyncio
import threading

import pytest

from likewise.service.batching import Batcher


def asked_together(batcher, jobs):
    async def ask():
        return await asyncio.gather(*map(batcher.ask, jobs), return_exceptions=True)

    try:
        return asyncio.run(ask())
    finally:
        batcher.close()


def test_a_job_that_comes_alone_is_answered_alone():
    seen = []
    batcher = Batcher(lambda job: 1, lambda jobs: [job + 1 for job in jobs], most=8, wait=30)
    batcher._told = lambda jobs, items: seen.append((jobs, items))
    assert asked_together(batcher, [41]) == [42]  # within the test's time, not after 30 s
    assert seen == [(1, 1)]


def test_jobs_that_wait_are_answered_together_up_to_the_most():
    batches, gate = [], threading.Event()

    def answer(jobs):
        if not batches:
            gate.wait(30)  # until all others are prepared
        batches.append(list(jobs))
        return [job * 10 for job in jobs]

    prepared = []

    def prepare(job):
        prepared.append(job)
        if len(prepared) == 20:
            gate.set()
        return 2

    batcher = Batcher(prepare, answer, most=8, wait=0)
    assert asked_together(batcher, list(range(20))) == [job * 10 for job in range(20)]
    assert sorted(job for batch in batches for job in batch) == list(range(20))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) == 4  # of two items each
    assert len(sizes) < 12


def test_a_job_larger_than_a_batch_makes_one_alone():
    batches = []

    def answer(jobs):
        batches.append(list(jobs))
        return list(jobs)

    batcher = Batcher(lambda job: job, answer, most=4, wait=0.01)
    assert asked_together(batcher, [9, 1, 1]) == [9, 1, 1]
    assert [9] in batches


def test_a_batch_waits_for_jobs_that_are_being_prepared():
    batches, inside = [], threading.Barrier(2)

    def prepare(job):
        if job != "late":
            inside.wait(30)
        else:
            inside.wait(30)
            threading.Event().wait(0.05)
        return 1

    def answer(jobs):
        batches.append(sorted(jobs))
        return list(jobs)

    batcher = Batcher(prepare, answer, most=2, wait=30)
    assert asked_together(batcher, ["early", "late"]) == ["early", "late"]
    assert batches == [["early", "late"]]


def test_a_job_that_fails_harms_no_other():
    gate = threading.Event()
    first = []

    def prepare(job):
        if job == "odd":
            raise ValueError("cannot be prepared")
        return 1

    def answer(jobs):
        if not first:
            first.append(True)
            gate.wait(0.2)
        if "bad" in jobs:
            raise KeyError("bad")
        return [job.upper() for job in jobs]

    batcher = Batcher(prepare, answer, most=16, wait=0.05)
    found = asked_together(batcher, ["a", "bad", "b", "odd", "c"])
    assert [found[0], found[2], found[4]] == ["A", "B", "C"]
    assert isinstance(found[1], KeyError)
    assert isinstance(found[3], ValueError)


def test_a_request_that_was_given_up_is_no_harm():
    gate = threading.Event()

    def answer(jobs):
        gate.wait(30)
        return list(jobs)

    batcher = Batcher(lambda job: 1, answer, most=4, wait=0)

    async def ask():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.ask(1), 0.05)
        gate.set()
        return await batcher.ask(2)

    try:
        assert asyncio.run(ask()) == 2
    finally:
        batcher.close()
