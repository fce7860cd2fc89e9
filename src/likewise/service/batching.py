"""Requests answered together: what comes while a batch is answered makes the next one."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

J = TypeVar("J")
Prepare = Callable[[J], None]
Answer = Callable[[Sequence[J]], Sequence[object]]


@dataclass(eq=False, slots=True)
class _Waiting(Generic[J]):
    """A job with the future that its request waits for."""

    job: J
    size: int
    future: asyncio.Future[object]
    is_prepared: bool = False


class Batcher(Generic[J]):
    """Answers jobs in batches.

    One thread answers, and prepares what is quick to prepare. It takes all jobs that wait, up to
    `most` items, and goes on until none waits. A job that comes alone is answered at once: batches
    form while another is answered. Jobs that take long to prepare are prepared by other threads,
    each its own, and a batch waits up to `wait` seconds for them.

    Args:
        prepare: Prepares one job before it is answered. What it raises is that job's answer.
        answer: Gives one answer per job. What it raises for a job alone is that job's answer.
        most: Items of a batch. A job with more makes one alone.
        wait: Seconds.
        is_slow: Whether a job takes long to prepare.
        threads: Threads that prepare such jobs.
        told: Called with the jobs and the items of each batch.
    """

    def __init__(
        self,
        prepare: Prepare[J],
        answer: Answer[J],
        *,
        most: int,
        wait: float,
        is_slow: Callable[[J], bool] = lambda job: False,
        threads: int = 3,
        told: Callable[[int, int], None] | None = None,
    ) -> None:
        self._prepare, self._answer, self._is_slow = prepare, answer, is_slow
        self._most, self._wait, self._told = most, wait, told
        self._leading = ThreadPoolExecutor(1, thread_name_prefix="likewise-batch")
        self._preparers = ThreadPoolExecutor(threads, thread_name_prefix="likewise-prepare")
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting[J]] = deque()
        self._preparing = 0
        self._is_led = False

    async def ask(self, job: J, size: int) -> object:
        """The answer to a job of `size` items.

        Raises:
            Exception: What preparing or answering it raised.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(job, size, loop.create_future())
        if self._is_slow(job):
            with self._changed:
                self._preparing += 1
            self._preparers.submit(self._prepare_apart, waiting)
        elif self._joins(waiting):
            # Not before the loop has handed out all else that came at the same time.
            loop.call_soon(self._leading.submit, self._lead)
        return await waiting.future

    def close(self) -> None:
        """Finish what waits, and end the threads."""
        self._preparers.shutdown(wait=True)
        self._leading.shutdown(wait=True)

    def _prepare_apart(self, waiting: _Waiting[J]) -> None:
        is_good = self._prepared(waiting)
        with self._changed:
            self._preparing -= 1
            self._changed.notify_all()
            leads = is_good and self._joins(waiting)
        if leads:
            self._leading.submit(self._lead)

    def _joins(self, waiting: _Waiting[J]) -> bool:
        """Let a job be answered; whether nobody is at it, and the caller must see to it."""
        with self._changed:
            self._waiting.append(waiting)
            is_first, self._is_led = not self._is_led, True
            return is_first

    def _prepared(self, waiting: _Waiting[J]) -> bool:
        try:
            self._prepare(waiting.job)
        except BaseException as error:
            _hand_out([(waiting, error)])
            return False
        waiting.is_prepared = True
        return True

    def _lead(self) -> None:
        while batch := self._next():
            batch = [each for each in batch if each.is_prepared or self._prepared(each)]
            if not batch:
                continue
            if self._told is not None:
                self._told(len(batch), sum(each.size for each in batch))
            _hand_out(list(zip(batch, self._answered(batch), strict=True)))

    def _next(self) -> list[_Waiting[J]]:
        with self._changed:
            self._changed.wait_for(self._need_not_wait, self._wait)
            batch: list[_Waiting[J]] = []
            size = 0
            while self._waiting and (not batch or size + self._waiting[0].size <= self._most):
                batch.append(self._waiting.popleft())
                size += batch[-1].size
            self._is_led = bool(batch)
            return batch

    def _need_not_wait(self) -> bool:
        return not self._preparing or sum(each.size for each in self._waiting) >= self._most

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
    loop = answers[0][0].future.get_loop()

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
