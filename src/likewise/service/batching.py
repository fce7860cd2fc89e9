"""Requests answered together: whoever finds nobody at it answers all that wait."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

J = TypeVar("J")
Prepare = Callable[[J], int]
Answer = Callable[[Sequence[J]], Sequence[object]]


class _Waiting(Generic[J]):
    """A job with the future that its request waits for."""

    __slots__ = ("future", "job", "loop", "size")

    def __init__(self, job: J, loop: asyncio.AbstractEventLoop) -> None:
        self.job, self.loop, self.size = job, loop, 0
        self.future: asyncio.Future[object] = loop.create_future()


class Batcher(Generic[J]):
    """Answers jobs in batches.

    Threads prepare jobs, each its own. One that has prepared a job and finds no other thread
    answering takes all that are prepared, up to `most` items, and answers them together, and goes
    on until none waits. It waits up to `wait` seconds for jobs that others are preparing now, so a
    job that comes alone is answered at once.

    Args:
        prepare: Work on one job, before it joins a batch; how many items it has. What it raises is
            that job's answer.
        answer: One answer per job; an exception in place of an answer is raised for that job.
        most: Items of a batch. A job with more makes one alone.
        wait: Seconds.
        threads: How many work; at least 2, for one answers while another prepares.
    """

    def __init__(
        self,
        prepare: Prepare[J],
        answer: Answer[J],
        *,
        most: int,
        wait: float,
        threads: int = 3,
        told: Callable[[int, int], None] | None = None,
    ) -> None:
        self._prepare, self._answer = prepare, answer
        self._most, self._wait, self._told = most, wait, told
        self._pool = ThreadPoolExecutor(max(2, threads), thread_name_prefix="likewise-batch")
        self._changed = threading.Condition()
        self._ready: deque[_Waiting[J]] = deque()
        self._preparing = 0
        self._is_led = False

    async def ask(self, job: J) -> object:
        """The answer to a job.

        Raises:
            Exception: What preparing or answering it raised.
        """
        waiting = _Waiting(job, asyncio.get_running_loop())
        with self._changed:
            self._preparing += 1
        self._pool.submit(self._enter, waiting)
        return await waiting.future

    def close(self) -> None:
        """Finish what waits, and end the threads."""
        self._pool.shutdown(wait=True)

    def _enter(self, waiting: _Waiting[J]) -> None:
        error: BaseException | None = None
        try:
            waiting.size = self._prepare(waiting.job)
        except BaseException as raised:
            error = raised
        with self._changed:
            self._preparing -= 1
            if error is None:
                self._ready.append(waiting)
            self._changed.notify_all()
            leads = error is None and not self._is_led
            self._is_led = self._is_led or leads
        if error is not None:
            _hand_out([(waiting, error)])
        if leads:
            self._lead()

    def _lead(self) -> None:
        while batch := self._next():
            size = sum(each.size for each in batch)
            if self._told is not None:
                self._told(len(batch), size)
            _hand_out(list(zip(batch, self._answered(batch), strict=True)))

    def _next(self) -> list[_Waiting[J]]:
        with self._changed:
            end = time.monotonic() + self._wait
            while self._preparing and sum(each.size for each in self._ready) < self._most:
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            batch: list[_Waiting[J]] = []
            size = 0
            while self._ready and (not batch or size + self._ready[0].size <= self._most):
                batch.append(self._ready.popleft())
                size += batch[-1].size
            self._is_led = bool(batch)
            return batch

    def _answered(self, batch: Sequence[_Waiting[J]]) -> list[object]:
        try:
            return list(self._answer([each.job for each in batch]))
        except Exception as error:
            if len(batch) == 1:
                return [error]
        # One that cannot be answered must not harm the others.
        return [self._answered([each])[0] for each in batch]


def _hand_out(answers: Sequence[tuple[_Waiting[J], object]]) -> None:
    # One wakeup of the event loop for all of a batch.
    loop = answers[0][0].loop

    def hand_out() -> None:
        for waiting, answer in answers:
            if waiting.future.done():  # the client left
                continue
            if isinstance(answer, BaseException):
                waiting.future.set_exception(answer)
            else:
                waiting.future.set_result(answer)

    if not loop.is_closed():
        loop.call_soon_threadsafe(hand_out)
