# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Bounded parallel work: per run, per node and per storage, for creates and deletes apart (law 14).

A job is a generator of effects. It runs in a thread only between two of them: who waits for a slot, a
task or a time holds no thread. All state belongs to the thread that called ``run``; the others hand in
what a job wants next.
"""

from __future__ import annotations

import heapq
import inspect
import itertools
import queue
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, Deque, Dict, Generator, Hashable, List, Optional, Protocol, Sequence, Tuple
from typing import Counter as Counts

from ..arguments import Parallel
from ..pve.session import Session
from ..pve.tasks import Pause, TaskEnd, TaskTimeout
from ..pve.watcher import Look, Seen, Watcher

CREATE = "create"
DELETE = "delete"
PATIENCE = 1.0  # seconds between two looks at whether the run must stop
EFFECTS_MAX = 10  # things that a job may still want to wait for when nothing can be waited for any more
LOST_MAX = 5.0  # seconds that a job may be open and wait for nothing that could ever resume it


@dataclass(frozen=True)
class Slot:
    """Resume me when work of this kind may start here; the slot that I hold is given back first.

    ``serial`` storages take one piece of work at a time whatever the limit.
    """

    kind: str
    node: str
    storages: Tuple[Hashable, ...] = ()
    serial: Tuple[Hashable, ...] = ()


@dataclass(frozen=True)
class Later:
    """Resume me after ``seconds``; the slot that I hold is given back."""

    seconds: float


@dataclass(frozen=True)
class Stop:
    """Why nothing new is started; ``at_once`` also gives up waiting for what runs."""

    reason: str
    at_once: bool


class Dropped(Exception):
    """Thrown into a job that waits when the run stops."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Job(Protocol):
    """What is to be done with one guest."""

    def steps(self) -> Generator[object, Any, None]:
        """The effects: Slot, Later, TaskEnd and Pause."""

    def crashed(self, error: Exception) -> None:
        """The generator ended with an error of our own making."""


@dataclass(frozen=True)
class Bounds:
    """The limits of a run."""

    creates: Parallel
    deletes: Parallel

    def of(self, kind: str) -> Parallel:
        """The limits for a kind of work."""
        return self.creates if kind == CREATE else self.deletes


class _Running:
    """A job on its way, and the slot that it holds."""

    __slots__ = ("job", "steps", "slot", "stepping", "lost_since")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.steps = job.steps()
        self.slot: Optional[Slot] = None
        self.stepping = False
        self.lost_since: Optional[float] = None


class _Slots:
    """Who waits for a slot, and how many are taken. The jobs are grouped by what they ask for."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._queues: Dict[str, Dict[Slot, Deque[_Running]]] = {CREATE: {}, DELETE: {}}
        self._taken: Counts[Hashable] = Counter()

    def ask(self, running: _Running, slot: Slot) -> None:
        """Stand in line."""
        self._queues[slot.kind].setdefault(slot, deque()).append(running)

    def next(self) -> Optional[_Running]:
        """The next job that may start, its slot taken: creates first, then the node that is worked on already.

        Many tasks on few nodes need fewer looks than few tasks on many, and a node is done with sooner.
        """
        for queues in self._queues.values():
            fitting = [slot for slot in queues if self._fits(slot)]
            if fitting:
                slot = min(fitting, key=lambda s: (-self._taken["node", s.node], -len(queues[s])))
                running = queues[slot].popleft()
                if not queues[slot]:
                    del queues[slot]
                running.slot = slot
                self._count(slot, 1)
                return running
        return None

    def hungry(self, node: str) -> bool:
        """True when a delete could start on a node, but nobody stands in line for it."""
        return (
            self._fits(Slot(DELETE, node))
            and not any(slot.node == node for slot in self._queues[DELETE]))

    def give_back(self, running: _Running) -> None:
        """Free the slot that a job holds, if any."""
        if running.slot is not None:
            self._count(running.slot, -1)
            running.slot = None

    def line(self) -> List[_Running]:
        """Everybody who stands in line."""
        return [running for queues in self._queues.values() for line in queues.values() for running in line]

    def empty(self) -> List[_Running]:
        """Take everybody out of the line."""
        left = self.line()
        for queues in self._queues.values():
            queues.clear()
        return left

    def _fits(self, slot: Slot) -> bool:
        limits = self._bounds.of(slot.kind)
        return (
            self._taken[slot.kind] < limits.total
            and self._taken[slot.kind, "node", slot.node] < limits.per_node
            and all(self._taken[slot.kind, "storage", key] < limits.per_storage for key in slot.storages)
            and all(self._taken["serial", key] < 1 for key in slot.serial)
        )

    def _count(self, slot: Slot, by: int) -> None:
        self._taken[slot.kind] += by
        self._taken[slot.kind, "node", slot.node] += by
        self._taken["node", slot.node] += by
        for key in slot.storages:
            self._taken[slot.kind, "storage", key] += by
        for key in slot.serial:
            self._taken["serial", key] += by


class Workers:
    """Runs jobs until all have ended; when ``stop`` gives a reason, those that wait are told so."""

    def __init__(
        self, bounds: Bounds, session: Session, stop: Callable[[], Optional[Stop]], threads: int, eager: bool = False
    ) -> None:
        """``eager`` where every create's end is waited for, not only where a delete could begin after it."""
        self._slots = _Slots(bounds)
        self._watcher = Watcher(session, lambda node: eager or self._slots.hungry(node))
        self._stop = stop
        self._pool = ThreadPoolExecutor(max_workers=threads)
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._timers: List[Tuple[float, int, _Running, object]] = []
        self._number = itertools.count()
        self._open: Dict[_Running, None] = {}
        self._has_threads = False
        self._threadless = False
        self._looked = time.monotonic()

    def run(self, jobs: Sequence[Job]) -> None:
        """Run all of them to their end; an error in here ends every job that is left, none of them in silence."""
        self._open = dict.fromkeys(_Running(job) for job in jobs)
        try:
            self._run()
        except Exception as error:
            self._pool.shutdown(cancel_futures=True)
            for running in self._open:
                if not self._let_end(running, RuntimeError(str(error))):
                    running.job.crashed(error)
        finally:
            self._pool.shutdown()

    def _run(self) -> None:
        for running in list(self._open):
            self._resume(running)
        while self._open:
            stop = self._stop()
            if stop is not None:
                self._drop(stop)
            self._wake()
            if stop is None:
                self._start()
            for look in self._watcher.looks():
                self._submit(self._look, look)
            self._take()
            self._find_lost()

    def _submit(self, function: Callable[..., None], *arguments: object) -> None:
        """Where the machine has no room for another thread, those that are there take it, or this one."""
        if self._threadless:
            function(*arguments)
            return
        try:
            self._pool.submit(function, *arguments)
            self._has_threads = True
        except RuntimeError:
            if not self._has_threads:
                # What was handed in stays in the pool's queue, where nobody will ever take it.
                self._threadless = True
                function(*arguments)

    def _find_lost(self) -> None:
        """End what is open but in nobody's hands, as a task would be whose name the server gave twice."""
        now = time.monotonic()
        if now - self._looked < PATIENCE:
            return
        self._looked = now
        held = {*self._watcher.waiters(), *self._slots.line(), *(timer[2] for timer in self._timers)}
        for running in list(self._open):
            if running.stepping or running in held:
                running.lost_since = None
                continue
            running.lost_since = running.lost_since or now
            if now - running.lost_since >= LOST_MAX:
                running.lost_since = None
                self._resume(running, error=RuntimeError("it waited for nothing that could end"))

    @staticmethod
    def _let_end(running: _Running, error: Exception) -> bool:
        """Let a job do what it owes; nothing that it waits for will ever come. True where it came to its own end."""
        if inspect.getgeneratorstate(running.steps) == inspect.GEN_CLOSED:
            return True
        for _effect in range(EFFECTS_MAX):
            try:
                running.steps.throw(error)
            except StopIteration:
                return True
            except BaseException:
                return False
        return False

    def _take(self) -> None:
        """Wait for what comes next, and take in all that has come."""
        try:
            self._events.get(timeout=self._pause())()
            while True:
                self._events.get_nowait()()
        except queue.Empty:
            pass

    def _pause(self) -> float:
        now = time.monotonic()
        due = [now + PATIENCE]
        if self._timers:
            due.append(self._timers[0][0])
        look = self._watcher.due()
        if look is not None:
            due.append(look)
        return max(0.0, min(due) - now)

    def _drop(self, stop: Stop) -> None:
        """Tell those that wait; with ``at_once`` also those whose tasks run."""
        kept = []
        for timer in self._timers:
            _due, _number, running, effect = timer
            if isinstance(effect, Pause) and stop.at_once:
                self._resume(running, error=TaskTimeout("{0}: {1}".format(effect.unknown, stop.reason)))
            elif isinstance(effect, Pause):
                kept.append(timer)
            else:
                self._resume(running, error=Dropped(stop.reason))
        heapq.heapify(kept)
        self._timers = kept
        for running in self._slots.empty():
            self._resume(running, error=Dropped(stop.reason))
        if stop.at_once:
            for waiter, error in self._watcher.drop(stop.reason):
                self._resume(waiter, error=error)

    def _wake(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self._resume(heapq.heappop(self._timers)[2])

    def _start(self) -> None:
        running = self._slots.next()
        while running is not None:
            self._resume(running)
            running = self._slots.next()

    def _resume(self, running: _Running, value: object = None, error: Optional[Exception] = None) -> None:
        running.stepping = True
        self._submit(self._step, running, value, error)

    # ------------------------------------------------------- in other threads

    def _step(self, running: _Running, value: object, error: Optional[Exception]) -> None:
        """Let a job go on until its next effect."""
        effect: object = None
        try:
            effect = running.steps.send(value) if error is None else running.steps.throw(error)
        except StopIteration:
            pass
        except Exception as crash:
            # One guest's failure never stops the others (law 9), not even one of our own making.
            running.job.crashed(crash)
        finally:
            self._events.put(lambda: self._effect(running, effect))

    def _look(self, look: Look) -> None:
        seen = self._watcher.look(look)
        self._events.put(lambda: self._seen(look, seen))

    # -------------------------------------------------------- taken in by run

    def _effect(self, running: _Running, effect: object) -> None:
        """What a job wants next; None when it has ended."""
        running.stepping = False
        if isinstance(effect, TaskEnd):
            try:
                self._watcher.add(effect.upid, effect.timeout, running)
            except ValueError as error:
                self._resume(running, error=error)
        elif isinstance(effect, Pause):
            self._time(running, effect, effect.seconds)
        else:
            self._slots.give_back(running)
            if isinstance(effect, Slot):
                self._slots.ask(running, effect)
            elif isinstance(effect, Later):
                self._time(running, effect, effect.seconds)
            else:
                self._open.pop(running, None)

    def _time(self, running: _Running, effect: object, seconds: float) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._number), running, effect))

    def _seen(self, look: Look, seen: Seen) -> None:
        for waiter, result in self._watcher.taken(look, seen):
            if isinstance(result, Exception):
                self._resume(waiter, error=result)
            else:
                self._resume(waiter, result)
