# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Bounded parallel work: per run, per node, per storage, and apart for deletes (law 14).

Work that cannot start now - a limit, or a time to wait for - never holds a worker that other work
could use. Deletes start only when no create is ready to start (design, "A snapshot run", step 7).
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Callable, Hashable, List, Optional, Sequence, Tuple

CREATE = "create"
DELETE = "delete"


@dataclass(frozen=True)
class Later:
    """The work is to be run again after ``seconds``."""

    seconds: float


@dataclass
class Work:
    """One step on one guest.

    ``run`` returns None when the guest is done, a Later, or the next Work. ``serial`` storages take
    one piece of work at a time whatever the limit.
    """

    run: Callable[[], object]
    kind: str
    node: str
    storages: Tuple[Hashable, ...] = ()
    serial: Tuple[Hashable, ...] = ()
    dropped: Callable[[str], None] = field(default=lambda reason: None)


@dataclass(frozen=True)
class Bounds:
    """How much may run at once."""

    total: int
    per_node: int
    per_storage: int
    deletes: int


class Workers:
    """Runs work until all is done, or until ``stop`` gives a reason; what did not start is dropped with it."""

    def __init__(self, bounds: Bounds, stop: Callable[[], Optional[str]]) -> None:
        self._bounds = bounds
        self._stop = stop
        self._changed = threading.Condition()
        self._ready: List[Work] = []
        self._waiting: List[Tuple[float, int, Work]] = []
        self._number = itertools.count()
        self._running = 0
        self._deletes = 0
        self._nodes: Counter[str] = Counter()
        self._storages: Counter[Hashable] = Counter()

    def run(self, work: Sequence[Work]) -> None:
        """Run all of it, and what follows from it."""
        self._ready = list(work)
        with ThreadPoolExecutor(max_workers=self._bounds.total) as pool:
            with self._changed:
                while self._ready or self._waiting or self._running:
                    reason = self._stop()
                    if reason:
                        self._drop(reason)
                    else:
                        self._wake()
                        self._start(pool)
                    if self._ready or self._waiting or self._running:
                        self._changed.wait(self._pause())

    def _pause(self) -> float:
        if not self._waiting:
            return 1.0
        return max(0.01, min(1.0, self._waiting[0][0] - time.monotonic()))

    def _wake(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._ready.append(heapq.heappop(self._waiting)[2])

    def _drop(self, reason: str) -> None:
        left = self._ready + [entry[2] for entry in self._waiting]
        self._ready, self._waiting = [], []
        for work in left:
            work.dropped(reason)

    def _start(self, pool: ThreadPoolExecutor) -> None:
        for kind in (CREATE, DELETE):
            left = []
            for work in self._ready:
                if work.kind == kind and self._fits(work):
                    self._count(work, 1)
                    pool.submit(self._work, work)
                else:
                    left.append(work)
            self._ready = left

    def _fits(self, work: Work) -> bool:
        bounds = self._bounds
        return (
            self._running < bounds.total
            and self._nodes[work.node] < bounds.per_node
            and all(self._storages[key] < bounds.per_storage for key in work.storages)
            and all(self._storages[key] < 1 for key in work.serial)
            and (work.kind != DELETE or self._deletes < bounds.deletes)
        )

    def _count(self, work: Work, by: int) -> None:
        self._running += by
        self._nodes[work.node] += by
        self._deletes += by if work.kind == DELETE else 0
        for key in work.storages:
            self._storages[key] += by

    def _work(self, work: Work) -> None:
        following: object = None
        try:
            following = work.run()
        except Exception as error:
            # One guest's failure never stops the others (law 9), not even one of our own making.
            work.dropped("internal error: {0}: {1}".format(type(error).__name__, error))
        finally:
            with self._changed:
                self._count(work, -1)
                if isinstance(following, Later):
                    due = time.monotonic() + following.seconds
                    heapq.heappush(self._waiting, (due, next(self._number), work))
                elif isinstance(following, Work):
                    self._ready.append(following)
                self._changed.notify()
