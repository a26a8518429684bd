"""The lottery ticket procedure of a profile: which runs are missing, who makes them, and how long it will take.

Runs go side by side, each on one core (two runs on two cores): small models gain more from that than from sharing a matrix product.
"""

import multiprocessing
import os
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cached_property

import torch

from lottery.common.errors import LotteryError
from lottery.common.format import number
from lottery.config.profile import WINNING_TICKET, Profile
from lottery.experiments.imp import run
from lottery.experiments.imp.arms import ARMS
from lottery.experiments.imp.records import TicketRecord, TicketRequest, blocks, folder_of, parent, read_ticket, requests
from lottery.experiments.lifecycle import finish, held, raise_if_stop_requested, record_failure
from lottery.experiments.records import write_state
from lottery.models import memory

_PROGRESS_SECONDS = 10
_WORKER_BYTES = 1 << 30


class TicketStudy:
    """All runs of the procedure under one profile. Existing records are never measured again; a killed run resumes after them."""

    def __init__(self, profile: Profile):
        if profile.tickets is None:
            raise LotteryError(
                f"tickets: not given in profile {profile.profile!r}; allowed: {Profile.model_fields['tickets'].description};"
                " params/ticket.yaml is an example"
            )
        self.profile, self.folder = profile, folder_of(profile)
        with record_failure(self.folder):
            self.parameters = run.check(profile)
            requests(profile)  # a text that is not there is found out now

    @property
    def requests(self) -> list[TicketRequest]:
        """All runs that can be asked for so far; with several learning rates their number grows once the best ones are known."""
        return requests(self.profile)

    @property
    def records(self) -> list[TicketRecord]:
        """The records on disk that belong to this procedure, in the order of its runs."""
        return [record for request in self.requests if (record := read_ticket(self.folder, request))]

    def train(self) -> None:
        """Make every run without a record, as soon as what it starts from exists."""
        with record_failure(self.folder):
            todo = self._todo()
        if not todo:
            return self.say("all trials are recorded")
        with held(self.folder), record_failure(self.folder):
            write_state(self.folder, "running")
            workers = self._workers
            # Not forked: a process that has used torch's threads or a GPU cannot be.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(self._on_cpu,)) as pool:
                try:
                    while todo:
                        self._train(pool, workers, todo)
                        before, todo = todo, self._todo()
                        if todo == before:
                            raise LotteryError(f"{WINNING_TICKET}: records that were just written do not read back; look at {self.folder}")
                finally:
                    pool.shutdown(cancel_futures=True)

    def finish(self) -> None:
        """Write, as the last thing of a run, that all trials are recorded; raise if they are not."""
        self.say(finish(self.folder, len(self.records), len(self.requests)))

    def say(self, line: str) -> None:
        print(f"{WINNING_TICKET}: {line}", flush=True)

    def _train(self, pool: ProcessPoolExecutor, workers: int, todo: list[TicketRequest]) -> None:
        under_way, done = {}, 0.0
        all_work, began, last = sum(map(self._work, todo)), time.monotonic(), 0.0
        requests = self.requests
        made = {request.key for request in requests} - {request.key for request in todo}
        waiting = list(todo)
        while waiting or under_way:
            raise_if_stop_requested(self.folder, len(requests) - len(waiting) - len(under_way), len(requests))
            ready = [r for r in waiting if (before := parent(r)) is None or before.key in made]
            for request in ready[: workers - len(under_way)]:
                waiting.remove(request)
                under_way[pool.submit(run.run, self.profile, request)] = request
            finished: set[Future] = wait(under_way, return_when=FIRST_COMPLETED).done
            for future in finished:
                request = under_way.pop(future)
                record = future.result()
                made.add(request.key)
                done += self._work(request)
                now = time.monotonic()
                if now - last >= _PROGRESS_SECONDS or record.result.problem:
                    last = now
                    seconds = (now - began) / done * (all_work - done) if done else 0
                    count = len(requests) - len(waiting) - len(under_way)
                    self.say(f"{_said(record)}; {count} of {len(requests)}, {_time(seconds)} left")

    def _todo(self) -> list[TicketRequest]:
        """Return the runs without a record, and those whose lost weights they need, in an order in which they can be made."""
        requests = self.requests
        wanted = {request.key for request in requests if read_ticket(self.folder, request) is None}
        for request in reversed(requests):
            before = parent(request)
            if request.key in wanted and before and not all(path.exists() for path in run.needs(self.folder, request)):
                record = read_ticket(self.folder, before)
                if record is None or not blocks(record, request):
                    wanted.add(before.key)
        return [request for request in requests if request.key in wanted]

    def _work(self, request: TicketRequest) -> float:
        """Return how much work a run is, relative to others: steps times weights; a little where nothing is trained."""
        arm = ARMS[request.arm]
        steps = request.steps - request.rewind * (arm.start == "rewound weights") if arm.trained else 1
        return steps * self.parameters[request.model]

    @cached_property
    def _on_cpu(self) -> bool:
        return self.profile.device == "cpu" or not torch.cuda.is_available()

    @property
    def _workers(self) -> int:
        """One worker for each core that this process may use, as far as memory allows; on a GPU one."""
        if not self._on_cpu:
            return 1
        # In float32: weights, gradients and two moments; beside them what torch itself takes, and a batch at work.
        each = 16 * max(self.parameters.values()) + _WORKER_BYTES
        return max(1, min(len(os.sched_getaffinity(0)), len(self.requests), memory.main_memory().free // each))


def _begin(on_cpu: bool) -> None:
    """Set up a worker: one thread each, since the last bits depend on it, and an end when its parent process is gone, however it went."""
    if on_cpu:
        torch.set_num_threads(1)

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _said(record: TicketRecord) -> str:
    return f"{record.title}: {record.result.problem or f'loss {number(record.result.loss)}'}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
